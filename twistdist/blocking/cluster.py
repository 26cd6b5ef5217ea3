"""Clusters, for scripts."""

from __future__ import annotations

import atexit
import concurrent.futures
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from twistdist.blocking.reactor_thread import get_reactor_thread, runs_here
from twistdist.clusters import base as clusters
from twistdist.clusters import jobs
from twistdist.clusters.engine import Engine
from twistdist.clusters.local import LocalCluster as _LocalCluster
from twistdist.net.bound import BoundToProcess

_C = TypeVar("_C", bound="Cluster")

#: The clusters that were started and have not ended.  They are stopped when the process exits.
_clusters: set[clusters.Cluster] = set()


@atexit.register
def _end_clusters() -> None:
    for service in list(_clusters) if runs_here() else ():
        try:
            get_reactor_thread().call(partial(_stop, service), service.stop_s)
        except concurrent.futures.TimeoutError:  # processes of this machine notice that this one is gone
            if not isinstance(service, _LocalCluster):
                logging.getLogger("twistdist").warning(
                    "the cluster at %s was not ended in time; see what is left", service.address
                )


def _stop(service: clusters.Cluster) -> Any:
    return service.stopService().addCallback(  # type: ignore[no-untyped-call]
        lambda _: _clusters.discard(service)
    )


class Cluster(BoundToProcess):
    """What all clusters have in common.  It ends with ``close()``, at the end of its ``with`` block, when the last reference to
    it is dropped, or when the script ends."""

    _service: Any

    def _start(self, make: Callable[[Any], Any]) -> None:
        """Make the service, which is given the reactor, and return when it has started."""
        self._thread = get_reactor_thread()
        self._thread.check()
        self._service = make(self._thread.reactor)
        _clusters.add(self._service)
        try:
            self._thread.call(self._service.startService)
        except BaseException:
            self.close()
            raise

    def __enter__(self: _C) -> _C:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        service = getattr(self, "_service", None)
        if service in _clusters and self._thread.runs():
            self._thread.reactor.callFromThread(_stop, service)

    def close(self) -> None:
        """Stop all processes, remove their stores, and return when the processes are gone.

        Processes that have not ended after 10 seconds are killed.  Closing a closed cluster does nothing.
        """
        if self._thread.runs():
            self._thread.call(partial(_stop, self._service))

    @property
    def address(self) -> str:
        """The scheduler's address, as a Twisted endpoint description."""
        return self._service.address  # type: ignore[no-any-return]

    @property
    def workers(self) -> dict[str, Any]:
        """A dict of the names of the running workers to what runs them: a pid, or an engine's job."""
        return self._thread.call(lambda: self._service.workers)  # type: ignore[no-any-return]

    @property
    def dashboard_link(self) -> str:
        """What to open in a browser to see the scheduler's page; "" without the option ``http``."""
        return self._service.dashboard_link  # type: ignore[no-any-return]

    def _repr_html_(self) -> str:
        """For notebooks."""
        return self._thread.call(self._service._repr_html_)  # type: ignore[no-any-return]

    def scale(self, n: int) -> None:
        """Change the number of workers.

        New workers are started, or the youngest ones are told to leave; those hand over what only they hold first.  The method
        does not wait for either; see :meth:`Client.wait_for_workers`.  It ends :meth:`adapt`.

        Args:
            n: The number of workers, 0 to 10,000.

        Raises:
            TwistdistError: The cluster has ended.
            TypeError: ``n`` is not an integer.
            ValueError: ``n`` is out of range.
        """
        self._thread.call(lambda: self._service.scale(n))

    def adapt(
        self,
        minimum: int = 0,
        maximum: int | None = None,
        *,
        target_s: float | timedelta = 5.0,
        interval_s: float | timedelta = 1.0,
        patience_s: float | timedelta | None = None,
    ) -> None:
        self._thread.call(
            lambda: self._service.adapt(minimum, maximum, target_s=target_s, interval_s=interval_s, patience_s=patience_s)
        )

    adapt.__doc__ = clusters.Cluster.adapt.__doc__


