"""concurrent.futures.ProcessPoolExecutor: one machine, and no scheduler."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.recovery.adapters.adapter import Adapter
from benchmarks.systems import processpool


class Recovering(processpool.Measured, Adapter):
    unsupported: ClassVar = {
        "node": "all of it is on one machine, and results are in the client",
        "head": "there is no scheduler process",
        "data": "values can't be put on workers",
    }

    def connect(self, address: str, workers: int) -> None:
        self.start(workers)

    def nodes(self) -> list[int]:
        return self.worker_pids()
