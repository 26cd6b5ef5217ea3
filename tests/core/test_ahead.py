"""Tasks that are sent ahead, seen by the scheduler: docs/sent-ahead.rst."""

import gc
import weakref

import pytest

from tests.cost import bytecodes
from twistdist.core.digests import digest_of
from twistdist.core.scheduler import Settings
from twistdist.core.scheduler.ahead import MOST_INPUTS
from twistdist.testing.stories import JournaledStory, Story
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return Story(Settings())


def pair(story, worker, **options):
    """A task, and one that needs it, which was sent behind it.  Return both futures and both attempts."""
    first = story.submit(**options)
    second = story.submit(first)
    made, behind = story.given(worker)
    assert [(one.attempt, one.awaited) for one in behind.inputs] == [(made.attempt, True)]
    return first, second, made, behind


def test_a_task_is_sent_behind_the_one_that_makes_its_input(story):
    worker = story.worker()
    _, second, made, behind = pair(story, worker)
    story.done(worker, made, b"1")
    story.done(worker, behind, b"2")
    assert story.outcome(second).value == b"2" and not story.given(worker)
    story.end()


def test_what_was_sent_behind_a_task_that_the_worker_has_lost_is_run_again(story):
    """It waited for ever: only the lost task was given out again, as another attempt (seed 1052170)."""
    worker = story.worker()
    _, second, made, behind = pair(story, worker)
    for _ in range(2):
        beat = m.Beat(1, 0, worker.session.received, jobs=digest_of([behind.attempt]))
        story.core.beat(story.now, worker, beat, worker.session.sent)
    (audit,) = story.said(worker, m.Audit)
    story.tell(worker, m.Inventory(audit.number, [behind.attempt], None))
    told = story.said(worker)
    assert [one for one in told if isinstance(one, m.Abort)] == [m.Abort([behind.attempt], True)]
    again = [one for one in told if isinstance(one, m.Compute)]
    assert [one.task for one in again] == [made.task, behind.task]
    for compute in again:
        story.done(worker, compute)
    assert story.outcome(second).value == b"v"


def test_a_chain_of_short_tasks_goes_in_one_go_as_far_as_there_is_room(story):
    worker = story.worker()
    story.submit()
    story.done(worker, story.given(worker)[0], us=10)  # how long the function takes is known
    for _ in range(100):
        story.submit(*([] if story.cid == 1 else [story.cid]))
    chain = story.given(worker)
    assert len(chain) == 100 and len(worker.following) == 99
    for compute in chain:
        story.done(worker, compute, us=10)
    assert not worker.following and not worker.assigned and not story.core.parts.ahead.behind


def test_what_is_behind_does_not_take_the_place_of_others(story):
    worker = story.worker()
    pair(story, worker)
    story.submit()
    assert len(story.given(worker)) == 1  # one ahead, as if there was no task behind
    assert not story.core.parts.placement.overloaded(100.0) or worker.given > 1


@pytest.mark.parametrize(
    "how", ["many dependents", "resources", "another worker", "inputs on two workers", "parked", "many inputs"]
)
def test_who_is_not_sent_ahead(story, how):
    worker = story.worker("a", resources={"GPU": 1_000_000})
    first = story.submit()
    (made,) = story.given(worker)
    if how == "many dependents":
        story.tell(story.client, m.Submit(50, 1, [b"x", b"y"], [[first], [first]]))
    elif how == "resources":
        story.submit(first, resources={"GPU": 500_000})
    elif how == "another worker":
        story.worker("b")
        story.submit(first, workers=("b",))
    elif how == "inputs on two workers":
        other = story.worker("b")
        second = story.submit()
        assert story.given(other)
        story.submit(first, second)
    elif how == "many inputs":
        story.done(worker, made)
        before = [story.submit() for _ in range(MOST_INPUTS)]
        while computes := story.given(worker):
            for compute in computes:
                story.done(worker, compute)
        last = story.submit()
        assert story.given(worker)
        story.submit(*before, last)
    else:
        story.tell(worker, m.Parked(made.attempt, True))
        story.submit(first)
    assert not story.given(worker)


