"""The files of scattered data, with workers' links to them made and removed by hand."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile

import pytest
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from twistdist.net import supplier as module
from twistdist.net.supplier import LEAVE_S, Supplier
from twistdist.storage.files import described, is_memory
from twistdist.storage.spares import KEEP_S
from twistdist.storage.store import Store
from twistdist.wire import messages as m

SIZE = 2 << 20

pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE") or not is_memory("/dev/shm"), reason="needs leases")


class Fetcher:
    """Notes what is put."""

    def __init__(self):
        self.puts = []

    def put(self, address, put, stream):
        self.puts.append(put)
        return succeed(None)


@pytest.fixture
def folder(monkeypatch):
    made = tempfile.mkdtemp(dir="/dev/shm")
    monkeypatch.setattr(module, "default_store_root", lambda: made)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def supplier(folder):
    made = Supplier(Clock(), Fetcher(), "here", lambda *args: None)
    yield made
    made.close()
    assert os.listdir(folder) in ([], ["store"])


def spare(folder):
    return [path for path, _, names in os.walk(folder) if path.endswith(".spare") for _ in names]


def path_of(supplier, cid):
    return supplier._kept[cid].path


def test_a_file_that_nobody_has_is_written_again(supplier, folder):
    supplier.keep(1, [os.urandom(SIZE)])
    first = os.stat(path_of(supplier, 1)).st_ino
    supplier.forget([1])
    assert len(spare(folder)) == 1
    data = os.urandom(SIZE)
    supplier.keep(2, [data])
    assert os.stat(path_of(supplier, 2)).st_ino == first and spare(folder) == []
    with open(path_of(supplier, 2), "rb") as stream:
        assert stream.read()[64:] == data


def test_a_file_that_a_worker_has_is_left_for_a_moment(supplier, folder):
    clock = supplier._reactor
    store = Store(f"{folder}/store")
    for cid in (1, 2):
        supplier.keep(cid, [os.urandom(SIZE)])
        supplier.supply(m.Supply(cid, cid, cid, 1), m.Peer(1, "", "", "", ""))
        put = supplier._fetcher.puts.pop()
        assert store.take(put.path.rpartition("/")[0] + f"/{cid:x}", put.stored)
    supplier.forget([1, 2])
    assert spare(folder) == []
    store.spares.most = 0
    store.delete([1])
    clock.advance(LEAVE_S / 2)
    assert len(spare(folder)) == 1
    clock.advance(LEAVE_S)
    assert sorted(os.listdir(supplier._folder)) == [".lock", ".spare"]
    assert store.has(2) and not store.has(1)
    store.destroy()


def test_spare_files_are_removed_after_a_while(supplier, folder):
    clock = supplier._reactor
    supplier.keep(1, [os.urandom(SIZE)])
    supplier.forget([1])
    clock.advance(KEEP_S / 2)
    supplier.keep(2, [os.urandom(4 * SIZE)])
    supplier.forget([2])
    clock.advance(KEEP_S * 0.75)
    assert len(spare(folder)) == 2
    clock.advance(KEEP_S / 2)
    assert spare(folder) == [] and not clock.getDelayedCalls()


def test_data_that_get_another_attempt_do_not_change_under_a_worker_that_has_the_old_one(supplier, folder):
    store = Store(f"{folder}/store")
    supplier.keep(1, [os.urandom(SIZE)])
    peer = m.Peer(1, "", "", "", "")
    supplier.supply(m.Supply(1, 7, 7, 1), peer)
    first = supplier._fetcher.puts[0]
    assert store.take(path_of(supplier, 1), first.stored)
    supplier.supply(m.Supply(1, 7, 8, 1), peer)
    assert store.take_inventory() == ([first.stored], [])
    assert described(path_of(supplier, 1)) == supplier._fetcher.puts[1].stored
    store.destroy()
