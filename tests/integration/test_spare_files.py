"""Values that somebody has stay as they are, however many files are freed and written again around them."""

from __future__ import annotations

import os
import pathlib
import sys
import time

import numpy as np
import pytest

from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster, wait

COUNT = 1 << 19  # 4 MiB of float64

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not os.path.isdir("/dev/shm"), reason="spare files need leases")


def fill(value):
    return np.full(COUNT, float(value))


def fill_bytes(value):
    return bytes([value]) * (8 * COUNT)


def watch(array, gate, name):
    """Return what the array holds at first, and what it holds when the gate opens."""
    before = set(np.unique(array))
    pathlib.Path(f"{gate}-{name}").touch()
    while not os.path.exists(gate):
        time.sleep(0.01)
    return before, set(np.unique(array))


def spoil(array):
    array[:] = -1.0
    return float(array.sum())


def stores(cluster):
    return pathlib.Path(cluster._service._folder)


def spare(cluster):
    return [path for path in stores(cluster).glob("*/.spare/*")]


@pytest.fixture
def two():
    with LocalCluster(n_workers=2, slots=2) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(2, 60)
        yield cluster, client


def test_values_that_are_in_use_stay_as_they_are(two, tmp_path):
    cluster, client = two
    gate, workers = str(tmp_path / "gate"), ("w0", "w1")
    shared = client.submit(fill, 1, workers=["w0"])
    watchers = [client.submit(watch, shared, gate, name, workers=[name]) for name in workers]
    until(lambda: all(os.path.exists(f"{gate}-{name}") for name in workers))
    kept = [shared.result(60), client.submit(fill, 1, workers=["w0"]).result(60)]
    del shared
    reused = set()
    for value in range(10, 30):
        future = client.submit(fill, value, workers=["w0"])
        wait([future])
        reused |= {path.stat().st_ino for path in (stores(cluster) / "w0").iterdir() if path.stat().st_size > 8 * COUNT}
        assert client.submit(spoil, future, workers=["w1"]).result(60) == -COUNT  # a private copy
        assert set(np.unique(future.result(60))) == {float(value)}
        del future
    pathlib.Path(gate).touch()
    assert [future.result(60) for future in watchers] == [({1.0}, {1.0})] * 2
    assert [set(np.unique(array)) for array in kept] == [{1.0}] * 2
    assert len(reused) < 20


def test_freed_files_are_written_again_by_tasks_and_by_scatter(two):
    cluster, client = two
    inodes = set()
    for value in range(6):
        future = client.submit(fill_bytes, value, workers=["w0"])
        assert future.result(60) == fill_bytes(value)
        del future
        until(lambda: spare(cluster))
        inodes |= {path.stat().st_ino for path in spare(cluster)}
    assert len(inodes) < 6
    client_folders = lambda: list(pathlib.Path(f"/dev/shm/twistdist-{os.getuid()}").glob("client-*/.spare/*"))  # noqa: E731
    before = set(client_folders())
    inodes = set()
    for value in range(6):
        future = client.scatter(fill(value), replicas=1)
        assert client.submit(float, client.submit(np.mean, future)).result(60) == value
        del future
        until(lambda: set(client_folders()) - before)
        inodes |= {path.stat().st_ino for path in set(client_folders()) - before}
    assert len(inodes) < 6


def test_spare_files_go_when_the_memory_is_needed(tmp_path):
    with LocalCluster(n_workers=1, memory_limit=400 << 20) as cluster, Client(cluster.address) as client:
        client.submit(fill, 1).result(60)
        until(lambda: spare(cluster))
        hold = client.submit(np.ones, (230 << 20) // 8)
        wait([hold])
        until(lambda: not spare(cluster))
