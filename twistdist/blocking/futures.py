"""Futures on which threads wait, and the session that tells them."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

from twistdist.blocking.reactor_thread import call_back, get_reactor_thread
from twistdist.blocking.waiting import ParkingEvent, wait_parked
from twistdist.config import as_timeout
from twistdist.core.client import Record, State
from twistdist.executors import context
from twistdist.net import client as net_client
from twistdist.net.client_session import ClientSession
from twistdist.net.futures import BaseFuture, Raw, refuse_closed, unpack
from twistdist.net.submits import Parent
from twistdist.wire import messages as m
from twistdist.wire.failures import load_error


class Waiters(list[Any]):
    """The waiters of ``concurrent.futures.wait`` and ``as_completed`` for one future.  Dropped when the last one is removed."""

    def __init__(self, session: Session, future: Future) -> None:
        super().__init__()
        self._session, self.future = session, future
        self._told = future.done()

    def append(self, waiter: Any) -> None:
        if context.current() is not None and type(waiter.event) is threading.Event:
            waiter.event = ParkingEvent()
        super().append(waiter)

    def tell(self) -> None:
        """Notify the waiters that the future has ended: once, even if the record changes again after a replay."""
        if not self._told:
            self._told = True
            for waiter in self:
                self._tell_one(waiter)

    def _tell_one(self, waiter: Any) -> None:
        record, future = self.future._record, self.future
        if record.state is State.CANCELLED:
            waiter.add_cancelled(future)
        elif record.error is not None:
            waiter.add_exception(future)
        else:
            waiter.add_result(future)

    def remove(self, waiter: Any) -> None:
        super().remove(waiter)
        if not self:
            self._session.waiters.pop(self.future._record.cid, None)


class Session(net_client.Client):
    """The Deferred API's client, with a condition on which other threads wait for records."""

    def __init__(
        self,
        reactor: Any,
        address: str,
        secret: bytes,
        parent: Parent | None = None,
        tls: Any = None,
        name: str = "",
        tracing: bool = False,
    ) -> None:
        ClientSession.__init__(self, reactor, address, secret, parent, tls, name, tracing)
        self.thread = get_reactor_thread()
        # One condition for all futures of the client: one for each would cost more than the rest of the future.
        self.condition = threading.Condition()
        self.waiters: dict[int, Waiters] = {}
        self.called_back: dict[int, list[tuple[Callable[[Future], Any], Future]]] = {}

    def _update(self, change: Callable[[], list[Record]]) -> None:
        """Change records and notify waiters under one lock, as ``concurrent.futures`` expects when it installs its waiters."""
        with self.condition:
            changed = change()
            if self.waiters:
                for record in changed:
                    if record.cid in self.waiters:
                        self.waiters[record.cid].tell()
            if self.called_back:
                for record in changed:
                    if record.state is not State.PENDING:
                        for function, future in self.called_back.pop(record.cid, ()):
                            self.thread.call_back(function, future)
            self.condition.notify_all()
        self._call_back(changed)


