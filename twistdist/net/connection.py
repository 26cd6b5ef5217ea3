"""One authenticated, framed connection: bytes on one side, frame bodies on the other.

Until the handshake is done at most one handshake's worth of bytes is looked at, and the connection has ``HANDSHAKE_S`` to
finish it.
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
from twisted.python.failure import Failure

from twistdist.errors import AuthenticationError, ProtocolError, VersionMismatch
from twistdist.wire.framing import FrameReader, encode_frame
from twistdist.wire.handshake import NONCE_BYTES, ClientHandshake, ServerHandshake
from twistdist.wire.messages import Frame

#: Seconds that a connection has to prove itself.
HANDSHAKE_S = 5.0

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
    """Handshake, then frames.  ``owner`` hears what happens; ``error`` is why we closed it, if we did."""

    def __init__(self, reactor: Any, owner: Owner, handshake: ClientHandshake | ServerHandshake) -> None:
        self._reactor, self._owner, self._handshake = reactor, owner, handshake
        self._reader = FrameReader()
        self._raw: Any = None
        self._most = sys.maxsize
        self.peer: Any = None
        self.error: Exception | None = None
        self.transport: Any = None

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
            _watch_by_kernel(self.transport)
        self._deadline = self._reactor.callLater(HANDSHAKE_S, self._too_slow)
        self.transport.write(self._handshake.start())

    def _too_slow(self) -> None:
        self.fail(ProtocolError(f"the other side did not finish the handshake within {HANDSHAKE_S:g} s"))

    def fail(self, error: Exception) -> None:
        """Close at once because of ``error``."""
        if self.error is None:
            self.error = error
        self.transport.abortConnection()

    def close(self) -> None:
        """Close when everything written has left."""
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self.error is not None:
            return
        if not self._handshake.done:
            data = self._prove(data)
            if not data:
                return
        if self._raw is not None:
            self._raw(data)
            return
        try:
            bodies = self._reader.feed(data, most=self._most)
            while bodies:
                self._owner.frames(self, bodies)
                bodies = self._reader.feed(b"", most=1) if self._most == 1 and self._raw is None else []
        except ProtocolError as error:
            self.fail(error)

    def _prove(self, data: bytes) -> bytes:
        """Feed the handshake; what came behind it."""
        try:
            answer, left = self._handshake.feed(data)
        except (ProtocolError, AuthenticationError, VersionMismatch) as error:
            self.error = error
            if isinstance(self._handshake, ServerHandshake):
                self.transport.write(self._handshake.refusal(error))
            self.transport.loseConnection()
            return b""
        if answer:
            self.transport.write(answer)
        if self._handshake.done:
            self._deadline.cancel()
            self._owner.opened(self)
        return left

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
        if self._deadline.active():
            self._deadline.cancel()
        self._owner.closed(self, self.error or reason.value)  # type: ignore[arg-type]

    def make_bulk(self) -> None:
        """For a connection that carries files: larger reads and writes, and no look at what follows a frame, which may be
        a file's bytes."""
        self._most = 1
        self.transport.SEND_LIMIT = self.transport.bufferSize = BULK_BYTES


def _watch_by_kernel(transport: Any) -> None:
    """Have a host that is gone noticed by the kernel, however busy the process at its end may be."""
    for name, value in _KERNEL_WATCH.items():
        option = getattr(socket, name, None)
        if option is not None:
            with contextlib.suppress(OSError, AttributeError):
                transport.getHandle().setsockopt(socket.IPPROTO_TCP, option, value)


class ServerFactory(Factory):
    """Makes the accepting side's connections, all of one owner."""

    noisy = False

    def __init__(self, reactor: Any, owner: Owner, secret: bytes) -> None:
        self._reactor, self._owner, self._secret = reactor, owner, secret

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self._reactor, self._owner, ServerHandshake(self._secret, os.urandom(NONCE_BYTES)))


class ClientFactory(Factory):
    """Makes the dialing side's connection."""

    noisy = False

    def __init__(self, reactor: Any, owner: Owner, secret: bytes) -> None:
        self._reactor, self._owner, self._secret = reactor, owner, secret

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self._reactor, self._owner, ClientHandshake(self._secret, os.urandom(NONCE_BYTES)))
