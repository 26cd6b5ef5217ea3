"""The blocking API for scripts: the same names as in the Deferred API, but each call returns the value::

    from twistdist.blocking import Client
    with Client() as client:
        print(client.submit(pow, 2, 10).result())

The API runs a reactor of its own in a daemon thread, which starts on first use and is shared by all clients of the process.  It
neither uses nor installs the global reactor, so it works beside a running asyncio loop, in notebooks and in Twisted programs.
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

from twistdist.config import as_secret, as_text, as_timeout
from twistdist.core.client import Record, State
from twistdist.display import Bar
from twistdist.errors import TwistdistError
from twistdist.executors import context
from twistdist.interfaces import Incident, Story, WorkerInfo
from twistdist.keywords import unknown_method
from twistdist.lineage import Lineage
from twistdist.net import client as net_client
from twistdist.net.bound import BoundToProcess
from twistdist.net.client_session import ClientSession
from twistdist.net.cluster import STOP_S
from twistdist.net.cluster import LocalCluster as _LocalCluster
from twistdist.net.futures import BaseFuture, Raw, unpack
from twistdist.net.options import (
    NO_OPTIONS,
    TaskOptions,
    beside_options,
    check_session,
    check_workers,
    run_on,
    say_where,
    several,
    split_options,
)
from twistdist.net.shapes import as_shape, flatten, rebuild, replace
from twistdist.net.submits import Parent
from twistdist.net.timers import use_monotonic_time
from twistdist.net.tls import dialing_side, is_endpoint
from twistdist.wire import messages as m
from twistdist.wire.failures import load_error

__all__ = ["Client", "Future", "LocalCluster", "as_completed", "current_client", "fire_and_forget", "progress", "wait"]

#: Seconds that a task waits before it gives up its slot.  A shorter wait ends before another executor could have started.
PARK_AFTER_S = 0.002

T = TypeVar("T")


def _new_reactor() -> Any:
    """Return the best reactor for this platform, without installing it as the global one."""
    for module, name in (("epollreactor", "EPollReactor"), ("kqreactor", "KQueueReactor")):
        try:
            return getattr(importlib.import_module(f"twisted.internet.{module}"), name)()
        except ImportError:
            continue
    return importlib.import_module("twisted.internet.selectreactor").SelectReactor()


class _Loop:
    """A reactor, and the thread in which it runs."""

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
        """Run ``function`` in the reactor's thread and return its value, or the value of the Deferred that it returns."""
        self.check()
        timeout = as_timeout(timeout)
        outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.reactor.callFromThread(self._run, function, outcome)
        done = threading.Event()
        outcome.add_done_callback(lambda _: done.set())
        if not _wait(done.wait, timeout):
            name = getattr(function, "__qualname__", "the call")  # a partial has none
            what = name.partition(".<locals>")[0].rpartition(".")[2]
            raise concurrent.futures.TimeoutError(f"{what}() did not finish within {timeout:g} s")
        return outcome.result()

    @staticmethod
    def _run(function: Callable[[], Any], outcome: concurrent.futures.Future[Any]) -> None:
        from twisted.internet.defer import maybeDeferred

        maybeDeferred(function).addCallbacks(outcome.set_result, lambda failure: outcome.set_exception(failure.value))

    def check_process(self) -> None:
        """Raise ``TwistdistError`` after a fork: the reactor's thread does not exist in the child."""
        if os.getpid() != self.pid:
            raise TwistdistError(
                "a client can't be used in a process that was forked after its creation; create another client there"
            )

    def check(self) -> None:
        """Raise ``TwistdistError`` where a blocking call could never return: in the reactor's thread, and after a fork."""
        self.check_process()
        if threading.current_thread() is self.thread:
            raise TwistdistError(
                "a blocking call in the reactor's thread would wait for itself forever; make it in another thread"
            )

    def call_back(self, function: Callable[[Any], Any], argument: Any) -> None:
        """Queue a call of ``function(argument)`` in the callback thread, where it may block.  Calls run in the order given."""
        if self._callbacks is None:
            self._callbacks = queue.SimpleQueue()
            threading.Thread(target=_run_callbacks, args=(self._callbacks,), name="twistdist-callbacks", daemon=True).start()
        self._callbacks.put((function, argument))


def _run_callbacks(waiting: queue.SimpleQueue[tuple[Callable[[Any], Any], Any]]) -> None:
    while True:
        try:
            _call_back(*waiting.get())
        except BaseException:  # SystemExit too: a callback must not end the thread that runs the others
            logging.getLogger("twistdist").exception("a callback of a future tried to exit")


def _call_back(function: Callable[[Any], Any], argument: Any) -> None:
    try:
        function(argument)
    except Exception:  # as in concurrent.futures: log it and continue
        logging.getLogger("twistdist").exception("the callback %r of %r failed", function, argument)


def _wait(wait: Callable[[float | None], bool], timeout: float | None) -> bool:
    """Return ``wait(timeout)``.  Inside a task, give up the slot while waiting, unless the wait is very short."""
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
    """The event on which ``concurrent.futures.wait`` and ``as_completed`` wait inside a task."""

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
    """The waiters of ``concurrent.futures.wait`` and ``as_completed`` for one future.  Dropped when the last one is removed."""

    def __init__(self, session: _BlockingSession, future: Future) -> None:
        super().__init__()
        self._session, self.future = session, future
        self._told = future.done()

    def append(self, waiter: Any) -> None:
        if context.current() is not None and type(waiter.event) is threading.Event:
            waiter.event = _ParkingEvent()
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