def test_the_cost_of_an_input_does_not_depend_on_how_many_there_are():
    def cost(count):
        story = Story(Settings())
        worker = story.worker(slots=2)
        story.submit()
        story.done(worker, story.given(worker)[0], us=5)
        story.core.receive(0.0, story.client, [m.Submit(1000, 1, [b"x"] * count)])
        story.core.receive(0.0, story.client, [m.Submit(100, 1, [b"x"], [list(range(1000, 1000 + count))])])

        def run():
            while computes := story.given(worker):
                for compute in computes:
                    story.core.receive(0.0, worker, [m.Done(compute.task, compute.attempt, b"v", 1, b"", 5)])
                story.core.tick(0.0)

        executed = bytecodes(run)
        assert not story.core.unfinished
        return executed / count

    assert cost(1200) < 2 * cost(300)


def test_a_task_for_this_worker_alone_is_sent_ahead(story):
    worker = story.worker("a")
    first = story.submit(workers=("a",))
    story.submit(first, workers=("a",))
    assert len(story.given(worker)) == 2


def test_two_inputs_on_one_worker(story):
    worker = story.worker(slots=2)
    first, second = story.submit(), story.submit()
    third = story.submit(first, second)
    one, two, behind = story.given(worker)
    assert {source.attempt for source in behind.inputs} == {one.attempt, two.attempt}
    story.done(worker, two, b"2")
    story.done(worker, one, b"1")
    story.done(worker, behind, b"3")
    assert story.outcome(third).value == b"3"


def test_the_worker_returns_it_when_its_input_fails(story):
    worker = story.worker()
    first, second, made, behind = pair(story, worker)
    story.tell(worker, m.Failed(made.task, made.attempt, m.ErrorInfo("", "ValueError", "bad"), 1))
    story.tell(worker, m.Recalled([behind.attempt]))
    told = {message.cid: message.error.text for message in story.said(story.client, m.Erred)}
    assert told == {first: "bad", second: "bad"} and not worker.assigned


def test_it_waits_again_when_its_input_is_run_again(story):
    worker = story.worker()
    _, second, made, behind = pair(story, worker, retries=1)
    story.tell(worker, m.Failed(made.task, made.attempt, m.ErrorInfo("", "ValueError", "bad"), 1))
    story.tell(worker, m.Recalled([behind.attempt]))
    (again,) = story.given(worker)
    story.done(worker, again, b"1")
    (behind_again,) = story.given(worker)
    assert (again.task, behind_again.task) == (made.task, behind.task)
    story.done(worker, behind_again, b"2")
    assert story.outcome(second).value == b"2"


def test_a_value_made_from_an_input_that_was_given_up_does_not_count(story):
    worker, other = story.worker("a"), story.worker("b", slots=0)
    _, second, made, behind = pair(story, worker)
    task = story.core.parts.registry.tasks[made.task]
    story.core.parts.lifecycle.requeue(task)  # for whatever reason; the worker does not know it yet
    story.core.tick(story.now)
    story.done(worker, made, b"1")  # stale
    story.done(worker, behind, b"wrong")
    assert story.outcome(second) is None and other.hello.slots == 0
    while second not in [message.cid for message in story.said(story.client, m.Finished)]:
        computes = story.given(worker)
        assert computes
        for compute in computes:
            story.done(worker, compute, b"right")


@pytest.mark.parametrize("how", ["raises", "crashes"])
def test_an_error_made_from_an_input_that_was_given_up_does_not_count_either(story, how):
    worker = story.worker()
    first = story.submit()
    second = story.submit(first, crash_limit=1)
    made, behind = story.given(worker)
    story.core.parts.lifecycle.requeue(story.core.tasks[made.task])  # for whatever reason; the worker does not know it yet
    story.core.tick(story.now)
    story.done(worker, made, b"1")  # stale
    if how == "raises":
        story.tell(worker, m.Failed(behind.task, behind.attempt, m.ErrorInfo("", "ValueError", "it got the wrong value"), 1))
    else:
        story.tell(worker, m.Crashed(behind.task, behind.attempt, "SIGSEGV", ""))
    while computes := story.given(worker):
        for compute in computes:
            story.done(worker, compute, b"right")
    outcome = story.outcome(second)
    assert isinstance(outcome, m.Finished) and outcome.value == b"right"


def test_a_worker_that_comes_back_does_not_go_on_with_it(story):
    worker = story.worker()
    _, second, made, behind = pair(story, worker)
    running = [(made.task, made.attempt), (behind.task, behind.attempt)]
    story.lost(worker)
    story.later(100.0)
    back = story.worker(running=running)
    (abort,) = story.said(back, m.Abort)
    assert abort.attempts == [behind.attempt]  # what it waits for may have been given to others in between
    story.done(back, made, b"1")
    (again,) = story.given(back)
    assert again.task == behind.task
    story.done(back, again, b"2")
    assert story.outcome(second).value == b"2"


