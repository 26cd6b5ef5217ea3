"""What goes to all workers: restart, upload_file, logs."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time

import pytest
import pytest_twisted
from twisted.internet import reactor

import twistdist
from tests.integration.habits import until
from twistdist import errors
from twistdist.blocking import Client


def shout(text):
    print(text)
    logging.getLogger("mine").warning("logged %s", text)
    print(f"{text} on standard error", file=sys.stderr)


def test_logs_show_what_tasks_print_and_log(client):
    client.run(shout, "hello")
    until(lambda: all("hello on standard error" in "\n".join(lines) for lines in client.logs().values()))
    told = client.logs()
    assert sorted(told) == ["w0", "w1"]
    text = "\n".join(told["w0"])
    assert "hello" in text and "logged hello" in text and any("T" in line[:25] for line in told["w0"])  # with times
    assert list(client.logs(workers="w1", n=1)) == ["w1"] and len(client.logs("w1", 1)["w1"]) == 1
    with pytest.raises(errors.TwistdistError, match="w9"):
        client.logs(["w9"])
    with pytest.raises(ValueError):
        client.logs(n=0)


def version():
    import uploaded_module

    return uploaded_module.VERSION


def slow_version(path):
    import uploaded_module

    open(path, "w").close()
    while not os.path.exists(f"{path}-go"):
        time.sleep(0.01)
    import uploaded_module as again

    return uploaded_module.VERSION, again.VERSION


def replace_worker(cluster, client, name):
    """Kill a worker, and wait until the cluster has started another one of its name."""
    pid = cluster.workers[name]
    cluster.kill_worker(name)
    until(lambda: cluster.workers.get(name, pid) != pid)
    until(lambda: (info := client.workers().get(name)) and info.pid == cluster.workers[name] and info.state == "connected")


def test_a_newer_upload_is_for_tasks_that_start_later(cluster, client, tmp_path):
    path = tmp_path / "uploaded_module.py"
    with pytest.raises(ModuleNotFoundError):
        client.submit(version).result(60)
    path.write_text("VERSION = 1")
    client.upload_file(path)
    assert client.gather(client.map(lambda _: version(), range(20))) == [1] * 20
    assert client.run(version) == {"w0": 1, "w1": 1}
    running = client.submit(slow_version, str(tmp_path / "began"))
    until((tmp_path / "began").exists)
    path.write_text("VERSION = 2")
    client.upload_file(str(path))
    later = client.map(lambda _: version(), range(20))
    (tmp_path / "began-go").touch()
    assert running.result(60) == (1, 1) and client.gather(later) == [2] * 20
    replace_worker(cluster, client, "w0")
    assert client.run(version) == {"w0": 2, "w1": 2}
    cluster.kill_scheduler()
    cluster.start_scheduler()
    client.wait_for_workers(2, 60)
    replace_worker(cluster, client, "w1")
    assert client.run(version) == {"w0": 2, "w1": 2}


def test_packages_and_wheels(client, tmp_path):
    package = tmp_path / "uploaded_package"
    package.mkdir()
    (package / "__init__.py").write_text("from uploaded_package.inner import NAME")
    (package / "inner.py").write_text("NAME = 'inner'")
    client.upload_file(package)

    def name():
        import uploaded_package

        return uploaded_package.NAME

    assert client.submit(name).result(60) == "inner"
    (tmp_path / "data.txt").write_text("")
    with pytest.raises(ValueError, match="upload_file takes"):
        client.upload_file(tmp_path / "data.txt")
    with pytest.raises(FileNotFoundError):
        client.upload_file(tmp_path / "nothing.py")


def hang(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(600)


def test_restart_drops_everything_and_frees_workers_that_hang(cluster, tmp_path):
    with Client(cluster) as client, Client(cluster, session="nightly") as other:
        client.wait_for_workers(2, 60)
        before = client.run(os.getppid)
        stored = other.submit(bytes, 100_000, key="kept")
        stored.result(60)
        other.publish_dataset("published", stored)
        hanging = [client.submit(hang, str(tmp_path / name), workers=[name]) for name in ("w0", "w1")]
        until(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in ("w0", "w1")))
        waiting = other.submit(abs, -1)
        client.restart(timeout=60)
        for future in [*hanging, waiting]:
            assert future.cancelled()
            with pytest.raises(errors.TaskCancelled, match="the cluster was restarted by client"):
                future.result(60)
        assert stored.cancelled() and other.futures() == {} and other.list_datasets() == []
        assert client.submit(abs, -2).result(60) == 2 and other.submit(abs, -3).result(60) == 3
        assert client.run(os.getppid) == before  # the template is the same, executors are not
        for name in ("w0", "w1"):
            with pytest.raises(ProcessLookupError):
                os.kill(int((tmp_path / name).read_text()), 0)
        assert any(incident.kind == "cluster restarted" for incident in client.incidents())
        other.end_session()


@pytest_twisted.ensureDeferred
async def test_in_the_deferred_api(cluster, tmp_path):
    client = await twistdist.connect(reactor, cluster)
    try:
        path = tmp_path / "uploaded_module.py"
        path.write_text("VERSION = 3")
        await client.upload_file(path)
        assert await client.submit(version).result() == 3
        assert set(await client.logs()) == {"w0", "w1"}
        future = client.submit(time.sleep, 600)
        await client.restart(60)
        assert future.cancelled()
        with pytest.raises(TypeError):
            await client.upload_file(7)
    finally:
        await client.close()
