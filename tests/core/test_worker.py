"""The worker's core by hand."""

from __future__ import annotations

import pytest

from twistdist.core import worker as core
from twistdist.core.worker import Death, records
from twistdist.core.worker import effects as fx
from twistdist.core.worker.memory import Limits, judge
from twistdist.core.worker.tuning import Tuning
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

TUNING = Tuning()


def make(slots=1, **fields):
    identity = m.HelloWorker(1, "w", 1, 1, slots, "tcp:x:1", "here", "/mine", {}, [], [], [])
    worker = core.Worker(identity, **fields)
    worker.dialer.greeted(m.Ready(1))
    worker.start(0.0)
    worker.take()
    for slot in range(slots):
        worker.executor_started(0.0, slot)
    worker.receive(0.0, [m.WorkerFunction(1, "f", b"f")])
    return worker


def effects(worker, kind=None):
    found = worker.take()
    return found if kind is None else [one for one in found if isinstance(one, kind)]


def said(worker):
    return [one for frame in worker.dialer.session.take() for one in frame[2]]


def compute(number, cost=-1, **fields):
    return m.Compute(number, number, 1, b"", cost=cost, **fields)


def given(worker):
    return [one.attempt for give in effects(worker, fx.Give) for one in give.messages if isinstance(one, m.Compute)]


def test_unknown_tasks_go_one_by_one_and_short_ones_together():
    worker = make()
    worker.receive(0.0, [compute(1), compute(2)])
    assert given(worker) == [1]
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, b"v", 1, b"", 5)])
    assert given(worker) == [2]
    worker = make()
    worker.receive(0.0, [compute(n, cost=50) for n in range(1, 1000)])
    assert len(given(worker)) == TUNING.window_us // 50


def test_the_function_goes_to_an_executor_once_and_again_to_a_new_one():
    worker = make()
    worker.receive(0.0, [compute(1)])
    assert [type(one) for one in effects(worker, fx.Give)[0].messages] == [m.WorkerFunction, m.Compute]
    worker.executor_ended(0.0, 0, Death("SIGKILL", "", 1))
    worker.executor_started(0.0, 0)
    worker.receive(0.0, [compute(2)])
    assert [type(one) for one in effects(worker, fx.Give)[-1].messages] == [m.WorkerFunction, m.Compute]


def test_only_the_running_attempt_is_charged():
    worker = make()
    worker.receive(0.0, [compute(n, cost=10) for n in (1, 2, 3)])
    effects(worker)
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, b"v", 1, b"", 5)])
    worker.executor_ended(0.0, 0, Death("SIGSEGV", "stack", 2))
    crashed = [one for one in said(worker) if isinstance(one, m.Crashed)]
    assert [(one.attempt, one.exit) for one in crashed] == [(2, "SIGSEGV")]
    worker.executor_started(0.0, 0)
    assert given(worker) == [3]


def test_when_all_executors_die_together_nobody_is_charged_at_first():
    worker = make()
    worker.receive(0.0, [compute(1)])
    for _ in range(TUNING.max_exposed - 1):
        worker.executor_ended(0.0, 0, Death("template died", "", 1, blame=False))
        worker.executor_started(0.0, 0)
        assert not [one for one in said(worker) if isinstance(one, m.Crashed)]
    worker.executor_ended(0.0, 0, Death("template died", "", 1, blame=False))
    assert [one.attempt for one in said(worker) if isinstance(one, m.Crashed)] == [1]


def test_a_dead_executor_s_half_made_file_is_removed():
    worker = make()
    worker.receive(0.0, [compute(1)])
    effects(worker)
    worker.executor_ended(0.0, 0, Death("SIGKILL", "", 1))
    assert fx.DeleteFiles([1]) in effects(worker)


