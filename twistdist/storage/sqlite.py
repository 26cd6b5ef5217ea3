"""The journal on disk: a table of rows in SQLite, written in transactions, read as a whole when the scheduler starts.

Everything here blocks and is called from one thread at a time.  ``journal_mode=WAL`` and ``synchronous=FULL``: a transaction
is on disk when ``write`` returns, and a file cut off at any byte opens with the transactions that are whole
(https://sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from twistdist.errors import JournalError
from twistdist.storage.store import is_memory
from twistdist.wire import journal_rows as j

#: "twis": marks the database as ours in its header.
APPLICATION_ID = 0x74776973

#: Free pages are given back to the file system when there are more than this many, and more than used ones.
MAX_FREE_PAGES = 2000

#: Bytes that the write-ahead log keeps at most while it is not in use.
WAL_LIMIT = 16 << 20

#: The first epoch is a random number below this, so that the attempts of two clusters are never taken for one another.
FIRST_EPOCHS = 1 << 26


class Journal(Protocol):
    """What the scheduler needs of a journal; every method raises ``JournalError``."""

    #: Whether a small write takes microseconds, and can't wait for a device.
    quick: bool

    def open(self, on_standby: Callable[[str], None] = ...) -> j.Meta:
        """Take the journal for this process alone, and begin a new epoch in it.

        One that can be waited for is waited for; ``on_standby(holder)`` tells in words who has it.
        """

    def give_up(self) -> None:
        """From any thread: ``open`` waits no longer."""

    def load(self) -> Iterator[tuple[j.Key, bytes]]:
        """All rows."""

    def write(self, rows: dict[j.Key, bytes | None]) -> None:
        """Put rows, or delete those that are None, in one transaction that is durable on return."""

    def check(self) -> None:
        """See whether it is still ours, where that can change; called now and then.  ``LeaseLost``: this process must end."""

    def tidy(self) -> None:
        """Give back what many deleted rows have left; called now and then."""

    def size(self) -> int:
        """Bytes that it takes."""

    def close(self) -> None:
        """Let it go."""


def next_meta(body: bytes | None) -> j.Meta:
    """The cluster's row for a new life of its scheduler."""
    if body is None:
        return j.Meta(j.FORMAT, secrets.randbelow(FIRST_EPOCHS) + 1, 0)
    old: j.Meta = j.decode(j.META, body)
    if old.format != j.FORMAT:
        raise JournalError(f"the journal has format {old.format}, this twistdist reads and writes {j.FORMAT}")
    return j.Meta(j.FORMAT, old.epoch + 1, old.lives + 1)


class SqliteJournal:
    """A journal in the file ``path``, which is made if it is not there."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._database: Any = None
        self._lock = -1
        self.quick = False

    def open(self, on_standby: Callable[[str], None] = lambda holder: None) -> j.Meta:
        self._take_lock()
        try:
            self.quick = is_memory(os.path.dirname(self.path))
            database = self._connect()
            (found,) = database.execute("SELECT body FROM rows WHERE kind=? AND number=0", (j.META,)).fetchone() or (None,)
            meta = next_meta(found)
            self.write({(j.META, 0): j.encode(meta)})
        except BaseException:
            self.close()
            raise
        return meta

    def _take_lock(self) -> None:
        """The operating system ends the lock with the process, however that ends."""
        try:
            self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"the journal {self.path} can't be used: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 200, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(self._lock)
            self._lock = -1
            raise JournalError(f"the journal {self.path} is held by {holder}; only one scheduler can use it") from None
        with contextlib.suppress(OSError):  # a full disk is told when something is to be kept
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"the scheduler with pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _connect(self) -> Any:
        try:
            self._database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10.0)
            check_database(self._database, self.path)
            for pragma in (
                "auto_vacuum=INCREMENTAL",
                "journal_mode=WAL",
                "synchronous=FULL",
                f"journal_size_limit={WAL_LIMIT}",
                f"application_id={APPLICATION_ID}",
            ):
                self._database.execute(f"PRAGMA {pragma}").fetchall()
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS rows (kind INTEGER NOT NULL, number INTEGER NOT NULL,"
                " body BLOB NOT NULL, PRIMARY KEY (kind, number))"
            )
        except sqlite3.Error as error:
            raise JournalError(f"the journal {self.path} can't be used: {error}") from None
        return self._database

    def load(self) -> Iterator[tuple[j.Key, bytes]]:
        try:
            for kind, number, body in self._database.execute("SELECT kind, number, body FROM rows"):
                yield (kind, number), body
        except sqlite3.Error as error:
            raise JournalError(f"the journal {self.path} can't be read: {error}") from None

    def write(self, rows: dict[j.Key, bytes | None]) -> None:
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                database.executemany(
                    "INSERT OR REPLACE INTO rows VALUES (?, ?, ?)",
                    [(*key, body) for key, body in rows.items() if body is not None],
                )
                database.executemany(
                    "DELETE FROM rows WHERE kind=? AND number=?", [key for key, body in rows.items() if body is None]
                )
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(f"the journal {self.path} can't be written: {error}") from None

    def give_up(self) -> None:
        """Nobody waits for a file."""

    def check(self) -> None:
        """The operating system does not take back a lock."""

    def tidy(self) -> None:
        try:
            (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
            (pages,) = self._database.execute("PRAGMA page_count").fetchone()
            if free > MAX_FREE_PAGES and 2 * free > pages:
                # A statement without columns is stepped once by execute, which frees one page.
                self._database.executescript(f"PRAGMA incremental_vacuum({free - MAX_FREE_PAGES // 2})")
        except sqlite3.Error as error:
            raise JournalError(f"the journal {self.path} can't be written: {error}") from None

    def size(self) -> int:
        total = 0
        for name in (self.path, f"{self.path}-wal"):
            with contextlib.suppress(OSError):
                total += os.stat(name).st_size
        return total

    def close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):  # whatever it was, it was told when it mattered
                self._database.close()
            self._database = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def check_database(database: Any, path: str) -> None:
    """``JournalError`` for a database that is damaged, or is no journal; nothing is changed in it."""
    try:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if tables and application != APPLICATION_ID:
            raise JournalError(f"{path} is a database of something else, not a journal of twistdist; name another file")
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise JournalError(
            f"{path} is no journal, or a damaged one: {error}; it was not changed. Restore a copy of it, "
            "or move it away to begin anew"
        ) from None
    if verdict != "ok":
        raise JournalError(
            f"the journal {path} is damaged ({verdict}); it was not changed. Restore a copy of it, "
            "or move it away to begin anew"
        )


def read_journal(path: str) -> Iterator[tuple[j.Key, bytes]]:
    """The rows of a journal that somebody else may be writing; nothing is changed."""
    if not os.path.exists(path):
        raise JournalError(f"there is no journal at {path}")
    try:
        database = sqlite3.connect(f"file:{sqlite_quote(os.path.abspath(path))}?mode=ro", uri=True, timeout=10.0)
        check_database(database, path)
        yield from (((kind, number), body) for kind, number, body in database.execute("SELECT kind, number, body FROM rows"))
        database.close()
    except sqlite3.Error as error:
        raise JournalError(f"the journal {path} can't be read: {error}") from None


def sqlite_quote(path: str) -> str:
    """A path as part of a SQLite URI."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
