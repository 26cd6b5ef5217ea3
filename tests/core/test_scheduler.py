"""The scheduler's core by hand: one story each."""

from __future__ import annotations

import pytest

from twistdist.core.scheduler import Settings
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.outputs import Replaced
from twistdist.core.scheduler.settings import Tuning
from twistdist.errors import ProtocolError
from twistdist.testing.stories import Story
from twistdist.wire import framing
from twistdist.wire import messages as m


@pytest.fixture
def story():
    return Story()


def test_a_task_runs_and_its_value_is_told(story):
    worker = story.worker()
    cid = story.submit()
    function, compute = story.said(worker)
    assert isinstance(function, m.WorkerFunction) and compute.args == b"1"
    story.done(worker, compute, b"result")
    assert story.outcome(cid).value == b"result"


def test_tasks_wait_for_workers(story):
    story.submit()
    worker = story.worker()
    assert len(story.given(worker)) == 1


def test_a_small_value_rides_along_and_cuts_the_lineage(story):
    worker = story.worker()
    first = story.submit()
    second = story.submit(first)
    story.done(worker, story.given(worker)[0], b"one")
    (compute,) = story.given(worker)
    assert compute.inputs[0].value == b"one"
    story.done(worker, compute, b"two")
    story.tell(story.client, m.Release([first]))
    assert len(story.core.tasks) == 1 and story.outcome(second).value == b"two"


def test_a_lost_worker_s_values_are_replayed_only_where_needed(story):
    a, b = story.worker("a"), story.worker("b")
    first, second = story.submit(), story.submit()
    computes = {a: story.given(a)[0], b: story.given(b)[0]}
    for worker, compute in computes.items():
        story.done(worker, compute, None, 10_000)
    third = story.submit(first)
    story.tell(story.client, m.Release([second]))
    runner = a if story.given(a) else b
    assert runner is a  # the worker that holds the input
    story.lost(a)
    assert story.given(b) == []  # away is not gone
    story.later(0.6)
    again = story.given(b)
    assert [one.args for one in again] == [b"1"]
    incident = story.core.statistics.incidents[-1]
    assert (incident.kind, incident.requeued, incident.lost, incident.replayed) == ("worker lost", 1, 1, 1)
    story.done(b, again[0], None, 10_000)
    (last,) = story.given(b)
    story.done(b, last, b"end")
    assert story.outcome(third).value == b"end"


def test_a_resumed_worker_has_lost_nothing(story):
    worker = story.worker()
    story.submit()
    (compute,) = story.given(worker)
    story.lost(worker)
    story.later(0.3)
    assert story.core.find_session(m.Resume(worker.hello.session, 1, 0)) is worker
    story.core.reconnected(story.now, worker)
    story.later(5)
    assert worker.number in story.core.workers and story.given(worker) == []
    story.done(worker, compute)
    assert story.core.statistics.reruns == 0


def test_a_stale_result_changes_nothing_and_its_file_is_freed(story):
    a = story.worker("a")
    cid = story.submit()
    (old,) = story.given(a)
    story.lost(a)
    story.later(0.6)
    b = story.worker("b")
    (new,) = story.given(b)
    assert new.attempt != old.attempt
    back = story.worker(
        "a",
        finished=[m.Done(old.task, old.attempt, None, 10_000, b"d", 1)],
        stored=[m.Stored(old.task, old.attempt, 10_000, b"d")],
    )
    assert story.said(back, m.Free) == [m.Free([old.attempt])]
    story.done(b, new, b"right")
    assert story.outcome(cid).value == b"right" and story.core.statistics.stale == 1


def test_a_worker_that_comes_back_in_time_goes_on_with_its_attempt(story):
    a = story.worker("a")
    cid = story.submit()
    (compute,) = story.given(a)
    story.lost(a)
    story.later(0.6)  # given up; nobody else is there to run it
    back = story.worker("a", running=[(compute.task, compute.attempt)])
    assert story.said(back) == []
    story.done(back, compute, b"kept")
    assert story.outcome(cid).value == b"kept"


