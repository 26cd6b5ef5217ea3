"""Workers that come and go: processes that are told to end in time lose nothing, and nothing runs twice."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

import twistdist
from tests.integration import habits
from tests.integration.test_twistd import STOPPED, scheduler, shells, worker
from tests.net.test_preemption import Server
from twistdist import errors
from twistdist.blocking import Client

__all__ = ["shells"]


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch):
    """Workers that are started by twistd in another folder find the functions of this module."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


def work(number, seconds, path):
    """One line for each execution, and a result that only its worker holds."""
    habits.note(path, f"{number}")
    time.sleep(seconds)
    return bytes([number % 251]) * 100_000


def check(futures, path):
    values = [future.result(90) for future in futures]
    assert [value[:1] + bytes([len(value) == 100_000]) for value in values] == [
        bytes([n % 251, 1]) for n in range(len(futures))
    ]
    assert sorted(map(int, habits.lines(path))) == list(range(len(futures)))


def test_half_of_the_workers_get_twenty_seconds_notice(shells, tmp_path):
    _, address = scheduler(shells)
    workers = [worker(shells, address, f"w{number}", "--notice", "20") for number in range(4)]
    path = tmp_path / "executions"
    with Client(address) as client:
        futures = [client.submit(work, n, (1, 2, 3, 1.5)[n % 4], str(path)) for n in range(24)]
        habits.until(lambda: len(habits.lines(path)) >= 6)
        leaving, began = workers[:2], time.monotonic()
        for shell in leaving:
            shell.process.send_signal(signal.SIGTERM)
        for shell in leaving:
            assert shell.process.wait(20 - (time.monotonic() - began)) in STOPPED  # SIGKILL would follow
        habits.until(lambda: sorted(client.workers(timeout=60)) == ["w2", "w3"])
        check(futures, path)
        assert not [incident for incident in client.incidents() if incident.kind in ("worker lost", "executor died")]
        assert client.status()["replays"] == 0


def test_short_tasks_that_wait_behind_one_another_go_back(shells, tmp_path):
    _, address = scheduler(shells)
    first = worker(shells, address, "w0", "--notice", "20")
    path = tmp_path / "executions"
    with Client(address) as client:
        client.gather(client.map(abs, range(100)))
        futures = [client.submit(work, n, 0.02 if n else 2, str(path)) for n in range(200)]
        habits.until(lambda: habits.lines(path))
        worker(shells, address, "w1")
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(30) in STOPPED
        check(futures, path)


def test_a_running_task_ends_although_nobody_else_is_there(shells, tmp_path):
    _, address = scheduler(shells)
    only = worker(shells, address, "w0", "--notice", "30")
    path = tmp_path / "executions"
    with Client(address) as client:
        futures = [client.submit(work, n, 1.5, str(path)) for n in range(3)]
        habits.until(lambda: habits.lines(path))
        only.process.send_signal(signal.SIGTERM)
        habits.until(lambda: client.workers(timeout=60)["w0"].state == "retiring")
        time.sleep(2)  # long enough for the running task to end: then its result waits for somebody
        assert only.process.poll() is None
        worker(shells, address, "w1")
        assert only.process.wait(30) in STOPPED
        check(futures, path)


def test_a_second_signal_ends_at_once(shells, tmp_path):
    _, address = scheduler(shells)
    only = worker(shells, address, "w0", "--notice", "600")
    path = tmp_path / "executions"
    with Client(address) as client:
        future = client.submit(work, 0, 600, str(path))
        habits.until(lambda: habits.lines(path))
        only.process.send_signal(signal.SIGINT)
        habits.until(lambda: client.workers(timeout=60)["w0"].state == "retiring")
        assert only.process.poll() is None
        only.process.send_signal(signal.SIGTERM)
        assert only.process.wait(30) in (*STOPPED, -signal.SIGINT) and not future.done()


def test_a_worker_leaves_before_its_lifetime_is_over(shells, tmp_path):
    _, address = scheduler(shells)
    began = time.monotonic()
    first = worker(shells, address, "w0", "--lifetime", "20", "--lifetime-margin", "17")
    path = tmp_path / "executions"
    with Client(address) as client:
        futures = [client.submit(work, n, 2, str(path)) for n in range(6)]
        habits.until(lambda: client.workers(timeout=60)["w0"].state == "retiring")
        worker(shells, address, "w1")
        assert first.process.wait(30) == 0 and time.monotonic() - began < 20
        assert "its lifetime is over" in first.wait_for("^twistdist: w0 is leaving: .*")[0]
        check(futures, path)
        habits.until(lambda: [one.cause for one in client.incidents() if one.kind == "worker left"] == ["its lifetime is over"])


