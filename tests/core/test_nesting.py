"""Tasks that wait for tasks of their own without saying so."""

from __future__ import annotations

import pytest

from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.settings import Tuning
from twistdist.testing.stories import Story
from twistdist.wire import messages as m

TUNING = Tuning()


class Family(Story):
    """A story whose tasks have clients."""

    def parent(self, worker, **options):
        """A task that ``worker`` runs, and its client."""
        self.submit(**options)
        (compute,) = self.given(worker)
        client = self.core.greet(self.now, m.HelloClient(1000 + compute.task, "", compute.task))
        self.tell(client, m.Function(1, "child", b"child", b"blob"))
        return compute, client

    def child(self, client, cid=1, inputs=(), **options):
        given = m.Options(**options) if options else None
        self.tell(client, m.Submit(cid, 1, [b"%d" % cid], [list(inputs)], None, given))

    def later(self, seconds=TUNING.nested_look_s):
        self.now += seconds
        self.core.tick(self.now)
        check_scheduler(self.core)

    def parked(self, worker):
        return [one.attempt for one in self.said(worker, m.Park)]


@pytest.fixture
def family():
    return Family()


def test_a_parent_whose_child_finds_no_slot_is_parked(family):
    worker = family.worker()
    compute, client = family.parent(worker)
    family.child(client)
    assert family.parked(worker) == []  # there may be an end at once
    family.later()
    assert family.parked(worker) == [compute.attempt]
    (incident,) = family.core.statistics.incidents
    assert incident.kind == "slot lent" and "1 tasks of" in incident.cause
    family.tell(worker, m.Parked(compute.attempt, True))
    family.later(10)
    assert family.parked(worker) == []


def test_a_parent_that_waits_again_is_parked_again(family):
    worker = family.worker()
    compute, client = family.parent(worker)
    family.child(client)
    family.child(client, 2)
    for _ in range(2):
        family.later(TUNING.longest_nested_look_s)
        assert family.parked(worker) == [compute.attempt]
        family.tell(worker, m.Parked(compute.attempt, True))
        family.tell(worker, m.Parked(compute.attempt, False))


def test_a_slot_that_is_free_or_becomes_free_is_waited_for(family):
    worker = family.worker(slots=2)
    _, client = family.parent(worker)
    family.submit()
    family.child(client)
    family.later()
    assert family.parked(worker) == []


def test_another_worker_that_may_take_the_child_is_waited_for(family):
    a = family.worker("a")
    _, client = family.parent(a)
    b = family.worker("b")
    family.submit()
    family.child(client)
    family.child(client, 2, [1])
    family.later()
    assert family.parked(a) == family.parked(b) == []


def test_the_slot_that_the_child_can_use_is_freed(family):
    a = family.worker("a")
    _, of_a = family.parent(a)
    b = family.worker("b")
    on_b, of_b = family.parent(b)
    family.child(of_a, workers=("b",))
    family.child(of_b)
    family.tell(of_b, m.Release([1]))
    family.later()
    assert family.parked(a) == [] and family.parked(b) == [on_b.attempt]


def test_what_a_child_waits_for_counts(family):
    worker = family.worker()
    compute, client = family.parent(worker)
    family.child(client, 1)
    family.child(client, 2, [1])
    family.tell(client, m.Release([1]))
    family.later()
    assert family.parked(worker) == [compute.attempt]


def test_clear_leaves_the_session_of_a_running_task_alone(family):
    """Its connection was broken at that moment, and the task failed with SessionLost (seed 531127)."""
    worker = family.worker()
    compute, client = family.parent(worker)
    family.child(client)
    family.core.connection_lost(family.now, client)
    family.tell(family.client, m.Query(1, "clear", []))
    assert family.said(family.client, m.Reply)[0].value == {"sessions": 0, "tasks": 0}
    assert client.number in family.core.clients
    family.tell(worker, m.Done(compute.task, compute.attempt, b"v", 1, b"", 1))
    assert client.number not in family.core.clients and family.said(worker, m.Abort)


def test_a_session_is_not_kept_by_a_task_of_its_own(family):
    child = family.core.greet(family.now, m.HelloClient(2, parent=1))
    family.tell(child, m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b"own"]))
    family.core.connection_lost(family.now, child)
    family.later(3600)
    assert 2 not in family.core.clients and not family.core.tasks


def test_a_session_of_a_task_that_is_gone_ends_with_its_connection(family):
    """It was kept as long as that of any client, although nobody would ever resume it (seed 510596)."""
    child = family.core.greet(family.now, m.HelloClient(2, parent=77))
    family.tell(child, m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b"late"]))
    assert family.core.tasks
    family.core.connection_lost(family.now, child)
    assert 2 not in family.core.clients and not family.core.tasks