def test_an_executor_that_does_not_start_is_started_again_ever_later():
    worker = make()
    delays = []
    for _ in range(12):
        worker.executor_ended(0.0, 0, Death("exit code 1", "", 0))
        delays.append(effects(worker, fx.StartExecutor)[0].delay)
    assert delays == sorted(delays) and delays[0] == TUNING.backoff_s and delays[-1] == TUNING.longest_backoff_s
    assert [one.kind for one in said(worker) if isinstance(one, m.WorkerLog)] == ["executor does not start"] * 2


def test_recall_takes_back_what_was_not_read():
    worker = make()
    worker.receive(0.0, [compute(n, cost=TUNING.window_us // 2) for n in (1, 2, 3, 4)])
    assert given(worker) == [1, 2]
    worker.receive(0.0, [m.Recall([2, 3, 4])])
    assert effects(worker, fx.TakeBack) == [fx.TakeBack(0)]
    worker.taken_back(0.0, 0, [2], 1)
    assert [one for one in said(worker) if isinstance(one, m.Recalled)] == [m.Recalled([2, 3, 4])]
    assert set(worker.jobs) == {1}


def test_a_running_task_that_nobody_wants_is_ended_after_a_moment():
    worker = make()
    worker.receive(0.0, [compute(1)])
    effects(worker)
    worker.receive(0.0, [m.Abort([1], False)])
    assert effects(worker) == []
    worker.tick(TUNING.abandoned_s)
    assert fx.Interrupt(0, 1, "cancelled") in effects(worker)


def test_a_function_that_may_have_been_taken_back_is_sent_again():
    worker = make()
    worker.receive(0.0, [compute(1, cost=50), compute(2, cost=50)])
    effects(worker)
    worker.receive(0.0, [m.Abort([1], True), compute(3, cost=50)])  # its packet is composed in the turn of the TakeBack
    kinds = [type(one) for give in effects(worker, fx.Give) for one in give.messages]
    assert kinds == [m.WorkerFunction, m.Compute]


def test_an_input_named_twice_is_fetched_once_and_the_task_runs_once():
    for success in (True, False):
        worker = make()
        worker.receive(0.0, [m.Peer(9, "p", "elsewhere", "/theirs", "tcp:y:1")])
        source = [m.Input(5, 50, None, 10, b"d", [9]), m.Input(5, 50, None, 10, b"d", [9])]
        worker.receive(0.0, [compute(1, inputs=source)])
        assert len(effects(worker, fx.StartFetch)) == 1
        if success:
            worker.fetched(0.0, 50)
            assert given(worker) == [1] and all(one.path == "/mine/32" for one in source)
        else:
            worker.fetch_failed(0.0, 50)
            assert said(worker)[-1] == m.InputLost(1, 1, [(50, 9)]) and not worker.jobs


def test_what_was_fetched_is_told_with_whom_it_came_from_and_how_long_it_took():
    worker = make()
    worker.receive(0.0, [m.Peer(8, "o", "elsewhere", "/o", "tcp:o:1"), m.Peer(9, "p", "elsewhere", "/p", "tcp:p:1")])
    for attempt, address, told in ((50, "tcp:p:1", (9, 1_500_000)), (60, "", (0, 0)), (70, "tcp:nobody:1", (0, 0))):
        worker.receive(10.0, [m.Copy(m.Input(5, attempt, None, 10, b"d", [8, 9]))])
        worker.fetched(11.5, attempt, address)
        [have] = [message for message in said(worker) if isinstance(message, m.Have) and message.stored[0].attempt == attempt]
        assert (have.holder, have.us) == told


def test_inputs_of_a_worker_on_this_host_are_mapped_and_fetched_when_that_fails():
    worker = make()
    worker.receive(0.0, [m.Peer(9, "p", "here", "/theirs", "tcp:y:1")])
    source = m.Input(5, 50, None, 10, b"d", [9])
    worker.receive(0.0, [compute(1, inputs=[source])])
    assert given(worker) == [1] and source.path == "/theirs/32"
    worker.executor_outcomes(0.0, 0, [m.InputLost(1, 1, [(50, 0)])])
    assert len(effects(worker, fx.StartFetch)) == 1


def test_an_outcome_whose_file_is_gone_is_not_told_in_a_hello():
    """A scheduler that had lost its journal had freed it; the next one took the worker to hold it (seed 1000484)."""
    worker = make()
    worker.receive(0.0, [compute(1), compute(2)])
    for number in (1, 2):
        worker.executor_outcomes(0.0, 0, [m.Done(number, number, None, 5, b"d", 5)])
    worker.receive(0.0, [m.Free([1])])
    hello = worker.hello(0.0)
    assert [one.attempt for one in hello.finished] == [one.attempt for one in hello.stored] == [2]


def test_a_finished_outcome_is_told_in_every_hello_until_one_is_accepted():
    worker = make()
    worker.receive(0.0, [compute(1)])
    done = m.Done(1, 1, b"v", 1, b"", 5)
    worker.executor_outcomes(0.0, 0, [done])
    worker.dialer.greeted(m.Refused("session", ""))
    assert worker.hello(0.0).finished == [done]
    assert worker.hello(0.0).finished == [done]  # the first one did not arrive
    worker.dialer.greeted(m.Ready(1))
    worker.dialer.greeted(m.Refused("session", ""))
    assert worker.hello(0.0).finished == []


def test_a_time_limit_keeps_no_arguments():
    worker = make()
    for n in range(1, 50):
        worker.receive(0.0, [compute(n, limit=3600.0)])
        worker.executor_outcomes(0.0, 0, [m.Done(n, n, b"", 0, b"", 5)])
    assert not worker.jobs and all(isinstance(subject, int | records.Executor) for *_, subject in worker._alarms._heap)


def crashes(worker):
    return [one for one in said(worker) if isinstance(one, m.Crashed)]


def test_a_time_limit_interrupts_first_and_kills_after_the_grace():
    worker = make()
    worker.receive(0.0, [compute(1, limit=2.0)])
    worker.tick(2.0)
    assert fx.Interrupt(0, 1, "time limit") in effects(worker)
    worker.tick(2.0 + TUNING.grace_s)
    assert fx.Kill(0, 1) in effects(worker)
    worker.executor_ended(2.6, 0, Death("SIGKILL", "stack", 1))
    (crash,) = crashes(worker)
    assert crash.kind == "TimeLimitExceeded" and "2 s" in crash.exit


def test_what_an_interrupted_task_returns_does_not_count():
    worker = make()
    worker.receive(0.0, [compute(1, limit=2.0)])
    worker.tick(2.0)
    effects(worker)
    worker.executor_outcomes(2.1, 0, [m.Done(1, 1, None, 10_000, b"d", 5)])
    (crash,) = crashes(worker)
    assert crash.kind == "TimeLimitExceeded" and not worker.stored
    assert fx.DeleteFiles([1]) in effects(worker)


def test_a_task_that_waits_gives_up_its_slot_and_resumes_before_others():
    worker = make()
    worker.receive(0.0, [compute(1, cost=50), compute(2, cost=50), compute(3)])
    assert given(worker) == [1, 2]
    worker.executor_outcomes(0.0, 0, [m.Waits(1, [2])])
    assert effects(worker) == [fx.TakeBack(0), fx.StartExecutor(1, 0.0)]
    worker.executor_started(0.0, 1)
    assert given(worker) == [2]
    worker.executor_outcomes(0.0, 0, [m.Resumes(1)])
    assert effects(worker, fx.GoOn) == []  # the one slot is in use
    worker.executor_outcomes(0.0, 1, [m.Done(2, 2, b"", 0, b"", 5)])
    found = effects(worker)
    assert fx.GoOn(0, 1) in found and not [one for one in found if isinstance(one, fx.Give)]
    assert [one for one in said(worker) if isinstance(one, m.Parked)] == [m.Parked(1, True), m.Parked(1, False)]
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, b"", 0, b"", 5)])
    assert given(worker) == [3]


