"""A scheduler's core with a journal, killed by hand: one story each."""

from __future__ import annotations

import pytest

from twistdist.testing.stories import JournaledStory
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return JournaledStory()


def test_a_session_of_which_a_frame_was_acknowledged_is_known(story):
    """What it says next may be waiting on its side already."""
    asker = story.core.greet(story.now, m.HelloClient(7))
    asker.session.accept((1, 0, [m.Query(1, "status", [])]))
    story.tell(asker, m.Query(1, "status", []))
    story.restart()
    assert story.resume(7).session.received == 1


def test_what_was_changed_back_while_a_write_was_under_way_holds_up_nobody(story):
    """A client came and left again, all during one write."""
    story.write()
    story.submit()
    assert story.gate.begin()
    other = story.core.greet(story.now, m.HelloClient(7))
    story.tell(other, m.Function(1, "g", b"g", b"blob"), m.Submit(1, 1, [b""]))
    assert story.gate.hold("to the worker")
    story.tell(other, m.Bye())
    assert story.gate.hold("to somebody else")
    assert story.gate.written() == ["to the worker", "to somebody else"]
    assert not story.gate.hold("an answer")


def test_replicate_is_remembered(story):
    first = story.worker("a")
    cid = story.submit()
    (compute,) = story.given(first)
    story.done(first, compute, None, 100)
    story.tell(story.client, m.Query(1, "replicate", [2, cid]))
    story.restart()
    (task,) = story.core.tasks.values()
    assert task.retention is not None and task.retention.copies == 2 and task in story.core.parts.targets.tasks
    story.client = story.resume(1)
    story.tell(story.client, m.Release([cid]))
    story.write()
    assert not [key for key in story.disk if key[0] == j.TARGET]


@pytest.mark.parametrize("replicas", [0, 2])
def test_replicate_of_scattered_data_is_remembered(story, replicas):
    story.tell(story.client, m.Scatter(1, "", 100, b"d", None, 1, [], True))
    story.write()
    story.tell(story.client, m.Query(1, "replicate", [replicas, 1]))
    story.restart()
    (task,) = story.core.tasks.values()
    assert task.retention.copies == replicas


def test_the_session_that_scattered_ends_before_the_workers_have_brought_the_data(story):
    """They are where they were, and somebody else still wants them."""
    worker = story.worker("a")
    story.tell(story.client, m.Scatter(1, "x", 100, b"d", None, 1, [], True))
    (supply,) = story.said(story.client, m.Supply)
    stored = m.Stored(supply.task, supply.attempt, 100, b"d")
    story.tell(worker, m.Have([stored]))
    other = story.core.greet(story.now, m.HelloClient(7))
    story.tell(other, m.Query(1, "watch", [[1, "x"]]))
    story.restart()
    story.tell(story.resume(1), m.Bye())
    (task,) = story.core.tasks.values()
    assert task.error is None
    story.worker("a", stored=[stored])
    assert not story.core.recovering
    assert {one.cid for one in story.said(story.resume(7), m.Finished)} == {1}


def reply(story, client, query, what, *args, again=False):
    story.tell(client, m.Query(query, what, list(args), again))
    return story.said(client, m.Reply)[-1]


def test_orders_that_were_carried_out_and_not_answered_are_answered_when_they_are_asked_again(story):
    """The scheduler was killed between the write and the Reply."""
    cid = story.submit(key="x")
    for query, what, args in [(1, "publish", ["d", b"shape", [cid]]), (2, "watch", [[100, "x"]]), (3, "unpublish", ["d"])]:
        assert not reply(story, story.client, query, what, *args).error
        story.restart()
        story.client = story.resume(1)
        answer = reply(story, story.client, query, what, *args, again=True)
        assert not answer.error
    assert reply(story, story.client, 4, "unpublish", "d").error
    story.tell(story.client, m.Release([cid, 100]))
    assert not story.core.tasks


def test_a_name_that_somebody_else_has_taken_is_refused_also_when_it_is_asked_again(story):
    first, second = story.submit(), story.submit()
    assert not reply(story, story.client, 1, "publish", "d", b"shape", [first]).error
    story.restart()
    story.client = story.resume(1)
    assert reply(story, story.client, 2, "publish", "d", b"shape", [second], again=True).error
    assert reply(story, story.client, 3, "publish", "d", b"shape", [first]).error


def test_letting_go_of_one_of_many_futures_writes_little(story):
    other = story.core.greet(story.now, m.HelloClient(7))
    keys = [f"k{number}" for number in range(5000)]
    submit = m.Submit(1, 1, [b""] * 5000, None, keys)
    story.tell(story.client, submit)
    story.tell(other, m.Function(1, "f", b"f", b"blob"), submit)
    story.write()
    story.tell(other, m.Release([1]))
    rows = story.gate.begin()
    assert sum(len(body or b"") for body in rows.values()) < 10_000
    story.gate.written()
    story.tell(other, m.Release(list(range(2, 5001))))
    story.write()
    assert not [key for key in story.disk if key[0] == j.WATCHES]


def test_numbers_go_on_above_those_that_are_in_the_journal(story):
    """A life that lasted may have given out more than its share."""
    story.core.parts.registry.is_taken("function", 1 << 21)
    story.tell(story.client, m.Function(2, "g", b"g", b"blob"))
    story.restart()
    story.client = story.resume(1)
    story.tell(story.client, m.Function(3, "h", b"h", b"blob"))
    assert story.core.parts.registry.functions[b"h"].number > story.core.parts.registry.functions[b"g"].number


@pytest.mark.parametrize("published_first", [True, False])
def test_a_published_task_that_has_failed_stays_published(story, published_first):
    worker = story.worker("a")
    cid = story.submit(key="x")
    if published_first:
        assert not reply(story, story.client, 1, "publish", "d", b"shape", [cid]).error
    (compute,) = story.said(worker, m.Compute)
    story.tell(worker, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "no"), 1))
    if not published_first:
        assert not reply(story, story.client, 1, "publish", "d", b"shape", [cid]).error
    story.restart()
    story.client = story.resume(1)
    story.tell(story.client, m.Release([cid]))
    story.restart()
    story.client = story.resume(1)
    assert reply(story, story.client, 2, "dataset", "d", 70).value == [b"shape", ["x"]]
    assert story.client.futures[70].error.text == "no"
    assert not reply(story, story.client, 3, "unpublish", "d").error
    story.tell(story.client, m.Release([70]))
    assert not story.core.tasks
