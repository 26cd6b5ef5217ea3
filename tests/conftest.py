"""What all tests share: a secret of their own, and a cluster to use."""

from __future__ import annotations

import atexit
import os
import pathlib
import shutil
import tempfile

import pytest

_folder = tempfile.mkdtemp(prefix="twistdist-test-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["TWISTDIST_SECRET_FILE"] = os.path.join(_folder, "secret")
os.environ.pop("TWISTDIST_SCHEDULER", None)
pathlib.Path(os.environ["TWISTDIST_SECRET_FILE"]).touch(mode=0o600)
pathlib.Path(os.environ["TWISTDIST_SECRET_FILE"]).write_text("a secret of the tests alone\n")

from twistdist.blocking import Client, LocalCluster  # noqa: E402

#: Folders of tests that start processes, or run thousands of schedules; the fast tier (``-m "not slow"``) leaves them out.
SLOW = ("integration", "browser", "network", "postgres", "sim", "fuzz")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def cluster():
    """Two workers of one slot, shared by the tests of a module."""
    with LocalCluster(n_workers=2) as running:
        yield running


@pytest.fixture
def client(cluster):
    with Client(cluster.address) as connected:
        connected.wait_for_workers(2, timeout=60)
        yield connected


@pytest.fixture(scope="module")
def single():
    with LocalCluster(n_workers=1) as running:
        yield running


@pytest.fixture
def one(single):
    with Client(single.address) as connected:
        connected.wait_for_workers(1, timeout=60)
        yield connected
