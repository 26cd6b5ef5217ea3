"""The scheduler dies and is started again; clients die and are run again."""

from __future__ import annotations

import collections
import concurrent.futures
import gc
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.integration.habits import lines, note, until
from twistdist import cli, errors
from twistdist import client as loose
from twistdist.blocking import Client, LocalCluster, as_completed


def square(log, i, seconds=0.0):
    time.sleep(seconds)
    note(log, i)
    return i * i


def large(log, i):
    note(log, i)
    return bytes([i % 256]) * 20_000


def length(data):
    return len(data)


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return path


def fail_once(log):
    note(log, "run")
    if len(lines(log)) == 1:
        raise ValueError("the first time")
    return "well"


@pytest.fixture
def cluster():
    """A cluster of the test's own, whose scheduler it kills; ``client`` (conftest) connects to it."""
    with LocalCluster(n_workers=2) as running:
        yield running


def restart(cluster):
    cluster.kill_scheduler()
    cluster.start_scheduler()


def test_twenty_kills_in_the_middle_of_five_thousand_tasks(cluster, client, tmp_path):
    """Nothing is lost, and nothing is executed twice: no executor was killed."""
    dice, log = random.Random(1), str(tmp_path / "log")
    futures = client.map(square, [log] * 5000, range(5000), [0.004] * 5000)
    for _ in range(20):
        seen = len(lines(log))
        until(lambda seen=seen: len(lines(log)) > seen + 20)
        time.sleep(dice.uniform(0.0, 0.2))  # a random moment is what is wanted
        restart(cluster)
    assert client.gather(futures, timeout=300) == [i * i for i in range(5000)]
    assert collections.Counter(lines(log)) == {str(i): 1 for i in range(5000)}
    assert not [one for one in client.incidents() if one.kind == "worker lost"]


def test_running_and_finished_tasks_are_adopted_and_submits_made_meanwhile_arrive(cluster, client, tmp_path):
    log, go = str(tmp_path / "log"), str(tmp_path / "go")
    values = client.map(large, [log] * 10, range(10))
    assert [len(one) for one in client.gather(values, timeout=60)] == [20_000] * 10
    waiting = [client.submit(wait_for, go), client.submit(wait_for, go)]
    until(lambda: sum(one.running for one in client.workers().values()) == 2)
    cluster.kill_scheduler()
    meanwhile = [client.submit(length, one) for one in values]
    note(go, "now")  # the two end while nobody is there to hear it
    cluster.start_scheduler()
    assert client.gather(waiting, timeout=60) == [go, go]
    assert client.gather(meanwhile, timeout=60) == [20_000] * 10
    assert collections.Counter(lines(log)) == {str(i): 1 for i in range(10)}
    assert client.status()["done"] == 12  # what this life of the scheduler has accepted: none of it twice
    assert client.status()["replays"] == 0


def test_retries_and_failures_are_remembered(cluster, client, tmp_path):
    log, go = str(tmp_path / "log"), str(tmp_path / "go")
    failed = client.submit(divmod, 1, 0)
    assert isinstance(failed.exception(60), ZeroDivisionError)
    flaky = client.submit(fail_once, log, retries=1)
    assert flaky.result(60) == "well"
    blocked = client.submit(wait_for, go)
    after = client.submit(str, failed)
    restart(cluster)
    with pytest.raises(ZeroDivisionError):
        after.result(60)
    with pytest.raises(ZeroDivisionError):
        failed.result(60)
    note(go, "now")
    assert blocked.result(60) == go and len(lines(log)) == 2


def test_questions_and_waiting_calls_go_on(cluster, client, tmp_path):
    go = str(tmp_path / "go")
    pending = {client.submit(wait_for, go), client.submit(pow, 2, 5)}
    done = as_completed(pending)
    assert next(done).result() == 32
    cluster.kill_scheduler()
    answers = []
    asking = threading.Thread(target=lambda: answers.append(client.status(timeout=60)))
    asking.start()
    cluster.start_scheduler()
    asking.join(60)
    assert answers and sum(answers[0]["tasks"].values()) == 2
    note(go, "now")
    assert next(done).result() == go


