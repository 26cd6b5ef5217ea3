"""Ray: a head without workers, and nodes of one CPU."""

from __future__ import annotations

import os
import subprocess
from typing import Any, ClassVar

from benchmarks.meter import command_of, family
from benchmarks.recovery.adapters.adapter import Adapter
from benchmarks.systems import ray
from benchmarks.systems.system import DEPENDENCIES, RESTART, SCATTER, SCHEDULER, free_port, scratch

#: Bytes of shared memory of each node.
STORE_BYTES = 300 << 20


class Recovering(ray.Measured, Adapter):
    settings = "RAY_gcs_storage=rocksdb (alpha), and its server is started again"
    resilient_in = frozenset({"head"})
    unsupported: ClassVar = {
        "data": "what a client puts lies in the store of its own node, and ends with that node and the client",
    }

    @property
    def features(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({DEPENDENCIES, SCATTER, SCHEDULER, *([RESTART] if self.resilient else [])})

    def start_cluster(self, workers: int) -> None:
        ray.prepare()
        if self.resilient:
            os.makedirs(scratch("gcs"), exist_ok=True)
            os.environ.update(RAY_gcs_storage="rocksdb", RAY_gcs_storage_path=scratch("gcs"))
        from ray.cluster_utils import Cluster

        common = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
        head = {"num_cpus": 0, "gcs_server_port": free_port(), **common}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(workers):
            self._cluster.add_node(num_cpus=1, **common)
        self.address = self._cluster.address

    def connect(self, address: str, workers: int) -> None:
        ray.prepare()
        import ray as module

        self._ray, self._remote = module, {}
        module.init(address=address, log_to_driver=False, logging_level="ERROR")

    def nodes(self) -> list[int]:
        return [node.all_processes["raylet"][0].process.pid for node in self._cluster.worker_nodes]

    def head(self) -> list[int]:
        [server] = [pid for pid in family(os.getpid()) if "gcs/gcs_server" in command_of(pid)]
        with open(f"/proc/{server}/cmdline", "rb") as stream:
            self._command = stream.read().split(b"\0")[:-1]
        return [server]

    def start_scheduler(self) -> None:
        """Start the server of the head again, by the command that started it first."""
        subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        super().close()
        self._cluster.shutdown()

    def holder_of(self, handle: Any) -> int:
        raise NotImplementedError(self.unsupported["data"])