def test_a_worker_restarted_on_its_store_brings_its_values_back(story):
    a = story.worker("a")
    cid = story.submit()
    (compute,) = story.given(a)
    story.done(a, compute, None, 10_000)
    back = story.worker("a", stored=[m.Stored(compute.task, compute.attempt, 10_000, b"d"), m.Stored(99, 99, 1, b"d")])
    assert story.given(back) == [] and story.core.statistics.replays == 0
    assert story.core.statistics.incidents[-1].kind == "worker lost"
    assert story.core.statistics.incidents[-1].lost == 0
    assert story.outcome(cid).attempt == compute.attempt
    assert back.holds


def test_the_replaced_incarnation_may_not_come_back(story):
    a = story.worker("a")
    story.worker("a")
    assert Replaced(a) in story.effects()
    assert story.core.refusal(a.hello).code == "replaced"


def test_retries_and_then_the_error_for_all_that_depend_on_it(story):
    worker = story.worker()
    first = story.submit(retries=1)
    second = story.submit(first)
    error = m.ErrorInfo("", "ValueError", "bad")
    for _ in range(2):
        (compute,) = story.given(worker)
        story.tell(worker, m.Failed(compute.task, compute.attempt, error, 1))
    erred = {one.cid: one.error for one in story.said(story.client, m.Erred)}
    assert erred.keys() == {first, second} and erred[second].text == "bad" and erred[first].key == erred[second].key
    third = story.submit(second)
    assert story.outcome(third).error.text == "bad"


def test_crashes_up_to_the_limit(story):
    worker = story.worker()
    cid = story.submit(crash_limit=2)
    for _ in range(2):
        (compute,) = story.given(worker)
        story.tell(worker, m.Crashed(compute.task, compute.attempt, "SIGSEGV (Segmentation fault)", "stack"))
    error = story.outcome(cid).error
    assert error.kind == "TaskCrashed" and error.text.count("SIGSEGV") == 3 and "stack" in error.text
    assert [one.kind for one in story.core.statistics.incidents] == ["executor died", "executor died"]


def test_our_own_kill_is_not_a_crash(story):
    worker = story.worker()
    cid = story.submit(time_limit=1.0)
    (compute,) = story.given(worker)
    assert compute.limit == 1.0
    story.tell(worker, m.Crashed(compute.task, compute.attempt, "it ran longer", "", "TimeLimitExceeded"))
    assert story.outcome(cid).error.kind == "TimeLimitExceeded"


def test_cancel_stops_what_nobody_else_wants(story):
    worker = story.worker()
    first = story.submit(key="k")
    second = story.submit(first)
    third = story.submit(second)
    (compute,) = story.given(worker)
    story.tell(story.client, m.Submit(50, 1, [b"%d" % first], None, ["k"]))
    story.tell(story.client, m.Release([second]))
    story.tell(story.client, m.Cancel([first]))
    erred = {one.cid: one.error for one in story.said(story.client, m.Erred)}
    assert set(erred) == {first, third} and "with its input k" in erred[third].text
    assert story.said(worker, m.Abort) == []  # the other future of that key still wants it
    story.tell(story.client, m.Cancel([50]))
    assert story.said(worker, m.Abort) == [m.Abort([compute.attempt], True)]
    assert not story.core.tasks


def test_cancel_leaves_alone_what_has_been_given_out_if_so_asked(story):
    worker = story.worker()
    cids = [story.submit() for _ in range(4)]
    given = len(story.given(worker))
    story.tell(story.client, m.Cancel(cids, True))
    assert [one.cid for one in story.said(story.client, m.Erred)] == cids[given:] and 0 < given < 4
    assert story.said(worker, m.Abort) == []


def test_a_preference_is_followed_while_the_preferred_worker_is_free(story):
    names = ["a", "b", "c"]
    workers = {name: story.worker(name=name) for name in names}
    for _ in range(5):
        story.submit(workers=("b",), allow_other_workers=True)
        given = {name: story.given(workers[name]) for name in names}
        assert [len(given[name]) for name in names] == [0, 1, 0]
        story.done(workers["b"], given["b"][0])
    story.submit(workers=("b",), allow_other_workers=True)
    story.submit(workers=("b",), allow_other_workers=True)
    assert story.given(workers["b"]) and (story.given(workers["a"]) or story.given(workers["c"]))


