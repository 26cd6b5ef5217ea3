"""Calls of every public name with arguments of every kind; ``TWISTDIST_FUZZ_CALLS`` and ``TWISTDIST_FUZZ_SEED`` make more."""

import os
import subprocess
import sys

import pytest

CALLS, SEED = os.environ.get("TWISTDIST_FUZZ_CALLS", "700"), os.environ.get("TWISTDIST_FUZZ_SEED", "1")

#: What a process writes to standard error when it did not expect something.
ALARMS = ("Traceback", "Unhandled", "Error:", "never awaited")


@pytest.mark.timeout(3600)
def test_whatever_is_passed_only_its_own_call_fails():
    command = [sys.executable, "-m", "tests.fuzz.public_api", "--seed", SEED, "--calls", CALLS, "--seconds", "30"]
    if "TWISTDIST_FUZZ_CALLS" in os.environ:
        del command[-2:]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-5_000:]
    assert not [line for line in run.stderr.splitlines() if any(one in line for one in ALARMS)], run.stderr[-5_000:]
