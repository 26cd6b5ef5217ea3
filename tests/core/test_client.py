"""The client's core by hand."""

from __future__ import annotations

import pytest

from twistdist.core.client import Client, FunctionRef, Record, State, submits
from twistdist.core.client.effects import DropData
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

F = FunctionRef("f", b"f", b"blob")


def ready():
    client = Client(1)
    client.hello(0.0)
    client.dialer.greeted(m.Ready(1))
    return client


def said(client):
    client.close_batch()
    return [one for frame in client.dialer.session.take() for one in frame[2]]


def test_submits_that_follow_one_another_are_one_message():
    client = ready()
    for cid in range(1, 6):
        client.submit(Record(cid), F, b"a")
    client.submit(Record(6), F, b"a", [1])
    client.submit(Record(8), F, b"a")
    function, first, second = said(client)
    assert isinstance(function, m.Function)
    assert (first.first, len(first.args), first.inputs) == (1, 6, [[], [], [], [], [], [1]])
    assert second.first == 8


def test_what_is_said_after_a_submit_comes_after_it():
    client = ready()
    client.submit(Record(1), F, b"a")
    client.release([1])
    assert [type(one) for one in said(client)] == [m.Function, m.Submit, m.Release]


def test_many_functions_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(submits, "MAX_FUNCTIONS", 3)
    client = ready()
    for cid in range(1, 6):
        client.submit(Record(cid), FunctionRef("f", bytes([cid]), b"blob"), b"a")
    messages = said(client)
    assert [one.fns for one in messages if isinstance(one, m.DropFunctions)] == [[1], [2]]
    client.submit(Record(9), FunctionRef("f", bytes([1]), b"blob"), b"a")
    assert [one.fn for one in said(client) if isinstance(one, m.Function)] == [6]


def test_a_value_that_was_seen_stays():
    client = ready()
    record = Record(1)
    client.submit(record, F, b"a")
    client.receive([m.Finished(1, 5, b"value")])
    client.receive([m.Erred(1, m.ErrorInfo("TaskCrashed", "", "later"))])
    assert record.state is State.FINISHED and record.value == b"value"


def test_a_refused_session_loses_what_was_asked_and_not_what_is_asked_then():
    client = ready()
    old, new = Record(1), Record(2)
    client.submit(old, F, b"a")
    said(client)
    client.dialer.session.accept((0, 1, []))
    client.dialer.greeted(m.Refused("session", ""))
    number = client.dialer.number
    session = client.hello(0.0).session
    assert session == client.dialer.number != number  # a scheduler that takes over may know the lost one
    assert client.changed() == [old] and old.state is State.LOST
    client.submit(new, F, b"a")
    client.hello(0.0)  # the first Hello did not arrive
    client.dialer.greeted(m.Ready(2))
    assert new.state is State.PENDING and [type(one) for one in said(client)] == [m.Function, m.Submit]


def test_a_future_of_a_lost_session_is_lost_before_the_next_one_is_accepted():
    """Meanwhile it was finished, at workers whose addresses were not known any more: a KeyError (seed 1017633)."""
    client, record = ready(), Record(1)
    client.submit(record, F, b"a")
    said(client)
    told = [m.Peer(7, "w", "h", "/w", "tcp:x:1"), m.Finished(1, 5, None, 3, b"d", [7])]
    client.receive(client.dialer.session.accept((1, 1, told)))
    assert record.state is State.FINISHED and client.peers
    client.dialer.greeted(m.Refused("session", ""))
    client.hello(0.0)
    assert record.state is State.LOST and record.place is None and record.error.kind == "DataLost" and not client.peers
    assert client.changed() == [record]


