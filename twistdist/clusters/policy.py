"""How many workers there should be, from the work that waits: a pure function.  docs/adapting.rst explains the rules.

``plan`` is called every few seconds with what the scheduler knows (:class:`Demand`) and what the last call returned
(:class:`State`).  Workers are started when the work that waits would take too long without them, or when waiting has cost too
much.  They are retired when they have not been needed for as long as a new start would cost: the rule of the ski-rental problem
(Karlin, Manasse, McGeoch, Owicki: "Competitive randomized algorithms for nonuniform problems", 1994).  Server by server it
costs at most twice what a clairvoyant would spend on idle time and starts (Lu, Chen: "Simple and effective dynamic provisioning
for power-proportional data centers", 2012).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

#: Seconds that a worker takes to start until one has been seen to, and that it is kept idle at least, unless the user says so.
START_S, SHORTEST_PATIENCE_S = 2.0, 10.0

#: Work that the workers which are there do in this share of the target, or while a new one starts, needs no new ones; each new
#: one should have at least so many starting times of work; one more is started when waiting has cost this share of what it
#: costs to keep a worker until it is known not to be needed.
SHARE, STARTS, REGRET = 0.5, 2.0, 0.2

#: Seconds that a task takes whose function has not run yet, at first; it is doubled while none of them ends.  Few tasks may be
#: long ones: they are expected to take so long together, but none of them longer than ``LONG_GUESS_S``.
GUESS_S, FEW_S, LONG_GUESS_S = 1.0, 50.0, 4.0

#: Seconds, and starting times, after which a worker that was asked for and has not come is given up, and after which it is no
#: longer counted on once the time of a start is known.
GIVE_UP_S, GIVE_UP_STARTS = 600.0, 4.0
LATE_S, LATE_STARTS = 10.0, 3.0

#: A pause that is doubled each time is doubled so many times at most.
MAX_DOUBLINGS = 6

#: The patience is doubled when workers are missed within it after they have left, so many times at most, and halved again when
#: nothing of the kind has happened for so many times the patience.
MAX_DOUBLED, CALM = 3, 20.0

#: The share of a worker that is too little to need one.
TOLERANCE = 0.05

#: The first worker to reach its limit goes after this share of the patience, the last one after all of it.
LEAST_SHARE = 0.4

#: Bytes a second at which values are expected to move to other workers, and seconds for each of them.
EMPTYING_BYTES, MOVE_S = 100e6, 0.01

_GOLDEN = (math.sqrt(5) - 1) / 2


@attrs.frozen
class Need:
    """Tasks that wait and need the same: ``resources`` in millionths, and to run on one of ``workers`` (none: on any).

    ``seconds`` is the expected time of those whose duration is known, ``unknown`` the number of the others.
    """

    resources: Mapping[str, int]
    workers: tuple[str, ...]
    tasks: int
    seconds: float
    unknown: int


@attrs.frozen
class Load:
    """A worker.  ``parked`` tasks wait for others and take no slot; ``size`` is the bytes of the ``values`` that it holds.

    ``state`` is that of :class:`twistdist.WorkerInfo`, or ``"leaving"`` when it leaves for good.
    """

    name: str
    slots: int = 1
    running: int = 0
    idle_s: float = 0.0
    size: int = 0
    values: int = 0
    state: str = "connected"
    resources: Mapping[str, int] = attrs.field(factory=dict)
    parked: int = 0


@attrs.frozen
class Demand:
    """What the scheduler knows.  ``ended``: how many tasks have ended so far.

    ``recovering``: it was restarted and waits for its workers.
    """

    waiting: tuple[Need, ...] = ()
    workers: tuple[Load, ...] = ()
    unfinished: int = 0
    ended: int = 0
    recovering: bool = False

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Demand:
        """Read the scheduler's answer to ``demand``."""
        waiting = [
            Need(needs, tuple(names), tasks, us / 1e6, unknown) for needs, names, tasks, us, unknown in answer["waiting"]
        ]
        workers = [Load(*row) for row in answer["workers"]]
        return cls(tuple(waiting), tuple(workers), answer["unfinished"], answer["ended"], answer["recovering"])


