"""The parts of ``benchmarks/recovery`` that need no cluster: faults, outcomes, turns and the table."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from benchmarks import functions
from benchmarks.recovery import adapters, injection, outcomes, table
from benchmarks.recovery.__main__ import turns
from benchmarks.recovery.adapters.adapter import Adapter
from benchmarks.recovery.scenarios import ALL
from benchmarks.systems.system import System

ROOT = pathlib.Path(__file__).parents[1]

linux = pytest.mark.skipif(not pathlib.Path("/proc/self/stat").exists(), reason="reads /proc")

#: Starts a process below it, says both pids, and waits for its standard input to end.
FAMILY = """if True:
    import os, subprocess, sys
    child = subprocess.Popen(["sleep", "600"])
    print(os.getpid(), child.pid, flush=True)
    sys.stdin.read()"""


@pytest.fixture
def node():
    """A process, the pids of its tree, and a system whose only node it is."""
    process = subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pids = [int(word) for word in process.stdout.readline().split()]

    class OneNode(Adapter):
        def nodes(self):
            return [process.pid]

    yield process, pids, OneNode()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def state(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# ---- faults ----------------------------------------------------------------------------------------


def test_the_log_says_what_ran_where_and_how_often(tmp_path):
    log = str(tmp_path / "log")
    assert injection.at_work(log) == [] and injection.ran(log) == 0
    for line in ("begin 0 11", "end 0 11", "begin 1 11", "begin 2 12", "end 2 12", "begin 0 12", "end 0 12"):
        functions.note(log, *line.split())
    assert injection.at_work(log) == [1, 11]
    assert (injection.ran(log), injection.ran(log, "end"), injection.executed_again(log)) == (4, 3, 1)
    assert injection.busiest(log) == 12


@linux
def test_a_node_is_a_tree_of_processes_and_dies_as_a_whole(node):
    process, pids, system = node
    for pid in pids:
        assert system.node_of(pid) == pids
    assert system.node_of(os.getpid()) == []
    with injection.struck(pids, signal.SIGKILL):
        assert process.wait(60) == -signal.SIGKILL
    outcomes.until(lambda: not pathlib.Path(f"/proc/{pids[1]}").exists() or state(pids[1]) == "Z")


@linux
def test_a_stopped_node_continues_after_the_block(node):
    _, pids, _ = node
    with injection.standing_still(pids):
        outcomes.until(lambda: [state(pid) for pid in pids] == ["T", "T"])
    outcomes.until(lambda: "T" not in [state(pid) for pid in pids])


@linux
def test_a_signal_that_hits_nobody_is_an_error(node):
    process, pids, _ = node
    with injection.struck(pids, signal.SIGKILL):
        process.wait(60)
    outcomes.until(lambda: not pathlib.Path(f"/proc/{pids[1]}").exists() or state(pids[1]) == "Z")
    with (
        pytest.raises(RuntimeError, match="none of the processes that SIGKILL is for exists"),
        injection.struck([process.pid], signal.SIGKILL),
    ):
        pass


# ---- outcomes --------------------------------------------------------------------------------------


class Futures(System):
    def result(self, handle, timeout=None):
        return handle.result(timeout)

    def submit(self, fn, *args, on=None):
        raise ValueError("it is broken")


def future(value=None, error=None):
    made = concurrent.futures.Future()
    if error is not None:
        made.set_exception(error)
    elif value is not None:
        made.set_result(value)
    return made


def test_outcomes_are_counted_by_kind():
    handles = [future(0), future(17), future(error=KeyError("x")), future(), future(40)]
    ended = outcomes.Outcomes(Futures(), handles, 0.1, lambda i: 10 * i)
    assert (ended.right, ended.failed, ended.pending) == (2, 2, 1)
    assert ended.errors == {outcomes.WRONG: 1, "KeyError": 1} and ended.seconds >= 0.1


def test_a_call_that_ignores_its_timeout_does_not_hold_up_the_benchmark(monkeypatch):
    monkeypatch.setattr(outcomes, "GRACE_S", 0.05)
    never = future()

    class Deaf(Futures):
        def result(self, handle, timeout=None):
            return handle.result(600 if handle is never else timeout)

    ended = outcomes.Outcomes(Deaf(), [future(0), never, future(2)], 0.1)
    assert (ended.right, ended.pending) == (1, 2)
    never.set_result(1)


def test_a_task_that_is_refused_counts_as_failed():
    ended = outcomes.Outcomes(Futures(), [outcomes.submitted(Futures(), abs, 1)], 5)
    assert ended.errors == {"ValueError": 1}


# ---- adapters and turns ----------------------------------------------------------------------------


def test_every_system_has_an_adapter_that_needs_no_import_of_it():
    assert adapters.names() == ["twistdist", "dask", "parsl", "processpool", "ray"]
    for name in adapters.names():
        adapter = adapters.load(name, resilient=True)
        assert isinstance(adapter, Adapter) and (adapter.name, adapter.resilient) == (name, True)
        assert {*adapter.resilient_in, *adapter.unsupported} <= set(ALL)
        assert bool(adapter.settings) == bool(adapter.resilient_in)


def test_the_systems_take_turns_and_settings_are_measured_where_they_matter():
    made = list(turns(["twistdist", "dask", "processpool"], ["head", "stopped"], 2))
    assert [name for scenario, _, name, _ in made if scenario == "head"] == ["twistdist", "dask"] * 2
    assert [(name, resilient) for scenario, number, name, resilient in made if (scenario, number) == ("stopped", 1)] == [
        ("twistdist", False),
        ("twistdist", True),
        ("dask", False),
        ("dask", True),
        ("processpool", False),
    ]


# ---- the table -------------------------------------------------------------------------------------


def played(seconds, again=0, failed=0, pending=0, errors=(), **more):
    found = {"tasks": 200, "seconds": seconds, "right": 200 - failed - pending, "failed": failed, "pending": pending}
    return {**found, "errors": dict.fromkeys(errors, 1), "again": again, **more}


def made(system, scenario, *rounds, resilient=False, outcome="ok", detail=""):
    found = {"system": system, "resilient": resilient, "scenario": scenario, "repeat": 0, "outcome": outcome}
    return {**found, "detail": detail, "seconds": 9.0, "rounds": list(rounds)}


def stored(*runs, names=("twistdist", "processpool"), missing=None):
    header = {"versions": {"a": "1"}, "repeat": 3}
    return {"header": header, "systems": list(names), "limit": 60, "missing": missing or {}, "runs": list(runs)}


def test_the_table_has_medians_of_what_the_fault_costs():
    runs = [made("twistdist", "task", played(2.0), played(seconds, again)) for seconds, again in ((2.5, 1), (9.0, 4), (3.0, 2))]
    last = table.text(stored(*runs, names=["twistdist"])).splitlines()[-1]
    assert re.split(r" {2,}", last) == ["twistdist", "1 s", "2", "0", "all results arrive"]


@pytest.mark.parametrize(
    ("faulty", "cells"),
    [
        (played(1.5), ["0 s", "0", "0", "all results arrive"]),
        (played(0.1, failed=90, errors=["BrokenProcessPool"]), ["never", "0", "90", "results fail with BrokenProcessPool"]),
        (played(60.0, 3, pending=2), ["never (60 s)", "3", "2", "results never arrive"]),
        (
            played(2.5, 1, poison="TaskCrashed after 0.4 s", poison_executed=3),
            ["0.5 s", "1", "0", "the task that kills: TaskCrashed, 3 executions"],
        ),
    ],
)
def test_cells_say_how_it_ended(faulty, cells):
    assert table._cells([table._result(made("twistdist", "poison", played(2.0), faulty))], 60) == cells


def test_runs_that_end_differently_are_counted():
    runs = [made("twistdist", "head", played(2.0), played(*end)) for end in ((3.0,), (3.0,), (60.0, 0, 0, 5))]
    assert table._cells([table._result(run) for run in runs], 60) == [
        "1 s",
        "0",
        "0",
        "all results arrive (2 of 3); or results never arrive (1 of 3)",
    ]


def test_a_client_that_did_not_survive_has_lost_everything():
    [time, again, lost, how] = table._cells(
        [table._result(made("ray", "head", played(2.0), outcome="failed", detail="exit status 1"))], 60
    )
    assert (time, again, lost) == ("never", "–", "200") and how == "the client's process ended: failed: exit status 1"


def test_a_run_that_measured_nothing_is_not_taken_for_a_loss():
    found = table._cells([table._result(made("ray", "head", outcome="failed", detail="exit status 1"))], 60)
    assert found == ["–", "–", "–", "not measured: failed: exit status 1"]


def test_what_a_system_does_not_support_is_a_row_with_its_reason():
    data = stored(made("twistdist", "head", played(2.0), played(2.0)), missing={"ray": "not installed (pip install ray)"})
    assert table.text(data).splitlines()[-2:] == ["", "ray: not installed (pip install ray)"]
    [row] = [line for line in table.text(data).splitlines() if line.startswith("processpool ")]
    assert re.split(r" {2,}", row) == ["processpool", "–", "–", "–", "not supported: there is no scheduler process"]


def test_restructured_text_has_the_same_cells_and_the_settings():
    plain = made("twistdist", "node", played(2.0), played(2.5))
    ours = plain, made("twistdist", "node", played(2.0), played(2.2), resilient=True)
    lines = table.rst(stored(*ours)).splitlines()
    at = lines.index("   * - twistdist, resilient")
    assert lines[at + 1 : at + 5] == ["     - 0.2 s", "     - 0", "     - 0", "     - all results arrive"]
    assert "   * - **A node with finished results is killed**" in lines
    assert {sum(line.startswith(start) for line in lines) for start in ("   * - ", "     -")} == {5, 20}
    assert lines[-1].startswith("* twistdist, resilient: replicas=2")


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "given.json is not JSON"),
        (b"\xff\xfe", "given.json is not JSON"),
        (b"[]", "given.json was not written by python -m benchmarks.recovery --json"),
        (b'{"header": {}}', "given.json was not written by python -m benchmarks.recovery --json"),
        (
            b'{"header": {}, "systems": [], "limit": 60, "missing": {}, "runs": [1]}',
            "given.json was not written by python -m benchmarks.recovery --json",
        ),
        (json.dumps(stored(made("ray", "flood"))).encode(), "given.json has a scenario 'flood', which does not exist"),
        (json.dumps(stored(names=["daks"])).encode(), "given.json has a system 'daks', which there is no adapter for"),
    ],
)
def test_a_file_that_is_no_measurement_is_refused(tmp_path, content, message):
    path = tmp_path / "given.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="given") as caught:
        table.load(path)
    assert str(caught.value) == message


@linux
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--peers", "daks"], "there is no peer 'daks'; choose from dask, parsl, processpool, ray"),
        (["--scenarios", "flood"], "there is no scenario 'flood'; choose from task, node, "),
        (["--repeat", "0"], "must be an integer >= 1, got '0'"),
        (["--limit", "soon"], "must be an integer >= 1, got 'soon'"),
        (["--table", "nowhere.json"], "No such file or directory: 'nowhere.json'"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    command = [sys.executable, "-m", "benchmarks.recovery", *arguments]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and message in refused.stderr
