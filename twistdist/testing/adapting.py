"""The policy of ``adapt`` on simulated clusters: pure, in simulated time, the same for each seed.

``python -m twistdist.testing.adapting`` prints what the policy costs on thirteen fixed loads, beside the best of some other
policies (:mod:`.rivals`) and the best that anybody could have done who had known the load in advance.  docs/adapting.rst has
the figures.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter, deque
from collections.abc import Callable

import attrs

from twistdist.clusters.policy import (
    LEAST_SHARE,
    SHORTEST_PATIENCE_S,
    Demand,
    Load,
    Need,
    Plan,
    Policy,
    State,
    patience_of,
    plan,
)
from twistdist.testing.rivals import Planner, rivals

#: What late work costs: as much as this many workers for each ``target_s`` (or starting time, if that is longer) of it.
WEIGHT = 1.0

#: Seconds that a worker which was told to leave has to hand over its values; else it stays.
HANDING_OVER_S = 60.0

#: Points of a frontier of the best policy in hindsight: of more, pairs become one that is no worse than both.
MAX_POINTS = 1000

#: A task's name for one GPU.
GPU = {"GPU": 1_000_000}


@attrs.frozen
class Job:
    """A task: submitted ``at``, it takes ``seconds`` after its ``inputs`` (their places in the load) are done.

    Its value has ``size`` bytes and is wanted for ``kept_s`` seconds.
    """

    at: float
    seconds: float
    inputs: tuple[int, ...] = ()
    gpu: bool = False
    function: str = "f"
    size: int = 0
    kept_s: float = 0.0


@attrs.frozen
class Setting:
    """A load and the cluster that it meets.

    ``start_s`` is the time that a worker takes to come, ``never`` the share of those that never do, ``gpus`` the share of those
    that have a GPU; a worker lives for ``life_s`` on average.
    """

    name: str
    jobs: tuple[Job, ...]
    policy: Policy
    start_s: float = 1.0
    slots: int = 1
    never: float = 0.0
    gpus: float = 0.0
    life_s: float = math.inf
    step_s: float = 1.0
    seed: int = 0

    @property
    def target_s(self) -> float:
        """The seconds of late work that cost as much as a worker."""
        return max(self.policy.target_s, self.start_s)


@attrs.define(eq=False)
class Machine:
    """A worker of the simulated cluster."""

    name: str
    slots: int
    gpu: bool
    since: float
    dies_at: float
    running: list[list[float]] = attrs.field(factory=list)  # place in the load, seconds left
    holds: dict[int, float] = attrs.field(factory=dict)  # place in the load, until when
    busy_at: float = 0.0
    leaving_since: float | None = None


@attrs.define
class Outcome:
    """What came of a run.  ``late`` is the integral of late work over time, in seconds squared."""

    worker_seconds: float = 0.0
    late: float = 0.0
    unfinished: int = 0
    starts: int = 0
    turns: int = 0
    seconds: float = 0.0
    most: int = 0
    shortest_patience_s: float = math.inf
    longest_starved_s: float = 0.0
    moved: int = 0
    broken: list[str] = attrs.field(factory=list)
    path: list[tuple[float, int, int]] = attrs.field(factory=list)

    def cost(self, target_s: float) -> float:
        """Worker-seconds, with what late work costs."""
        return self.worker_seconds + WEIGHT * self.late / target_s


class World:
    """A simulated cluster."""

    def __init__(self, setting: Setting, planner: Planner = plan) -> None:
        self.setting, self.planner = setting, planner
        self.rng = random.Random(setting.seed)
        self.now = 0.0
        self.here: dict[str, Machine] = {}
        self.coming: list[float] = []
        self.ready: dict[bool, deque[int]] = {False: deque(), True: deque()}
        self.counts: Counter[tuple[bool, str]] = Counter()
        self.missing = [len(job.inputs) for job in setting.jobs]
        self.dependents: dict[int, list[int]] = {}
        for place, job in enumerate(setting.jobs):
            for one in job.inputs:
                self.dependents.setdefault(one, []).append(place)
        self.submitted = sorted((job.at, place) for place, job in enumerate(setting.jobs))
        self.next = 0
        self.arrived = [False] * len(setting.jobs)
        self.left = len(setting.jobs)
        self.ended = 0
        self.means: dict[str, float] = {}
        self.work_done = 0.0
        self.state = State()
        self.direction = 0
        self.number = 0
        self.first: int | None = None  # the task whose turn it is, and since when
        self.first_at = 0.0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Until the work is done and the fleet is at its minimum, or too much time has passed."""
        step, policy, outcome = self.setting.step_s, self.setting.policy, self.outcome
        ideal = _ideal(self.setting.jobs, step, self.setting.start_s)
        last = len(ideal) * step
        limit = (
            2 * last
            + 40 * self.setting.start_s
            + 3600
            + 2 * sum(job.seconds for job in self.setting.jobs)
            + 20_000 * (self.setting.never > 0)
        )
        planned = -math.inf
        while self.now < limit:
            self._events()
            if self.now - planned >= policy.interval_s - 1e-9:
                planned = self.now
                self._plan()
            self._work(step)
            self.now += step
            ticks = round(self.now / step)
            outcome.worker_seconds += step * (len(self.here) + sum(one < math.inf for one in self.coming))
            outcome.late += step * max(0.0, ideal[min(ticks, len(ideal) - 1)] - self.work_done)
            if not self.left and self.now >= last and len(self.here) <= policy.minimum and not self._comes_any():
                break
        outcome.unfinished, outcome.seconds = self.left, self.now
        return outcome

    def _comes_any(self) -> bool:
        return any(when < math.inf for when in self.coming)

    def _events(self) -> None:
        """What has happened by now: submits, workers that have come or died, values that nobody wants any more."""
        while self.next < len(self.submitted) and self.submitted[self.next][0] <= self.now:
            place = self.submitted[self.next][1]
            self.next += 1
            self.arrived[place] = True
            if not self.missing[place]:
                self._is_ready(place)
        for when in [one for one in self.coming if one <= self.now]:
            self.coming.remove(when)
            life = self.rng.expovariate(1 / self.setting.life_s) if self.setting.life_s < math.inf else math.inf
            gpu = self.rng.random() < self.setting.gpus
            name = f"w{self.number}"
            self.number += 1
            self.here[name] = Machine(name, self.setting.slots, gpu, self.now, self.now + life, busy_at=self.now)
        for machine in list(self.here.values()):
            machine.holds = {place: until for place, until in machine.holds.items() if until > self.now}
            if machine.dies_at <= self.now:
                del self.here[machine.name]
                for lost, rest in machine.running:
                    job = self.setting.jobs[int(lost)]
                    self.work_done -= job.seconds - rest
                    self._is_ready(int(lost), first=True)
            elif machine.leaving_since is not None:
                self._leave(machine, machine.leaving_since)

    def _leave(self, machine: Machine, since: float) -> None:
        """As the scheduler does it: what only it holds moves, and it goes when nothing is lost by it."""
        if machine.running:
            if self.now - since > HANDING_OVER_S:
                machine.leaving_since = None
            return
        heirs = [one for one in self.here.values() if one.leaving_since is None]
        if machine.holds and not heirs:
            machine.leaving_since = None
            return
        if machine.holds:
            self.outcome.moved += len(machine.holds)
            min(heirs, key=lambda one: len(one.holds)).holds.update(machine.holds)
        del self.here[machine.name]

    def _work(self, step: float) -> None:
        """The workers work for ``step`` seconds."""
        for machine in self.here.values():
            budgets = [step] * machine.slots
            running: list[list[float] | None] = [*machine.running, *[None] * machine.slots]
            machine.running = []
            for slot in range(machine.slots):
                current = running[slot]
                while budgets[slot] > 1e-9:
                    if current is None:
                        current = self._take(machine)
                        if current is None:
                            break
                    spent = min(budgets[slot], current[1])
                    budgets[slot] -= spent
                    current[1] -= spent
                    self.work_done += spent
                    if current[1] <= 1e-9:
                        self._finish(machine, int(current[0]), self.now + step - budgets[slot])
                        current = None
                if current is not None:
                    machine.running.append(current)
                if budgets[slot] < step:
                    machine.busy_at = self.now + step
        first = (self.ready[False] or [None])[0]
        if first is None or first != self.first or len(self.here) + len(self.coming) >= self.setting.policy.maximum:
            self.first, self.first_at = first, self.now
        self.outcome.longest_starved_s = max(self.outcome.longest_starved_s, self.now - self.first_at)

    def _is_ready(self, place: int, first: bool = False) -> None:
        job = self.setting.jobs[place]
        queue = self.ready[job.gpu]
        queue.insert(0 if first else len(queue), place)
        self.counts[job.gpu, job.function] += 1

    def _take(self, machine: Machine) -> list[float] | None:
        """The next task for a free slot."""
        if machine.leaving_since is not None:
            return None
        for gpu in (True, False) if machine.gpu else (False,):
            if self.ready[gpu]:
                place = self.ready[gpu].popleft()
                self.counts[gpu, self.setting.jobs[place].function] -= 1
                return [place, self.setting.jobs[place].seconds]
        return None

    def _finish(self, machine: Machine, place: int, when: float) -> None:
        job = self.setting.jobs[place]
        self.left -= 1
        self.ended += 1
        mean = self.means.get(job.function)
        self.means[job.function] = job.seconds if mean is None else mean + 0.2 * (job.seconds - mean)
        if job.kept_s:
            machine.holds[place] = when + job.kept_s
        for dependent in self.dependents.get(place, ()):
            self.missing[dependent] -= 1
            if not self.missing[dependent] and self.arrived[dependent]:
                self._is_ready(dependent)

    def demand(self) -> Demand:
        """What the scheduler would say."""
        waiting = []
        for gpu, places in self.ready.items():
            if places:
                counts = {fn: count for (which, fn), count in self.counts.items() if which is gpu}
                known = sum(count * self.means.get(fn, 0.0) for fn, count in counts.items())
                unknown = sum(count for fn, count in counts.items() if fn not in self.means)
                waiting.append(Need(GPU if gpu else {}, (), len(places), known, unknown))
        workers = tuple(
            Load(
                one.name,
                one.slots,
                len(one.running),
                0.0 if one.running else self.now - one.busy_at,
                sum(self.setting.jobs[place].size for place in one.holds),
                len(one.holds),
                "connected" if one.leaving_since is None else "retiring",
                GPU if one.gpu else {},
            )
            for one in self.here.values()
        )
        return Demand(tuple(waiting), workers, self.left, self.ended)

    def _plan(self) -> None:
        policy, outcome = self.setting.policy, self.outcome
        demand = self.demand()
        made = self.planner(demand, self.state, policy, self.now)
        self.state = made.state
        self._check(demand, made)
        for machine in self.here.values():
            if machine.name not in made.retire:
                machine.leaving_since = None
            elif machine.leaving_since is None:
                machine.leaving_since = self.now
                self._turn(-1)
        for _ in range(made.start):
            come = self.rng.random() >= self.setting.never
            self.coming.append(self.now + self.setting.start_s if come else math.inf)
        given_up = len(self.coming) - len(made.state.asked)
        for _ in range(max(0, given_up)):  # the engine has forgotten them
            self.coming.remove(max(self.coming))
        if made.start:
            outcome.starts += made.start
            self._turn(1)
        outcome.most = max(outcome.most, len(self.here) + len(self.coming))
        outcome.shortest_patience_s = min(outcome.shortest_patience_s, patience_of(self.state, policy, self.now))
        outcome.path.append((self.now, len(self.here), made.wanted))

    def _turn(self, direction: int) -> None:
        if self.direction and direction != self.direction:
            self.outcome.turns += 1
        self.direction = direction

    def _check(self, demand: Demand, made: Plan) -> None:
        """What must hold for each plan."""
        policy, broken = self.setting.policy, self.outcome.broken
        there = len(self.here) + len(made.state.asked)
        staying = [one for one in demand.workers if one.name not in made.retire]
        if not policy.minimum <= made.wanted <= policy.maximum or there > policy.maximum:
            broken.append(f"{self.now}: {made.wanted} wanted, {there} there")
        if there < policy.minimum:
            broken.append(f"{self.now}: only {there} there")
        if len(staying) + len(made.state.asked) < policy.minimum and made.retire:
            broken.append(f"{self.now}: {made.retire} leave although only {there} are there")
        if not staying and any(one.values for one in demand.workers if one.name in made.retire):
            broken.append(f"{self.now}: holders leave and nobody stays")
        if made.start and made.retire:
            broken.append(f"{self.now}: up and down at once")


