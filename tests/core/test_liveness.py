"""Who is alive, whose books are right: stories of the scheduler's core."""

from __future__ import annotations

import pytest

from twistdist.core import scheduler as core
from twistdist.core.digests import digest_of
from twistdist.core.scheduler import Settings
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.outputs import GiveUp, Probe
from twistdist.core.session import Dialer, Hearing
from twistdist.core.worker.lease import Lease
from twistdist.errors import ProtocolError
from twistdist.testing.stories import Story
from twistdist.wire import messages as m


class Pulsing(Story):
    """A story in which time passes as at the edge: a pulse every quarter of ``suspect_after``."""

    def pass_time(self, seconds, *beating):
        every = self.core.settings.look_every
        for _ in range(round(seconds / every)):
            self.now += every
            for worker in beating:
                self.beat(worker)
            self.core.pulse(self.now)
            check_scheduler(self.core)

    def beat(self, worker, stored=-1, received=None, **fields):
        jobs = digest_of([task.attempt for task in worker.assigned])
        beat = m.Beat(1, 0, worker.session.received, jobs=fields.pop("jobs", jobs), stored=stored, **fields)
        self.core.beat(self.now, worker, beat, worker.session.sent if received is None else received)
        check_scheduler(self.core)

    def kinds(self):
        return [one.kind for one in self.core.statistics.incidents]


@pytest.fixture
def story():
    return Pulsing()


def test_a_silent_worker_is_suspected_then_given_up_and_its_task_runs_elsewhere(story):
    silent = story.worker("a")
    cid = story.submit()
    (first,) = story.given(silent)
    other = story.worker("b")
    story.pass_time(1.1, other)
    assert silent.suspect and story.kinds() == ["worker suspected"]
    second = story.submit()
    assert len(story.given(other)) == 1  # no new work for the silent one
    story.pass_time(9.0, other)
    assert GiveUp(silent) in story.effects() and "worker lost" in story.kinds()
    assert len(story.said(other, m.Recall)) == 0
    story.done(other, next(c for c in [*story.given(other), *_assigned(other)] if c.args == b"2"), b"2")
    (again,) = [one for one in _assigned(other) if one.args == b"1"]
    assert again.attempt != first.attempt
    story.done(other, again, b"1")
    with pytest.raises(ProtocolError):  # nothing of it counts any more
        story.core.receive(story.now, silent, [m.Done(first.task, first.attempt, b"late", 4, b"", 1)])
    assert story.outcome(cid).value == b"1" and second


@pytest.mark.says.with_args(m.Rescue)
def test_a_worker_that_was_told_to_stop_and_does_is_no_loss(story):
    leaving, other = story.worker("a"), story.worker("b")
    story.tell(leaving, m.Leaving(10.0))
    assert story.said(leaving, m.Stop)
    story.lost(leaving)
    story.pass_time(1.1, other)
    story.later(1.0)
    assert list(story.core.workers.values()) == [other]
    (incident,) = story.core.statistics.incidents
    assert (incident.kind, incident.what, incident.cause) == ("worker left", "a", "it was told to stop")


def test_a_worker_that_dies_while_it_hands_over_is_a_loss(story):
    leaving, other = story.worker("a"), story.worker("b")
    story.submit()
    story.tell(leaving, m.Leaving(10.0))
    assert not story.said(leaving, m.Stop)
    story.lost(leaving)
    story.later(1.0)
    assert story.kinds() == ["worker lost"] and story.given(other)


def _assigned(worker):
    return [m.Compute(task.number, task.attempt, 1, task.args) for task in worker.assigned]


def test_anything_heard_ends_the_suspicion(story):
    worker = story.worker()
    story.pass_time(1.5)
    assert worker.suspect and not story.core.parts.placement.has_room(worker)
    story.beat(worker)
    assert not worker.suspect and story.core.parts.placement.has_room(worker)


def test_being_late_oneself_is_not_held_against_anybody(story):
    worker = story.worker()
    story.pass_time(1.0, worker)
    story.now += 60.0  # this process stood still
    story.core.pulse(story.now)
    assert worker.number in story.core.workers and not worker.suspect
    story.pass_time(1.5)
    assert worker.suspect


def test_a_connection_that_breaks_means_nothing_unless_nobody_listens(story):
    worker = story.worker()
    story.core.connection_lost(story.now, worker)
    assert Probe(worker) in story.effects()
    story.core.probed(story.now, worker, False)
    story.later(2.0)
    assert worker.number in story.core.workers
    story.core.probed(story.now, worker, True)
    story.later(0.6)
    assert worker.number not in story.core.workers