class LocalCluster(Cluster):
    """A scheduler and workers on this machine.

    The constructor returns when all workers are ready.  The cluster ends with ``close()``, at the end of its ``with`` block,
    when the last reference to it is dropped, or when the script ends.  A worker process that dies is restarted.

    Args:
        n_workers: The number of workers, 0 to 10,000; by default the number of CPUs that this process may use.
        slots: How many tasks each worker runs at a time, 1 to 4,096.
        secret: The shared secret, at least 16 bytes; by default it is read from the secret file.
        **options: ``memory_limit``, ``executor_memory_limit``, ``checkpoint_store``, ``journal``, ``suspect_after``,
            ``dead_after``, ``http``, ``resources``, ``secret_file``, ``store``, ``spill``, ``host``, ``tls`` and
            ``preload``; see
            :class:`twistdist.LocalCluster`.

    Raises:
        TwistdistError: The scheduler or a worker does not start.
        ConfigError: A size or the secret is invalid, or ``suspect_after`` is not less than ``dead_after``.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
    """

    def __init__(self, n_workers: int | None = None, slots: int = 1, secret: str | bytes | None = None, **options: Any) -> None:
        self._start(lambda reactor: _LocalCluster(reactor, n_workers, slots, secret, **options))

    @property
    def scheduler(self) -> int:
        """The scheduler's pid; 0 while it is not running."""
        return self._thread.call(lambda: self._service.scheduler)  # type: ignore[no-any-return]

    def kill_worker(self, name: str, wipe: bool = False) -> None:
        """Kill a worker's control process with SIGKILL, for tests and demonstrations.  The worker is restarted.

        Args:
            name: The name of the worker.
            wipe: Also remove its store, as if its machine had been lost.

        Raises:
            KeyError: No running worker has this name.
        """
        self._thread.call(lambda: self._service.kill_worker(name, wipe))

    def kill_scheduler(self) -> None:
        """Kill the scheduler with SIGKILL, for tests and demonstrations.

        It is not restarted until :meth:`start_scheduler` is called.
        """
        self._thread.call(self._service.kill_scheduler)

    def start_scheduler(self) -> None:
        """Start a scheduler that was killed again, on the same address and journal.

        Nothing happens if it is running.  The method does not wait until the scheduler is ready.

        Raises:
            TwistdistError: The cluster has ended.
        """
        self._thread.call(self._service.start_scheduler)


class JobCluster(Cluster):
    """A cluster whose workers are jobs of an engine.

    The constructor returns when all workers have joined; with an engine whose jobs wait in a queue, as soon as it has taken
    the jobs (see :meth:`Client.wait_for_workers`).

    Args:
        engine: What starts and ends the jobs; see :doc:`clusters`.
        n_workers: The number of workers, 0 to 10,000.
        **options: See :class:`twistdist.clusters.jobs.JobCluster`.

    Raises:
        TwistdistError: The engine refuses, or the scheduler or a worker does not start.
        ConfigError: A size or the secret is invalid, or a package that is needed for encryption is not installed.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
    """

    def __init__(self, engine: Engine, n_workers: int = 0, **options: Any) -> None:
        self._start_jobs(lambda reactor: jobs.JobCluster(engine, n_workers, reactor=reactor, **options))

    def _start_jobs(self, make: Callable[[Any], jobs.JobCluster]) -> None:
        def make_ours(reactor: Any) -> jobs.JobCluster:
            service = make(reactor)
            service.on_news = logging.getLogger("twistdist").warning  # which a script shows on standard error
            return service

        self._start(make_ours)

    @property
    def ended(self) -> str:
        """Why the cluster has ended; "" while it has not."""
        return self._thread.call(lambda: self._service.ended)  # type: ignore[no-any-return]

    @property
    def cluster_name(self) -> str:
        """The cluster's full name."""
        return self._service.cluster_name  # type: ignore[no-any-return]

    @property
    def secret_file(self) -> str:
        """The file with the shared secret, for other programs; it exists while the cluster does."""
        return self._service.secret_file  # type: ignore[no-any-return]

    @property
    def tls(self) -> str:
        """The folder of certificates, for other programs; it exists while the cluster does."""
        return self._service.tls  # type: ignore[no-any-return]

    @property
    def jobs(self) -> dict[str, str]:
        """A dict of the engine's ids of all jobs of workers to what is known of each, in words."""
        return self._thread.call(lambda: self._service.jobs)  # type: ignore[no-any-return]

    def logs(self, n: int = 100) -> dict[str, list[str]]:
        """Return the last ``n`` lines that the jobs have written, by the name of the worker.

        They are those of the processes themselves, such as why one did not start; :meth:`Client.logs` has what tasks print.
        """
        return self._thread.call(lambda: self._service.logs(n))  # type: ignore[no-any-return]