def test_a_parked_executor_that_dies_is_charged_and_needs_no_other():
    worker = make()
    worker.receive(0.0, [compute(1)])
    worker.executor_outcomes(0.0, 0, [m.Waits(1, [])])
    worker.executor_started(0.0, 1)
    effects(worker)
    worker.executor_ended(0.0, 0, Death("SIGSEGV", "", 1))
    assert [one.attempt for one in crashes(worker)] == [1]
    assert effects(worker, fx.StartExecutor) == [] and set(worker.processes.active) == {1} and not worker.processes.parked


def test_a_task_that_does_not_say_that_it_waits_is_parked_where_it_is():
    worker = make()
    worker.receive(0.0, [compute(1, cost=50), compute(2, cost=50)])
    assert given(worker) == [1, 2]
    worker.receive(0.0, [m.Park(2), m.Park(7)])  # one that is not running, and one that is over
    assert effects(worker) == [] and said(worker) == []
    worker.receive(0.0, [m.Park(1), m.Park(1)])
    assert effects(worker) == [fx.TakeBack(0), fx.StartExecutor(1, 0.0)]
    worker.taken_back(0.0, 0, [2], 1)
    worker.executor_started(0.0, 1)
    assert given(worker) == [2] and said(worker) == [m.Parked(1, True)]
    worker.executor_outcomes(0.0, 0, [m.Waits(1, []), m.Resumes(1)])  # then it waits in its main thread too
    assert effects(worker, fx.GoOn) == []
    worker.executor_outcomes(0.0, 1, [m.Done(2, 2, b"", 0, b"", 5)])
    assert effects(worker, fx.GoOn) == [fx.GoOn(0, 1)]


