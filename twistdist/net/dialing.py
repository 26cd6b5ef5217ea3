"""The dialing side of a session: connect, authenticate, greet, and reconnect when the connection breaks."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from twistdist.config import parse_addresses
from twistdist.core.exchange import ACK_S, Core, Exchange
from twistdist.core.session import Fatal, Gap
from twistdist.errors import AuthenticationError, ProtocolError, VersionMismatch
from twistdist.net.connection import ClientFactory, Connection
from twistdist.net.timers import Alarm
from twistdist.net.tls import dial, is_endpoint
from twistdist.wire import messages as m
from twistdist.wire.framing import GREETING_FROM_SCHEDULER, UNENCODABLE, decode_frame, take_out_unencodable

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: Pauses between attempts to connect, in seconds: at most 0.1 while a worker's grace lasts, longer later, so that an absent
#: scheduler is not flooded with attempts.
PAUSES_S = (0.0, 0.02, 0.05, 0.1, 0.1, 0.1, 0.1, 0.2, 0.4, 0.8, 1.5)

#: Seconds that one attempt to connect may take: enough for a lost packet or two.
CONNECT_S = 3.0

#: Seconds after the greeting from which a connection counts as one that works.
SETTLED_S = 0.2


class Dialing:
    """Keeps one session with the scheduler alive.

    ``address`` is an endpoint, or a text, which may be several addresses, separated by commas: they are tried in turn until one
    works, which is then the first to be tried again.

    ``on_messages(messages)`` is called for messages that arrive, ``on_ready(fresh)`` when there is a session (``fresh``:
    it is a new one), ``on_lost()`` when a connection broke, and ``on_fatal(error)`` when another attempt is pointless: the
    secret is wrong, the version differs, or this process was replaced.  ``on_pulse()`` is called at the pace of the heartbeats
    and may return one to send.  ``on_notice(message)`` is called for messages outside the numbered frames of the session: the
    scheduler's beats and its troubles.  ``on_unsendable(message, why)`` is called for a message that can't be encoded and was
    removed; unless it returns True, the session can't continue.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: Any,
        secret: bytes,
        core: Core,
        decoder: Any,
        on_messages: Callable[[list[Any]], None],
        on_ready: Callable[[bool], None],
        on_fatal: Callable[[Exception], None],
        on_lost: Callable[[], None] = lambda: None,
        on_pulse: Callable[[], m.Beat | None] = lambda: None,
        on_notice: Callable[[Any], None] = lambda message: None,
        tls: Tls | None = None,
        on_unsendable: Callable[[Any, str], bool] = lambda message, why: False,
    ) -> None:
        self._reactor, self._decoder = reactor, decoder
        self._exchange = Exchange(core)
        self._dialer = core.dialer
        self._addresses: list[Any] = [address] if is_endpoint(address) else parse_addresses(address)
        self.address = ",".join(map(str, self._addresses))
        self._at = 0  # the index of the address to try next, or of the one that worked
        self._errors: dict[Any, Exception] = {}
        self._tls = tls
        self._factory = ClientFactory(reactor, self, secret)
        self._proving: Connection | None = None
        self._on_messages, self._on_ready, self._on_fatal, self._on_lost = on_messages, on_ready, on_fatal, on_lost
        self._on_pulse, self._on_notice, self._on_unsendable = on_pulse, on_notice, on_unsendable
        self._pulse = Alarm(reactor, self._beat)
        self._pulse_due = 0.0
        self.lag = 0.0  #: seconds by which the reactor was late for the last heartbeat
        self._came = 0
        self._connection: Connection | None = None
        self._connecting: Deferred[Any] | None = None
        self._limit: Any = None
        self._retry: Any = None
        self._failures = 0
        self._greeted_at = 0.0
        self._stopped = False
        self._draining: Deferred[None] | None = None
        self._drain_limit: Any = None
        self._jitter = random.Random()
        self._ack = Alarm(reactor, self._send_ack)
        self.last_error: Exception | None = None

    # ---- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to connect."""
        self._retry = None
        self._connecting = dial(self._reactor, self._addresses[self._at], self._tls, self._factory)
        self._limit = self._reactor.callLater(CONNECT_S, self._connecting.cancel)
        self._connecting.addBoth(self._no_limit).addCallbacks(self._connected, self._not_connected)
        if not self._pulse_due:
            self._set_pulse()

    def _no_limit(self, result: Any) -> Any:
        if self._limit.active():
            self._limit.cancel()
        return result

    def _connected(self, connection: Connection) -> None:
        self._proving = connection
        if self._stopped:
            connection.transport.abortConnection()

    def stop(self) -> None:
        """Close once everything written has been sent; no callback is called any more."""
        self._stopped = True
        self._ack.cancel()
        self._pulse.cancel()
        self._drained()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
        elif self._proving is not None and self._proving.transport is not None:
            self._proving.transport.abortConnection()

    def drain(self, seconds: float) -> Deferred[None]:
        """Stop when the other side has acknowledged everything, or after ``seconds``; the Deferred fires then."""
        drained = self._draining = Deferred()
        if self._dialer.epoch and self._dialer.session.undelivered():
            self._drain_limit = self._reactor.callLater(seconds, self.stop)
        else:
            self.stop()
        return drained

    def _drained(self) -> None:
        draining, self._draining = self._draining, None
        if draining is not None:
            if self._drain_limit is not None and self._drain_limit.active():
                self._drain_limit.cancel()
            draining.callback(None)

    def renew(self, age: float) -> None:
        """Replace a connection that is older than ``age`` seconds and does not deliver what we send: TCP may wait long before
        it retransmits lost packets."""
        if self._dialer.connected and self._reactor.seconds() > self._greeted_at + age:
            self._log.warn("messages to {address} do not arrive; trying another connection", address=self._addresses[self._at])
            self.reconnect()

    def reconnect(self) -> None:
        """Abort the current connection; another attempt follows at once."""
        if self._connection is not None:
            self._connection.transport.abortConnection()

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if not failure.check(CancelledError, ConnectingCancelledError):
            self._wrong(failure.value)
        elif self._addresses[self._at] not in self._errors:
            self._wrong(TimeoutError(f"no answer within {CONNECT_S:g} s"))
        self._next()
        self._again()

    def _next(self) -> None:
        """Move on to the next address: this one does not work now."""
        self._at = (self._at + 1) % len(self._addresses)

    def _wrong(self, error: Any) -> None:
        self.last_error = self._errors[self._addresses[self._at]] = error

    def why(self) -> str:
        """Return what went wrong last, for each address if there are several; "" if nothing did."""
        if len(self._addresses) > 1:
            return "; ".join(f"{address}: {error}" for address, error in self._errors.items())
        return str(self.last_error or "")

    def _again(self) -> None:
        if self._stopped or self._retry is not None:
            return
        many = len(self._addresses)  # each is tried as often as a single address would be
        pause = PAUSES_S[min(self._failures // many, len(PAUSES_S) - 1)] / many * self._jitter.uniform(0.8, 1.2)
        self._failures += 1
        self._retry = self._reactor.callLater(pause, self.start)

    # ---- the connection's owner ---------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._connecting = None
        if self._stopped:
            connection.close()
            return
        self._connection = connection
        connection.send([self._exchange.opened(self._reactor.seconds())])

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        self._exchange.heard(self._reactor.seconds())
        for body in bodies:
            if not self._dialer.connected:
                self._greeted(connection, body)
                continue
            try:
                notices, messages = self._exchange.accept(decode_frame(self._decoder, body))
            except Gap as gap:
                raise ProtocolError(str(gap)) from None
            for notice in notices:
                self._on_notice(notice)
            if messages:
                self._on_messages(messages)
        if self._draining is not None and not self._dialer.session.undelivered():
            self.stop()
        elif self._exchange.owes_ack:
            self._ack.set(self._reactor.seconds() + ACK_S)

    def _greeted(self, connection: Connection, body: memoryview) -> None:
        now = self._reactor.seconds()
        for answer in decode_frame(GREETING_FROM_SCHEDULER, body)[2]:
            try:
                answered = self._exchange.answered(now, answer)
            except Fatal as fatal:
                self._give_up(VersionMismatch(str(fatal)) if fatal.code == "python" else ProtocolError(str(fatal)))
                return
            if answered.frames:
                self._send(connection, answered.frames)
            if not answered.ready:
                return
            self._greeted_at = now
            self._on_ready(answered.fresh)
            self.flush()

    def closed(self, connection: Connection, error: Exception) -> None:
        self._connecting = None
        if connection is self._connection:
            self._connection = None
        self._proving = None
        worked = self._exchange.lost()
        if worked and self._reactor.seconds() > self._greeted_at + SETTLED_S:
            self._failures = 0  # if it breaks earlier, the cause may persist: the pauses must keep growing
        if self._stopped:
            return
        self._wrong(error)
        if isinstance(error, AuthenticationError | VersionMismatch):
            self._give_up(error)
            return
        self._on_lost()
        self._log.debug("the connection to {address} is lost: {error}", address=self._addresses[self._at], error=error)
        if not worked:
            self._next()
        self._again()

    def _give_up(self, error: Exception) -> None:
        self.stop()
        self._on_fatal(error)

    # ---- heartbeats -------------------------------------------------------------------------

    def _set_pulse(self) -> None:
        self._pulse_due = self._reactor.seconds() + self._dialer.beat_every
        self._pulse.set(self._pulse_due)

    def _beat(self) -> None:
        """Called at the pace of the heartbeats: send one, and check that the other side is not silent."""
        now = self._reactor.seconds()
        self.lag = max(0.0, now - self._pulse_due)
        self._set_pulse()
        if self._connection is not None and self._connection.came != self._came:
            self._came = self._connection.came  # part of a large frame on a slow line is a sign of life too
            self._exchange.heard(now)
        silence = self._exchange.silence(now)
        if self._connection is not None and silence:
            self._log.warn(
                "nothing was received from {address} for {silence:.1f} s; trying another connection",
                address=self._addresses[self._at],
                silence=silence,
            )
            self.last_error = TimeoutError(f"nothing was received for {silence:.1f} s")
            self._connection.transport.abortConnection()
        beat = self._on_pulse()
        if beat is not None and self._connection is not None and self._dialer.connected:
            beat.lag = int(1e6 * self.lag)
            self._connection.send([self._exchange.background(beat)])

    # ---- sending ----------------------------------------------------------------------------

    def flush(self) -> None:
        """Send what the session holds; do nothing while there is no connection."""
        if self._connection is not None:
            frames = self._exchange.take()
            if frames:
                self._send(self._connection, frames)

    def _send(self, connection: Connection, frames: list[m.Frame]) -> None:
        """Write frames of the session.  A message that can't be encoded fails alone: its frame is sent without it."""
        try:
            connection.send(frames)
            return
        except UNENCODABLE as error:
            why = str(error)
        taken = take_out_unencodable(frames)
        if not taken or not all([self._on_unsendable(*message) for message in taken]):
            # A numbered frame that can never be sent: the session can't continue, and must say so instead of hanging.
            self._give_up(ProtocolError(f"a message can't be encoded: {why}"))
            return
        connection.send(frames)

    def _send_ack(self) -> None:
        if self._connection is not None and self._exchange.owes_ack:
            self._connection.send([self._exchange.ack()])