def test_cancel_kills_a_running_task(story):
    worker = story.worker()
    cid = story.submit()
    (compute,) = story.given(worker)
    story.tell(story.client, m.Cancel([cid]))
    assert story.said(worker, m.Abort) == [m.Abort([compute.attempt], True)]


@pytest.mark.says.with_args(m.Abort)
def test_the_same_key_is_one_task_and_another_recipe_is_refused(story):
    story.worker()
    first = story.submit(key="k")
    task = story.core.parts.registry.keys["k"]
    story.tell(story.client, m.Submit(50, 1, [b"%d" % first], None, ["k"]))
    assert len(story.core.tasks) == 1 and len(task.watchers) == 2
    story.tell(story.client, m.Submit(51, 1, [b"other"], None, ["k"]))
    assert story.outcome(51).error.kind == "KeyConflict"
    story.tell(story.client, m.Release([first, 50, 51]))
    assert not story.core.tasks and not story.core.parts.registry.keys


def test_the_same_key_after_its_inputs_were_let_go(story):
    worker = story.worker()
    first = story.submit(key="a")
    second = story.submit(first, key="b")
    story.done(worker, story.given(worker)[0], b"1")
    story.done(worker, story.given(worker)[0], b"2")
    story.tell(story.client, m.Submit(50, 1, [b"%d" % second], [[first]], ["b"]))
    assert story.outcome(50).value == b"2"


def test_an_input_named_twice(story):
    worker = story.worker()
    first = story.submit(key="k")
    story.tell(story.client, m.Submit(50, 1, [b"%d" % first], None, ["k"]), m.Submit(51, 1, [b"x"], [[first, 50, first]]))
    story.done(worker, story.given(worker)[0], b"v")
    (compute,) = story.given(worker)
    assert [one.value for one in compute.inputs] == [b"v", b"v", b"v"]
    story.done(worker, compute)
    assert story.outcome(51).value == b"v"


def test_named_workers_and_resources(story):
    a = story.worker("a")
    b = story.worker("b", resources={"GPU": 1_000_000})
    story.submit(workers=("b",))
    assert story.given(a) == []
    (compute,) = story.given(b)
    first = story.submit(resources={"GPU": 1_000_000})
    assert story.given(a) == [] and story.given(b) == []  # restricted tasks are not given ahead
    story.done(b, compute)
    second = story.submit(resources={"GPU": 1_000_000})
    assert story.given(a) == []
    (compute,) = story.given(b)
    story.done(b, compute)
    assert story.given(a) == [] and len(story.given(b)) == 1 and first != second
    stranger = story.submit(workers=("nobody",))
    late = story.submit(workers=("late",))
    story.later(10)
    story.worker("late")
    story.later(11)
    assert story.outcome(stranger).error.kind == "NoValidWorker" and story.outcome(late) is None


def run_all(story, worker):
    order = []
    while computes := story.given(worker):
        for compute in computes:
            order.append(int(compute.args))
            story.done(worker, compute)
    return order


def test_higher_priority_runs_first(story):
    low, normal, high = story.submit(priority=-1), story.submit(), story.submit(priority=5)
    assert run_all(story, story.worker()) == [high, normal, low]


def test_what_lies_deeper_runs_before_other_beginnings(story):
    first = story.submit()
    others = [story.submit() for _ in range(5)]
    child = story.submit(first)
    order = run_all(story, story.worker())
    assert order.index(child) <= 2 < order.index(others[-1])


def test_an_idle_worker_gets_tasks_recalled_from_a_loaded_one(story):
    a = story.worker("a")
    for _ in range(40):
        story.submit()
    story.done(a, story.given(a)[0], us=300)
    b = story.worker("b")
    run_all(story, b)
    (recall,) = story.said(a, m.Recall)
    story.tell(a, m.Recalled(recall.attempts))
    given = story.given(b)
    assert given and {one.attempt for one in given}.isdisjoint(recall.attempts)