class _BlockingSession(net_client.Client):
    """The Deferred API's client, with a condition on which other threads wait for records."""

    def __init__(
        self, reactor: Any, address: str, secret: bytes, parent: Parent | None = None, tls: Any = None, name: str = ""
    ) -> None:
        ClientSession.__init__(self, reactor, address, secret, parent, tls, name)
        self.loop = _get_loop()
        # One condition for all futures of the client: one for each would cost more than the rest of the future.
        self.condition = threading.Condition()
        self.waiters: dict[int, _Waiters] = {}
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
                            self.loop.call_back(function, future)
            self.condition.notify_all()
        self._call_back(changed)


class Future(BaseFuture, concurrent.futures.Future):  # type: ignore[type-arg]
    """The future result of a task: a ``concurrent.futures.Future`` whose value stays on the cluster until it is fetched.

    Futures are created by a client.  They work with ``wait`` and ``as_completed`` of :mod:`concurrent.futures`.
    """

    __slots__ = ()
    _client: _BlockingSession

    def __init__(self, client: _BlockingSession, record: Record, name: str) -> None:
        # The base class's own state is not created: the record is the state.
        self._client, self._record, self._name = client, record, name

    # What concurrent.futures uses.

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
        raise concurrent.futures.InvalidStateError(
            f"{self.key} is set by the cluster; to set a result yourself, create a concurrent.futures.Future"
        )

    @property
    def _waiters(self) -> _Waiters:  # type: ignore[override]
        return self._client.waiters.setdefault(self._record.cid, _Waiters(self._client, self))

    # The public methods.

    def _wait(self, timeout: float | None) -> Raw:
        """Wait for the task and return the bytes of its value, or its error."""
        record, condition, loop = self._record, self._client.condition, self._client.loop
        timeout = as_timeout(timeout)
        if record.state is State.PENDING:
            loop.check()

            def ended(seconds: float | None) -> bool:
                with condition:
                    return condition.wait_for(lambda: record.state is not State.PENDING, seconds)

            if not _wait(ended, timeout):
                raise concurrent.futures.TimeoutError(f"{self.key} did not finish within {timeout:g} s")
        if record.value is not None:
            return record.value
        if record.error is not None:
            return record.error
        raws: list[Raw] = loop.call(lambda: self._client.collect([record]), timeout)
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
            self._client.loop.call(lambda: self._client.cancel([self]))
        return self.cancelled()

    def retry(self) -> None:
        """Run the task again if it has failed, and the failed tasks among its inputs.

        The method returns when the scheduler has confirmed it; the future is pending again then, or has ended anew, with all
        earlier retries and crashes forgiven.  Nothing happens if the task has not failed.

        Raises:
            TaskCancelled: The future was cancelled; submit the task again.
            DataLost: The future was released or lost; submit the task again.
        """
        self._client.loop.call(lambda: self._client.retry([self]))

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
        self._client.loop.check_process()
        with self._client.condition:
            if self._record.state is State.PENDING:
                self._client.called_back.setdefault(self._record.cid, []).append((fn, self))
                return
        _call_back(fn, self)

    def __repr__(self) -> str:
        return BaseFuture.__repr__(self)


