"""Promises under kill -9, with real processes."""

from __future__ import annotations

import collections
import concurrent.futures
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.integration.habits import gone, until
from twistdist import demo, errors
from twistdist.blocking import Client, LocalCluster, wait


def logged(log, i, *inputs):
    """A value of 10,000 bytes and more; every execution leaves a line."""
    with open(log, "a", buffering=1) as stream:
        stream.write(f"{i}\n")
    return bytes([i % 256]) * (10_000 + sum(map(len, inputs)) % 7)


def runs(log):
    with open(log) as stream:
        return collections.Counter(int(line) for line in stream)


@pytest.fixture
def own_cluster():
    with LocalCluster(n_workers=2) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(2, 60)
        yield cluster, client


def test_a_killed_worker_s_results_come_back_from_its_store(own_cluster, tmp_path):
    cluster, client = own_cluster
    log = str(tmp_path / "log")
    futures = [client.submit(logged, log, i) for i in range(40)]
    assert wait(futures, 60).not_done == set()
    pid = cluster.workers["w0"]
    cluster.kill_worker("w0")
    until(lambda: cluster.workers.get("w0", pid) != pid)
    client.wait_for_workers(2, 60)
    assert client.gather(futures, timeout=60) == [bytes([i]) * 10_000 for i in range(40)]
    assert {i for i, n in runs(log).items() if n > 1} <= {i for i in range(40)}
    lost = [one for one in client.incidents() if one.kind == "worker lost"]
    assert len(lost) == 1
    assert sum(n - 1 for n in runs(log).values()) <= lost[0].replayed + lost[0].requeued


def test_results_lost_with_a_machine_are_replayed_and_no_others(own_cluster, tmp_path):
    cluster, client = own_cluster
    log = str(tmp_path / "log")
    level = [client.submit(logged, log, i) for i in range(30)]
    tops = [client.submit(logged, log, 100 + i, level[i], level[i + 1]) for i in range(0, 30, 2)]
    assert wait(level + tops, 60).not_done == set()
    before = runs(log)
    assert set(before.values()) == {1}
    held = {key for key, names in client.who_has(level + tops).items() if names == ["w1"]}
    cluster.kill_worker("w1", wipe=True)
    values = client.gather(tops, timeout=60)
    assert [value[:1] for value in values] == [bytes([100 + i]) for i in range(0, 30, 2)]
    until(lambda: any(one.kind == "worker lost" for one in client.incidents()))
    until(lambda: client.status()["tasks"] == {"done": 45})
    again = sum(n - 1 for n in runs(log).values())
    incident = next(one for one in client.incidents() if one.kind == "worker lost")
    assert again == incident.lost == incident.replayed == len(held)


def test_workers_killed_one_after_the_other_in_the_middle_of_work(own_cluster, tmp_path):
    cluster, client = own_cluster
    log = str(tmp_path / "log")
    futures = [client.submit(logged, log, i) for i in range(200)]
    tree = futures
    while len(tree) > 1:
        tree = [client.submit(logged, log, 1000 + i, *tree[i : i + 4]) for i in range(0, len(tree), 4)]
    for name in ("w0", "w1"):
        target = len(runs(log)) + 30 if os.path.exists(log) else 30
        until(lambda target=target: (os.path.exists(log) and len(runs(log)) >= target) or tree[0].done())
        cluster.kill_worker(name, wipe=name == "w1")
    assert tree[0].result(60)[:1] == bytes([1000 % 256])
    assert [value[:1] for value in client.gather(futures, timeout=60)] == [bytes([i]) for i in range(200)]


def test_a_killed_executor_is_replaced_and_only_its_task_is_charged(own_cluster):
    _, client = own_cluster
    pids = set(client.gather(client.map(lambda i: os.getpid(), range(20))))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert client.gather(client.map(abs, range(200)), timeout=60) == list(range(200))


def test_a_killed_template_is_replaced(own_cluster):
    _, client = own_cluster
    pid = client.submit(os.getppid, workers=["w0"]).result(30)
    executor = client.submit(os.getpid, workers=["w0"]).result(30)
    os.kill(pid, signal.SIGKILL)
    until(lambda: gone(executor))
    assert client.submit(os.getppid, workers=["w0"]).result(30) != pid


@pytest.fixture
def forgetful():
    with LocalCluster(n_workers=2, journal="none") as cluster, Client(cluster.address) as client:
        client.wait_for_workers(2, 60)
        yield cluster, client


def test_a_scheduler_without_memory_is_killed_and_started_again(forgetful):
    """It forgets: what was pending fails and says so, nothing hangs, and the cluster works again by itself."""
    cluster, client = forgetful
    done = client.submit(abs, -8)
    assert done.result(30) == 8
    pending = client.submit(time.sleep, 60)
    until(lambda: any(info.running for info in client.workers().values()))
    cluster.kill_scheduler()
    until(lambda: not cluster.scheduler)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.status)
        with pytest.raises(TimeoutError):
            client.wait_for_workers(2, timeout=0.1)
        cluster.start_scheduler()
        with pytest.raises(errors.DataLost, match="submit again"):
            pending.result(60)
        try:
            asked.result(60)
        except errors.TwistdistError as error:
            assert "ask again" in str(error)
    assert done.result(30) == 8
    for future in (done, pending):
        with pytest.raises(errors.DataLost, match="submit its task again"):
            client.submit(abs, future)
    client.wait_for_workers(2, 60)
    assert client.gather(client.map(abs, range(100)), timeout=60) == list(range(100))


def test_nothing_is_left_behind_when_the_owner_of_a_cluster_is_killed(tmp_path):
    code = (
        "import os, sys, time\n"
        "from twistdist.blocking import Client, LocalCluster\n"
        "with LocalCluster(n_workers=2) as c, Client(c.address) as client:\n"
        "    pids = [c.scheduler, *c.workers.values(), *client.gather([client.submit(f, workers=[w])\n"
        "            for f in (os.getpid, os.getppid) for w in c.workers])]\n"
        "    print(*pids, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        pids = list(map(int, owner.stdout.readline().split()))
        assert len(pids) == 7
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    until(lambda: all(map(gone, pids)))


@pytest.mark.parametrize(("seed", "kill", "wipe"), [(1, 1, False), (2, 2, True), (3, 2, False)])
def test_the_demonstration(seed, kill, wipe):
    report = demo.run(workers=2, kill=kill, seed=seed, wipe=wipe, most_files=250, show=False)
    assert report.right and report.files == 250 and len(report.killed) >= 1
    assert report.statistics["failed"] == 0
    again = report.statistics["done"] - report.tasks
    assert again <= report.statistics["replays"]
    assert "right: the same as the serial run" in str(report)
