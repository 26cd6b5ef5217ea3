"""The ledger, the gate, and a scheduler that is made again from its rows."""

from __future__ import annotations

import pytest

from twistdist.core.scheduler import Scheduler
from twistdist.core.scheduler.gate import Gate
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.records import Client
from twistdist.core.scheduler.registry import ATTEMPT_BITS
from twistdist.core.session import Session
from twistdist.testing.stories import JournaledStory, Story
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return JournaledStory()


def test_what_has_come_and_gone_between_two_writes_is_never_written(story):
    worker = story.worker()
    story.write()
    before = dict(story.disk)
    cid = story.submit()
    story.done(worker, story.given(worker)[0])
    story.tell(story.client, m.Release([cid]))
    story.write()
    assert {key for key in story.disk if key[0] in (j.BATCH, j.OUTCOMES, j.MARKS)} == set()
    assert len(story.disk) <= len(before) + 2  # the session and its function


def test_a_batch_is_one_row_and_goes_with_its_last_task(story):
    story.tell(story.client, m.Submit(1, 1, [b"%d" % n for n in range(200)]))
    story.cid = 200
    story.write()
    assert len(story.rows(j.BATCH)) == 1
    story.tell(story.client, m.Release(list(range(1, 100))))
    story.write()
    assert len(story.rows(j.BATCH)) == 1 and len(story.rows(j.MARKS)) == 1
    story.tell(story.client, m.Release(list(range(100, 180))))
    story.write()
    (batch,) = story.rows(j.BATCH)
    assert 20 <= len(batch.numbers) < 50  # written anew without the others
    story.tell(story.client, m.Release(list(range(180, 201))))
    story.write()
    assert not story.rows(j.BATCH) and not story.rows(j.MARKS)


def test_outcomes_are_forgotten_with_their_tasks(story):
    worker = story.worker(slots=4)
    cids = [story.submit() for _ in range(4)]
    for compute in story.given(worker):
        story.done(worker, compute)
    story.write()
    assert sum(len(one.outcomes) for one in story.rows(j.OUTCOMES)) == 4
    story.tell(story.client, m.Release(cids))
    story.write()
    assert not story.rows(j.OUTCOMES)


def hello(name, python):
    return m.HelloWorker(99, name, 99, 1, 1, "tcp:x:1", "h", "/s", {}, [], [], [], python)


def test_a_stray_worker_does_not_decide_on_python_after_a_restart(story):
    """Once it did if it was the first to come, and all others were refused."""
    story.worker("a", python="3.11")
    story.restart()
    refused = story.core.refusal(hello("stray", "3.12"))
    assert refused.code == "python" and "Python 3.11 (a, which is expected back)" in refused.text
    assert story.core.refusal(m.HelloClient(9, python="3.12")).code == "python"
    assert story.core.refusal(hello("a", "3.11")) is None
    story.worker("a", python="3.11")
    assert "Python 3.11 (a)" in story.core.refusal(hello("stray", "3.12")).text


def test_workers_that_do_not_come_back_do_not_decide_on_python(story):
    story.worker("a", python="3.11")
    story.restart()
    story.later(story.core.settings.dead_after + 0.1)
    assert story.core.refusal(hello("other", "3.12")) is None


def test_a_worker_s_row_of_a_version_that_did_not_note_python_is_read(story):
    story.worker("a", python="3.11")
    story.write()
    (key,) = [key for key in story.disk if key[0] == j.WORKER]
    story.disk[key] = j.encode(["a", 1, "h", "tcp:x:1", "/s"])
    story.restart(written=False)
    assert story.core.expected["a"].python == "" and story.core.refusal(hello("other", "3.12")) is None


def test_values_failures_and_waiting_tasks_are_there_after_a_restart(story):
    worker = story.worker(slots=2)
    one, two = story.submit(key="one"), story.submit()
    first, second = story.given(worker)
    three = story.submit(one, two)
    story.done(worker, first, b"small")
    story.tell(worker, m.Failed(second.task, second.attempt, m.ErrorInfo("", "ValueError", "no"), 1))
    four = story.submit(one)
    story.write()
    story.restart()
    story.resume()
    told = {message.cid: message for message in story.said(story.client)}
    assert told[one].value == b"small" and told[two].error.text == told[three].error.text == "no"
    fresh = story.worker("fresh")
    story.later(10.1)  # the other one does not come back
    (compute,) = story.given(fresh)
    assert compute.args == b"4" and compute.inputs[0].value == b"small" and four


