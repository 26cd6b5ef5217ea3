"""What an adapter provides."""

from __future__ import annotations

import importlib.metadata
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any

#: Futures may be arguments of tasks; a value can be placed on a worker; a scheduler can be killed, and started again.
DEPENDENCIES, SCATTER, SCHEDULER, RESTART = "dependencies", "scatter", "scheduler", "restart"


class System:
    """A system whose workers have one slot each.  ``submit`` returns a handle, which may be an argument with ``DEPENDENCIES``.

    ``distributions`` are what pip installs and ``modules`` what must be importable.
    """

    distributions: Sequence[str] = ()
    modules: Sequence[str] = ()
    features: frozenset[str] = frozenset()

    def versions(self) -> dict[str, str]:
        """The versions of its distributions."""
        return {name: importlib.metadata.version(name) for name in self.distributions}

    def start(self, workers: int) -> None:
        """Start that many workers, and return when all of them are ready."""
        raise NotImplementedError

    def close(self) -> None:
        """End all processes."""
        raise NotImplementedError

    def submit(self, fn: Any, *args: Any, on: str | None = None) -> Any:
        """Submit a task and return its handle; ``on``: a name in ``workers()`` of the one to run it."""
        raise NotImplementedError

    def result(self, handle: Any, timeout: float | None = None) -> Any:
        """A task's value.  Raises some ``TimeoutError`` after ``timeout`` seconds."""
        raise NotImplementedError

    def wait(self, handles: Sequence[Any]) -> None:
        """Return when all tasks have ended, without fetching values."""
        raise NotImplementedError

    def gather(self, handles: Sequence[Any]) -> list[Any]:
        """The values of several tasks."""
        return [self.result(handle) for handle in handles]

    def fetch(self, handle: Any) -> Any:
        """A large value, by the fastest way that the system offers."""
        return self.result(handle)

    def map(self, fn: Any, items: Iterable[Any]) -> list[Any]:
        """The value of each item, in the way that the system recommends for many tasks."""
        return self.gather([self.submit(fn, item) for item in items])

    def scatter(self, value: Any) -> Any:
        """Put a value on a worker and return its handle."""
        raise NotImplementedError

    def workers(self) -> list[str]:
        """The names of workers that tasks can be sent to; none if a task can't choose."""
        return []

    def far_worker(self) -> str | None:
        """The name of a worker that gets data of ``workers()[0]`` over TCP; None if there is no such one."""
        return None

    def roles(self) -> dict[int, str]:
        """The role of each process, besides this one: "scheduler", "workers" (their control) or "executors" (of tasks)."""
        return {}

    def worker_pids(self) -> list[int]:
        """The processes that the system itself takes for its workers."""
        raise NotImplementedError

    def worker_of(self, pid: int) -> list[int]:
        """The processes of the worker whose tasks run in ``pid``.  The worker is lost when the first one is."""
        return [pid]

    def kill_scheduler(self) -> None:
        """Kill the scheduler with SIGKILL."""
        raise NotImplementedError

    def start_scheduler(self) -> None:
        """Start it again, as an operator would, if the system has a way to."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def scratch(name: str) -> str:
    """A path in this run's folder, which is removed when the run ends."""
    return os.path.join(os.getcwd(), name)
