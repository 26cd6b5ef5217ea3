"""Tasks whose functions are coroutines, or return Deferreds: both give their final value."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from twisted.internet.defer import Deferred, fail, inlineCallbacks, succeed
from twisted.internet.task import deferLater

from tests.integration.habits import until
from twistdist import errors
from twistdist.blocking import Client, LocalCluster, current_client


@pytest.fixture(scope="module")
def client():
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, 60)
        yield client


async def slow(value):
    await asyncio.sleep(0.01)
    return value


async def several():
    return await asyncio.gather(*map(slow, range(5)))


async def raises():
    await slow(0)
    raise KeyError("odd")


def later(value):
    from twisted.internet import reactor

    return deferLater(reactor, 0.01, lambda: value)


@inlineCallbacks
def in_steps(value):
    one = yield later(value)
    two = yield later(value)
    return one + two


def test_coroutines(client):
    assert client.submit(slow, 3).result(60) == 3
    assert client.submit(several).result(60) == [0, 1, 2, 3, 4]
    assert client.submit(sum, client.map(slow, range(10))).result(60) == 45
    assert client.run(slow, 1) == {"w0": 1}
    with pytest.raises(KeyError) as caught:
        client.submit(raises).result(60)
    assert "in raises" in client.submit(raises).traceback(60) and caught.value.args == ("odd",)


def test_deferreds(client):
    assert client.gather(client.map(later, range(20))) == list(range(20))
    assert client.submit(in_steps, 4).result(60) == 8
    assert client.submit(succeed, 5).result(60) == 5
    with pytest.raises(KeyError):
        client.submit(lambda: fail(KeyError("odd"))).result(60)
    with pytest.raises(ZeroDivisionError):
        client.submit(lambda: later(0).addCallback(lambda zero: 1 / zero)).result(60)


def test_a_deferred_may_give_a_coroutine_and_threads_of_the_reactor_work(client):
    def in_a_thread():
        from twisted.internet.threads import deferToThread

        return deferToThread(pow, 2, 5)

    assert client.submit(lambda: later(7).addCallback(slow)).result(60) == 7
    assert client.submit(in_a_thread).result(60) == 32 == client.submit(in_a_thread).result(60)


def never():
    return Deferred()


async def for_ever():
    await asyncio.sleep(600)


@pytest.mark.parametrize("function", [never, for_ever])
def test_one_that_never_ends_is_interrupted(client, function):
    with pytest.raises(errors.TimeLimitExceeded):
        client.submit(function, time_limit=0.2).result(60)
    future = client.submit(function)
    until(lambda: client.workers()["w0"].running == 1)
    future.cancel()
    assert client.submit(abs, -1).result(60) == 1


async def cleans_up(path):
    try:
        open(f"{path}-began", "w").close()
        await asyncio.sleep(600)
    finally:
        open(path, "w").close()


def test_a_coroutine_that_is_cancelled_cleans_up(client, tmp_path):
    path = tmp_path / "cleaned"
    future = client.submit(cleans_up, str(path))
    until((tmp_path / "cleaned-began").exists)
    future.cancel()
    until(path.exists)


def leaves_a_call():
    from twisted.internet import reactor

    reactor.callLater(0.05, os._exit, 3)
    return later(os.getpid())


def test_what_a_task_leaves_in_the_reactor_ends_with_its_process(client):
    assert client.submit(leaves_a_call).result(60)
    assert client.submit(lambda: deferred_sleep(0.2)).result(60) == "slept"


def deferred_sleep(seconds):
    from twisted.internet import reactor

    return deferLater(reactor, seconds, lambda: "slept")


async def children(n):
    client = current_client()
    futures = client.map(abs, range(-n, 0))
    return sum([await asyncio.wrap_future(future) for future in futures])


def test_a_coroutine_waits_for_its_own_tasks(client):
    assert client.submit(children, 4).result(60) == 10


def test_a_blocking_task_after_them_is_as_usual(client):
    client.submit(in_steps, 1).result(60)
    assert client.submit(time.sleep, 0.01).result(60) is None