def test_scattered_data_and_targets_are_kept(cluster, client):
    data = client.scatter(b"x" * 50_000)
    small = client.scatter({"a": 1})
    value = client.submit(bytes, 30_000)
    value.result(60)
    client.replicate(value, 2)
    restart(cluster)
    assert client.submit(length, data).result(60) == 50_000
    assert client.gather(small, timeout=60) == {"a": 1}
    until(lambda: len(client.who_has([value])[value.key]) == 2)
    cluster.kill_worker("w0", wipe=True)
    assert len(client.gather(data, timeout=60)) == 50_000
    assert len(client.gather(value, timeout=60)) == 30_000


def test_what_a_loose_scatter_has_brought_stays(cluster):
    keys = loose.scatter(cluster.address, {"large": b"y" * 40_000, "small": 7})
    assert keys == loose.scatter(cluster.address, {"large": b"y" * 40_000, "small": 7})
    restart(cluster)
    assert loose.gather(cluster.address, [keys["large"], keys["small"]]) == [b"y" * 40_000, 7]
    with Client(cluster.address, session=loose.SCATTERED) as client:
        client.end_session()
    with Client(cluster.address) as client:
        until(lambda: client.status()["tasks"] == {})


SCRIPT = """
    import json, sys, time, os
    from twistdist.blocking import Client
    from tests.integration.test_restart import square

    address, log, mode = sys.argv[1:4]
    with Client(address, session="nightly") as client:
        futures = [client.submit(square, log, i, 0.01, key=f"square-{i}") for i in range(300)]
        if mode == "die":
            print("submitted", flush=True)
            futures[20].result()
            os.kill(os.getpid(), 9)
        print(json.dumps(client.gather(futures)))
"""


def script(tmp_path, *arguments, **options):
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, str(file), *arguments], env=environment, stdout=subprocess.PIPE, text=True, **options
    )


def test_a_script_that_died_is_run_again_and_only_the_rest_is_computed(cluster, tmp_path):
    log = str(tmp_path / "log")
    with script(tmp_path, cluster.address, log, "die") as first:
        assert first.wait(60) == -signal.SIGKILL
    before = len(lines(log))
    assert before >= 20
    restart(cluster)  # the scheduler dies too
    with script(tmp_path, cluster.address, log, "live") as second:
        out, _ = second.communicate(timeout=120)
    assert json.loads(out) == [i * i for i in range(300)]
    assert collections.Counter(lines(log)) == {str(i): 1 for i in range(300)}
    with Client(cluster.address, session="nightly") as client:
        found = client.futures()
        assert len(found) == 300 and found["square-7"].result(60) == 49
        client.end_session()
    with Client(cluster.address, session="nightly") as client:
        assert client.futures() == {}
        assert client.status()["tasks"] == {}


def test_a_durable_session_keeps_what_was_dropped_and_lets_go_of_what_was_released(cluster):
    with Client(cluster.address, session="s") as client:
        client.submit(pow, 2, 4, key="kept").result(60)
        released = client.submit(pow, 2, 5, key="released")
        released.result(60)
        released.release()
        failed = client.submit(divmod, 1, 0, key="failed")
        assert isinstance(failed.exception(60), ZeroDivisionError)
    with Client(cluster.address) as other:
        assert other.clear() == {"sessions": 0, "tasks": 0}  # it is not what nobody wants
    with Client(cluster.address, session="s") as client:
        assert set(client.futures()) == {"kept"}


def test_published_names_outlive_clients_and_schedulers(cluster, client):
    futures = {"squares": client.map(pow, range(4), [2] * 4), "one": (client.submit(bytes, 10_000),)}
    client.publish_dataset("numbers", futures)
    with pytest.raises(errors.TwistdistError, match="already published"):
        client.publish_dataset("numbers", futures)
    del futures
    restart(cluster)
    with Client(cluster.address) as other:
        assert other.list_datasets() == ["numbers"]
        found = other.get_dataset("numbers")
        assert other.gather(found, timeout=60) == {"squares": [0, 1, 4, 9], "one": (bytes(10_000),)}
        with pytest.raises(errors.TwistdistError, match="nothing is published as 'letters'"):
            other.get_dataset("letters")
        other.unpublish_dataset("numbers")
        del found
        until(lambda: gc.collect() >= 0 and not other.status()["tasks"])  # errors above hold frames, and so futures


