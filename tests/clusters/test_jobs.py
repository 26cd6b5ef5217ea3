"""Clusters of jobs, with an engine whose jobs are processes of this machine."""

import signal
import time

import pytest

from tests.clusters.processes import ProcessEngine
from tests.integration.habits import lines, note, until
from twistdist.blocking import Client, JobCluster
from twistdist.errors import TwistdistError


@pytest.fixture
def engine(tmp_path):
    engine = ProcessEngine(tmp_path)
    yield engine
    for process in engine.processes.values():
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()


def square(path, i, seconds=0.0):
    time.sleep(seconds)
    note(path, i)
    return i * i


def running(engine):
    return sorted(engine.jobs[id].name for id, process in engine.processes.items() if process and process.poll() is None)


def test_a_job_that_dies_is_started_again_on_its_store(engine, tmp_path):
    with JobCluster(engine, 2, slots=1, host="127.0.0.1") as cluster, Client(cluster) as client:
        assert cluster.address.startswith("tls:127.0.0.1:")
        assert sorted(cluster.workers) == ["w0", "w1"] and set(cluster.workers.values()) <= set(cluster.jobs)
        first = client.map(square, [str(tmp_path / "ran")] * 20, range(20))
        assert client.gather(first) == [i * i for i in range(20)]
        old = engine.kill("w0")
        until(lambda: cluster.workers.get("w0") not in (None, old))
        assert client.gather(first) == [i * i for i in range(20)]
        assert sorted(client.workers()) == ["w0", "w1"]
    assert len(lines(tmp_path / "ran")) == 20  # the values were found in the store
    until(lambda: not running(engine))


def test_scaling_starts_jobs_and_hands_over_before_it_ends_them(engine, tmp_path):
    with JobCluster(engine, 1, slots=1, host="127.0.0.1") as cluster, Client(cluster) as client:
        cluster.scale(3)
        client.wait_for_workers(3, 60)
        futures = client.map(square, [str(tmp_path / "ran")] * 30, range(30), [0.01] * 30)
        assert client.gather(futures) == [i * i for i in range(30)]
        cluster.scale(1)
        until(lambda: running(engine) == ["w0"])
        assert list(client.workers()) == ["w0"]
        assert client.gather(futures) == [i * i for i in range(30)]
    assert len(lines(tmp_path / "ran")) == 30


def test_who_is_replaced(engine):
    with JobCluster(engine, 2, slots=1, host="127.0.0.1") as cluster, Client(cluster) as client:
        engine.kill("w1", signal.SIGTERM)  # its machine is taken away
        until(lambda: len(engine.jobs) == 3 and len(cluster.workers) == 2)
        client.retire_workers(["w0"])
        until(lambda: len(running(engine)) == 1)
        asked = len(engine.calls)
        until(lambda: len(engine.calls) > asked + 6)
        assert len(running(engine)) == len(client.workers()) == 1
        cluster.scale(2)
        client.wait_for_workers(2, 60)


def test_the_scheduler_may_be_a_job_too(engine, tmp_path):
    engine.runs_scheduler = True
    with JobCluster(engine, 2, slots=1) as cluster, Client(cluster) as client:
        futures = client.map(square, [str(tmp_path / "ran")] * 20, range(20), [0.02] * 20)
        engine.kill("scheduler")
        assert client.gather(futures, timeout=60) == [i * i for i in range(20)]
        assert cluster.address == client.address
    assert len(lines(tmp_path / "ran")) == 20
    until(lambda: not running(engine))


def test_a_queue(engine):
    engine.queues = engine.hold = True
    with JobCluster(engine, 2, slots=1, host="127.0.0.1") as cluster, Client(cluster) as client:
        assert list(cluster.jobs) == ["job-0", "job-1"]
        until(lambda: set(cluster.jobs.values()) == {"waiting: all machines are busy"})
        cluster.scale(1)
        until(lambda: len(cluster.jobs) == 1)
        engine.begin("job-0")
        client.wait_for_workers(1, 60)
        assert client.submit(pow, 2, 5).result() == 32


