"""The way out of the scheduler, with a journal that fails when it is told to."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.records import Function
from twistdist.core.session import Session
from twistdist.errors import JournalError
from twistdist.net.journal_writer import RETRY_S
from twistdist.net.outbox import Outbox
from twistdist.wire import journal_rows as j


class FakeJournal:
    """Writes end when the test says so."""

    bytes = 0

    def __init__(self):
        self.writes = []

    def write(self, rows):
        done = Deferred()
        self.writes.append((dict(rows), done))
        return done


def test_rows_that_could_not_be_written_are_written_again_also_when_nothing_waits_for_them():
    clock, journal, ledger, session = Clock(), FakeJournal(), Ledger(), Session(safe=0)
    outbox = Outbox(clock, {}, lambda: None, lambda text: None, lambda text: None)
    outbox.use(journal, ledger)
    ledger.function(Function(1, "f", b"f", b"blob"))
    session.received = 1
    outbox.touch(session)
    outbox.write()
    (rows, done) = journal.writes.pop()
    assert set(rows) == {(j.FUNCTION, 1)}
    done.errback(JournalError("full"))
    clock.advance(RETRY_S)
    assert outbox.trouble and session.safe == 0
    (again, done) = journal.writes.pop()
    assert again == rows
    done.callback(None)
    assert not outbox.trouble and session.safe == 1
