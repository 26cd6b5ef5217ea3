"""The journal in PostgreSQL: the same rows in a table, and a lease on it that lets other schedulers stand by.

The lease is an advisory lock (https://www.postgresql.org/docs/current/explicit-locking.html) of the session that writes: the
server releases it with the session, immediately if the process dies, and after ``GONE_S`` if its host is gone.  A scheduler
that continues without knowing that it lost the lease is fenced: the statement of every write checks that the row META is still
the one that this scheduler wrote when it started, and a scheduler that takes the lease begins by writing a new one.

Everything here blocks and, except for ``give_up``, is called from one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from twistdist.errors import ConfigError, JournalError, LeaseLost
from twistdist.storage.sqlite import APPLICATION_ID, next_meta
from twistdist.wire import journal_rows as j

SCHEMES = ("postgresql://", "postgres://")

#: Seconds between two attempts of a standby to take the lease.
POLL_S = 0.25

#: Seconds that a standby waits after a restart of the server, so that the previous holder can take the lease first.
HOLDER_FIRST_S = 2.0

#: Seconds after which either side gives up a connection whose other end does not answer.
GONE_S = 10

#: Seconds without the server after which a scheduler ends: another one may have the lease, and the workers must not stay here.
UNREACHABLE_S = 30.0

#: Bytes of rows in one statement.
STATEMENT_BYTES = 16 << 20

#: Rows to read at a time.
READ_ROWS = 2000

#: Parameters for libpq that the URL does not set.
_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "1",
    "keepalives_count": "5",
    "tcp_user_timeout": str(1000 * GONE_S),
    "target_session_attrs": "read-write",
}

#: Settings that the session needs, whatever the server's defaults are; those that a server version does not know are skipped.
_SETTINGS = {
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "statement_timeout": "0",
    "lock_timeout": "10s",
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "5",
    "tcp_user_timeout": str(1000 * GONE_S),
    "client_connection_check_interval": "5s",
}
_VALUES = ", ".join(f"('{name}', '{value}')" for name, value in _SETTINGS.items())
_SET = f"SELECT set_config(name, wanted, false) FROM pg_settings JOIN (VALUES {_VALUES}) AS these(name, wanted) USING (name)"

_TABLE = "twistdist_rows"
_CREATE = f"""CREATE TABLE {_TABLE}
    (kind integer NOT NULL, number bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (kind, number))"""

_IS_META = f"kind = {j.META} AND number = 0"

#: One statement is one transaction and one round trip.  The rows are joined to the locked row META, so nothing is put or
#: deleted unless that row is ours.  A scheduler that takes over waits for the lock and then sees what was written under it.
_WRITE = f"""WITH ours AS MATERIALIZED (SELECT true FROM {_TABLE} WHERE {_IS_META} AND body = %b FOR UPDATE),
    put AS (INSERT INTO {_TABLE} AS old SELECT new.* FROM ours, unnest(%b::integer[], %b::bigint[], %b::bytea[]) AS new
        ON CONFLICT (kind, number) DO UPDATE SET body = excluded.body),
    gone AS (DELETE FROM {_TABLE} AS old USING ours, unnest(%b::integer[], %b::bigint[]) AS dead(kind, number)
        WHERE old.kind = dead.kind AND old.number = dead.number)
    SELECT count(*) FROM ours"""

_LOOK = f"SELECT true FROM {_TABLE} WHERE {_IS_META} AND body = %b"

_HOLDER = """SELECT pid, backend_start, application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND database = datid AND datname = current_database()
    AND classid = %s::bigint::oid AND objid = %s::bigint::oid AND objsubid = 1"""


def _driver() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError(
            f"a journal in PostgreSQL needs a package that is not installed ({error}); run: pip install 'twistdist[postgres]'"
        ) from None
    return psycopg


def _said(error: Exception) -> str:
    """Return what the server or libpq says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


