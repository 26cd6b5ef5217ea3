"""joblib, and what is built on it, on a cluster."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import twistdist.joblib  # registers the backend
from twistdist import errors
from twistdist.blocking import Client, LocalCluster, current_client


def square(x):
    return x * x


def nested(n):
    return sum(Parallel()(delayed(square)(i) for i in range(n)))


def fail(x):
    return 1 // x


@pytest.fixture
def backend(client):
    with joblib.parallel_config("twistdist", client=client):
        yield client


def test_calls_come_back_in_order(backend):
    assert Parallel()(delayed(square)(n) for n in range(1000)) == [n * n for n in range(1000)]


@pytest.mark.parametrize("kind", ["generator", "generator_unordered"])
def test_results_as_a_generator(backend, kind):
    found = Parallel(return_as=kind)(delayed(square)(n) for n in range(50))
    assert sorted(found) == [n * n for n in range(50)]


def test_parallel_calls_inside_of_tasks(backend):
    """More of them than there are slots: each waits for its own without holding a slot."""
    assert Parallel()(delayed(nested)(n) for n in range(8)) == [sum(i * i for i in range(n)) for n in range(8)]


def test_an_error_arrives_as_it_is_and_the_backend_goes_on(backend):
    with pytest.raises(ZeroDivisionError):
        Parallel()(delayed(fail)(n) for n in (1, 0, 2))
    assert Parallel()(delayed(fail)(n) for n in (1, 2)) == [1, 0]


def test_the_number_of_jobs(backend):
    slots = sum(worker.slots for worker in backend.workers().values())
    assert joblib.effective_n_jobs(-1) == slots and joblib.effective_n_jobs(1) == 1
    assert joblib.effective_n_jobs(-2) == max(1, slots - 1)
    with pytest.raises(ValueError, match="n_jobs"):
        joblib.effective_n_jobs(0)


def test_what_is_no_client_is_named():
    with (
        pytest.raises(TypeError, match=r"must be a twistdist\.blocking\.Client"),
        joblib.parallel_config("twistdist", client=5),
    ):
        pass
    with pytest.raises(errors.TwistdistError, match="no clients are open"), joblib.parallel_config("twistdist"):
        Parallel()(delayed(square)(n) for n in range(3))


def test_the_only_open_client_is_the_default(cluster):
    with Client(cluster), joblib.parallel_config("twistdist"):
        assert Parallel()(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_scikit_learn_finds_what_it_finds_alone(backend):
    data, target = load_iris(return_X_y=True)
    search = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": [0.01, 0.1]})
    found = search.fit(data, target)
    with joblib.parallel_config("sequential"):
        expected = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "gamma": [0.01, 0.1]}).fit(data, target)
    assert found.best_params_ == expected.best_params_ and found.best_score_ == expected.best_score_
    forest = RandomForestClassifier(20, random_state=1, n_jobs=-1).fit(data, target)
    assert forest.score(data, target) > 0.9


def test_a_worker_that_is_killed_costs_time_alone():
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client, joblib.parallel_config("twistdist", client=client):
        results = Parallel(return_as="generator")(delayed(square)(n) for n in range(400))
        first = next(results)
        cluster.kill_worker(next(iter(cluster.workers)))
        assert [first, *results] == [n * n for n in range(400)]


def test_a_task_uses_its_own_client(client):
    def task():
        with joblib.parallel_config("twistdist"):
            return Parallel()(delayed(square)(n) for n in range(5)), current_client() is not None

    assert client.submit(task).result(60) == ([0, 1, 4, 9, 16], True)


def total(data, number, *, also):
    return float(data.sum()) + number + float(also[0])


def test_a_large_argument_is_sent_once_for_all_batches(backend):
    data, also = np.ones(1_000_000), np.full(50_000, 3.0)
    found = Parallel()(delayed(total)(data, number, also=also) for number in range(40))
    assert found == [1_000_003.0 + number for number in range(40)]


def test_a_batch_is_small_without_its_large_arguments():
    data, also = np.ones(1_000_000), np.full(50_000, 3.0)
    batch = SimpleNamespace(items=[(total, (data, number), {"also": also}) for number in range(5)])
    small, large = twistdist.joblib._without_large(batch)
    assert len(pickle.dumps(small)) < 2_000 and large[0] is data and large[1] is also and len(large) == 2
    assert batch.items[0][1][0] is data  # joblib's own is as it was
    assert twistdist.joblib._without_large(len) == (len, [])