def test_the_loss_of_the_worker_and_of_both_attempts(story):
    worker = story.worker("a")
    _, second, made, behind = pair(story, worker)
    story.lost(worker)
    story.later(100.0)
    other = story.worker("b")
    again, behind_again = story.given(other)
    assert (again.task, behind_again.task) == (made.task, behind.task)
    story.done(other, again)
    story.done(other, behind_again, b"2")
    assert story.outcome(second).value == b"2"


def bound_pair(story):
    """A task, and one that only worker "a" may run, sent behind it.  Return both attempts and the outcomes that "a" has."""
    worker = story.worker("a")
    first = story.submit()
    story.submit(first, workers=("a",))
    made, behind = story.given(worker)
    assert behind.inputs[0].awaited
    outcomes = [m.Done(one.task, one.attempt, value, 1, b"", 5) for one, value in ((made, b"old"), (behind, b"from old"))]
    return worker, made, behind, outcomes


@pytest.mark.parametrize("when", ["before the loss", "after the loss"])
def test_a_restarted_scheduler_does_not_accept_what_was_made_from_an_input_that_was_made_again(when):
    story = JournaledStory(Settings())
    worker, made, behind, outcomes = bound_pair(story)
    if when == "before the loss":
        story.restart()
        story.resume()
        worker = story.worker("a", running=[(one.task, one.attempt) for one in (made, behind)])
        assert len(worker.assigned) == 2
    story.lost(worker)
    story.later(100.0)
    other = story.worker("b")
    (again,) = story.given(other)
    story.done(other, again, b"new")
    if when == "after the loss":
        story.lost(other)
        story.restart()
        story.resume()
        story.later(100.0)
    back = story.worker("a", finished=outcomes)
    (behind_again,) = story.given(back)
    assert [(source.attempt, source.value) for source in behind_again.inputs] == [(again.attempt, b"new")]


def test_a_restarted_scheduler_adopts_both_and_accepts_both():
    story = JournaledStory(Settings())
    _, made, behind, outcomes = bound_pair(story)
    story.restart()
    story.resume()
    worker = story.worker("a", running=[(one.task, one.attempt) for one in (made, behind)])
    assert list(worker.following) == [story.core.tasks[behind.task]]
    for outcome in outcomes:
        story.tell(worker, outcome)
    assert [story.core.tasks[one.task].value for one in (made, behind)] == [b"old", b"from old"]
    assert not story.given(worker) and not story.core.parts.ahead.behind


def test_the_death_of_a_worker_is_no_mark_against_what_waited_there(story):
    worker = story.worker(slots=2)
    first, _, _, _ = pair(story, worker)
    beside = story.submit()
    story.given(worker)
    story.lost(worker)
    story.later(100.0)
    exposed = [task.cid for task in story.core.tasks.values() if task.history is not None and task.history.exposed]
    assert sorted(exposed) == [first, beside]


def test_tasks_that_nobody_wants_are_not_remembered_while_no_worker_has_room(story):
    seen = []
    for _ in range(20):
        first, second = story.submit(), story.submit(story.cid)
        seen += [weakref.ref(task) for task in story.core.tasks.values() if task.inputs]
        story.tell(story.client, m.Release([first, second]))
    gc.collect()
    assert len(seen) == 20 and not [one for one in seen if one() is not None]


def test_it_has_not_begun(story):
    worker = story.worker()
    first, second, _, behind = pair(story, worker)
    story.tell(story.client, m.Cancel([first, second], unstarted=True))
    assert [message.cid for message in story.said(story.client, m.Erred)] == [second]
    assert [message.attempts for message in story.said(worker, m.Abort)] == [[behind.attempt]]


def test_the_value_of_another_attempt_does_not_release_what_was_sent_behind_this_one():
    story = Story(Settings())
    worker = story.worker()
    first = story.submit()
    second = story.submit(first)
    assert len(story.given(worker)) == 2
    maker, follower = story.client.futures[first], story.client.futures[second]
    ahead = story.core.parts.ahead
    maker.value_attempt = maker.attempt + 1
    ahead.made(maker)
    assert follower in ahead.behind
    maker.value_attempt = maker.attempt
    ahead.made(maker)
    assert follower not in ahead.behind
