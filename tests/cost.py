"""How many bytecodes each pure core executes for a no-op task, beside what it is expected to execute.

``python -m tests.cost`` prints both for this Python; ``--renew`` writes what was counted to ``cost.json`` as the new
expectation.  Bytecodes are counted since they do not depend on the machine or its load.  Work in C (sorting, hashing,
encoding) is not seen.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import attrs

from twistdist.testing.driving import ClientDrive, SchedulerDrive, WorkerDrive

TABLE = pathlib.Path(__file__).with_name("cost.json")

#: The drive of each core.  Four workers: the scheduler has to choose.
CORES: dict[str, Callable[[], Any]] = {"scheduler": lambda: SchedulerDrive(4), "worker": WorkerDrive, "client": ClientDrive}

#: Tasks before those that are counted, so that everything is as in a session that is in use; and tasks that are counted.
WARM_UP, TASKS = 100, 400

#: The change that is an error, as a share of what is expected; and the same for a Python that is not in the table.
BOUND, BOUND_ELSEWHERE = 0.10, 0.50

#: Our number among the tools of ``sys.monitoring``; coverage, debuggers and profilers have others.
TOOL = 4

#: How to accept a change.
RENEW = "python -m tests.cost --renew"


def bytecodes(work: Callable[[], Any]) -> int:
    """The number of bytecodes that are executed in ``work`` and in all it calls."""
    return monitored(work) if sys.version_info >= (3, 12) else traced(work)


def monitored(work: Callable[[], Any]) -> int:
    """The same; trace functions of CPython 3.13 miss some."""
    monitoring, count = sys.monitoring, 0

    def executed(code: Any, offset: int) -> None:
        nonlocal count
        count += 1

    monitoring.use_tool_id(TOOL, "tests.cost")
    monitoring.register_callback(TOOL, monitoring.events.INSTRUCTION, executed)
    try:
        monitoring.set_events(TOOL, monitoring.events.INSTRUCTION)
        work()
    finally:
        monitoring.set_events(TOOL, 0)
        monitoring.register_callback(TOOL, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(TOOL)
    return count


def traced(work: Callable[[], Any]) -> int:
    """The same for CPython 3.11 and older."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def cost_of(drive: Any) -> float:
    """Bytecodes a task."""
    drive.run(WARM_UP)
    return round(bytecodes(lambda: drive.run(TASKS)) / TASKS, 1)


def this_python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


@attrs.frozen
class Expectation:
    """What each core should cost; ``known``: it was counted with this version of Python."""

    costs: dict[str, float]
    python: str
    known: bool


def expected(table: dict[str, dict[str, float]], python: str) -> Expectation:
    """The row of the table for ``python``, or that of the nearest version."""

    def distance(other: str) -> int:
        return abs(int(other.split(".")[1]) - int(python.split(".")[1]))

    nearest = min(table, key=distance)
    return Expectation(table[nearest], nearest, nearest == python)


def complaint(core: str, cost: float, expectation: Expectation) -> str:
    """Why this cost is not accepted, and what to do; "" if it is."""
    before = expectation.costs[core]
    change = cost / before - 1
    if abs(change) <= (BOUND if expectation.known else BOUND_ELSEWHERE):
        return ""
    whole = f"the {core} core executes {cost:g} bytecodes for a no-op task instead of {before:g}: {abs(change):.0%}"
    if not expectation.known:
        return f"{whole} off.  This Python is not in {TABLE.name}, {expectation.python} is the nearest: run {RENEW}"
    if change > 0:
        return f"{whole} more.  Find what made it slower; if the work is intended, run {RENEW} with each Python"
    return f"{whole} less.  Run {RENEW} with each Python, so that the next rise is seen"


def read() -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = json.loads(TABLE.read_text())
    return table


def write(costs: dict[str, float]) -> None:
    """Replace this Python's row."""
    table = read() if TABLE.exists() else {}
    table[this_python()] = costs
    rows = sorted(table.items(), key=lambda row: int(row[0].split(".")[1]))
    TABLE.write_text(json.dumps(dict(rows), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--renew", action="store_true", help="what was counted is expected from now on")
    renew = parser.parse_args().renew
    costs = {core: cost_of(make()) for core, make in CORES.items()}
    if renew:
        write(costs)
    print(json.dumps({"python": this_python(), "counted": costs, "expected": read().get(this_python())}))


if __name__ == "__main__":
    main()