def test_running_attempts_are_adopted_and_nothing_is_given_out_before_the_workers_are_back(story):
    a, b = story.worker("a"), story.worker("b")
    story.submit(), story.submit()
    (on_a,), (on_b,) = story.given(a), story.given(b)
    story.write()
    story.restart()
    new_a = story.worker("a", running=[(on_a.task, on_a.attempt)])
    assert story.core.recovering and not story.given(new_a)
    new_b = story.worker("b", running=[(on_b.task, on_b.attempt)])
    assert not story.core.recovering
    assert not story.given(new_a) and not story.given(new_b)
    story.done(new_a, on_a, b"1")
    story.done(new_b, on_b, b"2")
    assert story.core.statistics.done == 2 and story.core.statistics.stale == 0


def test_stored_values_are_claimed_by_their_workers_and_replayed_otherwise(story):
    a, b = story.worker("a"), story.worker("b")
    story.submit(), story.submit()
    (on_a,), (on_b,) = story.given(a), story.given(b)
    story.done(a, on_a, None, 10_000)
    story.done(b, on_b, None, 10_000)
    story.write()
    story.restart()
    new = story.worker("a", stored=[m.Stored(on_a.task, on_a.attempt, 10_000, b"d")])
    assert not story.given(new)
    story.core.not_there(story.now, "b")
    story.later(3.1)
    (again,) = story.given(new)
    assert again.task == on_b.task and again.attempt >> ATTEMPT_BITS == 2


def test_of_two_earlier_attempts_the_later_one_goes_on(story):
    a = story.worker("a")
    story.submit()
    (old,) = story.given(a)
    story.write()
    story.restart()
    first = story.worker("a", running=[(old.task, old.attempt)])
    second = story.worker("c", running=[(old.task, old.attempt + 1)])
    assert story.said(first, m.Abort) == [m.Abort([old.attempt], True)]
    (task,) = second.assigned
    assert task.attempt == old.attempt + 1


def test_an_outcome_that_is_told_twice_counts_once(story):
    worker = story.worker("a")
    story.submit(retries=1)
    (compute,) = story.given(worker)
    failed = m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "no"), 1)
    story.write()
    story.restart()
    story.worker("a", finished=[failed])
    again = story.worker("a", finished=[failed])
    (task,) = story.core.tasks.values()
    assert task.error is None and task.history.raised == 1
    assert len(again.assigned) == 1  # the retry


def test_the_charge_of_a_crash_outlives_the_scheduler(story):
    worker = story.worker("a")
    cid = story.submit(crash_limit=2)
    (compute,) = story.given(worker)
    story.tell(worker, m.Crashed(compute.task, compute.attempt, "SIGSEGV", ""))
    story.write()
    story.restart()
    story.resume()
    worker = story.worker("a")
    (compute,) = story.given(worker)
    story.tell(worker, m.Crashed(compute.task, compute.attempt, "SIGSEGV", ""))
    error = story.outcome(cid).error
    assert error.kind == "TaskCrashed" and "attempt 2" in error.text


def test_cancelled_futures_are_told_again(story):
    cid = story.submit()
    story.tell(story.client, m.Cancel([cid]))
    story.write()
    story.restart()
    story.resume()
    assert story.outcome(cid).error.kind == "TaskCancelled"
    story.tell(story.client, m.Release([cid]))
    story.write()
    assert not story.rows(j.WATCHES)


def test_a_session_that_does_not_come_back_is_released(story):
    story.submit()
    story.write()
    story.restart()
    story.later(61.0)
    story.write()
    assert not story.core.tasks and not story.core.clients and not story.disk


def test_a_durable_session_keeps_keyed_tasks(story):
    client = story.core.greet(story.now, m.HelloClient(5, "nightly"))
    story.tell(client, m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b"a", b"b"], None, ["a", "b"]))
    story.tell(client, m.Submit(3, 1, [b"c"]))
    story.write()
    story.restart()
    story.later(61.0)  # its process does not come back
    assert sorted(task.args for task in story.core.tasks.values()) == [b"a", b"b", b"c"]
    again = story.core.greet(story.now, m.HelloClient(6, "nightly"))
    assert len(story.core.parts.durable.session_tasks(again)) == 3
    story.tell(again, m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b"a"], None, ["a"]))
    assert story.core.statistics.submitted == 1 and len(story.core.tasks) == 3
    story.core.parts.durable.end_session(again)
    story.tell(again, m.Release([1]))
    assert not story.core.tasks


