"""Copies, scattered data, leaving workers, neighbours that save, and tasks that run alone: the scheduler's core by hand."""

from __future__ import annotations

import pytest

from twistdist.core.scheduler import Settings
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.settings import Tuning
from twistdist.testing.stories import Story
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return Story()


def stored(story, worker, **options):
    """(cid, attempt) of a task that has a value in ``worker``'s store."""
    cid = story.submit(**options)
    (compute,) = story.given(worker)
    story.done(worker, compute, None, 100)
    return cid, compute


def test_a_checkpointed_value_whose_worker_is_lost_is_read_again():
    story = Story(Settings(checkpoints="file:///c"))
    first, second = story.worker("a"), story.worker("b")
    cid = story.submit(key="kept", checkpoint=True)
    (compute,) = story.given(first)
    assert compute.checkpoint and not compute.restore
    story.tell(first, m.Done(compute.task, compute.attempt, None, 100, b"d", 5, True))
    assert story.outcome(cid).holders == [first.number]
    story.lost(first)
    story.tell(second, m.Rescued(first.number, True, []))  # its neighbour finds nothing
    (again,) = story.given(second)
    assert again.restore and again.checkpoint == compute.checkpoint and not again.inputs
    story.done(second, again, None, 100)
    assert story.outcome(cid).holders == [second.number]


def have(story, worker, copy):
    source = copy.source
    story.tell(worker, m.Have([m.Stored(source.task, source.attempt, source.size, source.digest)]))


def test_a_target_is_reached_kept_and_freed(story):
    first = story.worker("a")
    cid, _ = stored(story, first, replicas=2)
    assert story.outcome(cid)
    second = story.worker("b")
    (copy,) = story.said(second, m.Copy)
    have(story, second, copy)
    third = story.worker("c")
    assert not story.said(third, m.Copy)
    story.lost(second)
    story.later(1.0)
    (copy,) = story.said(third, m.Copy)
    have(story, third, copy)
    story.tell(story.client, m.Release([cid]))
    assert story.said(first, m.Free) and story.said(third, m.Free) and not story.core.tasks


@pytest.mark.says.with_args(m.Rescue)
def test_a_copy_that_fails_is_tried_again_later_and_elsewhere_if_its_worker_goes(story):
    first, second = story.worker("a"), story.worker("b")
    cid, _ = stored(story, first, replicas=2)
    (copy,) = story.said(second, m.Copy)
    story.tell(second, m.CopyFailed(copy.source.attempt, [first.number]))
    assert story.said(first, m.Verify) and not story.said(second, m.Copy)
    story.later(0.3)
    assert story.said(second, m.Copy)
    third = story.worker("c")
    story.lost(second)
    story.later(1.0)
    assert story.said(third, m.Copy) and story.outcome(cid)


def test_never_is_told_with_the_second_copy_and_not_run_again(story):
    first, second = story.worker("a"), story.worker("b")
    cid, compute = stored(story, first, replay="never")
    assert story.outcome(cid) is None
    (copy,) = story.said(second, m.Copy)
    have(story, second, copy)
    assert isinstance(story.outcome(cid), m.Finished)
    for worker in (first, second):
        story.lost(worker)
    story.later(1.0)
    lost = story.outcome(cid)
    assert lost.error.kind == "DataLost" and "never" in lost.error.text and compute


def test_verify_compares_digests(story):
    first = story.worker("a")
    cid, _ = stored(story, first, replay="verify")
    story.lost(first)
    story.later(1.0)
    second = story.worker("b")
    story.tell(second, m.Rescued(first.number, True, []))  # its neighbour finds nothing
    (again,) = story.given(second)
    story.tell(second, m.Done(again.task, again.attempt, None, 100, b"other", 5))
    error = story.outcome(cid).error
    assert error.kind == "NonDeterministicReplay" and story.said(second, m.Free)


def scatter(story, **fields):
    story.cid += 1
    given = {"key": "", "size": 100, "digest": b"d", "value": None, "replicas": 2, "workers": [], "resupply": True} | fields
    story.tell(story.client, m.Scatter(story.cid, **given))
    return story.cid


def supplied(story, worker):
    (supply,) = story.said(story.client, m.Supply)
    story.tell(worker, m.Have([m.Stored(supply.task, supply.attempt, 100, b"d")]))
    return supply


