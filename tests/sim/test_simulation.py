"""The cluster under simulated faults: many seeds, and the ones that once found a bug."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from twistdist.testing import golden
from twistdist.testing.simulate import World, main, run_seeds

#: How many schedules a test run tries; each costs some 5 ms.
SCHEDULES = 5_000

#: Seeds of schedules that broke something once, and what that was.
FOUND = {
    18: "what was posted to a peer that was away stayed in its session after the resume",
    32: "a timer at the very moment it asked for was taken to be early, for ever",
    268: "as 18, for a client",
    103497: "a copy that could not be had was given up before the task that waits for it was counted",
    1111: "the grace of a session whose Ready was lost ended the session that followed it",
    300866: "a file that a neighbour had just saved was given up because an executor had looked for it before",
    106282: "scattered data were given up while the only worker was being started again",
    4081: "the simulated executor ran two packets at once",
}


#: Messages, and states of the tasks that they are about, that a run must meet: the rare ones that faults alone bring about.
MET = [
    ("Done", "assigned"),
    ("Done", "assigned, another attempt"),
    ("Done", "done"),
    ("Done", "done, another attempt"),
    ("Done", "forgotten"),
    ("Done", "idle"),
    ("Failed", "assigned, another attempt"),
    ("Failed", "failed"),
    ("Crashed", "assigned"),
    ("Crashed", "forgotten"),
    ("InputLost", "assigned"),
    ("InputLost", "waiting"),
    ("InputLost", "done, another attempt"),
    ("Cancel", "assigned"),
    ("Cancel", "awaited"),
    ("Cancel", "waiting"),
    ("Release", "awaited"),
    ("Release", "ready"),
    ("Scatter", "awaited"),
    ("NotSupplied", "awaited"),
    ("NotSupplied", "no task"),
    ("Keeps", "awaited"),
    ("Keeps", "no task"),
    ("Unreachable", "done"),
    ("CopyFailed", "-"),
    ("Inventory", "-"),
    ("Rescued", "-"),
]


@pytest.mark.parametrize("seed", FOUND, ids=lambda seed: f"seed {seed}")
def test_a_seed_that_found_a_bug(seed):
    World(seed).run()


def test_many_schedules(capsys):
    """None fails, and together they take every transition but those that docs/simulator.rst gives a reason for."""
    jobs = min(4, os.cpu_count() or 1)
    status = main(["--seeds", str(SCHEDULES), "--first-seed", "100000", "--jobs", str(jobs), "--pairs"])
    told = capsys.readouterr().out
    assert status == 0, told
    page = (pathlib.Path(__file__).parents[2] / "docs" / "simulator.rst").read_text()
    never = re.findall(r"^never taken: from \w+, (.+)$", told, re.MULTILINE)
    assert all(f"*{name}*" in page for name in never), never
    for message, state in MET:
        assert re.search(rf"^{message} +{state} +\d+$", told, re.MULTILINE), f"{message} never came for a task that is {state}"


def test_the_same_seed_gives_the_same_run_under_another_hash_seed():
    code = (
        "from twistdist.testing.simulate import World\n"
        "for seed in range(30):\n"
        "    w = World(seed); w.run(); print(seed, w.now, w._count, w.trace_digest(), sorted(w.executions.items()), w.faults)"
    )
    traces = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1] and len(traces[0].splitlines()) == 30


def test_faults_do_happen():
    report = run_seeds(0, 60)
    faults, failed = report.faults, report.failed
    assert not failed
    assert {"cut", "kill worker", "kill executor", "lose", "repeat", "reorder", "lose file"} <= set(faults)


def test_a_broken_core_is_found(monkeypatch):
    """The simulator is worth something only if it fails when the core is wrong."""
    from twistdist.core.scheduler.lifecycle import Lifecycle

    monkeypatch.setattr(Lifecycle, "recover", lambda self, lost, incident=None: None)
    failed = run_seeds(0, 30).failed
    assert failed


def test_copies_that_are_never_made_are_found(monkeypatch):
    from twistdist.core.scheduler.copies import Copies

    monkeypatch.setattr(Copies, "_copy", lambda self, task, retention, free, staying: free.clear())
    failed = run_seeds(0, 200).failed
    assert any("copies of" in text for _, text in failed)


def test_a_trace_that_is_not_as_it_was_is_named(tmp_path, capsys):
    kept = tmp_path / "traces"
    assert golden.main(["--jobs", "1", "write", "--seeds", "20", "--first-seed", "7", str(kept)]) == 0
    assert golden.main(["--jobs", "2", "compare", str(kept)]) == 0
    assert "20 of 20 traces are identical" in capsys.readouterr().out
    lines = kept.read_text().splitlines(keepends=True)
    assert len({line.split()[1] for line in lines}) == 20
    kept.write_text("".join([*lines[:3], "10 0123456789abcdef\n", *lines[4:]]))
    assert golden.main(["--jobs", "1", "compare", str(kept)]) == 1
    told = capsys.readouterr().out
    assert "19 of 20 traces are identical" in told and "these differ: 10;" in told
