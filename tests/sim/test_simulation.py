"""The cluster under simulated faults: many seeds, and the ones that once found a bug."""

import os
import subprocess
import sys

import pytest

from twistdist.testing import coverage_by_state, golden
from twistdist.testing.simulate import World, main, run_seeds

#: How many schedules a test run tries; each costs some 20 ms.
SCHEDULES = 2_000

#: Seeds of schedules that broke something once, and what that was, by the version of the simulator (``World``): with everything
#: switched on, with a part of all features and faults, and with tasks that submit tasks and the newest faults.
FOUND = {
    1: {
        18: "what was posted to a peer that was away stayed in its session after the resume",
        32: "a timer at the very moment it asked for was taken to be early, for ever",
        268: "as 18, for a client",
        103497: "a copy that could not be had was given up before the task that waits for it was counted",
        1111: "the grace of a session whose Ready was lost ended the session that followed it",
        300866: "a file that a neighbour had just saved was given up because an executor had looked for it before",
        106282: "scattered data were given up while the only worker was being started again",
        5088: "a worker that came back with the failure that had been retried made the task fail again, unheard by its client",
        4081: "the simulated executor ran two packets at once",
    },
    2: {
        200151: "a future of a lost session was retried, and waited for ever",
        200180: "an executor that was stopped while it had begun nothing was never replaced",
        200256: "a client kept the data that it had scattered in a lost session",
        101243: "a published task that failed vanished from its name when the scheduler was restarted",
        302410: "scattered data for which all workers were leaving were not asked for again when one stayed",
        300306: "a new session had the number of the lost one, which a scheduler that took over still knew",
    },
    3: {
        510596: "the session of a task that was gone was kept like that of any client",
        531127: "clear ended the session of a running task whose connection was broken at that moment",
        1000484: "a worker told of an outcome whose file was gone",
        1004569: "rebalance moved the only copy of two that were wanted",
        1016676: "a worker was given a task without its function",
        1017633: "a client looked for a value of a lost session at workers that it did not know any more",
        1020575: "data were awaited from a session that had ended",
        1101301: "a worker was taken to hold a copy that it had been told to delete",
        1052170: "a task waited behind one that its worker had lost",
    },
    4: {
        100364: "a task ended with the value of another, which a scheduler of which nothing was known had assigned",
        1505345: "futures that had been cancelled were computed in the next session",
    },
}


@pytest.mark.parametrize(("version", "seed"), [(version, seed) for version, seeds in FOUND.items() for seed in seeds])
def test_a_seed_that_found_a_bug(version, seed):
    World(seed, version=version).run()


def test_many_schedules(capsys, tmp_path):
    """None fails, and together they meet every pair of an event and a state that is expected of them (docs/simulator.rst)."""
    jobs = min(4, os.cpu_count() or 1)
    met = tmp_path / "met.json"
    status = main(["--seeds", str(SCHEDULES), "--first-seed", "100000", "--jobs", str(jobs), "--coverage", str(met)])
    assert status == 0, capsys.readouterr().out
    assert coverage_by_state.main([str(met)]) == 0, capsys.readouterr().out


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
