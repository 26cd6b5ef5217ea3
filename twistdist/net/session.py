"""A client's session with its scheduler: orders from any thread in, records that change, values that are fetched."""

from __future__ import annotations

import hashlib
import itertools
import secrets
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import xxhash
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twistdist.config import INLINE_RESULT_BYTES, MAX_ARGUMENT_BYTES, as_truth
from twistdist.core import client as core
from twistdist.core.client import FunctionRef, Record, State
from twistdist.errors import ClientClosed, SchedulerUnreachable, SerializationError, StoreError, TwistdistError, said, shown
from twistdist.net.bulk import BulkFetcher
from twistdist.net.dialing import Dialing
from twistdist.net.functions import Functions
from twistdist.net.futures import BaseFuture, Future, Raw, as_failure, refuse_unusable, unpack
from twistdist.net.hosts import host_identity
from twistdist.net.options import TaskOptions, check_key, check_keys, check_replicas, check_workers
from twistdist.net.supplier import Supplier, all_of
from twistdist.net.transfer import MemorySink
from twistdist.storage.store import file_path, read_file
from twistdist.wire import messages as m
from twistdist.wire.framing import TO_CLIENT, UNENCODABLE, encode_frame
from twistdist.wire.identity import identity_of
from twistdist.wire.payload import collecting, dump_call, dump_value

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: An argument that is longer than this when pickled travels as data beside the task.
LARGE_ARGUMENT_BYTES = 64 << 10

#: Tasks of a ``map`` that are pickled before the first of them leave.
MAP_CHUNK = 1_000

#: Seconds that closing a client may take: what it has said last is to reach the scheduler.
CLOSE_S = 2.0

#: How often a value is tried to be had, each time from where the scheduler says it is now.
MOST_FETCHES = 8


@attrs.define(eq=False)
class Parent:
    """The task in which a client was made: its number and key, and how often it has submitted what."""

    task: int
    key: str
    _submitted: Counter[bytes] = attrs.field(factory=Counter)

    def child_key(self, name: str, recipe: bytes) -> str:
        """A key for a call of ``name`` that is the same when the parent is run again and does the same."""
        count = self._submitted[recipe] = self._submitted[recipe] + 1
        text = f"{self.key}\0{recipe.hex()}\0{count}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=16)
        return f"{name}-{digest.hexdigest()}"


