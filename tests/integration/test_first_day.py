"""What people do on their first day with real processes: values that can be changed, callbacks, executors, cancelling."""

import collections
import concurrent.futures
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import twistdist
from tests.integration.habits import until
from twistdist import errors
from twistdist.blocking import Client, LocalCluster, fire_and_forget, wait


@pytest.fixture(scope="module")
def client():
    with Client(n_workers=2) as client:
        yield client


def add_one(array):
    array += 1
    return array.sum()


@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_that_come_back_can_be_written_to_and_nobody_else_sees_it(client, size):
    future = client.submit(np.zeros, size)
    future.result()[:] = 7
    assert [client.submit(add_one, future).result(60) for _ in range(2)] == [size, size]
    one, other = client.gather([future, future])
    one += 1
    assert not other.any() and not future.result().any()
    scattered = client.scatter(np.zeros(size))
    assert client.submit(add_one, scattered).result(60) == size


@pytest.mark.parametrize("size", [10, 5000])
def test_in_a_callback_everything_may_block(client, size):
    seen = concurrent.futures.Future()

    def call_back(future):
        value, error = future.result(), future.exception()
        seen.set_result((len(value), error, client.submit(abs, -5).result(), client.map(abs, [-1])[0].result()))

    client.submit(bytes, size).add_done_callback(call_back)
    assert seen.result(60) == (size, None, 5, 1)


def wait_at(gate):
    with open(gate) as stream:
        return stream.read()


def test_callbacks_come_in_their_order_and_at_once_when_it_is_over(client, tmp_path):
    order, all_called, gate = [], threading.Event(), tmp_path / "gate"
    os.mkfifo(gate)
    future = client.submit(wait_at, gate)
    for number in range(5):
        future.add_done_callback(lambda _, number=number: order.append(number))
    future.add_done_callback(lambda _: all_called.set())
    gate.write_text("open")  # what is added after the end is called at once, by whoever adds it
    assert all_called.wait(60) and order == [0, 1, 2, 3, 4]
    future.add_done_callback(lambda _: order.append(threading.current_thread()))
    assert order[-1] is threading.current_thread()


def test_a_callback_that_raises_is_told_of_and_harms_nobody(client, caplog):
    future = client.submit(abs, -1)
    future.result(60)
    future.add_done_callback(lambda _: 1 / 0)
    assert "ZeroDivisionError" in caplog.text


def test_gather_takes_any_iterable(client):
    one, two = client.map(abs, [-1, -2])
    named = {"a": one, "b": two}
    assert client.gather(named.values()) == [1, 2] == client.gather(collections.deque([one, two]))
    array = np.empty(2, dtype=object)
    array[:] = one, two
    assert client.gather(array) == [1, 2] == client.gather(future for future in (one, two))
    gathered = client.gather(collections.defaultdict(list, a=[one], b=(two,)))
    assert gathered == {"a": [1], "b": (2,)} and gathered.default_factory is list
    with pytest.raises(TypeError, match="3"):
        client.gather([one, 3])


def test_keywords_of_an_executor_s_submit_are_the_function_s(client):
    def train(x, retries=0, key=None):
        return x, retries, key

    executor = client.executor(retries=2)
    assert executor.submit(train, 1, retries=3, key="k-").result(60) == (1, 3, "k-")
    assert executor.submit(sorted, [1, -2], key=abs).result(60) == [1, -2]
    assert list(executor.map(abs, [-1, -2])) == [1, 2]
    with pytest.raises(TypeError, match="max_workers"):
        client.executor(max_workers=3)


def test_shutdown_of_an_executor_cancels_what_waits_and_lets_run_what_runs(client):
    executor = client.executor()  # as CPython's test_cancel_futures
    futures = [executor.submit(time.sleep, 0.1) for _ in range(50)]
    executor.shutdown(cancel_futures=True)
    cancelled = [future for future in futures if future.cancelled()]
    others = [future for future in futures if not future.cancelled()]
    assert len(cancelled) > 20 and others
    assert all(future.done() and future.exception() is None for future in others)


def test_what_depends_on_a_cancelled_task_is_cancelled_with_it(client):
    running = client.submit(time.sleep, 600)
    dependent = client.submit(abs, client.submit(abs, running))
    client.cancel([running])
    with pytest.raises(errors.TaskCancelled, match=f"with its input {running.key}"):
        dependent.result(60)
    assert client.submit(abs, -1).result(60) == 1