class Client(BoundToProcess):
    """A blocking client of a scheduler.  It can be used from any thread, and as a context manager that closes it.

    The ``timeout`` argument of the methods is in seconds, or a ``timedelta``; None means no limit.  If a call takes longer, it
    raises ``concurrent.futures.TimeoutError``; what it has requested is still carried out.

    After ``close()``, and after a failure that ends the session, every request raises
    :class:`~twistdist.errors.ClientClosed`.  A request that is open when the scheduler restarts and no longer knows this
    session raises :class:`~twistdist.errors.TwistdistError`; make it again.  A blocking call in the reactor's thread, and a
    request in a process that was forked after the client was created, raise ``TwistdistError`` too.

    Args:
        address: The scheduler's address: ``host:port`` or ``tcp:host:port``, ``tls:host:port`` or ``unix:path``; several, with
            commas between them, for a scheduler with standbys; or a running ``LocalCluster``.  None: the address in the
            environment variable ``TWISTDIST_SCHEDULER`` if that is set, otherwise a new ``LocalCluster`` that ends with the
            client.
        session: The name of a durable session, a string of 1 to 200 characters.  The session's futures outlive this process,
            and a later client with the same session name finds them.
        secret: The shared secret, at least 16 bytes.  By default, the secret of the ``LocalCluster`` is used, or the secret
            file is read.
        tls: A directory of certificates made by ``twistdist certs``.  The default is the environment variable
            ``TWISTDIST_TLS``, unless the address begins with ``tcp:`` or ``unix:``.  With certificates, ``host:port`` means
            ``tls:host:port``.
        timeout: Seconds to wait for the scheduler, or a ``timedelta``; None: without limit.  The time in which a new
            ``LocalCluster`` starts does not count.
        **local: Options of the new ``LocalCluster``.

    Raises:
        SchedulerUnreachable: The scheduler does not answer within ``timeout`` seconds.
        AuthenticationError: The scheduler has another secret, or one side does not accept the other's certificate.
        VersionMismatch: The scheduler uses another version of the protocol.
        ConfigError: The address, the secret or the certificates are not usable.
        TypeError: An argument has the wrong type, or an option is unknown or does not apply to ``address``.
        ValueError: An argument is out of range.
        TwistdistError: The ``LocalCluster`` does not start or is not running.
    """

    _parent: Parent | None = None  # set in a task's own client

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
        if is_endpoint(address):
            raise TypeError(
                "an endpoint belongs to a reactor, and the blocking API has one of its own; give its description as text"
            )
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
        """The scheduler's address, as a Twisted endpoint description."""
        return self._session.address

    @property
    def dashboard_link(self) -> str:
        """What to open in a browser to see the scheduler's page; "" if it has none (``--http``)."""
        return self._session.dashboard_link

    def _repr_html_(self) -> str:
        """For notebooks."""
        return self._session._repr_html_()

    def __getattr__(self, name: str) -> Any:
        raise unknown_method(self, name)

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
        """Submit ``fn`` once for each tuple of ``zip(*iterables)``, in batches.

        This is faster than a loop over ``submit``: the function and the options are sent once.  It raises the same errors.

        Args:
            fn: The function to run.
            *iterables: The positional arguments; the shortest iterable determines the number of tasks.
            **kwargs: Task options and keyword arguments for ``fn``, as in :meth:`submit`, for all of the tasks.  ``key`` is an
                iterable of keys, one for each task, or a string to which ``-0``, ``-1``, … are appended.

        Returns:
            A list of Futures, in the order of the arguments.

        Raises:
            ValueError: The number of keys differs from the number of tasks.
        """
        self._loop.check_process()
        options = split_options(kwargs, fn)
        return self._session.submit_records(fn, zip(*iterables), kwargs, options, self._make, batch=True)  # noqa: B905

    def gather(self, futures: Any, errors: str = "raise", timeout: float | None = None) -> Any:
        """Collect the values of many futures.

        Args:
            futures: A future, or futures nested in lists, tuples, sets and dicts (as values), up to 100 levels deep.  Any other
                iterable is treated as a list.
            errors: ``"raise"``: fail as soon as one future has failed; ``"skip"``: leave out failed futures.
            timeout: Seconds to wait; see the class.

        Returns:
            The values, nested as the futures were.

        Raises:
            Exception: The exception of the first future that failed, with ``errors="raise"``.
            TimeoutError: Not all values are available after ``timeout`` seconds.
            TypeError: Something in ``futures`` is not a future.
            ValueError: ``errors`` is invalid, or ``futures`` is nested too deeply.
        """
        futures = as_shape(futures)
        found = flatten(futures, errors)
        records = [future._record for future in found]
        raws: list[Raw] = self._call(lambda: self._session.collect(records, fail_fast=errors == "raise"), timeout)
        return rebuild(futures, dict(zip(map(id, found), raws, strict=True)), errors)

    def get(self, dsk: Any, keys: Any, **options: Any) -> Any:
        """Compute keys of a dask graph; ``client.get`` is a scheduler for ``dask.compute(..., scheduler=client.get)``.

        Args:
            dsk: A dict from keys to task tuples, dask's task objects or literals; or a dask expression.
            keys: A key, or keys in nested lists.
            **options: Task options for every task of the graph.

        Returns:
            The values, nested as ``keys`` are.

        Raises:
            ImportError: dask is not installed.
            KeyError: A key is not in the graph.
            ValueError: The graph has a cycle, or an option is invalid.
        """
        from twistdist import dask

        results = dask.submit_graph(self.submit, dsk, keys, options)
        found = dask.futures_of(keys, results)
        values = self.gather(list(found.values()))
        return dask.in_shape(keys, {**results, **dict(zip(found, values, strict=True))})

    def compute(self, *collections: Any, optimize: bool = True, **options: Any) -> Any:
        """Start to compute dask collections on the cluster.

        Args:
            *collections: Arrays, bags, data frames, delayed values.
            optimize: Whether dask optimizes the graph first.
            **options: Task options for every task.

        Returns:
            A Future of the collection's value, or a tuple of Futures if there are several collections.

        Raises:
            ImportError: dask is not installed.
            TypeError: One of them is not a dask collection, or an option has the wrong type.
            ValueError: An option is out of range.
        """
        from twistdist import dask

        return dask.compute(self.submit, collections, optimize, options)

    def persist(self, *collections: Any, optimize: bool = True, **options: Any) -> Any:
        """Start to compute dask collections and leave their chunks on the cluster.

        Args:
            *collections: Arrays, bags, data frames, delayed values.
            optimize: Whether dask optimizes the graph first.
            **options: Task options for every task.

        Returns:
            The collection, or a tuple of collections, whose chunks are Futures.  Use them with this client's ``get``,
            ``compute`` or ``persist``.
        """
        from twistdist import dask

        return dask.persist(self.submit, collections, optimize, options)

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
        """Put data on the cluster and return when the copies exist.

        The client keeps the bytes in a file as long as anything on the cluster needs them, and sends them again if all copies
        are lost.

        Args:
            data: A picklable value, or a list, tuple, iterator or dict of values that become one future each.
            replicas: How many copies to make, on different workers, if there are that many; 1 to 10,000.
            broadcast: Keep a copy on every worker, including those that connect later.  ``replicas`` is then ignored.
            hash: Make the keys from the content, so that equal values are stored once.
            workers: The names of the workers that may hold the copies; by default any.
            resupply: Keep the bytes in order to send them again if all copies are lost.
            timeout: Seconds to wait; see the class.

        Returns:
            One Future, a list of Futures for a list, tuple or iterator, or a dict of Futures for a dict.

        Raises:
            TimeoutError: The copies do not exist after ``timeout`` seconds.
            SerializationError: A value can't be pickled.
            TypeError: An option has the wrong type.
            ValueError: An option is out of range.
            OSError: The client can't write the file that keeps the bytes.
            ClientClosed: The client is closed.
        """
        self._loop.check_process()
        shape, futures = self._session.scatter_records(data, replicas, broadcast, hash, workers, resupply, self._make)
        self._call(lambda: self._session.announced(futures), timeout)
        return shape

    def replicate(self, futures: Any, n: int, timeout: float | None = None) -> None:
        """Keep ``n`` copies of each value on different workers from now on, as workers connect and disappear.

        Returns when the copies that are possible now have been made.  Does not wait for tasks that have not ended; their
        results are copied later.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.
            n: The number of copies, 1 to 10,000.
            timeout: Seconds to wait; see the class.

        Raises:
            TypeError: Something in ``futures`` is not a future, or ``n`` is not an integer.
            ValueError: ``n`` is out of range.
        """
        found = flatten(futures)
        self._call(lambda: self._session.replicate(found, n), timeout)

    def rebalance(self, futures: Any = None, timeout: float | None = None) -> None:
        """Move values from workers that hold many bytes to workers that hold few.

        Args:
            futures: The futures whose values may be moved, nested as in :meth:`gather`; None: all values.
            timeout: Seconds to wait; see the class.

        Raises:
            TypeError: Something in ``futures`` is not a future.
        """
        found = None if futures is None else flatten(futures)
        self._call(lambda: self._session.rebalance(found), timeout)

    def retire_workers(self, names: Iterable[str] | str, timeout: float | None = None) -> None:
        """Shut workers down without losing results, and return when they are gone.

        The workers get no more work, finish the tasks that are running, hand over the values that only they hold, and exit.  If
        no other worker is left, running tasks are not waited for.

        Args:
            names: The name of a worker, or an iterable of names.
            timeout: Seconds, or a ``timedelta``, after which a worker exits even if it has not finished; running tasks then
                start again on other workers.  Default and maximum: one hour.

        Raises:
            TypeError: ``names`` or ``timeout`` has the wrong type.
            ValueError: ``timeout`` is negative, or no worker has one of the names; the other named workers leave all the same.
        """
        chosen = check_workers(names)
        self._call(lambda: self._session.retire_workers(chosen, timeout))

    def fire_and_forget(self, futures: Any, timeout: float | None = None) -> None:
        """Let tasks run to completion even if their futures are dropped or this client closes.

        Each result is dropped when its task ends, unless something needs it then.  Returns when the scheduler has confirmed the
        request.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.
            timeout: Seconds to wait; see the class.

        Raises:
            TypeError: Something in ``futures`` is not a future.
        """
        found = flatten(futures)
        self._call(lambda: self._session.fire_and_forget(found), timeout)

    def cancel(self, futures: Any, timeout: float | None = None) -> None:
        """Cancel futures and stop their tasks, even while they are running, unless another client or task needs them.

        This client's unfinished tasks that depend on them are cancelled too.  Tasks that have ended are not affected.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.
            timeout: Seconds to wait; see the class.

        Raises:
            TypeError: Something in ``futures`` is not a future.
        """
        found = flatten(futures)
        self._call(lambda: self._session.cancel(found), timeout)

    def retry(self, futures: Any, timeout: float | None = None) -> None:
        """Run failed tasks again, and the failed tasks among their inputs, at any depth.

        The futures are pending again, with all earlier retries and crashes forgiven.  Futures that have not failed are not
        affected.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.
            timeout: Seconds to wait; see the class.

        Raises:
            TypeError: Something in ``futures`` is not a future.
            TaskCancelled: One of the futures was cancelled; submit its task again.
            DataLost: One of the futures was released or lost; submit its task again.
        """
        found = flatten(futures)
        self._call(lambda: self._session.retry(found), timeout)

    def workers(self, timeout: float | None = None) -> dict[str, WorkerInfo]:
        """Return the state of all workers.

        Args:
            timeout: Seconds to wait; see the class.

        Returns:
            A dict of worker name to :class:`~twistdist.interfaces.WorkerInfo`.
        """
        return self._call(self._session.workers, timeout)  # type: ignore[no-any-return]

    def wait_for_workers(self, n: int, timeout: float | None = None) -> None:
        """Wait until at least ``n`` workers are connected.

        Args:
            n: The number of workers.
            timeout: Seconds to wait, or a ``timedelta``; None: without limit.

        Raises:
            TimeoutError: Fewer workers are connected after ``timeout`` seconds (the built-in ``TimeoutError``, also on Python
                3.10).
            TypeError: ``n`` is not an integer, or ``timeout`` is not a number.
            ValueError: ``n`` is negative.
        """
        self._call(lambda: self._session.wait_for_workers(n, timeout))

    def who_has(self, futures: Iterable[Any] | None = None, timeout: float | None = None) -> dict[str, list[str]]:
        """Return which workers hold which values.

        Args:
            futures: Futures or keys, in an iterable or a single one; None: all values on the cluster.
            timeout: Seconds to wait; see the class.

        Returns:
            A dict of key to the names of the workers that hold the value.  The list is empty for a small value, which is kept
            on the scheduler, and for a task without a value.  Unknown keys are left out.

        Raises:
            TypeError: ``futures`` holds something else.
        """
        found = None if futures is None else several(futures)
        return self._call(lambda: self._session.who_has(found), timeout)  # type: ignore[no-any-return]

    def has_what(self, workers: Iterable[str] | None = None, timeout: float | None = None) -> dict[str, list[str]]:
        """Return the keys of the values that each worker holds.

        Args:
            workers: The name of a worker, or an iterable of names; None: all workers.
            timeout: Seconds to wait; see the class.

        Returns:
            A dict of worker name to keys.  Unknown workers are left out.

        Raises:
            TypeError: ``workers`` holds something other than names.
        """
        chosen = check_workers(workers)
        return self._call(lambda: self._session.has_what(chosen), timeout)  # type: ignore[no-any-return]

    def why(self, future_or_key: Any, timeout: float | None = None) -> Story | None:
        """Return what became of one task, and why.

        Args:
            future_or_key: A future of this client, or the key of any task.
            timeout: Seconds to wait; see the class.

        Returns:
            A :class:`~twistdist.interfaces.Story`: ``print`` it.  None if the scheduler does not know the task.  Tasks that
            failed are remembered for a while after they are released.

        Raises:
            TypeError: ``future_or_key`` is neither a future nor a string.
        """
        return self._call(lambda: self._session.why(future_or_key), timeout)  # type: ignore[no-any-return]

    def run(
        self,
        fn: Callable[..., Any],
        /,
        *args: Any,
        workers: Iterable[str] | str | None = None,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Run ``fn(*args, **kwargs)`` once on each worker, in a process of its own beside the slots, and wait for the values.

        It starts at once, even if all slots are busy, and is not run again, whatever happens: this is for looking around, or
        for preparing workers, not for work.  Up to 16 such calls run on a worker at a time; more wait.

        Args:
            fn: The function to run.
            *args: Its positional arguments; Futures among them are replaced by their values.
            workers: The names of the workers to run on; None: all that are connected.
            timeout: Seconds to wait for each of the two steps; see the class.
            **kwargs: Its keyword arguments.

        Returns:
            A dict of worker name to value.

        Raises:
            Exception: The first exception that a worker raised; its ``__twistdist__.worker`` names the worker.
            TaskCrashed: The function ended its process.
            NoValidWorker: A worker was lost while it ran the function.
            ValueError: No worker has one of the names.
        """
        names = check_workers(workers)
        chosen = run_on(names, self.workers(timeout))
        futures = {
            name: self._session.submit_records(fn, [args], kwargs, beside_options(name), self._make, batch=False)[0]
            for name in chosen
        }
        try:
            values: dict[str, Any] = self.gather(futures, timeout=timeout)
        except Exception as error:
            say_where(error)
            raise
        return values

    def restart(self, timeout: float | None = None) -> None:
        """Drop all tasks and data of all clients, and give every worker fresh executor processes, also where one hangs.

        Every future of every client is cancelled with the reason; durable sessions and published datasets are emptied too.
        Sessions stay connected, and what is submitted afterwards runs as usual.

        Args:
            timeout: Seconds to wait for the workers, or a ``timedelta``; None: without limit.

        Raises:
            TimeoutError: The executors of some workers, which it names, are not ready after ``timeout`` seconds; everything has
                been dropped then, too.
        """
        self._call(lambda: self._session.restart(timeout))

    def upload_file(self, path: str | os.PathLike[str], timeout: float | None = None) -> None:
        """Make modules importable on all workers, also on those that join later.

        A newer version of the same name replaces it for tasks that start later; running tasks keep what they have imported.

        Args:
            path: A ``.py`` file, a ``.zip``, ``.whl`` or ``.egg``, or a folder, of at most 32 MiB (packed); 64 MiB for all
                uploads together.  A folder with an ``__init__.py`` is a package; of another folder, the contents become
                importable.
            timeout: Seconds to wait; see the class.

        Raises:
            OSError: The file can't be read.
            TwistdistError: A worker can't install it, or there is no room for it.
            ValueError: Nothing can be imported from it, or it is too large.
        """
        self._call(lambda: self._session.upload_file(path), timeout)

    def logs(
        self, workers: Iterable[str] | str | None = None, n: int = 100, timeout: float | None = None
    ) -> dict[str, list[str]]:
        """Return the last lines that workers have logged, and what their tasks have printed and logged.

        Args:
            workers: The names of the workers; None: all.
            n: The number of lines of each worker; at most 2,000 are kept.
            timeout: Seconds to wait; see the class.

        Returns:
            A dict of worker name to list of lines, oldest first.  Workers that do not answer within two seconds are left out.

        Raises:
            TypeError: ``n`` is not an integer.
            ValueError: ``n`` is less than 1.
            TwistdistError: No worker has one of the names.
        """
        return self._call(lambda: self._session.logs(workers, n), timeout)  # type: ignore[no-any-return]

    def lineage(self, futures: Any, timeout: float | None = None) -> Lineage:
        """Return the graph that a replay of some results would use.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.
            timeout: Seconds to wait; see the class.

        Returns:
            A :class:`~twistdist.lineage.Lineage`: its ``keys``, ``dot()`` and ``svg()``.

        Raises:
            TypeError: Something in ``futures`` is not a future.
            TwistdistError: The graph has more than 10,000 tasks.
        """
        found = flatten(futures)
        return self._call(lambda: self._session.lineage(found), timeout)  # type: ignore[no-any-return]

    def incidents(self, since: float | None = None, timeout: float | None = None) -> list[Incident]:
        """Return the faults that the scheduler has noticed, and what recovery cost.

        Args:
            since: Only faults of the last ``since`` seconds, or of a ``timedelta``; None: all that the scheduler remembers.
            timeout: Seconds to wait; see the class.

        Returns:
            A list of :class:`~twistdist.interfaces.Incident`, oldest first.

        Raises:
            TypeError: ``since`` is not a number.
            ValueError: ``since`` is negative.
        """
        return self._call(lambda: self._session.incidents(since), timeout)  # type: ignore[no-any-return]

    def status(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the scheduler's state.

        Args:
            timeout: Seconds to wait; see the class.

        Returns:
            A dict of counters, numbers of tasks by state, workers, sessions and datasets.
        """
        return self._call(self._session.status, timeout)  # type: ignore[no-any-return]

    def clear(self, sessions: Iterable[str] = (), timeout: float | None = None) -> dict[str, int]:
        """Drop all data and tasks that no connected client, durable session or published dataset needs.

        Args:
            sessions: Names of durable sessions to end as well, with everything they keep.  None of them may have a connected
                client.
            timeout: Seconds to wait; see the class.

        Returns:
            ``{"sessions": …, "tasks": …}``, the numbers of sessions and tasks that were dropped.

        Raises:
            TwistdistError: A name is unknown, or a client of that session is connected; nothing is dropped.
            TypeError: ``sessions`` holds something other than names.
        """
        names = several(sessions)
        return self._call(lambda: self._session.clear(names), timeout)  # type: ignore[no-any-return]

    def take_up(self, keys: list[str], timeout: float | None = None) -> list[Future | None]:
        """Get futures of existing tasks by key, including tasks of other clients.

        Args:
            keys: One key, or an iterable of keys.
            timeout: Seconds to wait; see the class.

        Returns:
            A list in the order of ``keys``.  Its items are Futures, or None if no task has that key.

        Raises:
            TypeError: ``keys`` holds something other than strings.
        """
        names = several(keys)
        found = self._call(lambda: self._session.take_up(names), timeout)
        return [None if future is None else self._adopt(future) for future in found]

    def _adopt(self, other: Any) -> Future:
        """Return a blocking future that replaces a Deferred API future, which then no longer releases the record."""
        future = Future(self._session, other._record, other._name)
        other._client = None
        return future

    def futures(self, timeout: float | None = None) -> dict[str, Future]:
        """Get futures of everything that this client's durable session (``session=``) holds.

        This includes tasks that were submitted by other processes of the session.  Without a durable session, these are the
        tasks that this client needs.

        Args:
            timeout: Seconds to wait; see the class.

        Returns:
            A dict of key to Future.
        """
        found = self._call(self._session.futures, timeout)
        return {key: self._adopt(future) for key, future in found.items()}

    def end_session(self, timeout: float | None = None) -> None:
        """End the durable session, release everything that it keeps, and close this client.

        Clients of the session in other processes stay connected and keep their own futures, without a durable session.

        Args:
            timeout: Seconds to wait; see the class.

        Raises:
            TwistdistError: This client has no durable session.
        """
        self._call(self._session.end_session, timeout)
        self._end_cluster()

    def publish_dataset(self, name: str, futures: Any, timeout: float | None = None) -> None:
        """Keep results under a name for all clients, until they are unpublished.

        Args:
            name: A string of 1 to 200 characters.
            futures: A future, or a nesting of futures as in :meth:`gather`.
            timeout: Seconds to wait; see the class.

        Raises:
            TwistdistError: The name is already in use.
            TypeError: ``name`` is not a string, or something in ``futures`` is not a future.
            ValueError: ``name`` is empty or too long.
            TaskCancelled: One of the futures was cancelled.
            DataLost: One of the futures was released or lost.
            SerializationError: The containers, or the keys of a dict, can't be pickled.
        """
        shape = as_shape(futures)
        self._call(lambda: self._session.publish_dataset(name, shape), timeout)

    def get_dataset(self, name: str, timeout: float | None = None) -> Any:
        """Get the futures that were published under a name.

        Args:
            name: The name of the dataset.
            timeout: Seconds to wait; see the class.

        Returns:
            Futures of this client, nested as they were published.

        Raises:
            TwistdistError: Nothing is published under the name.
            TypeError: ``name`` is not a string.
            ValueError: ``name`` is empty or too long.
        """
        return replace(self._call(lambda: self._session.get_dataset(name), timeout), BaseFuture, self._adopt)

    def list_datasets(self, timeout: float | None = None) -> list[str]:
        """Return the names of the published datasets.

        Args:
            timeout: Seconds to wait; see the class.

        Returns:
            A sorted list of names.
        """
        return self._call(self._session.list_datasets, timeout)  # type: ignore[no-any-return]

    def unpublish_dataset(self, name: str, timeout: float | None = None) -> None:
        """Remove a published name, and release the results that only it kept.

        Args:
            name: The name of the dataset.
            timeout: Seconds to wait; see the class.

        Raises:
            TwistdistError: Nothing is published under the name.
            TypeError: ``name`` is not a string.
            ValueError: ``name`` is empty or too long.
        """
        self._call(lambda: self._session.unpublish_dataset(name), timeout)

    def executor(self, **options: Any) -> Executor:
        """Return a ``concurrent.futures.Executor`` that submits its tasks through this client.

        Args:
            **options: Task options for all tasks of the executor, as in :meth:`submit`, except ``key``.

        Returns:
            The executor.  Shutting it down leaves this client open.

        Raises:
            TypeError: A keyword is not a task option, is ``key``, or has a value of the wrong type.
            ValueError: A task option is out of range.
        """
        if options.get("key") is not None:
            raise TypeError(
                "key names a single task, but an executor's options apply to all of its tasks; pure=True makes a key for each"
            )
        chosen = split_options(options)
        if options:
            raise TypeError(f"{', '.join(options)}: not a task option; executor() takes the task options of submit()")
        return Executor(self, chosen)

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop the whole cluster: all workers and the scheduler.  Then close this client.

        Returns when the scheduler has confirmed the request and this client is closed.  Does not wait for the processes to end,
        unless they belong to a ``LocalCluster`` that was started with this client.

        Args:
            timeout: Seconds to wait; see the class.
        """
        self._call(self._session.shutdown, timeout)
        self._end_cluster()

    def leave(self, may_come_again: bool) -> None:
        """Close a task's own client when the task ends.  If the task may run again, keep what it submitted for a while."""
        self._call(lambda: self._session.drop() if may_come_again else self._session.close())

    def close(self) -> None:
        """Close the client and release everything that only it needs.  A durable session keeps its futures.

        A ``LocalCluster`` that was started with this client is stopped.  Closing a closed client does nothing.
        """
        if os.getpid() == self._loop.pid:
            self._call(self._session.close)
            self._end_cluster()


def fire_and_forget(futures: Any) -> None:
    """Let tasks run to completion even if their futures are dropped or their clients close.

    Args:
        futures: A future, or a nesting of futures as in :meth:`Client.gather`.

    Raises:
        TypeError: Something in ``futures`` is not a future.
    """
    by_client: dict[_BlockingSession, list[Any]] = {}
    for future in flatten(futures):
        by_client.setdefault(future._client, []).append(future)
    for session, own in by_client.items():
        session.loop.call(partial(session.fire_and_forget, own))


def current_client() -> Client:
    """Return the client of the running task, with which the task can submit other tasks and wait for them.

    A task gives up its slot while it waits.  If the task is run again, it finds what it submitted before, and nothing is
    computed again.  For that reason, results stay on the cluster until the task ends or ``release()`` is called on their
    futures, even if the futures are dropped.

    Returns:
        A client that is closed when the task ends.  All calls in the same task return the same client.

    Raises:
        TwistdistError: Called outside a task.
    """
    task = context.current()
    if task is None:
        raise TwistdistError("current_client() works only inside a task; elsewhere, create a Client")
    with task.lock:
        if task.client is None:
            task.uses_client()
            kind = type("Client", (Client,), {"_parent": Parent(task.task, task.key)})
            task.client = kind(task.address, secret=task.secret, tls=task.tls or None)
    client: Client = task.client
    return client


class Executor(concurrent.futures.Executor):
    """A ``concurrent.futures.Executor`` whose calls run as tasks on the cluster.

    Created by :meth:`Client.executor`.  Shutting it down leaves the client open.
    """

    def __init__(self, client: Client, options: TaskOptions = NO_OPTIONS) -> None:
        self._client, self._options = client, options
        self._futures: set[Future] = set()
        self._open = True
        self._max_workers = max(1, sum(worker.slots for worker in client.workers().values()))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Submit ``fn(*args, **kwargs)`` to the cluster and return its Future immediately.

        It raises the same errors as :meth:`Client.submit`.

        Args:
            fn: The function to run.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.  None of them is taken for a task option.

        Returns:
            The Future of the call.

        Raises:
            RuntimeError: The executor was shut down.
        """
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return self._submit(fn, [args], kwargs)[0]

    def _submit(self, fn: Callable[..., Any], calls: Iterable[tuple[Any, ...]], kwargs: dict[str, Any]) -> list[Future]:
        """Submit one task for each of ``calls``.  All keywords in ``kwargs`` are passed to the function."""
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
        """Call ``fn`` on the cluster for each tuple of ``zip(*iterables)``.

        All calls are submitted immediately, with the same errors as in :meth:`Client.submit`.  If the iterator is closed early,
        the calls that no worker has been given yet are cancelled.

        Args:
            fn: The function to run.
            *iterables: The positional arguments; the shortest iterable determines the number of calls.
            timeout: Seconds from this call, or a ``timedelta``, within which each value must be available; None: without limit.
            chunksize: Ignored; calls are sent in batches anyway.
            **_: Ignored.

        Returns:
            An iterator of the values, in the order of the arguments.  It raises the exception of a call that failed, and
            ``TimeoutError`` if a value is not available in time.

        Raises:
            RuntimeError: The executor was shut down.
        """
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        bound = as_timeout(timeout)
        end = None if bound is None else time.monotonic() + bound
        return self._results(self._submit(fn, zip(*iterables), {}), end)  # noqa: B905

    def _results(self, futures: list[Future], end: float | None) -> Iterator[Any]:
        """Yield the values in order and drop each future afterwards.  Cancel the rest if the caller stops early."""
        futures.reverse()
        try:
            while futures:
                yield futures[-1].result(None if end is None else max(0.0, end - time.monotonic()))
                futures.pop()
        finally:
            if futures:
                self._client._session.cancel_records([future._record for future in futures], unstarted=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls.

        Args:
            wait: Return only when all submitted calls have ended.
            cancel_futures: Cancel the calls that no worker has been given yet.
        """
        self._open = False
        left: list[concurrent.futures.Future[Any]] = list(self._futures)
        if cancel_futures and left:  # running calls continue, as with every executor
            session = self._client._session
            self._client._call(lambda: session.cancel(left, unstarted=True))
        if wait:
            concurrent.futures.wait(left)


#: The clusters that were started and have not ended.  They are stopped when the process exits.
_clusters: set[_LocalCluster] = set()


@atexit.register
def _end_clusters() -> None:
    loop = _loop
    for service in list(_clusters) if loop is not None and loop.pid == os.getpid() else ():
        with contextlib.suppress(concurrent.futures.TimeoutError):  # its processes notice that this one is gone
            _get_loop().call(partial(_stop, service), STOP_S + 1.0)


def _stop(service: _LocalCluster) -> Any:
    return service.stopService().addBoth(lambda _: _clusters.discard(service))


class LocalCluster(BoundToProcess):
    """A scheduler and workers on this machine.

    The constructor returns when all workers are ready.  The cluster ends with ``close()``, at the end of its ``with`` block,
    when the last reference to it is dropped, or when the script ends.  A worker process that dies is restarted.

    Args:
        n_workers: The number of workers, 0 to 10,000; by default the number of CPUs that this process may use.
        slots: How many tasks each worker runs at a time, 1 to 4,096.
        secret: The shared secret, at least 16 bytes; by default it is read from the secret file.
        **options: ``memory_limit``, ``executor_memory_limit``, ``checkpoint_store``, ``journal``, ``suspect_after``,
            ``dead_after``, ``http``, ``resources``, ``secret_file``, ``store`` and ``spill``; see
            :class:`twistdist.LocalCluster`.

    Raises:
        TwistdistError: The scheduler or a worker does not start.
        ConfigError: A size or the secret is invalid, or ``suspect_after`` is not less than ``dead_after``.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
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
        """Stop all processes, remove their stores, and return when the processes are gone.

        Processes that have not ended after 10 seconds are killed.  Closing a closed cluster does nothing.
        """
        if self._loop.pid == os.getpid():
            self._loop.call(partial(_stop, self._service))

    @property
    def address(self) -> str:
        """The scheduler's address, as a Twisted endpoint description."""
        return self._service.address

    @property
    def workers(self) -> dict[str, int]:
        """A dict of the names of the running workers to the pids of their control processes."""
        return self._loop.call(lambda: self._service.workers)  # type: ignore[no-any-return]

    @property
    def scheduler(self) -> int:
        """The scheduler's pid; 0 while it is not running."""
        return self._loop.call(lambda: self._service.scheduler)  # type: ignore[no-any-return]

    @property
    def dashboard_link(self) -> str:
        """What to open in a browser to see the scheduler's state; "" without the option ``http``."""
        return self._service.dashboard_link

    def _repr_html_(self) -> str:
        """For notebooks."""
        return self._loop.call(self._service._repr_html_)  # type: ignore[no-any-return]

    def kill_worker(self, name: str, wipe: bool = False) -> None:
        """Kill a worker's control process with SIGKILL, for tests and demonstrations.  The worker is restarted.

        Args:
            name: The name of the worker.
            wipe: Also remove its store, as if its machine had been lost.

        Raises:
            KeyError: No running worker has this name.
        """
        self._loop.call(lambda: self._service.kill_worker(name, wipe))

    def kill_scheduler(self) -> None:
        """Kill the scheduler with SIGKILL, for tests and demonstrations.

        It is not restarted until :meth:`start_scheduler` is called.
        """
        self._loop.call(self._service.kill_scheduler)

    def start_scheduler(self) -> None:
        """Start a scheduler that was killed again, on the same address and journal.

        Nothing happens if it is running.  The method does not wait until the scheduler is ready.

        Raises:
            TwistdistError: The cluster has ended.
        """
        self._loop.call(self._service.start_scheduler)

    def scale(self, n: int) -> None:
        """Change the number of workers.

        New workers are started, or the youngest ones are told to leave; those hand over what only they hold first.  The method
        does not wait for either; see :meth:`Client.wait_for_workers`.

        Args:
            n: The number of workers, 0 to 10,000.

        Raises:
            TwistdistError: The cluster has ended.
            TypeError: ``n`` is not an integer.
            ValueError: ``n`` is out of range.
        """
        self._loop.call(lambda: self._service.scale(n))


def progress(futures: Iterable[Future], label: str = "") -> None:
    """Show a progress bar and return when all futures have ended.

    The bar is that of tqdm, if it is installed (``twistdist[progress]``), in a terminal or a notebook; otherwise a
    plain one in a terminal.  Elsewhere nothing is shown.

    Args:
        futures: An iterable of futures.
        label: Text in front of the bar.
    """
    members = list(futures)
    bar = Bar(len(members), as_text(label, "label"))
    pending: set[Any] = set(members)
    while pending:
        pending = wait(pending, 0.1).not_done
        bar.show(len(members) - len(pending))
    bar.end()