@attrs.frozen
class Policy:
    """What the user wants.

    Args:
        minimum: The least number of workers.
        maximum: The greatest number of workers.
        target_s: Seconds in which the work that waits should be done; with slow starts, the time that a start takes counts.
        interval_s: Seconds between two plans.
        patience_s: Seconds for which a worker that is not needed is kept; None: as long as a start would cost, at least ten.
        start_s: Seconds that a worker takes to start, until one has been seen to.
        slots: The slots of a worker, until one has been seen.
        offers: The resources that a new worker has, in millionths; None: unknown, so those of workers that have come count.
    """

    minimum: int = 0
    maximum: int = 1
    target_s: float = 5.0
    interval_s: float = 1.0
    patience_s: float | None = None
    start_s: float = START_S
    slots: int = 1
    offers: Mapping[str, int] | None = None


@attrs.frozen
class State:
    """What is remembered from one plan to the next.

    ``asked``: when workers were asked for that have not come, in order.  ``seen``: the workers that have come and are here.
    ``start_s`` is the measured time of a start.  ``needed`` are the last times at which so many workers were needed: times
    rise, numbers fall.  ``samples`` are (time, workers' worth of work) of the last seconds.  ``regret`` is what waiting has
    cost since the last start, in worker-seconds.  ``ended`` tasks had ended.  ``guess_s`` is the duration of unknown tasks, of
    which there were ``unknown``; their number fell last at ``fell``.  ``stayed``: the workers that were to leave and did not,
    with when to try again and the pause.  ``tried``: how often a start brought none that could do the work that waits, and when
    to try again.  The patience is ``doubled`` so many times, because workers were missed soon after they had ``left``; that
    number was last ``changed`` then.
    """

    at: float | None = None
    asked: tuple[float, ...] = ()
    seen: frozenset[str] = frozenset()
    start_s: float | None = None
    slots: int = 0
    offers: Mapping[str, int] = attrs.field(factory=dict)
    needed: tuple[tuple[float, int], ...] = ()
    samples: tuple[tuple[float, float], ...] = ()
    regret: float = 0.0
    ended: int = 0
    guess_s: float = GUESS_S
    unknown: int = 0
    fell: float = 0.0
    retiring: tuple[tuple[str, float], ...] = ()
    stayed: Mapping[str, tuple[float, float]] = attrs.field(factory=dict)
    tried: tuple[int, float] = (0, 0.0)
    left: float = -math.inf
    doubled: int = 0
    changed: float = 0.0


@attrs.frozen
class Plan:
    """``wanted`` workers: ``start`` new ones, and let those in ``retire`` leave; all others that were to leave stay.

    ``why`` is for the log: "" if nothing changes.
    """

    wanted: int
    start: int
    retire: tuple[str, ...]
    state: State
    why: str = ""


def plan(demand: Demand, state: State, policy: Policy, now: float, coming: int | None = None) -> Plan:
    """Decide how many workers there should be and which ones leave.

    Args:
        demand: What the scheduler knows.
        state: What the last plan returned; ``State()`` at first.
        policy: What the user wants.
        now: Seconds of any clock that only goes forward.
        coming: The number of workers that were asked for and have not come, if the engine knows; None: those that were asked
            for and have not been seen, until they are given up.
    """
    if demand.recovering:
        here = sum(worker.state != "leaving" for worker in demand.workers)
        return Plan(here, 0, tuple(name for name, _ in state.retiring), attrs.evolve(state, at=now))
    state = arrivals(demand, state, policy, now, coming)
    state = _durations(demand, state, now)
    return _Plan(demand, state, policy, now).made()


def start_of(state: State, policy: Policy, now: float) -> float:
    """The seconds that a start takes: as measured; before that, as long as the first worker has taken already."""
    if state.start_s is not None:
        return state.start_s
    return max(policy.start_s, now - state.asked[0]) if state.asked else policy.start_s


def patience_of(state: State, policy: Policy, now: float) -> float:
    """The seconds for which a worker is kept that is not needed."""
    if policy.patience_s is not None:
        return policy.patience_s
    return max(SHORTEST_PATIENCE_S, start_of(state, policy, now)) * float(2**state.doubled)


