"""concurrent.futures.ProcessPoolExecutor: one machine, and no scheduler."""

from __future__ import annotations

import concurrent.futures
import platform
from typing import Any

from benchmarks.systems.system import System


class Measured(System):
    def versions(self) -> dict[str, str]:
        return {"ProcessPoolExecutor": platform.python_version()}

    def start(self, workers: int) -> None:
        self._pool: Any = concurrent.futures.ProcessPoolExecutor(workers)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, fn: Any, *args: Any, on: str | None = None) -> Any:
        return self._pool.submit(fn, *args)

    def result(self, handle: Any, timeout: float | None = None) -> Any:
        return handle.result(timeout)

    def wait(self, handles: Any) -> None:
        concurrent.futures.wait(handles)

    def map(self, fn: Any, items: Any) -> list[Any]:
        return list(self._pool.map(fn, items, chunksize=64))

    def roles(self) -> dict[int, str]:
        return dict.fromkeys(self.worker_pids(), "executors")

    def worker_pids(self) -> list[int]:
        return list(self._pool._processes or ())