def test_scattered_data_are_told_with_two_copies_and_supplied_again(story):
    first, second = story.worker("a"), story.worker("b")
    cid = scatter(story)
    supply = supplied(story, first)
    assert supply.workers == [first.number] and story.outcome(cid) is None
    (copy,) = story.said(second, m.Copy)
    have(story, second, copy)
    assert isinstance(story.outcome(cid), m.Finished)
    for worker in (first, second):
        story.lost(worker)
    story.later(1.0)
    third = story.worker("c")
    again = supplied(story, third)
    assert (again.task, again.attempt) == (supply.task, supply.attempt)
    story.tell(story.client, m.Release([cid]))
    assert story.said(story.client, m.DropData) == [m.DropData([cid])] and not story.core.tasks


def test_data_are_supplied_for_a_task_that_needs_them_after_their_future_is_gone(story):
    first = story.worker("a")
    cid = scatter(story, replicas=1)
    supplied(story, first)
    task = story.submit(cid)
    story.tell(story.client, m.Release([cid]))
    assert not story.said(story.client, m.DropData)
    story.lost(first)
    story.later(1.0)
    second = story.worker("b")
    supplied(story, second)
    (compute,) = story.given(second)
    story.done(second, compute)
    assert story.outcome(task)


def test_without_their_session_scattered_data_are_lost(story):
    other = story.core.greet(story.now, m.HelloClient(2))
    first = story.worker("a")
    cid = scatter(story, key="x", replicas=1)
    supplied(story, first)
    story.tell(other, m.Scatter(1, "x", 100, b"d", None, 1, [], False))  # the same content: the same data
    assert story.said(other, m.DropData) == [m.DropData([1])]  # it need not keep them
    story.tell(story.client, m.Bye())
    story.lost(first)
    story.later(1.0)
    (erred,) = [one for one in story.said(other) if isinstance(one, m.Erred)]
    assert erred.error.kind == "DataLost" and cid


def test_a_worker_that_can_not_be_reached_is_passed_over(story):
    first, second = story.worker("a"), story.worker("b")
    cid = scatter(story, replicas=1)
    (supply,) = story.said(story.client, m.Supply)
    story.tell(story.client, m.NotSupplied(cid, supply.workers[0], "no route"))
    story.later(0.3)
    (again,) = story.said(story.client, m.Supply)
    assert {*supply.workers, *again.workers} == {first.number, second.number}
    for _ in range(10):
        story.tell(story.client, m.NotSupplied(cid, again.workers[0], "no route"))
        story.later(6.0)
    assert "no route" in story.outcome(cid).error.text


def test_a_leaving_worker_is_stopped_when_nothing_is_held_by_it_alone(story):
    first, second = story.worker("a"), story.worker("b")
    cid, _ = stored(story, first)
    story.tell(first, m.Leaving(10.0))
    assert not story.said(first, m.Stop)
    (copy,) = story.said(second, m.Copy)
    have(story, second, copy)
    (stop,) = story.said(first, m.Stop)
    assert "could not" not in stop.text
    assert not story.given(first) and story.submit() and story.given(second) and cid


def test_a_leaving_worker_says_what_it_could_not_hand_over(story):
    first, second = story.worker("a"), story.worker("b")
    stored(story, first)
    story.tell(first, m.Leaving(1.0))
    assert story.said(second, m.Copy)
    story.later(1.1)
    (stop,) = story.said(first, m.Stop)
    assert "1 results" in stop.text
    story.tell(second, m.Leaving(1.0))
    assert story.said(second, m.Stop)  # nobody is left to take anything: at once


def test_a_neighbour_looks_whether_a_lost_worker_is_dead(story):
    first, second = story.worker("a"), story.worker("b")
    cid, compute = stored(story, first)
    running = story.submit()
    (other,) = story.given(first) or story.given(second)
    story.lost(first)
    (rescue,) = story.said(second, m.Rescue)
    story.tell(second, m.Rescued(rescue.worker, False, []))
    assert first.number in story.core.workers  # it lives: the grace goes on
    story.tell(second, m.Rescued(rescue.worker, True, [m.Stored(compute.task, compute.attempt, 100, b"d")]))
    assert first.number not in story.core.workers and story.core.statistics.replays == 0
    assert story.core.tasks[compute.task].holders == {second: None} and cid and running and other


