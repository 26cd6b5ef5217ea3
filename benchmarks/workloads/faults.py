"""W9 to W11: what faults cost."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks import functions
from benchmarks.figures import LOWER, Figure, Scale
from benchmarks.meter import parents
from benchmarks.recovery.injection import at_work, ran, standing_still
from benchmarks.recovery.outcomes import TIMEOUTS, Outcomes, submitted, until
from benchmarks.systems.system import System, scratch
from benchmarks.waiting import Waiting

#: Seconds after which a task that has not ended is said to hang.
PATIENCE_S = 30.0


def poison(system: System, scale: Scale) -> Iterator[Figure]:
    """W9: the same tasks without and with one that kills its process."""
    count, log, dying = scale(200, 20), scratch("innocent"), scratch("poison")
    began = time.perf_counter()
    system.gather([system.submit(functions.nap, 0.01, i) for i in range(count)])
    without = time.perf_counter() - began
    workers = system.worker_pids()
    began = time.perf_counter()
    tasks = [submitted(system, functions.noted_nap, log, 0.01, i) for i in range(count // 4)]
    verdict = Waiting(system.result, system.submit(functions.poison, dying), 2 * PATIENCE_S)
    tasks += [submitted(system, functions.noted_nap, log, 0.01, i) for i in range(count // 4, count)]
    outcomes = Outcomes(system, tasks, 2 * PATIENCE_S)
    seconds = time.perf_counter() - began
    verdict.join()
    yield Figure("innocents failed", count - outcomes.right, "tasks", LOWER)
    yield Figure("innocents executed again", max(0, ran(log) - count), "tasks", LOWER)
    yield Figure("poison executed", ran(dying), "times")
    yield Figure("workers lost", len(set(workers) - set(parents())), "", LOWER)
    if verdict.error is not None and not isinstance(verdict.error, TIMEOUTS):
        yield Figure("verdict after", verdict.seconds, "s", LOWER)
    if outcomes.right == count:
        yield Figure("longer", 100 * (seconds / without - 1), "%", LOWER)


def scheduler(system: System, scale: Scale) -> Iterator[Figure]:
    """W10: kill the scheduler when half of the tasks are done, and start it again where that is possible."""
    count, log = scale(5000, 100), scratch("log")
    began = time.perf_counter()
    tasks = [system.submit(functions.noted_nap, log, 0.01, i) for i in range(count)]
    until(lambda: ran(log, "end") >= count // 2, 120)
    half = time.perf_counter() - began
    system.kill_scheduler()
    system.start_scheduler()
    outcomes = Outcomes(system, tasks, 4 * PATIENCE_S)
    yield Figure("lost", count - outcomes.right, "tasks", LOWER)
    yield Figure("executed again", max(0, ran(log) - count), "tasks", LOWER)
    if outcomes.right == count:
        yield Figure("longer than twice the first half", time.perf_counter() - began - 2 * half, "s", LOWER)


def stopped(system: System, scale: Scale) -> Iterator[Figure]:
    """W11: stop a worker that holds results and runs a task."""
    count, size, log = scale(40, 12), 1 << 20, scratch("log")
    held = [system.submit(functions.block, scratch("made"), size, i) for i in range(count)]
    system.wait(held)
    tasks = [system.submit(functions.noted_nap, log, 0.1, i) for i in range(count)]
    until(lambda: ran(log, "end") >= 4)
    [running, pid] = until(lambda: at_work(log))
    with standing_still(system.worker_of(pid)):
        began = time.perf_counter()
        gathered = Waiting(system.gather, held)
        others = Outcomes(system, [task for i, task in enumerate(tasks) if i != running], PATIENCE_S)
        others_s = time.perf_counter() - began
        last = Outcomes(system, [tasks[running]], PATIENCE_S - others_s)
        all_s = time.perf_counter() - began
        hanging = others.pending + last.pending
        yield Figure(f"tasks that hang after {PATIENCE_S:g} s", hanging, "tasks", LOWER)
        if not others.pending:
            yield Figure("other tasks done after", others_s, "s", LOWER)
        if not hanging:
            yield Figure("all done after", all_s, "s", LOWER)
        gathered.join(max(0.1, PATIENCE_S - all_s))
        if not gathered.is_alive() and gathered.error is None:
            yield Figure("its results gathered after", gathered.seconds, "s", LOWER)
