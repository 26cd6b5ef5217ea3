"""A whole cluster in one thread under one seed: the three cores on a simulated network, clock and set of processes::

    python -m twistdist.testing.simulate --seeds 10000 --jobs 2
    python -m twistdist.testing.simulate --seed 4711 --trace                      # repeat one run, with every step printed
    python -m twistdist.testing.simulate --seed 4711 --shrink > test_4711.py      # a short run that fails like this one
    python -m twistdist.testing.simulate --seeds 10000 --coverage FILE            # count what happened in which state

Each seed determines a random task graph, random faults (frames lost, delayed, repeated and reordered, connections cut in one or
both directions, resumed or given up, workers, executors, clients and schedulers killed or stopped for a while, stores kept or
wiped, a journal that can't be written, is taken over by another scheduler or gets lost) and random behaviour of clients.  Each
run has a random part of them (:mod:`.swarm`).  The scheduler's invariants are checked after every event but heartbeats from
which nothing follows.  At the end every future that is still needed must have the right value or the right error, nothing that
was released may be left anywhere, and without faults nothing may have run twice.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import heapq
import pathlib
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import attrs
import msgspec

from twistdist.core.scheduler import Scheduler, transitions
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.settings import Settings
from twistdist.testing import swarm
from twistdist.testing.checks import Checks
from twistdist.testing.clients import SimClient, TaskClient
from twistdist.testing.coverage_by_state import Met, Totals
from twistdist.testing.outside import Outside
from twistdist.testing.parties import FAULT_S, Link, Plan, SimulationFailed, is_right
from twistdist.testing.schedulers import Disk, SimScheduler
from twistdist.testing.workers import SimWorker
from twistdist.wire import messages as m

#: The number of events after which a run counts as stuck.
MAX_EVENTS = 60_000

#: Seconds with nothing but heartbeats after which the cluster is at rest; long enough for silence to be noticed and for audits.
REST_S = 5.0

#: Messages that mean something new when they are sent again.
NEVER_TWICE = (m.Renew, m.Install, m.Retry, m.Leaving, m.Bye, m.Intake, m.Parked, m.Stop, m.Query, m.Function)

#: Seconds that sessions of clients are kept in runs in which clients leave without a word.
SHORT_GRACE_S = 3.0

#: Faults that hit frames, greetings, executors or messages at random, all over a run.
EVERYWHERE = ("frames", "greetings", "starts", "echoes")


class World:
    """The simulated cluster of one seed.

    A seed means the same as in the simulator's first ``version``, in which everything was switched on, in the second, which had
    a part of more features and faults (:mod:`.swarm`), in the third, with tasks that submit tasks and more faults, or in the
    fourth, with random epochs, lost journals, clients that attach to what exists, and silent connections that are kept while
    another one is tried.

    A shortened run has ``only`` these of its outside events, by their numbers, and none of the faults in ``quiet``, some of
    ``EVERYWHERE``; :mod:`.shrink` looks for the shortest that still fails.  With ``count`` it is counted what happens in which
    state.
    """

    def __init__(
        self,
        seed: int,
        trace: bool = False,
        only: Iterable[int] | None = None,
        quiet: Iterable[str] = (),
        version: int = 4,
        count: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.trace = trace
        self.quiet = frozenset(quiet)
        self.now = 0.0
        self._trace = hashlib.blake2b(digest_size=8)
        self.latency = self.rng.choice((0.0005, 0.005, 0.05))
        self.faulty = self.rng.random() < 0.85
        self.start_faults = self.faulty and self.rng.random() < 0.2 and "starts" not in self.quiet
        self.frame_faults = self.faulty and self.rng.random() < 0.6 and "frames" not in self.quiet
        self.faults: Counter[str] = Counter()
        self.met = Met() if count else None
        self.executions: Counter[int] = Counter()
        self.raised: Counter[int] = Counter()  # by the scheduler's number of the task
        self.taken: Counter[tuple[str, str]] = Counter()
        self._events: list[tuple[float, int, Callable[[], object], bool]] = []
        self._count = self._foreground = 0
        self.journaled = self.rng.random() < 0.6
        #: The only fault is that the scheduler is killed: nothing may be executed twice.
        self.restarts_only = self.journaled and self.faulty and self.rng.random() < 0.3
        #: Old messages are sent again, whatever state their subject is in by then.
        self.echoes = self.faulty and not self.restarts_only and self.rng.random() < 0.2 and "echoes" not in self.quiet
        self._heard: dict[Any, list[Any]] = {}
        #: Tasks that the scheduler drops or assigns in one event.
        self.slice = self.rng.choice((500, 500, 500, 3, 1))
        self.disk = Disk(self)
        #: Randomness of what was added later.
        self.more, self.later = random.Random(~seed), version > 1
        self.newest, self.nesting = random.Random(f"newest {seed}"), version > 2
        self.forgetful, self.forgetting = random.Random(f"forgetting {seed}"), version > 3
        self.outside = Outside(self, only)
        self.swarm = swarm.draw(self.more, self.journaled, self.faulty, self.restarts_only)
        if self.nesting:
            self.swarm = swarm.draw_newest(self.newest, self.swarm, self.faulty, self.restarts_only)
        if self.forgetting:
            self.swarm = swarm.draw_forgetting(self.forgetful, self.swarm, self.faulty, self.restarts_only)
        self.client_grace = SHORT_GRACE_S if self.later and self.swarm.ends_sessions else Settings().client_grace
        self.named = self.later and self.more.random() < 0.2
        #: Values in the checkpoint store, by their place.
        self.checkpoints: dict[str, bytes] = {}
        self.lives = 0
        self.epoch = self._foreign_epoch() if self.forgetting else 0  # the last one
        self.schedulers: list[SimScheduler] = []
        self.touched: dict[SimScheduler, None] = {}
        self.workers: dict[str, SimWorker] = {}
        self.clients: list[SimClient] = []
        #: The clients of running tasks.
        self.children: dict[TaskClient, None] = {}
        self.nested = 0
        self.first_child = 1_000_000  # the nodes from here on are submitted by tasks
        self.start_scheduler()
        self.every = self.core.settings.look_every
        self._incarnations = 0
        self.plans = self._make_plans()
        if self.later and self.more.random() < 0.2:
            self.plans = [self._perhaps_saved(plan) for plan in self.plans]
        self.keyed = self.rng.random() < 0.4
        self.scatters = not self.keyed and self.rng.random() < 0.3
        self.clients += [
            SimClient(self, number, name=self.session_name(number)) for number in range(self.rng.choice((1, 1, 2)))
        ]
        self.published: dict[str, list[int]] = {}

    def session_name(self, number: int) -> str:
        """The durable session that the client of that number is part of, "" for none."""
        return f"durable {number}" if self.named else ""

    def _make_plans(self) -> list[Plan]:
        rng, plans = self.rng, []
        pipelines = rng.choice((0, 0, 1, 2, 3))  # so many chains beside each other
        trouble, picky, patient = rng.random() < 0.3, rng.random() < 0.3, rng.random() < 0.3
        for node in range(rng.randint(3, 25)):
            inputs = rng.sample(range(node), min(node, rng.choice((0, 0, 1, 1, 2, 3))))
            if pipelines and node >= pipelines and rng.random() < 0.8:
                inputs = [node - pipelines]
            kind = rng.random() if trouble else 1.0
            flaky = 1 if 0.08 <= kind < 0.15 else 0
            special = rng.random() if picky else 1.0
            options = m.Options(
                retries=flaky,
                crash_limit=3,
                priority=rng.choice((0, 0, 1)),
                workers=("w0",) if special < 0.1 or special > 0.9 else ("w0", "w1") if special < 0.2 else (),
                allow_other_workers=special < 0.05,
                resources={"GPU": rng.choice((300_000, 1_000_000))} if 0.2 < special < 0.4 else None,
                replicas=2 if 0.4 < special < 0.6 else 1,
                replay="verify" if 0.6 < special < 0.7 else "always",
                beside=special > 0.9,
            )
            plans.append(
                Plan(
                    node,
                    tuple(inputs),
                    large=rng.random() < 0.5,
                    raises=kind < 0.05,
                    poison=0.05 <= kind < 0.08,
                    flaky=flaky,
                    seconds=rng.choice((0.0001, 0.001, 0.02, 0.2)),
                    options=options,
                    waits=rng.choice((0.0005, 0.05, 0.5)) if patient and rng.random() < 0.4 else 0.0,
                )
            )
        return plans

    def _perhaps_saved(self, plan: Plan) -> Plan:
        """The plan, perhaps with a checkpoint."""
        if plan.options.beside or self.more.random() < 0.5:
            return plan
        return attrs.evolve(plan, options=msgspec.structs.replace(plan.options, checkpoint=True))

    # the trace

    def record(self, what: str, data: bytes) -> None:
        """Add something that was sent or written now to the trace."""
        self._trace.update(f"{self.now!r} {what} {len(data)} ".encode())
        self._trace.update(data)

    def trace_digest(self) -> str:
        """Return the digest of everything sent and written so far."""
        return self._trace.hexdigest()

    # time

    def at(self, when: float, what: Callable[[], object], background: bool = False) -> None:
        """Schedule an event.  ``background``: it recurs forever and does not mean that the cluster is busy."""
        self._count += 1
        self._foreground += not background
        heapq.heappush(self._events, (max(when, self.now), self._count, what, background))

    def after(self, delay: float, what: Callable[[], object]) -> None:
        self.at(self.now + delay, what)

    # schedulers

    @property
    def scheduler(self) -> SimScheduler:
        """The latest scheduler, even if it is down."""
        return self._latest

    @property
    def core(self) -> Scheduler:
        """The latest scheduler's core."""
        return self._latest.core

    def start_scheduler(self) -> None:
        """Start the scheduler, with what was durable at the end of its previous life."""
        self.lives += 1
        self.epoch += 1
        self._latest = SimScheduler(self, self.epoch)
        self.schedulers = [one for one in self.schedulers if one.up] + [self._latest]

    def listening(self) -> SimScheduler | None:
        """Return a scheduler that accepts connections, if any does."""
        up = [one for one in self.schedulers if one.up]
        return up[0] if len(up) == 1 else self.more.choice(up) if up else None

    def kill_scheduler(self) -> None:
        """Kill the scheduler: a write in progress is on disk or not, all connections break, and it starts again later."""
        scheduler = self._latest
        if scheduler.up:
            writing = scheduler.journal is not None and scheduler.journal.writing
            scheduler.end(bool(writing) and self.rng.random() < 0.5)
            self.after(self.rng.choice((0.01, 0.3, 1.0, 3.0)), self.start_scheduler)

    def lose_journal(self) -> None:
        """Kill the scheduler; it starts again later without a past, since its journal was deleted, if it had one."""
        scheduler = self._latest
        if scheduler.up:
            scheduler.end(False)
            self.after(self.forgetful.choice((0.01, 0.3, 1.0, 3.0)), self._start_without_past)

    def _start_without_past(self) -> None:
        self.disk.delete()
        self.published.clear()
        self.epoch = self._foreign_epoch()
        self.start_scheduler()

    def _foreign_epoch(self) -> int:
        """Return what comes before the first epoch of a new journal, which is random."""
        return self.forgetful.randrange(1 << 26)

    def take_over(self) -> None:
        """Another scheduler takes the journal over, while the one that had it goes on until it notices."""
        old = self._latest
        if old.up and old.journal is not None:
            old.journal.lose(self.more.random() < 0.5)
            self.start_scheduler()

    def write_seconds(self) -> float:
        """Return how long the write takes that begins now."""
        seconds = self.rng.choice((0.0005, 0.003, 0.05))
        return seconds + self.more.choice((0.0, 0.3, 1.5)) if self.later and self.swarm.slow and self.now < FAULT_S else seconds

    def pulse(self) -> None:
        """Send the schedulers' heartbeats periodically."""
        self.at(self.now + self.every, self.pulse, background=True)
        for scheduler in list(self.schedulers):
            scheduler.pulse()

    def echo_of(self, party: Any, messages: list[Any]) -> list[Any]:
        """Return, sometimes, one of the messages that ``party`` has received before, to be received again."""
        old = self._heard.setdefault(party, [])
        old.extend(message for message in messages if not isinstance(message, NEVER_TWICE))
        if not old or self.now > FAULT_S or self.rng.random() > 0.1:
            return []
        self.fault("echo")
        return [self.rng.choice(old[-50:])]

    # faults

    def fault(self, kind: str) -> None:
        """A fault happens, or a reaction to one that is counted like one."""
        self.faults[kind] += 1
        if self.met is not None:
            self.met.fault(self, kind)

    def frame_fault(self) -> str:
        """Return the fault that hits the frame being sent now, or ""."""
        if not self.frame_faults or self.restarts_only or self.now > FAULT_S or self.rng.random() > 0.03:
            return ""
        fault = self.rng.choice(("lose", "repeat", "reorder"))
        self.fault(fault)
        return fault

    def start_fails(self) -> bool:
        """Return whether an executor that is started now dies before it is ready."""
        if not self.start_faults or self.restarts_only or self.now > FAULT_S or self.rng.random() > 0.4:
            return False
        self.fault("executor does not start")
        return True

    def greeting_fault(self) -> bool:
        """Return whether the connection breaks during a greeting."""
        if not self.faulty or self.restarts_only or "greetings" in self.quiet or self.now > FAULT_S or self.rng.random() > 0.05:
            return False
        self.fault("cut greeting")
        return True

    def start_worker(self, name: str, store: dict[int, tuple[bytes, int]] | None = None) -> None:
        self._incarnations += 1
        worker = SimWorker(self, name, self._incarnations, {} if store is None else store)
        self.workers[name] = worker
        worker.dial()

    def kill_worker(self, name: str) -> None:
        """Kill a worker: its link breaks, and it starts again later with its store or an empty one."""
        worker = self.workers[name]
        if worker.alive:
            self.end_worker(worker, self.rng.random() < 0.4)

    def rolling_restart(self) -> None:
        """Have each worker end in turn, with its time to hand over; then, perhaps, the scheduler is killed."""
        pause = self.newest.choice((0.2, 0.6, 1.5))
        for turn, name in enumerate(sorted(self.workers)):
            self.after(turn * pause, lambda name=name: self._leaves_in_turn(self.workers[name]))  # type: ignore[misc]
        if self.journaled and self.newest.random() < 0.5:
            self.after(len(self.workers) * pause, self.kill_scheduler)

    def _leaves_in_turn(self, worker: SimWorker) -> None:
        if worker.alive:
            worker.event(worker.core.leave, 1.0, "rolling restart", True)
            self.after(1.1, lambda: self.time_is_up(worker))

    def time_is_up(self, worker: SimWorker) -> None:
        """A worker that was told to stop has handed over what it could."""
        if worker.alive:
            self.end_worker(worker, True, in_order=self.forgetting)

    def end_worker(self, worker: SimWorker, wiped: bool, in_order: bool = False) -> None:
        """The process of a worker ends, and another one is started later, on its store or, if it is ``wiped``, an empty one.

        ``in_order``: it may say so before.
        """
        if in_order and worker.link is not None and self.rng.random() < 0.7:
            worker.link.last_words = True
            worker.event(worker.core.left)
        name, worker.alive = worker.name, False
        worker.drop_former()
        worker.end_children()
        if wiped:
            worker.store = {}
        link, worker.link = worker.link, None
        if link is not None:
            link.open = link.last_words  # the scheduler may notice only after the next incarnation has sent Hello
            self.after(self.rng.choice((0.001, 0.01, 0.4, 1.0)), lambda: self._hung_up(link))
        self.after(self.rng.choice((0.05, 0.3, 0.8, 2.0)), lambda: self.start_worker(name, worker.store))

    def _hung_up(self, link: Link) -> None:
        link.open = False
        link.scheduler.lost(link)

    def open_path(self, path: str) -> bytes | None:
        """Return what an executor finds at a path, in the store of any worker on the same host, alive or not."""
        store, _, attempt = path.partition("/")
        worker = self.workers.get(store.removeprefix("store-"))
        found = worker.store.get(int(attempt, 16)) if worker is not None else None
        return found[0] if found is not None and is_right(found[0]) else None

    # a run

    def run(self) -> None:
        """Do the whole run.  Raises :class:`SimulationFailed`, or whatever error occurred."""
        self.outside.prepare()
        self.drain("the cluster does not come to rest")
        checks = Checks(self)
        checks.files()
        checks.replicas()
        checks.uploads()
        checks.results()
        checks.published()
        checks.books()
        for name in list(self.core.parts.durable.datasets):
            self.clients[0].ask("unpublish", [name])
        for client in self.clients:
            for node in list(client.futures):
                client.drop(node)
            if client.core.name:
                client.ask("end_session", [])
        self.drain("the cluster does not come to rest after everything was released")
        checks.clean()

    def drain(self, what: str) -> None:
        busy_at = self.now
        for _ in range(MAX_EVENTS):
            if self._foreground:
                busy_at = self.now
            elif self.now - busy_at > REST_S:
                check_scheduler(self.core)
                return
            self.now, _, event, background = heapq.heappop(self._events)
            self._foreground -= not background
            event()
            if self.touched:
                for scheduler in self.touched:
                    check_scheduler(scheduler.core)
                self.touched.clear()
                if self.trace:
                    self._tell()
        raise SimulationFailed(what)

    def _tell(self) -> None:
        states = " ".join(f"{t.args.decode()}:{t.state.value}{t.attempt & 0xFFF or ''}" for t in self.core.tasks.values())
        print(f"{self.now:9.4f} workers {[w.name for w in self.core.workers.values()]} {states}")

    def is_scattered(self, node: int) -> bool:
        """Whether the value of a node is not computed, but scattered by its client."""
        return self.scatters and not self.plans[node].inputs and node % 2 == 1 and node < self.first_child


