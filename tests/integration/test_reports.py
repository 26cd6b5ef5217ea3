"""Reports and recordings of real clusters, with both clients."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import pytest_twisted
from twisted.internet import reactor

import twistdist
from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster
from twistdist.core.scheduler.activity import MAX_SPANS
from twistdist.web.output import MAX_LINES
from twistdist.web.recording import Recording


def data_of(path):
    with open(path, encoding="utf-8") as stream:
        return json.loads(re.search(r'id="data">(.*?)</script>', stream.read())[1])


def cost(data, kind="functions"):
    """{name: (done, failed, again)}"""
    return {name: (done, failed, again) for name, done, failed, again, _ in data[kind]}


@contextlib.contextmanager
def looks():
    """Gives a function that returns when open recordings have everything that had happened when it was called."""
    made, tell = [], Recording.tell

    async def counted(self, most):  # after each look
        await tell(self, most)
        made.append(self)

    def looked():
        before = len(made)
        until(lambda: len(made) >= before + 2)  # one may have been under way

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording, "tell", counted)
        yield looked


def shout(number):
    for _ in range(number):
        print("ha")
    print("the end", file=sys.stderr)
    return number


def nothing(number):
    return number


def test_a_recording_has_its_block_and_nothing_else(client, tmp_path):
    client.gather(client.map(nothing, range(20)), timeout=60)
    with client.recording(tmp_path / "run.html"):
        with client.group("g"):
            client.gather(client.map(nothing, range(30)), timeout=60)
        client.submit(divmod, 1, 0, key="</script>").exception(60)
    client.gather(client.map(abs, range(20)), timeout=60)
    data = data_of(tmp_path / "run.html")
    assert cost(data) == {"nothing": (30, 0, 0), "divmod": (0, 1, 0)} and cost(data, "groups") == {"g": (30, 0, 0)}
    assert data["counters"]["submitted"] == 31 and data["counters"]["failed"] == 1
    assert 0 < data["ended"] - data["began"] < 60 and abs(data["made"] - time.time()) < 60
    assert all(data["began"] - 0.1 <= span[0] <= data["made"] for span in data["snapshot"]["spans"])
    assert sum(span[4] for span in data["snapshot"]["spans"]) == 31
    assert data["stories"]["</script>"]["story"]["traceback"].startswith("ZeroDivisionError")
    assert set(data["workers"]) == {"w0", "w1"} and all("Python" in one["versions"] for one in data["workers"].values())


def test_a_recording_has_more_spans_than_the_scheduler_remembers(tmp_path):
    """Tasks of different groups are spans of their own, also those that end together."""
    with LocalCluster(n_workers=1, slots=2) as cluster, Client(cluster) as client:
        with client.recording(tmp_path / "run.html"):
            made = 0
            while made <= MAX_SPANS + 1_000:
                client.gather([client.submit(nothing, number, group=f"g{number % 500}") for number in range(2_000)], timeout=60)
                made = client._call(lambda: client._session._query("snapshot", float("inf")), 60)["spans_in_all"]
        data, everything = data_of(tmp_path / "run.html"), data_of(client.report(tmp_path / "all.html"))
    assert len(data["snapshot"]["spans"]) == made and data["dropped"]["spans"] == 0
    assert cost(data)["nothing"][0] == sum(span[4] for span in data["snapshot"]["spans"]) == data["counters"]["done"]
    assert len(data["groups"]) == 500
    assert len(everything["snapshot"]["spans"]) == MAX_SPANS and everything["dropped"]["spans"] == made - MAX_SPANS
    assert cost(everything) == cost(data) and sorted(everything["groups"]) == sorted(data["groups"])


def test_a_recording_survives_a_scheduler_that_is_killed(tmp_path):
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        with looks() as looked, client.recording(tmp_path / "run.html"):
            client.gather(client.map(nothing, range(5)), timeout=60)
            looked()
            cluster.kill_scheduler()
            cluster.start_scheduler()
            client.gather(client.map(abs, range(7)), timeout=60)
        data = data_of(tmp_path / "run.html")
    assert cost(data) == {"nothing": (5, 0, 0), "abs": (7, 0, 0)} and len(data["lives"]) == 2
    assert any(one["kind"] == "scheduler restarted" for one in data["snapshot"]["incidents"]) and data["notes"] == []


def test_an_error_in_the_block_is_raised_and_in_the_report(client, tmp_path):
    with pytest.raises(ZeroDivisionError), client.recording(tmp_path / "run.html"):
        client.submit(divmod, 1, 0).result(60)
    assert data_of(tmp_path / "run.html")["error"].startswith("ZeroDivisionError: ")


def test_a_path_that_can_not_be_written_is_an_error_before_the_block_runs(client, tmp_path):
    for path, error in (
        (tmp_path / "nowhere" / "run.html", FileNotFoundError),
        (tmp_path, OSError),
        (3, TypeError),
        ("", ValueError),
    ):
        with pytest.raises(error), client.recording(path):
            pytest.fail("the block runs")
        with pytest.raises(error):
            client.report(path)
    assert os.listdir(tmp_path) == []


def test_a_client_that_is_closed_in_the_block_leaves_a_report(single, tmp_path):
    client = Client(single)
    with client.recording(tmp_path / "run.html"):
        assert client.submit(nothing, 1).result(60) == 1
        client.close()
    assert data_of(tmp_path / "run.html")["notes"] == ["this client can't be used: this client was closed"]


def test_two_recordings_at_once_are_two_files(client, tmp_path):
    def record(name):
        with client.recording(tmp_path / name):
            client.gather(client.map(nothing, range(3)), timeout=60)

    threads = [threading.Thread(target=record, args=(f"{name}.html",)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(cost(data_of(tmp_path / f"{name}.html"))["nothing"][0] >= 3 for name in "ab")


INTERRUPTED = """
import sys, time
from twistdist.blocking import Client