def limit_of(level: int, patience_s: float) -> float:
    """The seconds for which the ``level``-th worker of a fleet is kept when it is not needed.

    Limits are spread as the best randomized rule spreads them, from about half the patience up, each level's share by the
    golden ratio: a part of the fleet leaves early and a part stays, whatever its size.  The first worker stays longest.
    """
    share = 1.0 if level == 1 else LEAST_SHARE + (1 - LEAST_SHARE) * (level * _GOLDEN % 1)
    return patience_s * math.log(1 + (math.e - 1) * share)


def arrivals(demand: Demand, state: State, policy: Policy, now: float, coming: int | None) -> State:
    """Who has come since the last plan, how long it took, and who will not come any more."""
    here = [worker for worker in demand.workers if worker.state != "leaving"]
    asked, start_s = list(state.asked), state.start_s
    known = policy.start_s if start_s is None else start_s
    for worker in here:
        if worker.name not in state.seen and asked and state.at is not None:
            ask = asked[0] if start_s is None else min(asked, key=lambda when: abs(now - when - known))
            asked.remove(ask)
            took = now - ask
            # Those that were asked for earlier may never come: a short time is surer than a long one.
            start_s = took if start_s is None else start_s + (0.5 if took < start_s else 0.1) * (took - start_s)
    if coming is not None:
        asked = [*asked[max(0, len(asked) - coming) :], *[now] * max(0, coming - len(asked))]
    else:
        asked = [when for when in asked if now - when < max(GIVE_UP_S, GIVE_UP_STARTS * known)]
    offers = dict(state.offers)
    for worker in here:
        for name, amount in worker.resources.items():
            offers[name] = max(amount, offers.get(name, 0))
    slots = round(sum(worker.slots for worker in here) / len(here)) if here else state.slots or policy.slots
    return attrs.evolve(
        state,
        asked=tuple(asked),
        seen=frozenset(worker.name for worker in here),
        start_s=start_s,
        slots=max(1, slots),
        offers=offers,
    )


def _durations(demand: Demand, state: State, now: float) -> State:
    """How long tasks take whose functions have not run yet: from how fast they become fewer."""
    unknown = sum(need.unknown for need in demand.waiting)
    slots = sum(worker.slots for worker in demand.workers)
    guess, fell = state.guess_s, state.fell
    if not unknown or not state.unknown or not slots:  # nobody runs them
        guess, fell = max(GUESS_S, min(LONG_GUESS_S, FEW_S / max(1, unknown))), now
    elif unknown < state.unknown and state.at is not None:
        guess, fell = min(guess, slots * (now - state.at) / (state.unknown - unknown)), now
    else:
        guess = max(guess, 2 * (now - fell))
    return attrs.evolve(state, guess_s=guess, fell=fell, unknown=unknown)


@attrs.frozen
class _Work:
    """Work of one kind that waits: how many workers could take part, and how many seconds it takes one of them."""

    tasks: float
    work: float
    resources: Mapping[str, int]


def _has(worker: Load, resources: Mapping[str, int]) -> bool:
    return all(worker.resources.get(name, 0) >= amount for name, amount in resources.items())


