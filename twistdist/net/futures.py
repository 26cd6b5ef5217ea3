"""Futures of the Deferred API, and what waits for several of them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from twistdist.config import as_choice
from twistdist.core.client import Record, State
from twistdist.errors import DataLost, SerializationError, TaskCancelled, said, shown
from twistdist.wire import messages as m
from twistdist.wire.failures import load_error
from twistdist.wire.payload import load_value, reference

#: What a value is before somebody looks at it: its bytes, or why there is none.
Raw = bytes | memoryview | m.ErrorInfo


class FutureOwner(Protocol):
    """What a future needs of the client it belongs to."""

    reactor: Any

    def collect(self, records: Sequence[Record], fail_fast: bool = False) -> Deferred[list[Raw]]: ...

    def forget(self, record: Record) -> None: ...

    def let_go(self, record: Record) -> None: ...

    def lack_of(self, record: Record) -> str: ...

    def cancel_records(self, records: Sequence[Record]) -> None: ...

    def call_when_done(self, record: Record, function: Any) -> None: ...


def unpack(raw: Raw) -> Any:
    """The value, or its exception raised."""
    if isinstance(raw, m.ErrorInfo):
        raise load_error(raw)
    try:
        return load_value(raw)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: what a task gives must not end a client
        raise SerializationError(f"the value can't be unpickled here: {said(error)}") from error


def as_failure(error: BaseException) -> Failure:
    """A Failure that keeps the (remote) traceback of ``error``."""
    return Failure(error, type(error), error.__traceback__)


class BaseFuture:
    """What the Deferred API's and the blocking API's futures have in common: a record, a client, a name."""

    __slots__ = ("_client", "_name", "_record")

    _client: FutureOwner
    _record: Record
    _name: str

    @property
    def key(self) -> str:
        """The task's name, chosen or generated."""
        return self._name if self._name[-1:] != "-" else f"{self._name}{self._record.cid}"

    @property
    def status(self) -> str:
        """``"pending"``, ``"finished"``, ``"error"``, ``"cancelled"`` or ``"lost"``."""
        return self._record.state.value

    def done(self) -> bool:
        """Whether the task has ended, in whatever way."""
        return self._record.state is not State.PENDING

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._record.state is State.CANCELLED

    def release(self) -> None:
        """Give the result up now; the future can't be used any more.  Dropping the last reference does the same."""
        self._client.forget(self._record)

    def __reduce__(self) -> Any:
        return reference(self)

    def __del__(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None:
            client.let_go(self._record)

    def __repr__(self) -> str:
        lack = self._client.lack_of(self._record) if self._client is not None else ""
        return f"<Future {self.key}: {self.status}{', ' if lack else ''}{lack}>"


class Future(BaseFuture):
    """The result of a task, some day.  Made by a client, not by users."""

    __slots__ = ("__weakref__",)

    def __init__(self, client: FutureOwner, record: Record, name: str) -> None:
        self._client, self._record, self._name = client, record, name

    def result(self) -> Deferred[Any]:
        """A Deferred of the value; errbacks with a ``Failure`` of the task's own exception type."""
        return self._raw().addCallback(self._load)

    def _raw(self) -> Deferred[Raw]:
        # The callback's argument holds the future: while somebody waits for the result it is wanted.
        return self._client.collect([self._record]).addCallback(_only, self)

    @staticmethod
    def _load(raw: Raw) -> Any:
        try:
            return unpack(raw)
        except BaseException as error:
            return as_failure(error)

    def exception(self) -> Deferred[BaseException | None]:
        """A Deferred of the task's exception, or of None when it has a value."""
        return self._raw().addCallback(lambda raw: load_error(raw) if isinstance(raw, m.ErrorInfo) else None)

    def traceback(self) -> Deferred[str]:
        """A Deferred of the remote traceback's text, "" when the task has a value."""
        return self._raw().addCallback(lambda raw: raw.traceback if isinstance(raw, m.ErrorInfo) else "")

    def cancel(self) -> None:
        """Stop the task unless somebody else wants it; the future is cancelled when the scheduler has said so."""
        self._client.cancel_records([self._record])

    def add_done_callback(self, fn: Any) -> None:
        """Call ``fn(future)`` in the reactor's thread when the task has ended, at once when it has already."""
        self._client.call_when_done(self._record, lambda _: fn(self))

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.result().__await__()


def _only(raws: list[Raw], future: BaseFuture) -> Raw:
    return raws[0]


def as_futures(futures: Any) -> list[Future]:
    """A list of futures of the Deferred API; ``TypeError`` for anything else."""
    members = list(futures) if isinstance(futures, Iterable) and not isinstance(futures, str | bytes) else [futures]
    for member in members:
        if not isinstance(member, Future):
            raise TypeError(f"this is no Future of a client of twistdist.connect: {shown(member)}")
    return members


def wait(futures: Iterable[Future], return_when: str = "ALL_COMPLETED") -> Deferred[tuple[set[Future], set[Future]]]:
    """A Deferred of (done, not done) when all have ended; "FIRST_COMPLETED": one; "FIRST_EXCEPTION": one badly."""
    return_when = as_choice(return_when, "return_when", ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"))
    members = as_futures(futures)
    result: Deferred[tuple[set[Future], set[Future]]] = Deferred()

    def look(_: Any = None) -> None:
        done = {member for member in members if member.done()}
        bad = any(future.status != "finished" for future in done)
        enough = len(done) == len(set(members)) or (return_when == "FIRST_COMPLETED" and done)
        if not result.called and (enough or (return_when == "FIRST_EXCEPTION" and bad)):
            result.callback((done, set(members) - done))

    left = len(members)

    def one_less(_: Any) -> None:
        nonlocal left
        left -= 1
        if not left or return_when != "ALL_COMPLETED":
            look()

    for future in members:
        future.add_done_callback(one_less)
    look()
    return result


class AsCompleted:
    """Futures in the order in which they end: ``async for``, or ``next()``, a Deferred of the next one (None at the end)."""

    def __init__(self, futures: Iterable[Future]) -> None:
        members = as_futures(futures)
        self._left = len(members)
        self._ended: deque[Future] = deque()
        self._waiting: list[Deferred[Future | None]] = []
        for future in members:
            future.add_done_callback(self._end)

    def _end(self, future: Future) -> None:
        if self._waiting:
            self._waiting.pop(0).callback(future)
        else:
            self._ended.append(future)

    def next(self) -> Deferred[Future | None]:
        """A Deferred of the next future that ends; of None when there are no more."""
        result: Deferred[Future | None] = Deferred(self._give_up)
        if not self._left:
            result.callback(None)
            return result
        self._left -= 1
        if self._ended:
            result.callback(self._ended.popleft())
        else:
            self._waiting.append(result)
        return result

    def _give_up(self, waiting: Deferred[Future | None]) -> None:
        """A ``next`` was cancelled: the future that it would have got is for another one."""
        self._waiting.remove(waiting)
        self._left += 1

    async def __aiter__(self) -> AsyncIterator[Future]:
        while (future := await self.next()) is not None:
            yield future


def as_completed(futures: Iterable[Future]) -> AsCompleted:
    """The futures in the order in which they end."""
    return AsCompleted(futures)


class Bar:
    """A progress bar on one line of a terminal; nothing where the stream is no terminal."""

    def __init__(self, total: int, label: str = "", stream: Any = None, width: int = 40) -> None:
        self._total, self._label, self._width = max(1, total), label, width
        self._stream = sys.stderr if stream is None else stream
        self._shows = bool(getattr(self._stream, "isatty", lambda: False)())

    def show(self, done: int) -> None:
        if self._shows:
            filled = self._width * done // self._total
            bar = "#" * filled + "." * (self._width - filled)
            self._stream.write(f"\r{self._label}[{bar}] {done}/{self._total}")
            self._stream.flush()

    def end(self) -> None:
        if self._shows:
            self._stream.write("\n")
            self._stream.flush()


def progress(futures: Iterable[Future], label: str = "") -> Deferred[None]:
    """Show a bar until all futures have ended; the Deferred fires then."""
    members = as_futures(futures)
    bar = Bar(len(members), label)
    if not members:
        return succeed(None)
    reactor = members[0]._client.reactor
    result = wait(members)

    def look() -> None:
        if not result.called:
            bar.show(sum(member.done() for member in members))
            reactor.callLater(0.1, look)

    def over(_: Any) -> None:
        bar.show(len(members))
        bar.end()

    look()
    return result.addCallback(over)


def refuse_unusable(futures: Iterable[BaseFuture]) -> None:
    """``TaskCancelled`` or ``DataLost`` at the earliest place when an argument's value can never reach a task."""
    for future in futures:
        if future.cancelled():
            raise TaskCancelled(f"the argument {future.key} was cancelled; its value will never come")
        if future._record.orphan or future._record.state is State.LOST:
            raise DataLost(
                f"the argument {future.key} was released, or the scheduler that knew it was started anew; "
                "submit its task again, or pass its result()"
            )
