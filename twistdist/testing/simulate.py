"""A whole cluster in one thread under one seed: the three cores on a simulated network, clock and set of processes::

    python -m twistdist.testing.simulate --seeds 10000 --jobs 2
    python -m twistdist.testing.simulate --seed 4711 --trace                      # repeat one run, with every step printed
    python -m twistdist.testing.simulate --seed 4711 --shrink > test_4711.py      # a short run that fails like this one
    python -m twistdist.testing.simulate --seeds 10000 --coverage FILE            # count what happened in which state

Each seed determines a random task graph, random faults (frames lost, delayed, repeated and reordered, connections cut in one or
both directions, resumed or given up, workers, executors, clients and schedulers killed or stopped for a while, stores kept or
wiped, a journal that can't be written or is taken over by another scheduler) and random behaviour of clients.  Each run has a
random part of them (:mod:`.swarm`).  The scheduler's invariants are checked after every event but heartbeats from which nothing
follows.  At the end every future that is still needed must have the right value or the right error, nothing that was released
may be left anywhere, and without faults nothing may have run twice.
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

from twistdist.core.client import Record, State
from twistdist.core.scheduler import Scheduler, transitions
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.settings import Settings
from twistdist.testing import swarm
from twistdist.testing.coverage_by_state import Met, Totals
from twistdist.testing.parties import (
    FROM_SCHEDULER,
    TO_SCHEDULER,
    Link,
    Party,
    Plan,
    SimClient,
    SimulationFailed,
    SimWorker,
    value_of,
)
from twistdist.testing.schedulers import Disk, SimScheduler
from twistdist.wire import messages as m

#: Simulated seconds during which faults happen, and the number of events after which a run counts as stuck.
FAULT_S = 4.0
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

    Without what was added ``later`` a seed means what it did in the simulator's first version.  A shortened run has ``only``
    these of its outside events, by their numbers, and none of the faults in ``quiet``, which are some of ``EVERYWHERE``;
    :mod:`.shrink` looks for the shortest that still fails.  With ``count`` it is counted what happens in which state.
    """

    def __init__(
        self,
        seed: int,
        trace: bool = False,
        only: Iterable[int] | None = None,
        quiet: Iterable[str] = (),
        later: bool = True,
        count: bool = False,
    ) -> None:
        self.rng = random.Random(seed)
        self.trace = trace
        self.only = None if only is None else frozenset(only)
        self.quiet = frozenset(quiet)
        #: How many outside events there are, and what became of those that happened: (time, text).
        self.outsiders = 0
        self.story: list[tuple[float, str]] = []
        self.now = 0.0
        self._trace = hashlib.blake2b(digest_size=8)
        self.latency = self.rng.choice((0.0005, 0.005, 0.05))
        self.faulty = self.rng.random() < 0.85
        self.start_faults = self.faulty and self.rng.random() < 0.2 and "starts" not in self.quiet
        self.frame_faults = self.faulty and self.rng.random() < 0.6 and "frames" not in self.quiet
        self.faults: Counter[str] = Counter()
        self.met = Met() if count else None
        self.executions: Counter[int] = Counter()
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
        self.more, self.later = random.Random(~seed), later
        self.swarm = swarm.draw(self.more, self.journaled, self.faulty, self.restarts_only)
        self.client_grace = SHORT_GRACE_S if later and self.swarm.ends_sessions else Settings().client_grace
        self.named = later and self.more.random() < 0.2
        #: Values in the checkpoint store, by their place.
        self.checkpoints: dict[str, bytes] = {}
        self.lives = 0
        self.schedulers: list[SimScheduler] = []
        self.touched: dict[SimScheduler, None] = {}
        self.workers: dict[str, SimWorker] = {}
        self.clients: list[SimClient] = []
        self.start_scheduler()
        self.every = self.core.settings.look_every
        self._incarnations = 0
        self._hit = ""
        self.plans = self._make_plans()
        if later and self.more.random() < 0.2:
            self.plans = [self._perhaps_saved(plan) for plan in self.plans]
        self.keyed = self.rng.random() < 0.4
        self.scatters = not self.keyed and self.rng.random() < 0.3
        self.clients += [SimClient(self, number, name=self._name(number)) for number in range(self.rng.choice((1, 1, 2)))]
        self._sessions = 0
        self.published: dict[str, list[int]] = {}

    def _name(self, number: int) -> str:
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
        self._latest = SimScheduler(self, self.lives)
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

    def _take_over(self) -> None:
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

    def _leave(self, worker: SimWorker) -> None:
        """A worker must end: it tells the scheduler, and ends at the latest when its time is up."""
        seconds = self.rng.choice((0.0, 0.3, 1.0, 3.0))
        worker.event(worker.core.leave, seconds, "its lifetime is over", self.rng.random() < 0.5)
        self.after(seconds + 0.1, lambda: self.end_worker(worker, True) if worker.alive else None)

    def end_worker(self, worker: SimWorker, wiped: bool, in_order: bool = False) -> None:
        """The process of a worker ends, and another one is started later, on its store or, if it is ``wiped``, an empty one.

        ``in_order``: it may say so before.
        """
        if in_order and worker.link is not None and self.rng.random() < 0.7:
            worker.link.last_words = True
            worker.event(worker.core.left)
        name, worker.alive = worker.name, False
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

    def _fault(self) -> None:
        self._hit = ""
        now = self.journaled and (self.restarts_only or self.rng.random() < 0.25)
        if now and (not self.later or "kill scheduler" in self.swarm.faults):
            self.fault("kill scheduler")
            self.kill_scheduler()
            return
        kind = self.rng.choice(self.swarm.faults if self.later else swarm.FIRST_FAULTS)
        self.fault(kind)
        worker = self.workers[self.rng.choice(sorted(self.workers))]
        if kind in swarm.MORE_FAULTS:
            self._more_fault(kind, worker)
            return
        self._hit = worker.name if kind != "cut client" else ""
        if kind == "cut" and worker.link is not None:
            worker.link.cut()
        elif kind == "kill worker":
            self.kill_worker(worker.name)
        elif kind == "kill executor" and worker.alive:
            up = [number for number, executor in worker.core.executors.items() if executor.up]
            if up:
                worker.kill_executor(self.rng.choice(up))
        elif kind == "memory" and worker.alive:
            worker.use_memory(self.rng.choice((700, 900, 990, 1100)))
            self.after(self.rng.choice((0.1, 1.0)), lambda: worker.use_memory(0))
        elif kind == "silence" and worker.link is not None:
            worker.link.silent(self.rng.choice((0.5, 1.0, 2.0, 4.0)))
        elif kind == "drift":
            self._drift(worker)
        elif kind == "park":
            self._park_one(worker.name)
        elif kind == "leave" and worker.alive:
            self._leave(worker)
        elif kind == "lose file" and worker.store:
            del worker.store[self.rng.choice(sorted(worker.store))]
        elif kind == "cut client":
            link = self.rng.choice(self.clients).link
            if link is not None:
                link.cut()

    def _more_fault(self, kind: str, worker: SimWorker) -> None:
        """Have one of the faults happen that were added later."""
        rng = self.more
        seconds = rng.choice((0.1, 0.5, 1.0, 3.0))
        party = rng.choice((worker, worker, *self.clients))
        if kind == "kill scheduler":
            self.kill_scheduler()
        elif kind == "take over":
            self._take_over()
        elif kind == "journal fails":
            self.disk.fails_until = self.now + seconds
        elif kind == "pause scheduler":
            self._latest.paused_until = self.now + seconds
        elif kind == "pause worker":
            self._hit, worker.paused_until = worker.name, self.now + seconds
        elif kind == "stop executor" and worker.alive and worker.living:
            self._hit = worker.name
            worker.stop_executor(rng.choice(sorted(worker.living)), rng.choice((0.1, 1.0, 6.0)))
        elif kind in ("one-way cut", "swallow"):
            self._hit = party.name
            self._swallow(party, rng.choice(([TO_SCHEDULER], [FROM_SCHEDULER])) if kind == "one-way cut" else None)
        elif kind in swarm.ENDING_SESSIONS:
            self._client_leaves(rng.choice(self.clients), kind == "client leaves")

    def _client_leaves(self, client: SimClient, said: bool) -> None:
        """A client's process ends, and another one is started instead, which submits the same tasks."""
        if not client.alive:
            return
        self._hit = client.name
        wanted = list(client.futures)
        client.leave(said)
        self._sessions += 1
        session = 2000 + self._sessions
        other = SimClient(self, client.number, session, self._name(client.number))
        other.cancelled, other.uploaded = client.cancelled, client.uploaded
        self.clients[self.clients.index(client)] = other

        def begins() -> None:
            other.dial()
            for node in wanted:
                if self._is_scattered(node):
                    other.scatter(node, 2)
                else:
                    other.submit(node, f"node-{node}" if self.keyed else None)

        self.after(self.more.choice((0.01, 0.5, 2.0)), begins)

    def _swallow(self, party: Party, sides: list[int] | None) -> None:
        """Let nothing through a connection any more, without an error, as a host that was switched off or a firewall does.

        In one direction first, if ``sides`` names it: what goes the other way is not acknowledged, so TCP stops sending.
        """
        link = party.link
        if link is not None:
            both = (TO_SCHEDULER, FROM_SCHEDULER)
            link.swallows.update(sides or both)
            self.after(self.more.choice((0.05, 0.5)), lambda: link.swallows.update(both))

    def _park_one(self, name: str) -> None:
        """Have a task of a worker parked as if it were waiting, whether it is or not."""
        peer = next((worker for worker in self.core.workers.values() if worker.name == name), None)
        if peer is not None and peer.assigned:
            self.core.parts.outputs.post(peer, m.Park(self.rng.choice(list(peer.assigned)).attempt))
            self._latest.flush()

    def _drift(self, worker: SimWorker) -> None:
        """Corrupt a worker's books, as a bug might."""
        if not worker.alive:
            return
        jobs = [job for job in worker.core.queue if not job.fetching]
        if jobs:
            job = self.rng.choice(jobs)
            worker.core.queue.remove(job)
            del worker.core.jobs[job.attempt]
        elif worker.core.stored:
            attempt = self.rng.choice(sorted(worker.core.stored))
            del worker.core.stored[attempt]
            worker.store.pop(attempt, None)

    def open_path(self, path: str) -> bytes | None:
        """Return what an executor finds at a path, in the store of any worker on the same host, alive or not."""
        store, _, attempt = path.partition("/")
        worker = self.workers.get(store.removeprefix("store-"))
        found = worker.store.get(int(attempt, 16)) if worker is not None else None
        return found[0] if found is not None else None

    # a run

    def prepare(self) -> None:
        """Schedule all random external events."""
        rng = self.rng
        self.pulse()
        for number in range(rng.choice((1, 2, 2, 3))):
            start = rng.uniform(0, 0.5)
            self._outside(start, f"w{number} starts", lambda name=f"w{number}": self.start_worker(name), always=True)  # type: ignore[misc]
        for client in self.clients:
            client.dial()
            at = 0.0
            for plan in self.plans:
                at += rng.choice((0.0, 0.0, 0.0, 0.05))
                key = f"node-{plan.node}" if self.keyed else None
                who, node = client.name, plan.node
                if self._is_scattered(node):
                    copies = rng.choice((0, 1, 2, 2))
                    text = f"{who} scatters node {node} with {copies} copies"
                    self._outside(at, text, lambda c=client, n=node, r=copies: c.scatter(n, r))  # type: ignore[misc]
                else:
                    self._outside(at, f"{who} submits {plan}", lambda c=client, n=node, k=key: c.submit(n, k))  # type: ignore[misc]
                if rng.random() < 0.2:
                    self._outside(at + rng.uniform(0, 2), f"{who} drops node {node}", lambda c=client, n=node: c.drop(n))  # type: ignore[misc]
                elif rng.random() < 0.05:
                    self._outside(at + rng.uniform(0, 1), f"{who} cancels node {node}", lambda c=client, n=node: c.cancel(n))  # type: ignore[misc]
                elif rng.random() < 0.3:
                    self._outside(at + rng.uniform(0, 4), f"{who} retries node {node}", lambda c=client, n=node: c.retry(n))  # type: ignore[misc]
        if rng.random() < 0.15:
            for version in range(rng.randint(1, 3)):
                text = f"client 0 uploads version {version}"
                self._outside(rng.uniform(0.1, 3), text, lambda v=version: self.clients[0].upload(v))  # type: ignore[misc]
        if rng.random() < 0.08:
            self._outside(rng.uniform(0.2, 3), "the cluster is restarted", self._restart_cluster)
        moments = []
        if self.faulty:
            for _ in range(rng.randint(1, 8)):
                moments.append(rng.uniform(0.6, FAULT_S))
                self._outside(moments[-1], "fault", self._fault)
        if self.later:
            self._prepare_more(moments)

    def _prepare_more(self, moments: list[float]) -> None:
        """Schedule what was added later: chains of faults that began at these ``moments``, and orders."""
        rng = self.more
        if rng.random() < 0.4:
            self._submit_later()
        for began in list(moments):
            while rng.random() < self.swarm.chain and len(moments) < 20:  # during recovery from the one before
                began += rng.choice((0.0, 0.005, 0.05, 0.2, 0.6))
                moments.append(began)
                self._outside(began, "fault", self._fault)
        for _ in range(rng.randint(1, 6) if self.swarm.orders else 0):
            at, what = rng.uniform(0.1, FAULT_S), rng.choice(self.swarm.orders)
            if moments and rng.random() < 0.5:
                at = rng.choice(moments) + rng.choice((0.0, 0.01, 0.1, 0.5))
            self._outside(at, f"a client orders: {what}", partial(self._order, what))

    def _submit_later(self) -> None:
        """Have clients submit further tasks while faults happen, so that a restarted scheduler gets some too."""
        rng = self.more
        for _ in range(rng.randint(1, 6)):
            node = len(self.plans)
            inputs = tuple(rng.sample(range(node), rng.choice((0, 1, 2))))
            large, seconds = rng.random() < 0.5, rng.choice((0.0001, 0.001, 0.02, 0.2))
            plan = Plan(node, inputs, large, False, 0, False, seconds, 0.0, m.Options(crash_limit=3))
            self.plans.append(plan)
            for client in self.clients:
                key, text = f"node-{node}" if self.keyed else None, f"{client.name} submits {plan}"
                at = rng.uniform(0.6, FAULT_S + 1)
                self._outside(at, text, lambda c=client, n=node, k=key: c.submit(n, k))  # type: ignore[misc]

    def _outside(self, at: float, text: str, what: Callable[[], None], always: bool = False) -> None:
        """Schedule what somebody outside does to the cluster, unless it is left out.  ``always``: nothing ends without it."""
        number, self.outsiders = self.outsiders, self.outsiders + 1

        def happens() -> None:
            before = Counter(self.faults)
            at = len(self.story)
            what()
            found = self.faults - before
            told = f"fault: {next(iter(found), 'nothing')} {self._hit}".rstrip() if text == "fault" else text
            self.story.insert(at, (self.now, told))

        if always or self.only is None or number in self.only:
            self.at(at, happens)

    def _restart_cluster(self) -> None:
        """A client has all tasks and data dropped."""
        self.fault("restart")
        self.clients[-1].core.query("restart")
        self.clients[-1].flush()

    def _order(self, what: str) -> None:
        """A client orders something, or asks."""
        rng = self.more
        client = rng.choice(self.clients)
        if not client.alive:
            return
        known = client.known()
        chosen = rng.sample(known, rng.randint(1, len(known))) if known else []
        cids = [client.futures[node].cid for node in chosen]
        names = sorted(self.workers)
        if what == "restart":
            self._restart_cluster()
            return
        self.fault(what)
        if what == "publish" and cids:
            name = f"name {self.faults[what]}"
            client.ask(what, [name, b"shape", cids], lambda reply: self._published(name, chosen, reply))
        elif what == "unpublish" and self.published:
            name = rng.choice(sorted(self.published))
            del self.published[name]
            client.ask(what, [name])
        elif what in ("retire", "dismiss") and names:
            client.ask(what, [rng.choice((0.0, 0.3, 1.0, 3.0)), *rng.sample(names, rng.randint(1, len(names)))])
        elif what == "rebalance":
            client.ask(what, [])
        elif what == "replicate":
            client.ask(what, [rng.choice((0, 1, 2, 3)), *cids])
        elif what == "until_ended":
            client.ask(what, cids)
        elif what == "logs":
            client.ask(what, [rng.choice((1, 100))])
        elif what == "clear":
            client.ask(what, [])
        elif what == "upload":
            self.clients[0].upload(100 + self.faults[what])
        elif what == "cancel unstarted" and chosen:
            client.cancel(chosen[0], True)
        elif what == "status":
            for question in ("status", "snapshot", "workers", "incidents", "datasets", "demand", "keys"):
                client.ask(question, [])

    def _published(self, name: str, nodes: list[int], reply: m.Reply) -> None:
        if not reply.error:
            self.published[name] = nodes

    def run(self) -> None:
        """Do the whole run.  Raises :class:`SimulationFailed`, or whatever error occurred."""
        self.prepare()
        self._drain("the cluster does not come to rest")
        self._check_files()
        self._check_replicas()
        self._check_uploads()
        self._check_results()
        self._check_published()
        self._check_books()
        for name in list(self.core.parts.durable.datasets):
            self.clients[0].ask("unpublish", [name])
        for client in self.clients:
            for node in list(client.futures):
                client.drop(node)
            if client.core.name:
                client.ask("end_session", [])
        self._drain("the cluster does not come to rest after everything was released")
        self._check_clean()

    def _drain(self, what: str) -> None:
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

    def _check_files(self) -> None:
        """Check that at rest every holder has what it should hold, except for what a fault took away."""
        if self._excuses_files():
            return
        for task in self.core.tasks.values():
            for holder in task.holders or ():
                if task.value_attempt not in self.workers[holder.name].store:
                    raise SimulationFailed(f"{holder.name} does not hold {task.key}, attempt {task.value_attempt}")

    def _check_books(self) -> None:
        """Check that books were found to differ only because of a fault, and that they agree at rest."""
        if self.echoes:
            return
        kinds = ("drift", "worker stuck", "no progress")
        drifts = [incident for incident in self.core.statistics.incidents if incident.kind in kinds]
        if drifts and not (self.faults["drift"] or self.faults["lose file"]):
            raise SimulationFailed(f"books differ without a cause: {drifts[0]}")
        for worker in self.core.workers.values():
            there = self.workers[worker.name]
            if there.alive and {task.value_attempt for task in worker.holds} != set(there.core.stored):
                raise SimulationFailed(f"the books about the files of {worker.name} differ at rest")

    def _check_replicas(self) -> None:
        """Check that at rest every value has as many copies as it should, or as there are workers, and that all are equal."""
        for task in self.core.tasks.values():
            if task.holders is None:
                continue
            values = {self.workers[holder.name].store.get(task.value_attempt, (b"", 0))[0] for holder in task.holders}
            if len(values) > 1 and not self._excuses_files():
                raise SimulationFailed(f"the copies of {task.key} differ")
            if task.retention is None:
                continue
            most = len(self.core.workers)
            if len(task.holders) < min(task.retention.copies or most, most):
                raise SimulationFailed(f"{task.key} has {len(task.holders)} copies of {task.retention.copies or most}")

    def _check_uploads(self) -> None:
        """Check that at rest every worker has the last version of the file that was uploaded."""
        last = self.clients[0].uploaded
        if any(self.faults[kind] for kind in swarm.ENDING_SESSIONS) or self.clients[0].began_anew:
            return  # an upload may have been carried out whose answer nobody got
        for worker in self.core.workers.values():
            there = self.workers[worker.name]
            if there.alive and last is not None and there.installed.get("mod.py") != last:
                raise SimulationFailed(f"{worker.name} has {there.installed}, not the uploaded version {last!r}")

    def _is_scattered(self, node: int) -> bool:
        """Whether the value of a node is not computed, but scattered by its client."""
        return self.scatters and not self.plans[node].inputs and node % 2 == 1

    def _check_published(self) -> None:
        """Check that at rest everything published is there, with the right values."""
        if self.faults["restart"]:
            return
        memo: dict[int, bytes | None] = {}
        for name, nodes in self.published.items():
            dataset = self.core.parts.durable.datasets.get(name)
            if dataset is None:
                raise SimulationFailed(f"{name} was published and is gone")
            for node, task in zip(nodes, dataset.tasks, strict=True):
                if task.error is not None:
                    continue  # its client has checked that
                value = task.value
                if value is None and task.holders:
                    value = self.workers[next(iter(task.holders)).name].store.get(task.value_attempt, (None, 0))[0]
                if value != self._expected(node, memo) and not self._excuses_files():
                    raise SimulationFailed(f"node {node}, published as {name}, has a wrong value or none")

    def _excuses_files(self) -> bool:
        """Whether a fault explains that a file is not where it should be."""
        return bool(self.faults["lose file"] or self.faults["drift"] or self.echoes)

    def _expected(self, node: int, memo: dict[int, bytes | None]) -> bytes | None:
        """Return the right value of a node; None if it or one of its inputs must fail."""
        if node not in memo:
            plan = self.plans[node]
            inputs = [self._expected(source, memo) for source in plan.inputs]
            bad = not self._is_scattered(node) and (plan.raises or plan.poison or None in inputs)
            memo[node] = None if bad else value_of(plan, [value for value in inputs if value is not None])
        return memo[node]

    def _check_results(self) -> None:
        memo: dict[int, bytes | None] = {}
        cancelled = self._tainted()
        for client in self.clients:
            for node, record in client.futures.items():
                expected = self._expected(node, memo)
                if record.state is State.PENDING:
                    raise SimulationFailed(f"node {node} never ended")
                if self._excuses_session(client, record):
                    continue
                if node in cancelled and record.state in (State.CANCELLED, State.ERROR):
                    continue
                if record.state is State.FINISHED:
                    value = self._fetch(client, node)
                    if record.error is not None and self._crashed_too_often(record):
                        continue  # lost, and then the replay was hit by as many faults as a task is allowed
                    if value != expected:
                        raise SimulationFailed(f"node {node} has a wrong value")
                elif expected is not None and not self._crashed_too_often(record):
                    raise SimulationFailed(f"node {node} failed: {record.error}")
        if (not self.faulty or self.restarts_only) and not any(p.flaky or p.poison for p in self.plans):
            again = {node: runs for node, runs in self.executions.items() if runs > 1}
            if again and not self.keyed and len(self.clients) == 1 and not (self.faults["retry"] or self.faults["restart"]):
                raise SimulationFailed(f"run more than once without a fault: {again}")

    def _excuses_session(self, client: SimClient, record: Record) -> bool:
        """Return whether a future is lost with its session, which may happen, or was not accepted, as its client was told."""
        if record.state is State.LOST:
            return client.began_anew and (self.swarm.ends_sessions or self.faults["clear"] > 0)
        return record.error is not None and record.error.kind == "JournalError" and self.faults["failed write"] > 0

    def _crashed_too_often(self, record: Record) -> bool:
        """Return whether random faults explain the error: kills up to the crash_limit, others' memory, a lost worker."""
        kind, kills = record.error.kind if record.error is not None else "", self.faults["kill executor"]
        kills += self.faults["stop executor"] + self.faults["pause worker"]
        if kind == "NoValidWorker" and any(plan.options.beside for plan in self.plans):
            return True  # a task beside the slots is not run again when its worker is lost
        return (kind == "TaskCrashed" and kills + self.faults["kill worker"] >= 3) or (
            kind == "MemoryLimitExceeded" and self.faults["memory"] > 0
        )

    def _tainted(self) -> set[int]:
        """Return the cancelled nodes and all nodes that depend on them."""
        tainted: set[int] = set().union(*(client.cancelled for client in self.clients))
        if self.faults["restart"]:
            tainted.update(plan.node for plan in self.plans)
        for plan in self.plans:
            if tainted.intersection(plan.inputs):
                tainted.add(plan.node)
        return tainted

    def _fetch(self, client: SimClient, node: int) -> bytes | None:
        for _ in range(10):
            if client.futures[node].state is State.ERROR:
                return None
            value = client.fetch(node)
            if value is not None:
                return value
            self._drain("the cluster does not come to rest after a value could not be fetched")
        raise SimulationFailed(f"the value of node {node} could not be fetched")

    def _check_clean(self) -> None:
        if self.core.tasks:
            raise SimulationFailed(f"tasks left: {[task.key for task in self.core.tasks.values()]}")
        for worker in self.workers.values():
            if worker.store and worker.alive:
                raise SimulationFailed(f"files left on {worker.name}: {sorted(worker.store)}")
            if worker.core.jobs or worker.core.transfers:
                raise SimulationFailed(f"jobs left on {worker.name}")
        for client in self.clients:
            if client.data:
                raise SimulationFailed(f"scattered data left that nobody needs: {client.data}")


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
            report.totals.add(seed, world.met.pairs)
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
    print(
        f"{report.schedules} schedules in {seconds:.1f} s, {report.faults.total()} faults {faults}, {len(report.failed)} failed"
    )
    for source, name in report.never_taken():
        print(f"never taken: from {source}, {name}")
    if options.coverage is not None:
        report.totals.write(options.coverage)
        print(f"{len(report.totals.met)} pairs of an event and a state met; see: twistdist.testing.coverage_by_state")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
