"""``python -m benchmarks.recovery`` makes things go wrong, and says what became of it."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")


def recovery(*arguments):
    command = [sys.executable, "-m", "benchmarks.recovery", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(the file, standard output) of one quick run of our adapter and that of the pool."""
    path = tmp_path_factory.mktemp("recovery") / "measured.json"
    made = recovery("--quick", "--repeat", "1", "--json", path)
    assert made.returncode == 0, made.stderr
    return path, made.stdout


@pytest.fixture(scope="module")
def runs(measured):
    """By system, scenario and settings: the rounds without and with the fault."""
    made = json.loads(measured[0].read_text())["runs"]
    assert [run["outcome"] for run in made] == ["ok"] * len(made), made
    return {(run["system"], run["scenario"], run["resilient"]): run["rounds"] for run in made}


OURS = [
    ("task", False),
    ("node", False),
    ("node", True),
    ("poison", False),
    ("head", False),
    ("client", False),
    ("client", True),
    ("stopped", False),
    ("stopped", True),
    ("data", False),
]


@pytest.mark.parametrize(("scenario", "resilient"), OURS)
def test_twistdist_loses_nothing(runs, scenario, resilient):
    without, faulty = runs["twistdist", scenario, resilient]
    assert (without["right"], without["again"]) == (without["tasks"], 0)
    assert faulty["right"] == faulty["tasks"] and faulty["errors"] == {}


def test_only_what_was_lost_is_executed_again(runs):
    assert runs["twistdist", "task", False][1]["again"] == 1
    assert runs["twistdist", "node", False][1]["again"] >= 1
    assert runs["twistdist", "node", True][1]["again"] == 0  # there was a second copy of each
    assert runs["twistdist", "head", False][1]["again"] == 0
    assert runs["twistdist", "data", False][1]["again"] == 0
    assert runs["twistdist", "client", True][1]["again"] == 0
    assert runs["twistdist", "client", False][1]["again"] >= 1  # a client without a session submits everything again
    poison = runs["twistdist", "poison", False][1]
    assert poison["again"] == 0 and poison["poison"].startswith("TaskCrashed") and poison["poison_executed"] == 3


def test_a_pool_is_broken_by_any_death(runs):
    for scenario in ("task", "poison"):
        faulty = runs["processpool", scenario, False][1]
        assert faulty["errors"].keys() == {"BrokenProcessPool"} and faulty["failed"] >= 1
    client = runs["processpool", "client", False][1]
    assert client["right"] == client["tasks"] and client["again"] >= 1


def test_a_pool_does_not_support_the_others(runs, measured):
    assert {scenario for system, scenario, _ in runs if system == "processpool"} == {"task", "poison", "client", "stopped"}
    assert "not supported: there is no scheduler process" in measured[1]


def test_a_task_of_a_stopped_process_never_ends_in_a_pool(runs):
    faulty = runs["processpool", "stopped", False][1]
    assert faulty["pending"] >= 1 and faulty["failed"] == 0


def test_the_table_can_be_printed_again(measured):
    path, printed = measured
    assert recovery("--table", path).stdout == printed
    for line in ("The client is killed and started again", "twistdist, resilient", "time to recover", "never (60 s)"):
        assert line in printed
    assert ".. list-table::" in recovery("--table", path, "--rst").stdout
