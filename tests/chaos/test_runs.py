"""Real runs of ``twistdist chaos``: scripts, clusters, faults."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.integration.habits import gone, until
from twistdist.chaos import disks

pytestmark = pytest.mark.slow

#: Two levels of tasks with results that are too large for the scheduler, so that they are lost with workers.  With 100 parts it
#: takes some seconds, in which faults happen: which ones depends on the seed, and the slower the machine, the more of them.
PIPELINE = """
import sys, time
from helper import digest
from twistdist.blocking import Client

def load(i):
    time.sleep(0.2)
    return bytes([i % 251]) * 30_000

def join(parts):
    time.sleep(0.2)
    return b"".join(part[:9_000] for part in parts)

with Client() as client:
    count = int(sys.argv[1])
    parts = client.map(load, range(count), crash_limit=50)
    joined = client.map(join, [parts[i : i + 5] for i in range(0, count, 5)], crash_limit=50)
    for i, future in enumerate(joined):
        print(i, client.submit(digest, future, crash_limit=50).result(120))
"""

HELPER = """
import hashlib

def digest(data):
    return hashlib.sha256(data).hexdigest()
"""

#: Its tasks have an effect outside twistdist.
APPENDS = """
import pathlib, sys, time
from twistdist.blocking import Client

def append(path, i):
    with open(path, "a") as stream:
        stream.write(f"{i}\\n")
    time.sleep(0.2)
    return i

with Client() as client:
    path = sys.argv[1]
    pathlib.Path(path).write_text("")
    total = sum(client.gather(client.map(append, [path] * 60, range(60), crash_limit=50)))
    print(total, len(pathlib.Path(path).read_text().split()))
"""


@pytest.fixture
def scripts(tmp_path):
    for name, text in (("pipeline", PIPELINE), ("helper", HELPER), ("appends", APPENDS)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def chaos(folder, *words, timeout=300):
    """Return the exit status, the text and the JSON of a run of the command in a process of its own."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "twistdist.cli", "chaos", "--json", str(report), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    text = done.stdout + done.stderr
    print(text)
    return done.returncode, text, json.loads(report.read_text()) if report.exists() else None


def needs_disks():
    reason = disks.why_unavailable()
    if reason:
        pytest.skip(reason)


#: Faults per second of each kind alone.  Results that are lost faster than they are computed never come to an end.
RATES = {"kill": 1, "lose": 0.4, "stop": 1, "cut": 2, "memory": 1, "disk": 1}


