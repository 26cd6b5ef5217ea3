"""Other policies for ``adapt``, to compare ours with the one that suits a load best.

Each is simple, needs no knowledge of the future, and is what some tool does or somebody would do by hand.  Which of them, and
which of their numbers, costs least on a load is known only afterwards: the best policy in hindsight, in the sense of online
learning (Cesa-Bianchi, Lugosi: "Prediction, Learning, and Games", 2006, chapter 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

from twistdist.clusters.policy import Demand, Plan, Policy, State, arrivals

#: ``(demand, state, policy, now)`` to a plan, as :func:`twistdist.clusters.policy.plan`.
Planner = Callable[[Demand, State, Policy, float], Plan]

#: Seconds for which a worker without tasks is kept, and in which the work that waits should be done.
PATIENCES_S = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
TARGETS_S = (1.0, 5.0, 20.0, 60.0, 300.0)


def rivals(maximum: int) -> dict[str, Planner]:
    """All of them, by name, for a cluster of at most ``maximum`` workers.

    *fixed*: the same number of workers from the first task to the last, as one who scales by hand.
    *a worker a task*: as many workers as there are tasks, as Ray's autoscaler and batch queues do.
    *by duration*: as many as do the work that waits in a target time by the known durations, as dask's ``Adaptive`` does.
    """
    found: dict[str, Planner] = {f"fixed, {n}": planner(_fixed(n), math.inf) for n in range(1, maximum + 1)}
    for patience in PATIENCES_S:
        found[f"a worker a task, kept {patience:g} s"] = planner(_tasks, patience)
        for target in TARGETS_S:
            found[f"by duration, {target:g} s, kept {patience:g} s"] = planner(_by_duration(target), patience)
    return found


def planner(wanted_for: Callable[[Demand, int], int], patience_s: float) -> Planner:
    """Grow to what is wanted at once; who has been idle for ``patience_s`` leaves, and everybody when all work has ended."""

    def plan(demand: Demand, state: State, policy: Policy, now: float) -> Plan:
        state = arrivals(demand, state, policy, now, None)
        here = [worker for worker in demand.workers if worker.state != "leaving"]
        there = len(here) + len(state.asked)
        wanted = (
            max(policy.minimum, min(wanted_for(demand, state.slots), policy.maximum)) if demand.unfinished else policy.minimum
        )
        start = max(0, wanted - there)
        limit = patience_s if demand.unfinished or patience_s < math.inf else 0.0
        idle = sorted((one for one in here if not one.running and one.idle_s >= limit), key=lambda one: -one.idle_s)
        retire = tuple(one.name for one in idle[: max(0, there - wanted)])
        state = attrs.evolve(state, at=now, asked=(*state.asked, *[now] * start))
        return Plan(wanted, start, retire, state, "")

    return plan


def _fixed(number: int) -> Callable[[Demand, int], int]:
    return lambda demand, slots: number


def _tasks(demand: Demand, slots: int) -> int:
    tasks = sum(worker.running for worker in demand.workers) + sum(need.tasks for need in demand.waiting)
    return math.ceil(tasks / slots)


def _by_duration(target_s: float) -> Callable[[Demand, int], int]:
    def wanted(demand: Demand, slots: int) -> int:
        seconds = sum(need.seconds + need.unknown for need in demand.waiting)
        running = sum(worker.running for worker in demand.workers)
        return min(_tasks(demand, slots), math.ceil((running + seconds / target_s) / slots))

    return wanted
