"""What a workload reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks.meter import Meter

HIGHER, LOWER = "higher", "lower"

#: The roles of processes, in the order in which a table shows them.
ROLES = ("client", "scheduler", "workers", "executors")


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured value; ``better`` is ``HIGHER``, ``LOWER``, or "" if it can't be compared."""

    name: str
    value: float
    unit: str
    better: str = ""

    def plain(self) -> dict[str, Any]:
        """What is stored of it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large workloads are; ``quick``: just large enough to run at all, ``full``: with a million tasks too."""

    quick: bool = False
    full: bool = False

    def __call__(self, usual: int, quick: int) -> int:
        """One of the two."""
        return quick if self.quick else usual


def costs(name: str, tasks: int, meter: Meter) -> Iterator[Figure]:
    """Tasks a second, and CPU time a task in all and by role."""
    yield Figure(name, tasks / meter.seconds, "tasks/s", HIGHER)
    yield Figure(f"{name}: CPU", meter.cpu / tasks * 1e6, "µs/task", LOWER)
    for role in ROLES:
        if role in meter.by_role:
            yield Figure(f"{name}: CPU, {role}", meter.by_role[role] / tasks * 1e6, "µs/task")
