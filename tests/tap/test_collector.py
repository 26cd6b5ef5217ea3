"""Processes that never stand still for a full collection, and cores whose records need none."""

import gc
import weakref

import pytest
from twisted.internet.task import Clock

from twistdist.tap import collector
from twistdist.tap.collector import Collector
from twistdist.testing.stories import Story
from twistdist.wire import messages as m


class Node:
    """Part of a cycle."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def collecting(clock):
    collector = Collector(clock)
    collector.start()
    yield collector
    collector.stop()


def test_what_survived_is_not_looked_at_again(clock, collecting, monkeypatch):
    monkeypatch.setattr(collector, "FEW", 1 << 60)
    node = Node()
    clock.advance(collector.LOOK_S)
    gone = weakref.ref(node)
    del node
    gc.collect()
    assert gone() is not None, "it was frozen"
    clock.advance(collector.FULL_S)
    clock.advance(collector.LOOK_S)
    assert gone() is None, "few objects: they were collected"


def test_young_garbage_is_not_frozen(clock, collecting, monkeypatch):
    monkeypatch.setattr(collector, "FEW", -1)
    gone = weakref.ref(Node())
    clock.advance(collector.LOOK_S)
    assert gone() is None


def test_a_full_collection_of_many_objects_waits_for_a_day(clock, collecting, monkeypatch):
    monkeypatch.setattr(collector, "FEW", -1)
    node = Node()
    gone = weakref.ref(node)
    gc.freeze()
    del node
    for _ in range(20):
        clock.advance(collector.FULL_S)
    assert gone() is not None
    clock.advance(collector.LONGEST_S)
    assert gone() is None


def test_python_s_own_timing_returns(clock):
    before = gc.get_threshold()
    collecting = Collector(clock)
    collecting.start()
    assert gc.get_threshold() != before
    collecting.stop()
    assert gc.get_threshold() == before and not clock.getDelayedCalls() and not gc.get_freeze_count()


@pytest.mark.parametrize("how", ["release", "bye"])
def test_records_that_are_dropped_leave_no_cycles(how):
    story = Story()
    worker = story.worker(slots=4)
    first = story.submit()
    last = [story.submit(first, key=f"k{n}", replicas=1 + n % 2) for n in range(20)]
    story.submit(*last, retries=1)
    for stored in (False, True, False):
        for compute in story.given(worker):
            if stored:
                story.done(worker, compute, None, 100)
            else:
                story.done(worker, compute)
    tasks = [weakref.ref(task) for task in story.core.parts.registry.tasks.values()]
    compute = None
    gc.disable()
    try:
        story.tell(story.client, m.Release(list(range(1, story.cid + 1))) if how == "release" else m.Bye())
        story.later(1.0)
        left = [task().key for task in tasks if task() is not None]
    finally:
        gc.enable()
    assert not story.core.parts.registry.tasks and not left


def test_a_worker_that_is_ready_again_starts_nothing_twice(clock):
    before = gc.get_threshold()
    collecting = Collector(clock)
    collecting.start()
    collecting.start()  # each registration with a scheduler reports that the worker is ready
    assert len(clock.getDelayedCalls()) == 1
    collecting.stop()
    assert not clock.getDelayedCalls() and gc.get_threshold() == before
