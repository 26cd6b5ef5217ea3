"""The journal on disk: what is written is there, whatever the end of the file looks like."""

from __future__ import annotations

import random
import shutil

import pytest

from twistdist.errors import JournalError
from twistdist.storage.sqlite import SqliteJournal, read_journal
from twistdist.wire import journal_rows as j


def rows_of(path):
    journal = SqliteJournal(str(path))
    journal.open()
    try:
        return {key: body for key, body in journal.load() if key[0] != j.META}
    finally:
        journal.close()


@pytest.fixture
def written(tmp_path):
    """A journal with many transactions, none of them in the main file; (path, [(bytes of the log then, rows then), …])."""
    dice, path = random.Random(3), tmp_path / "journal"
    journal = SqliteJournal(str(path))
    journal.open()
    journal._database.execute("PRAGMA wal_autocheckpoint=0")
    rows, states = {}, []
    for _ in range(40):
        changes = {}
        for _ in range(dice.randint(1, 6)):
            key = (j.OUTCOMES, dice.randint(1, 30))
            changes[key] = dice.randbytes(dice.choice((10, 300, 9000))) if dice.random() < 0.8 else None
        journal.write(changes)
        rows = {key: body for key, body in {**rows, **changes}.items() if body is not None}
        states.append(((tmp_path / "journal-wal").stat().st_size, rows))
    for name in ("journal", "journal-wal"):  # as a copy of the disk at this moment
        shutil.copy(tmp_path / name, tmp_path / f"copy-{name}")
    journal.close()
    return tmp_path, states


def cut(folder, size):
    for name in ("journal", "journal-wal"):
        shutil.copy(folder / f"copy-{name}", folder / f"cut-{name.removeprefix('journal')}")
    with open(folder / "cut--wal", "r+b") as stream:
        stream.truncate(size)
    shutil.move(folder / "cut--wal", folder / "cut-wal")
    shutil.move(folder / "cut-", folder / "cut")
    for name in ("cut.lock", "cut-shm"):
        (folder / name).unlink(missing_ok=True)
    return folder / "cut"


def test_cut_at_every_record_and_at_random_bytes_everything_acknowledged_is_there(written):
    folder, states = written
    dice = random.Random(4)
    sizes = [size for size, _ in states]
    places = {*sizes, *[size - 1 for size in sizes], *[dice.randrange(sizes[0], sizes[-1] + 1) for _ in range(80)]}
    for place in sorted(places):
        if place < sizes[0]:
            continue
        acknowledged = [rows for size, rows in states if size <= place][-1]
        assert rows_of(cut(folder, place)) == acknowledged, f"cut at {place}"


def test_a_torn_write_at_the_end_takes_nothing_else_with_it(written):
    folder, states = written
    dice = random.Random(5)
    for _ in range(30):
        path = cut(folder, states[-1][0])
        start = states[-2][0]
        with open(folder / "cut-wal", "r+b") as stream:
            stream.seek(dice.randrange(start, states[-1][0]))
            old = stream.read(1)
            stream.seek(-1, 1)
            stream.write(bytes([old[0] ^ dice.randrange(1, 256)]))
        assert rows_of(path) in (states[-2][1], states[-1][1])


def test_a_damaged_main_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal"
    journal = SqliteJournal(str(path))
    journal.open()
    journal.write({(j.OUTCOMES, n): bytes(5000) for n in range(200)})
    journal.close()
    with open(path, "r+b") as stream:
        stream.seek(40_000)
        stream.write(b"\xff" * 40_000)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="damaged"):
        SqliteJournal(str(path)).open()
    assert path.read_bytes() == before


def test_each_life_has_an_epoch_of_its_own_and_one_holder(tmp_path):
    journal = SqliteJournal(str(tmp_path / "journal"))
    first = journal.open()
    with pytest.raises(JournalError, match="is held by the scheduler with pid"):
        SqliteJournal(str(tmp_path / "journal")).open()
    journal.close()
    second = SqliteJournal(str(tmp_path / "journal"))
    meta = second.open()
    assert (meta.epoch, meta.lives) == (first.epoch + 1, first.lives + 1)
    second.close()


def test_a_later_format_is_refused(tmp_path):
    journal = SqliteJournal(str(tmp_path / "journal"))
    journal.open()
    journal.write({(j.META, 0): j.encode(j.Meta(j.FORMAT + 1, 5, 0))})
    journal.close()
    with pytest.raises(JournalError, match="format"):
        SqliteJournal(str(tmp_path / "journal")).open()


def test_a_database_of_something_else_is_refused(tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "other") as other:
        other.execute("CREATE TABLE people (name TEXT)")
    other.close()
    with pytest.raises(JournalError, match="not a journal of twistdist"):
        SqliteJournal(str(tmp_path / "other")).open()


def test_a_journal_in_use_can_be_read(tmp_path):
    journal = SqliteJournal(str(tmp_path / "journal"))
    journal.open()
    journal.write({(j.TARGET, 1): j.encode(j.Target(2))})
    assert dict(read_journal(str(tmp_path / "journal")))[(j.TARGET, 1)] == j.encode(j.Target(2))
    journal.write({(j.TARGET, 1): None})
    assert (j.TARGET, 1) not in dict(read_journal(str(tmp_path / "journal")))
    journal.close()


def test_the_file_shrinks_when_what_was_wanted_is_gone(tmp_path):
    path = tmp_path / "journal"
    journal = SqliteJournal(str(path))
    journal.open()
    for n in range(60):
        journal.write({(j.OUTCOMES, n): bytes(400_000)})
    most = path.stat().st_size
    for n in range(60):
        journal.write({(j.OUTCOMES, n): None})
    for _ in range(10):
        journal.tidy()
    journal.close()  # the log is put into the file
    assert path.stat().st_size < most / 2


def test_a_journal_of_an_earlier_version_goes_on(tmp_path):
    """Its table has row ids, and an index."""
    import sqlite3

    path = tmp_path / "journal"
    journal = SqliteJournal(str(path))
    journal.open()
    journal.close()
    with sqlite3.connect(path) as old:
        columns = "kind INTEGER NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL"
        old.execute(f"CREATE TABLE old ({columns}, PRIMARY KEY (kind, number))")
        old.execute("INSERT INTO old SELECT * FROM rows")
        old.execute("DROP TABLE rows")
        old.execute("ALTER TABLE old RENAME TO rows")
    old.close()
    assert journal.open().lives == 1
    journal.write({(j.TARGET, 1): b"one", (j.TARGET, 2): b"two"})
    journal.write({(j.TARGET, 1): None})
    journal.close()
    assert rows_of(path) == {(j.TARGET, 2): b"two"}