@pytest.mark.says.with_args(m.Rescue, m.Audit)
def test_whoever_knows_a_worker_is_told_how_it_is(story):
    holder, other = story.worker("a"), story.worker("b")
    cid = story.submit(workers=("a",))
    story.done(holder, story.given(holder)[0], None, 10_000)
    assert story.outcome(cid).holders == [holder.number]
    story.pass_time(1.1, other)
    assert story.said(story.client, m.PeerState) == [m.PeerState(holder.number, "suspect")]
    story.beat(holder)
    assert story.said(story.client, m.PeerState) == [m.PeerState(holder.number, "")]
    story.pass_time(10.5, other)
    assert story.said(story.client, m.PeerState)[-1] == m.PeerState(holder.number, "gone")


def test_a_task_that_a_worker_has_lost_is_found_and_run_again(story):
    worker = story.worker()
    story.submit()
    (first,) = story.given(worker)
    for _ in range(2):  # once may be an accident of the moment
        assert not story.said(worker, m.Audit)
        story.beat(worker, jobs=0)
    (audit,) = story.said(worker, m.Audit)
    story.tell(worker, m.Inventory(audit.number, [], None))
    assert "drift" in story.kinds()
    (again,) = story.given(worker)
    assert again.task == first.task and again.attempt != first.attempt


def test_a_task_that_a_worker_should_not_have_is_ended(story):
    worker = story.worker()
    for _ in range(2):
        story.beat(worker, jobs=digest_of([77]))
    (audit,) = story.said(worker, m.Audit)
    story.tell(worker, m.Inventory(audit.number, [77], None))
    assert story.said(worker, m.Abort) == [m.Abort([77], True)]


def test_what_ends_while_the_question_is_on_its_way_is_no_difference(story):
    worker = story.worker()
    story.submit()
    (compute,) = story.given(worker)
    for _ in range(2):
        story.beat(worker, jobs=5)
    (audit,) = story.said(worker, m.Audit)
    story.done(worker, compute)  # before its answer
    story.tell(worker, m.Inventory(audit.number, [], None))
    assert "drift" not in story.kinds()


def test_a_file_that_is_not_there_is_found_and_the_value_made_again(story):
    worker = story.worker()
    cid = story.submit()
    story.done(worker, story.given(worker)[0], None, 10_000)
    assert story.outcome(cid)
    story.beat(worker, stored=0)
    (audit,) = story.said(worker, m.Audit)
    assert audit.stored
    story.tell(worker, m.Inventory(audit.number, [], []))
    assert len(story.given(worker)) == 1 and "files lost" in story.kinds()


def test_a_worker_that_does_nothing_with_its_tasks_gives_them_back_and_rests(story):
    stuck = story.worker("a")
    cid = story.submit()
    story.given(stuck)
    story.pass_time(11.0, stuck)
    assert stuck.resting and story.said(stuck, m.Abort)
    other = story.worker("b")
    story.done(other, story.given(other)[0], b"v")
    assert story.outcome(cid).value == b"v"
    story.pass_time(1.0, stuck, other)
    story.later(30.0)
    assert not stuck.resting


def test_a_busy_worker_is_not_stuck(story):
    worker = story.worker()
    story.submit()
    story.given(worker)
    for _ in range(100):
        story.now += 0.25
        story.beat(worker, running=1)
    assert not worker.resting and "worker stuck" not in story.kinds()


def test_work_that_could_go_on_and_does_not_is_reported(story):
    worker = story.worker()
    story.submit()
    (task,) = story.core.tasks.values()
    story.given(worker)
    story.core.parts.slots.give_back(task)  # as a bug would have it
    task.state = type(task.state).READY
    story.now += 0.25
    story.core.pulse(story.now)
    for _ in range(60):
        story.now += 0.25
        worker.heard_at = story.now
        story.core.parts.placement.update(worker)
        story.core.parts.watchdog.watch(story.now)
    assert "no progress" in story.kinds()


@pytest.mark.says.with_args(m.Verify)
def test_an_input_that_can_t_be_fetched_marks_the_link_and_sends_the_task_elsewhere(story):
    holder = story.worker("a")
    one = story.submit()
    story.done(holder, story.given(holder)[0], None, 10_000)
    busy = story.submit(one)  # keeps the holder busy
    assert story.given(holder) and busy
    cut_off = story.worker("b")
    two = story.submit(one)
    (compute,) = story.given(cut_off)
    story.tell(cut_off, m.InputLost(compute.task, compute.attempt, [(compute.inputs[0].attempt, holder.number)]))
    third = story.worker("c")
    story.later(1.0)
    assert not story.given(cut_off) and [x.task for x in story.given(third)] == [compute.task]
    assert "link" in story.kinds() and holder.number in story.core.workers and two