def test_the_gate_keeps_what_rests_on_unwritten_changes():
    ledger, session = Ledger(), Session(safe=0)
    gate = Gate(ledger)
    assert not gate.hold("before")
    client = Client(1, "", session)
    ledger.session(client)
    session.received = 1
    gate.touch(session)
    assert gate.hold("first") and session.sure == 0
    assert gate.begin() and gate.begin() is None
    ledger.session(client)
    session.received = 2
    gate.touch(session)
    assert gate.hold("second")
    assert gate.written() == ["first"] and session.sure == 1
    assert gate.begin()
    assert gate.hold("third")  # in order, though nothing has changed
    assert gate.written() == ["second", "third"] and session.sure == 2
    assert not gate.hold("after")


def test_rows_that_could_not_be_written_are_tried_again_with_the_next():
    ledger = Ledger()
    gate = Gate(ledger)
    ledger.session(Client(1, "", Session(safe=0)))
    rows = gate.begin()
    assert gate.hold("waits")
    ledger.session(Client(2, "", Session(safe=0)))
    assert gate.hold("waits too")
    assert set(gate.again()) == {*rows, (j.SESSION, 2)}
    assert gate.written() == ["waits", "waits too"]


def test_a_worker_that_was_given_up_is_not_expected_after_a_restart(story):
    worker = story.worker()
    story.write()
    assert len(story.rows(j.WORKER)) == 1
    story.lost(worker)
    story.later(story.core.settings.worker_grace)
    assert worker.number not in story.core.workers
    story.write()
    assert not story.rows(j.WORKER)
    story.restart()
    assert not story.core.expected and not story.core.recovering


class StoryOfAnotherScheduler(Story):
    """The scheduler begins at a random epoch and knows of no earlier ones."""

    def new_core(self):
        return Scheduler(1_000, self._settings)


@pytest.mark.parametrize("told", ["finished", "running"])
def test_attempts_of_a_scheduler_of_which_nothing_is_known_count_for_nothing(told):
    """They have numbers of tasks that mean something else now: another task ended with their value (seed 100364)."""
    story, attempt = StoryOfAnotherScheduler(), 7 << ATTEMPT_BITS | 1
    cid = story.submit()
    (task,) = story.core.tasks
    of_old = {"finished": [m.Done(task, attempt, b"another's", 1, b"", 1)], "running": [(task, attempt)]}
    worker = story.worker(**{told: of_old[told]})
    (compute,) = story.given(worker)
    assert story.outcome(cid) is None and compute.task == task
    story.done(worker, compute)
    assert story.outcome(cid).value == b"v"


@pytest.mark.parametrize("what", ["stored", "finished", "running"])
def test_what_a_later_scheduler_has_served_is_recognised(story, what):
    """A scheduler that does not know yet that it was replaced would free the files of its successor.  But what another cluster
    has served must be served: its journal was deleted, or the worker's store is older."""
    epoch = story.core.epoch
    for of, outdated in ((epoch - 1, False), (epoch, False), (epoch + 1, True), (epoch + 1_000_000, False)):
        attempt = of << ATTEMPT_BITS | 7
        told = {
            "stored": [m.Stored(1, attempt, 5, b"d")],
            "finished": [m.Done(1, attempt, b"v", 1, b"", 1)],
            "running": [(1, attempt)],
        }
        given = {name: found if name == what else [] for name, found in told.items()}
        hello = m.HelloWorker(1, "w", 1, 1, 1, "tcp:x:1", "h", "/w", {}, **given)
        assert story.core.is_outdated_by(hello) == outdated
    resumed = {of: story.core.is_outdated_by(m.Resume(1, of, 0)) for of in (epoch, epoch + 1, epoch + 1_000_000)}
    assert resumed == {epoch: False, epoch + 1: True, epoch + 1_000_000: False}
    assert not story.core.is_outdated_by(m.HelloClient(1))