def test_a_copy_that_was_called_off_is_not_taken_in(story):
    """Its worker said that it had it before the order to delete it arrived, and its connection broke (seed 1101301)."""
    first, second = story.worker("a"), story.worker("b")
    cid, compute = stored(story, first, replicas=2)
    (copy,) = story.said(second, m.Copy)
    dependent = story.submit(cid)
    (given,) = story.given(first) or story.given(second)
    runner = story.client.futures[dependent].worker
    story.done(runner, given, None, 100)
    story.tell(story.client, m.Release([cid]))
    assert story.said(second, m.Free) == [m.Free([compute.attempt])]
    story.tell(runner, m.Missing([given.attempt]))  # now the value is needed again, and is computed again
    have(story, second, copy)
    task = story.core.tasks[compute.task]
    assert task.holders is None and not second.holds and story.said(second, m.Free)
    have(story, second, copy)  # a copy that it has now
    assert second in task.holders and story.said(first, m.Copy) and story.said(second, m.Abort)


def test_moves_free_the_old_copy_when_the_new_one_is_there(story):
    first = story.worker("a")
    for _ in range(4):
        stored(story, first)
    second = story.worker("b")
    assert story.core.parts.copies.rebalance(None) == 2
    story.core.tick(story.now)
    for copy in story.said(second, m.Copy):
        have(story, second, copy)
    assert len(first.holds) == 2 == len(second.holds) and len(story.said(first, m.Free)) == 2


def test_a_copy_that_is_needed_is_not_moved_away(story):
    """Two copies were wanted and one had been made: it was moved, and there was one again (seed 1004569)."""
    first = story.worker("a")
    cids = [stored(story, first)[0] for _ in range(4)]
    second = story.worker("b")
    for cid in cids:
        story.tell(story.client, m.Query(cid, "replicate", [2, cid]))
    copies = story.said(second, m.Copy)
    story.tell(second, *[m.CopyFailed(copy.source.attempt, [first.number]) for copy in copies])
    assert len(copies) == 4 == len(story.said(first, m.Verify)) and story.core.parts.copies.rebalance(None) == 0


def test_a_copy_that_is_being_moved_stays_if_it_is_needed_by_then(story):
    first = story.worker("a")
    cids = [stored(story, first)[0] for _ in range(4)]
    second = story.worker("b")
    assert story.core.parts.copies.rebalance(None) == 2
    story.core.tick(story.now)
    for cid in cids:
        story.tell(story.client, m.Query(cid, "replicate", [2, cid]))
    for copy in story.said(second, m.Copy):
        have(story, second, copy)
    assert len(first.holds) == len(second.holds) == 4 and not story.said(first, m.Free)


def killed_under(story, task_cid):
    worker = story.worker("w", slots=2)
    computes = story.given(worker)
    story.lost(worker)
    story.later(1.0)
    return computes


def test_a_task_exposed_twice_runs_alone_and_is_charged_then(story):
    bad, good = story.submit(crash_limit=1), story.submit()
    for _ in range(Tuning().isolated_after):
        assert len(killed_under(story, bad)) == 2
    (alone,) = killed_under(story, bad)
    outcomes = [one for one in story.said(story.client) if isinstance(one, m.Erred)]
    assert len(outcomes) == 1 and "ran alone" in outcomes[0].error.text and alone
    assert len(killed_under(story, good)) == 1


def test_a_parent_that_runs_alone_gives_way_to_its_children(story):
    parent = story.submit()
    for _ in range(Tuning().isolated_after):
        killed_under(story, parent)
    worker = story.worker("w", slots=2)
    (compute,) = story.given(worker)
    child = story.submit()
    assert not story.given(worker)
    story.tell(worker, m.Parked(compute.attempt, True))
    assert story.given(worker) and child
    check_scheduler(story.core)


def test_a_task_s_session_lives_as_long_as_the_task(story):
    worker = story.worker("w")
    parent = story.submit()
    (compute,) = story.given(worker)
    inner = story.core.greet(story.now, m.HelloClient(77, "", compute.task))
    story.lost(inner)
    story.later(500.0)
    assert 77 in story.core.clients
    story.done(worker, compute)
    assert 77 not in story.core.clients and parent


def test_intake_bounds_what_a_worker_is_given(story):
    worker = story.worker("w", slots=2)
    story.tell(worker, m.Intake(0, "no executors"))
    story.submit()
    assert not story.given(worker)
    story.tell(worker, m.Intake(1, "memory"))
    story.submit()
    assert len(story.given(worker)) == 1
    story.tell(worker, m.Intake(2, ""))
    assert len(story.given(worker)) == 1


