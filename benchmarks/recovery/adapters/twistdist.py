"""twistdist with processes of twistd, each worker on a host of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.recovery.adapters.adapter import Adapter
from benchmarks.recovery.outcomes import until
from benchmarks.systems import twistdist
from benchmarks.systems.system import free_port, scratch


class Recovering(twistdist.Measured, Adapter):
    """The scheduler has a journal, as in every cluster that twistdist's classes start."""

    settings = "replicas=2, --dead-after 3, session= and pure=True"
    resilient_in = frozenset({"node", "stopped", "client"})

    def start_cluster(self, workers: int) -> None:
        self._port = free_port()
        self.address = f"tcp:127.0.0.1:{self._port}"
        self.start_scheduler()
        self._nodes = {f"w{n}": self._worker(f"w{n}") for n in range(workers)}

    def _worker(self, name: str) -> subprocess.Popen[bytes]:
        folders = ["--store", scratch(f"{name}-store"), "--spill", scratch(f"{name}-spill")]
        # Workers with different values do not read one another's files, as if they were on different machines.
        return _twistd("worker", self.address, "--name", name, "--slots", "1", *folders, TWISTDIST_HOST=name)

    def start_scheduler(self) -> None:
        patience = ["--dead-after", "3"] if self.resilient else []
        listen = f"tcp:{self._port}:interface=127.0.0.1"
        self._scheduler = _twistd("scheduler", "--listen", listen, "--journal", scratch("journal.sqlite"), *patience)

    def connect(self, address: str, workers: int) -> None:
        from twistdist.blocking import Client

        self.client = Client(address, session="recovery" if self.resilient else None, timeout=60)
        self.client.wait_for_workers(workers, timeout=60)

    def submit(self, fn: Any, *args: Any, on: str | None = None) -> Any:
        return self.client.submit(fn, *args, replicas=2) if self.resilient else self.client.submit(fn, *args)

    def submit_again(self, fn: Any, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        if not self.resilient:
            return super().submit_again(fn, arguments)
        return [self.client.submit(fn, *one, pure=True) for one in arguments]

    def scatter(self, value: Any) -> Any:
        return self.client.scatter(value)

    def settled(self, tasks: Sequence[Any]) -> None:
        if self.resilient:
            until(lambda: all(len(names) >= 2 for names in self.client.who_has(tasks).values()), 60)

    def nodes(self) -> list[int]:
        return [process.pid for process in self._nodes.values()]

    def head(self) -> list[int]:
        return [self._scheduler.pid]

    def holder_of(self, handle: Any) -> int:
        [names] = self.client.who_has([handle]).values()
        return self._nodes[names[0]].pid


def _twistd(role: str, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    twistd = str(pathlib.Path(sys.executable).with_name("twistd"))
    command = [twistd, "-n", "--pidfile=", f"twistdist-{role}", *arguments]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
