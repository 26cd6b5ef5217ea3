"""What the live page is made of: docs/live-page.rst."""

import pytest

from twistdist.core.scheduler import activity, whereabouts
from twistdist.core.scheduler.activity import Activity
from twistdist.testing.stories import Story
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return Story()


def snapshot(story, since=None):
    story.tell(story.client, m.Query(1, "snapshot", [since]))
    return story.said(story.client, m.Reply)[-1].value


def what_if(story, name):
    story.tell(story.client, m.Query(1, "what_if", [name]))
    return story.said(story.client, m.Reply)[-1]


def sums(rows):
    return {name: (unfinished, done, failed, again, us) for name, unfinished, done, failed, again, us in rows}


def test_sums_by_function_and_group(story):
    worker = story.worker(slots=10)
    for group in ("load", "load", ""):
        story.submit(group=group)
    first, second, third = story.given(worker)
    assert sums(snapshot(story)["functions"]) == {"f": (3, 0, 0, 0, 0)}
    story.done(worker, first, us=5)
    story.tell(worker, m.Failed(second.task, second.attempt, m.ErrorInfo("", "ValueError", "bad"), 7))
    story.tell(worker, m.Crashed(third.task, third.attempt, "SIGSEGV", "", us=11))
    now = snapshot(story)
    assert sums(now["functions"]) == {"f": (1, 1, 2, 0, 23)}  # what crashed runs again
    assert sums(now["groups"]) == {"load": (0, 1, 1, 0, 12)}


def test_runs_of_one_event_are_one_span(story):
    worker = story.worker(slots=10)
    for _ in range(3):
        story.submit()
    computes = story.given(worker)
    story.now = 5.0
    story.tell(worker, *[m.Done(one.task, one.attempt, b"v", 1, b"", 100) for one in computes])
    [[end, us, name, function, count, kind, key]] = snapshot(story)["spans"]
    assert (end, us, name, function, count, kind, key) == (5.0, 300, "w", "f", 3, "run", "f-1-1")


def test_a_replay_is_told_apart_and_only_news_are_told(story):
    a = story.worker("a")
    story.submit()
    story.done(a, story.given(a)[0], None, 100)
    since = snapshot(story)["since"]
    story.now += 1
    story.lost(a)
    story.later(100.0)
    c = story.worker("c")
    story.done(c, story.given(c)[0], None, 100)
    now = snapshot(story, since)
    assert [span[5] for span in now["spans"]] == ["again"]
    assert [incident["kind"] for incident in now["incidents"]][:1] == ["worker lost"]
    assert now["incidents"][0]["key"] == "f-1-1", "it leads to the story of a value that was lost"
    assert snapshot(story, now["since"])["spans"] == []


def test_what_if_a_worker_died_now(story):
    a = story.worker("a")
    first = story.submit()
    story.done(a, story.given(a)[0], None, 100, us=1000)
    second = story.submit(first)
    story.done(a, story.given(a)[0], None, 100, us=500)
    story.tell(story.client, m.Release([first]))
    story.submit()
    running = story.given(a)
    lost, needed, again, us, keys = what_if(story, "a").value
    mean = int(story.core.parts.registry.tasks[first].function.mean_us)
    assert (lost, needed, again, us) == (1, 1, 3, 1500 + mean)  # the first one's value is gone already, its recipe is not
    assert len(keys) == 3 and running and second
    story.worker("b")
    assert what_if(story, "b").value == [0, 0, 0, 0, []]
    assert "'nobody'" in what_if(story, "nobody").error


def test_single_copies_are_counted(story):
    a = story.worker("a")
    story.submit(), story.submit()
    for compute in story.given(a):
        story.done(a, compute, None, 100)
        last = compute
    b = story.worker("b")
    story.tell(b, m.Have([m.Stored(last.task, last.attempt, 100, b"d")]))
    workers = snapshot(story)["workers"]
    assert (workers["a"]["single"], workers["b"]["single"]) == (1, 0)


def test_names_are_bounded(monkeypatch):
    monkeypatch.setattr(activity, "MAX_NAMES", 3)
    known = Activity()
    known.group("busy").unfinished = 1
    for number in range(10):
        known.group(f"g{number}").add(float(number), 1, 1, True, False)
    assert len(known.groups) <= 3 and "busy" in known.groups and "g9" in known.groups


def test_groups_with_unfinished_tasks_are_never_forgotten(monkeypatch):
    monkeypatch.setattr(activity, "MAX_NAMES", 3)
    known = Activity()
    for number in range(10):
        known.group(f"g{number}").unfinished += 1
    assert [known.group(f"g{number}").unfinished for number in range(10)] == [1] * 10


def moved(story, worker, holder, compute, size=100, us=2_000):
    """``worker`` has fetched the value of ``compute`` from ``holder``."""
    return m.Have([m.Stored(compute.task, compute.attempt, size, b"d")], holder.number, us)


def test_what_was_fetched_by_whom_from_whom_is_told_and_summed(story):
    a, b = story.worker("a", slots=10), story.worker("b")
    for key in ("first", "second"):
        story.submit(key=key, workers=("a",))
    first, second = story.given(a)
    for compute in (first, second):
        story.done(a, compute, None, 100)
    story.now = 5.0
    since = snapshot(story)["since"]
    story.now = 6.0
    story.tell(b, moved(story, b, a, first), moved(story, b, a, second, us=9_000))
    now = snapshot(story, since)
    assert now["transfers"] == [[6.0, 9_000, "b", "a", 2, 200, "first"]] and now["transfers_in_all"] == 1
    assert snapshot(story, now["since"])["transfers"] == []


