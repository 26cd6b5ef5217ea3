"""One authenticated, framed connection: bytes on one side, frame bodies on the other.

Until the handshake is done, at most one handshake's worth of bytes is read, and the connection has ``HANDSHAKE_S`` to finish
it (under TLS, including the TLS handshake).  A listening side has at most ``MAX_UNPROVEN`` such connections at a time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from twistdist.errors import AuthenticationError, ProtocolError, VersionMismatch
from twistdist.net.tls import explain
from twistdist.wire.framing import FrameReader, encode_frame
from twistdist.wire.handshake import NONCE_BYTES, ClientHandshake, ServerHandshake
from twistdist.wire.messages import Frame

#: Seconds that a connection has to authenticate itself, and then again to send its greeting where one is expected.
HANDSHAKE_S = 5.0

#: Connections of one listening side that have not authenticated themselves; for each further one, one is closed.
MAX_UNPROVEN = 200

#: Seconds before a wrong secret is refused, so that guessing is slow.
REFUSAL_S = 1.0

#: Lines about refused connections that are logged per second.
MAX_LINES = 10

#: Seconds of silence before the kernel probes whether the other host is alive, seconds between probes, and how many probes;
#: and milliseconds after which unacknowledged data end the connection.
_KERNEL_WATCH = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}

#: Options of Linux (``linux/tcp.h``) that Python's ``socket`` does not name.  A packet that is lost is sent again after pauses
#: that double: four losses in a row are ten seconds of silence.  ``TCP_RTO_MAX_MS`` (since Linux 6.15) limits the pauses, in
#: milliseconds; ``TCP_THIN_LINEAR_TIMEOUTS`` keeps them equal, but only after a connection's first loss, and while fewer than
#: four packets are in flight.
_RTO_MAX_MS, _THIN_LINEAR_TIMEOUTS = 44, 16
_INSISTENT = {_RTO_MAX_MS: 1_000, _THIN_LINEAR_TIMEOUTS: 1}
_PATIENT = {_RTO_MAX_MS: 120_000, _THIN_LINEAR_TIMEOUTS: 0}  # the kernel's defaults

#: Bytes per read and write of a bulk connection (Twisted's default of 64 KiB is three times slower).
BULK_BYTES = 1 << 20


class Owner(Protocol):
    """The user of a connection."""

    def opened(self, connection: Connection) -> None:
        """The other side has proved that it knows the secret."""

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        """Frame bodies arrived.  A ``ProtocolError`` raised here closes the connection.  What would take long can be left for
        :meth:`Connection.later`."""

    def closed(self, connection: Connection, error: Exception) -> None:
        """The connection is closed, whether it was opened or not."""


class Connection(TwistedProtocol):
    """A handshake, then frames.  ``owner`` is notified of what happens; ``error`` is why we closed the connection, if we did.

    ``accepted``: the peer has authenticated itself and, where a greeting is expected, has greeted.  ``door`` is the factory of
    an accepting side.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, owner: Owner, handshake: ClientHandshake | ServerHandshake, door: ServerFactory | None = None
    ) -> None:
        self._reactor, self._owner, self._handshake, self._door = reactor, owner, handshake, door
        self._reader = FrameReader()
        self._raw: Any = None
        self._most = sys.maxsize
        self._refusing: Any = None
        self._lost = False
        self._held: list[bytes] = []  # frames for the next turn
        self._not_reading: set[str] = set()  # why
        self._ended: Failure | None = None  # while frames are held
        self.accepted = False
        self.peer: Any = None
        self.error: Exception | None = None
        self.came = 0  # bytes received
        self._wait_free = False  # whether the transport can be written to past its buffer
        self.told = False  # whether the owner has sent anything
        self.transport: Any = None

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
            _watch_by_kernel(self._wire)
        self._wait_free = isinstance(self.transport, FileDescriptor)
        self._deadline = self._reactor.callLater(HANDSHAKE_S, self._too_slow)
        self.transport.write(self._handshake.start())

    @property
    def version(self) -> int:
        """The version of the protocol that both sides use; before the handshake is done, ours."""
        return self._handshake.version

    @property
    def encrypted(self) -> bool:
        """Whether the bytes on the wire differ from those written: then nothing else may use the socket."""
        return isinstance(self.transport, ProtocolWrapper)

    @property
    def _wire(self) -> Any:
        """The transport that has the socket."""
        return self.transport.transport if self.encrypted else self.transport

    def _too_slow(self) -> None:
        what = "send its greeting" if self._handshake.done else "finish the handshake"
        self.fail(ProtocolError(f"the other side did not {what} within {HANDSHAKE_S:g} s"))

    def fail(self, error: Exception) -> None:
        """Close immediately because of ``error``."""
        if self.error is None:
            self.error = error
        if not self._lost:
            self.transport.abortConnection()

    def close(self) -> None:
        """Close once everything written has been sent."""
        if self.encrypted:
            self.transport.unregisterProducer()  # otherwise TLS would wait for the producer to finish
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.error is not None:
            return
        self.came += len(data)
        self._try(self._take, data)

    def _try(self, what: Callable[..., None], *args: Any) -> None:
        """Process what was received.  If that fails, the connection is closed."""
        try:
            what(*args)
        except ProtocolError as error:
            self.fail(error)
        except Exception:
            self._log.failure("an error while received data were processed; the connection is closed")
            self.fail(ProtocolError("an internal error in this process; see its log"))

    def _take(self, data: bytes) -> None:
        if not self._handshake.done:
            data = self._prove(data)
            if not data:
                return
        if not self.accepted and self._deadline.active():
            self._deadline.reset(HANDSHAKE_S)  # a worker with much to report has a large greeting
        if self._raw is not None:
            self._raw(data)
            return
        bodies = self._reader.feed(data, most=self._most)
        if self._held:
            self._held += map(bytes, bodies)
            return
        while bodies:
            self._owner.frames(self, bodies)
            bodies = self._reader.feed(b"", most=1) if self._most == 1 and self._raw is None else []

    def _prove(self, data: bytes) -> bytes:
        """Feed the handshake; return the bytes that follow it."""
        try:
            answer, left = self._handshake.feed(data)
        except (ProtocolError, AuthenticationError, VersionMismatch) as error:
            self.error = error
            if isinstance(error, AuthenticationError) and isinstance(self._handshake, ServerHandshake):
                self._refusing = self._reactor.callLater(REFUSAL_S, self._refuse)
            else:
                self._refuse()
            return b""
        if answer:
            self.transport.write(answer)
        if self._handshake.done:
            self._deadline.cancel()
            self.accepted = True
            if self._door is not None:
                self._door.proved(self)
            self._owner.opened(self)
        return left

    def _refuse(self) -> None:
        """Tell the other side why, and close.  The deadline stays set, in case the other side does not read that."""
        if self.error is not None and isinstance(self._handshake, ServerHandshake):
            self.transport.write(self._handshake.refusal(self.error))
        self.transport.loseConnection()

    def expect_greeting(self) -> None:
        """Called by the owner when the connection is opened: it is closed unless ``greeted`` is called in time."""
        self.accepted = False
        self._deadline = self._reactor.callLater(HANDSHAKE_S, self._too_slow)

    def greeted(self) -> None:
        """The greeting arrived."""
        if not self.accepted:
            self.accepted = True
            self._deadline.cancel()

    def later(self, bodies: Sequence[memoryview]) -> None:
        """For the owner's ``frames``: pass these again after others have been served.  Until then no more are read."""
        self._held = [bytes(body) for body in bodies]
        self.read(False, "frames are held")
        self._reactor.callLater(0, self._pass_held)

    def _pass_held(self) -> None:
        held, self._held = self._held, []
        if self.error is None:
            self._try(self._owner.frames, self, [memoryview(body) for body in held])
        if self._held and self.error is None:
            return
        if self._ended is not None:
            self._closed(self._ended)
        elif self.error is None:
            self.read(True, "frames are held")

    def read(self, reading: bool, why: str) -> None:
        """Stop reading for the reason ``why``, or drop that reason: without one, the connection is read."""
        before = bool(self._not_reading)
        (self._not_reading.discard if reading else self._not_reading.add)(why)
        if before is not bool(self._not_reading) and not self._lost:
            (self.transport.resumeProducing if before else self.transport.pauseProducing)()

    def read_raw(self, receiver: Any) -> None:
        """From now on pass bytes unparsed to ``receiver(data)``, beginning with those already received; None ends that."""
        self._raw = receiver
        if receiver is not None:
            rest = self._reader.rest()
            if rest:
                receiver(rest)

    def send(self, frames: Iterable[Frame]) -> None:
        """Write frames, immediately if the socket takes them.

        Twisted would first ask the kernel to be told when the socket can be written, wait for the answer, and then ask not to
        be told any more: for a short message that costs more than the message.
        """
        data = b"".join([encode_frame(frame) for frame in frames])
        if self._wait_free and _is_idle(self.transport):
            sent = self.transport.writeSomeData(data)
            if isinstance(sent, int):  # otherwise the connection is lost, which the transport will notice
                data = data[sent:]
        if data:
            self.transport.write(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008  Twisted's signature
        self._lost = True
        for timer in (self._deadline, self._refusing):
            if timer is not None and timer.active():
                timer.cancel()
        if self._held and self.error is None:
            self._ended = reason  # after what arrived before it
        else:
            self._closed(reason)

    def _closed(self, reason: Failure) -> None:
        error: Any = self.error or explain(reason.value, self._handshake.done)
        if error is not reason.value:
            self.error = error
        if self._door is not None:
            self._door.gone(self)
        self._owner.closed(self, error)

    def make_bulk(self) -> None:
        """Prepare the connection to carry files: larger reads and writes, and no parsing beyond a frame, since a file's bytes
        may follow."""
        self._most = 1
        self._wire.SEND_LIMIT = self._wire.bufferSize = BULK_BYTES
        if sys.platform == "linux":
            _set_kernel_options(self._wire, _PATIENT)


def _is_idle(transport: Any) -> bool:
    """Whether a transport of Twisted's is open with nothing buffered, so that bytes written past it keep their order."""
    return bool(transport.connected) and not (
        transport.disconnecting or transport.dataBuffer or transport._tempDataBuffer or transport._writeDisconnected
    )


def _watch_by_kernel(transport: Any) -> None:
    """Have the kernel detect a host that is gone: the other kernel answers its probes, however busy the process there is.

    And have it insist where packets are lost, since heartbeats are few.
    """
    known = {name: getattr(socket, name, None) for name in _KERNEL_WATCH}
    _set_kernel_options(transport, {number: _KERNEL_WATCH[name] for name, number in known.items() if number is not None})
    if sys.platform == "linux":
        _set_kernel_options(transport, _INSISTENT)


def _set_kernel_options(transport: Any, options: dict[int, int]) -> None:
    """Set options of TCP that this kernel knows."""
    for number, value in options.items():
        with contextlib.suppress(OSError, AttributeError):
            transport.getHandle().setsockopt(socket.IPPROTO_TCP, number, value)


class ServerFactory(Factory):
    """Makes the accepting side's connections, all for one owner, and limits those that have not authenticated themselves."""

    noisy = False
    _log = Logger()

    def __init__(self, reactor: Any, owner: Owner, secret: bytes) -> None:
        self._reactor, self._owner, self._secret = reactor, owner, secret
        self._unproven: dict[str, dict[Connection, None]] = {}  # by host, oldest first
        self._hosts: dict[Connection, str] = {}
        self._lines, self._left_out, self._window_ends = 0, 0, 0.0

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        if len(self._hosts) >= MAX_UNPROVEN:
            self._make_room()
        host = getattr(addr, "host", "a local socket")
        connection = Connection(self._reactor, self._owner, ServerHandshake(self._secret, os.urandom(NONCE_BYTES)), self)
        self._unproven.setdefault(host, {})[connection] = None
        self._hosts[connection] = host
        return connection

    def _make_room(self) -> None:
        """Close the oldest connection of the host that has the most: so a host shuts out only itself."""
        most = max(self._unproven.values(), key=len)
        oldest = next(iter(most))
        self.proved(oldest)
        oldest.fail(ProtocolError(f"more than {MAX_UNPROVEN} connections at a time have not authenticated themselves"))

    def proved(self, connection: Connection) -> None:
        """Stop counting a connection among the unproven."""
        host = self._hosts.pop(connection, None)
        if host is not None:
            del self._unproven[host][connection]
            if not self._unproven[host]:
                del self._unproven[host]

    def gone(self, connection: Connection) -> None:
        """A connection is closed: log a line if it was refused, unless there are too many such lines."""
        self.proved(connection)
        if connection.accepted or connection.error is None:
            return
        now = self._reactor.seconds()
        if now >= self._window_ends:
            self._lines, self._window_ends = 0, now + 1.0
        self._lines += 1
        if self._lines <= MAX_LINES:
            where = getattr(connection.transport.getPeer(), "host", "a local socket")
            self._log.warn("a connection from {host} was refused: {error}", host=where, error=connection.error)
        else:
            if not self._left_out:
                self._reactor.callLater(self._window_ends - now, self._tell_left_out)
            self._left_out += 1

    def _tell_left_out(self) -> None:
        count, self._left_out = self._left_out, 0
        self._log.warn("{count} more connections were refused within the last second", count=count)


class ClientFactory(Factory):
    """Makes the dialing side's connection."""

    noisy = False

    def __init__(self, reactor: Any, owner: Owner, secret: bytes) -> None:
        self._reactor, self._owner, self._secret = reactor, owner, secret

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self._reactor, self._owner, ClientHandshake(self._secret, os.urandom(NONCE_BYTES)))
