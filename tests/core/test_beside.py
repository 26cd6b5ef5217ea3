"""Tasks beside the slots, of ``client.run``: at once, in a process of their own, once."""

from __future__ import annotations

import pytest

from tests.core.test_worker import compute, effects, given, make, said
from twistdist.core.worker import Death
from twistdist.core.worker import effects as fx
from twistdist.core.worker.executors import MAX_BESIDE
from twistdist.testing.stories import Story
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return Story()


def test_it_is_given_to_its_worker_though_all_slots_are_busy(story):
    worker = story.worker("a")
    story.worker("b")
    story.submit(workers=("a",))
    (first,) = story.given(worker)
    cid = story.submit(workers=("a",), beside=True)
    (second,) = story.given(worker)
    assert second.beside and not first.beside and worker.given == 1
    story.done(worker, second)
    assert isinstance(story.outcome(cid), m.Finished) and worker.given == 1


def test_it_is_not_run_again_when_its_worker_is_lost(story):
    worker = story.worker("a")
    cid = story.submit(workers=("a",), beside=True)
    story.given(worker)
    story.core.parts.fleet.gone(story.now, worker, "killed")
    story.core.tick(story.now)
    error = story.outcome(cid).error
    assert error.kind == "NoValidWorker" and "a was lost while it ran" in error.text and error.worker == "a"


def test_it_goes_on_when_its_worker_comes_back(story):
    worker = story.worker("a")
    cid = story.submit(workers=("a",), beside=True)
    (order,) = story.given(worker)
    story.core.connection_lost(story.now, worker)
    story.core.reconnected(story.now, worker)
    story.done(worker, order)
    assert isinstance(story.outcome(cid), m.Finished)


def start(worker, number):
    worker.executor_started(0.0, number)


def started(worker):
    return [effect.number for effect in effects(worker, fx.StartExecutor)]


def test_a_worker_starts_a_process_for_it_and_ends_it_afterwards():
    worker = make(slots=1)
    worker.receive(0.0, [compute(1), compute(2, beside=True)])
    told = effects(worker)
    assert [effect.number for effect in told if isinstance(effect, fx.StartExecutor)] == [1]
    assert [message.attempt for effect in told if isinstance(effect, fx.Give) for message in effect.messages[-1:]] == [1]
    start(worker, 1)
    assert given(worker) == [2]
    worker.executor_outcomes(0.0, 1, [m.Done(2, 2, b"v", 1, b"", 5)])
    assert [effect.number for effect in effects(worker, fx.EndExecutor)] == [1]
    assert [message.attempt for message in said(worker) if isinstance(message, m.Done)] == [2]
    worker.executor_ended(0.0, 1, Death("exit 0"))
    assert not effects(worker, fx.StartExecutor) and list(worker.executors) == [0]


def test_a_process_that_does_not_start_is_started_again():
    worker = make()
    worker.receive(0.0, [compute(1, beside=True)])
    assert started(worker) == [1]
    worker.executor_ended(0.0, 1, Death("exit 1"))
    assert started(worker) == [1]
    start(worker, 1)
    assert given(worker) == [1]


def test_one_that_nobody_wants_any_more_leaves_no_process():
    worker = make()
    worker.receive(0.0, [compute(1, beside=True), m.Abort([1], False)])
    assert started(worker) in ([], [1])
    if 1 in worker.executors:
        start(worker, 1)
        assert [effect.number for effect in effects(worker, fx.EndExecutor)] == [1]
    assert not worker.jobs


def test_the_death_of_its_process_is_told():
    worker = make()
    worker.receive(0.0, [compute(1, beside=True)])
    start(worker, 1)
    worker.executor_ended(0.0, 1, Death("SIGSEGV", running=1))
    (crashed,) = [message for message in said(worker) if isinstance(message, m.Crashed)]
    assert crashed.exit == "SIGSEGV" and 1 not in worker.executors


def test_it_takes_no_slot_when_it_waits_for_others():
    worker = make()
    worker.receive(0.0, [compute(1, beside=True)])
    start(worker, 1)
    effects(worker)
    worker.executor_outcomes(0.0, 1, [m.Waits(1, []), m.Resumes(1)])
    assert [effect.attempt for effect in effects(worker, fx.GoOn)] == [1]
    assert not [message for message in said(worker) if isinstance(message, m.Parked)]


def test_at_most_so_many_run_at_a_time():
    worker = make()
    worker.receive(0.0, [compute(number, beside=True) for number in range(1, MAX_BESIDE + 3)])
    numbers = started(worker)
    assert len(numbers) == MAX_BESIDE
    for number in numbers:
        start(worker, number)
    assert len(given(worker)) == MAX_BESIDE
    worker.executor_outcomes(0.0, numbers[0], [m.Done(1, 1, b"v", 1, b"", 5)])
    worker.executor_ended(0.0, numbers[0], Death("exit 0"))
    assert started(worker) == [numbers[0]]