def test_a_client_that_stays_away_is_released_after_its_grace(story):
    worker = story.worker()
    story.submit()
    story.core.connection_lost(story.now, story.client)
    story.later(59)
    assert story.core.tasks
    story.later(2)
    assert not story.core.tasks and story.said(worker, m.Abort)


def test_clear_drops_only_what_no_connected_session_wants(story):
    other = story.core.greet(story.now, m.HelloClient(2))
    mine = story.submit()
    story.core.connection_lost(story.now, story.client)
    story.tell(other, m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b"theirs"]), m.Query(1, "clear", []))
    assert [task.args for task in story.core.tasks.values()] == [b"theirs"] and mine
    assert story.said(other, m.Reply)[0].value == {"sessions": 1, "tasks": 1}


def test_a_submit_that_can_not_be_carried_out_fails_its_own_futures(story):
    story.tell(story.client, m.Submit(1, 77, [b"", b""]), m.Submit(3, 1, [b""]))
    refused = [one for one in story.said(story.client) if isinstance(one, m.Erred)]
    assert [one.cid for one in refused] == [1, 2] and "unknown function 77" in refused[0].error.text
    assert set(story.core.tasks.values()) == {story.client.futures[3]}
    (incident,) = story.core.statistics.incidents
    assert incident.kind == "message refused" and "Submit: a task of the unknown function 77" in incident.cause
    story.tell(story.client, m.Release([1, 2, 3]))
    assert not story.core.tasks and not story.client.futures


@pytest.mark.parametrize(
    "parts, cids, query",
    [
        ([11, 5, 1, [b"a", b"b"], "no list"], [5, 6], None),
        ([18, 5, "k", "no size"], [5], None),
        ([15, 9, 8, []], [], 9),
        ([11, "x"], [], None),
        ([11, -1, 1, [b""], 3], [], None),
        ([11, (1 << 64) - 1, 1, [b""], 3], [], None),
        ([99], [], None),
        ([], [], None),
    ],
)
def test_what_can_not_be_decoded_is_told_to_who_waits_for_it(story, parts, cids, query):
    body = framing.encode_frame((1, 0, [m.Submit(1, 1, [b"good"]), parts, m.Submit(2, 1, [b"too"])]))[4:]
    story.core.receive(story.now, story.client, framing.decode_frame_of_client(body)[2])
    check_scheduler(story.core)
    said = story.said(story.client)
    assert [one.cid for one in said if isinstance(one, m.Erred)] == cids
    assert [one.query for one in said if isinstance(one, m.Reply)] == ([] if query is None else [query])
    assert [task.args for task in story.core.tasks.values()] == [b"good", b"too"]
    assert [one.kind for one in story.core.statistics.incidents] == ["message refused"]


def test_functions_are_forgotten_with_their_last_user(story):
    worker = story.worker()
    story.submit()
    story.given(worker)
    story.core.receive(story.now, story.client, [m.Bye()])
    assert not story.core.parts.registry.functions and not story.core.tasks
    assert story.said(worker, m.ForgetFunctions)


def test_a_value_that_can_not_be_fetched_is_looked_for_and_recovered(story):
    worker = story.worker()
    cid = story.submit()
    (compute,) = story.given(worker)
    story.done(worker, compute, None, 10_000)
    place = story.outcome(cid)
    story.tell(story.client, m.Unreachable(cid, place.attempt, place.holders))
    assert story.said(worker, m.Verify) == [m.Verify([compute.attempt])]
    story.tell(worker, m.Missing([compute.attempt]))
    (again,) = story.given(worker)
    story.done(worker, again, None, 10_000)
    assert story.outcome(cid).attempt == again.attempt


def test_a_task_given_back_for_a_lost_input_runs_again_after_a_pause(story):
    worker = story.worker()
    first = story.submit()
    cid = story.submit(first)
    story.done(worker, story.given(worker)[0], None, 10_000)
    (compute,) = story.given(worker)
    story.tell(worker, m.InputLost(compute.task, compute.attempt, [(compute.inputs[0].attempt, 1)]))
    assert story.given(worker) == []
    story.later(0.2)
    (again,) = story.given(worker)
    story.done(worker, again)
    assert story.outcome(cid).value == b"v"