class Future(BaseFuture, concurrent.futures.Future):  # type: ignore[type-arg]
    """The future result of a task: a ``concurrent.futures.Future`` whose value stays on the cluster until it is fetched.

    Futures are created by a client.  They work with ``wait`` and ``as_completed`` of :mod:`concurrent.futures`.
    """

    __slots__ = ()
    _client: Session

    def __init__(self, client: Session, record: Record, name: str) -> None:
        # The base class's own state is not created: the record is the state.
        self._client, self._record, self._name = client, record, name

    # What concurrent.futures uses.

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        self._client.thread.check_thread()
        return self._client.condition

    @property
    def _state(self) -> str:
        state = self._record.state
        if state is State.PENDING:
            return "PENDING"
        return "CANCELLED_AND_NOTIFIED" if state is State.CANCELLED else "FINISHED"

    @_state.setter
    def _state(self, state: str) -> None:
        raise concurrent.futures.InvalidStateError(
            f"{self.key} is set by the cluster; to set a result yourself, create a concurrent.futures.Future"
        )

    @property
    def _waiters(self) -> Waiters:  # type: ignore[override]
        return self._client.waiters.setdefault(self._record.cid, Waiters(self._client, self))

    # The public methods.

    def _wait(self, timeout: float | None) -> Raw:
        """Wait for the task and return the bytes of its value, or its error."""
        record, condition, thread = self._record, self._client.condition, self._client.thread
        timeout = as_timeout(timeout)
        if record.state is State.PENDING:
            thread.check()
            refuse_closed(self)

            def ended(seconds: float | None) -> bool:
                with condition:
                    return condition.wait_for(lambda: record.state is not State.PENDING, seconds)

            if not wait_parked(ended, timeout):
                lack = self._client.lack_of(record)
                raise concurrent.futures.TimeoutError(
                    f"{self.key} did not finish within {timeout:g} s" + (f": {lack}" if lack else "")
                )
        if record.value is not None:
            return record.value
        if record.error is not None:
            return record.error
        raws: list[Raw] = thread.call(lambda: self._client.collect([record]), timeout)
        return raws[0]

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the task and return its value.

        Args:
            timeout: Seconds to wait, or a ``timedelta``; None: without limit.

        Returns:
            The value.  If the task failed, its own exception is raised, whose ``__twistdist__`` attribute is a
            :class:`~twistdist.errors.TaskInfo`.

        Raises:
            TimeoutError: The task has not ended, or its value has not been fetched, after ``timeout`` seconds.
            TaskCancelled: The task was cancelled.
            DataLost: The value is lost, or the future was released.
            SerializationError: The value can't be unpickled in this process.
            ClientClosed: The client was closed before the value was fetched.
        """
        return unpack(self._wait(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the task and return its exception.

        Args:
            timeout: Seconds to wait, or a ``timedelta``; None: without limit.

        Returns:
            The exception, or None if the task has a value.  For a cancelled task, :class:`~twistdist.errors.TaskCancelled` is
            returned, not raised.

        Raises:
            TimeoutError: The task has not ended after ``timeout`` seconds.
        """
        raw = self._wait(timeout)
        return load_error(raw) if isinstance(raw, m.ErrorInfo) else None

    def traceback(self, timeout: float | None = None) -> str:
        """Wait for the task and return its remote traceback.

        Args:
            timeout: Seconds to wait, or a ``timedelta``; None: without limit.

        Returns:
            The traceback as text; ``""`` if the task has a value.

        Raises:
            TimeoutError: The task has not ended after ``timeout`` seconds.
        """
        raw = self._wait(timeout)
        return raw.traceback if isinstance(raw, m.ErrorInfo) else ""

    def cancel(self) -> bool:
        """Cancel the future and stop its task, even while it is running, unless another client or task needs it.

        This client's unfinished tasks that depend on the task are cancelled too.  The method returns when the scheduler has
        confirmed it.  Nothing happens if the task has ended.

        Returns:
            True if the future is cancelled now, False if the task had already ended in another way.
        """
        if not self.done():
            self._client.thread.call(lambda: self._client.cancel([self]))
        return self.cancelled()

    def retry(self) -> None:
        """Run the task again if it has failed, and the failed tasks among its inputs.

        The method returns when the scheduler has confirmed it; the future is pending again then, or has ended anew, with all
        earlier retries and crashes forgiven.  Nothing happens if the task has not failed.

        Raises:
            TaskCancelled: The future was cancelled; submit the task again.
            DataLost: The future was released or lost; submit the task again.
        """
        self._client.thread.call(lambda: self._client.retry([self]))

    def running(self) -> bool:
        """Return False: a client does not know whether a pending task is running."""
        return False

    def add_done_callback(self, fn: Callable[[Future], Any]) -> None:
        """Have ``fn(future)`` called when the task has ended.

        If the task has already ended, ``fn`` is called immediately, in the calling thread.  Otherwise it is called later in a
        thread for callbacks, in the order in which callbacks were added; it may block there.  Exceptions that ``fn`` raises
        are logged.

        Args:
            fn: A function that takes the future.
        """
        self._client.thread.check_thread()
        with self._client.condition:
            if self._record.state is State.PENDING:
                self._client.called_back.setdefault(self._record.cid, []).append((fn, self))
                return
        call_back(fn, self)

    def __repr__(self) -> str:
        return BaseFuture.__repr__(self)
