"""Transfer of files between workers, and between workers and clients: fetched from a holder, or put into a worker's store.

A connection serves one request at a time.  Small files are streamed through the reactor with back-pressure.  Large ones are
sent and received by threads (:mod:`.rawio`) while the reactor leaves the socket alone: a peer asks for something else only
after it has received our last byte, so nothing of ours is waiting to be written when a thread starts.  The receiver checks the
digest at the end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.python.failure import Failure

from twistdist.errors import DataLost, ProtocolError, StoreError
from twistdist.net import rawio
from twistdist.net.connection import ClientFactory, Connection
from twistdist.net.timers import Alarm
from twistdist.net.tls import dial
from twistdist.net.transfer import LARGE_BYTES, STALL_S, Incoming, Sender, Sink, Threads, cut, has_socket, own_socket
from twistdist.storage.files import HEADER_BYTES, described_open, file_path
from twistdist.storage.store import IncomingFile, Store
from twistdist.wire import messages as m
from twistdist.wire.framing import BULK_ANSWER, BULK_REQUEST, decode_frame, encode_frame

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: Requests that may wait on one connection; more are a protocol error.
MAX_WAITING = 100

#: Seconds after which an unused connection to a holder is closed.
IDLE_S = 30.0

#: Seconds that one attempt to connect to a holder may take.
CONNECT_S = 3.0

#: Large files that a worker sends at a time; further requests are answered with ``Busy``, so that the peer tries elsewhere.
MAX_SENDING = 4

#: Connections to one holder at a time.
MAX_CONNECTIONS = 2

#: How often an interrupted transfer is resumed, and the pause in seconds before it is resumed from the only holder.
MAX_RESUMES, RESUME_PAUSE_S = 3, 0.1

#: First and longest pause, in seconds, after all holders were busy (doubled each time), and how often a fetch pauses.
BUSY_PAUSE_S, LONGEST_BUSY_PAUSE_S, MAX_BUSY = 0.02, 1.0, 200


class BulkServer:
    """The holder's side: owns the connections that others open to fetch from ``store`` or to put files into it.

    ``taken(stored)`` is called for each file that was put; ``host`` is this host's identity.
    """

    def __init__(self, reactor: Any, store: Store, host: str, taken: Callable[[m.Stored], None]) -> None:
        self._reactor, self._store, self._host, self._taken = reactor, store, host, taken
        self._connections: set[Connection] = set()
        self._threads = Threads(reactor)
        self._sending = 0
        self.fenced = False
        self.served = 0  #: bytes of files that others have fetched, completely

    def opened(self, connection: Connection) -> None:
        connection.make_bulk()
        self._connections.add(connection)

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            for request in decode_frame(BULK_REQUEST, body)[2]:
                self._serve(connection, request)

    def _serve(self, connection: Connection, request: m.Fetch | m.Put) -> None:
        """Start to serve a request; a request that arrives while another is served waits its turn."""
        if connection.peer is not None:
            connection.peer.append(request)
            if len(connection.peer) > MAX_WAITING:
                raise ProtocolError("too many files were requested at once")
        elif isinstance(request, m.Fetch):
            self._send(connection, request)
        else:
            self._take(connection, request)

    # ---- fetch ------------------------------------------------------------------------------

    def _send(self, connection: Connection, fetch: m.Fetch) -> None:
        if self.fenced:
            connection.send([(0, 0, [m.Busy(fetch.attempt)])])
            return
        try:
            stream = open(file_path(self._store.path, fetch.attempt), "rb", buffering=0)  # noqa: SIM115  closed when sent
        except OSError:
            connection.send([(0, 0, [m.Absent(fetch.attempt)])])
            return
        found = described_open(stream.fileno())
        if found is None or found.attempt != fetch.attempt:
            stream.close()
            connection.send([(0, 0, [m.Absent(fetch.attempt)])])
            return
        offset = HEADER_BYTES + fetch.offset
        length = os.fstat(stream.fileno()).st_size - offset
        large = length > LARGE_BYTES and has_socket(connection)
        if length < 0 or fetch.offset < 0 or (large and self._sending >= MAX_SENDING):
            stream.close()
            if length < 0 or fetch.offset < 0:
                raise ProtocolError(f"bytes from offset {fetch.offset} were requested, but the file is shorter")
            connection.send([(0, 0, [m.Busy(fetch.attempt)])])
            return
        frame = (0, 0, [m.Data(fetch.attempt, length)])
        connection.peer = deque()
        if large:
            self._sending += 1
            head = encode_frame(frame)
            sending = self._threads.run(rawio.send_file, own_socket(connection), head, stream, offset, length, STALL_S)
        else:
            stream.seek(offset)
            connection.send([frame])
            sending = Sender(stream, connection.transport).start()
        sending.addCallback(self._count, length).addBoth(self._sent, connection, stream, large)

    def _count(self, result: Any, length: int) -> Any:
        self.served += length
        return result

    def _sent(self, result: Any, connection: Connection, stream: Any, large: bool) -> None:
        """The file has been sent, or the connection broke on the way."""
        stream.close()
        self._sending -= large
        if large and isinstance(result, Failure):
            connection.fail(result.value)  # type: ignore[arg-type]
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        waiting, connection.peer = connection.peer, None
        while waiting and connection in self._connections:
            self._serve(connection, waiting.popleft())

    # ---- put --------------------------------------------------------------------------------

    def _take(self, connection: Connection, put: m.Put) -> None:
        stored = put.stored
        if self._store.has(stored.attempt) or (put.host == self._host and self._store.take(put.path, stored)):
            self._kept(connection, stored)
            return
        try:
            sink = IncomingFile(self._store, stored)
        except OSError as error:
            connection.send([(0, 0, [m.Kept(stored.attempt, False, f"no room for {stored.size} bytes: {error.strerror}")])])
            return
        connection.peer = deque()
        connection.send([(0, 0, [m.Send(stored.attempt)])])

        def ended(failure: Failure | None) -> None:
            try:
                kept, text = failure is None and sink.finish(), "it does not match its digest"
            except OSError as error:
                kept, text = False, f"{stored.size} bytes could not be written: {error.strerror}"
            if kept:
                self._kept(connection, stored)
            else:
                sink.discard()
                if failure is not None:
                    connection.fail(failure.value)  # type: ignore[arg-type]
                else:
                    connection.send([(0, 0, [m.Kept(stored.attempt, False, text)])])
            self._next(connection)

        Incoming(self._reactor, self._threads, connection, sink, stored.size, lambda: None, ended).start()

    def _kept(self, connection: Connection, stored: m.Stored) -> None:
        connection.send([(0, 0, [m.Kept(stored.attempt, True)])])
        self._taken(stored)

    def closed(self, connection: Connection, error: Exception) -> None:
        self._connections.discard(connection)
        if connection.peer:
            connection.peer.clear()

    def close(self) -> None:
        for connection in list(self._connections):
            cut(connection)
        self._threads.stop()


class _Busy(Exception):
    """The holder is sending as many large files as it may."""


@attrs.define(eq=False)
class _Request:
    """A file to fetch into ``sink`` or, with ``put``, to send from ``stream``."""

    attempt: int
    result: Deferred[None]
    sink: Sink | None = None
    put: m.Put | None = None
    stream: Any = None


class _Source:
    """One connection to one worker, and the requests that wait for it; one is served at a time."""

    def __init__(self, reactor: Any, threads: Threads, address: str, secret: bytes, tls: Tls | None) -> None:
        self._reactor, self._threads, self._address, self._secret, self._tls = reactor, threads, address, secret, tls
        self._waiting: deque[_Request] = deque()
        self._current: _Request | None = None
        self._connection: Connection | None = None
        self._connecting: Deferred[Any] | None = None
        self._timer = Alarm(reactor, self._timed_out)
        self._deadline = 0.0
        self._closed = self._sending = False
        self._incoming: Incoming | None = None
        self._limit: Any = None

    @property
    def load(self) -> int:
        """The number of requests, waiting or being served."""
        return len(self._waiting) + (self._current is not None)

    @property
    def unused(self) -> bool:
        """Whether there is neither a connection nor a request."""
        return self._connection is None and self._connecting is None and not self._waiting

    def request(self, request: _Request) -> None:
        self._waiting.append(request)
        if self._connection is not None:
            self._next()
        elif self._connecting is None:
            factory = ClientFactory(self._reactor, self, self._secret)
            self._connecting = dial(self._reactor, self._address, self._tls, factory)
            self._limit = self._reactor.callLater(CONNECT_S, self._connecting.cancel)
            self._connecting.addBoth(self._no_limit).addErrback(self._not_connected)

    def _no_limit(self, result: Any) -> Any:
        if self._limit.active():
            self._limit.cancel()
        return result

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if failure.check(CancelledError, ConnectingCancelledError):
            failure = Failure(TimeoutError(f"{self._address} did not answer within {CONNECT_S:g} s"))
        self._fail_all(failure)

    def give_up(self) -> None:
        """Break the connection, so that everything requested here fails and is fetched elsewhere."""
        trouble = ConnectionError(f"{self._address} is silent")
        threaded = self._incoming is not None and self._incoming.threaded
        if self._connection is not None and (threaded or self._sending):
            cut(self._connection)  # the thread ends first, since it writes to the sink
        elif self._connection is not None:
            self._connection.fail(trouble)
        elif self._connecting is not None:
            self._connecting.cancel()

    def _fail_all(self, failure: Failure) -> None:
        requests = [*([self._current] if self._current else []), *self._waiting]
        self._current = None
        self._waiting.clear()
        for request in requests:
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
            request = self._current = self._waiting.popleft()
            first: Any = request.put
            if first is None and request.sink is not None:
                first = m.Fetch(request.attempt, request.sink.received)
            self._connection.send([(0, 0, [first])])
        self._patience()

    def _patience(self) -> None:
        self._deadline = self._reactor.seconds() + (STALL_S if self._current else IDLE_S)
        self._timer.set(self._deadline)

    def _timed_out(self) -> None:
        if self._sending or (self._incoming is not None and self._incoming.threaded):
            self._patience()  # the thread has a limit of its own
        elif self._reactor.seconds() < self._deadline - 0.001:
            self._timer.set(self._deadline)
        elif self._connection is not None:
            self._connection.fail(TimeoutError(f"{self._address} sent nothing for {STALL_S:g} s"))

    def _done(self, failure: BaseException | None) -> None:
        request, self._current = self._current, None
        if request is None:
            return
        if failure is None:
            request.result.callback(None)
        else:
            request.result.errback(failure)
        if self._connection is not None:
            self._next()

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            for answer in decode_frame(BULK_ANSWER, body)[2]:
                request = self._current
                if request is None or answer.attempt != request.attempt:
                    raise ProtocolError("an answer arrived that was not requested")
                self._answered(connection, request, answer)

    def _answered(self, connection: Connection, request: _Request, answer: Any) -> None:
        if isinstance(answer, m.Absent):
            self._done(DataLost(f"{self._address} does not have the file"))
        elif isinstance(answer, m.Busy):
            self._done(_Busy(f"{self._address} is already sending as many files as it may"))
        elif isinstance(answer, m.Kept):
            self._done(None if answer.kept else StoreError(f"{self._address} did not accept the file: {answer.text}"))
        elif isinstance(answer, m.Send):
            self._send(connection, request)
        elif request.sink is None or answer.length != request.sink.left:
            raise ProtocolError("the announced length of a file is wrong")
        else:
            self._incoming = Incoming(
                self._reactor, self._threads, connection, request.sink, answer.length, self._patience, self._whole
            )
            self._incoming.start()

    def _whole(self, failure: Failure | None) -> None:
        """All bytes have arrived, or the connection broke."""
        request = self._current
        if request is None or request.sink is None:
            return
        error = failure.value if failure is not None else None
        if error is None:
            try:
                right = request.sink.finish()
            except OSError as own:
                error = StoreError(f"{request.sink.received} bytes could not be written: {own.strerror}")
            else:
                error = None if right else DataLost(f"the file from {self._address} does not match its digest")
                if not right:
                    request.sink.start_over()
        elif self._connection is not None:
            self._connection.fail(error)  # type: ignore[arg-type]
            return  # closed() reports the error
        self._done(error)

    def _send(self, connection: Connection, request: _Request) -> None:
        """The worker asks for the bytes of the file that is put."""
        put = request.put
        if put is None:
            raise ProtocolError("bytes were requested that were not offered")
        self._sending = True
        if has_socket(connection):
            used, size = own_socket(connection), put.stored.size
            sending = self._threads.run(rawio.send_file, used, b"", request.stream, HEADER_BYTES, size, STALL_S)
        else:
            request.stream.seek(HEADER_BYTES)
            sending = Sender(request.stream, connection.transport).start()
        sending.addBoth(self._bytes_left, connection)

    def _bytes_left(self, result: Any, connection: Connection) -> None:
        self._sending = False
        self._patience()
        if isinstance(result, Failure):
            connection.fail(result.value)  # type: ignore[arg-type]

    def closed(self, connection: Connection, error: Exception) -> None:
        self._connecting = self._connection = None
        self._timer.cancel()
        self._fail_all(Failure(error))

    def close(self) -> None:
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            cut(self._connection)


@attrs.define(eq=False)
class _Fetch:
    """One file to fetch from any of its holders."""

    attempt: int
    sink: Sink
    addresses: deque[str]
    result: Deferred[Sink]
    all_busy: Callable[[], None]
    fetched: Callable[[str], None]
    busy: list[str] = attrs.field(factory=list)
    current: str = ""
    gone: set[str] = attrs.field(factory=set)
    resumes: int = 0
    pauses: int = 0


class BulkFetcher:
    """The side that needs files: connections to holders, kept open while they are used."""

    def __init__(self, reactor: Any, secret: bytes, tls: Tls | None = None) -> None:
        self._reactor, self._secret, self._tls = reactor, secret, tls
        self._threads = Threads(reactor)
        self._sources: dict[str, list[_Source]] = {}
        self._fetches: dict[int, _Fetch] = {}
        self._closed = False

    def fetch(
        self,
        addresses: Sequence[str],
        attempt: int,
        make_sink: Callable[[], Any],
        all_busy: Callable[[], None] = lambda: None,
        fetched: Callable[[str], None] = lambda address: None,
    ) -> Deferred[Any]:
        """Fetch the file of ``attempt`` into ``make_sink()``, from the first of ``addresses`` that delivers it intact.

        The Deferred fires with the sink, or fails with the last holder's failure (``DataLost`` if there is no holder).
        ``all_busy()`` is called when all holders are busy; the caller may then name others with ``more_holders``.
        ``fetched(address)`` is called with the holder that has delivered it, just before the Deferred fires.
        """
        result: Deferred[Any] = Deferred()
        try:
            sink = make_sink()
        except OSError as error:
            result.errback(error)
            return result
        fetch = _Fetch(attempt, sink, deque(addresses), result, all_busy, fetched)
        self._fetches[attempt] = fetch
        self._try(fetch, Failure(DataLost("no worker holds the value")))
        return result

    def more_holders(self, attempt: int, addresses: Sequence[str]) -> None:
        """Add ``addresses`` that have the file too."""
        fetch = self._fetches.get(attempt)
        if fetch is not None:
            known = {*fetch.addresses, *fetch.busy}
            fetch.addresses.extend(address for address in addresses if address not in known)

    def avoid(self, address: str, gone: bool) -> None:
        """The worker at ``address`` is silent: fetch from other holders if there are any; if it is ``gone``, avoid it."""
        if gone:
            for fetch in self._fetches.values():
                fetch.gone.add(address)
        wanted = [fetch for fetch in self._fetches.values() if fetch.current == address]
        if wanted and (gone or any({*fetch.addresses, *fetch.busy} - {address} for fetch in wanted)):
            for source in self._sources.get(address, ()):
                source.give_up()

    def put(self, address: str, put: m.Put, stream: Any) -> Deferred[None]:
        """Send a file to a worker's store; the Deferred fires when it has arrived."""
        request = _Request(put.stored.attempt, Deferred(), put=put, stream=stream)
        self._source(address).request(request)
        return request.result

    def _source(self, address: str) -> _Source:
        """Return the least loaded connection to ``address``; a new one if all are loaded and another is allowed."""
        for known in [one for one, sources in self._sources.items() if all(source.unused for source in sources)]:
            del self._sources[known]
        sources = self._sources.setdefault(address, [])
        free = min(sources, key=lambda source: source.load, default=None)
        if free is not None and (not free.load or len(sources) >= MAX_CONNECTIONS):
            return free
        sources.append(_Source(self._reactor, self._threads, address, self._secret, self._tls))
        return sources[-1]

    def _try(self, fetch: _Fetch, last: Failure) -> None:
        """Try the next holder; if all were busy, try them again after a pause."""
        if self._closed:
            self._end(fetch, last)
        elif fetch.addresses:
            address = fetch.current = fetch.addresses.popleft()
            request = _Request(fetch.attempt, Deferred(), sink=fetch.sink)
            request.result.addCallbacks(lambda _: self._end(fetch, None), lambda failure: self._failed(fetch, address, failure))
            self._source(address).request(request)
        elif fetch.busy and fetch.pauses < MAX_BUSY:
            fetch.addresses, fetch.busy = deque(fetch.busy), []
            fetch.all_busy()
            pause = min(LONGEST_BUSY_PAUSE_S, BUSY_PAUSE_S * 2**fetch.pauses)
            fetch.pauses += 1
            self._reactor.callLater(pause, self._try, fetch, last)
        else:
            self._end(fetch, last)

    def _failed(self, fetch: _Fetch, address: str, failure: Failure) -> None:
        if address in fetch.gone:
            pass
        elif failure.check(_Busy):
            fetch.busy.append(address)
        elif failure.check(StoreError):
            self._end(fetch, failure)  # a local failure: no other holder can help
            return
        elif not failure.check(DataLost) and fetch.sink.received and fetch.resumes < MAX_RESUMES:
            fetch.resumes += 1  # it broke in the middle: continue from there, with this holder or another
            fetch.addresses.append(address)
            if len(fetch.addresses) == 1:
                self._reactor.callLater(RESUME_PAUSE_S, self._try, fetch, failure)
                return
        self._try(fetch, failure)

    def _end(self, fetch: _Fetch, failure: Failure | None) -> None:
        if self._fetches.get(fetch.attempt) is fetch:
            del self._fetches[fetch.attempt]
        if failure is None:
            fetch.fetched(fetch.current)
            fetch.result.callback(fetch.sink)
            return
        try:
            fetch.sink.discard()
        except OSError as error:
            failure = Failure(error)
        fetch.result.errback(failure)

    def close(self) -> None:
        self._closed = True
        for sources in self._sources.values():
            for source in sources:
                source.close()
        self._threads.stop()
