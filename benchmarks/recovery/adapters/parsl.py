"""Parsl's HighThroughputExecutor: each node is a block with a manager and a worker.  It lives in its client."""

from __future__ import annotations

import concurrent.futures
import os
import sys
from typing import Any, ClassVar

from benchmarks.meter import command_of, family
from benchmarks.recovery.adapters.adapter import Adapter
from benchmarks.recovery.outcomes import until
from benchmarks.systems.system import DEPENDENCIES, SCHEDULER, scratch


class Recovering(Adapter):
    distributions = ("parsl",)
    modules = ("parsl",)
    features = frozenset({DEPENDENCIES, SCHEDULER})
    settings = (
        "retries=3, heartbeat_period=2 and heartbeat_threshold=10, BasicMemoizer(checkpoint_mode='task_exit') with cache=True"
    )
    resilient_in = frozenset({"task", "node", "poison", "stopped", "client"})
    unsupported: ClassVar = {"data": "values can't be put on workers"}

    def connect(self, address: str, workers: int) -> None:
        import parsl
        from parsl.dataflow.memoization import BasicMemoizer
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        # The programs of manager and interchange are looked for there.
        os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
        self._parsl, self._apps = parsl, {}  # type: ignore[var-annotated]
        folder = scratch("parsl")
        blocks = LocalProvider(init_blocks=workers, min_blocks=workers, max_blocks=workers)
        beats = {"heartbeat_period": 2, "heartbeat_threshold": 10} if self.resilient else {}
        one = {"max_workers_per_node": 1, "cores_per_worker": 1e-6}
        htex = HighThroughputExecutor(label="htex", address="127.0.0.1", provider=blocks, **one, **beats)
        # It finds what earlier processes have written to the same folder.
        kept = {"retries": 3, "memoizer": BasicMemoizer(checkpoint_mode="task_exit")} if self.resilient else {}
        parsl.load(parsl.Config(executors=[htex], run_dir=folder, initialize_logging=False, **kept))
        until(lambda: len(htex.connected_managers()) >= workers, 120)

    def submit(self, fn: Any, *args: Any, on: str | None = None) -> Any:
        if fn not in self._apps:
            # What is in the checkpoints of an earlier process is not executed again.
            self._apps[fn] = self._parsl.python_app(fn, cache=self.resilient)
        return self._apps[fn](*args)

    def result(self, handle: Any, timeout: float | None = None) -> Any:
        return handle.result(timeout)

    def wait(self, handles: Any) -> None:
        concurrent.futures.wait(handles)

    def nodes(self) -> list[int]:
        tree = family(os.getpid())
        managers = {pid for pid in tree if "process_worker_pool.py" in command_of(pid)}
        return [pid for pid in managers if tree[pid] not in managers]

    def head(self) -> list[int]:
        return [pid for pid in family(os.getpid()) if "interchange" in command_of(pid)][:1]