def test_schedulers_workers_and_clients_are_killed_in_random_order(cluster, tmp_path):
    """The count of repeated executions is explained by the kills of the workers that ran or held them."""
    dice, log = random.Random(7), str(tmp_path / "log")
    explained = 0
    process = script(tmp_path, cluster.address, log, "live")
    with Client(cluster.address) as watcher:
        for _ in range(6):
            seen = len(lines(log))
            until(lambda seen=seen: len(lines(log)) > seen + 10 or process.poll() is not None)  # noqa: B023
            victim = dice.choice(["scheduler", "worker", "client"])
            if victim == "scheduler":
                restart(cluster)
            elif victim == "worker":
                cluster.kill_worker(dice.choice(sorted(cluster.workers)))
                explained += 1  # one slot: one task was running there
            else:
                process.kill()
                process.communicate()
                process = script(tmp_path, cluster.address, log, "live")
        out, _ = process.communicate(timeout=120)
        assert json.loads(out) == [i * i for i in range(300)]
        counts = collections.Counter(lines(log))
        assert set(counts) == {str(i) for i in range(300)}
        assert sum(counts.values()) - 300 <= explained
        assert watcher.status(timeout=60)["tasks"] == {"done": 300}


# ---- twistd, and what goes wrong with a journal ------------------------------------------------


