"""A scheduler of one version works with workers and clients of the version before and after: with copies of the package whose
messages have grown as docs/wire.rst allows."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import sys

import pytest

import twistdist
from tests.integration.habits import note
from tests.integration.test_twistd import Shell
from twistdist.blocking import Client
from twistdist.errors import VersionMismatch

pytestmark = pytest.mark.slow

#: Messages that get one more field in the next version: those that every task needs, and greetings.
GROWN = ("HelloWorker", "Ready", "Beat", "Compute", "Done", "Have", "Fetch", "Data", "Free", "Left")


def later(folder, version, oldest, grown=GROWN):
    """A copy of this package that is a later version of it."""
    shutil.copytree(pathlib.Path(twistdist.__file__).parent, folder / "twistdist", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "twistdist" / "wire" / "messages.py"
    text = file.read_text()
    text, found = re.subn(r"VERSION = 1, 1\n", f"VERSION = {version}, {oldest}\n", text)
    assert found == 1
    for name in grown:
        text, found = re.subn(rf"(\nclass {name}\(.*?\n)(\n\n)", r"\1    grown: int = 7\n\2", text, count=1, flags=re.DOTALL)
        assert found == 1, name
    file.write_text(text)
    return str(folder)


NOW = str(pathlib.Path(twistdist.__file__).parents[1])


@pytest.fixture(scope="module")
def next_version(tmp_path_factory):
    return later(tmp_path_factory.mktemp("next"), 2, 1)


@pytest.fixture
def run(tmp_path):
    """Start a role of the package in a folder, and wait until it is ready."""
    with contextlib.ExitStack() as stack:

        def run(package, role, *options, ready="ready at"):
            command = ("env", f"PYTHONPATH={package}{os.pathsep}{NOW}", sys.executable, "-m", "twistdist.tap", role, *options)
            shell = Shell(tmp_path, *map(str, command))
            stack.callback(shell.end, None)
            stack.callback(shell.process.kill)
            shell.wait_for(ready)
            return shell

        yield run


def scheduler(run, package, folder):
    return run(package, "scheduler", "--listen", f"unix:{folder}/socket", "--journal", folder / "journal")


def worker(run, package, folder, name):
    place = ("--name", name, "--slots", "1", "--store", folder / name)
    return run(package, "worker", f"unix:{folder}/socket", *place)


def step(path, i, *before):
    note(path, i)
    return bytes([i % 256]) * 100_000


def version_of_the_worker():
    from twistdist.wire.messages import PROTOCOL_VERSION

    return PROTOCOL_VERSION


def work(client, path):
    """Tasks with inputs from each worker, and the data of a client."""
    data = client.scatter(b"x" * 100_000)
    first = [client.submit(step, path, i, data, workers=["ab"[i % 2]]) for i in range(20)]
    return [client.submit(step, path, 100 + i, *first[i : i + 2], workers=["ab"[i % 2]]) for i in range(19)]


@pytest.mark.parametrize("order", ["scheduler first", "workers first"])
def test_a_rolling_upgrade(run, next_version, tmp_path, order):
    """Both orders, though docs/operations.rst says which one is meant."""
    log = str(tmp_path / "ran")
    hub = scheduler(run, NOW, tmp_path)
    shells = {name: worker(run, NOW, tmp_path, name) for name in "ab"}
    with Client(f"unix:{tmp_path}/socket") as client:
        futures = work(client, log)
        steps = [("hub",), ("a", "b")]
        for names in steps if order == "scheduler first" else steps[::-1]:
            for name in names:
                if name == "hub":
                    hub.end(signal.SIGKILL)
                    hub = scheduler(run, next_version, tmp_path)
                else:
                    shells[name].end(signal.SIGKILL)  # its successor takes its store over
                    shells[name] = worker(run, next_version, tmp_path, name)
                futures += work(client, log)
        values = client.gather(futures, timeout=120)
        assert values == [bytes([100 + i % 19]) * 100_000 for i in range(len(futures))]
        assert client.run(version_of_the_worker) == {"a": 2, "b": 2}
        assert client.workers()["a"].state == "connected"


def test_what_is_two_releases_old_is_refused(run, tmp_path):
    package = later(tmp_path / "package", 3, 2)
    scheduler(run, package, tmp_path)
    with pytest.raises(VersionMismatch, match="a later twistdist here"):
        Client(f"unix:{tmp_path}/socket")
    refused = run(NOW, "worker", f"unix:{tmp_path}/socket", "--store", tmp_path / "store", ready="a later twistdist here")
    assert refused.end(None) == 1