# ---- found by review and by tests on real processes ----------------------------------------------


def test_nothing_is_given_to_a_replaced_incarnation_whose_break_was_not_seen(story):
    story.worker("a")
    story.submit()
    new = story.worker("a")  # the old connection still looks alive
    assert len(story.given(new)) == 1
    story.submit()
    assert len(story.given(new)) == 1


def test_an_outcome_told_twice_does_not_free_the_accepted_file(story):
    a = story.worker("a")
    cid = story.submit()
    (compute,) = story.given(a)
    done = m.Done(compute.task, compute.attempt, None, 10_000, b"d", 1)
    story.tell(a, done)
    back = story.worker("a", stored=[m.Stored(compute.task, compute.attempt, 10_000, b"d")], finished=[done])
    assert story.said(back, m.Free) == [] and story.outcome(cid) is not None


def test_a_failure_told_twice_is_charged_once(story):
    a = story.worker("a")
    cid = story.submit(retries=1)
    (compute,) = story.given(a)
    failed = m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "bad"), 1)
    story.core.parts.placement.remove(a)  # so that the retry stays in the queue
    story.tell(a, failed)
    back = story.worker("a", finished=[failed])
    assert len(story.given(back)) == 1 and story.outcome(cid) is None


def test_a_released_key_may_be_used_again_in_the_same_breath(story):
    worker = story.worker()
    first = story.submit(key="k")
    story.done(worker, story.given(worker)[0])
    story.tell(story.client, m.Release([first]), m.Submit(50, 1, [b"other"], None, ["k"]))
    story.done(worker, story.given(worker)[0], b"new")
    assert story.outcome(50).value == b"new"


def test_resources_add_up_again(story):
    worker = story.worker(resources={"GPU": 1_000_000})
    for amount in (900_000, 300_000, 600_000, 280_000, 330_000, 80_000):
        story.submit(resources={"GPU": amount})
        story.done(worker, story.given(worker)[0])
    story.submit(resources={"GPU": 1_000_000})
    assert len(story.given(worker)) == 1


def test_an_input_that_can_never_be_had_is_computed_again(story):
    worker = story.worker(slots=2)
    first = story.submit()
    story.submit(first)
    story.done(worker, story.given(worker)[0], None, 10_000)
    for _ in range(Tuning().max_lost_inputs):
        (compute,) = story.given(worker)
        story.tell(worker, m.InputLost(compute.task, compute.attempt, [(compute.inputs[0].attempt, worker.number)]))
        story.later(10)
    assert [one.args for one in story.given(worker)] == [b"1"]


@pytest.mark.parametrize("what", ["incidents", "who_has", "watch", "why", "nothing"])
def test_odd_questions_are_answered_with_an_error(story, what):
    story.tell(story.client, m.Query(1, what, [["x"], {}]))
    (reply,) = story.said(story.client, m.Reply)
    assert reply.error or what == "who_has"


@pytest.mark.parametrize("message", [m.Submit(1, 1, [b"", b""], [[]]), m.Submit(1, 1, [b""], None, [])])
def test_lists_of_different_lengths_are_refused(story, message):
    story.tell(story.client, message)
    assert story.outcome(1).error.kind == "ProtocolError" and not story.core.tasks


def test_a_future_submitted_twice_stays_the_first_one(story):
    story.submit()
    story.tell(story.client, m.Submit(1, 1, [b""]))
    assert story.outcome(1) is None and len(story.core.tasks) == 1 == len(story.core.statistics.incidents)


def test_too_many_bytes_of_inputs_fail_the_task_and_not_the_connection():
    story = Story(Settings(tuning=Tuning(max_compute_bytes=100)))
    worker = story.worker()
    first = story.submit()
    story.done(worker, story.given(worker)[0], b"x" * 101, 101)
    assert story.outcome(story.submit(first)).error.kind == "SerializationError"


def test_ten_thousand_futures_of_one_task_are_released_in_linear_time(story):
    count = 10_000
    story.core.receive(0.0, story.client, [m.Submit(i + 1, 1, [b"x"], None, ["k"]) for i in range(count)])
    story.core.receive(0.0, story.client, [m.Release(list(range(count, 0, -1)))])
    assert not story.core.tasks


