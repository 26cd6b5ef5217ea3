"""What the scheduler tells of the work that waits, and workers that leave only if nothing is lost by it."""

from __future__ import annotations

import time

import pytest

from tests.core.test_queries import Asking, finished
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return Asking()


def waiting(story):
    return {(tuple(sorted(needs.items())), tuple(names)): rest for needs, names, *rest in story.ask("demand")["waiting"]}


def loads(story):
    return {name: rest for name, *rest in story.ask("demand")["workers"]}


def test_waiting_tasks_are_counted_by_what_they_need(story):
    for _ in range(3):
        story.submit()
    story.submit(resources={"GPU": 1_000_000})
    story.submit(workers=["b", "a"])
    story.submit(workers=["a"], allow_other_workers=True)
    told = waiting(story)
    assert told == {((), ()): [4, 0, 4], ((("GPU", 1_000_000),), ()): [1, 0, 1], ((), ("a", "b")): [1, 0, 1]}
    assert story.ask("demand")["unfinished"] == 6


def test_expected_time_is_that_of_earlier_runs(story):
    worker = story.worker("a")
    story.submit()
    (compute,) = story.given(worker)
    story.done(worker, compute, us=2_000_000)
    for _ in range(12):
        story.submit()
    running = story.given(worker)
    ((tasks, us, unknown),) = waiting(story).values()
    assert (tasks, us, unknown) == (11, 22_000_000, 0)  # the one that was given ahead waits too
    assert len(running) == 2 and loads(story)["a"][:3] == [1, 1, 0.0]


def test_a_worker_tells_since_when_it_is_idle_and_what_it_holds(story):
    worker = story.worker("a", 2, resources={"GPU": 1})
    finished(story, worker)
    story.later(7.0)
    assert loads(story) == {"a": [2, 0, 7.0, 100, 1, "connected", {"GPU": 1}, 0]}


def test_a_task_that_waits_for_others_takes_no_slot_but_its_worker_is_not_idle(story):
    worker = story.worker("a")
    story.submit()
    (compute,) = story.given(worker)
    story.tell(worker, m.Parked(compute.attempt, True))
    story.later(7.0)
    slots, running, idle, *_, parked = loads(story)["a"]
    assert (slots, running, idle, parked) == (1, 0, 0.0, 1)


def test_tasks_beside_the_slots_do_not_wait_for_one(story):
    story.submit(beside=True, workers=["a"])
    assert not waiting(story)


def test_it_is_told_at_once_however_much_waits(story):
    """Sums are kept: nobody looks at 100,000 tasks."""
    for number in range(1_000):
        story.core.greet(0.0, hello(number))
    cids = range(1, 100_001)
    story.core.receive(0.0, story.client, [m.Submit(1, 1, [b""] * len(cids), [[]] * len(cids), None, None)])
    while story.core.wake == 0.0:
        story.core.tick(0.0)
    began = time.perf_counter()
    answer = story.core.parts.queries.answer(0.0, story.client, "demand", [])
    took = time.perf_counter() - began
    ((_, _, tasks, _, unknown),) = answer["waiting"]
    assert tasks == unknown == 96_000 and len(answer["workers"]) == 1_000
    assert took < 0.2  # it takes some 3 ms


def hello(number):
    return m.HelloWorker(number + 1, f"w{number}", number + 1, 1, 4, "tcp:x:1", "h", "", {}, [], [], [])


# ---- dismissed --------------------------------------------------------------------------------


@pytest.mark.says.with_args(m.Stop)
def test_an_idle_worker_that_is_dismissed_leaves(story):
    worker, _ = story.worker("a"), story.worker("b")
    assert story.ask("dismiss", 60.0, "a", "unknown") == ["a"]
    assert "no work for it" in story.said(worker, m.Stop)[0].text
    assert loads(story)["a"][5] == "leaving"


@pytest.mark.says.with_args(m.Stop, m.Copy)
def test_what_only_it_holds_is_elsewhere_before_it_leaves(story):
    worker, other = story.worker("a"), None
    finished(story, worker)
    other = story.worker("b")
    story.ask("dismiss", 60.0, "a")
    (copy,) = story.said(other, m.Copy)
    assert not story.said(worker, m.Stop) and loads(story)["a"][5] == "retiring"
    story.tell(other, m.Have([m.Stored(copy.source.task, copy.source.attempt, 100, b"d")]))
    assert story.said(worker, m.Stop)