def test_executors_of_tasks_that_end_while_parked_do_not_pile_up():
    worker = make()
    for n in range(1, 6):
        worker.receive(0.0, [compute(n)])
        worker.receive(0.0, [m.Park(n)])
        for start in effects(worker, fx.StartExecutor):
            worker.executor_started(0.0, start.number)
    for number in list(worker.processes.parked):
        (attempt,) = worker.executors[number].given
        worker.executor_outcomes(0.0, number, [m.Done(attempt, attempt, b"", 0, b"", 5)])
        for end in effects(worker, fx.EndExecutor):
            worker.executor_ended(0.0, end.number, Death("exit code 0"))
    assert not worker.processes.parked and not worker.jobs and len(worker.executors) <= 2 * worker.identity.slots


def test_executors_that_stay_after_many_waits_are_bounded():
    worker = make()
    for n in range(1, 20):
        worker.receive(0.0, [compute(n)])
        (number,) = [e.number for e in worker.executors.values() if n in e.given]
        worker.executor_outcomes(0.0, number, [m.Waits(n, [])])
        for start in effects(worker, fx.StartExecutor):
            worker.executor_started(0.0, start.number)
        worker.executor_outcomes(0.0, number, [m.Resumes(n)])
        worker.executor_outcomes(0.0, number, [m.Done(n, n, b"", 0, b"", 5)])
        for end in effects(worker, fx.EndExecutor):
            worker.executor_ended(0.0, end.number, Death("exit code 0"))
    assert len(worker.executors) <= 2 * worker.identity.slots


def test_threads_that_an_earlier_task_left_make_the_next_one_run_where_none_has_been():
    worker = make()
    worker.receive(0.0, [compute(1)])
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, b"", 0, b"", 5)])
    worker.receive(0.0, [compute(2)])
    effects(worker)
    worker.executor_ended(0.0, 0, Death("SIGSEGV", "", 2, blame=False))
    assert crashes(worker) == []
    worker.executor_started(0.0, 0)
    assert given(worker) == [2]
    worker.executor_ended(0.0, 0, Death("SIGSEGV", "", 2))  # a fresh executor: no doubt now
    assert [one.attempt for one in crashes(worker)] == [2]


