"""Failed tasks that a client wants to be run again."""

from __future__ import annotations

import pytest

from twistdist.core.client import Client, Record, State
from twistdist.core.client.records import FunctionRef
from twistdist.testing.stories import JournaledStory, Story
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return Story()


def fails(story, worker):
    """The task that the worker was given last raises."""
    (compute,) = story.given(worker)
    story.tell(worker, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "odd"), 5))


def ends(story, worker):
    (compute,) = story.given(worker)
    story.done(worker, compute)


def test_a_failed_task_is_run_again_after_the_failed_ones_among_its_inputs(story):
    worker = story.worker("a")
    first = story.submit()
    second = story.submit(first)
    third = story.submit(second)
    fails(story, worker)
    assert isinstance(story.outcome(first), m.Erred) and not story.given(worker)
    story.tell(story.client, m.Retry([third]))
    ends(story, worker)
    ends(story, worker)
    ends(story, worker)
    told = {message.cid for message in story.said(story.client, m.Finished)}
    assert told == {first, second, third}


def test_all_retries_and_crashes_are_forgiven(story):
    worker = story.worker("a")
    cid = story.submit(retries=1)
    fails(story, worker)
    fails(story, worker)
    assert isinstance(story.outcome(cid), m.Erred)
    story.tell(story.client, m.Retry([cid]))
    fails(story, worker)
    assert story.outcome(cid) is None
    ends(story, worker)
    assert isinstance(story.outcome(cid), m.Finished)


def test_what_was_refused_at_birth_is_refused_again(story):
    story.worker("a")
    story.submit(key="k")
    story.tell(story.client, m.Submit(10, 1, [b"other"], None, ["k"]))
    assert story.outcome(10).error.kind == "KeyConflict"
    story.tell(story.client, m.Retry([10]))
    assert story.outcome(10).error.kind == "KeyConflict"


@pytest.mark.parametrize("cid", [1, 99])
def test_what_has_not_failed_is_left_alone(story, cid):
    worker = story.worker("a")
    story.submit()
    story.tell(story.client, m.Retry([cid]))
    ends(story, worker)
    story.tell(story.client, m.Retry([cid]))
    assert not story.given(worker)


def test_an_input_that_was_dropped_is_computed_again_for_it(story):
    worker = story.worker("a")
    first = story.submit()
    (compute,) = story.given(worker)
    story.done(worker, compute, None, 100)
    second = story.submit(first)
    story.tell(story.client, m.Release([first]))
    fails(story, worker)
    story.tell(story.client, m.Retry([second]))
    (compute,) = story.given(worker)
    story.done(worker, compute, None, 100)
    ends(story, worker)
    assert isinstance(story.outcome(second), m.Finished)


def test_a_restarted_scheduler_does_not_read_the_old_error_again():
    story = JournaledStory()
    worker = story.worker("a", 2)
    cids = [story.submit(), story.submit()]
    for compute in story.given(worker):
        story.tell(worker, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "odd"), 5))
    story.write()
    story.tell(story.client, m.Retry([cids[0]]))
    story.restart()
    states = [task.state.value for task in story.core.tasks.values()]
    assert states == ["ready", "failed"]


def client_with_an_error(attempt):
    client = Client(1)
    record = Record(1)
    client.submit(record, FunctionRef("f", b"f" * 16, b"f"), b"")
    erred = m.Erred(1, m.ErrorInfo("", "ValueError", "odd", attempt=attempt))
    client.receive([erred])
    assert record.state is State.ERROR
    return client, record, erred


def test_what_a_restarted_scheduler_says_again_does_not_end_the_future_twice():
    client, record, erred = client_with_an_error(attempt=5)
    client.retry([1])
    assert client.receive([erred]) == [] and record.state is State.PENDING
    client.receive([m.Erred(1, m.ErrorInfo("", "ValueError", "odd", attempt=6))])
    assert record.state is State.ERROR


def test_an_error_without_an_attempt_ends_the_future_again():
    client, record, erred = client_with_an_error(attempt=0)
    client.retry([1])
    client.receive([erred])
    assert record.state is State.ERROR
    client.retry([1])
    client.receive([m.Finished(1, 7, b"v", 1)])
    assert record.state is State.FINISHED and record.error is None


def test_a_worker_that_reports_the_failure_once_more_after_a_restart_is_not_believed():
    """Its report was accepted, but the worker never heard so: its Hello has it again, when the task was retried already."""
    story = JournaledStory()
    worker = story.worker("a")
    cid = story.submit()
    (compute,) = story.given(worker)
    failed = m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "odd"), 5)
    story.tell(worker, failed)
    story.write()
    story.tell(story.client, m.Retry([cid]))
    story.restart()
    story.worker("a", finished=[failed])
    (task,) = story.core.tasks.values()
    assert task.state.value in ("ready", "assigned") and task.error is None


def test_a_failed_task_of_a_process_that_died_is_computed_again_for_the_next_one(story):
    """A script is killed and run again at once: its session is kept for a minute, but nobody waits for the old failure."""
    worker = story.worker("a")
    cid = story.submit(key="k")
    fails(story, worker)
    assert isinstance(story.outcome(cid), m.Erred)
    old, story.client = story.client, story.core.greet(story.now, m.HelloClient(77))
    story.tell(story.client, m.Function(1, "f", b"f", b"blob"))
    story.tell(story.client, m.Submit(50, 1, [b"1"], None, ["k"], None))
    assert isinstance(story.outcome(50), m.Erred)  # somebody still sees it: it is one task
    story.core.connection_lost(story.now, old)
    story.tell(story.client, m.Release([50]), m.Submit(51, 1, [b"1"], None, ["k"], None))
    ends(story, worker)
    assert isinstance(story.outcome(51), m.Finished)


def test_a_failure_that_was_retried_does_not_count_when_its_worker_comes_back_and_says_it_again():
    story = Story()
    worker, cid = story.worker(), story.submit()
    (compute,) = story.given(worker)
    crash = m.Crashed(compute.task, compute.attempt, "it used too much memory", "", "MemoryLimitExceeded")
    story.tell(worker, crash)
    assert isinstance(story.outcome(cid), m.Erred)
    story.core.connection_lost(story.now, worker)  # before it knows that this was heard
    story.tell(story.client, m.Retry([cid]))
    again = story.worker(finished=[crash])
    assert story.outcome(cid) is None
    (fresh,) = story.given(again)
    assert fresh.attempt != compute.attempt
    story.done(again, fresh)
    assert isinstance(story.outcome(cid), m.Finished)