class ClientSession:
    """One session with a scheduler: what the public calls of :class:`~twistdist.Client` are made of.

    Orders (``submit``, ``release``, …) may come from any thread; they are carried out in the reactor's thread soon.
    Everything else belongs to the reactor's thread.
    """

    _log = Logger()

    def __init__(self, reactor: Any, address: str, secret: bytes, parent: Parent | None = None,
                 tls: Tls | None = None, name: str = "") -> None:  # fmt: skip
        self.reactor = reactor
        self._core = core.Client(secrets.randbits(62), name, parent.task if parent is not None else 0)
        self._parent = parent
        self._origin = f"{self._core.dialer.number:x}"[:8]
        self._orders: deque[tuple[Any, ...]] = deque()
        self._woken = False
        self._wake = reactor.callFromThread  # futures are dropped in any thread, and by the garbage collector
        self._cids = itertools.count(1)
        self._functions = Functions()
        self._host = host_identity()
        self._fetcher = BulkFetcher(reactor, secret, tls)
        self._supplier = Supplier(self._fetcher, self._host, self._not_supplied)
        self._dialing = Dialing(reactor, address, secret, self._core, TO_CLIENT, self._messages, self._ready, self._fatal,
                                on_notice=self._notice, on_unsendable=self._unsendable,
                                tls=tls)  # fmt: skip
        self._queries: dict[int, Deferred[Any]] = {}
        self._opening: Deferred[Any] | None = None
        self._deadline: Any = None
        self._error: Exception | None = None
        self._cluster: Any = None
        self._closing: Deferred[None] | None = None
        #: Large arguments by key, as long as a future of a task that got them is there (``_data_of``, by number).
        self._data: weakref.WeakValueDictionary[str, Future] = weakref.WeakValueDictionary()
        self._data_of: dict[int, list[Any]] = {}

    @property
    def address(self) -> str:
        """The scheduler's address, as a Twisted endpoint description."""
        return self._dialing.address

    # ---- life -------------------------------------------------------------------------------

    def open(self, timeout: float | None) -> Deferred[Any]:
        """Connect; the Deferred fires when the scheduler has answered, or fails after ``timeout`` seconds (None: never)."""
        self._opening = Deferred(lambda _: self._end(ClientClosed("connecting was cancelled")))
        if timeout is not None:
            self._deadline = self.reactor.callLater(max(0.0, timeout), self._too_late, timeout)
        self._dialing.start()
        return self._opening

    def _too_late(self, timeout: float) -> None:
        why = self._dialing.why()
        self._fatal(
            SchedulerUnreachable(
                f"no scheduler answers at {self.address} within {timeout:g} s ({why or 'no answer'}); "
                "is it running there, and is the address right?"
            )
        )

    def _ready(self, fresh: bool) -> None:
        if self._error is not None:
            return
        opening, self._opening = self._opening, None
        if opening is not None:
            if self._deadline is not None:
                self._deadline.cancel()
            opening.callback(self)
        if fresh and opening is None:
            error = TwistdistError("the scheduler was started anew while it was asked; ask again")
            self._fail_queries(error, self._core.questions_before)
        self._update(self._core.changed)

    def _notice(self, message: Any) -> None:
        if isinstance(message, m.Trouble):
            self._update(partial(self._core.notice, message))
            self._dialing.flush()

    def _unsendable(self, message: Any, why: str) -> bool:
        self._log.error("a message can't be encoded, and what it asks for fails: {why}", why=why)
        known = self._core.unsendable(message, why)
        self._order(self._messages, [])  # not in the middle of sending: whoever is told may send again
        return known

    def _fail_queries(self, error: Exception, upto: int) -> None:
        """Questions up to this number will not be answered any more."""
        for number in [one for one in self._queries if one <= upto]:
            self._queries.pop(number).errback(error)

    def _update(self, change: Callable[[], list[Record]]) -> None:
        """The one place where records change: ``change`` does it and says which; then who waits for them is called."""
        self._call_back(change())

    def _call_back(self, changed: list[Record]) -> None:
        for record in changed:
            if record.callbacks:
                self._fire(record)

    def _fatal(self, error: Exception) -> None:
        opening = self._opening
        self._end(error)
        if opening is not None:
            opening.errback(error)

    def _end(self, error: Exception, at_once: bool = True) -> None:
        """No more traffic; whatever waits fails with ``error``."""
        if self._error is not None:
            return
        self._error = error
        self._opening = None
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if at_once:
            self._dialing.stop()
        self._fetcher.close()
        self._supplier.close()
        info = m.ErrorInfo(type(error).__name__, "", str(error))
        records = self._core.records.values()
        lost = [one for one in records if one.state is State.PENDING or (one.callbacks and one.value is None)]
        self._lose(lost, info)
        queries, self._queries = self._queries, {}
        for query in queries.values():
            query.errback(error)

    def close(self) -> Deferred[None]:
        """Leave: everything that only this client wants is released.  The Deferred fires when the scheduler has heard so, or
        after ``CLOSE_S`` seconds without it."""
        if self._error is None:
            self._carry_out()
            self._core.bye()
            self._dialing.flush()
            drained = self._dialing.drain(CLOSE_S)
            self._end(ClientClosed("this client was closed"), at_once=False)
            self._closing = drained.addCallback(lambda _: self._stop_cluster())
        if self._closing is None:
            return self._stop_cluster()
        closed: Deferred[None] = Deferred()
        self._closing.addCallback(lambda _: closed.callback(None))
        return closed

    def _stop_cluster(self) -> Deferred[None]:
        cluster, self._cluster = self._cluster, None
        return succeed(None) if cluster is None else cluster.stopService()

    def drop(self) -> None:
        """Close the connection without a word, as if this process had died: the session goes on for its grace."""
        self._carry_out()
        self._end(ClientClosed("this client was closed"))

    # ---- orders, from any thread ----------------------------------------------------------------

    def _order(self, *order: Any) -> None:
        self._orders.append(order)
        if not self._woken:
            self._woken = True
            self._wake(self._carry_out)

    def _carry_out(self) -> None:
        """Hand the collected orders to the core and send what follows."""
        self._woken = False
        orders = self._orders
        released: list[int] = []
        while orders:
            action, *args = orders.popleft()
            if action is ClientSession.forget:
                released.append(args[0])
                continue
            if released:
                self._release(released)
                released = []
            action(*args)
        if released:
            self._release(released)
        if self._error is None:
            self._core.close_batch()
            if self._core.trouble:
                self._update(self._core.fail_unsure)
            self._dialing.flush()

    def _release(self, cids: list[int]) -> None:
        """Records that were pending will never be told of: who still waits for one hears so."""
        records = [record for cid in cids if (record := self._core.records.get(cid)) is not None]
        self._core.release(cids)
        if self._data_of:
            for cid in cids:
                self._data_of.pop(cid, None)
        given_up = [one for one in records if one.state is State.PENDING or (one.callbacks and one.value is None)]
        if given_up:
            self._lose(given_up, _RELEASED)

    def _lose(self, records: list[Record], why: m.ErrorInfo) -> None:
        def change() -> list[Record]:
            for record in records:
                record.state, record.error, record.place = State.LOST, why, None
            return records

        self._update(change)

    def let_go(self, record: Record) -> None:
        """The last reference to a future is gone.

        What a task has submitted stays until the task ends, since the task may be run again and is to find it.
        """
        if self._parent is None and self._error is None:
            self._order(ClientSession.forget, record.cid)

    def lack_of(self, record: Record) -> str:
        """What a pending record's task lacks to be run at all, as far as the scheduler has told it; from any thread."""
        return self._core.lack_of(record)

    def forget(self, record: Record) -> None:
        """A future is not wanted any more, by its durable session neither; from any thread."""
        if self._error is None:
            if self._core.name:
                self._order(self._core.let_go, record.cid)
            self._order(ClientSession.forget, record.cid)

    def cancel_records(self, records: Sequence[Record], unstarted: bool = False) -> None:
        """With ``unstarted`` only those that no worker has been given."""
        self._order(self._core.cancel, [record.cid for record in records], unstarted)

    def call_when_done(self, record: Record, function: Callable[[Record], Any]) -> None:
        self._order(self._add_callback, record, function)

    def _add_callback(self, record: Record, function: Callable[[Record], Any]) -> None:
        if record.callbacks is None:
            record.callbacks = [function]
        else:
            record.callbacks.append(function)
        if record.state is not State.PENDING:
            self._fire(record)

    def submit_records(self, fn: Callable[..., Any], calls: Iterable[tuple[Any, ...]], kwargs: dict[str, Any],
                       options: TaskOptions, make: Callable[[Record, str], Any], batch: bool) -> list[Any]:  # fmt: skip
        """Pickle and order one task for each of ``calls``; ``make(record, name)`` makes the future of each.

        All that can go wrong here goes wrong before anything is sent.
        """
        if self._error is not None:
            raise ClientClosed(f"this client can't be used: {self._error}")
        ref = self._functions.ref(fn)
        if batch and options.key is not None and not isinstance(options.key, str):
            calls = list(calls)
            options = attrs.evolve(options, key=check_keys(options.key, len(calls)))
        futures: list[Any] = []
        chunk: list[tuple[Any, ...]] = []
        generated = f"{ref.name}-{self._origin}-"
        for number, args in enumerate(calls):
            given, named = args, kwargs
            if max(map(_size_hint, (*args, *kwargs.values())), default=0) > LARGE_ARGUMENT_BYTES:
                given, named = self._as_data(args, kwargs)
            data, found = dump_call(given, named)
            if len(data) > LARGE_ARGUMENT_BYTES and given is args:
                given, named = self._as_data(args, kwargs)
                data, found = dump_call(given, named)
            if len(data) > MAX_ARGUMENT_BYTES:
                raise SerializationError(
                    f"the arguments are {len(data)} bytes long when pickled beside what travels as data, more than "
                    f"{MAX_ARGUMENT_BYTES}: an argument with Futures in it travels with the task; scatter() what is large in it"
                )
            inputs = self._own(found) if found else ()
            key, recipe = self._key(options, number if batch else -1, ref), b""
            if key is not None or options.pure or self._parent is not None:
                recipe = self._functions.identity(fn, ref) + identity_of(args, kwargs)
            if options.pure:
                key = f"{ref.name}-{hashlib.blake2b(recipe, digest_size=16).hexdigest()}"
            elif key is None and self._parent is not None:
                key = self._parent.child_key(ref.name, recipe)
            record = Record(next(self._cids))
            if given is not args:
                self._data_of[record.cid] = [one for one in found if one.key in self._data]
            futures.append(make(record, key or generated))
            chunk.append((record, ref, data, inputs, key, options.wire, recipe, options.replace))
            if len(chunk) == MAP_CHUNK:
                self._order(self._submit, chunk)
                chunk = []
        if chunk:
            self._order(self._submit, chunk)
        return futures

    def _as_data(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with futures of scattered data in the places of large ones: those travel beside the message, are kept
        for replay, and are sent once however many tasks get them."""
        return tuple(map(self._one_as_data, args)), {name: self._one_as_data(value) for name, value in kwargs.items()}

    def _one_as_data(self, value: Any) -> Any:
        if isinstance(value, BaseFuture):
            return value
        try:
            with collecting() as inputs:
                parts = dump_value(value)
        except Exception:
            return value  # what is the matter with it is said when the call is pickled
        size = sum(map(len, parts))
        if inputs or size <= LARGE_ARGUMENT_BYTES:
            return value
        content = xxhash.xxh3_128()
        for part in parts:
            content.update(part)
        key = f"data-{content.hexdigest()}-{size}"
        known = self._data.get(key)
        if known is not None and not known._record.orphan and known._record.state in (State.PENDING, State.FINISHED):
            return known
        record = Record(next(self._cids))
        try:
            size, digest = self._supplier.keep(record.cid, parts)
        except OSError as error:
            raise StoreError(
                f"a {type(value).__qualname__} of {size} bytes can't be kept for its task: {error}; make room there, or let a "
                "task make or read the data, and pass its Future"
            ) from error
        future = self._data[key] = Future(self, record, key)
        # While this process lives it brings them again; what may outlive it is there twice.
        copies = 2 if self._core.name or self._parent is not None else 1
        self._order(self._scatter, record, key, size, digest, None, copies, [], True)
        return future

    def _submit(self, chunk: list[tuple[Any, ...]]) -> None:
        submit = self._core.submit
        for one in chunk:
            submit(*one)
        if self._error is not None:  # closed in between
            self._lose([one[0] for one in chunk], m.ErrorInfo("ClientClosed", "", str(self._error)))

    def _own(self, found: list[Any]) -> list[int]:
        """The cids of the futures among a task's arguments; an error when one of them can't be an input."""
        for future in found:
            if not isinstance(future, BaseFuture) or future._client is not self:
                raise TwistdistError(f"the argument {shown(future)} belongs to another client; take its result() and pass that")
        refuse_unusable(found)
        return [future._record.cid for future in found]

    @staticmethod
    def _key(options: TaskOptions, number: int, ref: FunctionRef) -> str | None:
        """The key that the user has chosen, checked."""
        key = options.key
        if key is None:
            return None
        if number >= 0:
            key = f"{key}-{number}" if isinstance(key, str) else key[number]
        return check_key(key)

    # ---- what came ----------------------------------------------------------------------------

    def _messages(self, messages: list[Any]) -> None:
        if self._error is not None:
            return  # closing: only acknowledgements are of interest
        self._update(partial(self._core.receive, messages))
        dropped, self._core.dropped = self._core.dropped, []
        self._supplier.forget(dropped)
        supplies, self._core.supplies = self._core.supplies, []
        for supply in supplies:
            self._supplier.supply(supply, self._core.peers[supply.workers[0]])
        troubles, self._core.troubles = self._core.troubles, []
        for address, gone in troubles:
            self._fetcher.avoid(address, gone)
        answers, self._core.answers = self._core.answers, []
        for answer in answers:
            query = self._queries.pop(answer.query, None)
            if query is not None:
                if answer.error:
                    query.errback(TwistdistError(answer.error))
                else:
                    query.callback(answer.value)

    def _fire(self, record: Record) -> None:
        callbacks, record.callbacks = record.callbacks, None
        for callback in callbacks or ():
            try:
                callback(record)
            except BaseException:  # a user's callback, which may also exit: the others, and this client, go on
                self._log.failure("a callback of a future failed")

    def collect(self, records: Sequence[Record], fail_fast: bool = False) -> Deferred[list[Raw]]:
        """A Deferred of what each record has in the end, in order; with ``fail_fast`` of the first error alone, in
        all places, as soon as it is there."""
        result: Deferred[list[Raw]] = Deferred()
        self._order(self._collect, _Collection(self, records, fail_fast, result))
        return result

    def _collect(self, collection: _Collection) -> None:
        collection.start()

    def fetch(self, record: Record, tries: int = 0) -> Deferred[Raw]:
        """The bytes of a finished record's value: inline, mapped from a store of this host, or over the network.

        When no holder gives it the scheduler is told, and what it says next is tried.
        """
        if record.value is not None:
            return succeed(record.value)
        place = record.place
        if place is not None and record.seen not in (b"", place.digest):
            return succeed(_ANOTHER_VALUE)
        if place is None:
            return succeed(record.error or _RELEASED)
        peers = [self._core.peers[number] for number in place.holders]
        for peer in peers:
            if peer.host == self._host:
                try:
                    return succeed(self._saw(record, place, read_file(file_path(peer.store, place.attempt))))
                except (OSError, ValueError):
                    continue
        sink = partial(MemorySink, place.size, place.digest)
        fetching = self._fetcher.fetch([peer.address for peer in peers], place.attempt, sink)
        return fetching.addCallbacks(lambda sink: self._saw(record, place, sink.data),
                                     lambda failure: self._elsewhere(record, place, failure, tries + 1))  # fmt: skip

    @staticmethod
    def _saw(record: Record, place: m.Finished, data: Raw) -> Raw:
        """Who has seen a value never sees another one in its place."""
        record.seen = place.digest
        return data

    def _elsewhere(self, record: Record, place: m.Finished, failure: Failure, tries: int) -> Deferred[Raw]:
        again: Deferred[Raw] = Deferred()
        if self._error is not None:
            return succeed(m.ErrorInfo("ClientClosed", "", str(self._error)))
        if record.cid not in self._core.records:
            return succeed(_RELEASED)
        if record.place is not place:  # what became of it was told meanwhile
            return self.fetch(record, tries)
        if tries >= MOST_FETCHES:
            text = (f"the value can't be fetched from the workers that hold it, after {tries} tries: {failure.value}; "
                    "can this machine reach the addresses that they listen at?")  # fmt: skip
            return succeed(m.ErrorInfo("DataLost", "", text))

        def retry(_: Record) -> None:
            self.fetch(record, tries).chainDeferred(again)

        self._core.unreachable(record)
        record.callbacks = [*(record.callbacks or ()), retry]
        self._dialing.flush()
        return again

    # ---- questions ----------------------------------------------------------------------------

    def _until(self, ask: Callable[[], Deferred[Any]], enough: Callable[[Any], bool]) -> Deferred[None]:
        """Ask again and again until the answer is enough."""
        result: Deferred[None] = Deferred()

        def look(answer: Any) -> None:
            if enough(answer):
                result.callback(None)
            else:
                self.reactor.callLater(0.02, again)

        def again() -> None:
            if not result.called:
                ask().addCallbacks(look, result.errback)

        again()
        return result

    def _query(self, what: str, *args: Any) -> Deferred[Any]:
        try:
            encode_frame((0, 0, [m.Query(0, what, list(args))]))
        except UNENCODABLE as error:
            raise TypeError(f"the question {what!r} can't be asked with {shown(args)}: {error}") from None
        result: Deferred[Any] = Deferred()
        self._order(self._ask, what, args, result)
        return result

    def _ask(self, what: str, args: tuple[Any, ...], result: Deferred[Any]) -> None:
        if self._error is not None:
            result.errback(ClientClosed(f"this client can't be used: {self._error}"))
        else:
            self._queries[self._core.query(what, args)] = result

    def _watch(self, what: str, records: list[tuple[Record, str]], result: Deferred[Any]) -> None:
        if self._error is not None:
            result.errback(ClientClosed(f"this client can't be used: {self._error}"))
        else:
            self._queries[self._core.watch(records, what)] = result

    # ---- scattered data -------------------------------------------------------------------------

    def scatter_records(self, data: Any, replicas: int, broadcast: bool, hash: bool, workers: Iterable[str] | None,
                        resupply: bool, make: Callable[[Record, str], Any]) -> tuple[Any, list[Any]]:  # fmt: skip
        """(``data`` with futures in the place of its values, the futures)."""
        if self._error is not None:
            raise ClientClosed(f"this client can't be used: {self._error}")
        copies = 0 if as_truth(broadcast, "broadcast") else check_replicas(replicas)
        names, resupply, hash = check_workers(workers), as_truth(resupply, "resupply"), as_truth(hash, "hash")
        futures: list[Any] = []

        def one(value: Any) -> Any:
            record = Record(next(self._cids))
            try:
                parts, key = dump_value(value), ""
            except Exception as error:
                raise SerializationError(f"the data, a {type(value).__qualname__}, can't be pickled: {said(error)}") from error
            small = b"".join(parts) if sum(map(len, parts)) <= INLINE_RESULT_BYTES else None
            if small is None:
                size, digest = self._supplier.keep(record.cid, parts)
            else:
                size, digest = len(small), hashlib.blake2b(small, digest_size=16).digest()
            if hash:
                key = f"data-{digest.hex()}-{size}"
            futures.append(make(record, key or f"data-{self._origin}-"))
            self._order(self._scatter, record, key, size, digest, small, copies, names, resupply)
            return futures[-1]

        if hasattr(data, "__next__"):
            data = list(data)
        if isinstance(data, dict):
            return {key: one(value) for key, value in data.items()}, futures
        if isinstance(data, list | tuple):
            return [one(value) for value in data], futures
        return one(data), futures

    def _scatter(self, record: Record, *what: Any) -> None:
        if self._error is not None:
            self._lose([record], m.ErrorInfo("ClientClosed", "", str(self._error)))
            return
        self._core.scatter(record, *what)

    def _not_supplied(self, cid: int, worker: int, text: str) -> None:
        if self._error is None:
            self._core.not_supplied(cid, worker, text)
            self._dialing.flush()

    def announced(self, futures: Sequence[Any]) -> Deferred[Any]:
        """A Deferred that fires when all are finished, or fails as the first that is not."""

        def one(record: Record) -> Deferred[None]:
            ended: Deferred[None] = Deferred()
            self.call_when_done(record, lambda _: self._finished(record, ended))
            return ended

        return all_of([one(future._record) for future in futures])

    @staticmethod
    def _finished(record: Record, ended: Deferred[None]) -> None:
        if record.state is State.FINISHED:
            ended.callback(None)
        else:
            ended.errback(as_failure(load_one(record)))


def _size_hint(value: Any) -> int:
    """At least how long a pickle will be, as far as that can be told without making it."""
    kind = type(value)
    if kind is str or kind is bytes or kind is bytearray:
        return len(value)
    size = value.nbytes if getattr(kind, "nbytes", None) is not None else 0
    return size if isinstance(size, int) else 0


_ANOTHER_VALUE = m.ErrorInfo("NonDeterministicReplay", "", "the value was lost and computed again, and is not the one that "
                             "this client has seen; the function depends on more than its arguments (replay=)")  # fmt: skip
_RELEASED = m.ErrorInfo("DataLost", "", "the future was released")


class _Collection:
    """Waits for records, then fetches what lies elsewhere, then gives it all at once."""

    def __init__(self, client: ClientSession, records: Sequence[Record], fail_fast: bool, result: Deferred[list[Raw]]) -> None:
        self._client, self._records, self._fail_fast, self._result = client, records, fail_fast, result
        self._left = 0
        self._raws: dict[int, Raw] = {}

    def start(self) -> None:
        known = self._client._core.records
        self._client._lose([r for r in self._records if r.state is State.PENDING and r.cid not in known], _RELEASED)
        waiting = [record for record in self._records if record.state is State.PENDING]
        self._left = 1 + len(waiting)
        for record in waiting:
            self._client._add_callback(record, self._ended)
        if self._fail_fast:
            bad = next((r for r in self._records if r.error is not None and r.state is not State.PENDING), None)
            if bad is not None:
                self._ended_badly(bad)
        self._one_less()

    def _ended(self, record: Record) -> None:
        if self._fail_fast and record.error is not None:
            self._ended_badly(record)
        self._one_less()

    def _ended_badly(self, record: Record) -> None:
        """Whoever asked loads the error, in a thread of its own: that may take long, and do anything."""
        if not self._result.called:
            self._result.callback([record.error or _RELEASED] * len(self._records))

    def _one_less(self) -> None:
        self._left -= 1
        if self._left or self._result.called:
            return
        elsewhere = [record for record in self._records if record.value is None and record.error is None]
        self._left = 1
        for record in elsewhere:
            self._left += 1
            self._client.fetch(record).addBoth(self._fetched, record)
        self._fetched(b"", None)

    def _fetched(self, raw: Any, record: Record | None) -> None:
        if record is not None:
            self._raws[record.cid] = raw
        self._left -= 1
        if self._left or self._result.called:
            return
        self._result.callback([self._raw(record) for record in self._records])

    def _raw(self, record: Record) -> Raw:
        if record.cid in self._raws:
            return self._raws[record.cid]
        raw = record.value if record.value is not None else record.error
        return _RELEASED if raw is None else raw


def load_one(record: Record) -> BaseException:
    """The exception of a record that ended badly."""
    try:
        unpack(record.error or _RELEASED)
    except BaseException as error:
        return error
    raise AssertionError("an ErrorInfo unpacks to an exception")
