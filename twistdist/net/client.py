"""The Deferred API: ``connect`` and :class:`Client`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twistdist.config import DEFAULT_PORT, as_seconds, as_secret, as_text, as_timeout, as_truth, as_whole_number
from twistdist.core.client import Record
from twistdist.errors import SerializationError, TwistdistError, said, shown
from twistdist.interfaces import Incident, WorkerInfo
from twistdist.keywords import unknown_keywords
from twistdist.net.bound import BoundToProcess
from twistdist.net.client_session import ClientSession
from twistdist.net.futures import BaseFuture, Future, Raw, as_failure, refuse_unusable, unpack
from twistdist.net.options import check_name, check_replicas, check_session, check_workers, several, split_options
from twistdist.net.shapes import Place, as_shape, flatten, rebuild, replace
from twistdist.net.submits import Parent
from twistdist.net.tls import dialing_side
from twistdist.wire.payload import dump_value

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls


class Client(BoundToProcess, ClientSession):
    """One session with a scheduler.  Made by :func:`connect`.

    Orders (``submit``, ``cancel``, …) may come from any thread; they are carried out in the reactor's thread soon.  Everything
    else belongs to the reactor's thread.
    """

    def __init__(
        self,
        reactor: Any = None,
        address: str = "",
        secret: bytes = b"",
        parent: Parent | None = None,
        tls: Tls | None = None,
        name: str = "",
        **unknown: Any,
    ) -> None:
        if unknown or not isinstance(secret, bytes) or not secret:
            raise TypeError(
                "twistdist.Client is not made by hand: in a script use twistdist.blocking.Client(address), "
                "in a Twisted program the Deferred of twistdist.connect(reactor, address)"
            )
        super().__init__(reactor, address, secret, parent, tls, name)

    def _make(self, record: Record, name: str) -> Future:
        return Future(self, record, name)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run ``fn(*args, **kwargs)`` on the cluster: its Future, at once.

        Futures anywhere inside the arguments become inputs: the task runs when they have values, and gets these.  The
        following keywords are the task's options and are not passed to ``fn``; ``functools.partial`` passes one of that name.

        - ``key`` (text, generated): the task's name.  The same key with the same function and arguments is one task, with
          others ``future.result()`` raises ``KeyConflict``.
        - ``replace`` (False): with ``key``, the key goes to this task, whatever had it before.
        - ``pure`` (False): the key is made of function and arguments, so that equal calls share one result.
        - ``retries`` (0): how often the task is run again after an exception of ``fn``.
        - ``crash_limit`` (3): how many processes the task may end until it fails with ``TaskCrashed``.
        - ``time_limit`` (None: unlimited): seconds, or a ``timedelta``, that it may run; then it is stopped and fails with
          ``TimeLimitExceeded``.
        - ``priority`` (0): a whole number; larger ones run earlier.
        - ``workers`` (None: any): a name or an iterable of names of the workers that it may run on.
        - ``allow_other_workers`` (False): ``workers`` is a wish; others run it while none of those is there with a free slot.
        - ``resources`` (None): a dict of name to amount, as ``{"GPU": 1}``, that a worker must have free (``--resources``).
        - ``replay`` (``"always"``): what happens when the result is lost.  ``"always"``: it is computed again; ``"verify"``:
          and fails with ``NonDeterministicReplay`` if it is another one; ``"never"``: nobody is told of it until two workers,
          or the checkpoint store, have it, and it is not computed twice.
        - ``replicas`` (1): copies of the result to keep, on different workers.
        - ``checkpoint`` (False): write the result to the checkpoint store too (``--checkpoint-store``), where it survives every
          worker.

        Raises ``SerializationError`` for what can't be pickled, ``TypeError`` or ``ValueError`` for an impossible option,
        ``ClientClosed`` after ``close()``.  What happens to the task itself is raised by ``future.result()``.
        """
        options = split_options(kwargs, fn)
        future: Future = self.submit_records(fn, [args], kwargs, options, self._make, batch=False)[0]
        return future

    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any], **kwargs: Any) -> list[Future]:
        """``submit`` for each tuple of ``zip(*iterables)``, in one message; options and ``kwargs`` hold for all of them.

        ``key`` is a list of keys, or text to which ``-0``, ``-1``, … are added.
        """
        options = split_options(kwargs, fn)
        return self.submit_records(fn, zip(*iterables), kwargs, options, self._make, batch=True)  # noqa: B905

    def gather(self, futures: Any, errors: str = "raise") -> Deferred[Any]:
        """A Deferred of the values, in the same nesting of lists, tuples, sets and dicts.

        ``errors="skip"`` leaves out what failed; otherwise the first failure ends it.
        """
        futures = as_shape(futures)
        found = flatten(futures, errors)

        def load(raws: list[Raw]) -> Any:
            try:
                return rebuild(futures, dict(zip(map(id, found), raws, strict=True)), errors)
            except BaseException as error:
                return as_failure(error)

        return self.collect([future._record for future in found], fail_fast=errors == "raise").addCallback(load)

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
        """Put data on the cluster: a Deferred of a Future, or of a list or dict of Futures where ``data`` is one.

        It fires when as many copies exist as there are workers, at most ``replicas`` (on every worker, also those that come
        later, with ``broadcast``), on ``workers`` alone if they are named.  With ``hash`` the key is made from the content, so
        that equal data are there once.  The client keeps the bytes in a file as long as anything on the cluster needs them,
        and brings them again when every copy is lost, unless ``resupply`` is False.
        """
        shape, futures = self.scatter_records(data, replicas, broadcast, hash, workers, resupply, self._make)
        return self.announced(futures).addCallback(lambda _: shape)

    def replicate(self, futures: Any, n: int) -> Deferred[None]:
        """Keep ``n`` copies of each value on different workers from now on, as workers come and go.

        The Deferred fires when the copies that are possible now are made.
        """
        copies = check_replicas(n, "n")
        cids = [future._record.cid for future in flatten(futures, "raise")]
        return self._query("replicate", copies, *cids).addCallback(lambda _: self._when_copied(cids))

    def rebalance(self, futures: Any = None) -> Deferred[None]:
        """Move values (of ``futures``, or any) from workers that hold much to those that hold little; a Deferred of the end."""
        cids = [] if futures is None else [future._record.cid for future in flatten(futures, "raise")]
        return self._query("rebalance", *cids).addCallback(lambda _: self._when_copied(cids))

    def _when_copied(self, cids: list[int]) -> Deferred[None]:
        return self._until(lambda: self._query("copying", *cids), lambda count: not count)

    def retire_workers(self, names: Iterable[str] | str, timeout: float | None = None) -> Deferred[None]:
        """Have workers leave: they get no more work, hand over what only they hold, and end.

        The Deferred fires when they are gone.  After ``timeout`` seconds (an hour) they end with what is left, and running
        tasks start again elsewhere.
        """
        chosen = check_workers(names)

        def told(known: list[str]) -> Deferred[None]:
            unknown = sorted(set(chosen) - set(known))
            if unknown:
                raise ValueError(f"no worker of this cluster is named {', '.join(unknown)}")
            return self._until(self.workers, gone)

        def gone(workers: dict[str, WorkerInfo]) -> bool:
            left = [name for name in chosen if name in workers]
            forgotten = [name for name in left if workers[name].state != "retiring"]
            if forgotten:  # by a scheduler that was started again
                self._query("retire", seconds, *forgotten)
            return not left

        seconds = 3600.0 if timeout is None else min(3600.0, as_seconds(timeout, "timeout", most=float("inf")))
        return self._query("retire", seconds, *chosen).addCallback(told)

    def cancel(self, futures: Any, *, unstarted: bool = False) -> Deferred[None]:
        """Stop tasks, running ones too, unless somebody else wants them; the Deferred fires when the scheduler has done so.

        This client's unfinished tasks that depend on them are cancelled too.  With ``unstarted`` tasks that a worker has been
        given go on.
        """
        self.cancel_records([future._record for future in flatten(futures, "raise")], as_truth(unstarted, "unstarted"))
        return self._query("sync")

    def fire_and_forget(self, futures: Any) -> Deferred[None]:
        """Have tasks run to their ends although their futures are dropped, and although this client leaves.

        ``futures`` is a future, or a nesting of futures in lists, tuples and dicts.  Their results are dropped
        when they end, unless somebody wants them then.  The Deferred fires when the scheduler has taken note.
        """
        cids = [future._record.cid for future in flatten(futures, "raise")]
        return self._query("until_ended", *cids).addCallback(lambda _: None)

    def workers(self) -> Deferred[dict[str, WorkerInfo]]:
        """A Deferred of worker name -> :class:`~twistdist.interfaces.WorkerInfo`."""
        return self._query("workers").addCallback(lambda found: {name: WorkerInfo(**info) for name, info in found.items()})

    def wait_for_workers(self, n: int, timeout: float | None = None) -> Deferred[None]:
        """A Deferred that fires when ``n`` workers are connected, or fails with ``TimeoutError`` after ``timeout`` seconds."""
        n, timeout = as_whole_number(n, "n"), as_timeout(timeout)
        result: Deferred[None] = Deferred()
        connected = 0

        def look(workers: dict[str, WorkerInfo]) -> None:
            nonlocal connected
            connected = sum(1 for worker in workers.values() if worker.state != "away")
            if connected >= n and not result.called:
                result.callback(None)
            elif not result.called:
                self.reactor.callLater(0.02, ask)

        def ask() -> None:
            if not result.called:
                self.workers().addCallbacks(look, fail)

        def fail(failure: Failure | None = None) -> None:
            if not result.called:
                result.errback(failure or TimeoutError(f"{connected} of {n} workers are there after {timeout:g} s"))

        def over(outcome: Any) -> Any:
            if limit is not None and limit.active():
                limit.cancel()
            return outcome

        limit = None if timeout is None else self.reactor.callLater(max(0.0, timeout), fail)
        ask()
        return result.addBoth(over)

    def who_has(self, futures: Iterable[Any] | None = None) -> Deferred[dict[str, list[str]]]:
        """A Deferred of key -> names of the workers that hold its value (none: it is small, and lives on the scheduler)."""
        return self._query("who_has", *([] if futures is None else map(_named, several(futures))))

    def has_what(self, workers: Iterable[str] | None = None) -> Deferred[dict[str, list[str]]]:
        """A Deferred of worker name -> keys of the values that it holds."""
        return self._query("has_what", *check_workers(workers))

    def why(self, future_or_key: Any) -> Deferred[dict[str, Any] | None]:
        """A Deferred of what the scheduler knows of one task: state, worker, inputs, crashes; None for an unknown key."""
        return self._query("why", _named(future_or_key))

    def incidents(self, since: float | None = None) -> Deferred[list[Incident]]:
        """A Deferred of the faults seen (those of the last ``since`` seconds), oldest first."""
        if since is not None:
            since = as_seconds(since, "since", most=float("inf"))
        return self._query("incidents", since).addCallback(lambda found: [Incident(**fields) for fields in found])

    def status(self) -> Deferred[dict[str, Any]]:
        """A Deferred of the scheduler's counters, task states, workers and sessions."""
        return self._query("status")

    def clear(self, sessions: Iterable[str] = ()) -> Deferred[dict[str, int]]:
        """Drop all data and tasks that no connected session and no durable one wants.

        Durable sessions named in ``sessions`` go too, with all that they keep; no client of theirs may be connected.  A
        Deferred of ``{"sessions": …, "tasks": …}`` that went; it fails with ``TwistdistError`` for a name that is unknown or in
        use, and then nothing is dropped.
        """
        return self._query("clear", *[as_text(name, "the name of a session") for name in several(sessions)])

    def take_up(self, keys: Sequence[str]) -> Deferred[list[Future | None]]:
        """Futures of tasks by key, somebody else's too; None where no task has that key."""
        return self._take_up("watch", [as_text(key, "a key") for key in several(keys)])

    def _take_up(self, what: str, keys: Sequence[str]) -> Deferred[list[Future | None]]:
        records = [(Record(next(self._submits.cids)), key) for key in keys]
        futures = [Future(self, record, key) for record, key in records]
        result: Deferred[Any] = Deferred()
        self._orders.add(self._watch, what, records, result)
        return result.addCallback(lambda known: [future if future._record.cid in known else None for future in futures])

    # ---- what outlives this process -----------------------------------------------------------

    def futures(self) -> Deferred[dict[str, Future]]:
        """A Deferred of key -> Future: all that the durable session of this client has (``session=``), of whichever process."""

        def known(keys: list[str]) -> Deferred[dict[str, Future]]:
            taking = self._take_up("take_up", keys)
            return taking.addCallback(lambda found: {future.key: future for future in found if future is not None})

        return self._query("keys").addCallback(known)

    def end_session(self) -> Deferred[None]:
        """Release all that the durable session has, for all its processes, and close this client."""
        if not self._core.name:
            raise TwistdistError('this client has no durable session; connect with session="name"')
        return self._query("end_session").addCallback(lambda _: self.close())

    def publish_dataset(self, name: str, futures: Any) -> Deferred[None]:
        """Keep ``futures``, in any nesting of lists, tuples, sets and dicts, under a name for all clients, until
        unpublished."""
        name = check_name("name", name)
        futures = as_shape(futures)
        found = flatten(futures, "raise")
        refuse_unusable(found)
        places = {id(future): Place(number) for number, future in enumerate(found)}
        try:
            shape = b"".join(dump_value(replace(futures, BaseFuture, lambda future: places[id(future)])))
        except Exception as error:
            raise SerializationError(f"the nesting of the futures of {name} can't be pickled: {said(error)}") from error
        return self._query("publish", name, shape, [future._record.cid for future in found])

    def get_dataset(self, name: str) -> Deferred[Any]:
        """A Deferred of what was published: futures of this client in the nesting that they had."""

        name = check_name("name", name)

        def taken(answer: Any, futures: list[Future]) -> Any:
            shape = unpack(answer[0])
            return replace(shape, Place, lambda place: futures[place.number])

        def known(answer: Any) -> Deferred[Any]:
            records = [Record(next(self._submits.cids)) for _ in answer[1]]
            futures = [Future(self, record, key) for record, key in zip(records, answer[1], strict=True)]
            result: Deferred[Any] = Deferred()
            self._orders.add(self._watch_dataset, name, records, result)
            return result.addCallback(taken, futures)

        return self._query("dataset", name).addCallback(known)

    def _watch_dataset(self, name: str, records: list[Record], result: Deferred[Any]) -> None:
        for record in records:
            self._core.records[record.cid] = record
        self._ask("dataset", (name, *[record.cid for record in records]), result)

    def list_datasets(self) -> Deferred[list[str]]:
        """A Deferred of the names that are published."""
        return self._query("datasets")

    def unpublish_dataset(self, name: str) -> Deferred[None]:
        """The name goes, and what only it kept."""
        return self._query("unpublish", check_name("name", name))

    def shutdown(self) -> Deferred[None]:
        """Stop the whole cluster: workers, scheduler, and this client."""
        return self._query("shutdown").addCallback(lambda _: self.close())


