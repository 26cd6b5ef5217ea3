"""What is done in executors before their first task: preloaded modules, and plugins."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from tests.integration import habits
from tests.integration.habits import Notes, seen, until
from tests.integration.test_twistd import fails, scheduler, shells
from twistdist import errors
from twistdist.blocking import Client, LocalCluster

__all__ = ["shells"]

SLOW_MODULE = """
import os, time
time.sleep(6)
PID = os.getpid()
"""


def preloaded():
    import sys

    module = sys.modules.get("preloaded_module")
    return os.getpid(), module and module.PID


def test_modules_are_imported_once_for_all_executors(tmp_path, monkeypatch):
    (tmp_path / "preloaded_module.py").write_text(SLOW_MODULE)  # slower than the patience with a template
    monkeypatch.syspath_prepend(str(tmp_path))
    with LocalCluster(n_workers=1, slots=2, preload="preloaded_module") as cluster, Client(cluster.address) as client:
        found = client.gather(client.map(lambda _: preloaded(), range(10)))
        (template,) = {module for _, module in found}
        assert template and template not in {executor for executor, _ in found}
        client.submit(os.kill, template, signal.SIGKILL).exception(60)
        habits.until(lambda: not os.path.exists(f"/proc/{template}"))  # its executors can serve until it has ended
        _, again = client.submit(preloaded).result(60)
        assert again and again != template


FICKLE_MODULE = """
import pathlib
if pathlib.Path({flag!r}).exists():
    raise RuntimeError("the licence server is down")