def scheduler(*options, **more):
    twistd = shutil.which("twistd", path=os.path.dirname(sys.executable)) or "twistd"
    command = [twistd, "-n", "--pidfile=", "twistdist-scheduler", "--listen", "tcp:0:interface=127.0.0.1", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def address_of(process):
    for line in process.stdout:
        if line.startswith("twistdist scheduler ready at "):
            return line.split()[-1]
    raise AssertionError(process.stderr.read())


def end(process):
    process.terminate()
    process.communicate(timeout=60)


def refused(*options):
    process = scheduler(*options)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 1
    return text.strip().splitlines()[-1]


def test_a_second_scheduler_on_the_same_journal_is_refused_and_told_who_has_it(tmp_path):
    journal = str(tmp_path / "state.sqlite")
    first = scheduler("--journal", journal)
    address_of(first)
    assert f"is held by the scheduler with pid {first.pid}" in refused("--journal", journal)
    first.kill()
    first.communicate()
    again = scheduler("--journal", journal)
    address_of(again)
    end(again)


def test_a_damaged_journal_is_refused_and_not_changed(tmp_path):
    journal = tmp_path / "state.sqlite"
    journal.write_bytes(b"something else entirely" * 1000)
    assert "it was not changed" in refused("--journal", str(journal))
    assert journal.read_bytes() == b"something else entirely" * 1000
    assert "No such file" in refused("--journal", str(tmp_path / "nowhere" / "state.sqlite"))


def test_what_is_in_a_journal_is_told(cluster, client, capsys, tmp_path):
    with LocalCluster(n_workers=1, journal=str(tmp_path / "j")) as own, Client(own.address, session="mine") as one:
        kept = [one.submit(pow, 2, 3, key="eight"), one.submit(divmod, 1, 0)]
        assert one.gather(kept, errors="skip", timeout=60) == [8]
        one.publish_dataset("eight", kept[0])
        full = ["journal", str(tmp_path / "j"), "--full"]
        until(lambda: cli.main(full) == 0 and "task 1 eight: done" in capsys.readouterr().out)
        assert cli.main(["journal", str(tmp_path / "j")]) == 0
        text = capsys.readouterr().out
        assert "durable session mine" in text and "published eight: 1 tasks" in text and "worker w0" in text
        assert cli.main(["status", own.address]) == 0
        text = capsys.readouterr().out
        assert "journal   ok" in text and "session   mine: keeps 1 tasks" in text and "published eight" in text
    assert cli.main(["journal", str(tmp_path / "none")]) == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system of our own can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_loudly_and_work_in_hand_goes_on(small_disk, tmp_path):
    log, go, done = str(tmp_path / "log"), str(tmp_path / "go"), str(tmp_path / "done")
    with LocalCluster(n_workers=1, slots=3, journal=str(small_disk / "j")) as cluster, Client(cluster.address) as client:
        before = client.submit(pow, 2, 3, key="before")
        assert before.result(60) == 8
        in_hand = client.map(square, [log] * 20, range(20), [0.02] * 20)
        blocked, meanwhile = client.submit(wait_for, go), client.submit(wait_for, done)
        until(lambda: lines(log))  # one of them has run, so they were accepted
        filler = small_disk / "filler"
        descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space"):
            while True:
                os.write(descriptor, b"x" * 4096)
        os.close(descriptor)
        with pytest.raises(errors.JournalError, match="can't write its journal"):
            while True:  # the log has some room left
                client.submit(bytes, os.urandom(20_000)).result(60)
        until(lambda: client.status(timeout=60)["journal"]["state"] == "failing")
        note(done, "now")  # a result that must wait for the journal, and nobody who asks is to wait behind it
        until(lambda: client.status(timeout=60)["tasks"].get("assigned") == 1)
        with pytest.raises(concurrent.futures.TimeoutError):
            client.publish_dataset("eight", before, timeout=0.5)  # says that something was done for good
        with Client(cluster.address) as other:  # also for who comes now
            until(lambda: "disk is full" in other.status(timeout=60)["journal"].get("error", ""))
            with pytest.raises(errors.JournalError):
                while True:
                    other.submit(bytes, os.urandom(20_000)).result(60)
        until(lambda: len(lines(log)) >= 20)  # what was accepted goes on
        note(go, "now")
        filler.unlink()
        assert client.gather(in_hand, timeout=60) == [i * i for i in range(20)]
        assert blocked.result(60) == go and meanwhile.result(60) == done
        assert client.submit(pow, 2, 4).result(60) == 16
        assert client.status()["journal"]["state"] == "ok"
        restart(cluster)
        assert client.submit(pow, 2, 5).result(60) == 32 and before.result(60) == 8


def test_why_and_retire_on_the_command_line(capsys):
    with LocalCluster(n_workers=2) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(2, 60)
        kept = client.submit(bytes, 20_000, key="kept", workers=["w0"], allow_other_workers=True)
        kept.result(60)
        assert cli.main(["why", cluster.address, "kept"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("kept: done, its value is on w") and "it was submitted" in out
        assert cli.main(["why", cluster.address, "unknown"]) == 1
        assert cli.main(["retire", cluster.address, "w9"]) == 1
        assert "no worker of this cluster is named w9" in capsys.readouterr().err
        cluster.scale(1)  # so that the one that goes is not started again
        until(lambda: len(client.workers()) == 1)
        assert kept.result(60) == bytes(20_000)


def test_a_scheduler_that_was_killed_last_stays_dead_until_it_is_started():
    with LocalCluster(n_workers=0) as cluster:
        restart(cluster)
        cluster.kill_scheduler()
        until(lambda: not cluster.scheduler)
        time.sleep(0.3)  # nothing is to happen
        assert not cluster.scheduler
        cluster.start_scheduler()
        until(lambda: cluster.scheduler)
        os.kill(cluster.scheduler, signal.SIGKILL)
        until(lambda: not cluster.scheduler)
        cluster.kill_scheduler()  # while it is about to be started again
        time.sleep(0.3)
        assert not cluster.scheduler


def test_a_durable_session_that_nobody_uses_is_cleared_by_name(cluster):
    with Client(cluster.address, session="old") as client:
        client.submit(pow, 2, 4, key="kept").result(60)
        with pytest.raises(errors.TwistdistError, match="a client of the session 'old' is connected"):
            loose.clear(cluster.address, sessions=["old"])
    with Client(cluster.address) as other:
        with pytest.raises(errors.TwistdistError, match="there is no durable session 'odl'; durable sessions: old"):
            other.clear(["old", "odl"])
        assert other.who_has("kept")
    assert loose.clear(cluster.address, sessions=["old"]) == {"sessions": 1, "tasks": 1}
    restart(cluster)  # the journal has it too
    with Client(cluster.address, session="old") as client:
        assert client.futures() == {} and client.status()["tasks"] == {}


def test_what_is_fired_and_forgotten_is_done_though_its_client_leaves_and_the_scheduler_dies(cluster, tmp_path):
    gate, log = tmp_path / "gate", str(tmp_path / "log")

    def work(name, *inputs):
        while not gate.exists():
            time.sleep(0.01)
        note(log, name)

    with Client(cluster.address) as client:
        first = client.submit(work, "first")
        client.fire_and_forget([client.submit(work, "second", first)])
        client.submit(work, "dropped")
        cancelled = client.submit(work, "cancelled")
        client.fire_and_forget(cancelled)
        client.cancel([cancelled])
        del first
    restart(cluster)
    gate.touch()
    until(lambda: lines(log) == ["first", "second"])
    with Client(cluster.address) as client:
        until(lambda: client.status()["tasks"] == {})
        assert client.status()["sessions"]["durable"] == {}
        done = client.submit(abs, -1)
        assert done.result(60) == 1
        client.fire_and_forget(done)  # it has ended: nothing is kept
    with Client(cluster.address) as client:
        until(lambda: client.status()["tasks"] == {})
