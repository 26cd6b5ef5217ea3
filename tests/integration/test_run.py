"""``client.run``: once on each worker, beside whatever runs there."""

from __future__ import annotations

import os
import signal
import time

import pytest
import pytest_twisted
from twisted.internet import reactor

import twistdist
from tests.integration.habits import until
from twistdist import errors


def where(suffix, punctuation="!"):
    return f"{twistdist.current_attempt().worker}{suffix}{punctuation}"


def fail_on(name):
    if twistdist.current_attempt().worker == name:
        raise KeyError("odd")
    return os.getpid()


def test_each_worker_gives_its_value_though_its_slots_are_busy(client):
    busy = client.map(time.sleep, [30] * 4)
    until(lambda: sum(info.running for info in client.workers().values()) == 2)
    assert client.run(where, "?", punctuation="") == {"w0": "w0?", "w1": "w1?"}
    assert client.run(where, "", workers="w1") == {"w1": "w1!"} == client.run(where, "", workers=["w1", "w1"])
    assert len(set(client.run(os.getpid).values())) == 2
    client.cancel(busy)


def test_the_first_error_names_its_worker(client):
    with pytest.raises(KeyError) as caught:
        client.run(fail_on, "w1")
    assert caught.value.__twistdist__.worker == "w1"
    assert getattr(caught.value, "__notes__", ["raised on the worker w1"]) == ["raised on the worker w1"]
    with pytest.raises(errors.TaskCrashed):
        client.run(lambda: os.kill(os.getpid(), signal.SIGKILL), workers=["w0"])


def test_what_is_wrong_is_said_at_once(client):
    with pytest.raises(ValueError, match="no worker of this cluster is named w9; its workers: w0, w1"):
        client.run(os.getpid, workers=["w9"])
    with pytest.raises(TypeError):
        client.run(os.getpid, workers=7)


def test_a_worker_that_is_killed_meanwhile_ends_it(cluster, client, tmp_path):
    path = tmp_path / "began"

    def hang():
        path.touch()
        time.sleep(600)

    with cluster_call(client, hang) as waiting:
        until(path.exists)
        cluster.kill_worker("w0")
        with pytest.raises(errors.NoValidWorker, match="w0 was lost while it ran hang"):
            waiting.result(60)
    client.wait_for_workers(2, 60)


class cluster_call:
    """``client.run`` on w0 in a thread."""

    def __init__(self, client, function):
        self._client, self._function = client, function

    def __enter__(self):
        from concurrent.futures import ThreadPoolExecutor

        self._pool = ThreadPoolExecutor(1)
        return self._pool.submit(self._client.run, self._function, workers=["w0"])

    def __exit__(self, *_):
        self._pool.shutdown()


@pytest_twisted.ensureDeferred
async def test_in_the_deferred_api(cluster):
    client = await twistdist.connect(reactor, cluster)
    try:
        assert await client.run(where, "") == {"w0": "w0!", "w1": "w1!"}
        with pytest.raises(KeyError):
            await client.run(fail_on, "w0")
        with pytest.raises(ValueError, match="w9"):
            await client.run(where, "", workers="w9")
    finally:
        await client.close()
