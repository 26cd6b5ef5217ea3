"""The rules of ``adapt``, one by one."""

from __future__ import annotations

import itertools

import attrs
import pytest

from twistdist.clusters.policy import Demand, Load, Need, Policy, State, limit_of, plan

GPU = {"GPU": 1_000_000}


def work(tasks, seconds=1.0, unknown=0, resources=None, workers=()):
    return Need(resources or {}, tuple(workers), tasks, (tasks - unknown) * seconds, unknown)


def busy(count, **fields):
    return tuple(Load(f"w{number}", running=1, **fields) for number in range(count))


def idle(count, idle_s=100.0, **fields):
    return tuple(Load(f"w{number}", idle_s=idle_s, **fields) for number in range(count))


def over(seconds, demand, policy, state=None, coming=None, step=1.0, begin=0.0):
    """The last plan after a demand that did not change for so long; who is to leave is on the way, but does not get away."""
    state, now, going = state or State(), begin, ()
    while True:
        workers = [attrs.evolve(one, state="retiring") if one.name in going else one for one in demand.workers]
        made = plan(attrs.evolve(demand, workers=tuple(workers)), state, policy, now, coming)
        going = made.retire
        if now >= begin + seconds:
            return made
        state, now = made.state, now + step


def test_the_minimum_is_started_at_once():
    made = plan(Demand(), State(), Policy(2, 5), 0.0)
    assert (made.wanted, made.start, made.retire) == (2, 2, ())
    assert "fewer than 2" in made.why
    assert plan(Demand(), made.state, Policy(2, 5), 1.0).start == 0  # they are coming


def test_the_work_that_waits_is_divided_by_the_target():
    demand = Demand((work(100, 1.0),))
    assert plan(demand, State(), Policy(0, 100, target_s=10.0), 0.0).start == 10
    assert plan(demand, State(), Policy(0, 4, target_s=10.0), 0.0).start == 4
    assert plan(demand, State(), Policy(0, 100, target_s=10.0, slots=5), 0.0).start == 2


def test_there_are_no_more_workers_than_tasks():
    assert plan(Demand((work(3, 1000.0),)), State(), Policy(0, 100), 0.0).start == 3


def test_work_that_ends_before_a_new_worker_has_started_starts_none():
    demand = Demand((work(20, 1.0),), busy(2))
    assert plan(demand, State(), Policy(0, 50, start_s=30.0), 0.0).start == 0
    assert plan(demand, State(), Policy(0, 50, start_s=1.0), 0.0).start == 3


def test_unknown_tasks_are_estimated_and_doubled():
    demand = Demand((work(100, unknown=100),), busy(1))
    policy = Policy(0, 1000)
    first = plan(demand, State(), Policy(0, 1000), 0.0)
    assert 10 <= first.start <= 20  # one for five tasks
    starts = [over(seconds, demand, policy, coming=0).state.guess_s for seconds in (1, 2, 4, 8)]
    assert starts == [2.0, 4.0, 8.0, 16.0]


def test_a_few_unknown_tasks_may_be_long_ones():
    starts = [plan(Demand((work(n, unknown=n),)), State(), Policy(0, 1000), 0.0).start for n in (1, 10, 50, 100)]
    assert starts == [1, 8, 10, 20]


def test_a_task_that_waits_behind_long_ones_is_not_left_alone():
    demand = Demand((work(1, 0.001),), busy(3), ended=7)
    assert plan(demand, State(), Policy(0, 10), 0.0).start == 0
    assert any(over(seconds, demand, Policy(0, 10), coming=0).start == 1 for seconds in range(10))


def test_the_time_of_a_start_is_measured():
    asked = plan(Demand((work(1, 60.0),)), State(), Policy(0, 1), 0.0)
    assert asked.start == 1
    here = over(29, Demand((work(1, 60.0),)), Policy(0, 1), asked.state, begin=1.0)
    made = plan(Demand((work(1, 60.0),), idle(1, 0.0)), here.state, Policy(0, 1), 31.0)
    assert made.state.start_s == 31.0 and not made.state.asked


def test_a_worker_that_never_comes_is_asked_for_again():
    demand, policy = Demand((work(1, 60.0),)), Policy(0, 1)
    asked = plan(demand, State(), policy, 0.0)
    assert over(500, demand, policy, asked.state, begin=1.0).start == 0
    assert any(over(seconds, demand, policy, asked.state, begin=1.0).start for seconds in (598, 599, 600))


def test_the_engine_may_say_that_none_is_coming():
    demand, policy = Demand((work(1, 60.0),)), Policy(0, 1)
    asked = plan(demand, State(), policy, 0.0)
    assert plan(demand, asked.state, policy, 1.0, coming=1).start == 0
    assert plan(demand, asked.state, policy, 1.0, coming=0).start == 1


def test_an_idle_worker_is_kept_for_as_long_as_a_start_would_cost():
    policy = Policy(0, 1, start_s=60.0)
    used = plan(Demand((), busy(1)), State(), policy, 0.0)
    assert over(58, Demand((), idle(1)), policy, used.state, begin=1.0).retire == ()
    assert over(60, Demand((), idle(1)), policy, used.state, begin=1.0).retire == ("w0",)


def test_the_patience_that_the_user_wants_is_kept():
    policy = Policy(0, 1, patience_s=5.0, start_s=60.0)
    used = plan(Demand((), busy(1)), State(), policy, 0.0)
    assert over(3, Demand((), idle(1)), policy, used.state, begin=1.0).retire == ()
    assert over(7, Demand((), idle(1)), policy, used.state, begin=1.0).retire == ("w0",)