class _Plan:
    """One plan in the making."""

    def __init__(self, demand: Demand, state: State, policy: Policy, now: float) -> None:
        self.demand, self.state, self.policy, self.now = demand, state, policy, now
        self.here = [worker for worker in demand.workers if worker.state != "leaving"]
        self.start_s = start_of(state, policy, now)
        self.patience_s = patience_of(state, policy, now)
        self.target_s = max(policy.target_s, self.start_s)
        self.share_s = max(policy.target_s, STARTS * self.start_s)
        self.slots = state.slots
        self.running = sum(worker.running for worker in self.here)
        self.there = len(self.here) + len(state.asked)
        late = LATE_S + LATE_STARTS * self.start_s if state.start_s is not None else math.inf
        self.coming = sum(now - when < late for when in state.asked)
        self.past = 0.0 if state.at is None else max(0.0, now - state.at)
        self.needs, self.strange = self._needs()
        self.tasks = sum(need.tasks for need in self.needs if not need.resources)
        self.work = sum(need.work for need in self.needs if not need.resources)

    def made(self) -> Plan:
        policy, state, now = self.policy, self.state, self.now
        more, regret, why = self._more()
        special = self._special()
        extra = max(more, special)
        # Tasks that need a resource keep the workers that have it, and those that are coming.
        kinds = [(need, len(self._able(need)) + len(state.asked)) for need in self.needs if need.resources]
        tasks = self.tasks + sum(min(need.tasks, room) for need, room in kinds)
        work = self.work + sum(min(need.work, room * self.target_s) for need, room in kinds)
        useful = math.ceil(self.running / self.slots + tasks)
        load = min(self.running / self.slots + work / self.target_s, useful)
        samples = self._samples(load)
        least = self.there + more if more else self.there if state.asked and self.needs else min(1, math.ceil(tasks))
        level = min(useful, self.there + more, max(self._mean(samples), least))
        grown = min(max(policy.minimum, min(self.there + more, useful) if more else 0, self.there + special), policy.maximum)
        leaving = len(self.demand.workers) - len(self.here)
        start = max(0, min(grown - self.there, policy.maximum - self.there - leaving))
        tried = state.tried
        if not start and self.strange and self.there < policy.maximum and not state.asked and now >= tried[1]:
            tried = (tried[0] + 1, now + self.patience_s * 2 ** min(tried[0] + 1, MAX_DOUBLINGS))
            start, why = 1, "tasks need what no worker has had so far"
        elif not self.strange:
            tried = (0, now)
        needed = _remember(state.needed, now, max(level, self.there + start if start else 0))
        kept = self._kept(needed)
        wanted = min(max(kept, level, policy.minimum, self.there + start if start else 0), policy.maximum)
        stayed = self._stayed()
        retire = self._retire(self.there - wanted, stayed)
        since = dict(state.retiring)
        new = [name for name in retire if name not in since]
        left, doubled, changed = self._turned(start > 0 and more > 0, bool(new))
        state = attrs.evolve(
            state,
            at=now,
            asked=(*state.asked, *[now] * start),
            needed=needed,
            samples=samples,
            regret=0.0 if start else regret,
            ended=self.demand.ended,
            retiring=tuple((name, since.get(name, now)) for name in retire),
            stayed=stayed,
            tried=tried,
            left=left,
            doubled=doubled,
            changed=changed,
        )
        if start and not extra:
            why = why or f"fewer than {policy.minimum} are there"
        said = (
            why or "tasks need resources that too few have"
            if start
            else f"not needed for up to {self.patience_s:.3g} s"
            if new
            else ""
        )
        return Plan(wanted, start, retire, state, said)

    def _turned(self, up: bool, down: bool) -> tuple[float, int, float]:
        """When workers left last, how often the patience is doubled, and since when: once more if they are missed already."""
        left, doubled, changed, now = self.state.left, self.state.doubled, self.state.changed, self.now
        if up and now - left < self.patience_s:
            return -math.inf, min(doubled + 1, MAX_DOUBLED), now
        if doubled and now - changed > CALM * self.patience_s:
            doubled, changed = doubled - 1, now
        return now if down else left, doubled, changed

    def _needs(self) -> tuple[list[_Work], bool]:
        """The work that waits and that a new worker could do; and whether there is some for which none has come so far."""
        found, strange = [], False
        offers = self.state.offers if self.policy.offers is None else self.policy.offers
        for need in self.demand.waiting:
            if need.workers:
                continue  # a new worker has a name of its own
            if any(offers.get(name, 0) < amount for name, amount in need.resources.items()):
                strange = strange or self.policy.offers is None
                continue
            room = min([self.slots, *[offers[name] // amount for name, amount in need.resources.items() if amount]])
            seconds = need.seconds + need.unknown * self.state.guess_s
            found.append(_Work(need.tasks / room, seconds / room, need.resources))
        return found, strange

    def _more(self) -> tuple[int, float, str]:
        """How many more workers all the work that waits is worth, what waiting has cost so far, and why."""
        if not self.tasks:
            return 0, 0.0, ""
        more = self._missing(self.work, len(self.here))
        if more:
            return more, 0.0, f"the work that waits takes one worker {self.work:.3g} s"
        rate = max(0.0, self.work - self.coming * self.share_s) / self.target_s
        if self.demand.ended == self.state.ended and not self.coming:
            rate = max(1.0, rate)  # the slots are taken by long tasks
        idle = any(worker.running < worker.slots and worker.state == "connected" for worker in self.here)
        regret = 0.0 if idle else self.state.regret + rate * self.past
        if regret >= REGRET * max(self.start_s, self.patience_s):
            return 1, 0.0, f"waiting has cost {regret:.3g} worker-seconds"
        return 0, regret, ""

    def _able(self, need: _Work) -> list[Load]:
        """The workers that have what the tasks need."""
        return [worker for worker in self.here if _has(worker, need.resources)]

    def _missing(self, work: float, able: int) -> int:
        """How many more workers are needed to do the work in time, besides those that can do it and those that are coming."""
        left = work - able * max(self.start_s, SHARE * self.target_s) - self.coming * self.share_s
        return max(not able and not self.coming, math.ceil(left / self.share_s))

    def _special(self) -> int:
        """How many more workers are needed for tasks that only some of those that are there can run."""
        extra = 0
        for need in self.needs:
            if need.resources:
                extra = max(extra, min(math.ceil(need.tasks), self._missing(need.work, len(self._able(need)))))
        return extra

    def _samples(self, load: float) -> tuple[tuple[float, float], ...]:
        """The load of the last seconds."""
        window = min(self.target_s, self.patience_s / 4)
        return (*((at, one) for at, one in self.state.samples[-100:] if at > self.now - window), (self.now, load))

    @staticmethod
    def _mean(samples: tuple[tuple[float, float], ...]) -> int:
        """How many workers the mean load needs."""
        return math.ceil(max(0.0, sum(load for _, load in samples) / len(samples) - TOLERANCE))

    def _kept(self, needed: tuple[tuple[float, int], ...]) -> int:
        """How many workers have been needed lately enough to be kept."""
        kept, below = 0, 0
        for at, level in reversed(needed):
            unneeded = self.now - at
            kept += sum(unneeded < limit_of(one, self.patience_s) for one in range(below + 1, level + 1))
            below = max(below, level)
        return kept

    def _stayed(self) -> dict[str, tuple[float, float]]:
        """The workers that were to leave and did not: they are not asked again for a while."""
        state, now = self.state, self.now
        stayed = {name: rest for name, rest in state.stayed.items() if name in state.seen}
        there = {worker.name: worker.state for worker in self.here}
        for name, _ in state.retiring:
            if there.get(name) == "connected":
                pause = 2 * stayed[name][1] if name in stayed else self.patience_s
                stayed[name] = now + pause, min(pause, self.patience_s * 2**MAX_DOUBLINGS)
        return stayed

    def _retire(self, excess: int, stayed: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
        """Those that leave: first those that do already, then the idle ones, cheapest to empty and idle longest."""
        if excess <= 0:
            return ()
        going = {name for name, _ in self.state.retiring}
        order = sorted(
            (worker for worker in self.here if self._may_go(worker, stayed)),
            key=lambda worker: (
                not (worker.name in going and worker.state == "retiring"),
                worker.running + worker.parked,
                worker.size / EMPTYING_BYTES + worker.values * MOVE_S - worker.idle_s,
                worker.name,
            ),
        )
        chosen: list[str] = []
        valued = False
        for worker in order:
            heirs = [
                other
                for other in self.here
                if other is not worker and other.name not in chosen and other.state in ("connected", "paused")
            ]
            if len(chosen) < excess and (heirs or not (valued or worker.values)):
                chosen.append(worker.name)
                valued = valued or bool(worker.values)
        return tuple(chosen)

    def _may_go(self, worker: Load, stayed: Mapping[str, tuple[float, float]]) -> bool:
        """Whether the worker can be done without: nothing waits for it in particular."""
        if worker.state not in ("connected", "paused", "retiring"):
            return False  # it can't hand over anything now
        if (worker.running >= worker.slots or worker.parked) and self.there <= self.policy.maximum:
            return False  # it is used in full, or its tasks will go on
        if worker.name in stayed and self.now < stayed[worker.name][0]:
            return False
        for need in self.demand.waiting:
            if _has(worker, need.resources) and (worker.name in need.workers or (need.resources and not need.workers)):
                return False
        return True


def _remember(needed: tuple[tuple[float, int], ...], now: float, level: int) -> tuple[tuple[float, int], ...]:
    """``level`` workers are needed now: what was known about as many or fewer is older news."""
    before = [(at, one) for at, one in needed if one > level]
    return (*before, (now, level)) if level else tuple(before)
