"""Jobs that were sent ahead, seen by the worker: docs/sent-ahead.rst."""

import pytest

from tests.core.test_worker import compute, effects, given, make, said
from twistdist.core.worker import Death
from twistdist.core.worker import effects as fx
from twistdist.core.worker.following import MOST_VALUES
from twistdist.wire import messages as m


def awaiting(number, *makers, cost=10):
    return compute(number, cost=cost, inputs=[m.Input(maker, maker, None, awaited=True) for maker in makers])


def done(number, value=b"v"):
    return m.Done(number, number, value, 1, b"" if value is not None else b"d", 5)


def failed(number):
    return m.Failed(number, number, m.ErrorInfo("", "ValueError", "bad"), 5)


def recalled(worker):
    return [attempt for message in said(worker) if isinstance(message, m.Recalled) for attempt in message.attempts]


def sources(worker, number):
    """The inputs with which the executors were given this attempt last."""
    found = [one for give in effects(worker, fx.Give) for one in give.messages if isinstance(one, m.Compute)]
    return [(one.value, one.path, one.awaited) for one in found if one.attempt == number for one in one.inputs]


def test_a_chain_goes_to_one_executor_in_one_packet():
    worker = make(slots=2)
    worker.receive(0.0, [compute(1, cost=10), awaiting(2, 1), awaiting(3, 2)])
    (give,) = effects(worker, fx.Give)
    assert [one.attempt for one in give.messages if isinstance(one, m.Compute)] == [1, 2, 3]


def test_it_waits_here_while_what_it_needs_is_queued_or_in_two_executors():
    worker = make(slots=2)
    worker.receive(0.0, [compute(1), compute(2), compute(3), awaiting(4, 1, 2), awaiting(5, 3)])
    assert given(worker) == [1, 2]
    worker.executor_outcomes(0.0, 0, [done(1, b"one")])
    assert given(worker) == [3]
    worker.executor_outcomes(0.0, 1, [done(2, None)])
    assert sources(worker, 4) == [(b"one", "", False), (None, "/mine/2", False)]


def test_a_value_that_was_made_before_it_arrived():
    worker = make()
    worker.receive(0.0, [compute(1)])
    worker.executor_outcomes(0.0, 0, [done(1, b"one")])
    effects(worker)
    worker.receive(0.0, [awaiting(2, 1)])
    assert sources(worker, 2) == [(b"one", "", False)]


def test_a_value_that_is_no_longer_known():
    worker = make()
    for number in range(1, MOST_VALUES + 2):
        worker.receive(0.0, [compute(number)])
        worker.executor_outcomes(0.0, 0, [done(number)])
    effects(worker), said(worker)
    worker.receive(0.0, [awaiting(MOST_VALUES + 2, 1)])
    assert recalled(worker) == [MOST_VALUES + 2] and not worker.jobs and not given(worker)


@pytest.mark.parametrize("how", ["fails", "crashes", "is aborted", "is recalled", "was never here"])
def test_it_goes_back_when_what_it_needs_is_not_made(how):
    worker = make()
    first = [] if how == "was never here" else [compute(9), compute(1)] if how == "is recalled" else [compute(1)]
    worker.receive(0.0, [*first, awaiting(2, 1), awaiting(3, 2)])
    if how == "fails":
        worker.executor_outcomes(0.0, 0, [failed(1)])
    elif how == "crashes":
        worker.executor_ended(0.0, 0, Death("SIGSEGV", "", 1))
    elif how == "is aborted":
        worker.receive(0.0, [m.Abort([1], True)])
    elif how == "is recalled":
        worker.receive(0.0, [m.Recall([1])])
    back = recalled(worker)
    assert sorted(back) == ([1, 2, 3] if how == "is recalled" else [2, 3])
    assert worker.jobs.keys() <= {1, 9} and (how == "is aborted") == (1 in worker.jobs)


def test_an_executor_that_lacks_the_value_says_so_and_the_job_goes_back():
    worker = make()
    worker.receive(0.0, [compute(1, cost=10), awaiting(2, 1)])
    assert given(worker) == [1, 2]
    worker.executor_outcomes(0.0, 0, [failed(1)])
    assert recalled(worker) == []  # the executor has it, and finds out
    worker.executor_outcomes(0.0, 0, [m.InputLost(2, 2, [(1, 0)])])
    assert recalled(worker) == [2] and not worker.jobs


def test_one_that_is_taken_back_waits_again():
    worker = make(slots=2)
    worker.receive(0.0, [compute(1, cost=10), awaiting(2, 1)])
    assert given(worker) == [1, 2]
    worker.taken_back(0.0, 0, [2], 1)
    assert given(worker) == []
    worker.executor_outcomes(0.0, 0, [done(1, b"one")])
    assert sources(worker, 2) == [(b"one", "", False)]


def test_what_an_executor_had_behind_a_task_that_died_goes_back():
    worker = make()
    worker.receive(0.0, [compute(1, cost=10), awaiting(2, 1)])
    worker.executor_ended(0.0, 0, Death("SIGKILL", "", 1))
    assert recalled(worker) == [2] and not worker.jobs


def test_an_innocent_one_waits_again_when_the_executor_dies_before_its_input_was_begun():
    worker = make()
    worker.receive(0.0, [compute(9, cost=10), compute(1, cost=10), awaiting(2, 1)])
    assert given(worker) == [9, 1, 2]
    worker.executor_ended(0.0, 0, Death("SIGKILL", "", 9))
    assert recalled(worker) == [] and worker.jobs.keys() == {1, 2}
    worker.executor_started(0.0, 0)
    assert given(worker) == [1, 2]


def test_it_goes_back_when_what_it_needs_lacks_an_input():
    worker = make()
    worker.receive(0.0, [compute(1, inputs=[m.Input(7, 7, None, 1000, b"d", [2])]), awaiting(2, 1)])
    assert not given(worker)
    worker.fetch_failed(0.0, 7)  # the scheduler may have nothing else to say to this worker
    assert recalled(worker) == [2] and not worker.jobs