def test_an_exposed_task_makes_an_idle_executor_give_way_to_a_fresh_one():
    worker = make(2)
    worker.receive(0.0, [compute(1), compute(2)])
    worker.executor_outcomes(0.0, 1, [m.Done(2, 2, b"", 0, b"", 5)])
    effects(worker)
    worker.executor_ended(0.0, 0, Death("template died", "", 1, blame=False))
    assert fx.EndExecutor(1) in effects(worker)


def test_executors_that_do_not_start_stop_the_intake_until_one_does():
    worker = make()
    worker.receive(0.0, [compute(1), compute(2)])
    worker.executor_ended(0.0, 0, Death("SIGKILL", "", 1))
    for _ in range(TUNING.max_failed_starts):
        worker.executor_ended(0.0, 0, Death("no more memory"))
    told = said(worker)
    assert [(one.most, "no more memory" in one.why) for one in told if isinstance(one, m.Intake)] == [(0, True)]
    assert [one.attempts for one in told if isinstance(one, m.Recalled)] == [[2]]
    worker.receive(0.0, [compute(3)])  # was on its way
    assert m.Recalled([3]) in said(worker)
    worker.executor_started(0.0, 0)
    assert said(worker) == [m.Intake(1, "")]


def test_without_a_process_to_fork_from_the_intake_stops_at_once():
    worker = make()
    worker.receive(0.0, [compute(1), compute(2)])
    worker.executor_ended(0.0, 0, Death("its template died", running=1, blame=False))
    assert not said(worker)
    worker.executors_do_not_start(0.0, "--preload: no licence")
    assert said(worker) == [m.Intake(0, "its executors do not start: --preload: no licence"), m.Recalled([1, 2])]
    worker.executors_do_not_start(1.0, "--preload: no licence")
    assert not said(worker)
    worker.executor_started(2.0, 0)
    assert said(worker) == [m.Intake(1, "")]


def test_the_memory_ladder():
    worker = make(2, limits=Limits(1000, 0))
    worker.receive(0.0, [compute(1), compute(2)])
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, None, 300, b"d", 5)])
    worker.receive(0.0, [compute(3), compute(4)])
    effects(worker)
    said(worker)
    assert worker.memory_used(0.0, {0: 300, 1: 200}, {0: 3, 1: 2}, 300) == TUNING.look_closely_s
    assert effects(worker) == [fx.Spill([1])]
    worker.memory_used(0.0, {0: 300, 1: 200}, {0: 3, 1: 2}, 300)
    assert effects(worker) == []  # it is being done
    worker.spilled_files(0.0, [1])
    assert worker.in_memory == 0
    worker.memory_used(0.0, {0: 700, 1: 200}, {0: 3, 1: 2}, 0)
    told = said(worker)
    assert told[0].most == 1 and "memory" in told[0].why and told[1] == m.Recalled([4])
    worker.memory_used(0.0, {0: 760, 1: 200}, {0: 3, 1: 2}, 0)
    assert effects(worker) == [fx.Kill(0, 3)]
    worker.executor_ended(0.0, 0, Death("SIGKILL", "", 3))
    (crash,) = crashes(worker)
    assert crash.kind == "MemoryLimitExceeded" and "760 bytes" in crash.exit and "1000 bytes" in crash.exit
    worker.memory_used(0.0, {1: 200}, {1: 2}, 0)
    assert m.Intake(2, "") in said(worker)


def test_the_least_recently_used_results_leave_memory_first():
    worker = make(limits=Limits(1000, 0))
    for n in (1, 2, 3):
        worker.receive(0.0, [compute(n)])
        worker.executor_outcomes(0.0, 0, [m.Done(n, n, None, 250, b"d", 5)])
    worker.receive(0.0, [compute(4, inputs=[m.Input(1, 1, None, 250, b"d", [])])])
    effects(worker)
    worker.memory_used(0.0, {}, {}, 750)
    assert effects(worker) == [fx.Spill([2])]
    worker.spilled_files(0.0, [], "disk full")
    assert [one.text for one in said(worker) if isinstance(one, m.WorkerLog)] == ["disk full"]
    worker.memory_used(1.0, {}, {}, 750)
    assert effects(worker) == []  # not again at once
    worker.memory_used(1.0 + TUNING.spill_pause_s, {}, {}, 750)
    assert effects(worker) == [fx.Spill([2])]