def test_a_lease_counts_from_when_the_echoed_beat_was_sent():
    lease, dialer = Lease(), Dialer(1)
    lease.begin(0.0)
    lease.next_beat(1.0, dialer)
    lease.next_beat(2.0, dialer)
    lease.next_beat(3.0, dialer)
    lease.echoed(m.Beat(9, 2, 0))
    assert lease.since == 2.0 and lease.heard == 9
    assert not lease.over(11.9, 10.0) and lease.over(12.0, 10.0)


def test_silence_is_not_counted_while_we_stood_still():
    hearing = Hearing()
    hearing.heard(0.0)
    assert hearing.look(0.25, 0.25) == 0.25
    assert hearing.look(10.25, 0.25) == pytest.approx(0.5)
    assert hearing.look(10.5, 0.25) == pytest.approx(0.75)


def test_a_task_that_is_to_run_alone_is_given_out_once_though_old_offers_of_it_lie_about(story):
    has = {"g": 1_000_000}
    story.worker("a", resources=has)
    story.submit(resources=has)
    (task,) = story.core.tasks.values()
    workers = {name: story.worker(name, resources=has) for name in "bcd"}  # all are offered it when it is ready again
    for _ in range(2):
        story.submit(workers=("b", "d"))
    for _ in range(2):  # with "a", and with "c"
        story.lost(task.worker)
        story.later(0.6)
    story.submit(workers=("b", "d"))  # so that the workers' own queues are looked at
    reserved, other = sorted((workers["b"], workers["d"]), key=lambda one: one.exclusive is not task)
    assert reserved.exclusive is task and task in story.core.parts.queues.isolated
    story.done(other, story.given(other)[0])
    assert task.worker is None
    story.done(reserved, story.given(reserved)[0])
    assert task.worker is reserved and task not in other.assigned


@pytest.mark.says.with_args(m.Abort)
@pytest.mark.parametrize("how", ["copy", "value"])
def test_a_file_that_is_refused_while_the_question_is_on_its_way_is_no_difference(story, how):
    worker = story.worker()
    cid = story.submit()
    (compute,) = story.given(worker)
    story.beat(worker, stored=5)
    (audit,) = story.said(worker, m.Audit)
    stored = m.Stored(compute.task, compute.attempt, 10_000, b"d") if how == "value" else m.Stored(99, 77, 10, b"d")
    story.tell(story.client, m.Cancel([cid]))
    if how == "value":
        story.done(worker, compute, None, 10_000)
    else:
        story.tell(worker, m.Have([stored]))
    story.tell(worker, m.Inventory(audit.number, [], [stored]))  # the order to delete it has not come yet
    assert "drift" not in story.kinds()


@pytest.mark.says.with_args(m.Verify, m.Audit)
def test_a_task_that_an_idle_worker_can_t_fetch_the_inputs_of_is_no_lack_of_progress(story):
    holder = story.worker("a")
    one = story.submit()
    story.done(holder, story.given(holder)[0], None, 10_000)
    story.submit(workers=("a",))
    cut_off = story.worker("b")
    story.submit(one)
    (compute,) = story.given(cut_off)
    third = story.worker("c")
    story.submit(workers=("c",))
    story.tell(cut_off, m.InputLost(compute.task, compute.attempt, [(compute.inputs[0].attempt, holder.number)]))
    for _ in range(60):
        story.core.tick(story.now)
        story.now += 0.25
        for worker in (holder, cut_off, third):
            story.beat(worker, running=len(worker.assigned))
        story.core.pulse(story.now)
    assert cut_off in story.core.parts.placement.idle and "no progress" not in story.kinds()


def test_a_worker_that_is_to_leave_is_to_leave_when_it_says_hello_again(story):
    worker = story.worker("a")
    story.worker("b")
    story.submit(workers=("a",))
    (compute,) = story.given(worker)
    story.core.parts.leaving.retire(story.now, worker, 60.0, "told to")
    hello = worker.hello
    hello.running.append((compute.task, compute.attempt))
    again = story.core.greet(story.now, hello)
    assert again is not worker and again.retiring is not None and again.retiring.why == "told to"
    story.submit(workers=("a",))
    assert not story.given(again)
    story.done(again, compute)
    assert story.said(again, m.Stop)