def test_a_copy_that_came_over_no_network_or_from_nobody_known_is_no_transfer(story):
    a, b = story.worker("a"), story.worker("b")
    story.submit()
    [compute] = story.given(a)
    story.done(a, compute, None, 100)
    stored = [m.Stored(compute.task, compute.attempt, 100, b"d")]
    for message in (m.Have(stored), m.Have(stored, 99, 5), m.Have(stored, b.number, 5), m.Have(stored, -1, -1)):
        story.tell(b, message)
    assert snapshot(story)["transfers"] == []


def test_transfers_are_bounded(story, monkeypatch):
    story.core.parts.activity.transfers = activity.deque(maxlen=3)
    a, b = story.worker("a"), story.worker("b")
    story.submit()
    [compute] = story.given(a)
    story.done(a, compute, None, 100)
    for number in range(10):
        story.now += 1
        story.tell(b, moved(story, b, a, compute, us=number))
    now = snapshot(story)
    assert [row[1] for row in now["transfers"]] == [7, 8, 9] and now["transfers_in_all"] == 10
    assert len(story.core.parts.activity._moving) == 1


def test_values_are_counted_by_host(story):
    """A value has one copy on "here" and one on "there"; another one has two, both here."""
    a, b, c = story.worker("a", slots=9, host="here"), story.worker("b", host="here"), story.worker("c", host="there")
    story.submit(workers=("a",)), story.submit(workers=("a",)), story.submit(workers=("a",))
    first, second, third = story.given(a)
    for compute in (first, second, third):
        story.done(a, compute, None, 100)
    story.tell(c, moved(story, c, a, first))
    story.tell(b, moved(story, b, a, second))
    now = snapshot(story)
    assert now["hosts"] == [["here", "here", ["a", "b"], 4, 400, 3, 2], ["there", "there", ["c"], 1, 100, 1, 0]]
    assert {name: worker["single"] for name, worker in now["workers"].items()} == {"a": 1, "b": 0, "c": 0}
    assert what_if(story, "a").value[0] == 1
    story.tell(story.client, m.Query(1, "what_if", ["", "here"]))
    assert story.said(story.client, m.Reply)[-1].value[:2] == [2, 2]
    story.tell(story.client, m.Query(1, "what_if", ["", "nowhere"]))
    assert "no host" in story.said(story.client, m.Reply)[-1].error


def test_too_many_copies_are_not_counted_by_host(story, monkeypatch):
    monkeypatch.setattr(whereabouts, "MAX_COUNTED", 0)
    a = story.worker("a")
    story.submit()
    story.done(a, story.given(a)[0], None, 100)
    now = snapshot(story)
    assert now["hosts"] == [["h", "h", ["a"], 1, 100, None, None]] and now["workers"]["a"]["single"] is None


def test_a_host_that_nobody_named_has_the_name_of_its_address(story):
    made = "b2ee7f48-8bdf-4f72-ae4f-f7dee087b28d-4026531832-0"
    story.worker("a", host=made), story.worker("b", host=f"{made}0"), story.worker("c", host="rack-7")
    assert [row[1] for row in snapshot(story)["hosts"]] == ["x", "x #2", "rack-7"]


def test_more_names_and_incidents_again_are_told_on_request(story):
    worker = story.worker("a")
    story.submit()
    story.done(worker, story.given(worker)[0], None, 100)
    story.lost(worker)
    story.later(100.0)
    since = snapshot(story)["since"]
    story.tell(story.client, m.Query(1, "snapshot", [since, 0, 0.0]))
    now = story.said(story.client, m.Reply)[-1].value
    assert now["functions"] == [] and now["incidents"] and snapshot(story, since)["incidents"] == []
    assert now["incidents_in_all"] >= 1 and now["spans_in_all"] == 1


def test_the_workers_that_ran_a_task_are_asked_for_its_output(story):
    a, b = story.worker("a"), story.worker("b")
    story.submit(key="k", workers=("a",))
    story.done(a, story.given(a)[0])

    def ask(*args):
        story.tell(story.client, m.Query(1, *args))
        return story.said(story.client, m.Reply)[-1]

    number = ask("output", ["k", 10]).value
    assert story.said(a, m.ReadLog) == [m.ReadLog(number, 10, "k")] and story.said(b, m.ReadLog) == []
    story.tell(a, m.Answered(number, "", ["stdout: hello"]))
    assert ask("broadcast", [number, True]).value == [[], {"a": ["stdout: hello"]}, {}]
    assert "no longer knows" in ask("broadcast", [number]).error
    assert ask("output", ["unknown", 10]).value is None and "lines" in ask("output", ["k", 0]).error


def test_the_output_of_a_task_that_failed_and_was_forgotten_can_be_asked_for(story):
    a = story.worker("a")
    story.worker("b")
    cid = story.submit(key="bad")
    [compute] = story.given(a)
    story.tell(a, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "bad", "File …"), 7))
    story.tell(story.client, m.Query(1, "why", ["bad"]))
    assert story.said(story.client, m.Reply)[-1].value["traceback"] == "File …"
    story.tell(story.client, m.Release([cid]))
    story.tell(story.client, m.Query(1, "output", ["bad", 5]))
    assert [one.key for one in story.said(a, m.ReadLog)] == ["bad"]
