"""The Deferred API on the global reactor, with pytest-twisted."""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from twisted.internet import defer, reactor

import twistdist
from twistdist import errors


def divide(a, b):
    return a / b


@pytest_twisted.inlineCallbacks
def test_a_cluster_of_its_own_from_connect_to_close():
    client = yield twistdist.connect(reactor, n_workers=1)
    try:
        future = client.submit(pow, 2, 10)
        assert (yield future.result()) == 1024
        assert future.done() and future.status == "finished"
    finally:
        yield client.close()


@pytest_twisted.inlineCallbacks
def test_failures_are_trapped_by_their_own_type(cluster):
    client = yield twistdist.connect(reactor, cluster.address)
    try:
        bad = client.submit(divide, 1, 0)
        failures = []
        yield bad.result().addErrback(failures.append)
        (failure,) = failures
        assert failure.trap(ZeroDivisionError) is ZeroDivisionError
        text = failure.getTraceback()
        assert "test_deferred.py" in text and "in divide" in text and "return a / b" in text
        assert failure.value.__twistdist__.key == bad.key
        assert isinstance((yield bad.exception()), ZeroDivisionError)
        assert "in divide" in (yield bad.traceback())
        assert (yield client.submit(divide, 4, 2).exception()) is None
        with pytest.raises(ZeroDivisionError):
            yield client.gather([client.submit(divide, 4, 2), bad])
    finally:
        yield client.close()


@pytest_twisted.ensureDeferred
async def test_coroutines_wait_for_futures(cluster):
    client = await twistdist.connect(reactor, cluster.address)
    try:
        futures = client.map(divide, range(10), [2] * 10)
        done, not_done = await twistdist.wait(futures)
        assert len(done) == 10 and not not_done
        seen = [future async for future in twistdist.as_completed(futures)]
        assert set(seen) == set(futures)
        assert await futures[4] == 2.0
        assert await client.gather({"x": futures[:2]}) == {"x": [0.0, 0.5]}
        assert await twistdist.progress(futures) is None
        first = await twistdist.as_completed(futures).next()
        assert first in futures
        assert (await client.workers()).keys() == {"w0", "w1"}
        assert await client.incidents() == []
    finally:
        await client.close()


@pytest_twisted.inlineCallbacks
def test_errors_of_connecting(cluster):
    with pytest.raises(errors.SchedulerUnreachable, match="check that it is running"):
        yield twistdist.connect(reactor, "tcp:127.0.0.1:1", timeout=0.2)
    with pytest.raises(errors.AuthenticationError):
        yield twistdist.connect(reactor, cluster.address, secret="quite another secret")
    attempt = twistdist.connect(reactor, "tcp:127.0.0.1:1")
    attempt.cancel()
    with pytest.raises(defer.CancelledError):
        yield attempt


@pytest_twisted.inlineCallbacks
def test_a_future_waits_although_its_name_is_dropped(cluster):
    client = yield twistdist.connect(reactor, cluster.address)
    try:
        assert (yield client.submit(divide, 6, 2).result()) == 3
        with pytest.raises(errors.TaskCancelled):
            future = client.submit(divide, 1, 1, workers=["w0"], priority=-5)
            blocked = client.submit(divide, future, 1)
            blocked.cancel()
            result = yield blocked.result()
            raise errors.TaskCancelled(f"it was faster: {result}")
    finally:
        yield client.close()


def nap(seconds, value):
    time.sleep(seconds)
    return value


@pytest_twisted.ensureDeferred
async def test_a_next_that_is_given_up_swallows_no_future(cluster):
    client = await twistdist.connect(reactor, cluster.address)
    try:
        coming = twistdist.as_completed([client.submit(nap, 0.2, 0), client.submit(nap, 0.4, 1)])
        with pytest.raises(defer.TimeoutError):
            await coming.next().addTimeout(0.01, reactor)
        assert [await future.result() async for future in coming] == [0, 1]
    finally:
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_callback_of_a_future_that_has_ended_is_called_at_once(cluster):
    client = await twistdist.connect(reactor, cluster.address)
    try:
        future = client.submit(abs, -1)
        await future.result()
        called = []
        future.add_done_callback(called.append)
        assert called == [future]
        await twistdist.fire_and_forget(client.submit(abs, -2))
        with pytest.raises(TypeError):
            twistdist.fire_and_forget([1])
    finally:
        await client.close()