@pytest.mark.parametrize("kind", RATES)
def test_the_answer_is_right_under_each_kind_of_fault(scripts, kind):
    if kind == "disk":
        needs_disks()
    status, text, told = chaos(scripts, "--seed", 5, "--rate", RATES[kind], "--faults", kind, scripts / "pipeline.py", 100)
    assert status == 0 and "1 right, 0 wrong, 0 none" in text
    [run] = told["runs"]
    assert run["answer"] == "right" and run["faults"][kind] >= 1 and set(run["faults"]) == {kind}
    assert told["reference"]["tasks"]["done"] == told["reference"]["tasks"]["submitted"] == 140
    assert run["tasks"]["done"] >= 140 or kind in ("kill", "stop")  # a scheduler that was killed may not have told its last
    assert told["seed"] == 5 and told["kinds"] == [kind] and not told["unavailable"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the script is not ended by the kernel")
def test_a_script_ends_with_the_program_that_runs_it(tmp_path):
    """It waited for a cluster that was gone."""
    script, note = tmp_path / "waits.py", tmp_path / "pid"
    told = f"pathlib.Path({str(note)!r}).write_text(f'{{os.getpid()}} ')"
    script.write_text(f"import os, pathlib, time\n{told}\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "twistdist.cli", "chaos", "--workers", "1", str(script)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: note.exists() and note.read_text().endswith(" "))
        process.kill()
    until(lambda: gone(int(note.read_text())))


def test_all_kinds_together_with_a_random_seed_that_is_told(scripts):
    status, text, told = chaos(scripts, "--rate", 2, scripts / "pipeline.py", 100)
    assert status == 0 and f"seed          {told['seed']}\n" in text
    assert sum(told["runs"][0]["faults"].values()) >= 1


def test_effects_that_are_repeated_are_a_wrong_answer(scripts):
    status, text, told = chaos(scripts, "--seed", 2, "--rate", 4, "--faults", "lose", scripts / "appends.py", scripts / "log")
    [run] = told["runs"]
    assert status == 1 and run["answer"] == "wrong" and "0 right, 1 wrong, 0 none" in text
    assert run["difference"].startswith("line 1 is '1770 ") and run["difference"].endswith("instead of '1770 60'")
    assert run["tasks"]["reruns"] > 0


#: The second time, when faults happen, its task dies, as if a fault had hit it too often.
FRAGILE = """
import os, sys
from twistdist.blocking import Client

with Client() as client:
    if os.path.exists(sys.argv[1]):
        client.submit(os._exit, 3, crash_limit=1).result(60)
    open(sys.argv[1], "w").close()
    print(client.submit(pow, 2, 5).result(60))
"""


def test_a_script_that_fails_has_no_answer(tmp_path):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    status, text, told = chaos(tmp_path, "--faults", "cut", tmp_path / "fragile.py", tmp_path / "mark")
    assert status == 1 and "0 right, 0 wrong, 1 none" in text and "TaskCrashed" in text
    assert told["runs"][0]["answer"] == "none" and told["runs"][0]["exit_status"] == 1


HANGS = """
import os, sys, time
from twistdist.blocking import Client

with Client() as client:
    print(client.submit(pow, 2, 5).result(60))
    if os.path.exists(sys.argv[1]):
        time.sleep(600)
    open(sys.argv[1], "w").close()
"""


def test_a_script_that_does_not_end_has_no_answer(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    words = ("--timeout", 5, "--faults", "cut", tmp_path / "hangs.py", tmp_path / "mark")
    status, text, told = chaos(tmp_path, *words)
    assert status == 1 and "NONE: it did not end within 5 s" in text
    assert told["runs"][0]["exit_status"] is None


ALONE = """
from twistdist.blocking import Client, LocalCluster

with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
    print(client.submit(pow, 2, 5).result(60))
"""


def test_a_script_with_a_cluster_of_its_own_is_refused(tmp_path):
    (tmp_path / "alone.py").write_text(ALONE)
    status, text, told = chaos(tmp_path, tmp_path / "alone.py")
    assert status == 2 and "ran no task on the cluster" in text and told is None


CHECKS = """
import sys
from twistdist.blocking import Client

with Client() as client:
    sys.exit(sum(client.gather(client.map(abs, range(-50, 0)))) != int(sys.argv[1]))
"""


def test_without_a_reference_the_script_checks_its_answer_and_runs_have_seeds_of_their_own(tmp_path):
    (tmp_path / "checks.py").write_text(CHECKS)
    words = ("--no-reference", "--seed", 3, "--rate", 5, "--faults", "cut,kill", "--workers", 2, "--slots", 2)
    status, text, told = chaos(tmp_path, *words, "--runs", 2, tmp_path / "checks.py", 1275)
    assert status == 0 and told["reference"] is None and [run["seed"] for run in told["runs"]] == [3, 4]
    status, text, _ = chaos(tmp_path, *words, tmp_path / "checks.py", 1276)
    assert status == 1 and "1 none" in text


PATIENT = """
import sys, time
from twistdist.blocking import Client
from twistdist.errors import JournalError

def load(i):
    time.sleep(0.02)
    return bytes([i % 251]) * 20_000

with Client() as client:
    for i in range(150):
        while True:
            try:
                print(i, len(client.submit(load, i).result(120)))
                break
            except JournalError as error:
                print(error, file=sys.stderr)
                time.sleep(0.1)
"""


def test_a_full_disk_of_the_journal_gives_no_wrong_answer(tmp_path):
    needs_disks()
    (tmp_path / "patient.py").write_text(PATIENT)
    status, _, told = chaos(tmp_path, "--seed", 1, "--rate", 2, "--faults", "journal", tmp_path / "patient.py")
    assert status == 0 and told["runs"][0]["faults"]["journal"] >= 1


def mounts():
    return [line for line in pathlib.Path("/proc/mounts").read_text().splitlines() if "twistdist-chaos" in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_command_is_interrupted(tmp_path, number):
    """The script, the cluster and the disks go with it."""
    noted = HANGS.replace("time.sleep(600)", "open(sys.argv[2], 'w').write(str(os.getpid())); time.sleep(600)")
    (tmp_path / "hangs.py").write_text(noted)
    before = mounts()
    (tmp_path / "mark").touch()
    words = ["--no-reference", "--rate", "5", str(tmp_path / "hangs.py"), str(tmp_path / "mark"), str(tmp_path / "pid")]
    command = [sys.executable, "-m", "twistdist.cli", "chaos", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 120)
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert mounts() == before
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_minute_of_faults_with_many_seeds_gives_no_wrong_answer(scripts):
    """About 60 s.  The seeds are fixed, what they meet is not: a failure names the seed, and what was done is in its report."""
    words = ("--seed", 100, "--rate", 1, "--runs", 5, scripts / "pipeline.py", 120)
    status, text, told = chaos(scripts, *words, timeout=600)
    assert status == 0 and "5 right, 0 wrong, 0 none" in text
    faults = [kind for run in told["runs"] for kind in run["faults"]]
    assert {"kill", "lose", "stop", "cut"} <= set(faults)
    assert sum(run["tasks"]["reruns"] + run["tasks"]["replays"] for run in told["runs"]) > 0
