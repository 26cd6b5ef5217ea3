"""The table of what was measured, as text or as reStructuredText."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.recovery import adapters
from benchmarks.recovery.scenarios import ALL
from benchmarks.table import header, number, rst_row

#: What a cell has that no figure belongs into.
NONE = "–"

TITLES = ["system", "time to recover", "executed again", "lost", "how it ended"]

Data = Mapping[str, Any]

#: What is stored, and what of each run.
_KEYS = {"header", "systems", "limit", "missing", "runs"}
_RUN_KEYS = {"system", "resilient", "scenario", "outcome", "detail", "rounds"}


def load(path: pathlib.Path) -> Data:
    """What ``--json`` has written.

    Raises:
        OSError: The file can't be read.
        ValueError: It is something else.
    """
    try:
        data = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path.name} is not JSON") from None
    if not _has(data, _KEYS) or not all(_has(run, _RUN_KEYS) for run in data["runs"]):
        raise ValueError(f"{path.name} was not written by python -m benchmarks.recovery --json")
    unknown = [run["scenario"] for run in data["runs"] if run["scenario"] not in ALL]
    if unknown:
        raise ValueError(f"{path.name} has a scenario {unknown[0]!r}, which does not exist")
    absent = [name for name in data["systems"] if name not in adapters.names()]
    if absent:
        raise ValueError(f"{path.name} has a system {absent[0]!r}, which there is no adapter for")
    return data


def _has(found: Any, keys: set[str]) -> bool:
    return isinstance(found, dict) and found.keys() >= keys


def shown(system: str, resilient: bool) -> str:
    """A system's name in the table."""
    return f"{system}, resilient" if resilient else system


def text(data: Data) -> str:
    """The table with aligned columns."""
    grouped = list(_grouped(data))
    everything = [TITLES, *(row for _, rows in grouped for row in rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(len(TITLES))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()

    lines = [*(f"{name}: {value}" for name, value in header(data)), "", line(TITLES)]
    for title, rows in grouped:
        lines += ["", title, *map(line, rows)]
    return "\n".join([*lines, "", *_notes(data)]).rstrip() + "\n"


def rst(data: Data) -> str:
    """The same as a fragment for a page of the documentation."""
    lines = [*(f":{name}: {value}" for name, value in header(data)), ""]
    lines += [".. list-table::", "   :header-rows: 1", "   :widths: 20 14 12 8 46", "", *rst_row(TITLES)]
    for title, rows in _grouped(data):
        lines += rst_row([f"**{title}**", *[""] * (len(TITLES) - 1)])
        for row in rows:
            lines += rst_row(row)
    notes = [f"* {note}".replace("_", "\\_") for note in _notes(data)]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _grouped(data: Data) -> Iterator[tuple[str, list[list[str]]]]:
    """The rows of each scenario that was run."""
    for scenario in dict.fromkeys(run["scenario"] for run in data["runs"]):
        rows = []
        for system in data["systems"]:
            why = adapters.load(system).unsupported.get(scenario)
            if why:
                rows.append([system, NONE, NONE, NONE, f"not supported: {why}"])
            for resilient in (False, True):
                found = [run for run in data["runs"] if (run["system"], run["scenario"]) == (system, scenario)]
                runs = [run for run in found if run["resilient"] == resilient]
                if runs:
                    rows.append([shown(system, resilient), *_cells([_result(run) for run in runs], data["limit"])])
        yield ALL[scenario].title, rows


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run says: seconds beyond what the same takes without the fault, infinite if results are missing."""

    seconds: float
    again: float
    lost: float
    hangs: bool
    how: str


def _result(run: Data) -> Result:
    rounds = run["rounds"]
    if len(rounds) < 2:  # the process that measures is the client, and has not survived; or nothing could be measured
        tasks = rounds[0]["tasks"] if rounds else math.nan
        what = "the client's process ended" if rounds else "not measured"
        return Result(math.inf if rounds else math.nan, math.nan, tasks, False, f"{what}: {run['outcome']}: {run['detail']}")
    without, faulty = rounds
    lost = faulty["failed"] + faulty["pending"]
    seconds = math.inf if lost else max(0.0, faulty["seconds"] - without["seconds"])
    return Result(seconds, faulty["again"], lost, bool(faulty["pending"]), _how(faulty))


def _how(faulty: Data) -> str:
    errors = ", ".join(sorted(faulty["errors"]))
    said = [f"results fail with {errors}"] if faulty["failed"] else []
    said += ["results never arrive"] if faulty["pending"] else []
    if "poison" in faulty:
        fate = faulty["poison"].partition(" after ")[0]
        said.append(f"the task that kills: {fate}, {faulty['poison_executed']} executions")
    return "; ".join(said) or "all results arrive"


def _cells(results: Sequence[Result], limit: float) -> list[str]:
    """Medians, and how often it ended in which way."""
    seconds = statistics.median_high([result.seconds for result in results if not math.isnan(result.seconds)] or [math.nan])
    never = f"never ({limit:g} s)" if any(result.hangs for result in results) else "never"
    ways = dict.fromkeys(result.how for result in results)
    counts = {way: sum(result.how == way for result in results) for way in ways}
    how = "; or ".join(f"{way} ({count} of {len(results)})" if len(ways) > 1 else way for way, count in counts.items())
    time = NONE if math.isnan(seconds) else never if math.isinf(seconds) else f"{number(seconds)} s"
    return [time, _count([result.again for result in results]), _count([result.lost for result in results]), how]


def _count(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{statistics.median_high(known):,.0f}" if known else NONE


def _notes(data: Data) -> list[str]:
    """The settings that were measured, and the systems that are missing."""
    measured = {run["system"] for run in data["runs"] if run["resilient"]}
    notes = [f"{shown(name, True)}: {adapters.load(name).settings}" for name in data["systems"] if name in measured]
    return notes + [f"{name}: {why}" for name, why in data["missing"].items()]