def most_turns(outcome: Outcome) -> float:
    """How often the fleet may change its direction: up again at any time, but down only after the shortest limit."""
    shortest = outcome.shortest_patience_s * math.log(1 + (math.e - 1) * LEAST_SHARE)
    return 2 + 2 * outcome.seconds / shortest


# ---- the best policy in hindsight -------------------------------------------------------------


def _ideal(jobs: tuple[Job, ...], step_s: float, start_s: float = 0.0) -> list[float]:
    """The seconds of work that unlimited workers would have done by each multiple of ``step_s``, up to the last one.

    ``start_s``: they are asked for when the work is submitted, and take so long to start.
    """
    ends: list[float] = []
    changes: list[tuple[float, int]] = []
    for job in jobs:  # inputs stand before what needs them
        begin = max([job.at + start_s, *[ends[one] for one in job.inputs]])
        ends.append(begin + job.seconds)
        changes += [(begin, 1), (begin + job.seconds, -1)]
    changes.sort()
    done, at, rate, place = 0.0, 0.0, 0, 0
    found = [0.0]
    while place < len(changes):
        until = len(found) * step_s
        while place < len(changes) and changes[place][0] <= until:
            when, change = changes[place]
            done, at, rate, place = done + rate * (when - at), when, rate + change, place + 1
        done, at = done + rate * (until - at), until
        found.append(done)
    return found


