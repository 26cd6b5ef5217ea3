"""The blocking API for scripts: the same names as the Deferred API, each returning the value::

    from twistdist.blocking import Client
    with Client() as client:
        print(client.submit(pow, 2, 10).result())

A reactor of its own runs in a daemon thread, started by the first use and shared by all clients of the process; the global
reactor is neither used nor installed, so this works beside a running asyncio loop, in notebooks and in Twisted programs.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import importlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed, wait
from functools import partial
from typing import Any, TypeVar

from twistdist.config import as_secret, as_timeout
from twistdist.core.client import Record, State
from twistdist.errors import TwistdistError
from twistdist.executors import context
from twistdist.interfaces import Incident, WorkerInfo
from twistdist.net import client as net_client
from twistdist.net.bound import BoundToProcess
from twistdist.net.cluster import STOP_S
from twistdist.net.cluster import LocalCluster as _LocalCluster
from twistdist.net.futures import Bar, BaseFuture, Raw, unpack
from twistdist.net.options import NO_OPTIONS, TaskOptions, check_session, check_workers, several, split_options
from twistdist.net.shapes import as_shape, flatten, rebuild, replace
from twistdist.net.submits import Parent
from twistdist.net.timers import use_monotonic_time
from twistdist.net.tls import dialing_side
from twistdist.wire import messages as m
from twistdist.wire.failures import load_error

__all__ = ["Client", "Future", "LocalCluster", "as_completed", "current_client", "progress", "wait"]

#: Seconds that a task waits before it gives up its slot: less is over before another executor would have started.
PARK_AFTER_S = 0.002

T = TypeVar("T")


def _new_reactor() -> Any:
    """The best reactor of this platform, not installed as the global one."""
    for module, name in (("epollreactor", "EPollReactor"), ("kqreactor", "KQueueReactor")):
        try:
            return getattr(importlib.import_module(f"twisted.internet.{module}"), name)()
        except ImportError:
            continue
    return importlib.import_module("twisted.internet.selectreactor").SelectReactor()


class _Loop:
    """The reactor's thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.reactor = _new_reactor()
        self._callbacks: queue.SimpleQueue[tuple[Callable[[Any], Any], Any]] | None = None
        use_monotonic_time(self.reactor)
        started = threading.Event()
        self.reactor.callWhenRunning(started.set)
        self.thread = threading.Thread(
            target=self.reactor.run, kwargs={"installSignalHandlers": False}, name="twistdist", daemon=True
        )
        self.thread.start()
        started.wait()

    def call(self, function: Callable[[], Any], timeout: float | None = None) -> Any:
        """Run ``function`` in the reactor's thread and wait for its value, or for that of the Deferred it returns."""
        self.check()
        timeout = as_timeout(timeout)
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.reactor.callFromThread(self._run, function, outcome)
        done = threading.Event()
        outcome.add_done_callback(lambda _: done.set())
        if not _wait(done.wait, timeout):
            what = function.__qualname__.partition(".<locals>")[0].rpartition(".")[2]
            raise concurrent.futures.TimeoutError(f"{what} has not ended after {timeout:g} s")
        return outcome.result()

    @staticmethod
    def _run(function: Callable[[], Any], outcome: concurrent.futures.Future[Any]) -> None:
        from twisted.internet.defer import maybeDeferred

        maybeDeferred(function).addCallbacks(outcome.set_result, lambda failure: outcome.set_exception(failure.value))

    def check_process(self) -> None:
        """``TwistdistError`` after a fork: the thread is not there."""
        if os.getpid() != self.pid:
            raise TwistdistError("a client can't be used in a process forked after it was made; make another client there")

    def check(self) -> None:
        """``TwistdistError`` where blocking could never end: in the reactor's own thread, and after a fork."""
        self.check_process()
        if threading.current_thread() is self.thread:
            raise TwistdistError("a blocking call in the thread of the reactor would wait for itself")

    def call_back(self, function: Callable[[Any], Any], argument: Any) -> None:
        """Have ``function(argument)`` called in the thread of callbacks, where everything may block, in the order asked for."""
        if self._callbacks is None:
            self._callbacks = queue.SimpleQueue()
            threading.Thread(target=_run_callbacks, args=(self._callbacks,), name="twistdist-callbacks", daemon=True).start()
        self._callbacks.put((function, argument))