@attrs.define
class Report:
    """The result of ``schedules`` runs.

    Counts the injected ``faults`` by kind and the transitions ``taken`` by (state, cause); ``failed`` holds (seed, traceback)
    of each run that failed.  ``totals`` is what happened in which state, if that was counted.
    """

    schedules: int = 0
    faults: Counter[str] = attrs.field(factory=Counter)
    taken: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    totals: Totals = attrs.field(factory=Totals)
    failed: list[tuple[int, str]] = attrs.field(factory=list)

    def add(self, other: Report) -> None:
        self.schedules += other.schedules
        self.faults += other.faults
        self.taken += other.taken
        self.totals.merge(other.totals)
        self.failed += other.failed

    def never_taken(self) -> list[tuple[str, str]]:
        """Return the transitions of the table that no run took."""
        return [(source, name) for source, _, name, _ in transitions.rows() if (source, name) not in self.taken]


def run_seeds(first: int, count: int, trace: bool = False, until_failure: bool = False, coverage: bool = False) -> Report:
    """Run ``count`` schedules, with seeds from ``first`` on; with ``until_failure`` none after the first that fails.

    With ``coverage`` it is counted what happens in which state.
    """
    report = Report()
    for seed in range(first, first + count):
        if until_failure and report.failed:
            break
        report.schedules += 1
        world = World(seed, trace, count=coverage)
        try:
            world.run()
        except Exception:
            report.failed.append((seed, traceback.format_exc()))
        report.faults += world.faults
        report.taken += world.taken
        if world.met is not None:
            world.met.transitions(world.taken)
            report.totals.add(seed, world.met.possible() if world.echoes else world.met.pairs, world.faults)
    return report