@pytest.mark.parametrize("timeout", [float("inf"), np.float32(60), 60])
def test_timeouts_of_every_kind(client, timeout):
    assert client.submit(abs, -1).result(timeout) == 1
    assert client.status(timeout=timeout)


def test_numpy_values_as_keys_names_and_numbers(client):
    names = np.array(["first", "second"])
    assert client.gather(client.map(abs, [-1, -2], key=names, workers=np.str_("w0"), retries=np.int64(1))) == [1, 2]
    future = client.submit(abs, -3, key=np.str_("third"), time_limit=np.timedelta64(60, "s"))
    assert future.result(60) == 3 and type(future.key) is str and client.why(np.str_("third"))
    assert client.has_what([np.str_("w0")]).keys() == {"w0"}
    with pytest.raises(TypeError, match="who_has"):
        client._session._query("who_has", object())
    assert client.submit(abs, -4).result(60) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_child_nothing_hangs(client):
    future = client.submit(time.sleep, 0.5)
    calls = [
        lambda: wait([future]),
        lambda: next(concurrent.futures.as_completed([future])),
        lambda: future.add_done_callback(print),
        future.result,
        lambda: client.submit(abs, 1),
    ]
    pid = os.fork()
    if not pid:
        refused = 0
        for call in calls:
            try:
                call()
            except errors.TwistdistError:
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == len(calls)


@pytest.mark.parametrize("journal", ["none", None])
def test_a_client_that_was_closed_is_gone(journal):
    script = (
        "import sys, twistdist\nfrom twisted.internet import defer, task\n"
        "@defer.inlineCallbacks\n"
        "def main(reactor):\n"
        "    client = yield twistdist.connect(reactor, sys.argv[1])\n"
        "    yield client.submit(abs, -1).result()\n"
        "    yield client.close()\n"
        "task.react(main)"
    )
    with LocalCluster(n_workers=1, journal=journal) as cluster:
        for _ in range(3):  # nothing comes behind close() that could hide that it was not delivered
            subprocess.run([sys.executable, "-c", script, cluster.address], check=True, timeout=60)
            with Client(cluster.address) as client:
                client.submit(abs, -1).result(60)
        with Client(cluster.address) as client:
            sessions = client.status()["sessions"]
            assert (sessions["connected"], sessions["away"]) == (1, 0)


def first_and_length(data, number=0):
    return float(data[0]) + number, len(data)


def test_large_arguments_travel_as_data_and_once_for_many_tasks():
    with LocalCluster(n_workers=2) as cluster, Client(cluster.address) as client:
        array = np.ones(8 << 20)  # 64 MiB
        function = first_and_length
        futures = [client.submit(function, array, number=n) for n in range(8)]
        assert client.gather(futures) == [(1.0 + n, len(array)) for n in range(8)]
        data = [key for keys in client.has_what().values() for key in keys]
        assert len(set(data)) == 1 and data[0].startswith("data-")
        with open(f"/proc/{cluster.scheduler}/statm") as stream:
            assert int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") < 150 << 20
        array[0] = 5  # another content
        assert client.submit(function, array).result(60) == (5.0, len(array))
        executor = client.executor()
        large = [b"x" * (20 << 20), list(range(1_000_000)), "y" * 100_000]
        assert list(executor.map(len, large)) == [20 << 20, 1_000_000, 100_000]
        for name in cluster.workers:
            cluster.kill_worker(name, wipe=True)
        assert client.submit(function, array, 1).result(60) == (6.0, len(array)), "they are brought again"


def test_a_large_argument_with_a_future_in_it_says_what_to_do(client):
    future = client.submit(abs, -1)
    with pytest.raises(errors.SerializationError, match=r"scatter\(\)"):
        client.submit(len, [future, b"x" * (20 << 20)])
    assert client.submit(lambda pair: (pair[0], len(pair[1])), [future, b"x" * (1 << 20)]).result(60) == (1, 1 << 20)


class ExitsAtHome:
    """What a task gives, and its client can't load."""

    def __init__(self, home, act):
        self.home, self.act = home, act

    def __reduce__(self):
        return exit_at_home, (self.home, self.act)


