"""Questions about the cluster, and orders that come as questions."""

from __future__ import annotations

import pytest

from twistdist.core.scheduler import queries
from twistdist.testing.stories import Story
from twistdist.wire import messages as m


class Asking(Story):
    """A story whose client asks."""

    asked = 0

    def ask(self, what, *args, again=False):
        """The answer; ``ValueError`` with the refusal's text."""
        self.asked += 1
        self.tell(self.client, m.Query(self.asked, what, list(args), again))
        (reply,) = [message for message in self.said(self.client, m.Reply) if message.query == self.asked]
        if reply.error:
            raise ValueError(reply.error)
        return reply.value


@pytest.fixture
def story():
    return Asking()


def finished(story, worker, **options):
    """The number of a future whose value is in the worker's store."""
    cid = story.submit(**options)
    (compute,) = story.given(worker)
    story.done(worker, compute, None, 100)
    return cid


def test_workers_are_told_with_what_they_do(story):
    worker = story.worker("a", 2)
    story.submit()
    told = story.ask("workers")["a"]
    assert (told["slots"], told["running"], told["state"], told["last_seen"]) == (2, 1, "connected", 0.0)
    story.core.connection_lost(story.now, worker)
    assert story.ask("workers")["a"]["state"] == "away"


@pytest.mark.says.with_args(m.Stop)
@pytest.mark.parametrize(
    "change, state",
    [
        (lambda story, worker: setattr(worker, "suspect", True), "suspect"),
        (lambda story, worker: setattr(worker, "resting", True), "stuck"),
        (lambda story, worker: story.core.parts.leaving.retire(story.now, worker, 60.0, "asked"), "retiring"),
        (lambda story, worker: story.tell(worker, m.Intake(1, "memory")), "paused"),
    ],
)
def test_the_state_of_a_worker_in_one_word(story, change, state):
    worker, _ = story.worker("a", 2), story.worker("b")
    change(story, worker)
    story.core.parts.placement.update(worker)
    assert story.ask("workers")["a"]["state"] == state


def test_who_has_what(story):
    worker = story.worker("a")
    cid = finished(story, worker, key="k")
    assert story.ask("who_has") == {"k": ["a"]} == story.ask("who_has", cid) == story.ask("who_has", "k")
    assert story.ask("who_has", "unknown") == {} and story.ask("has_what") == {"a": ["k"]}
    assert story.ask("has_what", "b") == {}


def test_futures_are_taken_up_by_key(story):
    finished(story, story.worker("a"), key="k")
    assert story.ask("watch", [50, "k"], [51, "unknown"]) == [50]
    assert story.client.futures[50] is story.core.parts.registry.keys["k"]
    with pytest.raises(ValueError, match="out of range or in use"):
        story.ask("watch", [50, "k"])
    assert story.ask("watch", [50, "k"], again=True) == [50]
    with pytest.raises(ValueError, match="out of range or in use"):
        story.ask("watch", [-1, "k"])


def test_why_tells_what_is_known_of_a_task(story):
    worker = story.worker("a")
    story.submit(key="k", retries=1)
    (compute,) = story.given(worker)
    story.tell(worker, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "no"), 5))
    told = story.ask("why", "k")
    assert (told["state"], told["raised"], told["worker"], told["lacks"]) == ("assigned", 1, "a", "")
    assert story.ask("why", "unknown") is None