def test_the_engine_does_not_answer_for_a_while(engine):
    with JobCluster(engine, 1, slots=1, host="127.0.0.1") as cluster, Client(cluster) as client:
        engine.trouble = "Unable to contact the controller"
        cluster.scale(2)
        asked = len(engine.calls)
        until(lambda: len(engine.calls) > asked + 5)
        assert client.submit(pow, 2, 5).result() == 32
        assert running(engine) == ["w0"]
        engine.trouble = ""
        client.wait_for_workers(2, 60)


def test_a_cluster_that_can_not_start(engine):
    engine.python = "/bin/false"
    with pytest.raises(TwistdistError, match=r"worker w0 failed to start: job job-\d ended before .*exit status 1"):
        JobCluster(engine, 1, host="127.0.0.1")
    engine.trouble = "invalid partition specified: nosuch"
    engine.queues = True
    with pytest.raises(TwistdistError, match="invalid partition"):
        JobCluster(engine, 1, host="127.0.0.1")
    assert not running(engine)


def test_a_start_fails_with_what_the_engine_says_at_every_look(engine, monkeypatch):
    """Once that was logged and tried again for as long as anybody waited."""

    async def look(ids):
        raise TwistdistError("the list of processes can't be read")

    monkeypatch.setattr("twistdist.clusters.jobs.TROUBLE_S", 2.0)
    monkeypatch.setattr(engine, "look", look)
    with pytest.raises(TwistdistError, match="the list of processes can't be read"):
        JobCluster(engine, 1, slots=1, host="127.0.0.1")
    until(lambda: not running(engine))


def test_a_start_fails_if_the_scheduler_can_not_be_reached(engine, monkeypatch):
    """Nothing is started for a scheduler that does not answer, so that a start without a limit would wait for ever."""

    async def nobody(self):
        return None, []

    monkeypatch.setattr("twistdist.clusters.jobs.TROUBLE_S", 2.0)
    monkeypatch.setattr("twistdist.clusters.jobs.JobCluster._ask_scheduler", nobody)
    with pytest.raises(TwistdistError, match=r"the scheduler at tls:127\.0\.0\.1:\d+ has not answered for \d s"):
        JobCluster(engine, 1, slots=1, host="127.0.0.1")
    assert engine.calls.count("start") == 0


def test_jobs_of_a_queue_that_fail_are_heard_of(engine, caplog):
    engine.queues, engine.python = True, "/bin/false"
    with JobCluster(engine, 1, host="127.0.0.1") as cluster:
        until(lambda: len(cluster.jobs) and len(engine.jobs) >= 2)
    assert "job job-0 ended before its worker w0 had joined the cluster: exit status 1" in caplog.messages


def test_a_client_ends_the_cluster(engine):
    with JobCluster(engine, 1, slots=1, host="127.0.0.1") as cluster:
        with Client(cluster) as client:
            assert cluster.logs()["w0"][0].startswith("twistdist worker w0 ready")
            client.shutdown()
        until(lambda: not running(engine))
        asked = engine.calls.count("start")
        with pytest.raises(TwistdistError, match="has ended"):
            until(lambda: cluster.scale(1))
        assert engine.calls.count("start") == asked


def test_bad_options(engine):
    for options, error in (
        ({"n_workers": -1}, ValueError),
        ({"name": "a b"}, ValueError),
        ({"slots": 0}, ValueError),
        ({"nosuch": 1}, TypeError),
        ({"worker_options": [1]}, TypeError),
        ({"memory_limit": "much"}, TwistdistError),
        ({"secret": "short"}, TwistdistError),
    ):
        with pytest.raises(error):
            JobCluster(engine, **options)
    assert not engine.calls


def test_adapting(engine, tmp_path):
    engine.queues = True
    with JobCluster(engine, 0, slots=1, host="127.0.0.1") as cluster, Client(cluster) as client:
        with pytest.raises(TypeError, match="needs the greatest number"):
            cluster.adapt()
        cluster.adapt(0, 3, interval_s=0.1, patience_s=0.5)
        futures = client.map(square, [str(tmp_path / "ran")] * 60, range(60), [0.3] * 60)
        until(lambda: len(running(engine)) == 3)
        assert client.gather(futures, timeout=120) == [i * i for i in range(60)]
        del futures
        until(lambda: not running(engine))
        assert client.submit(pow, 2, 5).result(60) == 32
    assert len(lines(tmp_path / "ran")) == 60