def _named(future_or_key: Any) -> int | str:
    """How a question names a task: by this client's number of the future, or by its key."""
    return future_or_key._record.cid if isinstance(future_or_key, BaseFuture) else as_text(future_or_key, "a key")


#: Keywords of ``connect`` and of the blocking ``Client``, beside those of a LocalCluster.
OPTIONS = ["session", "secret", "tls", "timeout"]


def find_scheduler(address: Any, secret: Any, tls: Any, local: dict[str, Any]) -> tuple[str, Any] | None:
    """(address, secret) for what was given as an address: that, a cluster, or None for that of the environment; None where a
    LocalCluster is to be made with the options ``local``.  ``TypeError`` for keywords that there are not, or not here."""
    if address is None:
        address = os.environ.get("TWISTDIST_SCHEDULER") or None
    if local or not (address is None or isinstance(address, str)):
        from twistdist.net import cluster

        service = getattr(address, "_service", address)  # of the blocking API
        if isinstance(service, cluster.LocalCluster):
            service.check_open()
            address, secret = service.address, service.secret if secret is None else secret
        unknown = [name for name in local if name not in cluster.OPTIONS]
        if unknown:
            raise unknown_keywords("a client", unknown, [*OPTIONS, *cluster.OPTIONS])
        if local and address is not None:
            raise TypeError(
                f"{', '.join(local)}: for the LocalCluster that is made when no address is given, but there is one: {address}"
            )
    if address is None:
        if tls is not None:
            raise TypeError("tls: a LocalCluster is reached from this machine alone and is not encrypted; name an address")
        return None
    if not isinstance(address, str):
        raise TypeError(f"an address is text such as 'host:{DEFAULT_PORT}', or a cluster, not {shown(address)}")
    return as_text(address, "address"), secret


