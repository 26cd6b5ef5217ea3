"""Tasks that nobody who is here may run: people hear of it."""

from __future__ import annotations

import pytest

from twistdist.core.scheduler import Settings, possible
from twistdist.core.scheduler.settings import Tuning
from twistdist.testing.stories import Story
from twistdist.wire import messages as m

GPU = {"GPU": 2_000_000}
TUNING = Tuning()


@pytest.fixture
def story():
    return Story()


def why(story, cid):
    story.tell(story.client, m.Query(1, "why", [cid]), m.Query(2, "status", []))
    why, status = story.said(story.client, m.Reply)
    return why.value["lacks"], status.value["lacks"]


def told(story):
    return [(one.cids, one.text) for one in story.said(story.client, m.Lacks)]


def test_without_workers_all_wait(story):
    cid = story.submit()
    story.later(TUNING.lacks_look_s)
    assert told(story) == [([], possible.NOBODY)] and why(story, cid) == (possible.NOBODY, {possible.NOBODY: 1})
    (incident,) = story.core.statistics.incidents
    assert (incident.kind, incident.what, incident.cause) == ("tasks wait", "1 tasks", possible.NOBODY)
    story.later(TUNING.lacks_look_s)
    assert told(story) == [] and len(story.core.statistics.incidents) == 1
    story.worker()
    story.later(TUNING.lacks_look_s)
    assert told(story) == [([], "")] and why(story, cid) == ("", {})


def test_a_resource_that_nobody_has_enough_of_is_named(story):
    story.worker("a", resources={"GPU": 1_000_000})
    story.worker("b")
    cids = [story.submit(resources=GPU), story.submit(resources=GPU)]
    story.later(TUNING.lacks_look_s)
    text = "it needs GPU=2; a has GPU=1; b has no resources"
    assert told(story) == [(cids, text)] and why(story, cids[0]) == (text, {text: 2})
    assert story.core.statistics.incidents[0].what.startswith("2 tasks, ")
    story.worker("c", resources=GPU)
    assert why(story, cids[1]) == ("", {})
    story.later(TUNING.lacks_look_s)
    assert told(story) == [(cids, "")]


@pytest.mark.says.with_args(m.Rescue)
def test_workers_that_are_not_connected_are_named(story):
    gone = story.worker("a")
    story.worker("b")
    cid = story.submit(workers=("a",))
    story.core.connection_lost(story.now, gone)
    assert why(story, cid)[0] == ""  # it was given to it
    other = story.submit(workers=("a", "c"))
    assert why(story, other)[0] == "only a, c may run it; connected are b"


def test_a_task_that_only_waits_for_a_slot_lacks_nothing(story):
    story.worker("a", resources=GPU)
    story.submit(resources=GPU)
    cid = story.submit(resources=GPU)
    story.later(TUNING.lacks_look_s)
    assert told(story) == [] and why(story, cid) == ("", {})


def test_why_a_task_failed_is_known_when_nobody_wants_it_any_more():
    story = Story(Settings(tuning=Tuning(max_failures=2)))
    worker = story.worker()
    keys = []
    for n in range(3):
        cid = story.submit()
        (compute,) = story.given(worker)
        story.tell(worker, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", f"number {n}"), 1))
        keys.append(story.core.tasks[compute.task].key)
        story.tell(story.client, m.Release([cid]))
    assert not story.core.tasks
    story.tell(story.client, *[m.Query(n, "why", [key]) for n, key in enumerate(keys)])
    first, second, third = (one.value for one in story.said(story.client, m.Reply))
    assert first is None and (second["error"], third["error"]) == ("ValueError: number 1", "ValueError: number 2")
    assert third["state"] == "failed" and third["key"] == keys[2]


def test_a_failure_is_forgotten_when_a_later_task_of_the_key_has_succeeded():
    story = Story()
    worker = story.worker("a")
    for outcome in ("fails", "succeeds"):
        cid = story.submit(key="k")
        (compute,) = story.given(worker)
        if outcome == "fails":
            story.tell(worker, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "odd"), 5))
        else:
            story.done(worker, compute)
        story.tell(story.client, m.Release([cid]))
    story.said(story.client)
    story.tell(story.client, m.Query(9, "why", ["k"]))
    (reply,) = story.said(story.client, m.Reply)
    assert reply.value is None
