"""``cluster.adapt`` with real processes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.integration.habits import lines, note, until
from twistdist.blocking import Client, LocalCluster, wait
from twistdist.errors import TwistdistError


def work(path, number, seconds):
    """Note that it ran; the value is too large to be kept by the scheduler."""
    time.sleep(seconds)
    note(path, number)
    return bytes([number]) * 20_000


def hold(path):
    until(lambda: not os.path.exists(path + ".hold"))


def test_from_one_worker_to_four_and_back_without_losing_or_repeating(tmp_path):
    ran = str(tmp_path / "ran")
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        cluster.adapt(1, 4, interval_s=0.2, patience_s=1)
        futures = [client.submit(work, ran, number, 0.2) for number in range(60)]
        until(lambda: len(client.workers()) == 4)
        assert wait(futures, 60).not_done == set()
        until(lambda: len(client.workers()) == len(cluster.workers) == 1)
        assert client.gather(futures, timeout=60) == [bytes([number]) * 20_000 for number in range(60)]
        assert sorted(map(int, lines(ran))) == list(range(60))
        status = client.status()
        assert (status["reruns"], status["replays"]) == (0, 0)
        assert {incident.kind for incident in client.incidents()} == {"worker retired"}


def test_from_none_to_some_and_the_last_holder_stays_until_its_values_are_dropped(tmp_path):
    with LocalCluster(n_workers=0) as cluster, Client(cluster) as client:
        cluster.adapt(0, 2, interval_s=0.1, patience_s=0.5)
        future = client.submit(bytes, 20_000)
        assert len(future.result(60)) == 20_000
        until(lambda: len(client.workers()) == 1)
        (name,) = client.workers()
        begin = time.monotonic()
        until(lambda: time.monotonic() > begin + 2 or not client.workers())  # four times its patience
        assert list(client.workers()) == [name]
        del future
        until(lambda: not client.workers() and not cluster.workers)
        assert client.submit(pow, 2, 3).result(60) == 8  # and from none again


def test_a_worker_that_dies_is_not_taken_for_too_few(tmp_path):
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        cluster.adapt(2, 2, interval_s=0.1)
        until(lambda: len(client.workers()) == 2)
        names = set(cluster.workers)
        os.kill(cluster.workers[min(names)], signal.SIGKILL)
        until(lambda: any(incident.kind == "worker lost" for incident in client.incidents()))
        until(lambda: len(client.workers()) == 2)
        assert set(cluster.workers) == names == set(client.workers())


def test_the_numbers_can_be_changed_and_scale_ends_it(tmp_path):
    held = str(tmp_path / "held")
    note(held + ".hold", "")
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        cluster.adapt(1, 2, interval_s=0.1, patience_s=0.3)
        futures = [client.submit(hold, held) for _ in range(4)]
        until(lambda: len(client.workers()) == 2)
        cluster.adapt(3, 3, interval_s=0.1, patience_s=0.3)
        until(lambda: len(client.workers()) == 3)
        sessions = client.status()["sessions"]["connected"]
        cluster.scale(4)
        until(lambda: len(client.workers()) == 4)
        until(lambda: client.status()["sessions"]["connected"] == sessions - 1)  # it asks no more
        os.remove(held + ".hold")
        assert wait(futures, 60).not_done == set()
        assert len(cluster.workers) == 4


def test_the_scheduler_may_be_restarted(tmp_path):
    ran = str(tmp_path / "ran")
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        cluster.adapt(1, 3, interval_s=0.2, patience_s=1)
        futures = [client.submit(work, ran, number, 0.2) for number in range(40)]
        until(lambda: len(client.workers()) == 3)
        names = set(cluster.workers)
        cluster.kill_scheduler()
        until(lambda: not cluster.scheduler)
        cluster.start_scheduler()
        assert wait(futures, 60).not_done == set()
        assert set(cluster.workers) <= names  # nobody was started for those that had to come back
        until(lambda: len(client.workers()) == len(cluster.workers) == 1)
        assert client.gather(futures, timeout=60) == [bytes([number]) * 20_000 for number in range(40)]


def test_it_ends_with_the_cluster():
    with LocalCluster(n_workers=0) as cluster:
        cluster.adapt(1, 2, interval_s=0.1)
        until(lambda: cluster.workers)
    for what in (lambda: cluster.adapt(1, 2), lambda: cluster.scale(1)):
        with pytest.raises(TwistdistError, match="has ended"):
            what()


def test_bad_numbers_change_nothing():
    with LocalCluster(n_workers=0) as cluster:
        with pytest.raises(ValueError, match="minimum must not be greater"):
            cluster.adapt(3, 2)
        with pytest.raises(TypeError, match="unexpected keyword argument 'target'"):
            cluster.adapt(1, 2, target=3)
        assert not cluster.workers
