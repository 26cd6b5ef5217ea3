"""The plan of faults is a pure function; what is compared, and what is said about it."""

from __future__ import annotations

import collections
import itertools
import math
import os
import pathlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistdist.chaos import command, memory, report, victims
from twistdist.chaos.inject import Injected
from twistdist.chaos.plan import DEFAULT_KINDS, LONGEST_S, MAX_RATE, ROLES, SHORTEST_S, Fault, check_kinds, plan
from twistdist.chaos.scripts import Answer, Run, difference, verdict
from twistdist.chaos.watch import Counts

KINDS = list(ROLES)


def first(count, *args):
    return list(itertools.islice(plan(*args), count))


@given(
    seed=st.integers(0, 2**64),
    rate=st.floats(0.001, MAX_RATE),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1),
    workers=st.integers(1, 100),
)
def test_the_same_arguments_give_the_same_plan_of_the_chosen_kinds_and_of_victims_that_exist(seed, rate, kinds, workers):
    faults = first(50, seed, rate, kinds, workers)
    assert faults == first(50, seed, rate, reversed(kinds), workers)
    assert all(earlier.at <= later.at for earlier, later in itertools.pairwise(faults))
    for fault in faults:
        assert fault.kind in kinds and fault.role in dict(ROLES[fault.kind])
        assert 0 <= fault.worker < workers and 0 <= fault.number < 1
        if fault.kind in ("kill", "lose"):
            assert fault.duration == 0
        else:
            assert SHORTEST_S <= fault.duration <= LONGEST_S


def test_another_seed_gives_another_plan():
    assert len({tuple(first(5, seed, 1.0, KINDS, 3)) for seed in range(100)}) == 100


def test_a_plan_stays_what_it_was():
    """A seed in a report of last year still means the same faults."""
    assert [str(fault) for fault in first(5, 7, 1.0, DEFAULT_KINDS, 3)] == GOLDEN


GOLDEN = [
    "0.39 s: kill an executor of worker 0",
    "0.45 s: cut connection of worker 1 to the scheduler for 0.07 s",
    "1.00 s: disk the disk for spilled results for 3.18 s",
    "1.86 s: stop the scheduler for 0.18 s",
    "2.02 s: kill worker 2",
]


@pytest.mark.parametrize("rate", [0.5, 10.0])
def test_there_are_as_many_faults_as_the_rate_says(rate):
    count = 2000
    assert math.isclose(first(count, 3, rate, KINDS, 3)[-1].at, count / rate, rel_tol=0.1)


def test_all_kinds_roles_workers_and_lengths_occur():
    faults = first(5000, 11, 1.0, KINDS, 4)
    kinds = collections.Counter(fault.kind for fault in faults)
    assert all(math.isclose(kinds[kind], 5000 / len(KINDS), rel_tol=0.2) for kind in KINDS)
    assert {fault.role for fault in faults} == {role for roles in ROLES.values() for role, _ in roles}
    assert {fault.worker for fault in faults} == set(range(4))
    lasting = [fault.duration for fault in faults if fault.duration]
    assert min(lasting) < 0.1 and max(lasting) > 3.5


@pytest.mark.parametrize(
    "args, text",
    [
        ((-1, 1.0, ["kill"], 3), "seed"),
        ((1, 0.0, ["kill"], 3), "rate"),
        ((1, math.nan, ["kill"], 3), "rate"),
        ((1, math.inf, ["kill"], 3), "rate"),
        ((1, 50.1, ["kill"], 3), "rate"),
        ((1, 1.0, [], 3), "at least one"),
        ((1, 1.0, ["kill", "boil"], 3), "'boil'"),
        ((1, 1.0, ["kill"], 0), "at least one worker"),
    ],
)
def test_a_plan_that_is_impossible_is_refused_at_once(args, text):
    with pytest.raises(ValueError, match=text):
        plan(*args)


