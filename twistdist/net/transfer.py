"""Moves one file over a connection, in either direction: in a thread if the socket is ours alone, else in the reactor.

Used by both sides of :mod:`.bulk`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any, Protocol

import xxhash
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from twistdist.errors import ProtocolError
from twistdist.net import rawio
from twistdist.net.connection import BULK_BYTES, Connection
from twistdist.wire.pages import private_memory

#: Seconds after which a transfer that makes no progress is given up.
STALL_S = 10.0

#: Files of more bytes than this are moved by threads.
LARGE_BYTES = 256 << 10

#: Threads that move large files, at most.
MAX_THREADS = 8


class Threads:
    """The threads that move large files; started when the first is needed."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None

    def run(self, function: Callable[..., Any], used: socket.socket, *args: Any) -> Deferred[Any]:
        """Run ``function(used, *args)`` in a thread.  ``used`` is closed at the end."""
        if self._pool is None:
            self._pool = ThreadPool(0, MAX_THREADS, "PoolThread-twisted-bulk")
            self._pool.start()

        def close(result: Any) -> Any:
            used.close()
            return result

        return deferToThreadPool(self._reactor, self._pool, function, used, *args).addBoth(close)

    def stop(self) -> None:
        """Wait for transfers in progress, whose sockets are already closed."""
        if self._pool is not None:
            self._pool.stop()
            self._pool = None


def has_socket(connection: Connection) -> bool:
    """Whether a thread may use the connection's socket: not if the bytes on it are encrypted."""
    return not connection.encrypted and isinstance(getattr(connection.transport, "socket", None), socket.socket)


def own_socket(connection: Connection) -> socket.socket:
    """Return a duplicate of the connection's socket for a thread, since the reactor may close its own at any moment."""
    found: socket.socket = connection.transport.socket.dup()
    return found


def cut(connection: Connection) -> None:
    """Close the connection, and wake a thread that waits for the other side."""
    if has_socket(connection):
        with contextlib.suppress(OSError):
            connection.transport.socket.shutdown(socket.SHUT_RDWR)
        connection.close()
    else:
        connection.transport.abortConnection()  # TLS would wait for the other side's close notification


@implementer(IPushProducer)
class Sender:
    """Writes a file to a transport, as fast as the transport accepts it.

    It replaces Twisted's ``FileSender``, which must be asked for each chunk: TLS does that through the global reactor, and ours
    may be another.
    """

    def __init__(self, stream: Any, transport: Any) -> None:
        self._stream, self._transport = stream, transport
        self._paused = self._writing = False
        self._done: Deferred[None] | None = Deferred()

    def start(self) -> Deferred[None]:
        """Start writing; the Deferred fires when the transport has accepted everything, or fails if the connection closes."""
        done = self._done
        assert done is not None  # started once
        self._transport.registerProducer(self, True)
        self.resumeProducing()
        return done

    def resumeProducing(self) -> None:
        self._paused = False
        if self._writing:
            return
        self._writing = True
        try:
            while not self._paused and self._done is not None:
                self._write_more()
        finally:
            self._writing = False

    def _write_more(self) -> None:
        try:
            chunk = self._stream.read(BULK_BYTES)
        except OSError as error:
            self._end(error)
            return
        if chunk:
            self._transport.write(chunk)
        else:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            self._transport.unregisterProducer()
            if error is None:
                done.callback(None)
            else:
                done.errback(error)

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._end(ConnectionError("the connection was closed while a file was sent"))


class Sink(rawio.Destination, Protocol):
    """The destination of an incoming file: ``received`` bytes have arrived, ``left`` bytes are missing."""

    received: int

    @property
    def left(self) -> int: ...

    def write(self, data: bytes | memoryview) -> None: ...

    def start_over(self) -> None:
        """Drop what was received: it was wrong."""

    def finish(self) -> bool:
        """Everything has arrived: return whether it is intact.  Raises ``OSError`` if it could not be kept."""

    def discard(self) -> None:
        """The rest will not arrive: remove what was received."""


class MemorySink:
    """Keeps an incoming file in memory; ``data`` is valid once ``finish()`` has returned True."""

    def __init__(self, size: int, digest: bytes) -> None:
        self._digest, self._hash = digest, xxhash.xxh3_128()
        self._view = private_memory(size)
        self.received = 0

    @property
    def left(self) -> int:
        return len(self._view) - self.received

    @property
    def data(self) -> memoryview:
        """The bytes, writable: arrays in it become views of it."""
        return self._view

    def target(self, count: int) -> memoryview:
        return self._view[self.received : self.received + count]

    def arrived(self, count: int) -> None:
        self._hash.update(self.target(count))  # while it is still in the processor's cache
        self.received += count

    def write(self, data: bytes | memoryview) -> None:
        self.target(len(data))[:] = data
        self.arrived(len(data))

    def start_over(self) -> None:
        self.received = 0
        self._hash = xxhash.xxh3_128()

    def finish(self) -> bool:
        return self.received == len(self._view) and self._hash.digest() == self._digest

    def discard(self) -> None:
        self._view = memoryview(b"")


class Incoming:
    """One file that arrives over a connection into a sink: first the bytes already read, the rest by the reactor or a thread.

    ``moved()`` is called for each piece that the reactor reads, and ``ended(failure)`` once, with None if all bytes have
    arrived.  While ``threaded``, the reactor does not read.
    """

    def __init__(
        self,
        reactor: Any,
        threads: Threads,
        connection: Connection,
        sink: Sink,
        length: int,
        moved: Callable[[], None],
        ended: Callable[[Failure | None], None],
    ) -> None:
        self._reactor, self._threads, self._connection, self._sink = reactor, threads, connection, sink
        self._left, self._moved, self._ended = length, moved, ended
        self.threaded = False

    def start(self) -> None:
        """Take what was already read, then receive the rest."""
        self._connection.read_raw(self._came)
        if self._left > LARGE_BYTES and has_socket(self._connection):
            self.threaded = True
            self._connection.transport.pauseProducing()
            used = own_socket(self._connection)
            moving = self._threads.run(rawio.receive, used, self._left, self._sink, STALL_S)
            moving.addBoth(self._thread_ended)
        elif not self._left:
            self._end(None)

    def _came(self, data: bytes) -> None:
        if len(data) > self._left:
            self._end(Failure(ProtocolError("more bytes arrived than were announced")))
            return
        self._left -= len(data)
        self._sink.write(data)
        self._moved()
        if not self._left and data:
            self._end(None)

    def _thread_ended(self, result: Any) -> None:
        self.threaded = False
        self._connection.transport.resumeProducing()
        self._end(result if isinstance(result, Failure) else None)

    def _end(self, failure: Failure | None) -> None:
        self._connection.read_raw(None)
        ended, self._ended = self._ended, lambda failure: None
        ended(failure)
