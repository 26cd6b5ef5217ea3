"""Chains of tasks on real processes: each task is sent to where its input is being made."""

import os
import signal
import time

import pytest

from twistdist.blocking import wait


def grow(text, more):
    return text + more


def grow_large(data, more):
    return data + more * 300_000


def slow(value, path=""):
    until = time.monotonic() + 30
    while path and not os.path.exists(path) and time.monotonic() < until:
        time.sleep(0.01)
    return value + 1


def fails(value):
    raise ValueError(f"not {value}")


def inc(value):
    return value + 1


def dies(value):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("function, first", [(grow, ""), (grow_large, b"")], ids=["small", "large"])
def test_long_chains(client, function, first):
    future, more = first, "x" if function is grow else b"x"
    for _ in range(40):
        future = client.submit(function, future, more, pure=False)
    value = future.result(60)
    assert len(value) == (40 if function is grow else 40 * 300_000)


def test_many_chains_beside_each_other(client):
    chains = client.map(inc, range(50), pure=False)
    for _ in range(20):
        chains = [client.submit(inc, future, pure=False) for future in chains]
    assert client.gather(chains) == [n + 21 for n in range(50)]


def test_what_follows_an_error_fails_with_it(client):
    first = client.submit(fails, 7, pure=False)
    future = first
    for _ in range(5):
        future = client.submit(inc, future, pure=False)
    with pytest.raises(ValueError, match="not 7"):
        future.result(60)


def test_what_follows_a_crash_fails_with_it(client):
    future = client.submit(dies, 1, pure=False, crash_limit=2)
    for _ in range(5):
        future = client.submit(inc, future, pure=False)
    assert "crash_limit" in str(future.exception(60))


def test_a_worker_is_killed_with_a_chain_on_it(cluster, client, tmp_path):
    client.gather(client.map(inc, range(10), pure=False))
    gate = str(tmp_path / "gate")
    first = client.submit(slow, 0, gate, pure=False)
    future = first
    for _ in range(20):
        future = client.submit(inc, future, pure=False)
    until = time.monotonic() + 60
    while not (busy := [name for name, told in client.workers().items() if told.running]):
        assert time.monotonic() < until
    os.kill(cluster.workers[busy[0]], signal.SIGKILL)
    open(gate, "w").close()
    assert future.result(60) == 21


def test_a_chain_is_cancelled_behind_a_running_task(client, tmp_path):
    gate = str(tmp_path / "gate")
    first = client.submit(slow, 0, gate, pure=False)
    behind = client.submit(inc, first, pure=False)
    last = client.submit(inc, behind, pure=False)
    client.cancel([behind])
    open(gate, "w").close()
    assert first.result(60) == 1
    wait([behind, last], timeout=60)
    assert behind.cancelled() and last.cancelled()
