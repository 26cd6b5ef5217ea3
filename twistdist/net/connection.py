"""One authenticated, framed connection: bytes on one side, frame bodies on the other.

Until the handshake is done at most one handshake's worth of bytes is looked at, and the connection has ``HANDSHAKE_S`` to
finish it (under TLS, that of TLS too).  A listening side has at most ``MAX_UNPROVEN`` such connections at a time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterable
from typing import Any, Protocol

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

#: Seconds that a connection has to prove itself, and then to send its greeting where one is expected.
HANDSHAKE_S = 5.0

#: Connections of one listening side that have not proved themselves; for each above that one is closed.
MAX_UNPROVEN = 200

#: Seconds before a wrong secret is answered, so that guessing is slow.
REFUSAL_S = 1.0

#: Lines about refused connections in the log, each second.
MAX_LINES = 10

#: Seconds of silence before the kernel asks whether the other host is there, between its questions, how many of them; and
#: milliseconds after which data that nobody acknowledges end the connection.
_KERNEL_WATCH = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}

#: Bytes that may come in one read of a bulk connection (64 KiB is Twisted's default and costs a factor of three).
BULK_BYTES = 1 << 20


class Owner(Protocol):
    """Who uses a connection."""

    def opened(self, connection: Connection) -> None:
        """The other side has proved that it knows the secret."""

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        """Frame bodies came.  ``ProtocolError`` raised here closes the connection."""

    def closed(self, connection: Connection, error: Exception) -> None:
        """The connection is gone, opened or not."""


class Connection(TwistedProtocol):
    """Handshake, then frames.  ``owner`` hears what happens; ``error`` is why we closed it, if we did.

    ``accepted``: it is proved, and has greeted where that is expected.  ``door`` is the factory of an accepting side.
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
        self.accepted = False
        self.peer: Any = None
        self.error: Exception | None = None
        self.came = 0  # bytes
        self.told = False  # whether the owner has said anything
        self.transport: Any = None

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
            _watch_by_kernel(self._wire)
        self._deadline = self._reactor.callLater(HANDSHAKE_S, self._too_slow)
        self.transport.write(self._handshake.start())

    @property
    def encrypted(self) -> bool:
        """Whether what is written is not what goes over the wire: nobody else may use the socket then."""
        return isinstance(self.transport, ProtocolWrapper)

    @property
    def _wire(self) -> Any:
        """The transport that has the socket."""
        return self.transport.transport if self.encrypted else self.transport

    def _too_slow(self) -> None:
        what = "send its greeting" if self._handshake.done else "finish the handshake"
        self.fail(ProtocolError(f"the other side did not {what} within {HANDSHAKE_S:g} s"))

    def fail(self, error: Exception) -> None:
        """Close at once because of ``error``."""
        if self.error is None:
            self.error = error
        if not self._lost:
            self.transport.abortConnection()

    def close(self) -> None:
        """Close when everything written has left."""
        if self.encrypted:
            self.transport.unregisterProducer()  # or TLS would wait until that has no more to say
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.error is not None:
            return
        self.came += len(data)
        try:
            self._take(data)
        except ProtocolError as error:
            self.fail(error)
        except Exception:
            self._log.failure("an error while something that came over a connection was worked on; it is closed")
            self.fail(ProtocolError("an error in this process, see its log"))

    def _take(self, data: bytes) -> None:
        if not self._handshake.done:
            data = self._prove(data)
            if not data:
                return
        if not self.accepted and self._deadline.active():
            self._deadline.reset(HANDSHAKE_S)  # a worker with much to tell has a large greeting
        if self._raw is not None:
            self._raw(data)
            return
        bodies = self._reader.feed(data, most=self._most)
        while bodies:
            self._owner.frames(self, bodies)
            bodies = self._reader.feed(b"", most=1) if self._most == 1 and self._raw is None else []

    def _prove(self, data: bytes) -> bytes:
        """Feed the handshake; what came behind it."""
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
        """Tell the other side why, and close; the deadline goes on, for one that does not take it."""
        if self.error is not None and isinstance(self._handshake, ServerHandshake):
            self.transport.write(self._handshake.refusal(self.error))
        self.transport.loseConnection()

    def expect_greeting(self) -> None:
        """For the owner, when the connection is opened: it is closed unless ``greeted`` is called in time."""
        self.accepted = False
        self._deadline = self._reactor.callLater(HANDSHAKE_S, self._too_slow)

    def greeted(self) -> None:
        """The greeting came."""
        if not self.accepted:
            self.accepted = True
            self._deadline.cancel()

    def read_raw(self, receiver: Any) -> None:
        """From now on bytes go to ``receiver(data)`` unparsed, what has come already first; None ends that."""
        self._raw = receiver
        if receiver is not None:
            rest = self._reader.rest()
            if rest:
                receiver(rest)

    def send(self, frames: Iterable[Frame]) -> None:
        """Write frames; they leave together at the end of this turn."""
        self.transport.writeSequence([encode_frame(frame) for frame in frames])

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008  Twisted's signature
        self._lost = True
        for timer in (self._deadline, self._refusing):
            if timer is not None and timer.active():
                timer.cancel()
        error: Any = self.error or explain(reason.value, self._handshake.done)
        if error is not reason.value:
            self.error = error
        if self._door is not None:
            self._door.gone(self)
        self._owner.closed(self, error)

    def make_bulk(self) -> None:
        """For a connection that carries files: larger reads and writes, and no look at what follows a frame, which may be
        a file's bytes."""
        self._most = 1
        self._wire.SEND_LIMIT = self._wire.bufferSize = BULK_BYTES


def _watch_by_kernel(transport: Any) -> None:
    """Have a host that is gone noticed by the kernel, however busy the process at its end may be."""
    for name, value in _KERNEL_WATCH.items():
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError, AttributeError):
                transport.getHandle().setsockopt(socket.IPPROTO_TCP, option, value)


class ServerFactory(Factory):
    """Makes the accepting side's connections, all of one owner; keeps down the number of those that prove nothing."""

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
        """Close the oldest connection of the host that has most: so one host shuts out nobody but itself."""
        most = max(self._unproven.values(), key=len)
        oldest = next(iter(most))
        self.proved(oldest)
        oldest.fail(ProtocolError(f"more than {MAX_UNPROVEN} connections at a time did not prove themselves"))

    def proved(self, connection: Connection) -> None:
        """Count it no longer among the unproven."""
        host = self._hosts.pop(connection, None)
        if host is not None:
            del self._unproven[host][connection]
            if not self._unproven[host]:
                del self._unproven[host]

    def gone(self, connection: Connection) -> None:
        """It is closed; a line in the log when it was refused, unless there are too many of them."""
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