def clairvoyant_cost(setting: Setting) -> float:
    """The least cost for somebody who knows the load in advance: a lower bound, by dynamic programming over time.

    A state is a number of workers and the late work, in whole steps of one worker.  For each number of workers, the frontier of
    (late work, cost) is kept of which nothing is better in both.  It is a lower bound because late work may be divided among
    workers as one likes, and because workers are started in time for work that nobody has submitted yet.
    """
    step, target, policy = setting.step_s, setting.target_s, setting.policy
    unit = step * setting.slots
    units = [math.floor(done / unit + 1e-9) for done in _ideal(setting.jobs, step, setting.start_s)]
    early = [math.ceil(done / unit - 1e-9) for done in _ideal(setting.jobs, step)]
    start_cost = setting.start_s
    front: list[list[tuple[int, float]]] = [[] for _ in range(policy.maximum + 1)]
    front[policy.minimum] = [(0, 0.0)]
    tick = 0
    best = math.inf
    while tick < len(units) - 1 or best == math.inf:
        if tick * step >= setting.start_s:
            front = _any_change(front, start_cost)
        work = units[tick + 1] - units[tick] if tick + 1 < len(units) else 0
        tick += 1
        least = units[tick] - early[min(tick, len(early) - 1)] if tick < len(units) else 0  # work that is done already
        for workers, points in enumerate(front):
            moved = [(max(least, late + work - workers), cost) for late, cost in points]
            price = WEIGHT * step * setting.slots * step / target
            front[workers] = _frontier([(late, cost + workers * step + max(0, late) * price) for late, cost in moved])
        if tick >= len(units) - 1:
            best = min([best, *[cost for points in front for late, cost in points if late <= 0]])
    return best


