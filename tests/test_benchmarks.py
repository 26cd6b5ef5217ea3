"""The parts of ``benchmarks`` that need no cluster: the meter, the turns, outcomes and the table."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks import meter, run, systems, table
from benchmarks.figures import HIGHER, LOWER, Figure, Scale, costs
from benchmarks.systems.system import System
from benchmarks.workloads import ALL

ROOT = pathlib.Path(__file__).parents[1]

linux = pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="reads /proc")

#: Uses CPU time for as many seconds as its argument says, then waits for a line on standard input.
BURN = (
    "import sys, time\nwhile time.process_time() < float(sys.argv[1]): pass\nprint('burnt', flush=True)\nsys.stdin.readline()"
)


@pytest.fixture
def burn():
    """Starts processes that use a given CPU time.  Each is told to end, and waited for, by ``communicate``."""
    started = []

    def start():
        process = subprocess.Popen([sys.executable, "-c", BURN, "0.3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.communicate()


# ---- the meter -------------------------------------------------------------------------------------


@linux
def test_cpu_time_is_counted_by_role(burn):
    process = burn()
    with meter.Meter({process.pid: "executors"}) as measured:
        process.stdout.readline()
    assert 0.1 < measured.by_role["executors"] < 0.6
    assert measured.by_role["client"] < 0.2 and measured.seconds > 0
    assert measured.cpu == pytest.approx(sum(measured.by_role.values()))


@linux
def test_a_process_that_ends_in_the_meantime_is_counted(burn):
    process = burn()
    with meter.Meter({}) as measured:
        process.communicate()
    assert 0.1 < measured.by_role["client"] < 0.8


@linux
def test_what_was_used_before_does_not_count(burn):
    process = burn()
    process.stdout.readline()
    with meter.Meter({process.pid: "executors"}) as measured:
        pass
    assert measured.by_role["executors"] < 0.05


def test_a_process_has_the_role_of_its_nearest_ancestor():
    tree = {1: 0, 2: 1, 3: 2, 4: 1, 5: 4}
    assert meter.roles_in(tree, {1: "client", 2: "workers"}) == {
        1: "client",
        2: "workers",
        3: "workers",
        4: "client",
        5: "client",
    }


@linux
def test_the_family_of_a_process_begins_with_it(burn):
    process = burn()
    family = meter.family(os.getpid())
    assert next(iter(family)) == os.getpid() and family[process.pid] == os.getpid()
    assert meter.family(process.pid) == {process.pid: os.getpid()}
    assert "process_time" in meter.command_of(process.pid) and meter.resident(process.pid) > 1 << 20


def test_costs_are_told_by_task_and_role():
    measured = meter.Meter({})
    measured.seconds, measured.cpu, measured.by_role = 2.0, 0.5, {"executors": 0.4, "client": 0.1}
    assert list(costs("map", 1000, measured)) == [
        Figure("map", 500.0, "tasks/s", HIGHER),
        Figure("map: CPU", 500.0, "µs/task", LOWER),
        Figure("map: CPU, client", 100.0, "µs/task"),
        Figure("map: CPU, executors", 400.0, "µs/task"),
    ]


# ---- turns and outcomes ----------------------------------------------------------------------------


def test_ours_and_a_peer_take_turns():
    made = [(turn.system, turn.workload.name, turn.repeat) for turn in run.turns(["twistdist", "loky"], [ALL["w1"]], 2)]
    assert made == [("twistdist", "w1", 0), ("loky", "w1", 0), ("twistdist", "w1", 1), ("loky", "w1", 1)]


def test_a_peer_is_left_out_where_a_workload_says_nothing_about_it():
    workloads = [ALL["w14"], ALL["w10"]]
    made = [(turn.system, turn.workload.name) for turn in run.turns(["twistdist", "processpool", "dask"], workloads, 1)]
    assert made == [("twistdist", "w14"), ("twistdist", "w10"), ("dask", "w10")]


def taken(workload, limit):
    """A run of ProcessPoolExecutor, made by another process: a run ends all processes below the one that makes it."""
    code = f"""if True:
        import dataclasses, json, os
        from benchmarks import meter, run
        from benchmarks.figures import Scale
        from benchmarks.workloads import ALL
        meter.adopt_orphans()
        turn = run.Turn("processpool", dataclasses.replace(ALL["{workload}"], limit_s={limit}), 0)
        made = run.take(turn, Scale(quick=True))
        print(json.dumps(made | {{"left": len(meter.family(os.getpid())) - 1}}))"""
    return json.loads(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout)


@linux
def test_a_run_that_does_not_end_is_recorded_as_hung():
    made = taken("w11", 5)  # the tasks of a stopped worker hang for longer
    assert made["outcome"] == "hung" and made["detail"] == "after 2 s"
    assert made["figures"] == [] and made["left"] == 0


@linux
def test_a_run_that_fails_says_why():
    made = taken("w10", 600)
    assert made["outcome"] == "failed" and "NotImplementedError" in made["detail"]


def test_a_missing_peer_is_named_with_what_to_install(monkeypatch):
    class Missing(System):
        distributions, modules = ("some-peer",), ("no_such_module",)

    monkeypatch.setattr(systems, "load", lambda name: Missing())
    assert systems.why_not("peer") == "not installed (pip install some-peer)"
    monkeypatch.undo()
    assert systems.why_not("processpool") == ""


def test_every_system_has_an_adapter_that_needs_no_import_of_it():
    assert systems.names()[0] == "twistdist" and {"dask", "loky", "processpool", "ray"} < set(systems.names())
    for name in systems.names():
        assert isinstance(systems.load(name), System)


def test_scale():
    assert (Scale()(1000, 10), Scale(quick=True)(1000, 10)) == (1000, 10)


# ---- the table -------------------------------------------------------------------------------------


def stored(*runs, names=("twistdist", "dask", "loky"), missing=None):
    """The data of runs that are each (system, workload, outcome, figures)."""
    repeats = [
        {
            "system": system,
            "workload": workload,
            "repeat": 0,
            "outcome": outcome,
            "detail": "" if outcome == "ok" else "why",
            "figures": [dataclasses.asdict(figure) for figure in figures],
        }
        for system, workload, outcome, figures in runs
    ]
    return {"header": {"versions": {"a": "1", "b": "2"}}, "systems": list(names), "missing": missing or {}, "runs": repeats}


def rate(value):
    return [Figure("map", value, "tasks/s", HIGHER)]


def rows(text):
    """The cells of the lines with a figure."""
    return [re.split(r" {2,}", line) for line in text.splitlines() if "  " in line]


def test_the_table_has_medians_and_the_ratio_to_the_best_peer():
    ours = [("twistdist", "w1", "ok", rate(value)) for value in (900.0, 30_000.0, 40_000.0)]
    data = stored(*ours, ("dask", "w1", "ok", rate(300.0)), ("loky", "w1", "ok", rate(10_000.0)))
    assert rows(table.text(data)) == [
        ["figure", "unit", "twistdist", "dask", "loky", "ours to best peer"],
        ["map", "tasks/s", "30,000", "300", "10,000", "3x"],
    ]


def test_less_is_better_where_a_figure_says_so():
    assert table.ratio(50.0, [100.0, 400.0], LOWER) == "2x"
    assert table.ratio(50.0, [25.0, 400.0], LOWER) == "0.5x"
    assert table.ratio(50.0, [25.0, 400.0], HIGHER) == "0.125x"
    assert table.ratio(50.0, [25.0], "") == table.ratio(None, [25.0], LOWER) == table.ratio(0.0, [25.0], LOWER) == ""
    assert table.ratio(50.0, [], LOWER) == ""


def test_cells_without_a_figure_say_why():
    data = stored(
        ("twistdist", "w1", "ok", rate(1.0)),
        ("dask", "w1", "hung", []),
        ("loky", "w1", "failed", []),
        ("twistdist", "w14", "ok", rate(2.0)),
        missing={"ray": "not installed (pip install ray)"},
    )
    text = table.text(data)
    assert [row[2:] for row in rows(text)[1:]] == [["1", "hung", "failed"], ["2", "ours only", "ours only"]]
    assert {"dask W1: hung: why", "loky W1: failed: why", "ray: not installed (pip install ray)"} <= set(text.splitlines())


def test_a_system_that_did_not_close_is_named():
    data = stored(("twistdist", "w1", "ok", rate(5.0)), ("dask", "w1", "ok", rate(4.0)), names=("twistdist", "dask"))
    data["runs"][1]["detail"] = "does not close within 30 s"
    assert table.text(data).splitlines()[-1] == "dask W1: ok: does not close within 30 s"
    assert rows(table.text(data))[1][2:] == ["5", "4", "1.25x"]


def test_figures_of_a_run_that_hung_later_are_shown():
    data = stored(("twistdist", "w1", "ok", rate(5.0)), ("dask", "w1", "hung", rate(4.0)), names=("twistdist", "dask"))
    assert rows(table.text(data))[1][2:] == ["5", "4", "1.25x"]


def test_a_workload_of_which_nothing_is_known_has_a_row():
    data = stored(("twistdist", "w1", "failed", []), names=("twistdist",))
    assert "failed" in table.text(data).split("no figure")[1]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0091, "0.0091"),
        (0.5, "0.5"),
        (3.14159, "3.14"),
        (99.94, "99.9"),
        (1234567.8, "1,234,568"),
        (-12.3, "-12.3"),
    ],
)
def test_numbers_have_three_digits(value, shown):
    assert table.number(value) == shown


def test_restructured_text_has_the_same_cells():
    data = stored(("twistdist", "w1", "ok", rate(5.0)), ("dask", "w1", "ok", rate(4.0)), names=("twistdist", "dask"))
    lines = table.rst(data).splitlines()
    assert ":versions: a 1, b 2" in lines and "   * - **W1: 10,000 no-op tasks**" in lines
    at = lines.index("   * - map")
    assert lines[at + 1 : at + 5] == ["     - tasks/s", "     - 5", "     - 4", "     - 1.25x"]
    assert {sum(line.startswith(start) for line in lines) for start in ("   * - ", "     -")} == {3, 12}
