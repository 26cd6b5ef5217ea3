"""What the systems are given to do.

A workload is a generator of figures.  It is given a system that has been started and has run some tasks, and a scale.  Each
figure is stored as soon as it is known, so that a run that hangs leaves those that came before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.figures import Figure, Scale
from benchmarks.systems.system import SCHEDULER
from benchmarks.workloads import data, faults, growth, journal, startup, tasks


@dataclasses.dataclass(frozen=True)
class Workload:
    """A workload, with what the harness must know.

    ``workers`` are started before it is run; 0: it starts what it needs.  After ``limit_s`` seconds it counts as hung.
    ``ours_only`` says why only twistdist is measured.  Systems without all of ``needs`` are left out.
    """

    name: str
    title: str
    run: Callable[[Any, Scale], Iterator[Figure]]
    workers: int = 2
    limit_s: float = 300.0
    ours_only: str = ""
    needs: frozenset[str] = frozenset()


_MEMORY = "measures the memory of our processes"
_GROWTH = "compares twistdist with itself"

ALL = {
    workload.name: workload
    for workload in (
        Workload("w1", "10,000 no-op tasks", tasks.no_op),
        Workload("w2", "one task at a time", tasks.round_trip),
        Workload("w3", "sum of 4,096 leaves in pairs", tasks.tree),
        Workload("w4", "chain of 1,000 tasks", tasks.chain),
        Workload("w5", "256 MiB array", data.array),
        Workload("w6", "short tasks", tasks.efficiency),
        Workload("w7", "200 results of 1 MiB on 3 workers, one killed", data.loss, workers=3),
        Workload("w8", "100,000 tasks that wait for one", growth.pending, limit_s=600, ours_only=_MEMORY),
        Workload("w9", "one segmentation fault among 200 x 10 ms", faults.poison, limit_s=180),
        Workload("w10", "scheduler killed in 5,000 x 10 ms", faults.scheduler, limit_s=240, needs=frozenset({SCHEDULER})),
        Workload("w11", "worker stopped by SIGSTOP", faults.stopped, limit_s=180),
        Workload("w12", "start to first result", startup.first, workers=0),
        Workload("w13", "growing numbers of tasks", growth.numbers, limit_s=900, ours_only=_GROWTH),
        Workload("w14", "scheduler core alone", growth.core, workers=0, limit_s=600, ours_only="drives our scheduler's core"),
        Workload("w15", "journal on and off", journal.journal, workers=0, limit_s=600, ours_only="compares our settings"),
    )
}
