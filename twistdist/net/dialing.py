"""The dialing side of a session: connect, authenticate, greet, and reconnect when the connection breaks or seems to."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twistdist.core.exchange import ACK_S, Core, Exchange
from twistdist.core.session import Fatal, Gap
from twistdist.errors import AuthenticationError, ProtocolError, VersionMismatch
from twistdist.net.connecting import STAGGER_S, Connecting
from twistdist.net.connection import Connection
from twistdist.net.timers import Alarm
from twistdist.wire import messages as m
from twistdist.wire.framing import GREETING_FROM_SCHEDULER, UNENCODABLE, decode_frame, take_out_unencodable

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: Pauses between attempts to connect, in seconds: at most 0.1 while a worker's grace lasts, longer later, so that an absent
#: scheduler is not flooded with attempts.
PAUSES_S = (0.0, 0.02, 0.05, 0.1, 0.1, 0.1, 0.1, 0.2, 0.4, 0.8, 1.5)

#: Seconds after the greeting from which a connection counts as one that works.
SETTLED_S = 0.2


class Dialing:
    """Keeps one session with the scheduler alive.

    A connection over which nothing arrives, or seems not to, is kept while another one is tried beside it: it may still work in
    the other direction, or again before the other one does.  docs/network.rst.

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
        self._attempts = Connecting(reactor, address, secret, tls, self, self._not_connected)
        self.address = str(self._attempts)
        self._on_messages, self._on_ready, self._on_fatal, self._on_lost = on_messages, on_ready, on_fatal, on_lost
        self._on_pulse, self._on_notice, self._on_unsendable = on_pulse, on_notice, on_unsendable
        self._pulse = Alarm(reactor, self._beat)
        self._pulse_due = 0.0
        self.lag = 0.0  #: seconds by which the reactor was late for the last heartbeat
        self._came = 0
        self._connection: Connection | None = None  # established, or a greeting was sent over it
        self._former: Connection | None = None  # established, until the greeting over the one that replaces it is answered
        self._spare: Connection | None = None  # opened while another greeting is not answered yet
        self._doubted = False  # whether what is sent over the connection seems not to arrive
        self._told_doubt = False  # in the log
        self._unanswered = 0  # greetings that were repeated over another connection
        self._retry: Any = None
        self._failures = 0
        self._greeted_at = 0.0  # when the greeting was sent, and then when it was answered
        self._stopped = False
        self._draining: Deferred[None] | None = None
        self._drain_limit: Any = None
        self._jitter = random.Random()
        self._ack = Alarm(reactor, self._send_ack)

    # ---- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start to connect."""
        self._retry = None
        if not self._pulse_due:
            self._set_pulse()
        self._attempts.begin()

    def stop(self) -> None:
        """Close once everything written has been sent; no callback is called any more."""
        self._stopped = True
        self._ack.cancel()
        self._pulse.cancel()
        self._drained()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._attempts.stop()
        self._drop_others()
        if self._connection is not None:
            self._connection.close()

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
        """For ``on_pulse``: a connection that is older than ``age`` seconds does not deliver what we send, so another one must
        be tried beside it.  TCP may wait long before it retransmits lost packets."""
        self._doubted = self._dialer.connected and self._reactor.seconds() > self._greeted_at + age

    def reconnect(self) -> None:
        """Abort the current connection; another attempt follows at once."""
        self._drop_others()
        if self._connection is not None:
            self._connection.transport.abortConnection()

    def why(self) -> str:
        """Return what went wrong last, for each address if there are several; "" if nothing did."""
        return self._attempts.why()

    def _not_connected(self, error: Exception) -> None:
        """An attempt to connect has failed."""
        if self._stopped or self._connection is not None:
            return
        if isinstance(error, AuthenticationError | VersionMismatch):
            self._give_up(error)
        elif not self._attempts.under_way:
            self._again()

    def _again(self) -> None:
        if self._stopped or self._retry is not None:
            return
        many = self._attempts.addresses  # each is tried as often as a single address would be
        pause = PAUSES_S[min(self._failures // many, len(PAUSES_S) - 1)] / many * self._jitter.uniform(0.8, 1.2)
        self._failures += 1
        self._retry = self._reactor.callLater(pause, self.start)

    def _drop_others(self) -> None:
        """Abort all connections but the one in use."""
        others, self._former, self._spare = (self._former, self._spare), None, None
        for connection in others:
            if connection is not None:
                connection.transport.abortConnection()

    # ---- the connection's owner ---------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._attempts.opened(connection)
        if self._stopped:
            connection.close()
        elif self._connection is None:
            self._greet(connection)
        elif not self._dialer.connected and self._spare is None:
            self._spare = connection
        elif self._dialer.connected and self._is_in_doubt():
            self._former = self._connection
            self._greet(connection)
        else:  # the connection in use has delivered something meanwhile
            connection.transport.abortConnection()

    def _greet(self, connection: Connection) -> None:
        self._connection, self._greeted_at, self._came = connection, self._reactor.seconds(), 0
        connection.send([self._exchange.opened(self._greeted_at)])

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        if connection is not self._connection:
            return  # what the former one still brings is sent again over its successor
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
            self._greeted_at, self._unanswered = now, 0
            self._attempts.stop()
            self._drop_others()
            self._on_ready(answered.fresh)
            self.flush()

    def closed(self, connection: Connection, error: Exception) -> None:
        if connection is self._former:
            self._former = None
        elif connection is self._spare:
            self._spare = None
        elif connection is self._connection:
            self._broke(connection, error)
        else:
            self._attempts.closed(connection, error)

    def _broke(self, connection: Connection, error: Exception) -> None:
        """The connection in use broke."""
        self._connection, self._doubted, self._unanswered = None, False, 0
        worked = self._exchange.lost()
        if worked and self._reactor.seconds() > self._greeted_at + SETTLED_S:
            self._failures = 0  # if it breaks earlier, the cause may persist: the pauses must keep growing
        if self._stopped:
            return
        self._log.debug("the connection to {address} is lost: {error}", address=self._attempts.address, error=error)
        self._attempts.broke(error, worked)
        if isinstance(error, AuthenticationError | VersionMismatch):
            self._give_up(error)
            return
        self._on_lost()
        spare, self._spare = self._spare, None
        self._drop_others()
        if spare is not None:
            self._greet(spare)
        elif not self._attempts.under_way:
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
        self._look_at_came(now)
        silence = self._exchange.look(now)
        self._doubted = False
        beat = self._on_pulse()
        if self._stopped:
            return
        self._look_at_connection(now, silence)
        if beat is not None and self._connection is not None:
            beat.lag = int(1e6 * self.lag)
            established = self._connection if self._dialer.connected else self._former
            if established is not None:
                established.send([self._exchange.background(beat)])

    def _look_at_came(self, now: float) -> None:
        """Part of a large frame on a slow line is a sign of life too."""
        if self._connection is not None and self._connection.came != self._came:
            self._came = self._connection.came
            self._exchange.heard(now)

    def _look_at_connection(self, now: float, silence: float) -> None:
        """If nothing arrives, or seems not to, try another connection beside this one; in the end, close this one."""
        if self._connection is None:
            if self._attempts.under_way:
                self._attempts.begin_beside()
        elif silence >= self._dialer.dead_after:
            self._connection.fail(TimeoutError(f"nothing was received for {silence:.1f} s"))
        elif self._is_in_doubt():
            if self._spare is not None:
                self._greet_again(self._spare)
            elif self._attempts.begin_beside() and not self._told_doubt:
                self._told_doubt = True
                why = "messages to {address} do not arrive" if self._doubted else "nothing was received from {address}"
                self._log.warn(why + "; trying another connection", address=self._attempts.address)
        elif self._dialer.connected:
            self._told_doubt = False
            self._attempts.stop()

    def _is_in_doubt(self) -> bool:
        """Whether the connection in use should be replaced, if another one can be made."""
        now = self._reactor.seconds()
        if not self._dialer.connected and self._dialer.epoch:  # to resume costs little: it is repeated soon, then less often
            return bool(now >= self._greeted_at + STAGGER_S * 2**self._unanswered)
        self._look_at_came(now)
        return self._doubted or self._exchange.is_silent(now)

    def _greet_again(self, spare: Connection) -> None:
        """The greeting is not answered: repeat it over another connection."""
        unanswered, self._spare = self._connection, None
        self._unanswered += 1
        self._greet(spare)
        if unanswered is not None:
            unanswered.transport.abortConnection()

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