def test_a_worker_leaves_before_its_allocation_ends(shells, monkeypatch):
    _, address = scheduler(shells)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 8))
    one = worker(shells, address, "w0", "--lifetime", "auto", "--lifetime-margin", "4")
    assert one.process.wait(30) == 0
    assert "SLURM_JOB_END_TIME" in "".join(one.lines)
    assert time.time() < int(os.environ["SLURM_JOB_END_TIME"])


def test_what_a_restarted_scheduler_does_not_know_it_is_told_again(shells, tmp_path):
    options = ("--journal", str(tmp_path / "state.sqlite"))
    shell, address = scheduler(shells, *options)
    first = worker(shells, address, "w0", "--notice", "40")
    path = tmp_path / "executions"
    with Client(address) as client:
        futures = [client.submit(work, n, 6, str(path)) for n in range(2)]
        habits.until(lambda: habits.lines(path))
        first.process.send_signal(signal.SIGTERM)
        habits.until(lambda: client.workers(timeout=60)["w0"].state == "retiring")
        shell.end(signal.SIGKILL)
        shells(*shell.process.args[:4], f"tcp:{address.rpartition(':')[2]}:interface=127.0.0.1", *options)
        habits.until(lambda: (info := client.workers(timeout=60).get("w0")) and info.state == "retiring")
        worker(shells, address, "w1")
        assert first.process.wait(40) in STOPPED
        check(futures, path)


def test_a_worker_whose_machine_is_taken_away_leaves(shells, tmp_path):
    _, address = scheduler(shells)
    answers = Server((404, b""))
    try:
        url = ("--preemption-url", answers.url, "--preemption-header", "Metadata-Flavor: Google")
        first = worker(shells, address, "w0", "--notice", "30", *url)
        path = tmp_path / "executions"
        with Client(address) as client:
            futures = [client.submit(work, n, 2, str(path)) for n in range(3)]
            habits.until(lambda: habits.lines(path))
            worker(shells, address, "w1")
            answers.answers[:] = [(200, b"TRUE")]
            assert first.process.wait(30) == 0
            assert answers.seen[0][2] == "Google"
            check(futures, path)
            habits.until(
                lambda: [one.cause for one in client.incidents() if one.kind == "worker left"] == ["its machine is taken away"]
            )
    finally:
        answers.close()


#: A worker that believes to run another Python.
OTHER_PYTHON = """
import sys
import twistdist.net.worker
twistdist.net.worker.python_here = lambda: "3.9"
from twisted.scripts.twistd import run
run()
"""


def test_another_python_at_the_other_end_is_refused_in_words(shells, monkeypatch):
    _, address = scheduler(shells)
    worker(shells, address, "w0")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    options = ("-n", "twistdist-worker", address, "--name", "w1", "--store", str(shells.folder / "store-w1"))
    other = shells(sys.executable, "-c", OTHER_PYTHON, *options)
    assert other.process.wait(60) == 1
    other.wait_for(
        rf"^twistdist: worker w1 can't continue: the worker w1 runs Python 3\.9, but the cluster's workers run "
        rf"Python {version} \(w0\): functions that one pickles can't be read by the other; start it with Python {version}$"
    )
    monkeypatch.setattr("twistdist.net.client_session.python_here", lambda: "3.9")
    with pytest.raises(errors.VersionMismatch, match=rf"this client runs Python 3\.9, but .* run Python {version}"):
        Client(address)


@pytest_twisted.inlineCallbacks
def test_a_parent_hears_that_a_worker_leaves_for_good():
    cluster = twistdist.LocalCluster(reactor, n_workers=2)
    cluster._worker_options += ["--lifetime=6", "--lifetime-margin=3"]  # no option of a LocalCluster: it ends with its script
    yield cluster.startService()
    try:
        end = time.monotonic() + 60
        while cluster.workers:
            assert time.monotonic() < end, "its workers did not leave"
            yield deferLater(reactor, 0.05)
        assert not cluster._restarts  # they are not taken for workers that died
    finally:
        yield cluster.stopService()
