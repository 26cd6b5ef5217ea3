"""Tasks that submit tasks and wait for them: real processes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import twistdist
from tests.integration.habits import depth, gone, lines, note, tree, until
from twistdist import errors
from twistdist.blocking import Client, LocalCluster, current_client, wait


def test_recursion_through_the_cluster_needs_no_slots_of_its_own():
    with LocalCluster(n_workers=1, slots=2) as cluster, Client(cluster.address) as client:
        assert client.submit(depth, 200).result(300) == 200
        assert client.submit(tree, 4).result(120) == 16
        until(lambda: client.workers()["w0"].waiting == 0)
        until(lambda: set(client.status()["tasks"]) <= {"done"} and sum(client.status()["tasks"].values()) == 0)


def test_a_parent_that_is_run_again_finds_its_children(one, tmp_path):
    log = str(tmp_path / "log")

    def child(i):
        note(log, f"child-{i}")
        return i

    def parent():
        children = current_client().map(child, range(5))
        total = sum(current_client().gather(children))
        note(log, "parent")
        if lines(log).count("parent") == 1:
            os._exit(1)
        return total

    assert one.submit(parent).result(60) == 10
    assert sorted(lines(log)) == [*(f"child-{i}" for i in range(5)), "parent", "parent"]


def test_children_of_a_cancelled_parent_end(one, tmp_path):
    log = str(tmp_path / "log")

    def child():
        note(log, os.getpid())
        time.sleep(600)

    def parent():
        current_client().submit(child).result()

    future = one.submit(parent)
    until(lambda: lines(log))
    future.cancel()
    until(lambda: gone(int(lines(log)[0])))
    until(lambda: not one.status()["tasks"].get("assigned"))


def test_wait_in_a_task_gives_up_the_slot_too(one):
    def parent():
        futures = [current_client().submit(time.sleep, 0.02) for _ in range(3)]
        return len(wait(futures).done)

    assert one.submit(parent).result(60) == 3


def test_current_attempt_has_a_token_that_grows(one, tmp_path):
    log = str(tmp_path / "log")

    def work():
        attempt = twistdist.current_attempt()
        note(log, attempt.token)
        if len(lines(log)) == 1:
            os._exit(1)
        return attempt

    attempt = one.submit(work, key="named").result(60)
    first, second = map(int, lines(log))
    assert second > first and attempt.token == second and (attempt.key, attempt.worker) == ("named", "w0")
    for outside in (twistdist.current_attempt, current_client):
        with pytest.raises(errors.TwistdistError, match="only inside a task"):
            outside()


def test_children_are_found_again_after_a_retry(one, tmp_path):
    log = str(tmp_path / "log")

    def child():
        note(log, "child")

    def parent():
        current_client().submit(child).result()
        note(log, "parent")
        if lines(log).count("parent") == 1:
            raise OSError("the first time")

    one.submit(parent, retries=2).result(60)
    assert sorted(lines(log)) == ["child", "parent", "parent"]


def test_threads_of_a_task_share_its_client(one):
    def parent():
        found = []
        threads = [threading.Thread(target=lambda: found.append(current_client())) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(set(map(id, found)))

    assert one.submit(parent).result(60) == 1


def by_asyncio(client):
    async def wait_for(future):
        return await asyncio.wrap_future(future)

    return asyncio.run(wait_for(client.submit(pow, 2, 3)))


def by_threads(client):
    with ThreadPoolExecutor(3) as pool:
        return sum(pool.map(lambda i: client.submit(pow, i, 1).result(), (1, 3, 4)))


def by_a_thread(client):
    results = []
    thread = threading.Thread(target=lambda: results.append(client.submit(pow, 2, 3).result()))
    thread.start()
    thread.join()
    return results[0]


def by_an_event(client):
    done = threading.Event()
    future = client.submit(pow, 2, 3)
    future.add_done_callback(lambda _: done.set())
    done.wait()
    return future.result()


def by_looking(client):
    future = client.submit(pow, client.submit(pow, 2, 1), 3)
    while not future.done():
        pass
    return future.result()


@pytest.mark.parametrize("waits", [by_asyncio, by_threads, by_a_thread, by_an_event, by_looking])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_may_wait_for_its_tasks_in_any_way(waits, workers):
    def parent():
        return waits(current_client())

    with LocalCluster(n_workers=workers, slots=1) as cluster, Client(cluster.address) as client:
        parents = [client.submit(parent) for _ in range(2 * workers)]
        assert client.gather(parents, timeout=60) == [8] * len(parents)
        assert {one.kind for one in client.incidents()} == {"slot lent"}
        until(lambda: all(one.waiting == 0 for one in client.workers().values()))
        assert client.gather(client.map(pow, range(20), range(20)), timeout=60) == [i**i for i in range(20)]


def in_threads(n):
    if n == 0:
        return 0
    results = []
    thread = threading.Thread(target=lambda: results.append(current_client().submit(in_threads, n - 1).result()))
    thread.start()
    thread.join()
    return results[0] + 1


def test_recursion_in_threads_needs_no_slots_of_its_own():
    with LocalCluster(n_workers=1, slots=1) as cluster, Client(cluster.address) as client:
        assert client.submit(in_threads, 8).result(120) == 8