def test_a_future_of_a_lost_session_is_not_retried_since_nobody_could_answer():
    client = ready()
    record = Record(1)
    client.submit(record, F, b"a")
    client.close_batch()
    client.dialer.session.take()
    client.receive(client.dialer.session.accept((1, 1, [m.Erred(1, m.ErrorInfo("", "ValueError", ""))])))
    client.dialer.greeted(m.Refused("session", ""))
    client.hello(0.0)
    assert client.retry([1]) == [] and record.state is State.ERROR


def test_a_lost_session_drops_the_data_that_it_kept_for_the_scheduler():
    client = ready()
    client.scatter(Record(1), "", 10, b"d", None, 1)
    client.dialer.session.take()
    client.dialer.session.accept((0, 1, []))
    client.dialer.greeted(m.Refused("session", ""))
    client.hello(0.0)
    assert client.take() == [DropData([1])]


def test_a_refused_session_of_which_nothing_was_acknowledged_is_said_again():
    client = ready()
    record = Record(1)
    client.submit(record, F, b"a")
    said(client)
    client.dialer.greeted(m.Refused("session", ""))
    assert client.hello(0.0).session == client.dialer.number == 1
    again = client.dialer.greeted(m.Ready(2))
    assert [type(one) for _, _, batch in again for one in batch] == [m.Function, m.Submit]
    assert client.changed() == [] and record.state is State.PENDING


def test_a_refused_session_that_has_brought_something_is_not_said_again():
    """What was brought had been on disk, which the acknowledgement still waited for; then the journal was lost.  Futures that
    had been cancelled were computed (seed 1505345)."""
    client = ready()
    ended, pending = Record(1), Record(2)
    client.submit(ended, F, b"a", key="known")
    client.submit(pending, F, b"b")
    said(client)
    client.receive(client.dialer.session.accept((1, 0, [m.Erred(1, m.ErrorInfo("TaskCancelled", "", ""))])))
    client.dialer.greeted(m.Refused("session", ""))
    client.hello(0.0)
    assert ended.state is State.CANCELLED and pending.state is State.LOST
    assert not client.dialer.greeted(m.Ready(2)) and not said(client)


def test_questions_that_a_restarted_scheduler_has_forgotten_are_asked_again_once():
    client = ready()
    client.query("workers")
    assert [type(one) for one in said(client)] == [m.Query]
    client.dialer.session.accept((0, 1, []))  # it has arrived
    client.query("status")
    said(client)  # this one has not
    again = client.dialer.greeted(m.Resumed(1, 2))
    client.resumed()
    assert [one.what for _, _, batch in again for one in batch] == ["status"]
    assert said(client) == [m.Query(1, "workers", [], True)]


def test_workers_that_were_never_introduced_are_refused():
    client = ready()
    client.submit(Record(1), F, b"a")
    for wrong in (m.Finished(1, 5, None, 10, b"d", [7]), m.Supply(1, 1, 1, [7]), m.Supply(1, 1, 1, [])):
        with pytest.raises(ProtocolError):
            client.receive([wrong])
    assert client.records[1].state is State.PENDING and not client.take()
    client.receive([m.Peer(7, "w", "h", "/s", "a"), m.Finished(1, 5, None, 10, b"d", [7])])
    assert client.records[1].place.holders == [7]


def test_trouble_with_the_journal_ends_with_the_connection_on_which_it_was_told():
    client = ready()
    client.notice(m.Trouble("the disk is full"))
    client.submit(Record(1), F, b"a")
    assert [one.cid for one in client.fail_unsure()] == [1]
    client.dialer.greeted(m.Resumed(0, 2))  # a scheduler that was started again has none, and has nothing to take back
    client.resumed()
    client.submit(Record(2), F, b"a")
    assert not client.fail_unsure() and client.records[2].state is State.PENDING
    (failed,) = client.notice(m.Trouble("the disk is full"))  # where there is still some, it is told at once
    assert failed.cid == 2 and failed.state is State.ERROR
    client.dialer.greeting()  # another connection is tried
    client.submit(Record(3), F, b"a")
    assert not client.fail_unsure()
