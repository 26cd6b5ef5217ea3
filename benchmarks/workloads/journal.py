"""W15: what the journal costs, and how long a restart from it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from benchmarks import functions
from benchmarks.figures import HIGHER, LOWER, Figure, Scale
from benchmarks.meter import Meter
from benchmarks.recovery.outcomes import until
from benchmarks.systems.system import scratch
from benchmarks.systems.twistdist import Measured

PAIRS = 3


def journal(system: Measured, scale: Scale) -> Iterator[Figure]:
    """No-op tasks with and without a journal in turn; then a scheduler with many tasks is killed."""
    count = scale(10_000, 300)
    cpu: dict[str, list[float]] = {"on": [], "off": []}
    rate: dict[str, list[float]] = {"on": [], "off": []}
    for _ in range(PAIRS):
        for setting, options in (("on", {}), ("off", {"journal": "none"})):
            meter = _mapped(Measured(**options), count)
            cpu[setting].append(meter.cpu / count * 1e6)
            rate[setting].append(count / meter.seconds)
    for setting in cpu:
        yield Figure(f"map, journal {setting}", statistics.median(rate[setting]), "tasks/s", HIGHER)
        yield Figure(f"map, journal {setting}: CPU", statistics.median(cpu[setting]), "µs/task", LOWER)
    more = statistics.median(cpu["on"]) / statistics.median(cpu["off"]) - 1
    yield Figure("more CPU with it", 100 * more, "%", LOWER)
    yield from _restart(system, scale(100_000, 1000))


def _mapped(system: Measured, count: int) -> Meter:
    system.start(2)
    system.map(functions.inc, range(count))
    with Meter(system.roles()) as meter:
        system.map(functions.inc, range(count))
    system.close()
    return meter


def _restart(system: Measured, tasks: int) -> Iterator[Figure]:
    """A scheduler with ``tasks`` tasks, half of them done and two running, is killed and started again."""
    system.start(2)
    client, go = system.client, scratch("go")
    done = client.map(functions.inc, range(tasks // 2))
    client.gather(done)
    begun = [client.submit(functions.gate, go) for _ in range(2)]
    until(lambda: _running(system) == 2)
    left = client.map(functions.inc, range(tasks // 2))
    yield Figure("journal", client.status()["journal"]["bytes"] / tasks, "bytes/task", LOWER)
    system.kill_scheduler()
    began = time.perf_counter()
    system.start_scheduler()
    client.status(timeout=120)
    yield Figure(f"restart with {tasks:,} tasks: answers after", time.perf_counter() - began, "s", LOWER)
    until(lambda: client.status()["recovering"] is None and _running(system) == 2)
    yield Figure("running tasks adopted after", time.perf_counter() - began, "s", LOWER)
    open(go, "w").close()
    client.gather([*begun, *left], timeout=300)
    yield Figure("all done after", time.perf_counter() - began, "s", LOWER)
    yield Figure("executed again", client.status()["done"] - len(left) - len(begun), "tasks", LOWER)
    system.close()


def _running(system: Measured) -> int:
    return sum(worker.running for worker in system.client.workers().values())