with Client(sys.argv[1]) as client, client.recording(sys.argv[2]):
    print(client.submit(abs, -1).result(60), flush=True)
    client.submit(time.sleep, 600).result()
"""


def test_ctrl_c_in_the_block_leaves_a_report(cluster, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, cluster.address, str(tmp_path / "run.html")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    data = data_of(tmp_path / "run.html")
    assert data["error"].startswith("KeyboardInterrupt") and cost(data)["abs"] == (1, 0, 0)


@pytest_twisted.ensureDeferred
async def test_recordings_and_reports_of_the_deferred_client(cluster, tmp_path):
    client = await twistdist.connect(reactor, cluster.address)
    try:
        async with client.recording(tmp_path / "run.html"):
            assert await client.submit(nothing, 3).result() == 3
        assert cost(data_of(tmp_path / "run.html")) == {"nothing": (1, 0, 0)}
        with pytest.raises(KeyError):
            async with client.recording(tmp_path / "again.html"):
                raise KeyError("x")
        assert data_of(tmp_path / "again.html")["error"] == "KeyError: 'x'"
        recording = await client.recording(tmp_path / "third.html").start()
        assert await client.submit(nothing, 4).result() == 4
        assert await recording.stop() == str(tmp_path / "third.html")
        assert cost(data_of(await client.report(tmp_path / "all.html")))["nothing"][0] >= 2
        with pytest.raises(FileNotFoundError):
            client.report(tmp_path / "nowhere" / "run.html")
    finally:
        await client.close()


def test_what_a_task_has_written_is_found_by_its_key(client, tmp_path):
    future = client.submit(shout, 3, key="shouts")
    assert future.result(60) == 3

    def lines():
        number = client._call(lambda: client._session._query("output", "shouts", MAX_LINES), 60)
        found = client._call(lambda: client._session._answers(number, None), 60)
        return [line for own in found.values() for line in own]

    until(lambda: len(lines()) == 4)
    assert sorted(lines()) == ["stderr: the end", *["stdout: ha"] * 3]