def test_a_time_limit_counts_from_when_the_task_was_given_last():
    worker = make()
    worker.receive(0.0, [compute(1, limit=1.0)])
    worker.executor_ended(0.9, 0, Death("template died", "", 1, blame=False))
    worker.executor_started(0.91, 0)
    effects(worker)
    worker.tick(1.0)
    assert not effects(worker, fx.Interrupt)
    worker.tick(1.92)
    assert effects(worker, fx.Interrupt)


def test_a_file_that_was_deleted_while_it_was_spilled_is_deleted_again():
    worker = make(limits=Limits(1000, 0))
    worker.receive(0.0, [compute(1)])
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, None, 900, b"d", 5)])
    worker.memory_used(0.0, {}, {}, 900)
    worker.receive(0.0, [m.Free([1])])
    effects(worker)
    worker.spilled_files(0.1, [1])
    assert effects(worker) == [fx.DeleteFiles([1])]


def test_a_parked_task_that_is_run_again_uses_a_slot_again():
    worker = make()
    worker.receive(0.0, [compute(1)])
    worker.executor_outcomes(0.0, 0, [m.Waits(1, [])])
    worker.executor_started(0.0, 1)
    said(worker)
    worker.executor_ended(0.0, 0, Death("template died", "", 1, blame=False))
    assert m.Parked(1, False) in said(worker)


def test_an_executor_that_begins_nothing_is_replaced_and_nobody_is_charged():
    worker = make()
    worker.receive(0.0, [compute(1)])
    effects(worker)
    worker.tick(TUNING.stuck_s)
    assert effects(worker) == [fx.TakeBack(0)]
    worker.taken_back(TUNING.stuck_s, 0, [], 0)
    assert fx.Kill(0, 0) in effects(worker)
    worker.executor_ended(2.1, 0, Death("SIGKILL", "", 0))
    worker.executor_started(2.1, 0)
    assert given(worker) == [1] and not crashes(worker)


def test_a_task_that_met_two_template_deaths_runs_alone_before_it_is_charged():
    worker = make(2)
    worker.receive(0.0, [compute(1), compute(2)])
    for _ in range(TUNING.max_exposed - 1):
        for number in (0, 1):
            for attempt in list(worker.executors[number].given):
                worker.executor_ended(0.0, number, Death("template died", "", attempt, blame=False))
        for number in list(worker.executors):
            worker.executor_started(0.0, number)
    busy = [one for one in worker.processes.active.values() if one.given]
    assert len(busy) == 1 and len(busy[0].given) == 1 and len(worker.queue) == 1


def test_what_a_scheduler_must_not_say_is_refused_and_changes_nothing():
    worker = make()
    worker.receive(0.0, [compute(1)])
    for wrong in (compute(1), compute(0), m.Compute(2, 2, 9, b""), compute(3, limit=float("nan")), m.ForgetFunctions([1])):
        with pytest.raises(ProtocolError):
            worker.receive(0.0, [wrong])
    assert list(worker.jobs) == given(worker) == [1]
    with pytest.raises(ProtocolError):
        worker.receive(0.0, [compute(4), compute(1)])
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, b"v", 1, b"", 5)])
    worker.receive(0.0, [m.Abort([4], True), m.ForgetFunctions([1])])
    assert not worker.work.functions


def test_an_attempt_whose_file_is_there_is_not_run_again_over_it():
    worker = make()
    worker.receive(0.0, [compute(1)])
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, None, 10_000, b"d", 5)])
    with pytest.raises(ProtocolError, match="assigned twice"):
        worker.receive(0.0, [compute(1)])
    assert not worker.jobs


