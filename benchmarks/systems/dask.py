"""dask.distributed with a scheduler process, and each worker below a nanny."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from benchmarks.meter import parents
from benchmarks.systems.system import DEPENDENCIES, RESTART, SCATTER, SCHEDULER, System, free_port, scratch


class Measured(System):
    distributions = ("distributed",)
    modules = ("distributed",)
    features = frozenset({DEPENDENCIES, RESTART, SCATTER, SCHEDULER})

    def start(self, workers: int) -> None:
        self.start_cluster(workers)
        self.connect(self.address, workers)

    def start_cluster(self, workers: int) -> None:
        self._port = free_port()
        self.start_scheduler()
        self.address = f"tcp://127.0.0.1:{self._port}"
        options = ["--nworkers", "1", "--nthreads", "1", "--local-directory", scratch("dask")]
        self._nannies = [self._spawn("dask_worker", self.address, "--name", f"w{n}", *options) for n in range(workers)]

    def connect(self, address: str, workers: int) -> None:
        from distributed import Client

        self._client = Client(address, timeout=60)
        self._client.wait_for_workers(workers, timeout=60)

    def _spawn(self, role: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{role}", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        self._client.close(timeout=5)
        for process in (*self._nannies, self._scheduler):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def submit(self, fn: Any, *args: Any, on: str | None = None) -> Any:
        return self._client.submit(fn, *args, pure=False, workers=None if on is None else [on])

    def result(self, handle: Any, timeout: float | None = None) -> Any:
        return handle.result(timeout)

    def wait(self, handles: Any) -> None:
        from distributed import wait

        wait(handles)

    def gather(self, handles: Any) -> list[Any]:
        return list(self._client.gather(handles))

    def fetch(self, handle: Any) -> Any:
        return self._client.gather(handle, direct=True)  # hangs if a worker has died, so it is not used elsewhere

    def map(self, fn: Any, items: Any) -> list[Any]:
        return self.gather(self._client.map(fn, items, pure=False))

    def scatter(self, value: Any) -> Any:
        return self._client.scatter(value, workers=self.workers()[:1], direct=True, hash=False)

    def workers(self) -> list[str]:
        return [f"w{n}" for n in range(len(self._nannies))]

    def far_worker(self) -> str:
        return self.workers()[1]

    def roles(self) -> dict[int, str]:
        nannies = {process.pid: "workers" for process in self._nannies}
        return {self._scheduler.pid: "scheduler", **nannies, **dict.fromkeys(self.worker_pids(), "executors")}

    def worker_pids(self) -> list[int]:
        return list(self._client.run(os.getpid).values())

    def worker_of(self, pid: int) -> list[int]:
        return [pid, parents()[pid]]

    def kill_scheduler(self) -> None:
        self._scheduler.kill()
        self._scheduler.wait()

    def start_scheduler(self) -> None:
        self._scheduler = self._spawn("dask_scheduler", "--port", str(self._port))