def _any_change(front: list[list[tuple[int, float]]], start_cost: float) -> list[list[tuple[int, float]]]:
    """After starting or ending any number of workers."""
    down: list[list[tuple[int, float]]] = []
    acc: list[tuple[int, float]] = []
    for points in reversed(front):
        acc = _frontier([*acc, *points])
        down.append(acc)
    down.reverse()
    acc, found = [], []
    for points, lower in zip(front, down, strict=True):
        acc = _frontier([*((late, cost + start_cost) for late, cost in acc), *points])
        found.append(_frontier([*acc, *lower]))
    return found


def _frontier(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Those that no other one beats in both."""
    points.sort()
    found: list[tuple[int, float]] = []
    for late, cost in points:
        if not found or cost < found[-1][1] - 1e-9:
            found.append((late, cost))
    while len(found) > MAX_POINTS:
        pairs = zip(found[::2], [*found[1::2], found[-1]], strict=False)
        found = [(first[0], second[1]) for first, second in pairs]
    return found


# ---- loads ------------------------------------------------------------------------------------


def bursts(count: int, every_s: float, tasks: int, seconds: float) -> tuple[Job, ...]:
    """``tasks`` at once, again and again."""
    return tuple(Job(number * every_s, seconds) for number in range(count) for _ in range(tasks))


def stream(length_s: float, level: Callable[[float], float], seconds: float, step_s: float) -> tuple[Job, ...]:
    """Tasks of ``seconds`` that keep ``level(time)`` workers busy."""
    jobs, owed, now = [], 0.0, 0.0
    while now < length_s:
        owed += level(now) * step_s
        while owed >= seconds:
            jobs.append(Job(now, seconds))
            owed -= seconds
        now += step_s
    return tuple(jobs)


def waist(times: int, every_s: float, wide: int, seconds: float, narrow_s: float) -> tuple[Job, ...]:
    """A graph that is wide, then one task, then wide again; submitted so many times."""
    jobs: list[Job] = []
    for number in range(times):
        begin, at = len(jobs), number * every_s
        jobs += [Job(at, seconds, function="map") for _ in range(wide)]
        jobs.append(Job(at, narrow_s, tuple(range(begin, begin + wide)), function="merge"))
        jobs += [Job(at, seconds, (begin + wide,), function="use") for _ in range(wide)]
    return tuple(jobs)


def day_and_night(length_s: float, most: float) -> Callable[[float], float]:
    """From nothing to ``most`` and back, twice."""
    return lambda at: most * (1 - math.cos(4 * math.pi * at / length_s)) / 2


def on_and_off(on_s: float, off_s: float, level: float) -> Callable[[float], float]:
    """Work for ``on_s``, then none for ``off_s``."""
    return lambda at: level if at % (on_s + off_s) < on_s else 0.0


def fixed_loads() -> list[Setting]:
    """The loads on which costs are compared: made up, fixed, and each with the time that its workers take to start.

    The numbers of the policy were chosen on them, so their ratios are better than those of other loads.
    """

    def setting(name: str, jobs: tuple[Job, ...], start_s: float, most: int = 10, step_s: float = 1.0) -> Setting:
        return Setting(name, jobs, Policy(0, most, interval_s=step_s, start_s=start_s), start_s, step_s=step_s)

    long = tuple(Job(float(at), 600.0) for at in (0, 0, 100, 400, 900, 1000))
    return [
        setting("bursts: 10 times 60 tasks of 20 s", bursts(10, 300.0, 60, 20.0), 1.0),
        setting("ramp to 8 workers and back in 40 min", stream(2400.0, day_and_night(4800.0, 8.0), 5.0, 1.0), 1.0),
        setting("short tasks of 0.05 s, 10 min on, 5 off", stream(2700.0, on_and_off(600.0, 300.0, 4.0), 0.05, 1.0), 1.0),
        setting("six tasks of 10 min", long, 30.0),
        setting("10 tasks of 1 min, one of 2 min, 10 of 1 min", waist(1, 0.0, 10, 60.0, 120.0), 1.0),
        setting("the same graph 10 times", waist(10, 600.0, 10, 60.0, 120.0), 1.0),
        setting("day and night in 2 h, starts of 30 s", stream(7200.0, day_and_night(7200.0, 8.0), 10.0, 3.0), 30.0, 10, 3.0),
        setting(
            "day and night in 24 h, starts of 5 min", stream(86400.0, day_and_night(86400.0, 8.0), 60.0, 30.0), 300.0, 10, 30.0
        ),
        setting(
            "shifts of 2 h, starts of 5 min", stream(28800.0, on_and_off(7200.0, 7200.0, 6.0), 60.0, 20.0), 300.0, 10, 20.0
        ),
        setting("2 min on, 11 s off, starts of 1 s", stream(1310.0, on_and_off(120.0, 11.0, 5.0), 4.0, 1.0), 1.0),
        setting("bursts of 5 min, starts of 30 s", bursts(6, 900.0, 50, 30.0), 30.0, 10, 3.0),
        setting("bursts of 3 min, starts of 5 min", bursts(4, 3600.0, 60, 30.0), 300.0, 10, 10.0),
        setting("2 min on, 31 s off, starts of 30 s", stream(1510.0, on_and_off(120.0, 31.0, 5.0), 4.0, 2.0), 30.0, 10, 2.0),
    ]


def random_setting(seed: int) -> Setting:
    """Any load on any cluster: workers that die, never come, start slowly, or lack the GPU that tasks need."""
    rng = random.Random(seed)
    start_s = rng.choice((0.0, 1.0, 30.0, 300.0))
    step_s = 5.0 if start_s == 300.0 else 1.0
    most = rng.choice((1, 2, 4, 10, 40))
    length_s = rng.uniform(60.0, 600.0) * (6 if step_s > 1 else 1)
    seconds = rng.choice((0.05, 1.0, 10.0, 60.0)) * step_s
    level = rng.uniform(0.1, 1.5) * most
    seconds = max(seconds, level * length_s / 5_000)  # not too many tasks
    jobs = rng.choice(
        (
            lambda: bursts(rng.randint(1, 4), length_s / 4, rng.randint(1, 100), seconds),
            lambda: stream(length_s, day_and_night(length_s, level), seconds, step_s),
            lambda: stream(length_s, on_and_off(length_s / 5, rng.uniform(5.0, 40.0), level), seconds, step_s),
            lambda: waist(rng.randint(1, 2), length_s / 2, rng.randint(1, 50), seconds, 60.0),
            lambda: tuple(Job(rng.uniform(0.0, length_s), rng.expovariate(1 / seconds)) for _ in range(rng.randint(1, 300))),
        )
    )()
    gpus = rng.choice((0.0, 0.0, 0.0, 0.3, 1.0))
    most = max(most, 2) if 0 < gpus < 1 else most  # the minimum may be workers without
    kept_s, size = rng.choice(((0.0, 0), (30.0, 10**6), (600.0, 10**9)))
    changed = [
        attrs.evolve(job, gpu=gpus > 0 and rng.random() < 0.3, size=size, kept_s=kept_s * (rng.random() < 0.5)) for job in jobs
    ]
    policy = Policy(
        rng.randint(0, min(most - (0 < gpus < 1), 3)),
        most,
        target_s=rng.choice((1.0, 5.0, 60.0)),
        interval_s=rng.choice((1.0, 5.0)) * step_s,
        patience_s=rng.choice((None, None, 3.0, 30.0)),
    )
    never, life_s = rng.choice(((0.0, math.inf), (0.0, math.inf), (0.3, math.inf), (0.0, 2000.0)))
    slots = rng.choice((1, 1, 2, 4))
    return Setting(f"seed {seed}", tuple(changed), policy, start_s, slots, never, gpus, life_s, step_s, seed)


def compare(setting: Setting) -> tuple[Outcome, float]:
    """What the policy does with a load, and the least cost for somebody who knows the load in advance."""
    return World(setting).run(), clairvoyant_cost(setting)


def best_rival(setting: Setting) -> tuple[float, str]:
    """The cost of the policy that turns out to suit the load best, of those in :mod:`.rivals`, and its name."""
    found = []
    for name, planner in rivals(setting.policy.maximum).items():
        outcome = World(setting, planner).run()
        if not outcome.unfinished:
            found.append((outcome.cost(setting.target_s), name))
    return min(found)


def unseen(seed: int) -> Setting | None:
    """A random load on a cluster without faults, for a comparison on loads for which no number of the policy was chosen.

    None if it is too large to compare.
    """
    setting = random_setting(seed)
    jobs = [attrs.evolve(job, gpu=False, kept_s=0.0, at=job.at // setting.step_s * setting.step_s) for job in setting.jobs]
    most = setting.policy.maximum
    if most > 10 or sum(job.seconds for job in jobs) > 40_000:
        return None
    policy = Policy(0, most, interval_s=setting.step_s, start_s=max(setting.start_s, 0.1))
    return Setting(setting.name, tuple(jobs), policy, setting.start_s, step_s=setting.step_s, seed=seed)


def main() -> None:
    """Print the table of docs/adapting.rst, and what is said there about unseen loads."""
    parser = argparse.ArgumentParser(prog="python -m twistdist.testing.adapting", description=main.__doc__)
    parser.add_argument("--unseen", type=int, default=0, metavar="N", help="compare N random loads too (default: none)")
    count = parser.parse_args().unseen
    print(f"{'load':<45} {'cost':>8} {'late':>6} {'best':>8} {'ratio':>6} {'known':>8} {'ratio':>6} {'starts':>6} {'turns':>5}")
    names = []
    for setting in fixed_loads():
        outcome, best = compare(setting)
        cost = outcome.cost(setting.target_s)
        late = (cost - outcome.worker_seconds) / cost
        rival, name = best_rival(setting)
        figures = f"{cost:>8.0f} {late:>6.0%} {rival:>8.0f} {cost / rival:>6.2f} {best:>8.0f} {cost / best:>6.2f}"
        counts = f"{outcome.starts:>6} {outcome.turns:>5}"
        names.append(f"{setting.name:<45}  {name}")
        print(f"{setting.name:<45} {figures} {counts}{'  unfinished' if outcome.unfinished else ''}", flush=True)
    print("", "best policies", *names, "", sep="\n")
    if count:
        _print_unseen([found for seed in range(1000, 1000 + count) if (found := unseen(seed)) is not None])


def _print_unseen(settings: list[Setting]) -> None:
    """How the ratios are distributed: of all loads, and of those with much work for a start and the shortest patience."""
    ratios: dict[str, list[float]] = {}
    for setting in settings:
        outcome, best = compare(setting)
        cost, rival = outcome.cost(setting.target_s), best_rival(setting)[0]
        much = sum(job.seconds for job in setting.jobs) > 100 * (setting.start_s + SHORTEST_PATIENCE_S)
        for what, other in (("the best policy", rival), ("who knows the load", best)):
            ratios.setdefault(f"random loads, to {what}", []).append(cost / other)
            if much:
                ratios.setdefault(f"of them with much work, to {what}", []).append(cost / other)
    for name, found in ratios.items():
        found.sort()
        within = sum(ratio <= 1.3 for ratio in found) / len(found)
        median, high = found[len(found) // 2], found[9 * len(found) // 10]
        print(f"{len(found)} {name}: median {median:.2f}, nine tenths below {high:.2f}, {within:.0%} within 1.3")


if __name__ == "__main__":
    main()
