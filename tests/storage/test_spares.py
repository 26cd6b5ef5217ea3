"""Spare files: written again only when nobody can see that."""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
import threading

import pytest

from twistdist.storage import spares
from twistdist.storage.files import described, digest_of, file_path, is_memory, read_file, write_file
from twistdist.storage.store import IncomingFile, Store
from twistdist.wire.messages import Stored

SIZE = 2 << 20

pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE") or not is_memory("/dev/shm"), reason="needs leases")


@pytest.fixture
def folder():
    made = tempfile.mkdtemp(dir="/dev/shm")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def store(folder):
    made = Store(f"{folder}/store", f"{folder}/spill")
    yield made
    if os.path.exists(made.path):
        made.destroy()


def put(store, attempt, data=None):
    data = os.urandom(SIZE) if data is None else data
    size, digest = write_file(store.path, 1, attempt, [data])
    return Stored(1, attempt, size, digest), data


def inode(store, attempt):
    return os.stat(file_path(store.path, attempt)).st_ino


def kept(store):
    return os.listdir(f"{store.path}/.spare") if os.path.exists(f"{store.path}/.spare") else []


@pytest.mark.parametrize("size", [SIZE, SIZE - 1000, SIZE + 1000, SIZE // 2 + 64, 2 * SIZE])
def test_a_freed_file_is_written_again(store, size):
    put(store, 1)
    first = inode(store, 1)
    store.delete([1])
    assert not store.has(1) and len(kept(store)) == 1
    stored, data = put(store, 2, os.urandom(size))
    assert inode(store, 2) == first and kept(store) == []
    assert bytes(read_file(file_path(store.path, 2), 2)) == data
    assert store.take_inventory() == ([stored], [])


@pytest.mark.parametrize("size", [1000, SIZE // 2 - 100, 2 * SIZE + 100])
def test_a_value_of_another_size_gets_a_file_of_its_own(store, size):
    put(store, 1)
    store.delete([1])
    _, data = put(store, 2, os.urandom(size))
    assert len(kept(store)) == 1 and bytes(read_file(file_path(store.path, 2), 2)) == data


def hold_open(path):
    stream = open(path, "rb")  # noqa: SIM115  closed by the test
    return stream.close, lambda: stream.read()[64:]


def hold_map(path):
    view = read_file(path, 1)
    return view.release, lambda: bytes(view)


def hold_shared_map(path):
    with open(path, "rb") as stream:
        view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return view.close, lambda: view[64:]


def hold_link(path):
    other = path.partition("/store/")[0] + "/other"
    os.link(path, other)

    def read():
        with open(other, "rb") as stream:
            return stream.read()[64:]

    return lambda: os.unlink(other), read


@pytest.mark.parametrize("hold", [hold_open, hold_map, hold_shared_map, hold_link])
@pytest.mark.parametrize("aside", [False, True])
def test_a_file_that_somebody_has_is_not_written_again(store, hold, aside):
    """Held before the file is set aside or, as by somebody who opened it in the same moment, only after that."""
    _, data = put(store, 1)
    if aside:
        store.delete([1])
        (name,) = kept(store)
        release, read = hold(f"{store.path}/.spare/{name}")
    else:
        release, read = hold(file_path(store.path, 1))
        store.delete([1])
        assert kept(store) == []
    _, other = put(store, 2)
    assert read() == data and bytes(read_file(file_path(store.path, 2), 2)) == other
    release()


def test_a_map_that_only_another_process_has_left_counts(store):
    _, data = put(store, 1)
    view = read_file(file_path(store.path, 1), 1)
    ask, told = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.read(ask[0], 1)
        os.write(told[1], b"same" if bytes(view) == data else b"changed")
        os._exit(0)
    del view
    store.delete([1])
    put(store, 2)
    os.write(ask[1], b"x")
    assert os.read(told[0], 10) == b"same"
    os.waitpid(child, 0)
    for end in (*ask, *told):
        os.close(end)


def test_who_looked_a_file_up_before_it_was_set_aside_and_opens_it_later_does_not_take_it_for_the_old_one(store):
    old, _ = put(store, 1)
    store.delete([1])
    (name,) = kept(store)
    looked_up = os.open(f"{store.path}/.spare/{name}", os.O_PATH)
    late = f"/proc/self/fd/{looked_up}"
    descriptor = spares.claim(store.path, SIZE + 64, f"{store.path}/.2")
    with pytest.raises(ValueError, match="not a result file"):
        read_file(late, 1)
    os.close(descriptor)
    os.unlink(f"{store.path}/.2")
    os.close(looked_up)
    put(store, 3)
    store.delete([3])
    (name,) = kept(store)
    looked_up = os.open(f"{store.path}/.spare/{name}", os.O_PATH)
    put(store, 4)
    with pytest.raises(ValueError, match="another attempt"):
        read_file(f"/proc/self/fd/{looked_up}", 3)
    os.close(looked_up)
    assert described(file_path(store.path, 4)) != old


def test_a_file_that_is_linked_in_the_last_moment_stays_as_it_was(store, folder, monkeypatch):
    """The link is made when the lease has been granted: the kernel does not refuse that."""
    stored, data = put(store, 1)
    store.delete([1])
    real, other = spares._lease, Store(f"{folder}/other", f"{folder}/other-spill")

    def lease(descriptor):
        real(descriptor)
        os.link(f"{store.path}/.2", file_path(other.path, 1))

    monkeypatch.setattr(spares, "_lease", lease)
    _, second = put(store, 2)
    assert bytes(read_file(file_path(other.path, 1), 1)) == data and other.take_inventory() == ([stored], [])
    assert bytes(read_file(file_path(store.path, 2), 2)) == second
    other.destroy()


def test_a_file_that_is_set_aside_while_it_is_linked_is_not_taken_for_the_value(store, folder, monkeypatch):
    stored, _ = put(store, 1)
    other = Store(f"{folder}/other", f"{folder}/other-spill")
    real = os.link

    def link(source, target):
        real(source, target)
        with open(target, "r+b") as stream:  # what another process that took it over just before has done
            stream.write(bytes(8))

    monkeypatch.setattr(os, "link", link)
    assert not other.link(store.path, stored) and os.listdir(other.path) == [".lock"]
    other.destroy()


def test_several_processes_never_get_the_same_file(store):
    for attempt in range(20):
        put(store, attempt)
    store.delete(range(20))
    wrong = []

    def write(number):
        for attempt in range(number * 100, number * 100 + 10):
            data = os.urandom(SIZE)
            write_file(store.path, 1, attempt, [data])
            if bytes(read_file(file_path(store.path, attempt), attempt)) != data:
                wrong.append(attempt)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found, damaged = store.take_inventory()
    assert (wrong, damaged, len(found)) == ([], [], 40)


def test_the_number_and_the_bytes_are_bounded(store, monkeypatch):
    store.spares.most = 3 * SIZE
    for attempt in range(6):
        put(store, attempt)
    store.delete(range(6))
    assert len(kept(store)) == 2 and store.spares.size() == 2 * (SIZE + 64)
    monkeypatch.setattr(spares, "MAX_FILES", 1)
    put(store, 7)
    put(store, 8)
    store.delete([7, 8])
    assert len(kept(store)) == 1
    store.spares.drop()
    assert kept(store) == [] and store.spares.size() == 0


def test_nothing_is_kept_when_the_machine_is_short_of_memory(store, monkeypatch):
    monkeypatch.setattr(spares, "_RESERVE", 1 << 40)
    put(store, 1)
    store.delete([1])
    assert kept(store) == []


def test_nothing_is_kept_without_leases(store, monkeypatch):
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    put(store, 1)
    store.delete([1])
    assert kept(store) == [] and not store.has(1)


def test_spare_files_make_room_for_a_value(store, monkeypatch):
    put(store, 1)
    store.delete([1])
    from twistdist.storage import files

    real = files.write_all

    def full(descriptor, parts):
        if kept(store):
            raise OSError(28, "full")
        real(descriptor, parts)

    monkeypatch.setattr(files, "write_all", full)
    _, data = put(store, 2, os.urandom(4 * SIZE))
    assert bytes(read_file(file_path(store.path, 2), 2)) == data


def test_a_file_from_the_network_is_written_over_a_spare_one(store):
    put(store, 1)
    first = inode(store, 1)
    store.delete([1])
    data = os.urandom(SIZE - 5)
    stored = Stored(1, 2, len(data), digest_of(data))
    sink = IncomingFile(store, stored)
    sink.write(data[:1000])
    sink.start_over()
    sink.write(data)
    assert sink.finish() and inode(store, 2) == first
    assert bytes(read_file(file_path(store.path, 2), 2)) == data and store.take_inventory() == ([stored], [])


def test_a_store_that_is_taken_over_or_removed_leaves_no_spare_files(store, folder):
    put(store, 1)
    store.delete([1])
    assert store.take_inventory() == ([], []) and kept(store) == []
    put(store, 2)
    store.delete([2])
    store.destroy()
    assert os.listdir(folder) == []
