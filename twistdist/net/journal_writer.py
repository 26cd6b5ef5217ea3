"""The journal outside the reactor: opened, read and written in a thread of its own, one operation at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from twistdist.errors import JournalError
from twistdist.storage.postgres import SCHEMES, PostgresJournal
from twistdist.storage.sqlite import Journal, SqliteJournal
from twistdist.wire import journal_rows as j

#: Writes between two checks whether the file should shrink.
TIDY_EVERY = 256

#: Seconds since the last write after which the scheduler counts as quiet, and bytes below which a write counts as small.
QUIET_S, SMALL_BYTES = 0.0003, 64 << 10

#: Seconds before a failed write is tried again.
RETRY_S = 0.5

#: Seconds between two checks that the journal is still ours, while nothing is written.
CHECK_S = 1.0


def open_journal(where: str) -> Journal | None:
    """Return the journal that ``--journal`` names: a file, the URL of a PostgreSQL database, or ``none``."""
    if where == "none":
        return None
    if where.startswith(SCHEMES):
        return PostgresJournal(where)
    return SqliteJournal(where)


class JournalThread:
    """Runs the journal's blocking calls; Deferreds fire in the reactor's thread, with ``JournalError`` if the call failed."""

    def __init__(self, reactor: Any, journal: Journal) -> None:
        self._reactor, self._journal = reactor, journal
        self._pool = ThreadPool(1, 1, "PoolThread-twisted-journal")
        self._writes = 0
        self._wrote_at = 0.0
        self.bytes = 0

    def _run(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._pool, function, *args)

    def start(self, on_standby: Callable[[str], None] = lambda holder: None) -> Deferred[Any]:
        """Open and read the journal; the Deferred fires with the ``Meta`` row of the new epoch and the decoded rows.

        ``on_standby(holder)`` is called in the reactor's thread with the holder of the journal if it must be waited for.
        """
        self._pool.start()
        return self._run(self._start, lambda holder: self._reactor.callFromThread(on_standby, holder))

    def _start(self, on_standby: Callable[[str], None]) -> tuple[j.Meta, list[tuple[j.Key, Any]]]:
        meta = self._journal.open(on_standby)
        rows = [(key, j.decode(key[0], body)) for key, body in self._journal.load()]
        self.bytes = self._journal.size()
        return meta, rows

    def write(self, rows: dict[j.Key, bytes | None]) -> Deferred[None]:
        """Write rows in one transaction.

        A small one is written at once, in this thread, while the scheduler is quiet and where that is safe: two thread switches
        would cost more.
        """
        now, before = self._reactor.seconds(), self._wrote_at
        self._wrote_at = now
        if self._journal.quick and now - before > QUIET_S and sum(len(body or b"") for body in rows.values()) < SMALL_BYTES:
            return execute(self._write, rows)
        return self._run(self._write, rows)

    def _write(self, rows: dict[j.Key, bytes | None]) -> None:
        try:
            self._journal.write(rows)
        except JournalError:
            raise
        except Exception as error:
            raise JournalError(f"the journal can't be written: {error!r}") from error
        self._writes += 1
        if self._writes % TIDY_EVERY == 0:
            self._journal.tidy()
        if self._writes % 16 == 0:
            self.bytes = self._journal.size()

    def check(self) -> Deferred[None]:
        """Check that the journal is still ours; the Deferred fails with ``LeaseLost`` if it is not."""
        return self._run(self._journal.check)

    def stop(self) -> None:
        """Wait for the operations in progress, then release the journal."""
        self._journal.give_up()
        if self._pool.started:
            self._pool.callInThread(self._journal.close)
            self._pool.stop()
