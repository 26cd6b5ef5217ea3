"""The journal on disk: a table of rows in SQLite, written in transactions and read as a whole when the scheduler starts.

Everything here blocks and is called from one thread at a time.  With ``journal_mode=WAL`` and ``synchronous=FULL`` a
transaction is on disk when ``write`` returns, and a file truncated at any byte opens with its complete transactions
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
from twistdist.storage.files import is_memory
from twistdist.wire import journal_rows as j

#: "twis", in the database's header: marks it as ours.
APPLICATION_ID = 0x74776973

#: Free pages are returned to the file system when there are more than this many, and more free than used ones.
MAX_FREE_PAGES = 2000

#: Maximum bytes that the write-ahead log keeps while it is not in use.
WAL_LIMIT = 16 << 20

#: The first epoch is a random number up to this, so that the attempts of two clusters are never mistaken for one another.
FIRST_EPOCHS = 1 << 26


class Journal(Protocol):
    """What the scheduler needs from a journal.  Every method may raise ``JournalError``."""

    #: Whether a small write takes only microseconds and never waits for a device.
    quick: bool

    def open(self, on_standby: Callable[[str], None] = ...) -> j.Meta:
        """Acquire the journal for this process alone, begin a new epoch in it, and return the cluster's row.

        Waits while another process holds a journal that can be waited for; ``on_standby(holder)`` is called with a
        description of the holder.
        """

    def give_up(self) -> None:
        """Make ``open`` stop waiting.  May be called from any thread."""

    def load(self) -> Iterator[tuple[j.Key, bytes]]:
        """Yield all rows."""

    def write(self, rows: dict[j.Key, bytes | None]) -> None:
        """Put rows, or delete those that are None, in one transaction that is durable on return."""

    def check(self) -> None:
        """Check that the journal is still ours, if that can change; called now and then.

        Raises:
            LeaseLost: another scheduler may have the journal; this process must end.
        """

    def tidy(self) -> None:
        """Return the space left by many deleted rows; called now and then."""

    def size(self) -> int:
        """Return the size of the journal in bytes."""

    def close(self) -> None:
        """Release the journal."""


def next_meta(body: bytes | None) -> j.Meta:
    """Return the cluster's row for a new life of its scheduler; ``body`` is the previous one (None: a new journal).

    Raises:
        JournalError: the journal has another format.
    """
    if body is None:
        return j.Meta(j.FORMAT, secrets.randbelow(FIRST_EPOCHS) + 1, 0)
    old: j.Meta = j.decode(j.META, body)
    if old.format != j.FORMAT:
        raise JournalError(f"the journal has format {old.format}, but this twistdist reads and writes format {j.FORMAT}")
    return j.Meta(j.FORMAT, old.epoch + 1, old.lives + 1)


class SqliteJournal:
    """A journal in the file ``path``, which is created if it does not exist."""

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
        """Take the file's lock.  The operating system releases it when the process ends, however that happens."""
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
        with contextlib.suppress(OSError):  # a full disk is reported when there is something to write
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
            # Without row ids there is one tree and no index beside it: a small write changes one page instead of two.  Journals
            # of earlier versions have both, and go on as they are.
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS rows (kind INTEGER NOT NULL, number INTEGER NOT NULL,"
                " body BLOB NOT NULL, PRIMARY KEY (kind, number)) WITHOUT ROWID"
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
                put = [(*key, body) for key, body in rows.items() if body is not None]
                if put:
                    database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", put)
                if len(put) < len(rows):
                    gone = [key for key, body in rows.items() if body is None]
                    database.executemany("DELETE FROM rows WHERE kind=? AND number=?", gone)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise JournalError(f"the journal {self.path} can't be written: {error}") from None

    def give_up(self) -> None:
        """Do nothing: ``open`` does not wait for a file."""

    def check(self) -> None:
        """Do nothing: the operating system does not revoke a lock."""

    def tidy(self) -> None:
        try:
            (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
            (pages,) = self._database.execute("PRAGMA page_count").fetchone()
            if free > MAX_FREE_PAGES and 2 * free > pages:
                # execute() steps a statement without columns only once, which frees one page.
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
            with contextlib.suppress(sqlite3.Error):  # anything that mattered was reported before
                self._database.close()
            self._database = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def check_database(database: Any, path: str) -> None:
    """Raise ``JournalError`` if a database is damaged or not a journal.  The database is not changed."""
    try:
        (application,) = database.execute("PRAGMA application_id").fetchone()
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if tables and application != APPLICATION_ID:
            raise JournalError(f"{path} is a database, but not a journal of twistdist; choose another file")
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise JournalError(
            f"{path} is not a journal, or is damaged: {error}; it was not changed. Restore a copy of it, "
            "or move it away to start with an empty journal"
        ) from None
    if verdict != "ok":
        raise JournalError(
            f"the journal {path} is damaged ({verdict}); it was not changed. Restore a copy of it, "
            "or move it away to start with an empty journal"
        )


def read_journal(path: str) -> Iterator[tuple[j.Key, bytes]]:
    """Yield the rows of a journal that another process may be writing, without changing it.

    Raises:
        JournalError: there is no journal at ``path``, it is damaged, or it can't be read.
    """
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
    """Quote a path for use in a SQLite URI."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