@pytest.mark.says.with_args(m.Rescue)
def test_another_session_that_scattered_the_same_supplies_it(story):
    other = story.core.greet(story.now, m.HelloClient(2))
    first = story.worker("a")
    scatter(story, key="x", replicas=1)
    supplied(story, first)
    story.tell(other, m.Scatter(1, "x", 100, b"d", None, 1, [], True))
    story.tell(story.client, m.Bye())
    story.lost(first)
    second = story.worker("b")
    story.later(1.0)
    (supply,) = story.said(other, m.Supply)
    assert supply.cid == 1 and supply.workers == [second.number]


def test_what_finishes_on_a_leaving_worker_is_handed_over_too(story):
    first, second = story.worker("a"), story.worker("b")
    story.submit()
    story.submit()
    (compute,) = story.given(first)
    story.tell(first, m.Leaving(10.0))
    assert not story.said(first, m.Stop)
    story.done(first, compute, None, 100)
    (copy,) = story.said(second, m.Copy)
    assert not story.said(first, m.Stop)
    have(story, second, copy)
    assert story.said(first, m.Stop)


def test_a_leaving_worker_does_not_wait_for_what_nobody_can_take(story):
    first, second = story.worker("a"), story.worker("b")
    scatter(story, replicas=1, workers=["a"])
    supplied(story, first)
    story.tell(first, m.Leaving(10.0))
    (stop,) = story.said(first, m.Stop)
    assert "could not be handed over" in stop.text and not story.said(second, m.Copy)


def test_scattered_data_are_told_when_nobody_else_can_take_a_copy(story):
    first, second = story.worker("a"), story.worker("b")
    cid = scatter(story)
    supplied(story, first)
    (copy,) = story.said(second, m.Copy)
    story.tell(second, m.CopyFailed(copy.source.attempt, []))
    assert isinstance(story.outcome(cid), m.Finished)
    story.later(1.0)
    assert story.said(second, m.Copy)  # it is tried again all the same


def test_a_move_frees_the_old_copy_only_when_the_target_holds(story):
    first, second = story.worker("a"), story.worker("b")
    _, compute = stored(story, first, replicas=2)
    (copy,) = story.said(second, m.Copy)
    have(story, second, copy)
    third = story.worker("c")
    task = story.core.tasks[compute.task]
    story.core.parts.copies.move(task, first, third)
    story.worker("d")
    assert first in task.holders and not story.said(first, m.Free)
    (move,) = story.said(third, m.Copy)
    have(story, third, move)
    assert set(task.holders) == {second, third} and story.said(first, m.Free)


def test_a_store_is_saved_by_a_neighbour_that_comes_later(story):
    first = story.worker("a")
    stored(story, first)
    story.lost(first)
    second = story.worker("b")
    assert [one.worker for one in story.said(second, m.Rescue)] == [first.number]


def test_a_value_that_must_not_be_computed_twice_is_kept_for_what_depends_on_it(story):
    first, second = story.worker("a"), story.worker("b")
    cid, compute = stored(story, first, replay="never")
    (copy,) = story.said(second, m.Copy)
    have(story, second, copy)
    after = story.submit(cid)
    given = story.given(first) or story.given(second)
    story.done(first if given[0].task in {t.number for t in first.assigned} else second, given[0], None, 10)
    story.tell(story.client, m.Release([cid]))
    assert story.core.tasks[compute.task].holders
    story.tell(story.client, m.Release([after]))
    assert not story.core.tasks


def test_a_leaving_worker_finishes_what_runs_although_nobody_else_is_there(story):
    only = story.worker("a")
    story.submit()
    (compute,) = story.given(only)
    story.tell(only, m.Leaving(10.0))
    assert not story.said(only, m.Stop)
    story.done(only, compute, b"small")
    (stop,) = story.said(only, m.Stop)
    assert "could not" not in stop.text


def test_a_patient_worker_waits_for_somebody_who_takes_what_it_holds(story):
    first = story.worker("a")
    stored(story, first)
    story.tell(first, m.Leaving(60.0, "its lifetime is over", True))
    story.later(30.0)
    assert not story.said(first, m.Stop)
    second = story.worker("b")
    (copy,) = story.said(second, m.Copy)
    have(story, second, copy)
    (stop,) = story.said(first, m.Stop)
    assert "its lifetime is over" in stop.text and "could not" not in stop.text


