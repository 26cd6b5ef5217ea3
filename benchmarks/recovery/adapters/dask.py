"""dask.distributed: each node is a nanny with a worker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.recovery.adapters.adapter import Adapter
from benchmarks.systems import dask


class Recovering(dask.Measured, Adapter):
    settings = (
        "distributed.scheduler.worker-ttl 10 s, scatter(broadcast=True) with distributed.scheduler.active-memory-manager.start "
        "off, publish_dataset"
    )
    resilient_in = frozenset({"stopped", "data", "client"})

    def start_cluster(self, workers: int) -> None:
        if self.resilient:
            os.environ["DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL"] = "10s"
            os.environ["DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__START"] = "False"
        super().start_cluster(workers)

    def submit_again(self, fn: Any, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        job = str(arguments[0][0])  # its log
        if self.resilient and job in self._client.list_datasets():
            return list(self._client.get_dataset(job))
        tasks = super().submit_again(fn, arguments)
        if self.resilient:
            self._client.publish_dataset(tasks, name=job)
        return tasks

    def scatter(self, value: Any) -> Any:
        return self._client.scatter(value, broadcast=self.resilient, hash=False)

    def nodes(self) -> list[int]:
        return [nanny.pid for nanny in self._nannies]

    def head(self) -> list[int]:
        return [self._scheduler.pid]

    def holder_of(self, handle: Any) -> int:
        [addresses] = self._client.who_has([handle]).values()
        name: str = self._client.scheduler_info(n_workers=-1)["workers"][addresses[0]]["name"]
        return self._nannies[self.workers().index(name)].pid
