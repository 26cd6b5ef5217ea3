"""The blocking API on real processes."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import traceback

import pytest

import twistdist.client
from twistdist import errors
from twistdist.blocking import Client, as_completed, progress, wait


def add(a, b=0):
    return a + b


def fail(text):
    raise ValueError(text)


def gone(number):
    os.kill(os.getpid(), number)


def hold(path):
    while not os.path.exists(path):
        threading.Event().wait(0.01)
    return path


def once(path, error):
    """Fails the first time."""
    if os.path.exists(path):
        return "second"
    open(path, "w").close()
    raise error


class Box:
    def __init__(self, content):
        self.content = content


def test_values_of_all_sizes(client):
    assert client.submit(pow, 2, 10).result(30) == 1024
    assert client.submit(lambda: None).result(30) is None
    large = client.submit(bytes, 3_000_000)
    assert len(large.result(30)) == 3_000_000
    assert client.submit(len, large).result(30) == 3_000_000
    assert list(client.who_has([large]).values()) != [[]]


def test_numpy_arrays_arrive_on_the_same_host(client):
    np = pytest.importorskip("numpy")
    array = client.submit(np.arange, 1_000_000.0)
    assert client.submit(np.sum, array).result(30) == 499999500000.0
    assert array.result(30).flags.writeable


def test_futures_nested_anywhere(client):
    one, two = client.submit(add, 1), client.submit(add, 2)
    nested = client.submit(lambda x, y: x["a"][0] + y.content[1], {"a": [one]}, y=Box((0, two)))
    assert nested.result(30) == 3
    assert client.submit(lambda *xs: sum(xs), one, one, two, one).result(30) == 5


def test_map_and_gather_keep_shapes(client):
    futures = client.map(add, range(100), range(100))
    assert client.gather(futures) == [2 * i for i in range(100)]
    shape = {"a": (futures[1], [futures[2]]), "b": {futures[3]}}
    assert client.gather(shape) == {"a": (2, [4]), "b": [6]} or client.gather(shape) == {"a": (2, [4]), "b": {6}}
    assert client.gather(iter(futures[:2])) == [0, 2]
    assert client.gather([]) == []


def test_an_exception_with_its_remote_frames_for_all_who_depend_on_it(client):
    bad = client.submit(fail, "this")
    after = client.submit(add, bad)
    for future in (bad, after):
        with pytest.raises(ValueError, match="this") as caught:
            future.result(30)
        assert "in fail" in "".join(traceback.format_tb(caught.value.__traceback__))
        assert caught.value.__twistdist__.key == bad.key
    assert isinstance(bad.exception(30), ValueError) and "in fail" in bad.traceback(30)
    assert bad.status == "error"
    with pytest.raises(ValueError):
        client.gather([client.submit(add, 1), bad])
    assert client.gather([client.submit(add, 1), bad], errors="skip") == [1]


def test_a_segfault_hits_its_own_task_alone(client):
    others = client.map(add, range(50))
    bad = client.submit(gone, signal.SIGSEGV, crash_limit=2)
    more = client.map(add, range(50, 100))
    with pytest.raises(errors.TaskCrashed, match="SIGSEGV") as caught:
        bad.result(30)
    assert "in gone" in str(caught.value)  # the Python stack at the moment of the crash
    assert str(caught.value).count("attempt ") == 2 and caught.value.__twistdist__.exit.startswith("SIGSEGV")
    assert client.gather(others + more, timeout=30) == list(range(100))
    assert all(one.state == "connected" for one in client.workers().values())
    with pytest.raises(errors.TaskCrashed, match="exit code 3"):
        client.submit(os._exit, 3, crash_limit=1).result(30)
    with pytest.raises(errors.TaskError, match="SystemExit"):
        client.submit(exit, 3).result(30)


def test_numeric_libraries_get_one_thread_a_task(client):
    assert client.submit(os.getenv, "OMP_NUM_THREADS").result(30) == os.environ.get("OMP_NUM_THREADS", "1")


def test_retries(client, tmp_path):
    assert client.submit(once, str(tmp_path / "a"), OSError("x"), retries=1).result(30) == "second"
    with pytest.raises(OSError):
        client.submit(once, str(tmp_path / "b"), OSError("x")).result(30)


def test_a_time_limit_ends_the_task_and_frees_the_slot(client):
    slow = client.submit(hold, "/nonexistent/path", time_limit=0.2)
    with pytest.raises(errors.TimeLimitExceeded, match=r"0\.2 s"):
        slow.result(30)
    assert client.gather(client.map(add, range(10)), timeout=30) == list(range(10))


def test_cancel_of_pending_and_running_tasks(client, tmp_path):
    running = [client.submit(hold, str(tmp_path / "never")) for _ in range(2)]
    pending = client.submit(add, running[0])
    waits = client.submit(add, 1)
    client.cancel([pending, *running])
    for future in (pending, *running):
        assert future.cancelled() and future.status == "cancelled"
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(30)
    assert waits.result(30) == 1
    with pytest.raises(errors.TaskCancelled, match="cancelled"):
        client.submit(add, pending)


def test_keys_and_pure(client):
    first = client.submit(add, 1, 2, key="the-sum")
    again = client.submit(add, 1, 2, key="the-sum")
    assert first.key == again.key == "the-sum" and again.result(30) == 3
    with pytest.raises(errors.KeyConflict, match="the-sum"):
        client.submit(add, 5, 5, key="the-sum").result(30)
    assert client.submit(add, 7, pure=True).key == client.submit(add, 7, pure=True).key
    keys = [future.key for future in client.map(add, range(2), key="many")]
    assert keys == ["many-0", "many-1"]


def test_bad_input_is_an_error_at_the_call(client, cluster):
    with pytest.raises(errors.SerializationError, match="argument 1, a lock"):
        client.submit(add, threading.Lock())
    with pytest.raises(TypeError, match="callable"):
        client.submit(5)
    bad = {"retries": -1, "crash_limit": 0, "time_limit": 0, "key": "", "replay": "often", "replicas": 0}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=name if name != "key" else "a key must be"):
            client.submit(add, 1, **{name: value})
    with pytest.raises(TypeError, match="priority"):
        client.submit(add, 1, priority="high")
    with Client(cluster.address) as other:
        foreign = other.submit(add, 1)
        with pytest.raises(errors.TwistdistError, match="another client"):
            client.submit(add, foreign)
    with pytest.raises(TypeError, match="futures must be given in"):
        client.gather([1])


def test_what_can_not_be_loaded_or_dumped_on_the_worker(client):
    import pickle
    import sys
    import types

    module = types.ModuleType("only_here")
    exec("def f():\n    return 1", module.__dict__)
    sys.modules["only_here"] = module
    with pytest.raises(errors.SerializationError, match="only_here"):
        client.submit(module.f).result(30)
    with pytest.raises(errors.SerializationError, match="generator"):
        client.submit(lambda: (i for i in range(3))).result(30)
    with pytest.raises(errors.SerializationError, match="take its result"):
        pickle.dumps(client.submit(add, 1))
    assert client.submit(add, 1).result(30) == 1


def test_dropping_a_future_releases_its_result(client):
    future = client.submit(bytes, 1_000_000)
    assert len(future.result(30)) == 1_000_000
    key = future.key
    assert key in client.who_has()
    del future
    assert key not in client.who_has()


def test_concurrent_futures_takes_our_futures(client):
    futures = client.map(add, range(20))
    assert wait(futures, timeout=30).not_done == set()
    assert sorted(one.result() for one in as_completed(client.map(add, range(20)), timeout=30)) == list(range(20))
    assert concurrent.futures.wait([client.submit(add, 1)], timeout=30, return_when="FIRST_COMPLETED").done
    called = threading.Event()
    client.submit(add, 1).add_done_callback(lambda future: called.set())
    assert called.wait(30)
    progress(client.map(add, range(5)))
    with client.executor() as executor:
        assert list(executor.map(add, range(5))) == list(range(5))
        assert executor.submit(add, 1, b=2).result(30) == 3


def test_a_timeout(client, tmp_path):
    future = client.submit(hold, str(tmp_path / "go"))
    with pytest.raises(concurrent.futures.TimeoutError):
        future.result(0.05)
    (tmp_path / "go").touch()
    assert future.result(30)


def test_threads_share_a_client(client):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda n: sum(client.gather(client.map(add, range(n)))), range(50)))
    assert sums == [sum(range(n)) for n in range(50)]


def test_loose_functions(client, cluster):
    future = client.submit(add, 4, 4, key="loose")
    assert future.result(30) == 8
    assert twistdist.client.gather(cluster.address, ["loose"]) == [8]
    assert "loose" in twistdist.client.who_has(cluster.address)
    with pytest.raises(errors.DataLost, match="nothing"):
        twistdist.client.gather(cluster.address, ["nothing"])
    assert twistdist.client.clear(cluster.address)["tasks"] == 0
    assert future.result(30) == 8


def test_connecting_to_nothing_and_with_the_wrong_secret(cluster):
    with pytest.raises(errors.SchedulerUnreachable, match=r"127\.0\.0\.1:1"):
        Client("127.0.0.1:1", timeout=0.3)
    with pytest.raises(errors.AuthenticationError, match="secret"):
        Client(cluster.address, secret="quite another secret")
    with pytest.raises(errors.ConfigError, match="not an address"):
        Client("nonsense")


def test_a_closed_client_says_so(cluster):
    client = Client(cluster.address)
    future = client.submit(hold, "/nonexistent/path")
    client.close()
    with pytest.raises(errors.ClientClosed):
        future.result(30)
    with pytest.raises(errors.ClientClosed):
        client.submit(add, 1)


def test_a_task_left_running_by_a_client_that_leaves_frees_its_slot(client, cluster):
    """Found as a hang: the slot looked free to the scheduler and was not."""
    with Client(cluster.address) as other:
        left = [other.submit(hold, "/nonexistent/path", workers=[name]) for name in cluster.workers]
        while sum(info.running for info in client.workers().values()) < 2:
            threading.Event().wait(0.01)
        del left
    assert client.gather([client.submit(add, 1, workers=[name]) for name in cluster.workers], timeout=60) == [1, 1]


def test_a_client_that_leaves_takes_its_tasks_along(client, cluster):
    with Client(cluster.address) as other:
        kept = other.map(bytes, [100_000] * 5)
        other.gather(kept)
        assert client.status()["tasks"]["done"] >= 5
    while client.status()["tasks"]:  # its leaving arrives on a connection of its own
        threading.Event().wait(0.01)
    assert all(info.keys == 0 for info in client.workers().values())


def test_large_arguments_go_through_a_file(client):
    data = os.urandom(1_000_000)
    assert client.submit(len, data).result(30) == len(data)
    assert client.gather(client.map(len, [data[:100_000]] * 20)) == [100_000] * 20


# ---- found by people who tried to break it -------------------------------------------------------


class Adder:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x + self.n


def test_callables_with_state_are_pickled_as_they_are_at_the_call(client):
    adder = Adder(1)
    assert client.submit(adder, 1).result(30) == 2
    adder.n = 100
    assert client.submit(adder, 1).result(30) == 101
    names = {}
    exec("def late(x):\n    return helper(x)", names)
    with pytest.raises(NameError):
        client.submit(names["late"], 1).result(30)
    exec("def helper(x):\n    return x + 1", names)
    assert client.submit(names["late"], 1).result(30) == 2


def surrogate():
    raise ValueError("name \udcff")


class Frozen(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(name)


def raise_frozen():
    raise Frozen("cold")


def test_odd_exceptions_are_their_own_task_s_affair(client):
    for function, text in ((surrogate, "udcff"), (raise_frozen, "cold")):
        error = client.submit(function, crash_limit=1).exception(30)
        assert text in str(error) or text in error.__twistdist__.traceback
        assert not isinstance(error, errors.TaskCrashed)
    with pytest.raises(UnicodeDecodeError):
        client.submit(lambda: (b"a" * 100_000 + b"\xff").decode()).result(30)


def test_a_callback_may_ask_for_the_result_and_may_fail(client):
    seen = []
    ready = threading.Event()

    def look(future):
        seen.append(future.result())
        ready.set()
        raise RuntimeError("a callback's own error")

    future = client.submit(add, 20, 1)
    assert future.result(30) == 21
    future.add_done_callback(look)
    assert client.submit(add, 1).result(30) == 1 and ready.wait(30) and seen == [21]


def test_waiting_for_the_first_exception(client, tmp_path):
    slow, bad = client.submit(hold, str(tmp_path / "go")), client.submit(fail, "first")
    done, not_done = wait([slow, bad], timeout=30, return_when="FIRST_EXCEPTION")
    assert bad in done and slow in not_done
    (tmp_path / "go").touch()


def test_futures_that_end_while_somebody_begins_to_wait_come_once(client):
    """Found as a KeyError in as_completed, once in some thirty runs."""
    for _ in range(150):
        futures = client.map(add, range(40))
        assert sum(1 for _ in as_completed(futures, timeout=30)) == 40
        futures = client.map(add, range(40))
        assert wait(futures, timeout=30).not_done == set()


def test_a_released_future_says_so(client, tmp_path):
    future = client.submit(hold, str(tmp_path / "never"))
    future.release()
    with pytest.raises(errors.DataLost, match="released"):
        future.result(30)


def test_what_can_not_be_sent_is_an_error_at_the_call_and_the_client_goes_on(client):
    for options in (
        {"key": "a\udcff"},
        {"retries": 2**70},
        {"priority": 2**70},
        {"time_limit": float("nan")},
        {"resources": {"GPU": float("inf")}},
        {"resources": {"\udcff": 1}},
    ):
        with pytest.raises(ValueError):
            client.submit(add, 1, **options)
    big = b"x" * (17 << 20)
    with pytest.raises(errors.SerializationError, match="closure"):
        client.submit(lambda: len(big))
    assert client.submit(add, 1, resources={"GPU": 0}).result(30) == 1
    with pytest.raises(TypeError):
        client.incidents(since="1h")


def fork_and_return():
    os.fork()
    return "once"


def test_a_task_that_forks_and_returns_on_both_sides(client):
    assert client.submit(fork_and_return).result(30) == "once"
    assert client.gather(client.map(add, range(100)), timeout=30) == list(range(100))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_after_a_fork_a_client_says_that_it_can_not_be_used(client, tmp_path):
    future = client.submit(hold, str(tmp_path / "never"))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            future.result(5)
        except errors.TwistdistError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    assert b"forked" in os.read(read, 1000)
    os.close(read)


class Bomb:
    """Goes off when it is unpickled in the process with this number."""

    def __init__(self, pid):
        self.pid = pid

    def __reduce__(self):
        return defuse, (self.pid,)


def defuse(pid):
    return Bomb(pid if os.getpid() != pid else 1 // 0)


def test_a_value_that_can_not_be_loaded_here(client):
    with pytest.raises(errors.SerializationError, match="ZeroDivisionError"):
        client.submit(Bomb, os.getpid()).result(30)