def exit_at_home(home, act):
    if os.getpid() == home:
        act()
    return ExitsAtHome(home, act)


class ErrorThatExits(Exception):
    def __reduce__(self):
        return exit_at_home, (self.args[0], sys.exit)


def where_loaded():
    if threading.current_thread().name == "twistdist":
        raise SystemError("in the reactor's thread")
    return ErrorLoaded("here")


class ErrorLoaded(Exception):
    def __reduce__(self):
        return where_loaded, ()


def raise_error(kind, *args):
    raise kind(*args)


def test_a_value_that_exits_where_it_is_loaded_ends_no_client(client):
    future = client.submit(ExitsAtHome, os.getpid(), sys.exit)
    with pytest.raises(errors.SerializationError, match="SystemExit"):
        future.result(60)
    with pytest.raises(errors.SerializationError, match="SystemExit"):
        client.gather([future], timeout=60)


def test_the_error_that_ends_a_gather_is_loaded_in_the_callers_thread(client):
    with pytest.raises(ErrorLoaded, match="here"):
        client.gather([client.submit(abs, -1), client.submit(raise_error, ErrorLoaded)], timeout=60)


def test_a_callback_that_exits_takes_no_other_with_it(client):
    seen = concurrent.futures.Future()
    future = client.submit(time.sleep, 0.2)
    future.add_done_callback(lambda _: sys.exit(3))
    future.add_done_callback(lambda _: raise_error(GeneratorExit))
    future.add_done_callback(seen.set_result)
    assert seen.result(60) is future


def test_a_generator_of_futures_may_ask_the_client(client):
    data = client.submit(bytes, 100_000)
    data.result(60)
    client.cancel(one for one in [data] if one.result(60))
    client.replicate((one for one in [data] if len(one.result(60)) == 100_000), 1, timeout=60)
    assert client.who_has(one for one in [data] if one.result(60)).keys() == {data.key}


def test_one_key_or_future_may_stand_alone(client):
    future = client.submit(abs, -1, key="stands-alone")
    future.result(60)
    assert client.who_has(future).keys() == client.who_has("stands-alone").keys() == {"stands-alone"}
    (taken,) = client.take_up("stands-alone")
    assert taken.result(60) == 1
    with pytest.raises(TypeError, match="expected a list of keys or futures"):
        client.take_up(5)


@pytest.mark.parametrize("wrong", ["2", None, 1.5, [2], np.arange(3)])
def test_waiting_for_what_is_no_number_of_workers_is_refused_at_once(client, wrong):
    with pytest.raises(TypeError, match="n must be an integer"):
        client.wait_for_workers(wrong)


@pytest.mark.parametrize("timeout", ["1", float("nan"), [1]])
def test_a_timeout_that_is_no_time_is_refused_at_once(client, timeout):
    for call in (lambda: client.wait_for_workers(1, timeout=timeout), lambda: Client(client.address, timeout=timeout)):
        with pytest.raises((TypeError, ValueError), match="timeout"):
            call()
    with pytest.raises(TimeoutError):
        client.wait_for_workers(1_000, timeout=-1)


def test_scatter_takes_truth_values_of_every_kind(client):
    future = client.scatter(1, resupply=np.bytes_(b"x"), hash=np.True_, broadcast=np.False_, timeout=60)
    assert future.result(60) == 1
    with pytest.raises(TypeError, match="broadcast must be True or False"):
        client.scatter(1, broadcast=np.arange(3))


def test_nobody_but_the_cluster_sets_its_futures(client):
    future = client.submit(time.sleep, 0.2)
    error = ValueError()
    for setting in (lambda: future.set_result(1), lambda: future.set_exception(error), future.set_running_or_notify_cancel):
        with pytest.raises(concurrent.futures.InvalidStateError, match="is set by the cluster"):
            setting()
    assert future.result(60) is None