class PostgresJournal:
    """A journal in the table ``twistdist_rows``, which is created if needed, of the database at ``url``."""

    quick = False

    def __init__(self, url: str) -> None:
        self._driver = _driver()
        from psycopg.conninfo import conninfo_to_dict

        try:
            given = conninfo_to_dict(url)
        except self._driver.Error as error:
            raise ConfigError(f"--journal is not a usable address of a PostgreSQL database: {_said(error)}") from None
        name = f"twistdist scheduler with pid {os.getpid()} on {socket.gethostname()}".encode("ascii", "replace")[:63].decode()
        self._parameters = {**_DEFAULTS, **given, "application_name": name}
        #: The address as shown to people, since the URL may contain a password.
        self.place = f"postgresql://{given.get('host') or given.get('hostaddr') or ''}/{given.get('dbname') or ''}"
        self._connection: Any = None
        self._session: Any = None  # pid and start time of the server process whose connection has, or had, the lease
        self._meta = b""
        self._lost_at: float | None = None
        self._lost: LeaseLost | None = None
        self._given_up = threading.Event()
        self._size = 0

    # ---- the lease --------------------------------------------------------------------------

    def open(self, on_standby: Callable[[str], None] = lambda holder: None) -> j.Meta:
        try:
            self._wait(on_standby)
            with self._connection.transaction():
                row = self._connection.execute(f"SELECT body FROM {_TABLE} WHERE {_IS_META} FOR UPDATE", binary=True).fetchone()
                meta = next_meta(row[0] if row else None)
                body = j.encode(meta)
                self._connection.execute(
                    f"INSERT INTO {_TABLE} VALUES ({j.META}, 0, %b) ON CONFLICT (kind, number)"
                    " DO UPDATE SET body = excluded.body",
                    (body,),
                )
        except self._driver.Error as error:
            self.close()
            raise JournalError(f"the journal {self.place} can't be used: {_said(error)}") from None
        except BaseException:
            self.close()
            raise
        self._meta = body
        return meta

    def look_into(self) -> None:
        """Connect without the lease, to ``load`` from a journal that another process holds.  Use this instead of ``open``.

        Raises:
            JournalError: the database can't be read or has no journal.
        """
        try:
            found = self._connect(False)
        except self._driver.Error as error:
            raise JournalError(f"the journal {self.place} can't be read: {_said(error)}") from None
        if not found:
            raise JournalError(f"there is no journal at {self.place}: the database has no table {_TABLE}")

    def give_up(self) -> None:
        """Make ``open`` stop waiting.  May be called from any thread."""
        self._given_up.set()

    def _connect(self, make: bool) -> int:
        """Open a new connection.  Return the key of the table's lock, or 0 if there is no table and not ``make``."""
        self._connection = self._driver.connect("", autocommit=True, **self._parameters)
        connection = self._connection
        connection.execute(_SET)
        with connection.transaction():
            if make:  # two schedulers that start at the same time create one table
                connection.execute("SELECT pg_advisory_xact_lock(%s::bigint)", (APPLICATION_ID << 32,))
            find = f"SELECT to_regclass('{_TABLE}')::oid::bigint"
            (table,) = connection.execute(find).fetchone()
            if table is None and make:
                connection.execute(_CREATE)
                (table,) = connection.execute(find).fetchone()
        return APPLICATION_ID << 32 | table if table is not None else 0

    def _take(self, lock: int) -> bool:
        """Try to take the lease for this connection.  Return whether it was taken."""
        (taken,) = self._connection.execute("SELECT pg_try_advisory_lock(%s::bigint)", (lock,)).fetchone()
        if taken:
            own = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            self._session = self._connection.execute(own).fetchone()
        return bool(taken)

    def _holder(self, lock: int) -> tuple[tuple[int, Any], str] | None:
        """Return which session has the lease and how it describes itself; None if there is none."""
        row = self._connection.execute(_HOLDER, (lock >> 32, lock & 0xFFFFFFFF)).fetchone()
        return row and ((row[0], row[1]), f"the {row[2]}" if row[2] else "another session")

    def _wait(self, on_standby: Callable[[str], None]) -> None:
        told, connected, first, lock = "", False, True, 0
        while True:
            try:
                if not connected:
                    lock = self._connect(True)
                    connected = True
                    if not first and self._given_up.wait(HOLDER_FIRST_S):
                        break
                first = False
                if self._take(lock):
                    return
                holder = self._holder(lock)
                if holder is not None and holder[1] != told:
                    told = holder[1]
                    on_standby(told)
            except self._driver.Error:
                if first:
                    raise
                self._drop()
                connected = False
            if self._given_up.wait(POLL_S):
                break
        raise JournalError(f"the wait for the journal {self.place} was stopped")

    def _hold(self) -> None:
        """Ensure that there is a connection with the lease.  ``LeaseLost`` if another scheduler has it."""
        if self._lost is not None:
            raise self._lost
        if self._connection is not None:
            return
        if not self._meta:
            raise JournalError(f"the journal {self.place} is not open")
        lock = self._connect(False)
        if not lock:
            raise self._ends(f"the journal {self.place} is gone: the database has no table {_TABLE}")
        before = self._session
        if self._take(lock):
            return
        holder = self._holder(lock)
        if holder is not None and holder[0] != before:
            raise self._ends(f"the journal {self.place} is held by {holder[1]} now; there can be only one scheduler")
        if holder is not None:  # the server has not yet noticed that our connection broke
            self._end_session(before[0])
        self._drop()
        raise JournalError(f"the journal {self.place} can't be written yet: the server is ending our previous session")

    def _end_session(self, process: int) -> None:
        self._connection.execute("SELECT pg_terminate_backend(%s)", (process,))

    def _ends(self, text: str) -> LeaseLost:
        self._lost = LeaseLost(text)
        self._drop()
        return self._lost

    def _failed(self, error: Exception, what: str) -> JournalError:
        """Return what to raise for an error of the driver.  The next call replaces a broken connection."""
        text = f"the journal {self.place} can't be {what}: {_said(error)}"
        if self._connection is not None and not self._connection.closed:
            return JournalError(text)
        self._drop()
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        if now - self._lost_at > UNREACHABLE_S:
            return self._ends(f"{text}; this has lasted {now - self._lost_at:.0f} s, so another scheduler may have it by now")
        return JournalError(text)

    # ---- rows -------------------------------------------------------------------------------

    def load(self) -> Iterator[tuple[j.Key, bytes]]:
        try:
            with self._connection.transaction(), self._connection.cursor("twistdist", binary=True) as cursor:
                cursor.itersize = READ_ROWS
                cursor.execute(f"SELECT kind, number, body FROM {_TABLE}")
                for kind, number, body in cursor:
                    yield (kind, number), body
        except self._driver.Error as error:
            raise JournalError(f"the journal {self.place} can't be read: {_said(error)}") from None

    def write(self, rows: dict[j.Key, bytes | None]) -> None:
        parts = list(_parts(rows))
        try:
            self._hold()
            with contextlib.nullcontext() if len(parts) == 1 else self._connection.transaction():
                for part in parts:
                    (ours,) = self._connection.execute(_WRITE, (self._meta, *part)).fetchone()
                    if not ours:
                        raise LeaseLost  # leaves the transaction and so rolls it back
        except LeaseLost:
            raise self._lost or self._fenced() from None
        except self._driver.Error as error:
            raise self._failed(error, "written") from None
        self._lost_at = None

    def check(self) -> None:
        """Check that the lease is still ours."""
        try:
            self._hold()
            row = self._connection.execute(_LOOK, (self._meta,)).fetchone()
        except self._driver.Error as error:
            raise self._failed(error, "reached") from None
        if row is None:
            raise self._fenced()
        self._lost_at = None

    def _fenced(self) -> LeaseLost:
        return self._ends(f"the journal {self.place} was taken over by another scheduler; there can be only one")

    def tidy(self) -> None:
        """Do nothing: the server's autovacuum does this."""

    def size(self) -> int:
        with contextlib.suppress(self._driver.Error):  # the next write reports it
            if self._connection is not None:
                (self._size,) = self._connection.execute(f"SELECT pg_total_relation_size('{_TABLE}')").fetchone()
        return self._size

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._driver.Error):
                connection.close()

    def close(self) -> None:
        self._drop()


def read_rows(url: str) -> Iterator[tuple[j.Key, bytes]]:
    """Yield the rows of a journal that another process may be writing, without changing it; no lease is needed.

    Raises:
        ConfigError: the driver is not installed, or ``url`` is not usable.
        JournalError: there is no journal, or it can't be read.
    """
    journal = PostgresJournal(url)
    try:
        journal.look_into()
        yield from journal.load()
    finally:
        journal.close()


def _parts(rows: dict[j.Key, bytes | None]) -> Iterator[tuple[list[Any], ...]]:
    """Yield the parameters of one or more statements: kinds, numbers and bodies of the rows to put, then kinds and numbers of
    those to delete."""
    part: tuple[list[Any], ...] = ([], [], [], [], [])
    size = 0
    for (kind, number), body in rows.items():
        if body is None:
            part[3].append(kind)
            part[4].append(number)
            continue
        if size and size + len(body) > STATEMENT_BYTES:
            yield part
            part, size = ([], [], [], [], []), 0
        part[0].append(kind)
        part[1].append(number)
        part[2].append(body)
        size += len(body)
    yield part
