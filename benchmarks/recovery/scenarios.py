"""What goes wrong.  Each scenario is run without the fault and with it, one after the other on one cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import functions
from benchmarks.figures import Scale
from benchmarks.recovery.adapters.adapter import Adapter
from benchmarks.recovery.injection import at_work, busiest, executed_again, ran, struck
from benchmarks.recovery.outcomes import TIMEOUTS, Outcomes, submitted, until
from benchmarks.systems.system import RESTART, scratch
from benchmarks.waiting import Waiting

#: Workers of one slot each.
WORKERS = 3

MIB = 1 << 20

#: Seconds beyond the limit after which a client that should have ended is killed.
CLIENT_GRACE_S = 45.0

Round = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """``tasks`` of ``seconds`` each, with values of ``size`` bytes.

    The fault comes when the share ``after`` of them have ended.  ``victims(adapter, log)`` are
    the processes that get the signal ``number``.  ``play`` makes one round.
    """

    name: str
    title: str
    play: Callable[[Scenario, Adapter, Scale, float, bool], Round]
    tasks: int
    seconds: float = 0.0
    size: int = 100
    after: float = 0.0
    number: signal.Signals = signal.SIGKILL
    victims: Callable[[Adapter, str], Sequence[int]] = lambda adapter, log: []

    def count(self, scale: Scale) -> int:
        """The number of tasks."""
        return scale(self.tasks, max(8, self.tasks // 10))

    def expected(self, i: int) -> bytes:
        """The value of a task."""
        return functions.value_of(self.size, i)


def run(scenario: Scenario, adapter: Adapter, scale: Scale, limit: float) -> Iterator[Round]:
    """The round without the fault, and the one with it.  Each waits ``limit`` seconds for results."""
    for fault in (False, True):
        made = scenario.play(scenario, adapter, scale, limit, fault)
        if not fault and made["right"] != made["tasks"]:
            raise RuntimeError(f"without a fault, only {made['right']} of {made['tasks']} results arrived")
        yield made


def _log(fault: bool) -> str:
    return scratch("with" if fault else "without")


def _told(outcomes: Outcomes, log: str, **more: Any) -> Round:
    """What is stored of a round; ``seconds`` count from the fault, or from the point at which it would have come."""
    tasks = outcomes.right + outcomes.failed + outcomes.pending
    found = {name: getattr(outcomes, name) for name in ("seconds", "right", "failed", "pending", "errors")}
    return {"tasks": tasks, **found, "again": executed_again(log), **more}


def work(scenario: Scenario, adapter: Adapter, scale: Scale, limit: float, fault: bool) -> Round:
    """Submit everything, hit some processes on the way, and get all results."""
    count, log = scenario.count(scale), _log(fault)
    tasks = [submitted(adapter, functions.noted_block, log, scenario.seconds, scenario.size, i) for i in range(count)]
    if scenario.after == 1.0:
        adapter.wait(tasks)
        adapter.settled(tasks)
    until(lambda: ran(log, "end") >= scenario.after * count, 120)
    victims = until(lambda: scenario.victims(adapter, log)) if fault else []
    with struck(victims, scenario.number) if fault else contextlib.nullcontext():
        if fault and scenario.name == "head" and RESTART in adapter.features:
            adapter.start_scheduler()
        return _told(Outcomes(adapter, tasks, limit, scenario.expected), log)


def poison(scenario: Scenario, adapter: Adapter, scale: Scale, limit: float, fault: bool) -> Round:
    """Among the tasks is one that kills the process that runs it, each time."""
    count, log, dying = scenario.count(scale), _log(fault), scratch("poison")
    arguments = [(log, scenario.seconds, scenario.size, i) for i in range(count)]
    began = time.perf_counter()
    tasks = [submitted(adapter, functions.noted_block, *one) for one in arguments[: count // 4]]
    verdict = Waiting(adapter.result, submitted(adapter, functions.poison, dying), limit) if fault else None
    tasks += [submitted(adapter, functions.noted_block, *one) for one in arguments[count // 4 :]]
    outcomes = Outcomes(adapter, tasks, limit, scenario.expected)
    outcomes.seconds = time.perf_counter() - began
    if verdict is None:
        return _told(outcomes, log)
    verdict.join(max(1.0, began + limit - time.perf_counter()))
    ended = not verdict.is_alive() and verdict.error is not None and not isinstance(verdict.error, TIMEOUTS)
    fate = f"{type(verdict.error).__name__} after {verdict.seconds:.1f} s" if ended else "never ends"
    return _told(outcomes, log, poison=fate, poison_executed=ran(dying))


def placed(scenario: Scenario, adapter: Adapter, scale: Scale, limit: float, fault: bool) -> Round:
    """The client puts data on the cluster, its holder dies, and tasks need the data."""
    count, log = scenario.count(scale), _log(fault)
    data = adapter.scatter(functions.value_of(scenario.size, 0))
    victims = adapter.node_of(adapter.holder_of(data)) if fault else []
    with struck(victims, scenario.number) if fault else contextlib.nullcontext():
        began = time.perf_counter()
        tasks = [submitted(adapter, functions.noted_length, log, data, i) for i in range(count)]
        outcomes = Outcomes(adapter, tasks, limit, lambda i: scenario.size + i)
        outcomes.seconds = time.perf_counter() - began
        return _told(outcomes, log)


def client(scenario: Scenario, adapter: Adapter, scale: Scale, limit: float, fault: bool) -> Round:
    """A script submits everything; it is killed when that is done and half of the tasks too, and started again."""
    count, log, answer = scenario.count(scale), _log(fault), _log(fault) + ".answer"
    mine = json.dumps([adapter.name, adapter.resilient, adapter.address, log, answer, count, limit])
    script = [sys.executable, "-m", "benchmarks.recovery.client", mine]
    process = subprocess.Popen(script)
    try:
        until(lambda: ran(log, "submitted") and ran(log, "end") >= scenario.after * count, 120)
        began = time.perf_counter()
        if fault:
            with struck([process.pid], scenario.number):
                process.wait()
            process = subprocess.Popen(script)
        process.wait(limit + CLIENT_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
    seconds = time.perf_counter() - began
    path = pathlib.Path(answer)
    found = json.loads(path.read_text()) if path.exists() else {"right": 0, "failed": 0, "pending": count, "errors": {}}
    return {"tasks": count, "seconds": seconds, "again": executed_again(log), **found}


def _of_running(adapter: Adapter, log: str) -> Sequence[int]:
    return at_work(log)[1:]


def _node_of_running(adapter: Adapter, log: str) -> Sequence[int]:
    running = at_work(log)
    return adapter.node_of(running[1]) if running else []


def _node_with_results(adapter: Adapter, log: str) -> Sequence[int]:
    return adapter.node_of(busiest(log))


def _head(adapter: Adapter, log: str) -> Sequence[int]:
    return adapter.head()


ALL = {
    scenario.name: scenario
    for scenario in (
        Scenario("task", "The process of a running task is killed", work, 200, 0.05, after=0.5, victims=_of_running),
        Scenario("node", "A node with finished results is killed", work, 100, 0, MIB, 1.0, victims=_node_with_results),
        Scenario("poison", "A task kills its process each time", poison, 200, 0.05),
        Scenario("head", "The scheduler is killed", work, 200, 0.05, after=0.5, victims=_head),
        Scenario("client", "The client is killed and started again", client, 200, 0.05, after=0.5),
        Scenario("stopped", "A node is stopped", work, 60, 0.1, MIB // 4, 0.25, signal.SIGSTOP, _node_of_running),
        Scenario("data", "The holder of data that the client has put there is killed", placed, 20, size=8 * MIB),
    )
}