@pytest.mark.says.with_args(m.Verify)
def test_with_a_long_dead_after_an_input_behind_a_bad_link_is_made_again_all_the_same():
    story = Pulsing()
    story.core = core.Scheduler(1, Settings(dead_after=90.0))
    story.client = story.core.greet(0.0, m.HelloClient(1))
    story.tell(story.client, m.Function(1, "f", b"f", b"blob"))
    holder, cut_off = story.worker("a"), story.worker("b")
    one = story.submit(workers=("a", "b"))
    story.done(holder, story.given(holder)[0], None, 10_000)
    two = story.submit(one, workers=("b",))
    while story.now < 120.0:
        for compute in story.given(cut_off):
            if compute.args == b"1":  # where it is wanted
                story.done(cut_off, compute, None, 10_000)
            elif cut_off.number in compute.inputs[0].holders:
                story.done(cut_off, compute, b"v")
                assert story.now >= 90.0 and story.outcome(two).value == b"v"
                return
            else:
                lost = [(compute.inputs[0].attempt, holder.number)]
                story.tell(cut_off, m.InputLost(compute.task, compute.attempt, lost))
        holder.heard_at = cut_off.heard_at = story.now
        story.later(0.5)
    pytest.fail(f"{story.outcome(two)}")


@pytest.mark.says.with_args(m.Abort)
def test_a_worker_whose_tasks_are_still_on_their_way_is_not_stuck(story):
    worker = story.worker()
    story.submit()
    assert story.given(worker)
    for _ in range(100):
        story.now += 0.25
        story.beat(worker, received=0)
    assert "worker stuck" not in story.kinds()
    story.said(worker)  # the question that was put meanwhile
    for _ in range(41):
        story.now += 0.25
        story.beat(worker)
    assert "worker stuck" in story.kinds()


def test_a_part_of_a_frame_is_a_sign_of_life(story):
    worker = story.worker()
    for _ in range(60):
        story.now += 0.25
        story.core.bytes_came(story.now, worker)
        story.core.pulse(story.now)
    assert not worker.suspect


def test_what_waited_for_a_suspect_worker_is_given_to_it_with_its_next_beat(story):
    worker = story.worker()
    story.pass_time(1.5)
    story.submit()
    story.said(worker)
    story.effects()  # as at the edge
    story.beat(worker)
    assert len(story.given(worker)) == 1


def test_another_python_is_refused_at_the_greeting():
    story = Story()
    refusal = story.core.refusal
    client = story.core.greet(0.0, m.HelloClient(5, python="3.13"))
    assert client.python == "3.13" and refusal(m.HelloClient(1, python="3.12")) is None  # no worker has decided yet
    first = story.worker("a", python="3.11")
    (incident,) = [one for one in story.core.statistics.incidents if one.kind == "another Python"]
    assert incident.what == "a" and "runs Python 3.11" in incident.cause and "run Python 3.13" in incident.cause
    assert refusal(m.HelloClient(1)) is None and refusal(m.HelloClient(1, python="3.11")) is None
    refused = refusal(m.HelloClient(1, python="3.13"))
    assert (
        refused.code == "python"
        and "this client runs Python 3.13, but the cluster's workers run Python 3.11 (a)" in refused.text
    )
    refused = refusal(m.HelloWorker(1, "w", 1, 1, 1, "a", "h", "/s", {}, [], [], [], "3.10"))
    assert "the worker w runs Python 3.10" in refused.text
    story.lost(first)
    assert refusal(m.HelloClient(1, python="3.13")) is None


def test_a_worker_that_was_heard_since_a_probe_is_not_given_up_for_it():
    story = Story()
    worker, grace = story.worker(), story.core.settings.worker_grace
    story.lost(worker)
    story.now += grace / 2
    story.core.reconnected(story.now, worker)
    story.core.connection_lost(story.now, worker)
    story.later(grace / 2)
    assert worker.number in story.core.workers
    story.core.probed(story.now, worker, True)
    story.later(grace)
    assert worker.number not in story.core.workers


@pytest.mark.says.with_args(m.Abort)
def test_an_audit_does_not_blame_a_worker_for_what_was_given_up_after_it_was_asked():
    story = Pulsing()
    worker, cid = story.worker(), story.submit()
    (compute,) = story.given(worker)
    story.beat(worker, jobs=1)
    story.beat(worker, jobs=1)
    (audit,) = story.said(worker, m.Audit)
    story.tell(story.client, m.Release([cid]))
    story.tell(worker, m.Inventory(audit.number, [compute.attempt], None))
    assert "drift" not in story.kinds()