# What a peer that knows the secret must not do to the others, found by tests/fuzz.


def test_nothing_that_comes_behind_bye_counts(story):
    story.tell(story.client, m.Bye(), m.Submit(1, 1, [b"late"]), m.Function(2, "g", b"g", b"blob"), m.DropFunctions([1]))
    assert not story.core.tasks and not story.core.parts.registry.functions
    with pytest.raises(ProtocolError, match="has ended"):
        story.tell(story.client, m.Function(2, "g", b"g", b"blob"))
    assert not story.core.parts.registry.functions


def test_a_worker_whose_hello_came_again_speaks_over_its_new_connection_alone(story):
    old = story.worker()
    cid = story.submit()
    (compute,) = story.given(old)
    story.core.greet(story.now, old.hello)
    with pytest.raises(ProtocolError, match="replaced"):
        story.tell(old, m.Done(compute.task, compute.attempt, None, 1, b"d", 1), m.Intake(1, ""))
    check_scheduler(story.core)
    assert story.outcome(cid) is None


def test_a_worker_can_not_take_up_a_task_that_it_could_not_have_been_given(story):
    first = story.worker("a", resources={"GPU": 1_000_000})
    story.submit(resources={"GPU": 1_000_000})
    (compute,) = story.given(first)
    story.core.parts.fleet.gone(story.now, first, "lost")
    second = story.worker("b", running=[(compute.task, compute.attempt)])
    assert story.said(second, m.Abort)[0].attempts == [compute.attempt]
    assert story.core.tasks[compute.task].worker is None


def test_attempt_0_is_none(story):
    cid = story.submit()
    number = story.client.futures[cid].number
    worker = story.worker(running=[(number, 0)], stored=[m.Stored(number, 0, 1, b"")])
    (compute,) = story.given(worker)
    story.tell(worker, m.Have([m.Stored(number, 0, 1, b"")]))
    assert story.core.tasks[number].attempt == compute.attempt


def test_a_worker_with_less_than_nothing_is_refused(story):
    for fields in ({"slots": -1}, {"resources": {"GPU": -1}}):
        with pytest.raises(ProtocolError, match="negative slots or resources"):
            story.worker(**fields)
    assert not story.core.workers


def test_a_worker_that_brings_an_outcome_may_have_forgotten_the_function(story):
    """A scheduler that had lost its journal had told it to, and its successor gave it a task (seed 1016676)."""
    worker = story.worker("a")
    first = story.submit()
    (compute,) = story.given(worker)
    story.lost(worker)
    story.later(60)
    assert not story.core.workers
    back = story.worker("a", finished=[m.Done(compute.task, compute.attempt, b"v", 1, b"", 1)])
    assert story.outcome(first).value == b"v"
    story.submit()
    assert [type(one) for one in story.said(back)] == [m.WorkerFunction, m.Compute]


@pytest.mark.says.with_args(m.Copy)
def test_an_attempt_recalled_twice_goes_back_once(story):
    a, b = story.worker("a"), story.worker("b")
    first = story.submit(replay="never", replicas=1)
    (compute,) = story.given(a)
    story.tell(a, m.Done(compute.task, compute.attempt, None, 10, b"d", 1))
    (copy,) = story.said(b, m.Copy)
    story.tell(b, m.Have([m.Stored(compute.task, compute.attempt, 10, b"d")]))
    second = story.submit(first)
    given = {a: story.given(a), b: story.given(b)}
    runner = a if given[a] else b
    for worker in (a, b):
        story.tell(worker, m.Missing([copy.source.attempt]))
    attempt = given[runner][0].attempt
    story.tell(runner, m.Recalled([attempt, attempt]))
    assert story.outcome(second).error.kind == "DataLost"