@pytest.mark.parametrize("api", ["blocking", "Deferred"])
def test_a_client_or_cluster_in_a_task_says_what_to_use(client, api):
    one = client if api == "blocking" else client._session
    cluster = client._cluster if api == "blocking" else client._cluster._service
    for captured in (one, cluster):
        for call in (
            lambda captured=captured: client.submit(lambda: captured),
            lambda captured=captured: client.submit(len, [captured]),
            lambda captured=captured: client.map(len, [[captured]]),
        ):
            with pytest.raises(errors.SerializationError, match=r"can't be pickled.*twistdist\.blocking\.current_client\(\)"):
                call()
        with pytest.raises(TypeError, match=r"current_client\(\)"):
            pickle.dumps(captured)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("127.0.0.1:8786",), {}),
        (("127.0.0.1:8786",), {"session": "nightly"}),
        ((), {"n_workers": 2}),
        ((None, "127.0.0.1:8786"), {}),
    ],
)
def test_the_client_of_the_other_api_made_by_hand_says_how_to_get_one(arguments, options):
    with pytest.raises(TypeError, match=r"twistdist\.blocking\.Client\(address\).*twistdist\.connect\(reactor, address\)"):
        twistdist.Client(*arguments, **options)


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [("actor", "no actors"), ("batch_size", "map sends"), ("timeout", "time_limit="), ("num_gpus", "resources=")],
)
def test_task_options_of_other_frameworks_get_a_hint(client, keyword, hint):
    def double(x):
        return 2 * x

    for submit in (client.submit, client._session.submit):
        with pytest.raises(TypeError, match=f"{keyword} is not an option here: .*{hint}.*double has no such parameter"):
            submit(double, 1, **{keyword: True})
    with pytest.raises(TypeError, match=f"{keyword} is not an option here: .*{hint}"):
        client.map(double, [1], **{keyword: True})


def test_a_keyword_that_the_function_takes_is_its_own(client):
    def wait(x, timeout=1, **others):
        return x, timeout, others

    assert client.submit(wait, 1, timeout=5, actor=True).result(60) == (1, 5, {"actor": True})
    assert client.submit(dict, timeout=5).result(60) == {"timeout": 5}  # a builtin without a signature
    assert client.executor().submit(dict, batch_size=5).result(60) == {"batch_size": 5}


def test_a_closure_over_large_data_says_what_works_and_it_does(client):
    data = b"x" * (17 << 20)
    with pytest.raises(errors.SerializationError, match="as an argument, which may have any size"):
        client.submit(lambda: len(data))
    assert client.submit(lambda given: len(given), data).result(60) == len(data)


def test_a_future_that_nobody_here_can_compute_says_so(client):
    future = client.submit(abs, -1, resources={"GPU": 1})
    until(lambda: repr(future).endswith(" has no resources>"))
    assert "it needs GPU=1" in client.why(future).lacks
    assert any(one.kind == "tasks wait" and "GPU=1" in one.cause for one in client.incidents())
    assert future.cancel() and repr(future).endswith(": cancelled>")


def test_fire_and_forget_as_a_function(client, tmp_path):
    def touch(name):
        (tmp_path / name).touch()

    fire_and_forget([client.submit(touch, "a"), client.submit(touch, "b")])
    until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
    with pytest.raises(TypeError):
        fire_and_forget([1])


def test_words_that_are_almost_options_are_refused_at_the_call(client):
    with pytest.raises(TypeError, match="did you mean retries"):
        client.submit(abs, 1, retry=3)
    with pytest.raises(TypeError, match="there is no option retrys, did you mean retries"):
        client.executor(retrys=3)
    assert client.submit(lambda retry: retry, retry=3).result(60) == 3


def test_what_can_not_run_says_so_where_somebody_waits():
    with LocalCluster(n_workers=0) as cluster, Client(cluster) as alone:
        with pytest.raises(errors.NoValidWorker, match="no worker is connected"):
            alone.run(abs, 1)
        future = alone.submit(abs, 1)
        said = ""
        while "no worker" not in said:
            with pytest.raises(concurrent.futures.TimeoutError) as caught:
                future.result(0.2)
            said = str(caught.value)


def test_arguments_that_can_not_travel_say_what_to_pass_instead(client):
    with pytest.raises(errors.SerializationError, match="pass a list of what it yields"):
        client.submit(sum, (n for n in range(3)))
    with concurrent.futures.ThreadPoolExecutor(1) as pool, pytest.raises(errors.SerializationError, match="pass its result"):
        client.submit(abs, pool.submit(abs, 1))
    with pytest.raises(TypeError, match="1 is not a Future"):
        client.gather([1, client.submit(abs, 1)])
