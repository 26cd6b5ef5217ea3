"""W1 to W4 and W6: what tasks cost that do little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from benchmarks import functions
from benchmarks.figures import HIGHER, LOWER, Figure, Scale, costs
from benchmarks.meter import Meter
from benchmarks.systems.system import DEPENDENCIES, System


def no_op(system: System, scale: Scale) -> Iterator[Figure]:
    """W1: many tasks, first as the system recommends it, then submitted one by one."""
    count = scale(10_000, 300)
    expected = list(range(1, count + 1))
    with Meter(system.roles()) as meter:
        assert system.map(functions.inc, range(count)) == expected
    yield from costs("map", count, meter)
    with Meter(system.roles()) as meter:
        assert system.gather([system.submit(functions.inc, i) for i in range(count)]) == expected
    yield from costs("submit loop", count, meter)


def round_trip(system: System, scale: Scale) -> Iterator[Figure]:
    """W2: submit a task and wait for its value, again and again."""
    count, times = scale(500, 50), []
    with Meter(system.roles()) as meter:
        for i in range(count):
            began = time.perf_counter()
            assert system.result(system.submit(functions.inc, i)) == i + 1
            times.append((time.perf_counter() - began) * 1e6)
    yield Figure("median", statistics.median(times), "µs", LOWER)
    yield Figure("99th percentile", statistics.quantiles(times, n=100)[98], "µs", LOWER)
    yield Figure("CPU", meter.cpu / count * 1e6, "µs/task", LOWER)


def tree(system: System, scale: Scale) -> Iterator[Figure]:
    """W3: without futures as arguments, the client gathers each level."""
    leaves = scale(4096, 64)
    with Meter(system.roles()) as meter:
        level = [system.submit(functions.inc, i) for i in range(leaves)]
        while len(level) > 1:
            if DEPENDENCIES not in system.features:
                level = system.gather(level)
            level = [system.submit(functions.add, *pair) for pair in zip(level[::2], level[1::2], strict=True)]
        assert system.result(level[0]) == leaves * (leaves + 1) // 2
    yield from costs("tree", 2 * leaves - 1, meter)


def chain(system: System, scale: Scale) -> Iterator[Figure]:
    """W4: without futures as arguments, the client waits at each hop."""
    hops = scale(1000, 50)
    with Meter(system.roles()) as meter:
        last = system.submit(functions.inc, 0)
        for _ in range(hops - 1):
            last = system.submit(functions.inc, last if DEPENDENCIES in system.features else system.result(last))
        assert system.result(last) == hops
    yield Figure("a hop", meter.seconds / hops * 1e6, "µs", LOWER)
    yield Figure("CPU", meter.cpu / hops * 1e6, "µs/hop", LOWER)


def efficiency(system: System, scale: Scale) -> Iterator[Figure]:
    """W6: how much of two workers' time the functions themselves get."""
    kinds = ("10 ms of sleep", functions.nap, 0.010, scale(500, 20)), ("1 ms of CPU", functions.spin, 0.001, scale(4000, 100))
    for name, function, seconds, count in kinds:
        with Meter(system.roles()) as meter:
            assert system.gather([system.submit(function, seconds, i) for i in range(count)]) == list(range(count))
        yield Figure(name, 100 * seconds * count / 2 / meter.seconds, "% of ideal", HIGHER)
        yield Figure(f"{name}: CPU besides", (meter.cpu - _own(function, seconds, count)) / count * 1e6, "µs/task", LOWER)


def _own(function: object, seconds: float, count: int) -> float:
    """CPU seconds of the functions themselves."""
    return seconds * count if function is functions.spin else 0.0
