"""No event of the scheduler works on any number of tasks at once: others are served in between."""

import pytest

from twistdist.core.client import Client, FunctionRef, Record, State
from twistdist.core.scheduler import Settings
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.session import FRAME_MESSAGES
from twistdist.testing.stories import JournaledStory, Story
from twistdist.wire import messages as m

SLICE = 10


@pytest.fixture
def story():
    return Story(Settings(tuning=Tuning(slice_tasks=SLICE)))


def tasks(story):
    return len(story.core.parts.registry.tasks)


def steps(story, done):
    """How many further events it takes; each is due at once."""
    for count in range(1000):
        if done():
            return count
        assert story.core.wake is not None and story.core.wake <= story.now
        story.later(0.0)
    raise AssertionError("it never ends")


def test_many_releases_are_dropped_in_slices(story):
    story.tell(story.client, m.Submit(1, 1, [b"x"] * 45))
    story.tell(story.client, m.Release(list(range(1, 46))))
    assert tasks(story) == 35
    other = story.core.greet(story.now, m.HelloClient(2))  # somebody else is served meanwhile
    story.tell(other, m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b"y"]))
    assert steps(story, lambda: tasks(story) == 1) <= 4


def test_a_long_chain_is_dropped_in_slices(story):
    for _ in range(45):
        story.submit(*([story.cid] if story.cid else []))
    story.tell(story.client, m.Release(list(range(1, 46))))
    assert tasks(story) > 30
    steps(story, lambda: tasks(story) == 0)


def test_an_ended_session_is_dropped_in_slices(story):
    story.tell(story.client, m.Submit(1, 1, [b"x"] * 45))
    story.tell(story.client, m.Bye())
    assert tasks(story) > 30
    assert steps(story, lambda: tasks(story) == 0) >= 4
    assert not story.core.parts.client_sessions.ended


def test_the_same_session_can_begin_again_meanwhile(story):
    story.tell(story.client, m.Submit(1, 1, [b"x"] * 45))
    story.tell(story.client, m.Bye())
    story.client = story.open_client()
    story.cid = 0
    worker = story.worker(slots=100)
    mine = story.submit()
    steps(story, lambda: tasks(story) == 1)
    (compute,) = [compute for compute in story.given(worker) if compute.args == b"1"]
    story.done(worker, compute)
    assert story.outcome(mine).value == b"v"


@pytest.mark.parametrize("how", ["the session ends", "the last of a chain is released", "it failed, and the session ends"])
def test_a_key_is_free_at_once(story, how):
    worker = story.worker()
    story.tell(story.client, m.Submit(1, 1, [b"x"] * 45))
    story.tell(story.client, m.Submit(50, 1, [b"old"], None, ["k"]))
    for cid in range(51, 100):
        story.tell(story.client, m.Submit(cid, 1, [b"x"], [[cid - 1]]))
    if how == "the last of a chain is released":
        story.tell(story.client, m.Release(list(range(1, 100))))
    else:
        if "failed" in how:
            while not (old := [compute for compute in story.given(worker) if compute.args == b"old"]):
                for task in list(worker.assigned):
                    story.tell(worker, m.Done(task.number, task.attempt, b"v", 1, b"", 5))
            story.tell(worker, m.Failed(old[0].task, old[0].attempt, m.ErrorInfo("", "ValueError", "bad"), 1))
            story.tell(story.client, m.Submit(100, 1, [b"x"] * 45))
        story.tell(story.client, m.Bye())
    assert tasks(story) > SLICE, "there is something left to drop"
    other = story.core.greet(story.now, m.HelloClient(2))
    new = b"old" if "failed" in how else b"new"
    story.tell(other, m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [new], None, ["k"]))
    assert not story.said(other, m.Erred)
    steps(story, lambda: tasks(story) == 1)
    assert story.core.parts.registry.keys["k"].args == new
    story.said(worker)


def test_many_tasks_are_given_in_slices(story):
    worker = story.worker(slots=100)
    story.tell(story.client, m.Submit(1, 1, [b"x"] * 45))
    assert len(story.given(worker)) == SLICE
    steps(story, lambda: len(worker.assigned) == 45)


def test_many_tasks_for_one_worker_are_given_in_slices(story):
    worker = story.worker("a")
    story.submit()
    story.done(worker, story.given(worker)[0], us=5)  # it is known that they are short
    story.lost(worker)
    story.later(100.0)
    story.tell(story.client, m.Submit(100, 1, [b"x"] * 45, options=m.Options(workers=("a",))))
    worker = story.worker("a")
    assert len(story.given(worker)) == SLICE
    steps(story, lambda: len(worker.assigned) == 45)


def test_a_restart_finds_a_session_half_dropped():
    story = JournaledStory(Settings(tuning=Tuning(slice_tasks=SLICE)))
    story.tell(story.client, m.Submit(1, 1, [b"x"] * 45))
    story.tell(story.client, m.Bye())
    assert tasks(story) > 30
    story.restart()
    assert not tasks(story)


@pytest.mark.parametrize("what", ["release", "cancel", "retry", "submit"])
def test_a_client_s_frames_are_bounded(what):
    client = Client(1)
    client.dialer.connected = True
    records = [Record(cid) for cid in range(1, 3001)]
    function = FunctionRef("f", b"d" * 16, b"blob")
    for record in records:
        client.submit(record, function, b"x")
    client.close_batch()
    cids = [record.cid for record in records]
    if what != "submit":
        client.dialer.session.take()
        if what == "retry":
            for record in records:
                record.state = State.ERROR
        getattr(client, what)(cids)
    frames = client.dialer.session.take()
    many = [[message for message in frame[2] if not isinstance(message, m.Function)] for frame in frames]
    sizes = [sum(len(message.args if what == "submit" else message.cids) for message in messages) for messages in many]
    assert sum(sizes) == 3000 and max(sizes) <= FRAME_MESSAGES