def connect(
    reactor: Any,
    address: Any = None,
    *,
    session: str | None = None,
    secret: str | bytes | None = None,
    tls: str | os.PathLike[str] | None = None,
    timeout: float | None = 30.0,
    **local: Any,
) -> Deferred[Client]:
    """A Deferred of a :class:`Client` of the scheduler at ``address``, which may be a cluster that has been started.

    ``address=None`` uses the environment variable ``TWISTDIST_SCHEDULER``, else starts a ``LocalCluster`` configured by
    ``**local`` that ends with the client.  ``session`` names a durable session: what it wants outlives this process, and
    the next one of that name finds it.  ``secret`` is the shared secret itself; without it the secret file is read.
    ``tls`` is a folder of certificates as ``twistdist certs`` makes it (default: ``TWISTDIST_TLS``), for ``tls:host:port``.
    Cancelling the Deferred stops the attempt.  Errbacks: ``SchedulerUnreachable`` after ``timeout`` seconds,
    ``AuthenticationError``, ``VersionMismatch``, ``ConfigError``.
    """
    timeout = as_timeout(timeout)
    found = find_scheduler(address, secret, tls, local)
    if found is None:
        return _connect_local(reactor, session, secret, timeout, local)
    full, certificates = dialing_side(found[0], tls)
    return Client(reactor, full, as_secret(found[1]), tls=certificates, name=check_session(session)).open(timeout)


def _connect_local(
    reactor: Any, session: str | None, secret: str | bytes | None, timeout: float | None, local: dict[str, Any]
) -> Deferred[Client]:
    from twistdist.net.cluster import LocalCluster

    name = check_session(session)
    cluster = LocalCluster(reactor, secret=secret, **local)

    def started(_: Any) -> Deferred[Client]:
        return Client(reactor, cluster.address, cluster.secret, name=name).open(timeout)

    def connected(client: Client) -> Client:
        client._cluster = cluster
        return client

    def failed(failure: Failure) -> Any:
        return cluster.stopService().addCallback(lambda _: failure)

    starting: Deferred[Any] = cluster.startService()
    return starting.addCallback(started).addCallbacks(connected, failed)
