"""Turns calls into tasks and data into futures: pickles them here, in the calling thread, and orders them for the core."""

from __future__ import annotations

import hashlib
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs
import msgspec
import xxhash

from twistdist.config import INLINE_RESULT_BYTES, MAX_ARGUMENT_BYTES, as_truth
from twistdist.core.client import Client, FunctionRef, Record, State
from twistdist.errors import ClientClosed, SerializationError, StoreError, TwistdistError, said, shown
from twistdist.net.functions import Functions
from twistdist.net.futures import BaseFuture, Future, refuse_unusable
from twistdist.net.options import TaskOptions, check_key, check_keys, check_replicas, check_workers
from twistdist.net.orders import Orders
from twistdist.net.supplier import Supplier
from twistdist.wire import messages as m
from twistdist.wire.identity import identity_of
from twistdist.wire.payload import collecting, dump_call, dump_value

#: An argument of more bytes than this when pickled is sent separately, as data, instead of with the task.
LARGE_ARGUMENT_BYTES = 64 << 10

#: The options of a task that has none.
NO_OPTIONS = m.Options()

#: Tasks of a ``map`` that are pickled before they are sent together.
MAP_CHUNK = 1_000


@attrs.define(eq=False)
class Parent:
    """The task in which a client was made: its number and key, its attempt and trace, and how often it has submitted each
    recipe."""

    task: int
    key: str
    attempt: int = 0
    trace: str = ""
    _submitted: Counter[bytes] = attrs.field(factory=Counter)

    def child_key(self, name: str, recipe: bytes) -> str:
        """Return a key for a call of ``name`` that is the same if the parent runs again and submits the same."""
        count = self._submitted[recipe] = self._submitted[recipe] + 1
        text = f"{self.key}\0{recipe.hex()}\0{count}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(text, digest_size=16)
        return f"{name}-{digest.hexdigest()}"