class SSHCluster(JobCluster):
    """A cluster on hosts that are reached by ``ssh``; see :doc:`ssh`.

    The constructor returns when all workers have joined.

    Args:
        hosts: The hosts as for ssh: ``host``, ``user@host``, ``host:port``, or an alias of ``~/.ssh/config``.
        n_workers: The number of workers, 0 to 10,000; by default one for each host that was named.
        **options: ``python``, ``ssh_options``, ``folder``, ``scheduler_host``, ``contact``, ``grace`` and ``detach``: see
            :class:`twistdist.SSHCluster`; others: see :class:`JobCluster`.

    Raises:
        TwistdistError: A host has no Python that fits, the scheduler's host or all hosts can't be reached, or the scheduler or
            a worker does not start.
        ConfigError: A size or the secret is invalid, or a package that is needed for encryption is not installed.
        TypeError: An option is unknown or has the wrong type.
        ValueError: There is no host, one could be taken for an option of ssh, or an option is out of range.
    """

    def __init__(self, hosts: Iterable[str], n_workers: int | None = None, **options: Any) -> None:
        from twistdist.clusters.ssh import cluster

        self._start_jobs(lambda reactor: cluster.SSHCluster(hosts, n_workers, reactor=reactor, **options))


class SlurmCluster(JobCluster):
    """A cluster whose workers are batch jobs of Slurm; see :doc:`slurm`.

    The constructor returns as soon as Slurm has taken the jobs; see :meth:`Client.wait_for_workers`.

    Args:
        n_workers: The number of workers, each of which is one job; 0 to 10,000.
        **options: Those of the jobs, ``partition``, ``account``, ``time``, ``cpus``, ``memory``, ``gres``, ``signal``,
            ``directives``, ``prologue``, ``python``, ``folder`` and ``poll``; see
            :class:`~twistdist.clusters.slurm.SlurmEngine`.  All others are those of :class:`twistdist.JobCluster`.

    Raises:
        TwistdistError: Slurm refuses, or the scheduler does not start.
        ConfigError: An option is not what Slurm can take.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
    """

    def __init__(self, n_workers: int = 0, **options: Any) -> None:
        from twistdist.clusters import slurm

        self._start_jobs(lambda reactor: slurm.SlurmCluster(n_workers, reactor=reactor, **options))


class KubernetesCluster(JobCluster):
    """A cluster whose scheduler and workers are pods of Kubernetes; see :doc:`kubernetes`.

    The constructor returns when the scheduler is ready and the workers' pods were created; see
    :meth:`Client.wait_for_workers`.

    Args:
        n_workers: The number of workers, 0 to 10,000.
        image: The image of all pods.  It has Python and twistdist, in the versions of this program.
        **options: See :class:`twistdist.KubernetesCluster`.

    Raises:
        TwistdistError: The API server refuses or does not answer, or the scheduler does not start.
        ConfigError: A size or the secret is invalid, or the package ``kubernetes`` or one for encryption is not installed.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
    """

    def __init__(self, n_workers: int = 0, *, image: str, **options: Any) -> None:
        from twistdist.clusters import kubernetes

        self._start_jobs(lambda reactor: kubernetes.KubernetesCluster(n_workers, image=image, reactor=reactor, **options))
