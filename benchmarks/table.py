"""The table of a stored run, as text or as reStructuredText."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import systems
from benchmarks.figures import HIGHER
from benchmarks.workloads import ALL, Workload

#: What a cell has that no figure belongs into.
NONE, OURS_ONLY = "–", "ours only"

Data = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A figure of all systems; ``ratio``: how many times better ours is than that of the best peer."""

    name: str
    unit: str
    cells: list[str]
    ratio: str


def text(data: Data) -> str:
    """The table with aligned columns."""
    titles = _titles(data)
    grouped = list(_grouped(data))
    everything = [titles, *([row.name, row.unit, *row.cells, row.ratio] for _, rows in grouped for row in rows)]
    widths = [max(len(line[column]) for line in everything) for column in range(len(titles))]

    def line(cells: Sequence[str]) -> str:
        left, right = list(zip(cells, widths, strict=True))[:2], list(zip(cells, widths, strict=True))[2:]
        return "  ".join([f"{cell:{width}}" for cell, width in left] + [f"{cell:>{width}}" for cell, width in right]).rstrip()

    lines = [*(f"{name}: {value}" for name, value in header(data)), "", line(titles)]
    for workload, rows in grouped:
        lines += ["", _heading(workload), *(line([row.name, row.unit, *row.cells, row.ratio]) for row in rows)]
    return "\n".join([*lines, *([""] if _notes(data) else []), *_notes(data)]) + "\n"


def rst(data: Data) -> str:
    """The same as a fragment for a page of the documentation."""
    titles = _titles(data)
    lines = [*(f":{name}: {value}" for name, value in header(data)), ""]
    lines += [".. list-table::", "   :header-rows: 1", "", *rst_row(titles)]
    for workload, rows in _grouped(data):
        lines += rst_row([f"**{_heading(workload)}**", *[""] * (len(titles) - 1)])
        for row in rows:
            lines += rst_row([row.name, row.unit, *row.cells, row.ratio])
    notes = [f"* {note}" for note in _notes(data)]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def rst_row(cells: Sequence[str]) -> list[str]:
    first, *others = (cell.replace("\\", "\\\\").replace("|", "\\|") for cell in cells)
    return [f"   * - {first}".rstrip(), *(f"     - {cell}".rstrip() for cell in others)]


def _titles(data: Data) -> list[str]:
    return ["figure", "unit", *data["systems"], "ours to best peer"]


def _heading(workload: Workload) -> str:
    return f"{workload.name.upper()}: {workload.title}"


def header(data: Data) -> Iterator[tuple[str, str]]:
    for name, value in data["header"].items():
        yield name, ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else str(value)


def _grouped(data: Data) -> Iterator[tuple[Workload, list[Row]]]:
    """The rows of each workload that was run, in the order in which their figures came."""
    for name in dict.fromkeys(run["workload"] for run in data["runs"]):
        runs = [run for run in data["runs"] if run["workload"] == name]
        figures = {figure["name"]: figure for run in runs for figure in run["figures"]}
        rows = [_row(ALL[name], runs, data["systems"], figure) for figure in figures.values()]
        yield ALL[name], rows or [Row("no figure", "", [_empty(ALL[name], runs, system) for system in data["systems"]], "")]


def _row(workload: Workload, runs: Sequence[Data], names: Sequence[str], figure: Data) -> Row:
    medians = {system: _median(runs, system, figure["name"]) for system in names}
    cells = [_empty(workload, runs, system) if value is None else number(value) for system, value in medians.items()]
    ours, peers = medians[systems.OURS], [value for system, value in medians.items() if system != systems.OURS]
    return Row(figure["name"], figure["unit"], cells, ratio(ours, [one for one in peers if one is not None], figure["better"]))


def _median(runs: Sequence[Data], system: str, name: str) -> float | None:
    values = [one["value"] for run in runs if run["system"] == system for one in run["figures"] if one["name"] == name]
    return statistics.median(values) if values else None


def _empty(workload: Workload, runs: Sequence[Data], system: str) -> str:
    """Why a system has no such figure."""
    if workload.ours_only and system != systems.OURS:
        return OURS_ONLY
    bad = [run["outcome"] for run in runs if run["system"] == system and run["outcome"] != "ok"]
    return bad[0] if bad else NONE


def ratio(ours: float | None, peers: Sequence[float], better: str) -> str:
    """How many times better ours is than the best of the peers; "" where that can't be said."""
    if ours is None or not peers or not better:
        return ""
    best, worse = (ours, max(peers)) if better == HIGHER else (min(peers), ours)
    return f"{number(best / worse)}x" if best > 0 and worse > 0 else ""


def number(value: float) -> str:
    """Three significant digits, with separators of thousands."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return "0" if abs(value) < 0.001 else f"{value:.3g}"


def _notes(data: Data) -> list[str]:
    """Runs that did not end well, systems that are missing, and what only ours is measured for."""
    notes: dict[str, int] = {}
    for run in data["runs"]:
        if run["outcome"] != "ok" or run["detail"]:
            note = f"{run['system']} {run['workload'].upper()}: {run['outcome']}: {run['detail']}"
            notes[note] = notes.get(note, 0) + 1
    found = [f"{note} ({count} times)" if count > 1 else note for note, count in notes.items()]
    found += [f"{name}: {why}" for name, why in data["missing"].items()]
    only = [ALL[name] for name in dict.fromkeys(run["workload"] for run in data["runs"]) if ALL[name].ours_only]
    return found + [f"{workload.name.upper()} is ours only: it {workload.ours_only}" for workload in only]