def test_limits_are_spread_and_the_first_worker_stays_longest():
    limits = [limit_of(level, 100.0) for level in range(1, 101)]
    assert limits[0] == pytest.approx(100.0) and all(50 < limit <= 100 for limit in limits)
    assert 60 < sum(limits) / 100 < 85


def test_the_patience_is_doubled_when_workers_are_missed():
    policy = Policy(0, 1)
    used = plan(Demand((), busy(1)), State(), policy, 0.0)
    left = over(11, Demand((), idle(1)), policy, used.state, begin=1.0)
    assert left.retire == ("w0",)
    missed = plan(Demand((work(9, 9.0),)), left.state, policy, 13.0)
    assert missed.start == 1 and missed.state.doubled == 1
    used = plan(Demand((), (Load("w1", running=1),)), missed.state, policy, 14.0)
    assert over(11, Demand((), (Load("w1"),)), policy, used.state, begin=15.0).retire == ()
    assert over(21, Demand((), (Load("w1"),)), policy, used.state, begin=15.0).retire == ("w1",)


def retired(*workers, waiting=(), minimum=0, state=None):
    policy = Policy(minimum, 10)
    return over(30, Demand(tuple(waiting), workers), policy, state).retire


def test_the_cheapest_to_empty_and_idle_longest_go_first():
    first, second = Load("full", idle_s=500.0, size=10**12, values=1), Load("late", idle_s=1.0)
    third, fourth = Load("early", idle_s=100.0), Load("busy", running=1)
    assert retired(first, second, third, fourth, minimum=3) == ("early",)
    assert retired(first, second, third, fourth, minimum=2) == ("early", "late")
    assert retired(first, second, third, fourth, minimum=1) == ("early", "late", "full")


def test_the_last_holder_stays():
    assert retired(Load("a", values=1), Load("b", values=1), Load("c")) == ("c", "a")
    assert retired(Load("a", values=1)) == ()
    assert retired(Load("a", values=1), Load("b", values=1, state="away")) == ()  # b could not take it


def test_a_worker_that_something_waits_for_stays():
    waiting = [work(1, 1.0, workers=["a"]), work(1, 1.0, resources=GPU)]
    assert retired(Load("a"), Load("b", resources=GPU), Load("c"), Load("d", running=1), waiting=waiting) == ("c",)


def test_a_worker_whose_tasks_wait_for_others_stays():
    assert retired(Load("a", parked=1), Load("b")) == ("b",)


def test_a_worker_that_is_used_in_part_may_leave_when_idle_ones_have():
    half = [Load(name, slots=4, running=1) for name in "abcd"]
    assert len(retired(*half)) == 3
    assert retired(*(Load(name, slots=1, running=1) for name in "abcd")) == ()


def test_who_can_not_hand_over_now_is_not_asked():
    assert retired(Load("a", state="suspect"), Load("b", state="away"), Load("c", state="stuck")) == ()


def test_a_worker_that_did_not_leave_is_asked_again_later():
    policy, demand = Policy(0, 2, patience_s=10.0), Demand((), (Load("a", values=1), Load("b", running=1)))
    made = over(20, demand, policy)
    assert made.retire == ("a",)
    made = plan(demand, made.state, policy, 21.0)  # it is still there, and connected
    assert made.retire == () and made.state.stayed["a"] == (31.0, 10.0)
    assert over(9, demand, policy, made.state, begin=22.0).retire == ("a",)


def test_one_that_is_leaving_is_kept_when_work_comes():
    policy = Policy(0, 2)
    made = over(30, Demand((), idle(2)), policy)
    assert len(made.retire) == 2
    leaving = (Load("w0", state="retiring"), Load("w1", state="retiring"))
    made = plan(Demand((work(50, 1.0),), leaving), made.state, policy, 31.0)
    assert made.retire == () and made.start == 0


def test_a_lower_maximum_is_obeyed():
    made = plan(Demand((), busy(4)), State(), Policy(0, 2), 0.0)
    assert made.wanted == 2 and len(made.retire) == 2


def test_nothing_is_decided_while_the_scheduler_waits_for_its_workers():
    made = plan(Demand((work(10, 1000.0),), idle(1), recovering=True), State(), Policy(0, 10), 0.0)
    assert (made.start, made.retire) == (0, ())


def test_resources_that_no_worker_offers_start_none():
    demand = Demand((work(5, 60.0, resources=GPU),))
    assert plan(demand, State(), Policy(0, 5, offers={}), 0.0).start == 0
    assert plan(demand, State(), Policy(0, 5, offers=GPU), 0.0).start == 5


def test_resources_that_a_worker_may_have_are_tried_more_and_more_rarely():
    state, starts, workers = State(), [], ()
    policy = Policy(0, 100)
    for second in range(600):
        made = plan(Demand((work(5, 60.0, resources=GPU),), workers), state, policy, float(second), coming=0)
        state = made.state
        if made.start:
            starts.append(second)
            workers = (*workers, Load(f"w{second}"))
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert 3 <= len(starts) <= 8 and gaps == sorted(gaps)


def test_more_workers_come_for_a_resource_that_some_have():
    here = (Load("a", running=1), Load("b", running=0), Load("c", running=1, resources=GPU))
    made = plan(Demand((work(8, 60.0, resources=GPU),), here), State(), Policy(0, 6), 0.0)
    assert made.start == 3 and made.why == "tasks need resources that too few have"