def main(argv: list[str] | None = None) -> int:
    """Run the command.  The exit status is 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m twistdist.testing.simulate", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="number of schedules")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--until-failure", action="store_true", help="stop at the first seed that fails (in each process)")
    parser.add_argument(
        "--coverage", type=pathlib.Path, metavar="FILE", help="count what happens in which state, and write it to a JSON file"
    )
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument(
        "--shrink", action="store_true", help="with --seed, which fails: print a test file of a short run that does"
    )
    options = parser.parse_args(argv)
    if options.shrink:
        if options.seed is None:
            parser.error("--shrink needs --seed")
        from twistdist.testing import shrink  # which needs this module

        return shrink.write(options.seed)
    if options.seed is not None:
        options.first_seed, options.seeds = options.seed, 1
    began = time.monotonic()
    share = -(-options.seeds // (options.jobs * 8)) if options.jobs > 1 else options.seeds
    starts = range(options.first_seed, options.first_seed + options.seeds, max(1, share))
    counts = [min(share, options.first_seed + options.seeds - start) for start in starts]
    run = partial(run_seeds, trace=options.trace, until_failure=options.until_failure, coverage=options.coverage is not None)
    if options.jobs > 1:
        with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
            parts = list(pool.map(run, starts, counts))
    else:
        parts = list(map(run, starts, counts))
    report = Report()
    for part in parts:
        report.add(part)
    for seed, text in report.failed[:5]:
        print(f"seed {seed} failed; repeat it with: python -m twistdist.testing.simulate --seed {seed} --trace")
        print(text)
    seconds = time.monotonic() - began
    faults = dict(sorted(report.faults.items()))
    injected = sum(report.faults[kind] for kind in swarm.INJECTED)
    print(
        f"{report.schedules} schedules in {seconds:.1f} s, {injected} faults injected, all that happened: {faults}, "
        f"{len(report.failed)} failed"
    )
    for source, name in report.never_taken():
        print(f"never taken: from {source}, {name}")
    if options.coverage is not None:
        report.totals.write(options.coverage)
        print(f"{len(report.totals.met)} pairs of an event and a state met; see: twistdist.testing.coverage_by_state")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
