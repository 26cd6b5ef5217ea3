"""Futures of the Deferred API, and functions that wait for several of them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure

from twistdist.config import as_choice, as_text
from twistdist.core.client import Record, State
from twistdist.display import html_of
from twistdist.errors import ClientClosed, DataLost, SerializationError, TaskCancelled, said, shown
from twistdist.net.tally import Tally
from twistdist.wire import messages as m
from twistdist.wire.failures import load_error
from twistdist.wire.payload import load_value, reference

#: A value that has not been unpickled yet, or the error if there is no value.
Raw = bytes | memoryview | m.ErrorInfo


class FutureOwner(Protocol):
    """What a future needs from the client it belongs to."""

    reactor: Any

    def why_closed(self) -> str: ...

    def collect(self, records: Sequence[Record], fail_fast: bool = False) -> Deferred[list[Raw]]: ...

    def forget(self, record: Record) -> None: ...

    def let_go(self, record: Record) -> None: ...

    def lack_of(self, record: Record) -> str: ...

    def cancel_records(self, records: Sequence[Record]) -> None: ...

    def retry_records(self, records: Sequence[Record]) -> None: ...

    def call_when_done(self, record: Record, function: Any) -> None: ...

    def call_back(self, callbacks: Sequence[Any], record: Record) -> None: ...


def unpack(raw: Raw) -> Any:
    """Return the unpickled value, or raise the task's exception.  ``SerializationError`` if it can't be unpickled."""
    if isinstance(raw, m.ErrorInfo):
        raise load_error(raw)
    try:
        return load_value(raw)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a task's result must not end the client
        raise SerializationError(f"the value can't be unpickled in this process: {said(error)}") from error


def as_failure(error: BaseException) -> Failure:
    """Return a Failure that keeps the traceback of ``error``, including the remote part."""
    return Failure(error, type(error), error.__traceback__)


class BaseFuture:
    """The common base of the futures of the Deferred and the blocking API."""

    __slots__ = ("_client", "_name", "_record")

    _client: FutureOwner
    _record: Record
    _name: str

    @property
    def key(self) -> str:
        """The task's key, chosen by the user or generated."""
        return self._name if self._name[-1:] != "-" else f"{self._name}{self._record.cid}"

    @property
    def status(self) -> str:
        """The state of the task, as this client knows it.

        One of ``"pending"``, ``"finished"`` (it has a value), ``"error"`` (it failed), ``"cancelled"`` and ``"lost"``.  A lost
        task's outcome can't reach this client any more: the future was released, the client was closed, or the scheduler
        restarted and no longer knows the task.
        """
        return self._record.state.value

    def done(self) -> bool:
        """Return True if the task has ended: with a value or an error, cancelled or lost."""
        return self._record.state is not State.PENDING

    def cancelled(self) -> bool:
        """Return True if the task was cancelled."""
        return self._record.state is State.CANCELLED

    def release(self) -> None:
        """Release the result now; the future must not be used afterwards.

        Dropping the last reference to a future has the same effect, except that a durable session then keeps a task that was
        submitted with ``key=`` or ``pure=True``.
        """
        self._client.forget(self._record)

    def __reduce__(self) -> Any:
        return reference(self)

    def __del__(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None:
            client.let_go(self._record)

    def __dask_tokenize__(self) -> Any:
        """For collections of dask on Futures: what identifies this one."""
        return "twistdist.Future", id(self._client), self._record.cid

    def _repr_html_(self) -> str:
        """For notebooks."""
        lack = self._client.lack_of(self._record) if self._client is not None else ""
        return html_of("Future", {"key": self.key, "status": self.status, "waits": lack})

    def __repr__(self) -> str:
        lack = self._client.lack_of(self._record) if self._client is not None else ""
        return f"<Future {self.key}: {self.status}{', ' if lack else ''}{lack}>"


class Future(BaseFuture):
    """The future result of a task.

    Futures are created by a client.  A future can be awaited in a coroutine; this is the same as awaiting ``result()``.
    """

    __slots__ = ("__weakref__",)

    def __init__(self, client: FutureOwner, record: Record, name: str) -> None:
        self._client, self._record, self._name = client, record, name

    def result(self) -> Deferred[Any]:
        """Wait for the task and fetch its value.

        Returns:
            A Deferred that fires with the value.  If the task failed, it fails with the task's own exception, whose
            ``__twistdist__`` attribute is a :class:`~twistdist.errors.TaskInfo`.  It fails with ``TaskCancelled`` if the task
            was cancelled, with ``DataLost`` if the value is lost or the future was released, with ``SerializationError`` if the
            value can't be unpickled in this process, and with ``ClientClosed`` if the client was closed before the value was
            fetched.
        """
        return self._raw().addCallback(self._load)

    def _raw(self) -> Deferred[Raw]:
        # The callback's argument keeps the future alive, so the result is not released while somebody waits for it.
        return self._client.collect([self._record]).addCallback(_only, self)

    @staticmethod
    def _load(raw: Raw) -> Any:
        try:
            return unpack(raw)
        except BaseException as error:
            return as_failure(error)

    def exception(self) -> Deferred[BaseException | None]:
        """Wait for the task and fetch its exception.

        Returns:
            A Deferred that fires with the exception, or with None if the task has a value.  For a cancelled task, it fires with
            :class:`~twistdist.errors.TaskCancelled`.
        """
        return self._raw().addCallback(lambda raw: load_error(raw) if isinstance(raw, m.ErrorInfo) else None)

    def traceback(self) -> Deferred[str]:
        """Wait for the task and fetch its remote traceback.

        Returns:
            A Deferred that fires with the traceback as text; ``""`` if the task has a value.
        """
        return self._raw().addCallback(lambda raw: raw.traceback if isinstance(raw, m.ErrorInfo) else "")

    def cancel(self) -> None:
        """Cancel the future and stop its task, even while it is running, unless another client or task needs it.

        This client's unfinished tasks that depend on the task are cancelled too.  The method returns immediately; the future's
        status becomes ``"cancelled"`` when the scheduler has confirmed it.  Nothing happens if the task has ended.
        """
        self._client.cancel_records([self._record])

    def retry(self) -> None:
        """Run the task again if it has failed, and the failed tasks among its inputs.

        The future is pending again shortly after this method returns, with all retries and crashes forgiven.  Nothing happens
        if the task has not failed.

        Raises:
            TaskCancelled: The future was cancelled; submit the task again.
            DataLost: The future was released or lost; submit the task again.
        """
        refuse_retry([self])
        self._client.retry_records([self._record])

    def add_done_callback(self, fn: Any) -> None:
        """Have ``fn(future)`` called in the reactor's thread when the task has ended.

        If the task has already ended, ``fn`` is called immediately.  Exceptions that ``fn`` raises are logged.

        Args:
            fn: A function that takes the future.
        """
        if self.done():
            self._client.call_back([lambda _: fn(self)], self._record)
        else:
            self._client.call_when_done(self._record, lambda _: fn(self))

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.result().__await__()


def _only(raws: list[Raw], future: BaseFuture) -> Raw:
    return raws[0]


def as_futures(futures: Any) -> list[Future]:
    """Return a list of Deferred API futures from an iterable or a single one.  ``TypeError`` for anything else."""
    members = list(futures) if isinstance(futures, Iterable) and not isinstance(futures, str | bytes) else [futures]
    for member in members:
        if not isinstance(member, Future):
            raise TypeError(f"expected Futures of a client from twistdist.connect(), got {shown(member)}")
    return members


def wait(futures: Iterable[Future], return_when: str = "ALL_COMPLETED") -> Deferred[tuple[set[Future], set[Future]]]:
    """Wait for several futures.

    Args:
        futures: An iterable of futures.
        return_when: When the Deferred fires: ``"ALL_COMPLETED"``: all futures have ended; ``"FIRST_COMPLETED"``: one has ended;
            ``"FIRST_EXCEPTION"``: one has ended without a value (error, cancelled or lost), or all have ended.

    Returns:
        A Deferred that fires with ``(done, not_done)``, two sets of futures.

    Raises:
        TypeError: A member of ``futures`` is not a Future of the Deferred API.
        ValueError: ``return_when`` has an invalid value.
    """
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
    """Futures in the order in which they end, created by :func:`twistdist.as_completed`.

    Iterate with ``async for``, or call :meth:`next` until its Deferred fires with None.
    """

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
        """Wait for the next future.

        Returns:
            A Deferred that fires with the next future that has ended, or with None if there are no more.  If the Deferred is
            cancelled, a later call of ``next()`` returns that future.
        """
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
        """Handle a cancelled ``next()``: the future it would have returned is left for another call."""
        self._waiting.remove(waiting)
        self._left += 1

    async def __aiter__(self) -> AsyncIterator[Future]:
        while (future := await self.next()) is not None:
            yield future


def as_completed(futures: Iterable[Future]) -> AsCompleted:
    """Iterate over futures in the order in which they end.

    Args:
        futures: An iterable of futures.

    Returns:
        An asynchronous iterator with a ``next()`` method; see :class:`~twistdist.net.futures.AsCompleted`.

    Raises:
        TypeError: A member of ``futures`` is not a Future of the Deferred API.
    """
    return AsCompleted(futures)


def progress(futures: Iterable[Future], label: str = "") -> Deferred[None]:
    """Show progress bars until all futures have ended.

    There is a bar for all of them, one for each function if they are calls of several, and one for each group if there are
    several.  The bars are those of tqdm, if it is installed (``twistdist[progress]``), in a terminal or a notebook; otherwise
    plain ones in a terminal.  Elsewhere nothing is shown.

    Args:
        futures: An iterable of futures.
        label: Text in front of the bar for all.

    Returns:
        A Deferred that fires with None when all futures have ended.

    Raises:
        TypeError: A member of ``futures`` is not a Future of the Deferred API.
    """
    members = as_futures(futures)
    tally = Tally(members, as_text(label, "label"))
    if not members:
        return succeed(None)
    reactor = members[0]._client.reactor
    result = wait(members)

    def look() -> None:
        if not result.called:
            tally.look()
            reactor.callLater(0.1, look)

    def over(_: Any) -> None:
        tally.look()
        tally.end()

    look()
    return result.addCallback(over)


def fire_and_forget(futures: Any) -> Deferred[Any]:
    """Let tasks run to completion even if their futures are dropped or their clients close.

    Args:
        futures: A future, or an iterable of futures.

    Returns:
        A Deferred that fires with None when the schedulers have confirmed the request.

    Raises:
        TypeError: Something in ``futures`` is not a Future of the Deferred API.
    """
    by_client: dict[Any, list[Future]] = {}
    for future in as_futures(futures):
        by_client.setdefault(future._client, []).append(future)
    return gatherResults([client.fire_and_forget(own) for client, own in by_client.items()]).addCallback(lambda _: None)


def refuse_closed(future: BaseFuture) -> None:
    """Raise ``ClientClosed`` if the client of ``future`` is closed."""
    closed = future._client.why_closed()
    if closed:
        raise ClientClosed(f"{future.key} can't be used: {closed}")


def refuse_retry(futures: Iterable[BaseFuture]) -> None:
    """Raise an error if one of the futures can't be retried: its client is closed, or the scheduler no longer knows it."""
    for future in futures:
        refuse_closed(future)
        if future.cancelled():
            raise TaskCancelled(f"{future.key} was cancelled and can't be retried; submit it again")
        if future._record.orphan or future._record.state is State.LOST:
            raise DataLost(f"{future.key} was released or lost and can't be retried; submit it again")


def refuse_unusable(futures: Iterable[BaseFuture]) -> None:
    """Raise an error if one of the futures can never have a value that a task could use."""
    for future in futures:
        refuse_closed(future)
        if future.cancelled():
            raise TaskCancelled(f"the argument {future.key} was cancelled and will never have a value")
        if future._record.orphan or future._record.state is State.LOST:
            raise DataLost(
                f"the argument {future.key} was released, or the scheduler restarted and no longer knows it; "
                "submit its task again, or pass its result()"
            )