def test_results_that_can_still_move_to_disk_are_not_held_against_a_task():
    verdict = judge(TUNING, Limits(1000), {0: 500}, 480, False)
    assert verdict.spill == 380 and verdict.pause and verdict.stop is None
    verdict = judge(TUNING, Limits(1000), {0: 960}, 20, False)
    assert verdict.stop is not None and verdict.stop.number == 0  # too much without them


def test_a_hello_names_the_attempts_that_are_here_and_wanted():
    worker = make()
    worker.receive(0.0, [compute(1), compute(2), compute(3)])
    assert given(worker) == [1]
    worker.receive(0.0, [m.Abort([2], True)])
    assert worker.hello(1.0).running == [(1, 1), (3, 3)]
    worker.receive(1.0, [m.Abort([1], True)])  # it still runs, and nobody wants its outcome
    assert worker.hello(2.0).running == [(3, 3)]


def test_rescued_files_are_in_the_books():
    worker = make()
    said(worker)
    files = [m.Stored(5, 5, 3, b"d"), m.Stored(6, 6, 3, b"d")]
    worker.rescued(0.0, 7, True, files, [6])
    assert said(worker) == [m.Rescued(7, True, files)]
    assert list(worker.stored) == [5, 6] and worker.in_memory == 3


def test_damaged_files_that_the_scheduler_knows_of_are_missing():
    worker = make(stored=[m.Stored(5, 5, 3, b"d")])
    said(worker)
    worker.damaged(0.0, [5, 6], "two files do not match their digests")
    log, missing = said(worker)
    assert log.kind == "damaged files" and missing == m.Missing([5])  # nobody was told of the other one
    assert 5 not in worker.stored


def test_a_copy_that_is_here_already_is_confirmed():
    file = m.Stored(5, 5, 3, b"d")
    worker = make(stored=[file])
    said(worker)
    worker.receive(0.0, [m.Copy(m.Input(5, 5, None, 3, b"d", [2]))])
    assert said(worker) == [m.Have([file])] and not effects(worker, fx.StartFetch)


def test_a_restart_is_confirmed_when_every_old_executor_is_gone():
    worker = make()
    worker.receive(0.0, [compute(1, beside=True)])
    (beside,) = effects(worker, fx.StartExecutor)
    worker.executor_started(0.0, beside.number)
    assert given(worker) == [1]
    worker.receive(1.0, [m.Renew(4)])
    assert [kill.number for kill in effects(worker, fx.Kill)] == [0, beside.number]
    worker.executor_ended(1.0, 0, Death("SIGKILL"))
    (fresh,) = effects(worker, fx.StartExecutor)
    worker.executor_started(1.0, fresh.number)
    assert m.Answered(4) not in said(worker)  # the one beside the slots is still there
    worker.executor_ended(1.0, beside.number, Death("SIGKILL", running=1))
    assert m.Answered(4) in said(worker)


def test_after_an_upload_tasks_run_in_executors_that_were_started_after_it():
    worker = make()
    worker.receive(0.0, [m.Install(3, "mod.py", "module", b"d", b"code")])
    kinds = [type(effect) for effect in effects(worker)]
    assert kinds == [fx.InstallFile, fx.EndExecutor, fx.StartExecutor]
    worker.installed(0.0, 3, "")
    assert m.Answered(3) in said(worker)


def test_an_executor_that_is_stopped_before_it_has_begun_anything_is_replaced():
    """It was taken back what it had, and stood there for ever (seed 200180)."""
    worker = make()
    worker.receive(0.0, [compute(1)])
    assert given(worker) == [1]
    worker.executors_stopped(1.0, {0}, 10.0)
    worker.executors_stopped(11.0, {0}, 10.0)
    assert [type(one) for one in effects(worker)] == [fx.TakeBack, fx.Kill]
    worker.taken_back(11.0, 0, [1], 0)
    effects(worker)
    worker.executors_stopped(12.0, set(), 10.0)
    assert effects(worker, fx.Kill) == [fx.Kill(0, 0)]
    worker.executor_ended(12.0, 0, Death("SIGKILL"))
    assert effects(worker, fx.StartExecutor)
    worker.executor_started(13.0, 0)
    assert given(worker) == [1] and [one for one in said(worker) if isinstance(one, m.Crashed)] == []


