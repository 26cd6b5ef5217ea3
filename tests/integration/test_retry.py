"""``retry``: what a person does after mending what a task failed for."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor

import twistdist
from twistdist import errors
from twistdist.blocking import Client, LocalCluster


def read(path):
    with open(path) as file:
        return file.read()


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=1, slots=2) as cluster:
        yield cluster


def test_a_file_that_was_missing_is_there_now(cluster, tmp_path):
    path = tmp_path / "data"
    with Client(cluster) as client:
        text = client.submit(read, str(path), retries=1)
        upper = client.submit(str.upper, text)
        length = client.submit(len, upper)
        called = []
        with pytest.raises(FileNotFoundError):
            length.result(60)
        path.write_text("abc")
        client.retry([length])
        length.add_done_callback(called.append)
        assert length.result(60) == 3 and length.status == "finished" and length.exception() is None
        assert upper.result(60) == "ABC" and text.result(60) == "abc"
        length.retry()
        assert length.result(60) == 3
        assert "a client wants it to be run again" in str(client.why(length))


def test_what_fails_again_fails_again(cluster, tmp_path):
    with Client(cluster) as client:
        future = client.submit(read, str(tmp_path / "nothing"))
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                future.result(60)
            future.retry()


def test_what_the_scheduler_no_longer_knows_is_refused(cluster):
    with Client(cluster) as client:
        client.submit(abs, -1).result(60)
        cancelled = client.submit(read, "/dev/null", workers=["nobody"])
        cancelled.cancel()
        with pytest.raises(errors.TaskCancelled, match="submit it again"):
            cancelled.retry()
        released = client.submit(abs, -1)
        released.result(60)
        released.release()
        client.status()
        with pytest.raises(errors.DataLost, match="submit it again"):
            client.retry([released])
        with pytest.raises(TypeError):
            client.retry([1])


@pytest_twisted.inlineCallbacks
def test_in_the_deferred_api(cluster, tmp_path):
    path = tmp_path / "data"
    client = yield twistdist.connect(reactor, cluster)
    future = client.submit(read, str(path))
    with pytest.raises(FileNotFoundError):
        yield future.result()
    path.write_text("abc")
    future.retry()
    assert (yield future.result()) == "abc"
    yield client.retry([future])
    assert future.status == "finished"
    yield client.close()