def test_the_story_of_a_task_that_met_everything(story):
    """It raises, its process dies, its worker is lost, its value is lost with another: told in order, with ages."""
    worker = story.worker("a")
    cid = story.submit(key="k", retries=1)
    story.now += 1
    (compute,) = story.given(worker)
    story.tell(worker, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "odd\nmore"), 5))
    (compute,) = story.given(worker)
    story.tell(worker, m.Crashed(compute.task, compute.attempt, "SIGSEGV", "", us=10_000))
    story.given(worker)
    story.core.parts.fleet.gone(story.now, worker, "killed")
    story.core.tick(story.now)
    other = story.worker("b")
    (compute,) = story.given(other)
    story.now += 1
    story.done(other, compute, None, 100)
    story.core.parts.fleet.gone(story.now, other, "its host is gone")
    story.core.tick(story.now)
    story.now += 1
    ages, texts = zip(*story.ask("why", cid)["events"], strict=True)
    assert list(ages) == [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    assert list(texts) == [
        "it was submitted",
        "it raised ValueError on a: odd; it is run again (retry 1 of 1)",
        "its process ended on a after 0.01 s: SIGSEGV; it is run again (crash 1 of 3)",
        "a, which had been given it, was lost: killed",
        "b computed its value in 0.05 s",
        "its only copy was lost with b: its host is gone",
        "its value is needed again",
    ]


def test_of_a_task_with_many_events_the_last_are_kept(story):
    worker = story.worker("a")
    cid = story.submit(crash_limit=1_000)
    for _ in range(150):
        (compute,) = story.given(worker)
        story.tell(worker, m.Crashed(compute.task, compute.attempt, "SIGSEGV", ""))
    texts = [text for _, text in story.ask("why", cid)["events"]]
    assert (
        len(texts) == 102
        and texts[0] == "it was submitted"
        and "crash 51 of 1000" in texts[1]
        and "crash 150 of 1000" in texts[100]
    )


def test_the_status_counts_what_there_is(story):
    worker = story.worker("a")
    finished(story, worker)
    story.submit(workers=("nobody",))
    told = story.ask("status")
    assert told["tasks"] == {"done": 1, "ready": 1} and told["sessions"]["connected"] == 1
    assert list(told["lacks"].values()) == [1] and told["epoch"] == 1 and told["recovering"] is None
    assert told["journal"] == {"state": "none"} and (told["submitted"], told["done"]) == (2, 1)
    story.core.journal_is({"state": "ok"})
    assert story.ask("status")["journal"] == {"state": "ok"}


def test_incidents_are_told_with_their_age(story):
    story.core.parts.fleet.gone(story.now, story.worker("a"), "a test")
    story.later(5.0)
    (told,) = story.ask("incidents")
    assert (told["kind"], told["what"], told["cause"], told["age"]) == ("worker lost", "a", "a test", 5.0)
    assert story.ask("incidents", 1.0) == [] and len(story.ask("incidents", None)) == 1


def test_replicas_are_made_and_counted(story):
    first, second = story.worker("a"), story.worker("b")
    cid = finished(story, first)
    assert story.ask("replicate", 2, cid, "unknown") == 1
    assert story.ask("copying") == 1 == story.ask("copying", cid)
    (copy,) = story.said(second, m.Copy)
    source = copy.source
    story.tell(second, m.Have([m.Stored(source.task, source.attempt, source.size, source.digest)]))
    assert story.ask("copying") == 0 and sorted(*story.ask("who_has", cid).values()) == ["a", "b"]


def test_workers_are_retired_by_name(story):
    story.worker("a")
    worker = story.worker("b")
    assert story.ask("retire", 10.0, "b", "unknown") == ["b"]
    assert "retired by client" in story.said(worker, m.Stop)[0].text
    with pytest.raises(ValueError, match="number of seconds"):
        story.ask("retire", -1.0, "b")


def test_published_names(story):
    cid = finished(story, story.worker("a"), key="k")
    story.ask("publish", "name", b"shape", [cid])
    assert story.ask("datasets") == ["name"] and story.ask("dataset", "name") == [b"shape", ["k"]]
    with pytest.raises(ValueError, match="already published"):
        story.ask("publish", "name", b"shape", [cid])
    assert story.ask("publish", "name", b"shape", [cid], again=True) is None
    story.tell(story.client, m.Release([cid]))
    assert story.ask("dataset", "name", 70) == [b"shape", ["k"]] and story.client.futures[70] is not None
    story.ask("unpublish", "name")
    assert story.ask("unpublish", "name", again=True) is None
    with pytest.raises(ValueError, match="nothing is published"):
        story.ask("dataset", "name")
    with pytest.raises(ValueError, match="cancelled or released"):
        story.ask("publish", "other", b"shape", [999])


def test_sessions_that_nobody_is_connected_with_are_cleared(story):
    other = story.core.greet(story.now, m.HelloClient(2))
    story.tell(other, m.Function(1, "g", b"g", b"blob"), m.Submit(1, 1, [b""]))
    story.lost(other)
    assert story.ask("clear") == {"sessions": 1, "tasks": 1}
    with pytest.raises(ValueError, match="no durable session 'x'"):
        story.ask("clear", "x")
    assert story.ask("clear", "x", again=True)["sessions"] == 1  # it was cleared before


def test_a_durable_session_is_listed_and_ended():
    story = Asking()
    durable = story.core.greet(story.now, m.HelloClient(2, "nightly"))
    story.tell(durable, m.Function(1, "g", b"g", b"blob"), m.Submit(1, 1, [b""], None, ["k"]))
    story.tell(durable, m.Bye())
    again = story.core.greet(story.now, m.HelloClient(3, "nightly"))
    story.client = again
    assert story.ask("keys") == ["k"] and story.ask("take_up", [5, "k"], [6, "unknown"]) == [5]
    assert story.ask("end_session") == 1 and story.ask("keys") == ["k"]  # its own future is still there


def test_a_shutdown_stops_every_worker(story):
    worker = story.worker("a")
    assert story.ask("shutdown") is True
    assert story.said(worker, m.Stop) and [type(effect).__name__ for effect in story.effects()] == ["End"]


@pytest.mark.parametrize(
    "what, args", [("nonsense", []), ("why", []), ("replicate", ["x"]), ("dataset", []), ("watch", [5]), ("retire", ["x"])]
)
def test_an_odd_question_is_refused_and_nothing_more(story, what, args):
    with pytest.raises(ValueError):
        story.ask(what, *args)
    assert story.ask("sync") is None


def test_the_lineage_ends_where_a_replay_would(story):
    """Each task after its inputs; a value that the scheduler has needs none of its own."""
    worker = story.worker("a")
    first = finished(story, worker, key="first")
    second = story.submit(first, key="second")
    (compute,) = story.given(worker)
    story.done(worker, compute, None, 100)
    third = story.submit(second, first, key="third")
    rows = story.ask("lineage", third, first)
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [
        ("first", "done", [], ["a"]),
        ("second", "done", [0], ["a"]),
        ("third", "assigned", [1, 0], []),
    ]
    (compute,) = story.given(worker)
    story.done(worker, compute)
    assert [row[0] for row in story.ask("lineage", third)] == ["third"] and story.ask("lineage", 999) == []


def test_a_lineage_that_is_too_large_is_refused(story, monkeypatch):
    monkeypatch.setattr(queries, "MAX_LINEAGE", 2)
    first = story.submit()
    second = story.submit(first)
    assert len(story.ask("lineage", second)) == 2
    with pytest.raises(ValueError, match="more than 2 tasks"):
        story.ask("lineage", story.submit(second))


@pytest.mark.parametrize("what, args", [("publish", ["a name", 10**12, []]), ("upload", ["a.py", "module", 10**12])])
def test_a_number_in_place_of_bytes_is_refused(story, what, args):
    """It once asked for as many bytes of memory, which ended the scheduler."""
    story.tell(story.client, m.Query(1, what, args))
    (reply,) = story.said(story.client, m.Reply)
    assert "bytes" in reply.error


@pytest.mark.says.with_args(m.ReadLog, m.Rescue)
def test_an_order_to_all_workers_does_not_wait_for_one_that_is_gone(story):
    here, gone = story.worker("a"), story.worker("b")
    number = story.ask("logs", 10)
    assert story.ask("broadcast", number)[0] == ["a", "b"]
    story.tell(here, m.Answered(number, "", ["a line"]))
    story.lost(gone)
    story.later(story.core.settings.worker_grace)
    assert story.ask("broadcast", number) == [[], {"a": ["a line"]}, {}]


def test_a_task_is_kept_as_long_as_one_published_name_has_it(story):
    cid = story.submit()
    story.ask("publish", "a", b"shape", [cid])
    story.ask("publish", "b", b"shape", [cid])
    story.tell(story.client, m.Release([cid]))
    story.ask("unpublish", "a")
    assert len(story.core.tasks) == 1
    story.ask("unpublish", "b")
    assert not story.core.tasks
