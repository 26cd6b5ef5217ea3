"""W8, W13 and W14: what happens to the cost of a task when there are many tasks or workers."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import functions
from benchmarks.figures import LOWER, Figure, Scale, costs
from benchmarks.meter import Meter, resident
from benchmarks.systems.system import System, scratch

REPEATS = 10


def _memory(system: Any) -> dict[str, int]:
    system.client.status()  # everything that was sent before has been dealt with
    return {"scheduler": resident(system.cluster.scheduler), "client": resident(os.getpid())}


def pending(system: Any, scale: Scale) -> Iterator[Figure]:
    """W8: memory of tasks that can't run yet, and how fast they run when they can."""
    count, path = scale(100_000, 1000), scratch("gate")
    blocked = system.submit(functions.gate, path)
    before = _memory(system)
    with Meter(system.roles()) as meter:
        tasks = [system.submit(functions.add, blocked, i) for i in range(count)]
        after = _memory(system)
    for role, was in before.items():
        yield Figure(f"memory, {role}", (after[role] - was) / count, "bytes/task", LOWER)
    yield from costs("submit", count, meter)
    with Meter(system.roles()) as meter:
        open(path, "w").close()
        assert system.gather(tasks) == list(range(count))
    yield from costs("drain", count, meter)


def numbers(system: Any, scale: Scale) -> Iterator[Figure]:
    """W13: more and more tasks, the same number again and again, and memory after all were released."""
    sizes = [100, 1000] if scale.quick else [1000, 10_000, 100_000, *([1_000_000] if scale.full else [])]
    before = _memory(system)
    cpu = []
    for size in sizes:
        with Meter(system.roles()) as meter:
            futures = system.client.map(functions.inc, range(size))
            assert system.gather(futures)[-1] == size
        cpu.append(meter.cpu / size * 1e6)
        yield Figure(f"{size:,} tasks: CPU", cpu[-1], "µs/task", LOWER)
        held = _memory(system)
        del futures
    yield Figure("most expensive size", 100 * (max(cpu) / min(cpu) - 1), "% above cheapest", LOWER)
    repeated = [_cost(system, scale(10_000, 300)) for _ in range(REPEATS)]
    slower = statistics.median(repeated[-3:]) / statistics.median(repeated[:3]) - 1
    yield Figure(f"last 3 of {REPEATS} repeats", 100 * slower, "% above first 3", LOWER)
    left = _released(system)
    for role, was in before.items():
        yield Figure(f"memory with {sizes[-1]:,} values, {role}", (held[role] - was) / 2**20, "MiB more")
        yield Figure(f"memory after release, {role}", (left[role] - was) / 2**20, "MiB more")


def _cost(system: System, count: int) -> float:
    with Meter(system.roles()) as meter:
        system.map(functions.inc, range(count))
    return meter.cpu / count * 1e6


def _released(system: Any) -> dict[str, int]:
    """Memory when the scheduler has forgotten all tasks."""
    gc.collect()
    end = time.monotonic() + 60
    while any(system.client.status()["tasks"].values()):
        if time.monotonic() > end:
            raise RuntimeError("released tasks are still known after a minute")
        time.sleep(0.01)
    return _memory(system)


def core(system: System, scale: Scale) -> Iterator[Figure]:
    """W14: the scheduler's core in this process, with simulated workers of one slot and no sockets."""
    from twistdist.testing.driving import SchedulerDrive

    count, cost = scale(100_000, 2000), {}
    for workers in (2, 20, 200, 2000):
        drive = SchedulerDrive(workers)
        drive.run(count // 10)
        gc.collect()
        began = time.process_time()
        drive.run(count)
        cost[workers] = (time.process_time() - began) / count * 1e6
        yield Figure(f"{workers:,} workers: CPU", cost[workers], "µs/task", LOWER)
    yield Figure("2,000 workers", cost[2000] / cost[2], "times the CPU with 2", LOWER)
