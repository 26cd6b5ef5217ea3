"""Ray: one node with one CPU for each worker."""

from __future__ import annotations

import os
import signal
from typing import Any

from benchmarks.meter import command_of, family
from benchmarks.systems.system import DEPENDENCIES, SCATTER, SCHEDULER, System, scratch


def _role(command: str) -> str:
    if "gcs_server" in command or "raylet/raylet" in command:
        return "scheduler"
    return "executors" if command.startswith("ray::") else "workers"  # agents and monitors


def prepare() -> None:
    """Have Ray report nothing, and write into this run's folder."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_TMPDIR=scratch(""), RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")


class Measured(System):
    distributions = ("ray",)
    modules = ("ray",)
    features = frozenset({DEPENDENCIES, SCATTER, SCHEDULER})

    def start(self, workers: int) -> None:
        prepare()
        import ray

        self._ray, self._remote = ray, {}  # type: ignore[var-annotated]
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def close(self) -> None:
        self._ray.shutdown()

    def submit(self, fn: Any, *args: Any, on: str | None = None) -> Any:
        if fn not in self._remote:
            self._remote[fn] = self._ray.remote(fn)
        return self._remote[fn].remote(*args)

    def result(self, handle: Any, timeout: float | None = None) -> Any:
        return self._ray.get(handle, timeout=timeout)

    def wait(self, handles: Any) -> None:
        self._ray.wait(handles, num_returns=len(handles), fetch_local=False)

    def gather(self, handles: Any) -> list[Any]:
        return list(self._ray.get(handles))

    def scatter(self, value: Any) -> Any:
        return self._ray.put(value)

    def roles(self) -> dict[int, str]:
        return {pid: _role(command_of(pid)) for pid in family(os.getpid()) if pid != os.getpid()}

    def worker_pids(self) -> list[int]:
        return [pid for pid, role in self.roles().items() if role == "executors"]

    def kill_scheduler(self) -> None:
        """The process that knows the cluster; it can't be started again by hand."""
        os.kill(next(pid for pid in family(os.getpid()) if "gcs_server" in command_of(pid)), signal.SIGKILL)
