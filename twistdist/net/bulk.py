"""Result files from the worker that holds them to a worker or client that needs them.

One request at a time on a connection, answers streamed with back-pressure straight from the file; the receiver writes
what comes to its sink and checks the digest at the end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure

from twistdist.errors import DataLost, ProtocolError
from twistdist.net.connection import BULK_BYTES, ClientFactory, Connection
from twistdist.net.timers import Alarm
from twistdist.storage.store import HEADER_BYTES, Store, digest_of, file_path
from twistdist.wire import messages as m
from twistdist.wire.framing import BULK_ANSWER, BULK_REQUEST, decode_frame

#: A connection that brings nothing for this many seconds while it should is given up.
STALL_S = 10.0

#: Requests that may wait on one connection.
MOST_WAITING = 100

#: An unused connection to a holder is closed after this many seconds.
IDLE_S = 30.0


class _Sender(FileSender):
    """Twisted's producer with chunks that suit files."""

    CHUNK_SIZE = BULK_BYTES


class BulkServer:
    """The holder's side: owner of the connections that others open to fetch from ``store``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._connections: set[Connection] = set()

    def opened(self, connection: Connection) -> None:
        connection.make_bulk()
        self._connections.add(connection)

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            for fetch in decode_frame(BULK_REQUEST, body)[2]:
                self._send(connection, fetch)

    def _send(self, connection: Connection, fetch: m.Fetch) -> None:
        """Start to send a file; one asked for while another is being sent waits for its turn.

        The other side may ask as soon as it has the last byte, which is before this side's producer knows that it has ended.
        """
        if connection.peer is not None:
            connection.peer.append(fetch)
            if len(connection.peer) > MOST_WAITING:
                raise ProtocolError("too many files were asked for at once")
            return
        try:
            stream = open(file_path(self._store.path, fetch.attempt), "rb")  # noqa: SIM115  closed when sent
        except FileNotFoundError:
            connection.send([(0, 0, [m.Absent(fetch.attempt)])])
            return
        length = os.fstat(stream.fileno()).st_size - HEADER_BYTES - fetch.offset
        if length < 0:
            stream.close()
            raise ProtocolError(f"bytes from {fetch.offset} on were asked for, of a file that is shorter")
        stream.seek(HEADER_BYTES + fetch.offset)
        connection.send([(0, 0, [m.Data(fetch.attempt, length)])])
        if not length:
            stream.close()
            return
        connection.peer = deque()
        sending = _Sender().beginFileTransfer(stream, connection.transport)  # type: ignore[no-untyped-call]
        sending.addBoth(self._sent, connection, stream)

    def _sent(self, result: Any, connection: Connection, stream: Any) -> None:
        """The file has left, or the connection broke on the way (and says so itself)."""
        waiting, connection.peer = connection.peer, None
        stream.close()
        while waiting and connection in self._connections:
            self._send(connection, waiting.popleft())

    def closed(self, connection: Connection, error: Exception) -> None:
        self._connections.discard(connection)
        if connection.peer:
            connection.peer.clear()

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()


class Sink(Protocol):
    """Where a fetched file goes."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> bool:
        """Everything came: whether it is right."""

    def discard(self) -> None:
        """It will not come."""


class MemorySink:
    """Keeps what comes; ``data`` after it was found right."""

    def __init__(self, digest: bytes) -> None:
        self._digest = digest
        self._parts: list[bytes] = []
        self.data = b""

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def finish(self) -> bool:
        self.data = b"".join(self._parts)
        self._parts = []
        return digest_of(self.data) == self._digest

    def discard(self) -> None:
        self._parts = []


@attrs.define(eq=False)
class _Request:
    attempt: int
    sink: Sink
    result: Deferred[None]
    left: int = -1


