"""The blocking client, and what a task calls to get its own."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from twisted.internet.defer import gatherResults

from twistdist.blocking.cluster import LocalCluster
from twistdist.blocking.executor import Executor
from twistdist.blocking.futures import Future, Session
from twistdist.blocking.reactor_thread import get_reactor_thread, runs_here
from twistdist.blocking.recording import recorded
from twistdist.config import as_secret, as_timeout, as_truth
from twistdist.core.client import Record
from twistdist.errors import TwistdistError
from twistdist.executors import context
from twistdist.interfaces import Incident, Story, WorkerInfo
from twistdist.keywords import TASK_OPTIONS, unknown_keywords, unknown_method
from twistdist.lineage import Lineage
from twistdist.net import client as net_client
from twistdist.net.bound import BoundToProcess
from twistdist.net.client_session import CLOSE_S
from twistdist.net.futures import BaseFuture, Raw
from twistdist.net.options import (
    beside_options,
    check_name,
    check_session,
    check_workers,
    grouped,
    run_on,
    say_where,
    several,
    split_options,
)
from twistdist.net.shapes import as_shape, flatten, rebuild, replace
from twistdist.net.submits import Parent
from twistdist.net.tls import dialing_side, is_endpoint

#: The sessions of clients that were not closed.  They are closed when the process exits, so that their tasks free their slots.
_open: weakref.WeakSet[Session] = weakref.WeakSet()
_open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    if runs_here() and _open:
        closes = [partial(session.close, exiting=True) for session in _open]
        with contextlib.suppress(concurrent.futures.TimeoutError):  # their schedulers notice it later
            get_reactor_thread().call(lambda: gatherResults([close() for close in closes]), CLOSE_S + 1.0)


class Client(BoundToProcess):
    """A blocking client of a scheduler.  It can be used from any thread, and as a context manager that closes it.

    The ``timeout`` argument of the methods is in seconds, or a ``timedelta``; None means no limit.  If a call takes longer, it
    raises ``concurrent.futures.TimeoutError``.  After that, and after Ctrl-C, the client is as usable as before: what the call
    has ordered is still carried out, and values that it would have returned are dropped.

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
        tracing: Make a span of OpenTelemetry for each attempt of what this client submits, as a child of the span that is
            current when it is submitted (``pip install 'twistdist[otel]'``).
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
        tracing: bool = False,
        **local: Any,
    ) -> None:
        traced = as_truth(tracing, "tracing")
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
        address, secret, tls = found
        self._thread = get_reactor_thread()
        parent = self._parent

        def opened() -> Any:
            return Session(self._thread.reactor, where, the_secret, parent, certificates, name, traced).open(timeout)

        try:
            name = check_session(session)
            the_secret, (where, certificates) = as_secret(secret), dialing_side(address, tls)
            self._session: Session = self._thread.call(opened)
            _open.add(self._session)
            _open_clients.add(self)
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
        return self._thread.call(function, timeout)

    def _make(self, record: Record, name: str) -> Future:
        return Future(self._session, record, name)

    def group(self, name: str) -> contextlib.AbstractContextManager[None]:
        return grouped(check_name("group", name))

    group.__doc__ = net_client.Client.group.__doc__

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        self._thread.check_thread()
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
        self._thread.check_thread()
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
        from twistdist.net import dask_graphs

        results = dask_graphs.submit_graph(self.submit, dsk, keys, options)
        found = dask_graphs.futures_of(keys, results)
        values = self.gather(list(found.values()))
        return dask_graphs.in_shape(keys, {**results, **dict(zip(found, values, strict=True))})

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
        from twistdist.net import dask_graphs

        return dask_graphs.compute(self.submit, collections, optimize, options)

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
        from twistdist.net import dask_graphs

        return dask_graphs.persist(self.submit, collections, optimize, options)

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
        self._thread.check_thread()
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

    def register_plugin(self, plugin: Any, name: str | None = None, timeout: float | None = None) -> str:
        """Have every executor process set up ``plugin`` before its first task: on all workers, also on those that join later.

        The plugin is first tried out on each connected worker, in a process of its own: set up and torn down.  If that works
        everywhere, the plugin is kept, in the journal too, and tasks that start from now on run in processes that have set it
        up.  Running tasks are not interrupted.

        Args:
            plugin: An object with a method ``setup(worker)``, ``teardown(worker)`` or both; they may be coroutine functions.
                ``worker`` has the attributes ``name``, ``address`` (the scheduler's) and ``number`` (of the executor).
                ``teardown`` is called when the process ends in an orderly way, and has three seconds.
            name: A name for the plugin; a newer plugin of the same name replaces it.  By default, the plugin's attribute
                ``name``, or the name of its class.
            timeout: Seconds to wait; see the class.

        Returns:
            The plugin's name.

        Raises:
            Exception: The first exception that ``setup`` or ``teardown`` raised on a worker, which its
                ``__twistdist__.worker`` names; the plugin is not kept.
            SerializationError: The plugin can't be pickled, or is larger than 16 MiB.
            TypeError: It has neither method.
            ValueError: The name is empty, or longer than 200 characters.
        """
        return self._call(lambda: self._session.register_plugin(plugin, name), timeout)  # type: ignore[no-any-return]

    def unregister_plugin(self, name: str, timeout: float | None = None) -> None:
        """Have executors no longer set up a plugin; those that have are replaced as soon as they are idle, and tear it down.

        Args:
            name: The name of the plugin.
            timeout: Seconds to wait; see the class.

        Raises:
            TwistdistError: No plugin has the name.
            TypeError: ``name`` is not a string.
            ValueError: The name is empty, or longer than 200 characters.
        """
        self._call(lambda: self._session.unregister_plugin(name), timeout)

    def logs(
        self, workers: Iterable[str] | str | None = None, n: int = 100, timeout: float | None = None
    ) -> dict[str, list[str]]:
        """Return the last lines that workers have logged, and what their tasks have printed and logged.

        What a task has printed begins with its key, attempt and worker.

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

    def report(self, path: str | os.PathLike[str], timeout: float | None = None) -> str:
        """Write a report of what the scheduler remembers: one HTML file that opens in a browser, without a network.

        It has the timeline, incidents and their stories, the cost of each function and group, and the workers.  The file has
        keys, names, addresses and the texts of errors in it, but no arguments and no values.

        Args:
            path: Where to write it.  A file that exists is replaced.
            timeout: Seconds to wait; see the class.

        Returns:
            The absolute path of the file.

        Raises:
            TypeError: ``path`` is not a path.
            ValueError: ``path`` is empty, or no file can have that name.
            OSError: The file can't be written.
        """
        return self._call(lambda: self._session.report(path), timeout)  # type: ignore[no-any-return]

    def recording(self, path: str | os.PathLike[str]) -> contextlib.AbstractContextManager[None]:
        """Return a context manager that writes a report of what the cluster does while its block runs.

        The report is like that of :meth:`report`, of the block alone, and may have more in it than the scheduler remembers.  It
        is written when the block ends, also with an error, and has what came before and after a restart of the scheduler.

        Args:
            path: Where to write it.  A file that exists is replaced.

        Raises:
            TypeError: ``path`` is not a path.
            ValueError: ``path`` is empty, or no file can have that name.
            OSError: No file can be made there; or, at the end of the block, it can't be written.  An error that ended the block
                is raised instead, and a ``RuntimeWarning`` says why there is no file.
        """
        return recorded(self._thread, self._session.recording(path))

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
            raise unknown_keywords("executor()", options, [name for name in TASK_OPTIONS if name != "key"])
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
        if self._thread.runs():
            _open.discard(self._session)
            _open_clients.discard(self)
            self._call(self._session.close)
            self._end_cluster()


def default_client(client: Client | None) -> Client:
    """Return ``client``, or the running task's own, or the only open client of this process.

    Raises:
        TypeError: ``client`` is something else.
        TwistdistError: No client is open, or several are.
    """
    if client is not None:
        if not isinstance(client, Client):
            raise TypeError(f"client must be a twistdist.blocking.Client, got {type(client).__name__}")
        return client
    if context.current() is not None:
        return current_client()
    found = [one for one in _open_clients if one._thread.runs() and not one._session.why_closed()]
    if len(found) != 1:
        raise TwistdistError(f"{len(found) or 'no'} clients are open in this process; name the client that is meant: client=…")
    return found[0]


def fire_and_forget(futures: Any) -> None:
    """Let tasks run to completion even if their futures are dropped or their clients close.

    Args:
        futures: A future, or a nesting of futures as in :meth:`Client.gather`.

    Raises:
        TypeError: Something in ``futures`` is not a future.
    """
    by_client: dict[Session, list[Any]] = {}
    for future in flatten(futures):
        by_client.setdefault(future._client, []).append(future)
    for session, own in by_client.items():
        session.thread.call(partial(session.fire_and_forget, own))


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
            kind = type("Client", (Client,), {"_parent": Parent(task.task, task.key, task.attempt, task.trace)})
            task.client = kind(task.address, secret=task.secret, tls=task.tls or None)
    client: Client = task.client
    return client