def _run_callbacks(waiting: queue.SimpleQueue[tuple[Callable[[Any], Any], Any]]) -> None:
    while True:
        try:
            _call_back(*waiting.get())
        except BaseException:  # one that exits does not end the thread, in which the others are called
            logging.getLogger("twistdist").exception("a callback tried to end its thread")


def _call_back(function: Callable[[Any], Any], argument: Any) -> None:
    try:
        function(argument)
    except Exception:  # concurrent.futures logs it and goes on too
        logging.getLogger("twistdist").exception("calling the callback %r of %r failed", function, argument)


def _wait(wait: Callable[[float | None], bool], timeout: float | None) -> bool:
    """``wait(timeout)``; in a task that takes longer than an instant its slot is given up meanwhile."""
    task = context.current()
    if task is None:
        return wait(timeout)
    if wait(PARK_AFTER_S if timeout is None else min(timeout, PARK_AFTER_S)):
        return True
    left = None if timeout is None else timeout - PARK_AFTER_S
    if left is not None and left <= 0:
        return False
    with task.parked():
        return wait(left)


class _ParkingEvent(threading.Event):
    """What ``concurrent.futures.wait`` and ``as_completed`` wait on, in a task."""

    def wait(self, timeout: float | None = None) -> bool:
        return _wait(super().wait, timeout)


_loop: _Loop | None = None
_loop_lock = threading.Lock()


def _get_loop() -> _Loop:
    global _loop
    with _loop_lock:
        if _loop is None or _loop.pid != os.getpid():
            _loop = _Loop()
        return _loop


class _Waiters(list[Any]):
    """Who waits for one future in ``concurrent.futures.wait`` or ``as_completed``; forgotten when the last has gone."""

    def __init__(self, session: _BlockingSession, future: Future) -> None:
        super().__init__()
        self._session, self.future = session, future
        self._told = future.done()

    def append(self, waiter: Any) -> None:
        if context.current() is not None and type(waiter.event) is threading.Event:
            waiter.event = _ParkingEvent()
        super().append(waiter)

    def tell(self) -> None:
        """The future has ended.  Each waiter hears it once, though the record may be told anew after a replay."""
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


class _BlockingSession(net_client.Client):
    """The Deferred API's client, with a condition on which other threads wait for records."""

    def __init__(
        self, reactor: Any, address: str, secret: bytes, parent: Parent | None = None, tls: Any = None, name: str = ""
    ) -> None:
        super().__init__(reactor, address, secret, parent, tls, name)
        self.loop = _get_loop()
        # One for all futures of the client: a condition of its own would cost each more than everything else of it.
        self.condition = threading.Condition()
        self.waiters: dict[int, _Waiters] = {}
        self.called_back: dict[int, list[tuple[Callable[[Future], Any], Future]]] = {}

    def _update(self, change: Callable[[], list[Record]]) -> None:
        """Change and tell in one hold of the lock: ``concurrent.futures`` counts on that when it installs its waiters."""
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
                            self.loop.call_back(function, future)
            self.condition.notify_all()
        self._call_back(changed)


