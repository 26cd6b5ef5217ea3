"""The store of result files: complete files or none, whatever happens in between."""

from __future__ import annotations

import errno
import os

import pytest

from twistdist.errors import ConfigError
from twistdist.storage import files
from twistdist.storage import store as module
from twistdist.storage.files import digest_of, file_path, read_file, write_file
from twistdist.storage.store import IncomingFile, Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOCK_TRIES", 1)
    made = Store(str(tmp_path / "store"), str(tmp_path / "spill"))
    yield made
    if os.path.exists(made.path):
        made.destroy()


def put(store, attempt, data=b"value", task=7):
    size, digest = write_file(store.path, task, attempt, [data])
    return module.Stored(task, attempt, size, digest)


@pytest.mark.parametrize("size", [0, 1, 63, 64 << 10, (64 << 10) + 1, 1_000_000])
def test_a_value_is_read_as_it_was_written(store, size):
    data = os.urandom(size)
    stored = put(store, 5, data)
    assert bytes(read_file(file_path(store.path, 5), 5)) == data
    assert (stored.size, stored.digest) == (size, digest_of(data))


def test_the_parts_of_a_value_are_one_file(store):
    parts = [b"a" * n for n in range(2000)]  # more than one call of writev takes
    write_file(store.path, 1, 2, parts)
    assert bytes(read_file(file_path(store.path, 2), 2)) == b"".join(parts)


def test_the_inventory_has_what_is_whole_and_removes_the_rest(store):
    good, cut, flipped = put(store, 1), put(store, 2, b"x" * 100), put(store, 3, b"y" * 100)
    os.truncate(file_path(store.path, cut.attempt), 120)
    _flip(file_path(store.path, flipped.attempt))
    with open(f"{store.path}/.4-half", "wb") as file:
        file.write(b"half")
    with open(f"{store.path}/notes.txt", "w") as file:
        file.write("not ours")
    found, wrong = store.take_inventory()
    assert found == [good] and wrong == ["2 is truncated", "3 does not match its digest"]
    assert sorted(os.listdir(store.path)) == [".lock", "1", "notes.txt"]


def test_a_file_that_is_cut_is_not_read(store):
    put(store, 1, b"x" * 1000)
    os.truncate(file_path(store.path, 1), 500)
    with pytest.raises((OSError, ValueError)):
        read_file(file_path(store.path, 1), 1)


def test_a_spilled_file_is_read_by_the_same_path_and_deleted_with_its_link(store):
    stored = put(store, 9, b"large" * 1000)
    done = []
    store.spill_all([9, 10], done)  # 10 is gone meanwhile
    assert done == [9] == store.spilled() and bytes(read_file(file_path(store.path, 9), 9)) == b"large" * 1000
    assert store.take_inventory()[0] == [stored]
    store.delete([9])
    assert not store.has(9) and os.listdir(store.spill_path) == []


def test_a_flipped_byte_of_a_spilled_file_is_noticed_when_it_is_read(store):
    put(store, 9, b"large" * 1000)
    store.spill(9)
    _flip(file_path(store.path, 9))
    with pytest.raises(ValueError, match="does not match its digest"):
        read_file(file_path(store.path, 9), 9)


def test_files_that_nobody_could_read_are_looked_at_by_their_digest(store):
    for attempt in (1, 2, 3):
        put(store, attempt, b"value" * 1000)
    store.spill(3)
    _flip(file_path(store.path, 2))
    _flip(file_path(store.path, 3))
    assert store.look_for([1, 2, 3, 4]) == ([2, 3, 4], ["2 does not match its digest", "3 does not match its digest"])
    assert store.has(1) and not store.has(2) and not store.has(3) and os.listdir(store.spill_path) == []


def _flip(path):
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")


def test_a_value_without_room_in_the_store_goes_to_the_spill_folder(store, monkeypatch):
    real = files._write_hidden

    def full(folder, *args):
        if folder == store.path:
            raise OSError(errno.ENOSPC, "full")
        return real(folder, *args)

    monkeypatch.setattr(files, "_write_hidden", full)
    os.makedirs(store.spill_path)
    write_file(store.path, 1, 3, [b"data"], store.spill_path)
    assert store.spilled() == [3] and bytes(read_file(file_path(store.path, 3), 3)) == b"data"
    with pytest.raises(OSError, match="full"):
        write_file(store.path, 1, 4, [b"data"])
    assert not store.has(4)


def test_a_file_of_another_store_is_linked_only_if_it_is_the_one_that_was_meant(store, tmp_path, monkeypatch):
    other = Store(str(tmp_path / "other"))
    theirs = put(other, 5, b"theirs")
    assert store.link(other.path, theirs) and bytes(read_file(file_path(store.path, 5), 5)) == b"theirs"
    assert not store.link(other.path, module.Stored(7, 5, theirs.size, b"another digest!!"))
    assert not store.link(other.path, module.Stored(7, 6, theirs.size, theirs.digest))
    assert [name for name in os.listdir(store.path) if name.startswith(".")] == [".lock"]
    other.destroy()


def test_the_store_of_a_dead_worker_is_taken_over_and_that_of_a_living_one_is_not(store, tmp_path):
    neighbour = Store(str(tmp_path / "neighbour"), str(tmp_path / "their-spill"))
    first, second = put(neighbour, 1), put(neighbour, 2, b"spilled" * 100)
    neighbour.spill(2)
    assert store.rescue(neighbour.path) == (False, [], [], [])
    neighbour.close()  # as its process does when it dies
    dead, found, spilled, wrong = store.rescue(neighbour.path)
    assert dead and sorted(found, key=lambda stored: stored.attempt) == [first, second] and spilled == [2] and not wrong
    assert bytes(read_file(file_path(store.path, 2), 2)) == b"spilled" * 100
    assert store.rescue(str(tmp_path / "nowhere")) == (False, [], [], [])


def test_a_folder_belongs_to_one_worker(store):
    with pytest.raises(ConfigError, match="has the same name"):
        Store(store.path)


def test_a_folder_that_can_not_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/store can't be used.*--store"):
        Store(str(tmp_path / "file" / "store"))


def test_a_destroyed_store_leaves_nothing_of_ours(store):
    put(store, 1)
    store.spill(1)
    with open(f"{store.path}/.2-half", "w"):
        pass
    store.destroy()
    assert not os.path.exists(store.path) and not os.path.exists(store.spill_path)


def test_a_file_that_comes_over_the_network_is_visible_when_it_is_whole(store):
    data = os.urandom(1000)
    stored = module.Stored(1, 6, len(data), digest_of(data))
    coming = IncomingFile(store, stored)
    coming.write(data[:400])
    assert coming.left == 600 and not store.has(6)
    coming.write(b"\0" * 600)
    assert not coming.finish() and not store.has(6)
    coming.start_over()
    coming.write(data)
    assert coming.finish() and bytes(read_file(file_path(store.path, 6), 6)) == data
    assert sorted(os.listdir(store.path)) == [".lock", "6"]


def test_a_transfer_that_failed_leaves_nothing(store):
    coming = IncomingFile(store, module.Stored(1, 6, 10, b"d" * 16))
    coming.write(b"12345")
    coming.discard()
    coming.discard()
    assert os.listdir(store.path) == [".lock"]
