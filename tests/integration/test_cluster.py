"""Clusters of this machine: how they are made, what they take for an option, who is started again, and how they end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import gc
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta

import pytest

import twistdist
from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster, wait
from twistdist.errors import ConfigError, SchedulerUnreachable, TwistdistError
from twistdist.net.hosts import default_spill_root, default_store_root


def restarts(cluster):
    return cluster._thread.call(lambda: dict(cluster._service._restarts))


# ---- who is started again ---------------------------------------------------------------------


def test_a_retired_worker_is_gone_for_good_and_no_loss():
    with LocalCluster(n_workers=4) as cluster, Client(cluster) as client:
        client.wait_for_workers(4, 60)
        data = [client.submit(bytes, 20_000 + i, workers=["w1"], allow_other_workers=True) for i in range(3)]
        assert wait(data, 60).not_done == set()
        client.retire_workers(["w1", "w2", "w3"], timeout=60)
        until(lambda: list(cluster.workers) == ["w0"])
        assert not restarts(cluster)
        assert client.gather(data, timeout=60) == [bytes(20_000 + i) for i in range(3)]
        assert {(one.kind, one.what) for one in client.incidents()} == {("worker retired", name) for name in ("w1", "w2", "w3")}
        cluster.scale(2)
        until(lambda: set(client.workers()) == {"w0", "w4"})
        os.kill(cluster.workers["w4"], signal.SIGKILL)  # one that dies is started again, as before
        until(lambda: any(one.kind == "worker lost" for one in client.incidents()))
        until(lambda: set(client.workers()) == {"w0", "w4"} == set(cluster.workers))


def test_scaling_down_and_up_at_once_starts_what_is_missing():
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, 60)
        cluster.scale(1)
        cluster.scale(2)
        until(lambda: set(cluster.workers) == {"w0", "w2"})
        until(lambda: set(client.workers()) == {"w0", "w2"})
        assert {one.kind for one in client.incidents()} == {"worker left"}


def test_nothing_is_started_again_after_a_shutdown():
    with LocalCluster(n_workers=2) as cluster:
        client = Client(cluster)
        cluster.kill_worker("w0")  # it is about to be started again
        client.shutdown()
        until(lambda: not cluster.workers and not cluster.scheduler)
        assert not restarts(cluster)
        for what in (lambda: cluster.scale(3), cluster.start_scheduler, lambda: Client(cluster)):
            with pytest.raises(TwistdistError, match="has ended: shutdown requested by client"):
                what()
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_a_worker_that_others_tell_to_stop_is_started_again():
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        pid = cluster.workers["w0"]
        os.kill(pid, signal.SIGTERM)
        until(lambda: cluster.workers.get("w0", pid) != pid)
        assert client.submit(pow, 2, 3).result(60) == 8


# ---- how they are made and end ----------------------------------------------------------------


def pids_of(cluster):
    return [*cluster.workers.values(), cluster.scheduler]


def alive(pids):
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_cluster_is_there_when_it_is_made_and_ends_when_closed():
    cluster = LocalCluster(n_workers=1, secret="a secret of this cluster alone")
    pids = pids_of(cluster)
    client = Client(cluster)
    assert client.submit(pow, 2, 10).result(60) == 1024
    with pytest.raises(KeyError, match="no worker of this cluster is named 'w7'; its workers: w0"):
        cluster.kill_worker("w7")
    client.close()
    with cluster:
        assert pids_of(cluster) == pids
    assert not alive(pids)
    cluster.close()
    with pytest.raises(TwistdistError, match="has ended: it was stopped"):
        Client(cluster)


def test_a_cluster_ends_with_its_last_reference():
    cluster = LocalCluster(n_workers=1)
    pids = pids_of(cluster)
    client = Client(cluster)
    del cluster
    gc.collect()
    assert client.submit(pow, 2, 10).result(60) == 1024  # the client is one
    client.close()
    del client
    gc.collect()
    until(lambda: not alive(pids))


def script(text, tmp_path, *arguments):
    """What a script prints, of which all processes have ended and none has said anything on standard error."""
    path = tmp_path / "script.py"
    path.write_text(text)
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def leftovers():
    """The folders of clusters that have ended; other programs on this machine may run clusters of their own."""
    names = {name for root in (default_store_root(), default_spill_root()) for name in os.listdir(root) if "cluster" in name}
    return {name for name in names if not in_use(os.path.join(default_store_root(), name, ".lock"))}


def in_use(lock):
    with contextlib.suppress(FileNotFoundError), open(lock) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_script_that_just_ends_leaves_nothing(tmp_path):
    text = """if True:
        from twistdist.blocking import Client, LocalCluster, wait
        cluster = LocalCluster(n_workers=1)
        client = Client(cluster)
        own = Client(n_workers=1)
        assert client.submit(pow, 2, 10).result() == own.submit(pow, 4, 5).result() == 1024
        print(cluster.scheduler, *cluster.workers.values(), own._cluster.scheduler, *own._cluster.workers.values())
    """
    pids = [int(word) for word in script(text, tmp_path).split()]
    assert len(pids) == 4
    assert not alive(pids)


def moments(seed, number, most):
    """The first moment, and some drawn from ``seed``."""
    rng = random.Random(seed)
    return [0.0, *[rng.uniform(0.0, most) for _ in range(number)]]


def test_a_cluster_that_is_stopped_at_any_moment_of_its_start_says_nothing(tmp_path):
    text = """if True:
        import sys
        from twisted.internet import defer, task
        import twistdist, twistdist.errors

        @defer.inlineCallbacks
        def main(reactor):
            for pause in map(float, sys.argv[1:]):
                cluster = twistdist.LocalCluster(reactor, n_workers=2)
                cluster.startService()
                yield task.deferLater(reactor, pause)
                yield cluster.stopService()
            cluster = twistdist.LocalCluster(reactor, n_workers=2)
            starting = cluster.startService()
            reactor.callLater(0, cluster.stopService)
            try:
                yield starting
            except twistdist.errors.TwistdistError as error:
                print(error)
            connecting = twistdist.connect(reactor, n_workers=1)
            connecting.cancel()
            try:
                yield connecting
            except defer.CancelledError:
                print("cancelled")

        task.react(main)
    """
    before = leftovers()
    printed = script(text, tmp_path, *map(str, moments(1, 8, 1.0)))
    assert printed == "the LocalCluster was stopped while it was starting\ncancelled\n"
    assert leftovers() <= before


def test_the_owner_of_a_cluster_may_go_at_any_moment(tmp_path):
    text = """if True:
        import os, sys
        from twisted.internet import reactor
        import twistdist
        cluster = twistdist.LocalCluster(reactor, n_workers=2)
        reactor.callWhenRunning(cluster.startService)
        reactor.callLater(float(sys.argv[1]), os._exit, 0)
        reactor.run()
    """
    before = leftovers()
    for pause in moments(2, 8, 1.0):
        script(text, tmp_path, str(pause))
    assert leftovers() <= before


def test_ends_in_order_are_quiet_whatever_goes_on(tmp_path):
    text = """if True:
        import sys, threading
        from twistdist.blocking import Client, LocalCluster
        for number, pause in enumerate(map(float, sys.argv[1:])):
            cluster = LocalCluster(n_workers=2)
            client = Client(cluster)
            futures = client.map(pow, range(20), range(20))
            threading.Event().wait(pause)  # templates and executors start, tasks run
            if number % 4 == 0:
                client.close()
            elif number % 4 == 1:
                client.shutdown()
            elif number % 4 == 2:
                client.retire_workers("w0", timeout=0)
            cluster.close()
        client = Client(n_workers=1)
    """
    before = leftovers()
    script(text, tmp_path, *map(str, moments(3, 7, 0.3)))
    assert leftovers() <= before


def test_what_is_wiped_is_out_of_reach_before_the_worker_is_dead(monkeypatch):
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        client.submit(bytes, 100_000).result(60)
        service, there = cluster._service, []
        worker = service._children["w0"]
        kill = worker.signal
        monkeypatch.setattr(worker, "signal", lambda number: (there.append(os.listdir(service._folder)), kill(number)))
        cluster.kill_worker("w0", wipe=True)
        assert len(there) == 1 and "w0" not in there[0] and "w0.wiped" in there[0]
        assert "w0.wiped" not in os.listdir(service._folder)


def test_an_empty_address_is_no_address(monkeypatch):
    with pytest.raises(ConfigError, match="'' is not an address"):
        Client("")
    with pytest.raises(ConfigError, match="'' is not an address"):
        twistdist.connect(None, "")
    with pytest.raises(TypeError, match="address must be a string such as 'host:8786', an endpoint, or a cluster, got 8786"):
        Client(8786)
    with pytest.raises(TwistdistError, match="has not been started"):
        twistdist.connect(None, twistdist.LocalCluster(object()))


# ---- options ----------------------------------------------------------------------------------


def made(**options):
    """The arguments of the processes of a cluster that is not started."""
    service = twistdist.LocalCluster(object(), **options)
    return " ".join([*service._worker_options, *service._scheduler_options, str(service._wanted), str(service._journal)])


def test_options_are_taken_as_people_write_them(tmp_path, monkeypatch):
    np = pytest.importorskip("numpy")
    monkeypatch.setattr("twistdist.net.hosts.machine_memory", lambda: 64 << 30)
    assert made(n_workers=np.int64(2)).endswith(" 2 None")
    assert "--slots 3 " in made(slots=np.int8(3))
    eighth = f"--memory-limit={int(0.8 * (64 << 30) / 4)} "
    assert eighth in made(n_workers=4) and eighth in made(n_workers=4, memory_limit="auto")
    for value in ("2e9", 2e9, 2_000_000_000, np.float64(2e9), "2GB", np.str_("2 GB")):
        assert "--memory-limit=2000000000 " in made(memory_limit=value)
    for value in (0.5, "0.5", np.float32(0.5)):
        assert f"--memory-limit={32 << 30} " in made(memory_limit=value)
    assert "--executor-memory-limit=1000 " in made(executor_memory_limit="1kB")
    assert "--memory-limit=0 " in made(memory_limit=0)
    for value in (4, timedelta(seconds=4), np.timedelta64(4, "s")):
        assert "--suspect-after=4.0 --dead-after=10.0" in made(suspect_after=value)
    assert made(journal=tmp_path).endswith(str(tmp_path))
    assert f"--checkpoint-store {tmp_path} " in made(checkpoint_store=pathlib.Path(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_workers", -1),
        ("n_workers", 2.0),
        ("n_workers", True),
        ("slots", 0),
        ("slots", "2"),
        ("memory_limit", "much"),
        ("memory_limit", -1),
        ("memory_limit", float("nan")),
        ("memory_limit", "1e99"),
        ("memory_limit", [1]),
        ("memory_limit", True),
        ("executor_memory_limit", "8 apples"),
        ("suspect_after", "1"),
        ("dead_after", 0.01),
        ("dead_after", timedelta(days=2)),
        ("journal", 3),
        ("checkpoint_store", b"/tmp"),
    ],
)
def test_an_impossible_value_is_an_error_that_names_the_option(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        made(**{name: value})


def test_suspicion_comes_before_death():
    with pytest.raises(ConfigError, match="suspect-after, 5 s, must be less than dead-after, 5 s"):
        made(suspect_after=5, dead_after=5)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        (
            "threads_per_worker",
            "threads_per_worker is not an option here: use slots=…: each worker runs that many tasks at a time",
        ),
        ("nthreads", "is not an option here: use slots="),
        ("ncores", "is not an option here: use slots="),
        ("max_workers", "is not an option here: use n_workers="),
        ("processes", "each task runs in a process"),
        ("dashboard_address", "twistdist status"),
        ("scheduler_port", "use host=…, the name or address"),
        ("silence_logs", "TWISTDIST_LOG_LEVEL"),
        ("local_directory", "shared memory"),
        ("interface", "use host=…"),
        ("name", "session="),
        ("asynchronous", "twistdist.connect"),
        ("nanny", "started again"),
        ("n_worker", "did you mean n_workers?"),
        ("wombat", "there is no option wombat \\(its options are .*checkpoint_store, .*n_workers, .*suspect_after"),
    ],
)
def test_a_name_that_is_not_ours_gets_a_hint(word, hint):
    for what in (made, Client, lambda **named: twistdist.connect(None, "h:1", **named)):
        with pytest.raises(TypeError, match=hint):
            what(**{word: 1})


def test_options_of_a_cluster_go_with_no_address(monkeypatch):
    with pytest.raises(TypeError, match=r"n_workers: only for the LocalCluster that is started when no address is given.*h:1"):
        Client("h:1", n_workers=2)
    monkeypatch.setenv("TWISTDIST_SCHEDULER", "h:2")
    with pytest.raises(TypeError, match=r"slots: only for the LocalCluster .*h:2"):
        Client(slots=2)
    with pytest.raises(TypeError, match="did you mean timeout"):
        Client("h:1", time_out=2)


# ---- saying what is wrong ---------------------------------------------------------------------


def test_a_timeout_says_of_what(cluster):
    with Client(cluster) as client:
        client.wait_for_workers(2, 60)
        slow = client.submit(time.sleep, 60)
        os.kill(cluster.scheduler, signal.SIGSTOP)
        try:
            with pytest.raises(concurrent.futures.TimeoutError, match=r"status\(\) did not finish within 0\.2 s"):
                client.status(timeout=0.2)
        finally:
            os.kill(cluster.scheduler, signal.SIGCONT)
        with pytest.raises(concurrent.futures.TimeoutError, match=r"gather\(\) did not finish within 0\.2 s"):
            client.gather([slow], timeout=0.2)


def test_a_refused_connection_is_told_with_its_reason():
    with pytest.raises(SchedulerUnreachable, match="refused"):
        Client("127.0.0.1:1", timeout=0.3)


def test_the_options_of_the_command_line_are_there(tmp_path):
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text("a secret of some length")
    options = {"resources": {"GPU": 0.5}, "secret_file": tmp_path / "secret", "store": tmp_path / "s", "spill": tmp_path / "d"}
    with LocalCluster(n_workers=1, **options) as cluster:
        assert list((tmp_path / "s").iterdir()) and list((tmp_path / "d").iterdir())
        with Client(cluster.address, secret="a secret of some length") as client:
            assert client.submit(abs, -1, resources={"GPU": 0.5}).result(60) == 1
            assert "GPU" in client.why(client.submit(abs, -1, resources={"GPU": 1})).lacks
    assert not list((tmp_path / "s").iterdir()) and not list((tmp_path / "d").iterdir())
    for wrong in ({"resources": {"a=b": 1}}, {"resources": {"": 1}}, {"resources": {"GPU": -1}}):
        with pytest.raises(ValueError):
            LocalCluster(**wrong)
    with pytest.raises(TypeError):
        LocalCluster(resources=7)