def test_kinds_are_told_once_and_in_one_order():
    assert check_kinds(["cut", "kill", "cut"]) == ("kill", "cut")


# ---- answers ------------------------------------------------------------------------------------


def answer(folder, status, output=b"42\n"):
    path = folder / f"output-{len(list(folder.iterdir()))}"
    path.write_bytes(output)
    return Answer(path, status, 1.0, ["Oops"])


@pytest.mark.parametrize(
    "expected, status, output, found",
    [
        (0, 0, b"42\n", "right"),
        (0, 0, b"41\n", "wrong"),
        (0, 0, b"42\n42\n", "wrong"),
        (0, 0, b"", "wrong"),
        (0, 1, b"42\n", "none"),
        (0, None, b"42\n", "none"),
        (0, -9, b"42\n", "none"),
        (3, 3, b"42\n", "right"),
        (3, 3, b"43\n", "wrong"),
        (3, 0, b"42\n", "wrong"),
        (3, 4, b"42\n", "wrong"),
        (3, -11, b"42\n", "none"),
    ],
)
def test_an_answer_is_right_wrong_or_none(tmp_path, expected, status, output, found):
    assert verdict(answer(tmp_path, expected), answer(tmp_path, status, output)) == found


@pytest.mark.parametrize("status, found", [(0, "right"), (1, "none"), (None, "none"), (-9, "none")])
def test_without_a_reference_the_exit_status_decides(tmp_path, status, found):
    assert verdict(None, answer(tmp_path, status, b"anything")) == found


def test_the_first_line_that_differs_is_shown_and_not_too_much_of_it(tmp_path):
    expected = answer(tmp_path, 0, b"1\n2\n3\n")
    assert difference(expected, answer(tmp_path, 0, b"1\n2\n3\n")) == ""
    assert difference(expected, answer(tmp_path, 0, b"1\n4\n3\n")) == "line 2 is '4' instead of '2'"
    assert difference(expected, answer(tmp_path, 0, b"1\n2\n")) == "line 3 is missing instead of '3'"
    assert difference(expected, answer(tmp_path, 2)) == "exit status 2 instead of 0"
    assert len(difference(expected, answer(tmp_path, 0, b"x" * 10_000))) < 300
    assert "\\x1b" in difference(expected, answer(tmp_path, 0, b"\x1b[2J\n"))


def test_the_report_says_what_happened(tmp_path):
    reference = Run(answer(tmp_path, 0), Counts(submitted=10, done=10))
    counts = Counts(submitted=10, done=12, reruns=3, replays=2, incidents={"worker lost": 2, "executor died": 1})
    fault = Fault(0.5, "stop", "worker", 1, 0.5, 2.0)
    injected = [Injected(fault, True, "process 5 was stopped")]
    wrong = Run(answer(tmp_path, 0, b"43\n"), counts, {"kill": 2, "stop": 1}, 1, injected)
    text = "\n".join(report.run_lines(2, 8, reference, wrong))
    for part in (
        "run 2",
        "seed 8",
        "WRONG: line 1 is '43' instead of '42'",
        "3: 2 kill, 1 stop; 1 hit nothing",
        "12 executions gave a value, 10 without faults",
        "2 for values that were lost, 3 given to a worker again",
        "3: 1 executor died, 2 worker lost",
        "| Oops",
    ):
        assert part in text
    setup = report.Setup(["x.py"], 7, 1.0, ("kill", "stop"), {"disk": "no root"}, 3, 1)
    assert "unavailable   disk: no root" in report.begin(setup)
    [told] = report.as_json(setup, reference, {8: wrong})["runs"]
    assert told["answer"] == "wrong" and told["seed"] == 8 and told["tasks"]["done"] == 12
    assert told["injected"] == [
        {
            "at": 0.5,
            "kind": "stop",
            "role": "worker",
            "worker": 1,
            "number": 0.5,
            "duration": 2.0,
            "victim": "worker 1",
            "done": True,
            "outcome": "process 5 was stopped",
        }
    ]


