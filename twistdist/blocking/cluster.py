"""A cluster on this machine, for scripts."""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
from functools import partial
from typing import Any

from twistdist.blocking.reactor_thread import get_reactor_thread, runs_here
from twistdist.net.bound import BoundToProcess
from twistdist.net.cluster import STOP_S
from twistdist.net.cluster import LocalCluster as _LocalCluster

#: The clusters that were started and have not ended.  They are stopped when the process exits.
_clusters: set[_LocalCluster] = set()


@atexit.register
def _end_clusters() -> None:
    for service in list(_clusters) if runs_here() else ():
        with contextlib.suppress(concurrent.futures.TimeoutError):  # its processes notice that this one is gone
            get_reactor_thread().call(partial(_stop, service), STOP_S + 1.0)


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
        self._thread = get_reactor_thread()
        self._thread.check()
        self._service = _LocalCluster(self._thread.reactor, n_workers, slots, secret, **options)
        _clusters.add(self._service)
        try:
            self._thread.call(self._service.startService)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalCluster:
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
        return self._service.address

    @property
    def workers(self) -> dict[str, int]:
        """A dict of the names of the running workers to the pids of their control processes."""
        return self._thread.call(lambda: self._service.workers)  # type: ignore[no-any-return]

    @property
    def scheduler(self) -> int:
        """The scheduler's pid; 0 while it is not running."""
        return self._thread.call(lambda: self._service.scheduler)  # type: ignore[no-any-return]

    @property
    def dashboard_link(self) -> str:
        """What to open in a browser to see the scheduler's state; "" without the option ``http``."""
        return self._service.dashboard_link

    def _repr_html_(self) -> str:
        """For notebooks."""
        return self._thread.call(self._service._repr_html_)  # type: ignore[no-any-return]

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
        self._thread.call(lambda: self._service.scale(n))