class _Source:
    """The connection to one holder and the requests that wait for it, one at a time."""

    def __init__(self, reactor: Any, address: str, secret: bytes) -> None:
        self._reactor, self._address, self._secret = reactor, address, secret
        self._waiting: deque[_Request] = deque()
        self._current: _Request | None = None
        self._connection: Connection | None = None
        self._connecting: Deferred[Any] | None = None
        self._timer = Alarm(reactor, self._timed_out)
        self._deadline = 0.0
        self._closed = False

    def request(self, request: _Request) -> None:
        self._waiting.append(request)
        if self._connection is not None:
            self._next()
        elif self._connecting is None:
            endpoint = clientFromString(self._reactor, self._address)
            self._connecting = endpoint.connect(ClientFactory(self._reactor, self, self._secret))
            self._connecting.addErrback(self._not_connected)

    @property
    def unused(self) -> bool:
        """Whether there is neither a connection nor a request."""
        return self._connection is None and self._connecting is None and not self._waiting

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        self._fail_all(failure)

    def _fail_all(self, failure: Failure) -> None:
        requests = [*([self._current] if self._current else []), *self._waiting]
        self._current = None
        self._waiting.clear()
        for request in requests:
            self._give_up(request, failure)

    @staticmethod
    def _give_up(request: _Request, failure: Failure) -> None:
        try:
            request.sink.discard()
        except OSError as error:
            failure = Failure(error)
        request.result.errback(failure)

    def opened(self, connection: Connection) -> None:
        self._connecting = None
        if self._closed:
            connection.close()
            return
        self._connection = connection
        connection.make_bulk()
        self._next()

    def _next(self) -> None:
        if self._current is None and self._waiting and self._connection is not None:
            self._current = self._waiting.popleft()
            self._connection.send([(0, 0, [m.Fetch(self._current.attempt, 0)])])
        self._patience(STALL_S if self._current else IDLE_S)

    def _patience(self, seconds: float) -> None:
        self._deadline = self._reactor.seconds() + seconds
        self._timer.set(self._deadline)

    def _timed_out(self) -> None:
        if self._reactor.seconds() < self._deadline - 0.001:
            self._timer.set(self._deadline)
        elif self._connection is not None:
            self._connection.fail(TimeoutError(f"{self._address} sent nothing for {STALL_S:g} s"))

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            for answer in decode_frame(BULK_ANSWER, body)[2]:
                request = self._current
                if request is None or answer.attempt != request.attempt:
                    raise ProtocolError("an answer came that nobody asked for")
                if isinstance(answer, m.Absent):
                    self._current = None
                    self._give_up(request, Failure(DataLost(f"{self._address} does not have the file")))
                    self._next()
                else:
                    request.left = answer.length
                    connection.read_raw(self._raw)
                    if not answer.length:
                        self._raw(b"")

    def _raw(self, data: bytes) -> None:
        request = self._current
        if request is None or self._connection is None:
            return
        request.left -= len(data)
        if request.left < 0:
            self._connection.fail(ProtocolError("more bytes came than were announced"))
            return
        self._patience(STALL_S)
        try:
            request.sink.write(data)
            whole = request.left == 0 and request.sink.finish()
        except OSError as error:  # our disk is full: what else comes on this connection is of no use
            self._connection.fail(error)
            return
        if request.left == 0:
            self._connection.read_raw(None)
            self._current = None
            if whole:
                request.result.callback(None)
            else:
                request.result.errback(DataLost(f"the file from {self._address} does not fit its digest"))
            self._next()

    def closed(self, connection: Connection, error: Exception) -> None:
        self._connecting = self._connection = None
        self._timer.cancel()
        self._fail_all(Failure(error))

    def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()


class BulkFetcher:
    """The needing side: one connection to each holder, kept while it is used."""

    def __init__(self, reactor: Any, secret: bytes) -> None:
        self._reactor, self._secret = reactor, secret
        self._sources: dict[str, _Source] = {}

    def fetch(self, addresses: Sequence[str], attempt: int, make_sink: Any) -> Deferred[Sink]:
        """The file of ``attempt`` from the first of ``addresses`` that gives it whole and right, into ``make_sink()``.

        The Deferred gives the sink, or fails with the last holder's failure (``DataLost`` when there is no holder).
        """
        result: Deferred[Sink] = Deferred()
        self._try(list(addresses), attempt, make_sink, result, Failure(DataLost("nobody holds the value")))
        return result

    def _try(self, addresses: list[str], attempt: int, make_sink: Any, result: Deferred[Sink], last: Failure) -> None:
        if not addresses:
            result.errback(last)
            return
        address = addresses.pop(0)
        try:
            sink = make_sink()
        except OSError as error:
            result.errback(error)
            return
        source = self._sources.get(address)
        if source is None:
            for idle in [one for one, known in self._sources.items() if known.unused]:
                del self._sources[idle]
            source = self._sources[address] = _Source(self._reactor, address, self._secret)
        request = _Request(attempt, sink, Deferred())
        request.result.addCallbacks(
            lambda _: result.callback(sink), lambda failure: self._try(addresses, attempt, make_sink, result, failure)
        )
        source.request(request)

    def close(self) -> None:
        for source in self._sources.values():
            source.close()
