"""The way out of the scheduler, with a journal that fails when it is told to."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.records import Client, Function
from twistdist.core.session import Session
from twistdist.errors import JournalError
from twistdist.net.journal_writer import RETRY_S
from twistdist.net.outbox import Outbox
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m


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


@attrs.define(eq=False)
class FakeConnection:
    """Keeps what was sent."""

    sent: list = attrs.field(factory=list)
    told: bool = True

    def send(self, frames):
        self.sent.extend(frames)


def test_while_the_journal_can_not_be_written_questions_overtake_results_and_commands_wait():
    clock, journal, ledger = Clock(), FakeJournal(), Ledger()
    peer, connection = Client(1, b"t", "me"), FakeConnection()
    outbox = Outbox(clock, {peer: connection}, lambda: None, lambda text: None, lambda text: None)
    outbox.use(journal, ledger)
    finished, asked = m.Erred(1, m.ErrorInfo("E", "", "")), m.Reply(1, "", "status", at_once=True)
    told = m.Reply(2, "", "published")
    ledger.function(Function(1, "f", b"f", b"blob"))
    outbox.say(connection, peer, [(1, 0, [finished, asked])])
    outbox.write()
    assert not connection.sent  # the write may succeed
    journal.writes.pop()[1].errback(JournalError("full"))
    assert connection.sent.pop() == (0, 0, [asked])
    outbox.say(connection, peer, [(2, 0, [m.Reply(3, "", at_once=True), told])])
    assert connection.sent.pop() == (0, 0, [m.Reply(3, "", at_once=True)])
    fresh, unready = Client(2, b"u", "new"), FakeConnection(told=False)
    outbox.say(unready, fresh, [(1, 0, [finished, asked])])
    assert not unready.sent  # its greeting comes first
    clock.advance(RETRY_S)
    journal.writes.pop()[1].callback(None)
    assert [number for number, _, _ in connection.sent] == [1, 2]
    outbox.say(connection, peer, [(3, 0, [told])])
    assert len(connection.sent) == 3
    ledger.function(Function(2, "g", b"g", b"blob"))
    outbox.say(connection, peer, [(4, 0, [told])])
    outbox.write()
    journal.writes.pop()[1].errback(JournalError("full"))
    assert len(connection.sent) == 3  # it says that something was done for good
