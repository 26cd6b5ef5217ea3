"""twistdist through its blocking API."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
from typing import Any

from benchmarks.meter import family
from benchmarks.systems.system import DEPENDENCIES, RESTART, SCATTER, SCHEDULER, System, scratch


class Measured(System):
    """A ``LocalCluster`` and a client; ``options`` are those of the cluster."""

    distributions = ("twistdist",)
    modules = ("twistdist", "twisted")
    features = frozenset({DEPENDENCIES, RESTART, SCATTER, SCHEDULER})

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._stack = contextlib.ExitStack()

    def versions(self) -> dict[str, str]:
        import twistdist
        import twisted

        return {"twistdist": twistdist.__version__, "Twisted": twisted.__version__}

    def start(self, workers: int) -> None:
        from twistdist.blocking import Client, LocalCluster

        self.cluster = self._stack.enter_context(LocalCluster(workers, **self._options))
        self.client = self._stack.enter_context(Client(self.cluster.address))
        self.client.wait_for_workers(workers, timeout=60)

    def close(self) -> None:
        self._stack.close()

    def submit(self, fn: Any, *args: Any, on: str | None = None) -> Any:
        return self.client.submit(fn, *args) if on is None else self.client.submit(fn, *args, workers=[on])

    def result(self, handle: Any, timeout: float | None = None) -> Any:
        return handle.result(timeout)

    def wait(self, handles: Any) -> None:
        from twistdist.blocking import wait

        wait(handles)

    def gather(self, handles: Any) -> list[Any]:
        return list(self.client.gather(handles))

    def map(self, fn: Any, items: Any) -> list[Any]:
        return self.gather(self.client.map(fn, items))

    def scatter(self, value: Any) -> Any:
        return self.client.scatter(value, replicas=1, workers=self.workers()[:1])

    def workers(self) -> list[str]:
        return sorted(self.cluster.workers)

    def far_worker(self) -> str:
        """A worker that takes itself to be on another host, so that it maps nobody's files."""
        twistd = pathlib.Path(sys.executable).with_name("twistd")
        options = ["--name", "far", "--slots", "1", "--store", scratch("far")]
        environment = {**os.environ, "TWISTDIST_HOST": "far"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [str(twistd), "-n", "--pidfile=", "twistdist-worker", self.cluster.address, *options]
        far = subprocess.Popen(command, env=environment, **quiet)  # type: ignore[call-overload]
        self._stack.callback(far.wait)
        self._stack.callback(far.terminate)
        self.client.wait_for_workers(len(self.cluster.workers) + 1, timeout=60)
        return "far"

    def roles(self) -> dict[int, str]:
        controls = set(self.worker_pids())
        below = {pid: "executors" for pid, parent in family(os.getpid()).items() if parent in controls}
        return {self.cluster.scheduler: "scheduler", **dict.fromkeys(controls, "workers"), **below}

    def worker_pids(self) -> list[int]:
        return list(self.cluster.workers.values())

    def worker_of(self, pid: int) -> list[int]:
        return next(list(tree) for control in self.worker_pids() if pid in (tree := family(control)))

    def kill_scheduler(self) -> None:
        self.cluster.kill_scheduler()

    def start_scheduler(self) -> None:
        self.cluster.start_scheduler()
