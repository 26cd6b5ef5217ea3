"""Which client is told of the attempts of traced tasks, and what."""

import pytest

from twistdist.testing.stories import Story
from twistdist.wire import messages as m

TRACE = f"00-{5:032x}-{7:016x}-01"


@pytest.fixture
def story():
    return Story()


def traced(story, client=None):
    return story.said(client or story.client, m.Traced)


def test_each_attempt_is_told_before_its_outcome(story):
    worker = story.worker()
    story.submit(trace=TRACE, group="g", retries=1)
    (first,) = story.given(worker)
    assert first.trace == TRACE
    story.now = 3.0
    story.tell(worker, m.Failed(first.task, first.attempt, m.ErrorInfo("", "ValueError", "x" * 5000, "T" * 50_000), 7))
    (told,) = traced(story)
    assert (told.trace, told.key, told.function, told.group, told.attempt) == (TRACE, "f-1-1", "f", "g", first.attempt)
    assert (told.worker, told.at, told.us, told.outcome, told.again) == ("w", 3.0, 7, "failed", False)
    assert told.error == "ValueError" and len(told.text) == 2_000 and len(told.traceback) == 20_000
    (second,) = story.given(worker)
    story.done(worker, second)
    assert [type(message) for message in story.said(story.client) if isinstance(message, m.Traced | m.Finished)] == [
        m.Traced,
        m.Finished,
    ]


def test_crashes_and_lost_workers_are_told(story):
    worker = story.worker()
    story.submit(trace=TRACE)
    (first,) = story.given(worker)
    story.tell(worker, m.Crashed(first.task, first.attempt, "SIGKILL (Killed)", "the stack", us=5))
    (told,) = traced(story)
    assert (told.outcome, told.error, told.text, told.traceback) == ("crashed", "TaskCrashed", "SIGKILL (Killed)", "the stack")
    (second,) = story.given(worker)
    story.now = 2.0
    story.lost(worker)
    story.later(1.0)
    (told,) = traced(story)
    assert (told.attempt, told.outcome, told.worker, told.us) == (second.attempt, "lost", "w", 3_000_000)


def test_a_replay_is_told_as_one_and_inputs_are_linked(story):
    worker = story.worker()
    first = story.submit(trace=TRACE)
    (compute,) = story.given(worker)
    story.done(worker, compute, None)
    untraced = story.submit()
    story.done(worker, *story.given(worker))
    story.submit(first, untraced, first, trace=TRACE)
    (using,) = story.given(worker)
    traced(story)
    story.tell(worker, m.Missing([compute.attempt]))
    story.tell(worker, m.InputLost(using.task, using.attempt, []))
    (replay,) = story.given(worker)
    story.done(worker, replay, None)
    assert [one.again for one in traced(story)] == [True]
    story.later(1.0)
    (again,) = story.given(worker)
    story.done(worker, again)
    assert [one.links for one in traced(story)] == [[(TRACE, replay.attempt)]]


def test_what_a_task_submits_is_told_to_its_user_s_client(story):
    worker = story.worker(slots=2)
    story.submit(trace=TRACE)
    (parent,) = story.given(worker)
    inner = story.core.greet(story.now, m.HelloClient(2, "", parent.task))
    story.tell(inner, m.Function(1, "g", b"g", b"blob"))
    story.tell(inner, m.Submit(1, 1, [b""], None, None, m.Options(trace=TRACE)))
    (child,) = story.given(worker)
    story.done(worker, child)
    assert [one.function for one in traced(story)] == ["g"] and not traced(story, inner)


def test_a_future_that_was_released_is_told_all_the_same(story):
    worker = story.worker(slots=2)
    first = story.submit(trace=TRACE)
    second = story.submit(first, trace=TRACE)
    story.tell(story.client, m.Release([first]))
    story.done(worker, *story.given(worker))
    assert len(traced(story)) == 1
    story.tell(story.client, m.Bye())
    assert second and not story.said(worker, m.Traced)


def test_nobody_is_told_of_what_is_not_traced(story):
    worker = story.worker()
    story.submit()
    story.done(worker, *story.given(worker))
    assert not traced(story)