# ---- victims --------------------------------------------------------------------------------------


def test_only_a_child_of_the_right_process_is_a_victim():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        victims.Victim(child.pid, os.getpid()).close()
        with pytest.raises(victims.NoVictim, match="not a child"):
            victims.Victim(child.pid, child.pid)
        with pytest.raises(victims.NoVictim, match="not a child"):
            victims.Victim(os.getppid(), os.getpid())
        child.communicate(b"\n", 60)
    with pytest.raises(victims.NoVictim, match="ended"):
        victims.Victim(child.pid, os.getpid())


def test_a_process_that_ended_is_not_signalled_though_its_number_may_be_used_again(monkeypatch):
    """Without descriptors of processes, the start time decides."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        victim = victims.Victim(child.pid, os.getpid())
        victim._started -= 1  # another process
        with pytest.raises(victims.NoVictim, match="ended"):
            victim.signal(9)
        assert child.poll() is None
        victim._started += 1
        victim.signal(9)
        assert child.wait(60) == -9


def test_the_memory_that_is_held_is_a_share_of_what_is_free():
    free = memory.free_memory()
    assert memory.size_for(10 * free, 0) <= 0.26 * memory.free_memory()
    assert memory.size_for(1000, 900) == 0 and memory.size_for(1000, 100) == 800


# ---- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--seed", "-1"],
        ["--seed", "x"],
        ["--rate", "0"],
        ["--rate", "1e9"],
        ["--rate", "nan"],
        ["--faults", "boil"],
        ["--faults", ""],
        ["--workers", "0"],
        ["--workers", "101"],
        ["--slots", "-3"],
        ["--runs", "0"],
        ["--timeout", "0"],
        ["--timeout", "inf"],
    ],
)
def test_bad_options_are_refused_with_status_2(words, capsys, tmp_path):
    from twistdist import cli

    script = tmp_path / "script.py"
    script.write_text("")
    with pytest.raises(SystemExit) as ended:
        cli.main(["chaos", *words, str(script)])
    assert ended.value.code == 2 and words[0] in capsys.readouterr().err


def test_a_script_or_a_folder_that_does_not_exist_is_refused_with_status_2(capsys, tmp_path):
    from twistdist import cli

    assert cli.main(["chaos", str(tmp_path / "none.py")]) == 2
    assert "none.py" in capsys.readouterr().err
    script = tmp_path / "script.py"
    script.write_text("")
    assert cli.main(["chaos", "--json", str(tmp_path / "none" / "report.json"), str(script)]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("kinds", ["disk", "journal,kill"])
def test_faults_that_are_asked_for_and_not_available_are_refused_with_status_2(kinds, capsys, tmp_path, monkeypatch):
    from twistdist import cli

    monkeypatch.setenv("PATH", "")  # no mount command
    script = tmp_path / "script.py"
    script.write_text("")
    assert cli.main(["chaos", "--faults", kinds, str(script)]) == 2
    assert "not available: no file system can be mounted" in capsys.readouterr().err


def test_the_default_leaves_out_what_is_not_available(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert list(command._unavailable(DEFAULT_KINDS)) == ["disk"]
    monkeypatch.setattr(victims, "_parent_and_start", no_proc)
    assert set(command._unavailable(DEFAULT_KINDS)) == {"kill", "stop", "disk"}


def no_proc(pid):
    raise victims.NoVictim("no /proc")


def test_the_plugin_of_pytest_imports_nothing_else_of_twistdist():
    code = "import sys, twistdist.pytest_plugin; print([n for n in sys.modules if n.startswith(('twistdist', 'twisted'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(eval(done.stdout)) == ["twistdist", "twistdist.pytest_plugin"]


def test_the_plugin_is_an_entry_point():
    text = (pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\ntwistdist = "twistdist.pytest_plugin"\n' in text
