"""The worker's core by hand."""

from __future__ import annotations

from twistdist.core import worker as core
from twistdist.wire import messages as m


def make(slots=1, **fields):
    identity = m.HelloWorker(1, "w", 1, 1, slots, "tcp:x:1", "here", "/mine", {}, [], [], [])
    worker = core.Worker(identity, **fields)
    worker.dialer.greeted(m.Ready(1))
    worker.start(0.0)
    worker.effects.clear()
    for slot in range(slots):
        worker.executor_started(0.0, slot)
    worker.receive(0.0, [m.WorkerFunction(1, "f", b"f")])
    return worker


def effects(worker, kind=None):
    found, worker.effects = worker.effects, []
    return found if kind is None else [one for one in found if isinstance(one, kind)]


def said(worker):
    return [one for frame in worker.dialer.session.take() for one in frame[2]]


def compute(number, cost=-1, **fields):
    return m.Compute(number, number, 1, b"", cost=cost, **fields)


def given(worker):
    return [one.attempt for give in effects(worker, core.Give) for one in give.messages if isinstance(one, m.Compute)]


def test_unknown_tasks_go_one_by_one_and_short_ones_together():
    worker = make()
    worker.receive(0.0, [compute(1), compute(2)])
    assert given(worker) == [1]
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, b"v", 1, b"", 5)])
    assert given(worker) == [2]
    worker = make()
    worker.receive(0.0, [compute(n, cost=50) for n in range(1, 200)])
    assert len(given(worker)) == core.WINDOW_US // 50


def test_the_function_goes_to_an_executor_once_and_again_to_a_new_one():
    worker = make()
    worker.receive(0.0, [compute(1)])
    assert [type(one) for one in effects(worker, core.Give)[0].messages] == [m.WorkerFunction, m.Compute]
    worker.executor_ended(0.0, 0, "SIGKILL", "", 1)
    worker.executor_started(0.0, 0)
    worker.receive(0.0, [compute(2)])
    assert [type(one) for one in effects(worker, core.Give)[-1].messages] == [m.WorkerFunction, m.Compute]


def test_only_the_running_attempt_is_charged():
    worker = make()
    worker.receive(0.0, [compute(n, cost=10) for n in (1, 2, 3)])
    effects(worker)
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, b"v", 1, b"", 5)])
    worker.executor_ended(0.0, 0, "SIGSEGV", "stack", 2)
    crashed = [one for one in said(worker) if isinstance(one, m.Crashed)]
    assert [(one.attempt, one.exit) for one in crashed] == [(2, "SIGSEGV")]
    worker.executor_started(0.0, 0)
    assert given(worker) == [3]


def test_when_all_executors_die_together_nobody_is_charged_at_first():
    worker = make()
    worker.receive(0.0, [compute(1)])
    for _ in range(core.MOST_EXPOSED - 1):
        worker.executor_ended(0.0, 0, "template died", "", 1, blame=False)
        worker.executor_started(0.0, 0)
        assert not [one for one in said(worker) if isinstance(one, m.Crashed)]
    worker.executor_ended(0.0, 0, "template died", "", 1, blame=False)
    assert [one.attempt for one in said(worker) if isinstance(one, m.Crashed)] == [1]


def test_a_dead_executor_s_half_made_file_is_removed():
    worker = make()
    worker.receive(0.0, [compute(1)])
    effects(worker)
    worker.executor_ended(0.0, 0, "SIGKILL", "", 1)
    assert core.DeleteFiles([1]) in effects(worker)


def test_an_executor_that_does_not_start_is_started_again_ever_later():
    worker = make()
    delays = []
    for _ in range(12):
        worker.executor_ended(0.0, 0, "exit code 1", "", 0)
        delays.append(effects(worker, core.StartExecutor)[0].delay)
    assert delays == sorted(delays) and delays[0] == core.BACKOFF_S and delays[-1] == core.LONGEST_BACKOFF_S
    assert [one.kind for one in said(worker) if isinstance(one, m.WorkerLog)] == ["executor does not start"] * 2