class Future(BaseFuture, concurrent.futures.Future):  # type: ignore[type-arg]
    """A ``concurrent.futures.Future`` whose value lives on the cluster until it is asked for."""

    __slots__ = ()
    _client: _BlockingSession

    def __init__(self, client: _BlockingSession, record: Record, name: str) -> None:
        # The base class's own state is not made: the record is the state.
        self._client, self._record, self._name = client, record, name

    # What concurrent.futures looks at.

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        self._client.loop.check_process()
        return self._client.condition

    @property
    def _state(self) -> str:
        state = self._record.state
        if state is State.PENDING:
            return "PENDING"
        return "CANCELLED_AND_NOTIFIED" if state is State.CANCELLED else "FINISHED"

    @_state.setter
    def _state(self, state: str) -> None:
        raise concurrent.futures.InvalidStateError(f"{self.key} is set by the cluster; what sets futures makes its own")

    @property
    def _waiters(self) -> _Waiters:  # type: ignore[override]
        return self._client.waiters.setdefault(self._record.cid, _Waiters(self._client, self))

    # What a user calls.

    def _wait(self, timeout: float | None) -> Raw:
        """The bytes of the value, or the error, when the task has ended."""
        record, condition, loop = self._record, self._client.condition, self._client.loop
        timeout = as_timeout(timeout)
        if record.state is State.PENDING:
            loop.check()

            def ended(seconds: float | None) -> bool:
                with condition:
                    return condition.wait_for(lambda: record.state is not State.PENDING, seconds)

            if not _wait(ended, timeout):
                raise concurrent.futures.TimeoutError(f"{self.key} has not ended after {timeout:g} s")
        if record.value is not None:
            return record.value
        if record.error is not None:
            return record.error
        raws: list[Raw] = loop.call(lambda: self._client.collect([record]), timeout)
        return raws[0]

    def result(self, timeout: float | None = None) -> Any:
        """The value, when the task has ended; its exception is raised.  ``TimeoutError`` after ``timeout`` seconds."""
        return unpack(self._wait(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The task's exception, or None when it has a value."""
        raw = self._wait(timeout)
        return load_error(raw) if isinstance(raw, m.ErrorInfo) else None

    def traceback(self, timeout: float | None = None) -> str:
        """The remote traceback's text, "" when the task has a value."""
        raw = self._wait(timeout)
        return raw.traceback if isinstance(raw, m.ErrorInfo) else ""

    def cancel(self) -> bool:
        """Stop the task unless somebody else wants it; whether this future is cancelled now."""
        if not self.done():
            self._client.loop.call(lambda: self._client.cancel([self]))
        return self.cancelled()

    def running(self) -> bool:
        """False: the client does not know whether a pending task has been started."""
        return False

    def add_done_callback(self, fn: Callable[[Future], Any]) -> None:
        """Call ``fn(future)`` when the task has ended: at once, in this thread, when it has already, else in a thread for
        callbacks, in the order in which they were added.  All that blocks may be done there."""
        self._client.loop.check_process()
        with self._client.condition:
            if self._record.state is State.PENDING:
                self._client.called_back.setdefault(self._record.cid, []).append((fn, self))
                return
        _call_back(fn, self)

    def __repr__(self) -> str:
        return BaseFuture.__repr__(self)


class Client(BoundToProcess):
    """A blocking client.  Arguments as :func:`twistdist.connect`; a context manager.

    ``timeout`` in the methods is in seconds; ``TimeoutError`` when it is over.
    """

    _parent: Parent | None = None  # in a task's own client

    def __init__(
        self,
        address: str | LocalCluster | None = None,
        *,
        session: str | None = None,
        secret: str | bytes | None = None,
        tls: str | os.PathLike[str] | None = None,
        timeout: float | None = 30.0,
        **local: Any,
    ) -> None:
        self._cluster: LocalCluster | None = None
        self._keeps = address  # a cluster ends with the last reference to it
        timeout = as_timeout(timeout)
        found = net_client.find_scheduler(address, secret, tls, local)
        if found is None:
            self._cluster = LocalCluster(secret=secret, **local)
            found = net_client.find_scheduler(self._cluster, secret, tls, {})
            assert found is not None
        address, secret = found
        self._loop = _get_loop()
        parent = self._parent

        def opened() -> Any:
            return _BlockingSession(self._loop.reactor, where, the_secret, parent, certificates, name).open(timeout)

        try:
            name = check_session(session)
            the_secret, (where, certificates) = as_secret(secret), dialing_side(address, tls)
            self._session: _BlockingSession = self._loop.call(opened)
        except BaseException:
            self._end_cluster()
            raise

    def _end_cluster(self) -> None:
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    @property
    def address(self) -> str:
        """The scheduler's address."""
        return self._session.address

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _call(self, function: Callable[[], Any], timeout: float | None = None) -> Any:
        return self._loop.call(function, timeout)

    def _make(self, record: Record, name: str) -> Future:
        return Future(self._session, record, name)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        self._loop.check_process()
        options = split_options(kwargs, fn)
        future: Future = self._session.submit_records(fn, [args], kwargs, options, self._make, batch=False)[0]
        return future

    submit.__doc__ = net_client.Client.submit.__doc__

    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any], **kwargs: Any) -> list[Future]:
        """``submit`` for each tuple of ``zip(*iterables)``, in one message; options and ``kwargs`` hold for all of them.

        ``key`` is a list of keys, or text to which ``-0``, ``-1``, … are added.
        """
        self._loop.check_process()
        options = split_options(kwargs, fn)
        return self._session.submit_records(fn, zip(*iterables), kwargs, options, self._make, batch=True)  # noqa: B905

    def gather(self, futures: Any, errors: str = "raise", timeout: float | None = None) -> Any:
        """The values, in the same nesting of lists, tuples, sets and dicts; ``errors="skip"`` leaves out what failed."""
        futures = as_shape(futures)
        found = flatten(futures, errors)
        records = [future._record for future in found]
        raws: list[Raw] = self._call(lambda: self._session.collect(records, fail_fast=errors == "raise"), timeout)
        return rebuild(futures, dict(zip(map(id, found), raws, strict=True)), errors)

    def scatter(
        self,
        data: Any,
        *,
        replicas: int = 2,
        broadcast: bool = False,
        hash: bool = False,
        workers: Iterable[str] | None = None,
        resupply: bool = True,
        timeout: float | None = None,
    ) -> Any:
        """Put data on the cluster: a Future, or a list or dict of Futures; see :meth:`twistdist.Client.scatter`."""
        self._loop.check_process()
        shape, futures = self._session.scatter_records(data, replicas, broadcast, hash, workers, resupply, self._make)
        self._call(lambda: self._session.announced(futures), timeout)
        return shape

    def replicate(self, futures: Any, n: int, timeout: float | None = None) -> None:
        """Keep ``n`` copies of each value on different workers from now on."""
        found = flatten(futures)
        self._call(lambda: self._session.replicate(found, n), timeout)

    def rebalance(self, futures: Any = None, timeout: float | None = None) -> None:
        """Move values from workers that hold much to those that hold little."""
        found = None if futures is None else flatten(futures)
        self._call(lambda: self._session.rebalance(found), timeout)

    def retire_workers(self, names: Iterable[str] | str, timeout: float | None = None) -> None:
        """Have workers hand over what only they hold, and end; after ``timeout`` seconds with what is left."""
        chosen = check_workers(names)
        self._call(lambda: self._session.retire_workers(chosen, timeout))

    def fire_and_forget(self, futures: Any, timeout: float | None = None) -> None:
        """Have tasks run to their ends although their futures are dropped, and although this client leaves.

        ``futures`` is a future, or a nesting of futures in lists, tuples and dicts.  Their results are dropped
        when they end, unless somebody wants them then.  Returns when the scheduler has taken note.
        """
        found = flatten(futures)
        self._call(lambda: self._session.fire_and_forget(found), timeout)

    def cancel(self, futures: Any, timeout: float | None = None) -> None:
        """Stop tasks, running ones too, unless somebody else wants them."""
        found = flatten(futures)
        self._call(lambda: self._session.cancel(found), timeout)

    def workers(self, timeout: float | None = None) -> dict[str, WorkerInfo]:
        """Worker name -> :class:`~twistdist.interfaces.WorkerInfo`."""
        return self._call(self._session.workers, timeout)  # type: ignore[no-any-return]

    def wait_for_workers(self, n: int, timeout: float | None = None) -> None:
        """Return when ``n`` workers are connected; ``TimeoutError`` after ``timeout`` seconds."""
        self._call(lambda: self._session.wait_for_workers(n, timeout))

    def who_has(self, futures: Iterable[Any] | None = None, timeout: float | None = None) -> dict[str, list[str]]:
        """Key -> names of the workers that hold its value (none: it is small, and lives on the scheduler)."""
        found = None if futures is None else several(futures)
        return self._call(lambda: self._session.who_has(found), timeout)  # type: ignore[no-any-return]

    def has_what(self, workers: Iterable[str] | None = None, timeout: float | None = None) -> dict[str, list[str]]:
        """Worker name -> keys of the values that it holds."""
        chosen = check_workers(workers)
        return self._call(lambda: self._session.has_what(chosen), timeout)  # type: ignore[no-any-return]

    def why(self, future_or_key: Any, timeout: float | None = None) -> dict[str, Any] | None:
        """What the scheduler knows of one task: state, worker, inputs, crashes; None for an unknown key."""
        return self._call(lambda: self._session.why(future_or_key), timeout)  # type: ignore[no-any-return]

    def incidents(self, since: float | None = None, timeout: float | None = None) -> list[Incident]:
        """The faults seen (those of the last ``since`` seconds), oldest first."""
        return self._call(lambda: self._session.incidents(since), timeout)  # type: ignore[no-any-return]

    def status(self, timeout: float | None = None) -> dict[str, Any]:
        """The scheduler's counters, task states, workers and sessions."""
        return self._call(self._session.status, timeout)  # type: ignore[no-any-return]

    def clear(self, sessions: Iterable[str] = (), timeout: float | None = None) -> dict[str, int]:
        """Drop all data and tasks that no connected session and no durable one wants.

        Durable sessions named in ``sessions`` go too, with all that they keep; no client of theirs may be connected.  Returns
        ``{"sessions": …, "tasks": …}`` that went.  ``TwistdistError`` for a name that is unknown or in use, and then nothing is
        dropped.
        """
        names = several(sessions)
        return self._call(lambda: self._session.clear(names), timeout)  # type: ignore[no-any-return]

    def take_up(self, keys: list[str], timeout: float | None = None) -> list[Future | None]:
        """Futures of tasks by key, somebody else's too; None where no task has that key."""
        names = several(keys)
        found = self._call(lambda: self._session.take_up(names), timeout)
        return [None if future is None else self._adopt(future) for future in found]

    def _adopt(self, other: Any) -> Future:
        """A blocking future in the place of a Deferred one, which must not release the record when it goes."""
        future = Future(self._session, other._record, other._name)
        other._client = None
        return future

    def futures(self, timeout: float | None = None) -> dict[str, Future]:
        """Key -> Future: all that the durable session of this client has (``session=``), whichever process made it."""
        found = self._call(self._session.futures, timeout)
        return {key: self._adopt(future) for key, future in found.items()}

    def end_session(self, timeout: float | None = None) -> None:
        """Release all that the durable session has, for all its processes, and close this client."""
        self._call(self._session.end_session, timeout)
        self._end_cluster()

    def publish_dataset(self, name: str, futures: Any, timeout: float | None = None) -> None:
        """Keep ``futures``, in any nesting of lists, tuples, sets and dicts, under a name for all clients, until
        unpublished."""
        shape = as_shape(futures)
        self._call(lambda: self._session.publish_dataset(name, shape), timeout)

    def get_dataset(self, name: str, timeout: float | None = None) -> Any:
        """What was published: futures of this client in the nesting that they had."""
        return replace(self._call(lambda: self._session.get_dataset(name), timeout), BaseFuture, self._adopt)

    def list_datasets(self, timeout: float | None = None) -> list[str]:
        """The names that are published."""
        return self._call(self._session.list_datasets, timeout)  # type: ignore[no-any-return]

    def unpublish_dataset(self, name: str, timeout: float | None = None) -> None:
        """The name goes, and what only it kept."""
        self._call(lambda: self._session.unpublish_dataset(name), timeout)

    def executor(self, **options: Any) -> Executor:
        """A ``concurrent.futures.Executor`` on this client, all of whose tasks have these task options (see ``submit``)."""
        if options.get("key") is not None:
            raise TypeError("key names one task; an executor's options are for all of its tasks (pure=True makes keys)")
        chosen = split_options(options)
        if options:
            raise TypeError(f"{', '.join(options)}: no task options; an executor takes those of submit")
        return Executor(self, chosen)

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop the whole cluster, and this client."""
        self._call(self._session.shutdown, timeout)
        self._end_cluster()

    def leave(self, may_come_again: bool) -> None:
        """A task's own client at the task's end; when the task may be run again, what it has submitted stays as long."""
        self._call(lambda: self._session.drop() if may_come_again else self._session.close())

    def close(self) -> None:
        """Leave: everything that only this client wants is released; a cluster that came with the client ends."""
        if os.getpid() == self._loop.pid:
            self._call(self._session.close)
            self._end_cluster()


def current_client() -> Client:
    """The client of the running task, with which it can submit tasks and wait for them; it ends with the task.

    A task that waits gives up its slot meanwhile.  When the task is run again, what it submitted before is found and not
    computed again; so results stay until the task ends, or ``release()`` is called on their futures.  ``TwistdistError``
    outside of a task.
    """
    task = context.current()
    if task is None:
        raise TwistdistError("current_client() has a meaning only inside a task; elsewhere make a Client")
    with task.lock:
        if task.client is None:
            task.uses_client()
            kind = type("Client", (Client,), {"_parent": Parent(task.task, task.key)})
            task.client = kind(task.address, secret=task.secret, tls=task.tls or None)
    client: Client = task.client
    return client


class Executor(concurrent.futures.Executor):
    """The standard interface on a client; shutting it down leaves the client open."""

    def __init__(self, client: Client, options: TaskOptions = NO_OPTIONS) -> None:
        self._client, self._options = client, options
        self._futures: set[Future] = set()
        self._open = True
        self._max_workers = max(1, sum(worker.slots for worker in client.workers().values()))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run ``fn(*args, **kwargs)`` on the cluster: its Future, at once.  All keywords are the function's.

        ``RuntimeError`` after ``shutdown``.
        """
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return self._submit(fn, [args], kwargs)[0]

    def _submit(self, fn: Callable[..., Any], calls: Iterable[tuple[Any, ...]], kwargs: dict[str, Any]) -> list[Future]:
        """All keywords are the function's."""
        client = self._client
        client._loop.check_process()
        futures: list[Future] = client._session.submit_records(fn, calls, kwargs, self._options, client._make, batch=False)
        for future in futures:
            self._futures.add(future)
            client._session.call_when_done(future._record, partial(self._forget, future))
        return futures

    def _forget(self, future: Future, _: Record) -> None:
        self._futures.discard(future)

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1, **_: Any
    ) -> Iterator[Any]:
        """The values of ``fn`` for each tuple of ``zip(*iterables)``, in order; ``TimeoutError`` when one is not there within
        ``timeout`` seconds of the call.  Calls travel many at a time by themselves, so ``chunksize`` says nothing."""
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        bound = as_timeout(timeout)
        end = None if bound is None else time.monotonic() + bound
        return self._results(self._submit(fn, zip(*iterables), {}), end)  # noqa: B905

    def _results(self, futures: list[Future], end: float | None) -> Iterator[Any]:
        """Values in order, each future let go when its value is taken; whoever stops early wants no more of them."""
        futures.reverse()
        try:
            while futures:
                yield futures[-1].result(None if end is None else max(0.0, end - time.monotonic()))
                futures.pop()
        finally:
            if futures:
                self._client._session.cancel_records([future._record for future in futures], unstarted=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; return when those there are have ended, at once without ``wait``.

        With ``cancel_futures`` those that no worker has been given yet are cancelled.
        """
        self._open = False
        left: list[concurrent.futures.Future[Any]] = list(self._futures)
        if cancel_futures and left:  # those that run go on, as with every executor
            session = self._client._session
            self._client._call(lambda: session.cancel(left, unstarted=True))
        if wait:
            concurrent.futures.wait(left)


#: Those that were started and have not ended: they end with the process.
_clusters: set[_LocalCluster] = set()


@atexit.register
def _end_clusters() -> None:
    loop = _loop
    for service in list(_clusters) if loop is not None and loop.pid == os.getpid() else ():
        with contextlib.suppress(concurrent.futures.TimeoutError):  # its processes see that we are gone
            _get_loop().call(partial(_stop, service), STOP_S + 1.0)


def _stop(service: _LocalCluster) -> Any:
    return service.stopService().addBoth(lambda _: _clusters.discard(service))


class LocalCluster(BoundToProcess):
    """A scheduler and workers on this machine; options as for :class:`twistdist.LocalCluster`.

    It is there, with all its workers, when it is made.  It ends with ``close()``, with its ``with`` block, with the last
    reference to it, or with the script.
    """

    def __init__(self, n_workers: int | None = None, slots: int = 1, secret: str | bytes | None = None, **options: Any) -> None:
        self._loop = _get_loop()
        self._loop.check()
        self._service = _LocalCluster(self._loop.reactor, n_workers, slots, secret, **options)
        _clusters.add(self._service)
        try:
            self._loop.call(self._service.startService)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        service = getattr(self, "_service", None)
        if service in _clusters and self._loop.pid == os.getpid():
            self._loop.reactor.callFromThread(_stop, service)

    def close(self) -> None:
        """End all processes, and return when they are gone; nothing happens when they are."""
        if self._loop.pid == os.getpid():
            self._loop.call(partial(_stop, self._service))

    @property
    def address(self) -> str:
        """The scheduler's address."""
        return self._service.address

    @property
    def workers(self) -> dict[str, int]:
        """Each worker's name and the pid of its control process."""
        return self._loop.call(lambda: self._service.workers)  # type: ignore[no-any-return]

    @property
    def scheduler(self) -> int:
        """The scheduler's pid; 0 while there is none."""
        return self._loop.call(lambda: self._service.scheduler)  # type: ignore[no-any-return]

    def kill_worker(self, name: str, wipe: bool = False) -> None:
        """SIGKILL a worker's control process, for tests and demonstrations; ``wipe`` removes its store too.

        ``KeyError`` for an unknown name.
        """
        self._loop.call(lambda: self._service.kill_worker(name, wipe))

    def kill_scheduler(self) -> None:
        """SIGKILL the scheduler, for tests and demonstrations."""
        self._loop.call(self._service.kill_scheduler)

    def start_scheduler(self) -> None:
        """Start a scheduler that was killed again, on the same address."""
        self._loop.call(self._service.start_scheduler)

    def scale(self, n: int) -> None:
        """Have ``n`` workers."""
        self._loop.call(lambda: self._service.scale(n))


def progress(futures: Iterable[Future], label: str = "") -> None:
    """Show a bar until all futures have ended."""
    members = list(futures)
    bar = Bar(len(members), label)
    pending: set[Any] = set(members)
    while pending:
        pending = wait(pending, 0.1).not_done
        bar.show(len(members) - len(pending))
    bar.end()
