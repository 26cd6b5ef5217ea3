"""A no-op task does not cost more bytecodes in a core than it did (``tests/cost.py``)."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import cost

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("core", cost.CORES)
def test_a_no_op_task_costs_what_it_did(core):
    complaint = cost.complaint(core, cost.cost_of(cost.CORES[core]()), cost.expected(cost.read(), cost.this_python()))
    assert not complaint, complaint


@pytest.mark.parametrize("core", cost.CORES)
def test_a_core_that_became_slower_is_found(core):
    """A loop of four turns for each message: a tenth of the cheapest core's work."""
    drive = cost.CORES[core]()
    before = cost.cost_of(drive)
    receive = drive.core.receive

    def slower(*arguments):
        for _ in range(int(before) // 4 * len(arguments[-1]) // 2):
            pass
        return receive(*arguments)

    drive.core.receive = slower
    complaint = cost.complaint(core, cost.cost_of(drive), cost.Expectation({core: before}, cost.this_python(), True))
    assert core in complaint and "more" in complaint and cost.RENEW in complaint


def test_a_fall_asks_for_a_new_expectation_too():
    expectation = cost.Expectation({"client": 100.0}, "3.11", True)
    assert not cost.complaint("client", 91.0, expectation) and not cost.complaint("client", 109.0, expectation)
    assert "11% less" in cost.complaint("client", 89.0, expectation)
    assert "11% more" in cost.complaint("client", 111.0, expectation)


def test_an_unknown_python_is_compared_with_the_nearest_one():
    table = {"3.10": {"client": 100.0}, "3.12": {"client": 200.0}}
    expectation = cost.expected(table, "3.15")
    assert (expectation.python, expectation.known) == ("3.12", False)
    assert not cost.complaint("client", 290.0, expectation)
    assert "3.12 is the nearest" in cost.complaint("client", 310.0, expectation)


def counted(seed):
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    found = subprocess.run([sys.executable, "-m", "tests.cost"], cwd=ROOT, env=environment, capture_output=True, check=True)
    return json.loads(found.stdout)["counted"]


def test_the_count_is_the_same_with_every_hash_seed():
    assert counted(0) == counted(4711)