def test_a_welcome_that_comes_when_the_lease_is_over_fences():
    """The worker was stopped meanwhile: it took itself to be part of the cluster when it had been given up (seed 100274)."""
    worker = make()
    for answered, fenced in ((1.0, False), (50.0, True), (101.0, False)):
        worker.hello(answered - (40.0 if fenced else 1.0))
        worker.dialer.greeted(m.Ready(2, "", 2.0, 10.0))
        worker.welcomed(answered)
        assert worker.intake.fenced == fenced


def test_a_fenced_worker_starts_nothing_until_it_is_welcomed():
    worker = make()
    worker.receive(0.0, [compute(1), compute(2)])
    assert given(worker) == [1]
    worker.look_at_lease(20.0)
    assert effects(worker, fx.Fence) == [fx.Fence(True)]
    worker.executor_outcomes(20.0, 0, [m.Done(1, 1, b"v", 1, b"", 5)])
    assert given(worker) == []
    assert m.Recalled([2]) in said(worker)  # it may have been given to another worker
    worker.welcomed(21.0)
    worker.receive(21.0, [compute(3)])
    assert given(worker) == [3]


def test_a_suspect_waits_until_it_can_run_alone():
    worker = make(slots=2)
    worker.receive(0.0, [compute(1), compute(2)])
    assert given(worker) == [1, 2]
    for exposed in (1, 2):
        worker.executor_ended(0.0, 0, Death("SIGKILL", running=1, blame=False))
        worker.executor_started(0.0, 0)
        assert given(worker) == ([1] if exposed == 1 else [])
    worker.executor_outcomes(0.0, 1, [m.Done(2, 2, b"v", 1, b"", 5)])
    assert given(worker) == [1]


def test_a_job_that_nobody_wants_is_not_given_again():
    worker = make()
    worker.receive(0.0, [compute(1, cost=50), compute(2, cost=50)])
    assert given(worker) == [1, 2]
    worker.receive(0.0, [m.Abort([2], True)])
    worker.taken_back(0.0, 0, [2], 1)
    worker.executor_outcomes(0.0, 0, [m.Done(1, 1, b"v", 1, b"", 5)])
    assert given(worker) == [] and not worker.jobs


def test_a_job_that_went_back_for_one_input_is_not_started_by_the_other():
    worker = make()
    worker.receive(0.0, [m.Peer(2, "other", "there", "/other", "tcp:x:2")])
    worker.receive(0.0, [compute(1, inputs=[m.Input(n, n, None, 3, b"d", [2]) for n in (5, 6)])])
    assert len(effects(worker, fx.StartFetch)) == 2
    worker.fetch_failed(0.0, 5)
    assert any(isinstance(message, m.InputLost) for message in said(worker))
    worker.fetched(0.0, 6)
    assert given(worker) == [] and not worker.jobs


def test_a_job_starts_when_all_its_inputs_are_here():
    worker = make()
    worker.receive(0.0, [m.Peer(2, "other", "there", "/other", "tcp:x:2")])
    worker.receive(0.0, [compute(1, inputs=[m.Input(n, n, None, 3, b"d", [2]) for n in (5, 6)])])
    worker.fetched(0.0, 5)
    assert given(worker) == []
    worker.fetched(0.0, 6)
    assert given(worker) == [1]


def test_a_file_of_ours_that_an_executor_could_not_open_is_looked_for():
    worker = make(stored=[m.Stored(5, 5, 3, b"d")])
    worker.receive(0.0, [compute(1, inputs=[m.Input(5, 5, None, 3, b"d", [1])])])
    assert given(worker) == [1]
    worker.executor_outcomes(0.0, 0, [m.InputLost(1, 1, [(5, 0)])])
    assert effects(worker, fx.LookForFiles) == [fx.LookForFiles([5])]
    assert m.InputLost(1, 1, []) in said(worker)