def test_the_earliest_of_several_ends_counts(story):
    first = story.worker("a")
    stored(story, first)
    story.tell(first, m.Leaving(600.0, "its lifetime is over", True))
    story.tell(first, m.Leaving(5.0, "it was told to stop", True))
    story.tell(first, m.Leaving(60.0, "something later", True))
    story.later(4.0)
    assert not story.said(first, m.Stop)
    story.later(1.1)
    (stop,) = story.said(first, m.Stop)
    assert "it was told to stop" in stop.text and "1 results" in stop.text


def test_what_is_cut_short_by_an_end_is_not_suspected(story):
    first, second = story.worker("a"), story.worker("b")
    cid = story.submit()
    story.submit()
    (compute,) = story.given(first)
    story.tell(first, m.Leaving(1.0))
    story.later(1.1)
    assert story.said(first, m.Stop)
    story.lost(first)
    assert story.said(second, m.Rescue)
    story.core.parts.fleet.gone(story.now, first, "its process is gone")
    task = story.client.futures[cid]
    assert task.attempt != compute.attempt or task.worker is None
    assert task.history is None or not task.history.exposed


@pytest.mark.says.with_args(m.Rescue)
def test_data_on_their_way_to_a_worker_that_is_gone_are_asked_for_again():
    story = Story()
    workers = {worker.number: worker for worker in (story.worker("a"), story.worker("b"))}
    story.tell(story.client, m.Scatter(1, "", 10, b"d", None, 1, [], True))
    (supply,) = story.said(story.client, m.Supply)
    story.lost(workers.pop(supply.workers[0]))
    story.later(story.core.settings.worker_grace)
    (again,) = story.said(story.client, m.Supply)
    assert again.workers == list(workers) and again.attempt == supply.attempt


def test_data_that_only_an_ended_session_could_supply_are_lost():
    story = Story()
    worker = story.worker()
    story.tell(story.client, m.Scatter(1, "k", 10, b"d", None, 1, [], True))
    other = story.core.greet(story.now, m.HelloClient(2))
    story.tell(other, m.Query(1, "watch", [[1, "k"]]))
    story.said(story.client)
    story.tell(story.client, m.Bye())
    (erred,) = story.said(other, m.Erred)
    assert erred.error.kind == "DataLost" and not worker.holds


def test_data_that_nobody_needs_any_more_end_with_their_session():
    """The first data that were lost failed the task that needed the others, which were awaited from nobody (seed 1020575)."""
    story = Story(Settings(tuning=Tuning(slice_tasks=1, max_behind=0)))
    story.worker()
    story.tell(story.client, *[m.Scatter(cid, f"k{cid}", 10, b"d", None, 1, [], True) for cid in (1, 2, 3)])
    story.cid = 3
    story.submit(1, 2, 3, key="x")
    other = story.core.greet(story.now, m.HelloClient(2))
    story.tell(other, m.Query(1, "watch", [[1, "x"]]))
    story.tell(story.client, m.Release([1, 2, 3]))
    story.said(story.client)
    story.tell(story.client, m.Bye())
    (erred,) = story.said(other, m.Erred)
    assert erred.error.kind == "DataLost"


@pytest.mark.says.with_args(m.Verify)
def test_a_client_that_could_not_fetch_a_value_is_told_at_once_of_a_copy_that_it_does_not_know(story):
    """It waited for 0.2 s, for each of its values in turn."""
    first, second = story.worker("a"), story.worker("b")
    cid, compute = stored(story, first, replicas=2)
    assert story.outcome(cid).holders == [first.number]
    (copy,) = story.said(second, m.Copy)
    have(story, second, copy)
    story.tell(story.client, m.Unreachable(cid, compute.attempt, [first.number]))
    assert story.outcome(cid).holders == [second.number, first.number]  # the one that can be reached comes first


@pytest.mark.says.with_args(m.Verify)
def test_a_client_that_could_not_fetch_a_value_is_told_again_where_it_is():
    story = Story()
    worker, cid = story.worker(), story.submit()
    (compute,) = story.given(worker)
    story.done(worker, compute, None, 100)
    assert isinstance(story.outcome(cid), m.Finished)
    story.tell(story.client, m.Unreachable(cid, compute.attempt, [worker.number]))
    assert story.outcome(cid) is None
    story.later(story.core.settings.tuning.tell_again_s)
    assert story.outcome(cid).holders == [worker.number]