def test_odd_questions_are_answered_and_change_nothing(story):
    cid = story.submit(key="k")
    story.submit(key="l")
    odd = [
        ("replicate", [float("inf"), cid]),
        ("watch", [[float("inf"), "k"]]),
        ("watch", [[cid, "l"]]),
        ("watch", [[(1 << 64) - 1, "k"]]),
        ("watch", [[9, "k"], [9, "l"]]),
        ("retire", [float("nan"), "w"]),
        ("retire", [float("inf"), "w"]),
    ]
    worker = story.worker("w")
    for what, args in odd:
        story.tell(story.client, m.Query(7, what, args))
        assert story.said(story.client, m.Reply)[-1].error, what
    assert worker.retiring is None and story.client.futures[cid].chosen == "k"
    assert sum(len(task.watchers) for task in story.core.tasks.values()) == len(story.client.futures)


def test_a_submit_that_can_not_be_is_refused_as_a_whole(story):
    first = story.submit()
    limits = [m.Options(time_limit=limit) for limit in (float("nan"), float("inf"), -1.0)]
    odd = [
        m.Submit(first - 1, 1, [b"a", b"b"]),
        m.Submit((1 << 64) - 1, 1, [b"a", b"b"]),
        m.Submit(-1, 1, [b"a"]),
        *(m.Submit(9, 1, [b"a"], options=options) for options in limits),
    ]
    for submit in odd:
        story.tell(story.client, submit)
        assert story.core.statistics.incidents[-1].kind == "message refused"
        story.tell(story.client, m.Release([first + 1, 9]))
    assert len(story.core.tasks) == 1 and story.core.statistics.submitted == 1


def test_data_are_not_scattered_under_a_number_whose_file_is_still_wanted(story):
    story.tell(story.client, m.Scatter(1, "k", 10, b"d", None, 1, [], True))
    other = story.core.greet(story.now, m.HelloClient(2))
    story.tell(other, m.Query(1, "watch", [[1, "k"]]))
    story.tell(story.client, m.Release([1]))
    story.tell(story.client, m.Scatter(1, "l", 10, b"e", None, 1, [], True))
    assert "twice" in story.core.statistics.incidents[-1].cause and story.outcome(1) is None


def test_each_absence_of_a_client_has_its_own_grace_period(story):
    grace = story.core.settings.client_grace
    story.lost(story.client)
    story.later(grace * 2 / 3)
    story.core.reconnected(story.now, story.client)
    story.lost(story.client)
    story.later(grace * 2 / 3)  # the first one would be over
    assert 1 in story.core.clients
    story.later(grace / 3)
    assert 1 not in story.core.clients


def test_a_durable_session_does_not_keep_a_task_that_failed(story):
    worker = story.worker()
    client = story.core.greet(story.now, m.HelloClient(2, "nightly"))
    story.tell(client, m.Function(1, "g", b"g", b"blob"), m.Submit(1, 1, [b"x"], None, ["key"]))
    kept = story.core.parts.watchers.placeholders["nightly"].kept
    assert len(kept) == 1
    (compute,) = story.given(worker)
    story.tell(worker, m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", "odd"), 5))
    assert not kept  # the next run computes it again


def test_tasks_are_recalled_again_if_the_first_recall_brought_none(story):
    loaded = story.worker("a")
    for _ in range(2):
        story.submit()
    story.worker("b")
    story.later(0.0)
    (recall,) = story.said(loaded, m.Recall)
    story.tell(loaded, m.Recalled([]))
    assert story.said(loaded, m.Recall) == []  # not at once
    story.later(3 * story.core.settings.tuning.recall_stall_s)
    assert story.said(loaded, m.Recall) == [recall]


@pytest.mark.says.with_args(m.Rescue)
def test_a_worker_continues_only_what_its_resources_allow(story):
    gpu = {"GPU": 1_000_000}
    lost = [story.worker("a", resources=gpu), story.worker("b", resources=gpu)]
    for _ in lost:
        story.submit(resources=gpu)
    computes = [compute for worker in lost for compute in story.given(worker)]
    for worker in lost:
        story.lost(worker)
    story.later(story.core.settings.worker_grace)
    heir = story.worker("c", resources=gpu, running=[(compute.task, compute.attempt) for compute in computes])
    assert [task.attempt for task in heir.assigned] == [computes[0].attempt]
    assert story.said(heir, m.Abort) == [m.Abort([computes[1].attempt], True)]
