"""The Deferred API: ``connect`` and :class:`Client`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from twistdist.config import DEFAULT_PORT, as_seconds, as_secret, as_text, as_timeout, as_truth, as_whole_number
from twistdist.core.client import Record
from twistdist.errors import NoValidWorker, SerializationError, TwistdistError, said, shown
from twistdist.executors.preparing import try_out
from twistdist.interfaces import Incident, Story, WorkerInfo
from twistdist.keywords import unknown_keywords, unknown_method
from twistdist.lineage import Lineage
from twistdist.net.bound import BoundToProcess
from twistdist.net.client_session import ClientSession
from twistdist.net.futures import BaseFuture, Future, Raw, as_failure, refuse_retry, refuse_unusable, unpack
from twistdist.net.options import (
    beside_options,
    check_encodable,
    check_name,
    check_replicas,
    check_session,
    check_workers,
    grouped,
    run_on,
    say_where,
    several,
    split_options,
)
from twistdist.net.plugins import dump_plugin
from twistdist.net.shapes import Place, as_shape, flatten, rebuild, replace
from twistdist.net.submits import Parent
from twistdist.net.tls import dialing_side, is_endpoint
from twistdist.storage.uploads import read_upload
from twistdist.web import recording
from twistdist.wire.messages import PLUGIN
from twistdist.wire.payload import dump_value

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls


#: Attributes of a session: a service has them when it is started.
_OF_SESSION = ("_core", "_orders", "_submits", "_results", "_dialing", "_queries", "_error", "_secret", "_closing", "_cluster")

#: Seconds that workers have to send lines of their logs.
LOGS_S = 2.0

#: Seconds between two questions whether all workers have answered.
ASK_AGAIN_S = 0.02


class Client(BoundToProcess, Service, ClientSession):
    """A client of a scheduler, with one session: what :func:`connect` gives, or a service of a Twisted application.

    As a service it connects when it is started, for as long as that takes, and closes when it is stopped::

        client = twistdist.Client(reactor, "tcp:127.0.0.1:8786", session="nightly")
        client.setServiceParent(application)

    Orders such as ``submit`` and ``cancel`` may be given from any thread; they are carried out in the reactor's thread soon
    afterwards, those that were given before there is a connection when there is one.  Everything else must be called in the
    reactor's thread.

    After ``close()``, and after a failure that ends the session, every request fails with
    :class:`~twistdist.errors.ClientClosed`.  A request that is open when the scheduler restarts and no longer knows this
    session fails with :class:`~twistdist.errors.TwistdistError`; make it again.

    Args:
        reactor: The Twisted reactor to use.
        address: The scheduler's address, as for :func:`connect`; a ``LocalCluster`` must be started before this service.
        session: The name of a durable session, a string of 1 to 200 characters.
        secret: The shared secret; by default, that of the ``LocalCluster``, or that in the secret file.
        tls: A directory of certificates, as for :func:`connect`.
        tracing: As for :func:`connect`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``session`` is empty or too long.
    """

    def __init__(
        self,
        reactor: Any = None,
        address: Any = None,
        *,
        session: str | None = None,
        secret: str | bytes | None = None,
        tls: str | os.PathLike[str] | None = None,
        tracing: bool = False,
        **unknown: Any,
    ) -> None:
        if unknown or not hasattr(reactor, "callLater"):
            raise TypeError(
                "twistdist.Client(reactor, address) is a service of a Twisted application; in a script, use "
                "twistdist.blocking.Client(address), or the Deferred from twistdist.connect(reactor, address)"
            )
        self.reactor = reactor
        self._place = address, secret, tls, check_session(session), as_truth(tracing, "tracing")

    @classmethod
    def for_session(
        cls,
        reactor: Any,
        address: Any,
        secret: bytes,
        parent: Parent | None = None,
        tls: Tls | None = None,
        name: str = "",
        tracing: bool = False,
    ) -> Any:
        """Return a client that is not connected yet, for checked arguments."""
        client = cls.__new__(cls)
        ClientSession.__init__(client, reactor, address, secret, parent, tls, name, tracing)
        return client

    def startService(self) -> Deferred[Client]:
        """Connect, unless this client is connected already.

        Returns:
            A Deferred that fires with this client when it is connected.  It fails as that of :func:`connect` does, but never
            because time is over.

        Raises:
            ConfigError: The address, the secret or the certificates are not usable.
            TwistdistError: The client was closed, or the ``LocalCluster`` was not started.
        """
        if not self.made:
            address, secret, tls, name, traced = self._place
            found = find_scheduler(address, secret, tls, {})
            if found is None:
                raise TypeError("give the scheduler's address, or set TWISTDIST_SCHEDULER")
            full, certificates = dialing_side(found[0], found[2])
            ClientSession.__init__(self, self.reactor, full, as_secret(found[1]), tls=certificates, name=name, tracing=traced)
            super().startService()  # type: ignore[no-untyped-call]
            return self.open(None)
        closed = self.why_closed()
        if closed:
            raise TwistdistError(f"{closed}; create another client")
        super().startService()  # type: ignore[no-untyped-call]
        return succeed(self)

    def stopService(self) -> Deferred[None]:
        """Close this client.

        Returns:
            A Deferred that fires with None when it is closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return self.close() if self.made else succeed(None)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the scheduler now."""
        return self.made and self._core.dialer.connected

    @property
    def made(self) -> bool:
        """Whether there is a session: before that, a service can't be used."""
        return "_core" in vars(self)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_SESSION:
            raise TwistdistError("this client was not started: call startService(), or give it a parent that is started")
        raise unknown_method(self, name)

    def _make(self, record: Record, name: str) -> Future:
        return Future(self, record, name)

    def group(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Return a context manager: what is submitted within the block, by this thread or coroutine, belongs to the group.

        The scheduler's page has a progress bar for each group, and ``/metrics`` a sum.  ``submit(group=…)`` names another one.

        Args:
            name: A string of 1 to 200 characters.

        Raises:
            TypeError: ``name`` is not a string.
            ValueError: it is empty or too long.
        """
        return grouped(check_name("group", name))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Submit ``fn(*args, **kwargs)`` to the cluster and return its Future immediately.

        Futures anywhere inside the arguments become inputs of the task: it runs when all of them have values, and receives the
        values.  The following keywords are task options and are not passed to ``fn``.  If ``fn`` has a parameter of the same
        name, pass that with ``functools.partial``.

        - ``key`` (default: generated): the task's key, a string of 1 to 1,000 characters that does not end with ``-``.
          Submitting the same key with the same function and arguments again gives the same task.  With a different function or
          different arguments, ``future.result()`` raises ``KeyConflict``.
        - ``replace`` (default: False): assign ``key`` to this task even if another task has it.
        - ``pure`` (default: False): make the key from the function and its arguments, so that equal calls share one result.
        - ``retries`` (default: 0): how many times the task is run again after ``fn`` has raised an exception.
        - ``crash_limit`` (default: 3): how many executor processes may die under the task.  The last of these deaths fails it
          with ``TaskCrashed``.
        - ``time_limit`` (default: None, unlimited): how long the task may run, in seconds or as a ``timedelta``.  After that it
          is stopped and fails with ``TimeLimitExceeded``.
        - ``priority`` (default: 0): an integer; tasks with a larger one run earlier.
        - ``workers`` (default: None, any worker): the name of the worker that may run the task, or an iterable of names.
        - ``allow_other_workers`` (default: False): treat ``workers`` as a preference.  Other workers get the task only while
          none of the named ones is connected and has a free slot.
        - ``resources`` (default: None): the amounts that a worker must have free, as in ``{"GPU": 1}``.  A worker declares its
          resources with ``--resources``.
        - ``replay`` (default: ``"always"``): what to do if the result is lost.  ``"always"``: compute it again.  ``"verify"``:
          compute it again, and fail with ``NonDeterministicReplay`` if the new value differs.  ``"never"``: do not compute it
          again; the task counts as finished only when two workers, or the checkpoint store, have the result.
        - ``replicas`` (default: 1): how many copies of the result to keep, on different workers; 1 to 10,000.
        - ``checkpoint`` (default: False): also write the result to the checkpoint store (``--checkpoint-store``), where it
          survives the loss of every worker.
        - ``group`` (default: None): a name under which the page and the metrics sum up this task with others; see
          :meth:`group`.

        Args:
            fn: The function to run.  It must be picklable (``cloudpickle`` is used where needed).
            *args: Its positional arguments, picklable.
            **kwargs: Task options, and keyword arguments for ``fn``.

        Returns:
            The task's Future.  An error of the task itself is raised by ``future.result()``, not here.

        Raises:
            SerializationError: The function or an argument can't be pickled, or the arguments are too large to be sent with the
                task.
            TypeError: A task option has the wrong type, or is an option of another framework that ``fn`` does not accept.
            ValueError: A task option is out of range or conflicts with another option.
            TaskCancelled: An argument is a Future that was cancelled.
            DataLost: An argument is a Future that was released or lost.
            StoreError: There is no room for the file that keeps a large argument.
            ClientClosed: The client is closed.
            TwistdistError: An argument is a Future of another client.
        """
        options = split_options(kwargs, fn)
        future: Future = self.submit_records(fn, [args], kwargs, options, self._make, batch=False)[0]
        return future

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
        options = split_options(kwargs, fn)
        return self.submit_records(fn, zip(*iterables), kwargs, options, self._make, batch=True)  # noqa: B905

    def gather(self, futures: Any, errors: str = "raise") -> Deferred[Any]:
        """Collect the values of many futures.

        Args:
            futures: A future, or futures nested in lists, tuples, sets and dicts (as values), up to 100 levels deep.  Any other
                iterable is treated as a list.
            errors: ``"raise"``: fail as soon as one future has failed; ``"skip"``: leave out failed futures.

        Returns:
            A Deferred that fires with the values, nested as the futures were.  With ``"raise"`` it fails with the exception of
            the first future that failed.

        Raises:
            TypeError: Something in ``futures`` is not a future.
            ValueError: ``errors`` is invalid, or ``futures`` is nested too deeply.
        """
        futures = as_shape(futures)
        found = flatten(futures, errors)

        def load(raws: list[Raw]) -> Any:
            try:
                return rebuild(futures, dict(zip(map(id, found), raws, strict=True)), errors)
            except BaseException as error:
                return as_failure(error)

        return self.collect([future._record for future in found], fail_fast=errors == "raise").addCallback(load)

    def get(self, dsk: Any, keys: Any, **options: Any) -> Deferred[Any]:
        """Compute keys of a dask graph.

        Args:
            dsk: A dict from keys to task tuples, dask's task objects or literals; or a dask expression.
            keys: A key, or keys in nested lists.
            **options: Task options for every task of the graph.

        Returns:
            A Deferred that fires with the values, nested as ``keys`` are.

        Raises:
            ImportError: dask is not installed.
            KeyError: A key is not in the graph.
            ValueError: The graph has a cycle, or an option is invalid.
        """
        from twistdist.net import dask_graphs

        results = dask_graphs.submit_graph(self.submit, dsk, keys, options)
        found = dask_graphs.futures_of(keys, results)
        gathered = self.gather(list(found.values()))
        return gathered.addCallback(
            lambda values: dask_graphs.in_shape(keys, {**results, **dict(zip(found, values, strict=True))})
        )

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
    ) -> Deferred[Any]:
        """Put data on the cluster.

        The client keeps the bytes in a file as long as anything on the cluster needs them, and sends them again if all copies
        are lost.

        Args:
            data: A picklable value, or a list, tuple, iterator or dict of values that become one future each.
            replicas: How many copies to make, on different workers, if there are that many; 1 to 10,000.
            broadcast: Keep a copy on every worker, including those that connect later.  ``replicas`` is then ignored.
            hash: Make the keys from the content, so that equal values are stored once.
            workers: The names of the workers that may hold the copies; by default any.
            resupply: Keep the bytes in order to send them again if all copies are lost.

        Returns:
            A Deferred that fires when the copies exist, with one Future, with a list of Futures for a list, tuple or iterator,
            or with a dict of Futures for a dict.

        Raises:
            SerializationError: A value can't be pickled.
            TypeError: An option has the wrong type.
            ValueError: An option is out of range.
            OSError: The client can't write the file that keeps the bytes.
            ClientClosed: The client is closed.
        """
        shape, futures = self.scatter_records(data, replicas, broadcast, hash, workers, resupply, self._make)
        return self.announced(futures).addCallback(lambda _: shape)

    def replicate(self, futures: Any, n: int) -> Deferred[None]:
        """Keep ``n`` copies of each value on different workers from now on, as workers connect and disappear.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.
            n: The number of copies, 1 to 10,000.

        Returns:
            A Deferred that fires with None when the copies that are possible now have been made.  It does not wait for tasks
            that have not ended; their results are copied later.

        Raises:
            TypeError: Something in ``futures`` is not a future, or ``n`` is not an integer.
            ValueError: ``n`` is out of range.
        """
        copies = check_replicas(n, "n")
        cids = [future._record.cid for future in flatten(futures, "raise")]
        return Deferred.fromCoroutine(self._copy("replicate", [copies, *cids], cids))

    def rebalance(self, futures: Any = None) -> Deferred[None]:
        """Move values from workers that hold many bytes to workers that hold few.

        Args:
            futures: The futures whose values may be moved, nested as in :meth:`gather`; None: all values.

        Returns:
            A Deferred that fires with None when the moves are finished.

        Raises:
            TypeError: Something in ``futures`` is not a future.
        """
        cids = [] if futures is None else [future._record.cid for future in flatten(futures, "raise")]
        return Deferred.fromCoroutine(self._copy("rebalance", cids, cids))

    async def _copy(self, what: str, args: list[int], cids: list[int]) -> None:
        """Give the order, and wait until no copies of these futures' values are being made."""
        await self._query(what, *args)
        while await self._query("copying", *cids):
            await self._pause()

    def _pause(self) -> Deferred[None]:
        """Wait before the scheduler is asked again."""
        return deferLater(self.reactor, ASK_AGAIN_S, lambda: None)

    def retire_workers(self, names: Iterable[str] | str, timeout: float | None = None) -> Deferred[None]:
        """Shut workers down without losing results.

        The workers get no more work, finish the tasks that are running, hand over the values that only they hold, and exit.  If
        no other worker is left, running tasks are not waited for.

        Args:
            names: The name of a worker, or an iterable of names.
            timeout: Seconds, or a ``timedelta``, after which a worker exits even if it has not finished; running tasks then
                start again on other workers.  Default and maximum: one hour.

        Returns:
            A Deferred that fires with None when the workers are gone.  It fails with ``ValueError`` if no worker has one of the
            names; the other named workers leave all the same.

        Raises:
            TypeError: ``names`` or ``timeout`` has the wrong type.
            ValueError: ``timeout`` is negative.
        """
        chosen = check_workers(names)
        seconds = 3600.0 if timeout is None else min(3600.0, as_seconds(timeout, "timeout", most=float("inf")))
        return Deferred.fromCoroutine(self._retire(chosen, seconds))

    async def _retire(self, names: list[str], seconds: float) -> None:
        unknown = sorted(set(names) - set(await self._query("retire", seconds, *names)))
        if unknown:
            raise ValueError(f"no worker of this cluster is named {', '.join(unknown)}")
        while True:
            workers = await self.workers()
            left = [name for name in names if name in workers]
            if not left:
                return
            forgotten = [name for name in left if workers[name].state != "retiring"]
            if forgotten:  # by a scheduler that has restarted
                await self._query("retire", seconds, *forgotten)
            await self._pause()

    def cancel(self, futures: Any, *, unstarted: bool = False) -> Deferred[None]:
        """Cancel futures and stop their tasks, even while they are running, unless another client or task needs them.

        This client's unfinished tasks that depend on them are cancelled too.  Tasks that have ended are not affected.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.
            unstarted: Cancel only tasks that have not been assigned to a worker yet.

        Returns:
            A Deferred that fires with None when the scheduler has cancelled them.

        Raises:
            TypeError: Something in ``futures`` is not a future.
        """
        self.cancel_records([future._record for future in flatten(futures, "raise")], as_truth(unstarted, "unstarted"))
        return self._query("sync")

    def retry(self, futures: Any) -> Deferred[None]:
        """Run failed tasks again, and the failed tasks among their inputs, at any depth.

        The futures are pending again, with all earlier retries and crashes forgiven.  Futures that have not failed are not
        affected.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.

        Returns:
            A Deferred that fires with None when the scheduler has confirmed the request.

        Raises:
            TypeError: Something in ``futures`` is not a future.
            TaskCancelled: One of the futures was cancelled; submit its task again.
            DataLost: One of the futures was released or lost; submit its task again.
        """
        found = flatten(futures, "raise")
        refuse_retry(found)
        self.retry_records([future._record for future in found])
        return self._query("sync")

    def fire_and_forget(self, futures: Any) -> Deferred[None]:
        """Let tasks run to completion even if their futures are dropped or this client closes.

        Each result is dropped when its task ends, unless something needs it then.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.

        Returns:
            A Deferred that fires with None when the scheduler has confirmed the request.

        Raises:
            TypeError: Something in ``futures`` is not a future.
        """
        cids = [future._record.cid for future in flatten(futures, "raise")]
        return self._query("until_ended", *cids).addCallback(lambda _: None)

    def workers(self) -> Deferred[dict[str, WorkerInfo]]:
        """Return the state of all workers.

        Returns:
            A Deferred that fires with a dict of worker name to :class:`~twistdist.interfaces.WorkerInfo`.
        """
        return self._query("workers").addCallback(lambda found: {name: WorkerInfo(**info) for name, info in found.items()})

    def wait_for_workers(self, n: int, timeout: float | None = None) -> Deferred[None]:
        """Wait until at least ``n`` workers are connected.

        Args:
            n: The number of workers.
            timeout: Seconds to wait, or a ``timedelta``; None: without limit.

        Returns:
            A Deferred that fires with None, or fails with ``TimeoutError`` if too few are connected after ``timeout`` seconds.

        Raises:
            TypeError: ``n`` is not an integer, or ``timeout`` is not a number.
            ValueError: ``n`` is negative.
        """
        n, timeout = as_whole_number(n, "n"), as_timeout(timeout)
        seen: list[int] = [0]
        waiting = Deferred.fromCoroutine(self._count_workers(n, seen))
        if timeout is None:
            return waiting

        def too_late(_: Any, seconds: float) -> None:
            raise TimeoutError(f"{seen[-1]} of {n} workers are connected after {seconds:g} s")

        return waiting.addTimeout(max(0.0, timeout), self.reactor, onTimeoutCancel=too_late)

    async def _count_workers(self, n: int, seen: list[int]) -> None:
        """Wait for ``n`` connected workers; the last of ``seen`` is how many there are."""
        while True:
            workers = await self.workers()
            seen[:] = [sum(1 for worker in workers.values() if worker.state != "away")]
            if seen[-1] >= n:
                return
            await self._pause()

    def who_has(self, futures: Iterable[Any] | None = None) -> Deferred[dict[str, list[str]]]:
        """Return which workers hold which values.

        Args:
            futures: Futures or keys, in an iterable or a single one; None: all values on the cluster.

        Returns:
            A Deferred that fires with a dict of key to the names of the workers that hold the value.  The list is empty for a
            small value, which is kept on the scheduler, and for a task without a value.  Unknown keys are left out.

        Raises:
            TypeError: ``futures`` holds something else.
        """
        return self._query("who_has", *([] if futures is None else map(_named, several(futures))))

    def has_what(self, workers: Iterable[str] | None = None) -> Deferred[dict[str, list[str]]]:
        """Return the keys of the values that each worker holds.

        Args:
            workers: The name of a worker, or an iterable of names; None: all workers.

        Returns:
            A Deferred that fires with a dict of worker name to keys.  Unknown workers are left out.

        Raises:
            TypeError: ``workers`` holds something other than names.
        """
        return self._query("has_what", *check_workers(workers))

    def why(self, future_or_key: Any) -> Deferred[Story | None]:
        """Return what became of one task, and why.

        Args:
            future_or_key: A future of this client, or the key of any task.

        Returns:
            A Deferred that fires with a :class:`~twistdist.interfaces.Story`: ``print`` it.  It fires with None if the
            scheduler does not know the task.  Tasks that failed are remembered for a while after they are released.

        Raises:
            TypeError: ``future_or_key`` is neither a future nor a string.
        """
        return self._query("why", _named(future_or_key)).addCallback(lambda found: Story.of(found) if found else None)

    def run(
        self, fn: Callable[..., Any], /, *args: Any, workers: Iterable[str] | str | None = None, **kwargs: Any
    ) -> Deferred[dict[str, Any]]:
        """Run ``fn(*args, **kwargs)`` once on each worker, in a process of its own beside the slots, and wait for the values.

        It starts at once, even if all slots are busy, and is not run again, whatever happens: this is for looking around, or
        for preparing workers, not for work.  Up to 16 such calls run on a worker at a time; more wait.

        Args:
            fn: The function to run.
            *args: Its positional arguments; Futures among them are replaced by their values.
            workers: The names of the workers to run on; None: all that are connected.
            **kwargs: Its keyword arguments.

        Returns:
            A Deferred that fires with a dict of worker name to value.

        Raises:
            Exception: The Deferred fails with the first exception that a worker raised; its ``__twistdist__.worker`` names the
                worker.
            TaskCrashed: The function ended its process.
            NoValidWorker: A worker was lost while it ran the function.
            ValueError: No worker has one of the names.
        """
        return Deferred.fromCoroutine(self._run(fn, args, check_workers(workers), kwargs))

    async def _run(
        self, fn: Callable[..., Any], args: tuple[Any, ...], names: list[str], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        chosen = run_on(names, await self.workers())
        futures = {
            name: self.submit_records(fn, [args], kwargs, beside_options(name), self._make, batch=False)[0] for name in chosen
        }
        try:
            values: dict[str, Any] = await self.gather(futures)
        except Exception as error:
            say_where(error)
            raise
        return values

    def restart(self, timeout: float | None = None) -> Deferred[None]:
        """Drop all tasks and data of all clients, and give every worker fresh executor processes, also where one hangs.

        Every future of every client is cancelled with the reason; durable sessions and published datasets are emptied too.
        Sessions stay connected, and what is submitted afterwards runs as usual.

        Args:
            timeout: Seconds to wait for the workers, or a ``timedelta``; None: without limit.

        Returns:
            A Deferred that fires with None when the executors of all workers are ready.  It fails with ``TimeoutError``, which
            names the workers that are not, after ``timeout`` seconds; everything has been dropped then, too.
        """
        return Deferred.fromCoroutine(self._restart(as_timeout(timeout)))

    async def _restart(self, timeout: float | None) -> None:
        deadline = None if timeout is None else self.reactor.seconds() + timeout
        await self._answers(await self._query("restart"), deadline)

    def upload_file(self, path: str | os.PathLike[str]) -> Deferred[None]:
        """Make modules importable on all workers, also on those that join later.

        A newer version of the same name replaces it for tasks that start later; running tasks keep what they have imported.

        Args:
            path: A ``.py`` file, a ``.zip``, ``.whl`` or ``.egg``, or a folder, of at most 32 MiB (packed); 64 MiB for all
                uploads together.  A folder with an ``__init__.py`` is a package; of another folder, the contents become
                importable.

        Returns:
            A Deferred that fires with None when all connected workers have it.  It fails with ``TwistdistError`` if a worker
            can't install it, with ``OSError`` if it can't be read, and with ``ValueError`` if nothing can be imported from it.
        """
        return Deferred.fromCoroutine(self._upload_file(path))

    async def _upload_file(self, path: str | os.PathLike[str]) -> None:
        name, kind, blob = await deferToThreadPool(self.reactor, self.reactor.getThreadPool(), read_upload, path)
        await self._answers(await self._query("upload", name, kind, blob), None)

    def register_plugin(self, plugin: Any, name: str | None = None) -> Deferred[str]:
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

        Returns:
            A Deferred that fires with the plugin's name when all connected workers have it.  If it can't be set up on a worker,
            the Deferred fails with that exception, whose ``__twistdist__.worker`` names the worker, and the plugin is not kept.

        Raises:
            SerializationError: The plugin can't be pickled, or is larger than 16 MiB.
            TypeError: It has neither method.
            ValueError: The name is empty, or longer than 200 characters.
        """
        return Deferred.fromCoroutine(self._register_plugin(*dump_plugin(plugin, name)))

    async def _register_plugin(self, name: str, blob: bytes) -> str:
        workers = [worker for worker, info in (await self.workers()).items() if info.state != "away"]
        trials = [
            self.submit_records(try_out, [(blob,)], {}, beside_options(worker), self._make, batch=False)[0]
            for worker in workers
        ]
        for trial in trials:
            try:
                await trial.result()
            except NoValidWorker:
                continue  # that worker is gone
            except Exception as error:
                say_where(error)
                raise
        await self._answers(await self._query("upload", name, PLUGIN, blob), None)
        return name

    def unregister_plugin(self, name: str) -> Deferred[None]:
        """Have executors no longer set up a plugin; those that have are replaced as soon as they are idle, and tear it down.

        Args:
            name: The name of the plugin.

        Returns:
            A Deferred that fires with None when all connected workers know.  It fails with ``TwistdistError`` if no plugin has
            the name.

        Raises:
            TypeError: ``name`` is not a string.
            ValueError: The name is empty, or longer than 200 characters.
        """
        return Deferred.fromCoroutine(self._unregister_plugin(check_name("the name of a plugin", name)))

    async def _unregister_plugin(self, name: str) -> None:
        await self._answers(await self._query("unplug", name), None)

    def logs(self, workers: Iterable[str] | str | None = None, n: int = 100) -> Deferred[dict[str, list[str]]]:
        """Return the last lines that workers have logged, and what their tasks have printed and logged.

        What a task has printed begins with its key, attempt and worker.

        Args:
            workers: The names of the workers; None: all.
            n: The number of lines of each worker; at most 2,000 are kept.

        Returns:
            A Deferred that fires with a dict of worker name to list of lines, oldest first.  Workers that do not answer within
            two seconds are left out.

        Raises:
            TypeError: ``n`` is not an integer.
            ValueError: ``n`` is less than 1.
        """
        return Deferred.fromCoroutine(self._logs(check_workers(workers), as_whole_number(n, "n", 1)))

    async def _logs(self, names: list[str], lines: int) -> dict[str, list[str]]:
        number = await self._query("logs", lines, *names)
        try:
            return await self._answers(number, self.reactor.seconds() + LOGS_S)
        except TimeoutError:
            return (await self._query("broadcast", number))[1]  # type: ignore[no-any-return]

    async def _answers(self, number: int, deadline: float | None) -> dict[str, Any]:
        """Wait for what all workers answer to a broadcast: by worker.  ``TwistdistError`` if one of them could not do it."""
        while True:
            silent, answers, failed = await self._query("broadcast", number)
            if failed:
                raise TwistdistError("; ".join(f"{name}: {text}" for name, text in failed.items()))
            if not silent:
                return answers  # type: ignore[no-any-return]
            if deadline is not None and self.reactor.seconds() >= deadline:
                raise TimeoutError(f"these workers have not answered: {', '.join(silent)}")
            await self._pause()

    def lineage(self, futures: Any) -> Deferred[Lineage]:
        """Return the graph that a replay of some results would use.

        Args:
            futures: A future, or a nesting of futures as in :meth:`gather`.

        Returns:
            A Deferred that fires with a :class:`~twistdist.lineage.Lineage`: its ``keys``, ``dot()`` and ``svg()``.  It fails
            with ``TwistdistError`` if the graph has more than 10,000 tasks.

        Raises:
            TypeError: Something in ``futures`` is not a future.
        """
        cids = [future._record.cid for future in flatten(futures, "raise")]
        return self._query("lineage", *cids).addCallback(Lineage.of)

    def incidents(self, since: float | None = None) -> Deferred[list[Incident]]:
        """Return the faults that the scheduler has noticed, and what recovery cost.

        Args:
            since: Only faults of the last ``since`` seconds, or of a ``timedelta``; None: all that the scheduler remembers.

        Returns:
            A Deferred that fires with a list of :class:`~twistdist.interfaces.Incident`, oldest first.

        Raises:
            TypeError: ``since`` is not a number.
            ValueError: ``since`` is negative.
        """
        if since is not None:
            since = as_seconds(since, "since", most=float("inf"))
        return self._query("incidents", since).addCallback(lambda found: [Incident(**fields) for fields in found])

    def report(self, path: str | os.PathLike[str]) -> Deferred[str]:
        """Write a report of what the scheduler remembers: one HTML file that opens in a browser, without a network.

        It has the timeline, incidents and their stories, the cost of each function and group, and the workers.  The file has
        keys, names, addresses and the texts of errors in it, but no arguments and no values.

        Args:
            path: Where to write it.  A file that exists is replaced.

        Returns:
            A Deferred that fires with the absolute path of the file.  It fails with ``OSError`` if the file can't be written.

        Raises:
            TypeError: ``path`` is not a path.
            ValueError: ``path`` is empty, or no file can have that name.
            OSError: No file can be made there.
        """
        return recording.report(self, path)

    def recording(self, path: str | os.PathLike[str]) -> recording.Recording:
        """Return an async context manager that writes a report of what the cluster does while its block runs.

        The report is like that of :meth:`report`, of the block alone, and may have more in it than the scheduler remembers.  It
        is written when the block ends, also with an error, and has what came before and after a restart of the scheduler.
        Without ``async with``, yield its ``start()`` and ``stop()``.

        Args:
            path: Where to write it.  A file that exists is replaced.

        Returns:
            A :class:`~twistdist.web.recording.Recording`.

        Raises:
            TypeError: ``path`` is not a path.
            ValueError: ``path`` is empty, or no file can have that name.
            OSError: No file can be made there.
        """
        return recording.Recording(self, path)

    def status(self) -> Deferred[dict[str, Any]]:
        """Return the scheduler's state.

        Returns:
            A Deferred that fires with a dict of counters, numbers of tasks by state, workers, sessions and datasets.
        """
        return self._query("status")

    def clear(self, sessions: Iterable[str] = ()) -> Deferred[dict[str, int]]:
        """Drop all data and tasks that no connected client, durable session or published dataset needs.

        Args:
            sessions: Names of durable sessions to end as well, with everything they keep.  None of them may have a connected
                client.

        Returns:
            A Deferred that fires with ``{"sessions": …, "tasks": …}``, the numbers of sessions and tasks that were dropped.
            It fails with ``TwistdistError``, and nothing is dropped, if a name is unknown or a client of that session is
            connected.

        Raises:
            TypeError: ``sessions`` holds something other than names.
        """
        return self._query("clear", *[as_text(name, "a session name") for name in several(sessions)])

    def take_up(self, keys: Sequence[str]) -> Deferred[list[Future | None]]:
        """Get futures of existing tasks by key, including tasks of other clients.

        Args:
            keys: One key, or an iterable of keys.

        Returns:
            A Deferred that fires with a list in the order of ``keys``.  Its items are Futures, or None if no task has that key.

        Raises:
            TypeError: ``keys`` holds something other than strings.
            ValueError: A key can't be encoded as UTF-8.
        """
        plain = [as_text(key, "a key") for key in several(keys)]
        for key in plain:
            check_encodable("a key", key)
        return self._take_up("watch", plain)

    def _take_up(self, what: str, keys: Sequence[str]) -> Deferred[list[Future | None]]:
        records = [(Record(next(self._submits.cids)), key) for key in keys]
        futures = [Future(self, record, key) for record, key in records]
        result: Deferred[Any] = Deferred()
        self._orders.add(self._watch, what, records, result)
        return result.addCallback(lambda known: [future if future._record.cid in known else None for future in futures])

    # ---- durable sessions and datasets, which outlive this process ------------------------------

    def futures(self) -> Deferred[dict[str, Future]]:
        """Get futures of everything that this client's durable session (``session=``) holds.

        This includes tasks that were submitted by other processes of the session.  Without a durable session, these are the
        tasks that this client needs.

        Returns:
            A Deferred that fires with a dict of key to Future.
        """
        return Deferred.fromCoroutine(self._futures())

    async def _futures(self) -> dict[str, Future]:
        found = await self._take_up("take_up", await self._query("keys"))
        return {future.key: future for future in found if future is not None}

    def end_session(self) -> Deferred[None]:
        """End the durable session, release everything that it keeps, and close this client.

        Clients of the session in other processes stay connected and keep their own futures, without a durable session.

        Returns:
            A Deferred that fires with None when this client is closed.

        Raises:
            TwistdistError: This client has no durable session.
        """
        if not self._core.name:
            raise TwistdistError('this client has no durable session; connect with session="name"')
        return self._query("end_session").addCallback(lambda _: self.close())

    def publish_dataset(self, name: str, futures: Any) -> Deferred[None]:
        """Keep results under a name for all clients, until they are unpublished.

        Args:
            name: A string of 1 to 200 characters.
            futures: A future, or a nesting of futures as in :meth:`gather`.

        Returns:
            A Deferred that fires with None, or fails with ``TwistdistError`` if the name is already in use.

        Raises:
            TypeError: ``name`` is not a string, or something in ``futures`` is not a future.
            ValueError: ``name`` is empty or too long.
            TaskCancelled: One of the futures was cancelled.
            DataLost: One of the futures was released or lost.
            SerializationError: The containers, or the keys of a dict, can't be pickled.
        """
        name = check_name("name", name)
        futures = as_shape(futures)
        found = flatten(futures, "raise")
        refuse_unusable(found)
        places = {id(future): Place(number) for number, future in enumerate(found)}
        try:
            shape = b"".join(dump_value(replace(futures, BaseFuture, lambda future: places[id(future)])))
        except Exception as error:
            raise SerializationError(f"the containers of the dataset {name} can't be pickled: {said(error)}") from error
        return self._query("publish", name, shape, [future._record.cid for future in found])

    def get_dataset(self, name: str) -> Deferred[Any]:
        """Get the futures that were published under a name.

        Args:
            name: The name of the dataset.

        Returns:
            A Deferred that fires with futures of this client, nested as they were published.  It fails with ``TwistdistError``
            if nothing is published under the name.

        Raises:
            TypeError: ``name`` is not a string.
            ValueError: ``name`` is empty or too long.
        """

        name = check_name("name", name)
        return Deferred.fromCoroutine(self._get_dataset(name))

    async def _get_dataset(self, name: str) -> Any:
        _, keys = await self._query("dataset", name)
        records = [Record(next(self._submits.cids)) for _ in keys]
        futures = [Future(self, record, key) for record, key in zip(records, keys, strict=True)]
        watched: Deferred[Any] = Deferred()
        self._orders.add(self._watch_dataset, name, records, watched)
        shape = unpack((await watched)[0])
        return replace(shape, Place, lambda place: futures[place.number])

    def _watch_dataset(self, name: str, records: list[Record], result: Deferred[Any]) -> None:
        for record in records:
            self._core.records[record.cid] = record
        self._ask("dataset", (name, *[record.cid for record in records]), result)

    def list_datasets(self) -> Deferred[list[str]]:
        """Return the names of the published datasets.

        Returns:
            A Deferred that fires with a sorted list of names.
        """
        return self._query("datasets")

    def unpublish_dataset(self, name: str) -> Deferred[None]:
        """Remove a published name, and release the results that only it kept.

        Args:
            name: The name of the dataset.

        Returns:
            A Deferred that fires with None, or fails with ``TwistdistError`` if nothing is published under the name.

        Raises:
            TypeError: ``name`` is not a string.
            ValueError: ``name`` is empty or too long.
        """
        return self._query("unpublish", check_name("name", name))

    def shutdown(self) -> Deferred[None]:
        """Stop the whole cluster: all workers and the scheduler.  Then close this client.

        Returns:
            A Deferred that fires with None when the scheduler has confirmed the request and this client is closed.  It does not
            wait for the processes to end, unless they belong to a ``LocalCluster`` that was started with this client.
        """
        return self._query("shutdown").addCallback(lambda _: self.close())


def _named(future_or_key: Any) -> int | str:
    """Return the name of a task in a request: this client's number for the future, or the task's key."""
    return future_or_key._record.cid if isinstance(future_or_key, BaseFuture) else as_text(future_or_key, "a key")


#: Keywords of ``connect`` and of the blocking ``Client``, in addition to those of ``LocalCluster``.
OPTIONS = ["session", "secret", "tls", "timeout"]


def find_scheduler(address: Any, secret: Any, tls: Any, local: dict[str, Any]) -> tuple[Any, Any, Any] | None:
    """Return (address, secret, certificates) of the scheduler to connect to, or None if a LocalCluster must be started.

    ``address`` is an address, a cluster, or None for ``TWISTDIST_SCHEDULER``.  ``local`` holds the options of a LocalCluster.
    ``TypeError`` if an option is unknown or does not apply.
    """
    if address is None:
        address = os.environ.get("TWISTDIST_SCHEDULER") or None
    if local or not (address is None or isinstance(address, str)):
        from twistdist.clusters.base import Cluster

        service = getattr(address, "_service", address)  # a cluster of the blocking API has one
        if isinstance(service, Cluster):
            service.check_open()
            address, secret = service.address, service.secret if secret is None else secret
            tls = service.tls if tls is None else tls
        _check_local(address, local)
    if address is None:
        if tls is not None:
            raise TypeError("tls applies to an address; give one, or make a LocalCluster(host=…, tls=…) and connect to that")
        return None
    if is_endpoint(address):
        return address, secret, tls
    if not isinstance(address, str):
        raise TypeError(
            f"address must be a string such as 'host:{DEFAULT_PORT}', an endpoint, or a cluster, got {shown(address)}"
        )
    return as_text(address, "address"), secret, tls


def _check_local(address: Any, local: dict[str, Any]) -> None:
    """Raise ``TypeError`` if the options of a LocalCluster are unknown, or do not apply."""
    from twistdist.clusters import local as local_cluster

    unknown = [name for name in local if name not in local_cluster.OPTIONS]
    if unknown:
        raise unknown_keywords("a client", unknown, [*OPTIONS, *local_cluster.OPTIONS])
    if local and address is not None:
        raise TypeError(
            f"{', '.join(local)}: only for the LocalCluster that is started when no address is given, but it is {address}"
        )


def connect(
    reactor: Any,
    address: Any = None,
    *,
    session: str | None = None,
    secret: str | bytes | None = None,
    tls: str | os.PathLike[str] | None = None,
    timeout: float | None = 30.0,
    tracing: bool = False,
    **local: Any,
) -> Deferred[Client]:
    """Connect to a scheduler.

    Args:
        reactor: The Twisted reactor to use.
        address: The scheduler's address: ``host:port`` or ``tcp:host:port``, ``tls:host:port`` or ``unix:path``; several, with
            commas between them, for a scheduler with standbys; a Twisted client endpoint; or a ``LocalCluster`` that has been
            started.  None: the address in the environment variable ``TWISTDIST_SCHEDULER`` if that is set, otherwise a new
            ``LocalCluster`` that ends with the client.
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

    Returns:
        A Deferred that fires with a :class:`Client`.  It fails with ``SchedulerUnreachable`` if the scheduler does not answer
        within ``timeout`` seconds, with ``AuthenticationError``, ``VersionMismatch`` or ``ProtocolError`` if the scheduler and
        this process don't fit together, and with ``TwistdistError`` if a new ``LocalCluster`` does not start.  Cancelling the
        Deferred stops the attempt.

    Raises:
        ConfigError: The address, the secret or the certificates are not usable.
        TypeError: An argument has the wrong type, or an option is unknown or does not apply to ``address``.
        ValueError: An argument is out of range.
        TwistdistError: The given ``LocalCluster`` is not running.
    """
    timeout, traced = as_timeout(timeout), as_truth(tracing, "tracing")
    found = find_scheduler(address, secret, tls, local)
    if found is None:
        return _connect_local(reactor, session, secret, timeout, traced, local)
    full, certificates = dialing_side(found[0], found[2])
    client = Client.for_session(
        reactor, full, as_secret(found[1]), tls=certificates, name=check_session(session), tracing=traced
    )
    return client.open(timeout)  # type: ignore[no-any-return]


def _connect_local(
    reactor: Any, session: str | None, secret: str | bytes | None, timeout: float | None, traced: bool, local: dict[str, Any]
) -> Deferred[Client]:
    from twistdist.clusters.local import LocalCluster

    name = check_session(session)
    cluster = LocalCluster(reactor, secret=secret, **local)

    def started(_: Any) -> Deferred[Client]:
        client = Client.for_session(reactor, cluster.address, cluster.secret, name=name, tracing=traced)
        return client.open(timeout)  # type: ignore[no-any-return]

    def connected(client: Client) -> Client:
        client._cluster = cluster
        return client

    def failed(failure: Failure) -> Any:
        return cluster.stopService().addCallback(lambda _: failure)

    starting: Deferred[Any] = cluster.startService()
    return starting.addCallback(started).addCallbacks(connected, failed)
