"""``python -m benchmarks`` runs, and writes what it measured."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read /proc")


def benchmarks(*arguments):
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(the file, standard output) of one quick run."""
    path = tmp_path_factory.mktemp("benchmarks") / "measured.json"
    made = benchmarks("--quick", "--workloads", "w1,w2", "--peers", "processpool", "--repeat", "1", "--json", path)
    assert made.returncode == 0, made.stderr
    return path, made.stdout


def test_everything_that_was_measured_is_written(measured):
    data = json.loads(measured[0].read_text())
    assert data["systems"] == ["twistdist", "processpool"] and data["missing"] == {}
    assert {"date", "versions", "python", "processor", "cores", "kernel", "load before"} <= set(data["header"])
    runs = {(run["workload"], run["system"]): run for run in data["runs"]}
    assert {key: run["outcome"] for key, run in runs.items()} == dict.fromkeys(
        [("w1", "twistdist"), ("w1", "processpool"), ("w2", "twistdist"), ("w2", "processpool")], "ok"
    )
    figures = {figure["name"]: figure["value"] for figure in runs["w1", "twistdist"]["figures"]}
    roles = [figures[f"map: CPU, {role}"] for role in ("client", "scheduler", "workers", "executors")]
    assert min(roles) > 0 and figures["map: CPU"] == pytest.approx(sum(roles)) and figures["submit loop"] > 0


def test_the_table_can_be_printed_again(measured):
    path, printed = measured
    assert benchmarks("--table", path).stdout == printed
    for line in ("W1: 10,000 no-op tasks", "W2: one task at a time", "map: CPU, scheduler", "ours to best peer"):
        assert line in printed
    assert ".. list-table::" in benchmarks("--table", path, "--rst").stdout


def test_a_name_that_does_not_exist_is_refused():
    refused = benchmarks("--peers", "daks")
    assert refused.returncode == 2 and "there is no peer 'daks'; choose from dask, " in refused.stderr