@pytest.mark.parametrize("others", [0, 1])
def test_a_worker_stays_whose_values_have_nowhere_to_go(story, others):
    """Alone, or beside a worker whose disk is full."""
    worker = story.worker("a")
    finished(story, worker)
    other = story.worker("b") if others else None
    story.ask("dismiss", 60.0, "a")
    for _ in range(80):
        for copy in story.said(other, m.Copy) if other else ():
            story.tell(other, m.CopyFailed(copy.source.attempt, []))
        story.later(1.0)
    assert not story.said(worker, m.Stop)
    assert loads(story)["a"][5] == "connected"
    story.submit()
    story.submit()
    assert len([one for one in (worker, other) if one and story.given(one)]) == 1 + others  # it is given work again


@pytest.mark.says.with_args(m.Recall, m.Stop)
def test_a_running_task_ends_first_even_if_no_worker_is_left(story):
    worker = story.worker("a")
    story.submit()
    (compute,) = story.given(worker)
    story.ask("dismiss", 60.0, "a")
    story.later(30.0)
    assert not story.said(worker, m.Stop)
    story.done(worker, compute)
    assert story.said(worker, m.Stop)


@pytest.mark.says.with_args(m.Recall)
def test_a_worker_whose_task_does_not_end_in_time_stays(story):
    worker, _ = story.worker("a"), story.worker("b")
    story.submit(workers=["a"])
    story.ask("dismiss", 60.0, "a")
    story.later(61.0)
    assert loads(story)["a"][5] == "connected" and not story.said(worker, m.Stop)


@pytest.mark.says.with_args(m.Recall)
def test_data_that_could_go_nowhere_else_go_to_a_worker_that_stays(story):
    story.worker("a")
    story.submit(workers=["a"])
    story.ask("dismiss", 60.0, "a")
    story.tell(story.client, m.Scatter(50, "x", 100, b"d", None, 1, [], True))
    assert not story.said(story.client, m.Supply)
    story.tell(story.client, m.Query(2, "dismiss", [60.0]))
    assert story.said(story.client, m.Supply)


@pytest.mark.says.with_args(m.Recall)
def test_who_is_not_named_again_stays(story):
    worker, _ = story.worker("a"), story.worker("b")
    story.submit(workers=["a"])
    story.ask("dismiss", 60.0, "a")
    assert loads(story)["a"][5] == "retiring"
    story.ask("dismiss", 60.0)
    assert loads(story)["a"][5] == "connected"
    assert not story.said(worker, m.Stop)


@pytest.mark.says.with_args(m.Recall, m.Stop)
def test_an_order_to_retire_is_not_taken_back(story):
    worker, _ = story.worker("a"), story.worker("b")
    story.submit(workers=["a"])
    story.ask("dismiss", 60.0, "a")
    story.ask("retire", 5.0, "a")
    story.ask("dismiss", 60.0)
    assert loads(story)["a"][5] == "leaving"
    story.later(6.0)
    assert "retired by client" in story.said(worker, m.Stop)[0].text


@pytest.mark.says.with_args(m.Stop, m.Copy)
def test_retire_tries_again_when_a_copy_fails(story):
    """It went at once, with the only copy, when the only other worker had failed once to make one."""
    worker = story.worker("a")
    finished(story, worker)
    other = story.worker("b")
    story.ask("retire", 60.0, "a")
    (copy,) = story.said(other, m.Copy)
    story.tell(other, m.CopyFailed(copy.source.attempt, []))
    assert not story.said(worker, m.Stop)
    story.later(1.0)
    (copy,) = story.said(other, m.Copy)
    story.tell(other, m.Have([m.Stored(copy.source.task, copy.source.attempt, 100, b"d")]))
    assert "could not be handed over" not in story.said(worker, m.Stop)[0].text


@pytest.mark.says.with_args(m.Stop, m.Copy)
def test_retire_ends_with_its_time_and_says_what_is_lost(story):
    worker = story.worker("a")
    finished(story, worker)
    other = story.worker("b")
    story.ask("retire", 60.0, "a")
    for _ in range(70):
        for copy in story.said(other, m.Copy):
            story.tell(other, m.CopyFailed(copy.source.attempt, []))
        story.later(1.0)
    assert "1 results were held by it alone and could not be handed over" in story.said(worker, m.Stop)[0].text


def test_no_time_is_refused(story):
    story.worker("a")
    with pytest.raises(ValueError, match="is not a number of seconds"):
        story.ask("dismiss", -1.0, "a")