def test_recall_takes_back_what_was_not_read():
    worker = make()
    worker.receive(0.0, [compute(n, cost=3000) for n in (1, 2, 3, 4)])
    assert given(worker) == [1, 2]
    worker.receive(0.0, [m.Recall([2, 3, 4])])
    assert effects(worker, core.TakeBack) == [core.TakeBack(0)]
    worker.taken_back(0.0, 0, [2])
    assert [one for one in said(worker) if isinstance(one, m.Recalled)] == [m.Recalled([2, 3, 4])]
    assert set(worker.jobs) == {1}


def test_a_running_task_that_nobody_wants_is_ended_after_a_moment():
    worker = make()
    worker.receive(0.0, [compute(1)])
    effects(worker)
    worker.receive(0.0, [m.Abort([1], False)])
    assert effects(worker) == []
    worker.tick(core.ABANDONED_S)
    assert core.Interrupt(0, 1) in effects(worker)


def test_a_function_that_may_have_been_taken_back_is_sent_again():
    worker = make()
    worker.receive(0.0, [compute(1, cost=50), compute(2, cost=50)])
    effects(worker)
    worker.receive(0.0, [m.Abort([1], True), compute(3, cost=50)])  # its packet is composed in the turn of the TakeBack
    kinds = [type(one) for give in effects(worker, core.Give) for one in give.messages]
    assert kinds == [m.WorkerFunction, m.Compute]


def test_an_input_named_twice_is_fetched_once_and_the_task_runs_once():
    for success in (True, False):
        worker = make()
        worker.receive(0.0, [m.Peer(9, "p", "elsewhere", "/theirs", "tcp:y:1")])
        source = [m.Input(5, 50, None, 10, b"d", [9]), m.Input(5, 50, None, 10, b"d", [9])]
        worker.receive(0.0, [compute(1, inputs=source)])
        assert len(effects(worker, core.StartFetch)) == 1
        if success:
            worker.fetched(0.0, 50)
            assert given(worker) == [1] and all(one.path == "/mine/32" for one in source)
        else:
            worker.fetch_failed(0.0, 50)
            assert said(worker)[-1] == m.InputLost(1, 1, [(50, 9)]) and not worker.jobs


def test_inputs_of_a_worker_on_this_host_are_mapped_and_fetched_when_that_fails():
    worker = make()
    worker.receive(0.0, [m.Peer(9, "p", "here", "/theirs", "tcp:y:1")])
    source = m.Input(5, 50, None, 10, b"d", [9])
    worker.receive(0.0, [compute(1, inputs=[source])])
    assert given(worker) == [1] and source.path == "/theirs/32"
    worker.executor_outcomes(0.0, 0, [m.InputLost(1, 1, [(50, 0)])])
    assert len(effects(worker, core.StartFetch)) == 1


def test_a_finished_outcome_is_told_in_every_hello_until_one_is_accepted():
    worker = make()
    worker.receive(0.0, [compute(1)])
    done = m.Done(1, 1, b"v", 1, b"", 5)
    worker.executor_outcomes(0.0, 0, [done])
    worker.dialer.greeted(m.Refused("session", ""))
    assert worker.hello().finished == [done]
    assert worker.hello().finished == [done]  # the first one did not arrive
    worker.dialer.greeted(m.Ready(1))
    worker.dialer.greeted(m.Refused("session", ""))
    assert worker.hello().finished == []


def test_a_time_limit_keeps_no_arguments():
    worker = make()
    for n in range(1, 50):
        worker.receive(0.0, [compute(n, limit=3600.0)])
        worker.executor_outcomes(0.0, 0, [m.Done(n, n, b"", 0, b"", 5)])
    assert not worker.jobs and all(isinstance(subject, tuple) for *_, subject in worker._alarms)