@attrs.define(eq=False)
class Submits:
    """What a session submits.  ``owner`` is the session, as futures know it (:class:`.results.Owner`); ``trace`` gives the span
    that a submit belongs to, None without tracing."""

    core: Client
    owner: Any
    orders: Orders
    supplier: Supplier
    parent: Parent | None
    trace: Callable[[], str] | None = None
    cids: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))
    _functions: Functions = attrs.field(factory=Functions)
    #: Large arguments by key, as long as a future of a task that received them exists (``_data_of``, by number).
    _data: weakref.WeakValueDictionary[str, Future] = attrs.field(factory=weakref.WeakValueDictionary)
    _data_of: dict[int, list[Any]] = attrs.field(factory=dict)

    @property
    def _origin(self) -> str:
        """The common part of the names of tasks without a key."""
        return f"{self.core.dialer.number:x}"[:8]

    def released(self, cids: Iterable[int]) -> None:
        """Futures were released; a large argument is released with the last future of a task that received it."""
        if self._data_of:
            for cid in cids:
                self._data_of.pop(cid, None)

    def _check_open(self) -> None:
        closed = self.owner.why_closed()
        if closed:
            raise ClientClosed(f"this client can't be used: {closed}")

    def submit(
        self,
        fn: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        kwargs: dict[str, Any],
        options: TaskOptions,
        make: Callable[[Record, str], Any],
        batch: bool,
    ) -> list[Any]:
        """Pickle and order one task for each of ``calls``; ``make(record, name)`` makes the future of each.

        Whatever can fail for a task here fails before that task is sent.
        """
        self._check_open()
        ref = self._functions.ref(fn)
        if self.trace is not None:
            wire = options.wire if options.wire is not None else NO_OPTIONS
            options = attrs.evolve(options, wire=msgspec.structs.replace(wire, trace=self.trace()))
        if batch and options.key is not None and not isinstance(options.key, str):
            calls = list(calls)
            options = attrs.evolve(options, key=check_keys(options.key, len(calls)))
        futures: list[Any] = []
        chunk: list[tuple[Any, ...]] = []
        generated, of = f"{ref.name}-{self._origin}-", (ref.name, options.wire.group if options.wire is not None else "")
        for number, args in enumerate(calls):
            given, named = args, kwargs
            if max(map(size_hint, (*args, *kwargs.values())), default=0) > LARGE_ARGUMENT_BYTES:
                given, named = self._as_data(args, kwargs)
            data, found = dump_call(given, named)
            if len(data) > LARGE_ARGUMENT_BYTES and given is args:
                given, named = self._as_data(args, kwargs)
                data, found = dump_call(given, named)
            if len(data) > MAX_ARGUMENT_BYTES:
                raise SerializationError(
                    f"the arguments are {len(data)} bytes when pickled, not counting those that are sent as data, more than "
                    f"{MAX_ARGUMENT_BYTES}; an argument with Futures in it is sent with the task: scatter() what is large"
                )
            inputs = self._own(found) if found else ()
            key, recipe = self._key(options, number if batch else -1, ref), b""
            if key is not None or options.pure or self.parent is not None:
                recipe = self._functions.identity(fn, ref) + identity_of(args, kwargs)
            if options.pure:
                key = f"{ref.name}-{hashlib.blake2b(recipe, digest_size=16).hexdigest()}"
            elif key is None and self.parent is not None:
                key = self.parent.child_key(ref.name, recipe)
            record = Record(next(self.cids), of=of)
            if given is not args:
                self._data_of[record.cid] = [future for future in found if future.key in self._data]
            futures.append(make(record, key or generated))
            # The key of a pure call is in use with another recipe only if an input was replaced: then it is another call.
            chunk.append((record, ref, data, inputs, key, options.wire, recipe, options.replace or options.pure))
            if len(chunk) == MAP_CHUNK:
                self.orders.add(self._submit, chunk)
                chunk = []
        if chunk:
            self.orders.add(self._submit, chunk)
        return futures

    def _as_data(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with large ones replaced by futures of scattered data.

        These are sent separately, are kept for replay, and are sent once however many tasks receive them.
        """
        return tuple(map(self._one_as_data, args)), {name: self._one_as_data(value) for name, value in kwargs.items()}

    def _one_as_data(self, value: Any) -> Any:
        if isinstance(value, BaseFuture):
            return value
        try:
            with collecting() as inputs:
                parts = dump_value(value)
        except Exception:
            return value  # the error is reported when the call is pickled
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
        record = Record(next(self.cids))
        try:
            size, digest = self.supplier.keep(record.cid, parts, content.digest())
        except OSError as error:
            raise StoreError(
                f"a {type(value).__qualname__} of {size} bytes can't be kept for its task: {error}; free some space there, "
                "or let a task make or read the data and pass its Future"
            ) from error
        future = self._data[key] = Future(self.owner, record, key)
        # While this process lives, it can supply the data again; data that may outlive it get a second copy.
        copies = 2 if self.core.name or self.parent is not None else 1
        self.orders.add(self._scatter, record, key, size, digest, None, copies, [], True)
        return future

    def _submit(self, chunk: list[tuple[Any, ...]]) -> None:
        submit = self.core.submit
        for task in chunk:
            submit(*task)
        closed = self.owner.why_closed()
        if closed:  # since the order was given
            self.owner.lose([task[0] for task in chunk], m.ErrorInfo("ClientClosed", "", self.owner.why_closed()))

    def _own(self, found: list[Any]) -> list[int]:
        """Return the cids of the futures among a task's arguments; raise if one of them can't be an input."""
        for future in found:
            if not isinstance(future, BaseFuture) or future._client is not self.owner:
                raise TwistdistError(f"the argument {shown(future)} belongs to another client; pass its result() instead")
        refuse_unusable(found)
        return [future._record.cid for future in found]

    @staticmethod
    def _key(options: TaskOptions, number: int, ref: FunctionRef) -> str | None:
        """Return the checked key that the user has chosen; None if there is none."""
        key = options.key
        if key is None:
            return None
        if number >= 0:
            key = f"{key}-{number}" if isinstance(key, str) else key[number]
        return check_key(key)

    def scatter(
        self,
        data: Any,
        replicas: int,
        broadcast: bool,
        hash: bool,
        workers: Iterable[str] | None,
        resupply: bool,
        make: Callable[[Record, str], Any],
    ) -> tuple[Any, list[Any]]:
        """Scatter data and return (``data`` with futures instead of its values, the futures)."""
        self._check_open()
        copies = 0 if as_truth(broadcast, "broadcast") else check_replicas(replicas)
        names, resupply, hash = check_workers(workers), as_truth(resupply, "resupply"), as_truth(hash, "hash")
        futures: list[Any] = []

        def one(value: Any) -> Any:
            record = Record(next(self.cids))
            try:
                parts, key = dump_value(value), ""
            except Exception as error:
                raise SerializationError(f"the data, a {type(value).__qualname__}, can't be pickled: {said(error)}") from error
            small = b"".join(parts) if sum(map(len, parts)) <= INLINE_RESULT_BYTES else None
            if small is None:
                size, digest = self.supplier.keep(record.cid, parts)
            else:
                size, digest = len(small), hashlib.blake2b(small, digest_size=16).digest()
            if hash:
                key = f"data-{digest.hex()}-{size}"
            futures.append(make(record, key or f"data-{self._origin}-"))
            self.orders.add(self._scatter, record, key, size, digest, small, copies, names, resupply)
            return futures[-1]

        if hasattr(data, "__next__"):
            data = list(data)
        if isinstance(data, dict):
            return {key: one(value) for key, value in data.items()}, futures
        if isinstance(data, list | tuple):
            return [one(value) for value in data], futures
        return one(data), futures

    def _scatter(self, record: Record, *what: Any) -> None:
        if self.owner.why_closed():
            self.owner.lose([record], m.ErrorInfo("ClientClosed", "", self.owner.why_closed()))
            return
        self.core.scatter(record, *what)


def size_hint(value: Any) -> int:
    """Return a lower bound of a pickle's size, as far as it is known without pickling."""
    kind = type(value)
    if kind is str or kind is bytes or kind is bytearray:
        return len(value)
    size = value.nbytes if getattr(kind, "nbytes", None) is not None else 0
    return size if isinstance(size, int) else 0
