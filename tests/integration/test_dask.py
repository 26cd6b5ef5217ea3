"""dask collections on a cluster give what dask's own synchronous scheduler gives, also while workers die."""

from __future__ import annotations

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import twistdist.dask
from twistdist import errors
from twistdist.blocking import Client, LocalCluster


def square(x):
    return x * x


def frame():
    table = pd.DataFrame({"a": range(200), "b": [n % 7 for n in range(200)], "c": ["x", "y"] * 100})
    return dd.from_pandas(table, npartitions=5)


COLLECTIONS = {
    "array": lambda: (da.arange(10_000, chunks=1_000) * 2 + 1).sum(),
    "matrix": lambda: da.ones((200, 200), chunks=(50, 50)) @ da.ones((200, 200), chunks=(50, 50)),
    "random": lambda: da.random.default_rng(1).random((300, 300), chunks=(100, 100)).std(axis=0),
    "bag": lambda: db.from_sequence(range(100), npartitions=5).map(square).filter(lambda x: x % 2).sum(),
    "groupby": lambda: frame().groupby("b").a.agg(["sum", "mean"]),
    "join": lambda: frame().merge(frame(), on="a").c_x.value_counts(),
    "delayed": lambda: dask.delayed(sum)([dask.delayed(square)(n) for n in range(10)]),
}


def equal(left, right):
    if isinstance(left, pd.DataFrame | pd.Series):
        return left.sort_index().equals(right.sort_index())
    return np.array_equal(left, right)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_collection_has_the_value_that_it_has_without_a_cluster(client, name):
    collection = COLLECTIONS[name]()
    expected = collection.compute(scheduler="sync")
    assert equal(collection.compute(scheduler=client.get), expected)
    assert equal(client.compute(COLLECTIONS[name]()).result(60), expected)


def test_several_collections_are_computed_together(client):
    first, second = client.gather(client.compute(COLLECTIONS["array"](), COLLECTIONS["delayed"]()))
    assert (first, second) == (int(np.sum(np.arange(10_000) * 2 + 1)), 285)


def test_persisted_chunks_stay_on_the_cluster_and_are_used_again(client):
    kept = client.persist(da.arange(40_000, chunks=10_000) + 1)
    assert client.compute(kept.sum()).result(60) == 40_000 * 40_001 // 2
    assert kept.max().compute(scheduler=client.get) == 40_000
    assert len(kept.dask) == 4


def test_persisted_frames_are_used_again(client):
    kept = client.persist(frame())
    total, groups = client.gather(client.compute(kept.a.sum(), kept.groupby("b").a.sum()))
    assert total == 19_900 and groups.sum() == 19_900 and len(client.compute(kept).result(60)) == 200


def test_graphs_by_hand_with_keys_of_any_kind(client):
    graph = {"a": 1, ("b", 0): (square, 5), ("b", 1): (sum, ["a", ("b", 0)]), "c": "a", 7: (max, ("b", 0), ("b", 1))}
    assert client.get(graph, [["a", ("b", 1)], "c", 7]) == [[1, 26], 1, 26]
    assert client.get(graph, ("b", 0)) == 25
    with pytest.raises(KeyError, match="'nothing'"):
        client.get(graph, "nothing")
    with pytest.raises(ValueError, match="cycle"):
        client.get({"a": (square, "b"), "b": (square, "a")}, "a")
    with pytest.raises(ZeroDivisionError):
        client.get({"a": (divmod, 1, 0)}, "a")
    with pytest.raises(TypeError, match="dask collection"):
        client.compute(5)


def test_the_functions_of_the_module_use_the_only_open_client(client):
    array = da.arange(1_000, chunks=100)
    assert array.sum().compute(scheduler=twistdist.dask.get) == 499_500
    kept = twistdist.dask.persist(array + 1)
    assert twistdist.dask.compute(kept.sum(), client=client).result(60) == 500_500
    assert client.submit(in_a_task).result(60) == 45
    with Client(client.address), pytest.raises(errors.TwistdistError, match="2 clients are open"):
        twistdist.dask.compute(array.sum())
    with pytest.raises(TypeError, match="blocking"):
        twistdist.dask.get({}, [], client="tcp:127.0.0.1:1")


def in_a_task():
    return int(da.arange(10, chunks=5).sum().compute(scheduler=twistdist.dask.get))


def test_class_methods_as_arguments(client):
    """Twisted registers a reducer for methods that makes class methods impossible to load; dask's data frames have many."""
    assert client.submit(lambda make: make([("a", 1)]), dict.fromkeys).result(60) == {("a", 1): None}
    assert client.submit(lambda make, keys: make(keys), dict.fromkeys, "ab").result(60) == {"a": None, "b": None}


def test_the_answer_is_right_while_workers_are_killed():
    with LocalCluster(n_workers=3) as cluster, Client(cluster) as client:
        collection = (da.random.default_rng(2).random((600, 600), chunks=(60, 60)) + 1).sum(axis=0)
        expected = collection.compute(scheduler="sync")
        kept = client.persist(collection)
        cluster.kill_worker(next(iter(cluster.workers)), wipe=True)
        assert np.array_equal(client.compute(kept).result(60), expected)
        cluster.kill_worker(next(iter(cluster.workers)), wipe=True)
        assert np.array_equal(kept.compute(scheduler=client.get), expected)


def copied(block):
    """Bytes of memory of its own, not of files, that a task has after it has read an item in each page of a chunk."""
    assert block[::512].sum() == 512 * sum(range(len(block) // 512))
    with open("/proc/self/smaps_rollup") as stream:
        anonymous = sum(int(line.split()[1]) << 10 for line in stream if line.startswith("Anonymous:"))
    return np.array([anonymous])


def test_large_chunks_pass_without_a_copy_on_one_host(client):
    kept = client.persist(da.arange(32 << 20, chunks=32 << 20))  # one chunk of 256 MiB
    (found,) = kept.map_blocks(copied, dtype=int, chunks=(1,)).compute(scheduler=client.get)
    assert found < 128 << 20