"""


def test_a_worker_whose_later_template_can_not_import_keeps_its_results_and_comes_back(tmp_path, monkeypatch):
    """Once it ended with status 1, and its results with it."""
    flag = tmp_path / "down"
    (tmp_path / "fickle_module.py").write_text(FICKLE_MODULE.format(flag=str(flag)))
    monkeypatch.syspath_prepend(str(tmp_path))
    with LocalCluster(n_workers=1, preload="fickle_module") as cluster, Client(cluster.address) as client:
        kept = client.submit(bytes, 1 << 20)
        assert client.submit(len, kept).result(60) == 1 << 20
        template, worker = client.submit(os.getppid).result(60), client.workers()["w0"].pid
        flag.touch()
        os.kill(template, signal.SIGKILL)
        until(lambda: client.workers()["w0"].state == "paused")
        trouble = client.workers()["w0"].troubles[-1]
        assert trouble.startswith("its executors do not start: --preload: fickle_module can't be imported: RuntimeError: the")
        waiting = client.submit(abs, -1)
        assert kept.result(60) == bytes(1 << 20)
        flag.unlink()
        assert waiting.result(60) == 1
        until(lambda: client.workers()["w0"].state == "connected")
        assert client.workers()["w0"].pid == worker


@pytest.mark.parametrize(
    "code, text",
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import os; os._exit(7)", "died: exit code 7"),
    ],
)
def test_a_module_that_can_not_be_imported_ends_the_worker_with_one_line(shells, tmp_path, code, text):
    _, address = scheduler(shells)
    (tmp_path / "broken.py").write_text(code)
    output = fails(shells, "twistdist-worker", address, "--name", "w", "--preload", "broken")
    (line,) = [line for line in output.splitlines() if line.startswith("twistdist: ")]
    assert line.startswith("twistdist: worker w can't start: --preload: ") and text in line
    with Client(address) as client:
        assert not client.workers(timeout=60)


def test_names_that_are_no_modules(shells):
    assert "--preload must be the name of a module" in fails(shells, "twistdist-worker", "127.0.0.1:1", "--preload", "a/b.py")
    with pytest.raises(ValueError, match="preload must be names of modules"):
        LocalCluster(n_workers=1, preload=["fine", "a-b"])


def all_seen(client, path, count=20):
    return client.gather(client.map(seen, [str(path)] * count))


def test_a_plugin_is_set_up_in_each_executor_before_its_first_task(tmp_path):
    path = tmp_path / "notes"
    with LocalCluster(n_workers=2, slots=2) as cluster, Client(cluster.address) as client:
        assert all_seen(client, path)[0][1:] == ([], None, None)
        assert client.register_plugin(Notes(path)) == "Notes"
        found = all_seen(client, path, 60)
        assert all(one[1:] == ([["setup", "1"]], 1, "yes") for one in found)
        assert len({one[0] for one in found}) <= 4  # neither its thread nor its child is taken for a task's
        assert client.run(seen, str(path))["w0"][2] == 1  # also beside the slots
        client.restart()
        assert all(one[1:] == ([["setup", "1"]], 1, "yes") for one in all_seen(client, path))
        cluster.scale(3)
        client.wait_for_workers(3)
        assert client.submit(seen, str(path), workers=["w2"]).result(60)[1:] == ([["setup", "1"]], 1, "yes")
        cluster.kill_scheduler()
        cluster.start_scheduler()
        client.wait_for_workers(3, timeout=60)
        cluster.kill_worker("w0")
        cluster.scale(4)
        assert client.submit(seen, str(path), workers=["w3"]).result(60)[1:] == ([["setup", "1"]], 1, "yes")
        assert client.submit(seen, str(path), workers=["w0"]).result(60)[1:] == ([["setup", "1"]], 1, "yes")
        client.register_plugin(Notes(path, 2))
        assert all(one[1:] == ([["setup", "2"]], 2, "yes") for one in all_seen(client, path))
        client.unregister_plugin("Notes")
        assert all(one[1:] == ([], None, None) for one in all_seen(client, path))
        with pytest.raises(errors.TwistdistError, match="no plugin is named 'Notes'; the plugins: none"):
            client.unregister_plugin("Notes")
        client.register_plugin(Notes(path, 3), name="last")
        survivors = {one[0] for one in all_seen(client, path, 100)}
        cluster_workers = list(cluster.workers.values())
    lines = [line.split(":") for line in habits.lines(path)]
    assert all(map(habits.gone, cluster_workers))
    done = {int(pid) for what, version, pid, _ in lines if what == "teardown" and version == "3"}
    assert survivors <= done  # also when the cluster ends


class Raises:
    def setup(self, worker):
        raise LookupError(f"no licence on {worker.name}")


class RaisesLater:
    """Works where it is tried out, and no more once the file exists."""

    def __init__(self, path):
        self.path = str(path)

    async def setup(self, worker):
        if os.path.exists(self.path):
            raise LookupError("no licence any more")


def test_a_plugin_that_can_not_be_set_up_is_not_kept(tmp_path):
    with LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        before = client.submit(os.getpid).result(60)
        with pytest.raises(LookupError, match="no licence on w0") as caught:
            client.register_plugin(Raises())
        assert caught.value.__twistdist__.worker == "w0"
        assert client.submit(os.getpid).result(60) == before
        with pytest.raises(errors.TwistdistError, match="the plugins: none"):
            client.unregister_plugin("Raises")


def test_a_plugin_that_fails_later_makes_its_worker_report_trouble_and_no_task_fail(tmp_path):
    path = tmp_path / "expired"
    with LocalCluster(n_workers=2) as cluster, Client(cluster.address) as client:
        client.register_plugin(RaisesLater(path), "licence")
        assert client.gather(client.map(abs, range(10))) == list(range(10))
        path.touch()
        cluster.kill_worker("w1")
        habits.until(
            lambda: "the setup of the plugin licence failed: LookupError: no licence any more" in str(client.incidents())
        )
        assert client.gather(client.map(abs, range(10))) == list(range(10))  # by w0
        habits.until(lambda: client.workers()["w1"].state == "paused")
        client.unregister_plugin("licence")
        assert client.submit(abs, -5, workers=["w1"]).result(60) == 5


def test_what_is_no_plugin(client):
    for wrong, text in (
        (object(), "has a method setup"),
        (Raises, "an object, got the class Raises; pass Raises()"),
        (type("NannyPlugin", (), {"setup": abs})(), "NannyPlugin of dask"),
    ):
        with pytest.raises(TypeError) as caught:
            client.register_plugin(wrong)
        assert text in str(caught.value)
    with pytest.raises(errors.SerializationError, match="can't be pickled"):
        client.register_plugin(Unpicklable())
    with pytest.raises(ValueError):
        client.register_plugin(Raises(), name="")


class Unpicklable:
    def __init__(self):
        self.lock = threading.Lock()

    def setup(self, worker):
        pass


def test_plugins_of_dask(one, tmp_path):
    diagnostics = pytest.importorskip("distributed.diagnostics.plugin")

    class Mine(diagnostics.WorkerPlugin):
        name = "mine"

        def setup(self, worker):
            os.environ["OF_DASK"] = worker.name

    assert one.register_plugin(Mine()) == "mine"
    assert one.submit(habits.variable, "OF_DASK").result(60) == "w0"
    one.unregister_plugin("mine")
    with pytest.raises(TypeError, match="SchedulerPlugin of dask"):
        one.register_plugin(type("Odd", (diagnostics.SchedulerPlugin,), {"setup": abs})())
