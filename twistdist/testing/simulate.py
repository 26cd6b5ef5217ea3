"""A whole cluster in one thread under one seed: the three cores on a simulated network, clock and set of processes::

    python -m twistdist.testing.simulate --seeds 10000 --jobs 2
    python -m twistdist.testing.simulate --first-seed 4711 --seeds 1 --trace      # repeat one run, with every step printed

Each seed determines a random task graph, random faults (frames lost, delayed, repeated and reordered, connections cut and
resumed or given up, workers and executors killed, stores kept or wiped) and random behaviour of clients.  The scheduler's
invariants are checked after every event.  At the end every future that is still needed must have the right value or the right
error, nothing that was released may be left anywhere, and without faults nothing may have run twice.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import heapq
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs

from twistdist.core.client import Record, State
from twistdist.core.exchange import ACK_S
from twistdist.core.scheduler import Scheduler, Settings, records, transitions
from twistdist.core.scheduler.gate import Gate
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import GiveUp, Peer, Probe
from twistdist.errors import ProtocolError
from twistdist.testing.parties import Link, Plan, SimClient, SimulationFailed, SimWorker, value_of
from twistdist.wire import framing
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m

#: Simulated seconds during which faults happen, and the number of events after which a run counts as stuck.
FAULT_S = 4.0
MAX_EVENTS = 60_000

#: Seconds with nothing but heartbeats after which the cluster is at rest; long enough for silence to be noticed and for audits.
REST_S = 5.0

#: Messages that mean something new when they are sent again.
NEVER_TWICE = (m.Renew, m.Install, m.Retry, m.Leaving, m.Bye, m.Intake, m.Parked, m.Stop, m.Query, m.Function)

#: Limits of silence in seconds, ``suspect_after`` and ``dead_after``: shorter than the defaults, so that they are hit often.
SUSPECT_S, DEAD_S = 0.6, 2.4


class World:
    """The simulated cluster of one seed."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.rng = random.Random(seed)
        self.trace = trace
        self.now = 0.0
        self._trace = hashlib.blake2b(digest_size=8)
        self.latency = self.rng.choice((0.0005, 0.005, 0.05))
        self.faulty = self.rng.random() < 0.85
        self.start_faults = self.faulty and self.rng.random() < 0.2
        self.frame_faults = self.faulty and self.rng.random() < 0.6
        self.faults: Counter[str] = Counter()
        self.executions: Counter[int] = Counter()
        self.taken: Counter[tuple[str, str]] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self._events: list[tuple[float, int, Callable[[], None], bool]] = []
        self._count = self._foreground = 0
        self.journaled = self.rng.random() < 0.6
        #: The only fault is that the scheduler is killed: nothing may be executed twice.
        self.restarts_only = self.journaled and self.faulty and self.rng.random() < 0.3
        #: Old messages are sent again, whatever state their subject is in by then.
        self.echoes = self.faulty and not self.restarts_only and self.rng.random() < 0.2
        self._heard: dict[Any, list[Any]] = {}
        self.disk: dict[j.Key, bytes] = {}
        self.lives = 0
        self.up = False
        self.start_scheduler()
        self.every = self.core.settings.look_every
        self.links: dict[Any, Link] = {}
        self.workers: dict[str, SimWorker] = {}
        self._writing: dict[j.Key, bytes | None] | None = None
        self._incarnations = 0
        self._wake: float | None = None
        self.touched = False
        self.plans = self._make_plans()
        self.keyed = self.rng.random() < 0.4
        self.scatters = not self.keyed and self.rng.random() < 0.3
        self.clients = [SimClient(self, number) for number in range(self.rng.choice((1, 1, 2)))]

    def _make_plans(self) -> list[Plan]:
        rng, plans = self.rng, []
        trouble, picky, patient = rng.random() < 0.3, rng.random() < 0.3, rng.random() < 0.3
        for node in range(rng.randint(3, 25)):
            inputs = rng.sample(range(node), min(node, rng.choice((0, 0, 1, 1, 2, 3))))
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

    # the trace

    def record(self, what: str, data: bytes) -> None:
        """Add something that was sent or written now to the trace."""
        self._trace.update(f"{self.now!r} {what} {len(data)} ".encode())
        self._trace.update(data)

    def trace_digest(self) -> str:
        """Return the digest of everything sent and written so far."""
        return self._trace.hexdigest()

    # time

    def at(self, when: float, what: Callable[[], None], background: bool = False) -> None:
        """Schedule an event.  ``background``: it recurs forever and does not mean that the cluster is busy."""
        self._count += 1
        self._foreground += not background
        heapq.heappush(self._events, (max(when, self.now), self._count, what, background))

    def after(self, delay: float, what: Callable[[], None]) -> None:
        self.at(self.now + delay, what)

    # the scheduler and its journal

    def start_scheduler(self) -> None:
        """Start the scheduler, with what was durable at the end of its previous life."""
        self.up = True
        self.lives += 1
        self.core = Scheduler(self.lives, Settings(SUSPECT_S, DEAD_S), Ledger() if self.journaled else None)
        self.core.parts.transitions.taken = self.taken
        self.core.observe(self._count_pair)
        self.gate: Gate | None = None
        if self.journaled:
            self.gate = Gate(self.core.ledger)
            rows = [(key, j.decode(key[0], body)) for key, body in self.disk.items()]
            self.core.restore(self.now, self.lives - 1, rows)
            check_scheduler(self.core)
            for name in self.core.expected:
                self.after(self.rng.uniform(0.001, 0.05), lambda n=name, life=self.lives: self._look_for(n, life))  # type: ignore[misc]
        self._wake = None
        self._ack_due = False
        self.links = {}

    def _count_pair(self, peer: Peer, message: Any) -> None:
        """The scheduler is about to handle a message: in which state is the task that it is about?"""
        number, attempt = getattr(message, "task", None), getattr(message, "attempt", None)
        cids = [message.cid] if hasattr(message, "cid") else getattr(message, "cids", None)
        if number is not None:
            task = self.core.tasks.get(number)
            state = "forgotten" if task is None else task.state.value
            if task is not None and attempt is not None and task.attempt != attempt:
                state += ", another attempt"
            self.pairs[type(message).__name__, state] += 1
        elif cids is not None and isinstance(peer, records.Client):
            for cid in cids:
                future = peer.futures.get(cid)
                state = "no task" if future is None else future.state.value
                self.pairs[type(message).__name__, state] += 1
        else:
            self.pairs[type(message).__name__, "-"] += 1

    def _look_for(self, name: str, life: int) -> None:
        """Tell the scheduler if no process listens where a worker was before the restart."""
        if self.up and life == self.lives and not self.workers[name].alive:
            self.core.not_there(self.now, name)
            self.flush()

    def kill_scheduler(self) -> None:
        """Kill the scheduler: a write in progress is on disk or not, all connections break, and it starts again later."""
        if not self.up:
            return
        self.up = False
        rows = self._writing
        if rows and self.rng.random() < 0.5:
            self._apply(rows)
        self._writing = None
        for party in (*self.workers.values(), *self.clients):
            link = party.link
            if link is not None and link.open:
                link.open = False
                self.after(self.rng.uniform(0.0, 0.05), lambda p=party, one=link: p.lost(one))  # type: ignore[misc]
        self.after(self.rng.choice((0.01, 0.3, 1.0, 3.0)), self.start_scheduler)

    def _apply(self, rows: dict[j.Key, bytes | None]) -> None:
        for key, body in rows.items():
            self.record(f"row {key}", body or b"")
            if body is None:
                del self.disk[key]
            else:
                self.disk[key] = body

    def _write(self) -> None:
        rows = self.gate.begin() if self.gate is not None else None
        if rows is not None:
            self._writing = rows
            self.after(self.rng.choice((0.0005, 0.003, 0.05)), lambda life=self.lives: self._written(rows, life))  # type: ignore[misc]

    def _written(self, rows: dict[j.Key, bytes | None], life: int) -> None:
        if not self.up or life != self.lives or self.gate is None:
            return
        self._apply(rows)
        self._writing = None
        for link, frame in self.gate.written():
            link.send(False, frame)
        self.flush()

    def _say(self, link: Link, frame: m.Frame) -> None:
        if self.gate is None or not self.gate.hold((link, frame)):
            link.send(False, frame)

    def pulse(self) -> None:
        """Send the scheduler's heartbeats periodically."""
        self.at(self.now + self.every, self.pulse, background=True)
        if not self.up:
            return
        self.core.pulse(self.now)
        for peer, link in list(self.links.items()):
            if link.open and link.greeted:
                heard = peer.beat.number if isinstance(peer, records.Worker) and peer.beat is not None else 0
                link.send(False, (*peer.session.bare_ack()[:2], [m.Beat(1, heard, peer.session.sent)]), background=True)
        self.flush()

    def _probe(self, worker: records.Worker) -> None:
        """Tell the scheduler whether a process listens at the worker's address."""
        there = self.workers.get(worker.name)
        refused = there is None or not there.alive
        if not self.up or self.core.workers.get(worker.number) is not worker:
            return
        if not refused or self.rng.random() < 0.9:
            self.core.probed(self.now, worker, refused)
            self.flush()

    # the scheduler's edge

    def scheduler_receives(self, link: Link, data: bytes) -> None:
        if not self.up:
            return
        if link.peer is None:
            for greeting in framing.decode_frame(framing.GREETING_TO_SCHEDULER, data)[2]:
                self._greet(link, greeting)
        elif self.links.get(link.peer) is link:
            decoder = framing.FROM_CLIENT if isinstance(link.peer, records.Client) else framing.FROM_WORKER
            frame = framing.decode_frame(decoder, data)
            if not frame[0] and isinstance(link.peer, records.Worker):
                for beat in frame[2]:
                    self.core.beat(self.now, link.peer, beat, frame[1])
            messages = link.peer.session.accept(frame)
            self.core.receive(self.now, link.peer, messages)
            if self.echoes:
                self._echo(link, messages)
            if self.gate is not None:
                self.gate.touch(link.peer.session)
        self.flush()

    def echo_of(self, party: Any, messages: list[Any]) -> list[Any]:
        """Return, sometimes, one of the messages that ``party`` has received before, to be received again."""
        old = self._heard.setdefault(party, [])
        old.extend(message for message in messages if not isinstance(message, NEVER_TWICE))
        if not old or self.now > FAULT_S or self.rng.random() > 0.1:
            return []
        self.faults["echo"] += 1
        return [self.rng.choice(old[-50:])]

    def _echo(self, link: Link, messages: list[Any]) -> None:
        """Let the scheduler receive an old message again, as a bug of the other side might cause."""
        peer = link.peer
        assert peer is not None
        for message in self.echo_of(peer, messages):
            first = getattr(message, "first", getattr(message, "cid", None))
            if isinstance(message, m.Submit | m.Scatter) and isinstance(peer, records.Client) and first not in peer.futures:
                continue  # it was released: sent again it would be a new one that nobody would release
            try:
                self.core.receive(self.now, peer, [message])
            except ProtocolError:
                link.cut()

    def _greet(self, link: Link, greeting: Any) -> None:
        if isinstance(greeting, m.Resume):
            peer = self.core.find_session(greeting)
            if peer is None:
                link.send(False, (0, 0, [m.Refused("session", "unknown")]))
                return
            self._bind(link, peer)
            same = greeting.epoch == self.core.epoch
            link.send(False, (0, 0, [m.Resumed(peer.session.sure, self.core.epoch)]))
            for frame in peer.session.resume(greeting.received if same else 0):
                self._say(link, frame)
            self.core.reconnected(self.now, peer)
        else:
            peer = self.core.greet(self.now, greeting)
            self._bind(link, peer)
            ready = (0, 0, [m.Ready(self.core.epoch, "", SUSPECT_S, DEAD_S)])
            if isinstance(peer, records.Worker):
                self._say(link, ready)
            else:
                link.send(False, ready)

    def _bind(self, link: Link, peer: Any) -> None:
        old = self.links.pop(peer, None)
        if old is not None:
            old.open = False
            self.core.connection_lost(self.now, peer)
            self.after(0.001, lambda: old.party.lost(old))
        link.peer = peer
        self.links[peer] = link

    def scheduler_lost(self, link: Link) -> None:
        if self.up and link.peer is not None and self.links.get(link.peer) is link:
            del self.links[link.peer]
            self.core.connection_lost(self.now, link.peer)
            self.flush()

    def flush(self) -> None:
        self.touched = True
        bundle = self.core.take(self._reads)
        for effect in bundle.effects:
            if isinstance(effect, Probe):
                self.after(self.rng.uniform(0.001, 0.05), lambda one=effect.worker: self._probe(one))  # type: ignore[misc]
            elif isinstance(effect, GiveUp):
                self._give_up(effect.worker)
        for peer, frames in bundle.frames:
            for frame in frames:
                self._say(self.links[peer], frame)
        if not self._ack_due and any(peer.session.owes_ack for peer in self.links):
            self._ack_due = True
            self.after(ACK_S, self._acknowledge)
        self._write()
        wake = self.core.wake
        if wake is not None and wake != self._wake:
            self._wake = wake
            self.at(wake, lambda: self._tick(wake, self.core), background=wake - self.now > REST_S)

    def _reads(self, peer: Peer) -> bool:
        link = self.links.get(peer)
        return link is not None and link.open

    def _give_up(self, worker: records.Worker) -> None:
        self.faults["given up"] += 1
        there = self.workers[worker.name]
        if there.alive and there.core.identity.incarnation == worker.hello.incarnation and there.core.dialer.epoch:
            raise SimulationFailed(f"{worker.name} was given up while it held its lease")
        link = self.links.pop(worker, None)
        if link is not None:
            link.open = False
            self.after(0.001, lambda: link.party.lost(link))

    def _acknowledge(self) -> None:
        self._ack_due = False
        for peer, link in self.links.items():
            if link.open and link.greeted and peer.session.owes_ack:
                link.send(False, peer.session.bare_ack())

    def _tick(self, wake: float, core: Scheduler) -> None:
        if core is not self.core or not self.up:
            return
        if self._wake == wake:
            self._wake = None
        self.core.tick(self.now)
        self.flush()

    # faults

    def frame_fault(self) -> str:
        """Return the fault that hits the frame being sent now, or ""."""
        if not self.frame_faults or self.restarts_only or self.now > FAULT_S or self.rng.random() > 0.03:
            return ""
        fault = self.rng.choice(("lose", "repeat", "reorder"))
        self.faults[fault] += 1
        return fault

    def start_fails(self) -> bool:
        """Return whether an executor that is started now dies before it is ready."""
        if not self.start_faults or self.restarts_only or self.now > FAULT_S or self.rng.random() > 0.4:
            return False
        self.faults["executor does not start"] += 1
        return True

    def greeting_fault(self) -> bool:
        """Return whether the connection breaks during a greeting."""
        if not self.faulty or self.restarts_only or self.now > FAULT_S or self.rng.random() > 0.05:
            return False
        self.faults["cut greeting"] += 1
        return True

    def start_worker(self, name: str, store: dict[int, tuple[bytes, int]] | None = None) -> None:
        self._incarnations += 1
        worker = SimWorker(self, name, self._incarnations, {} if store is None else store)
        self.workers[name] = worker
        worker.dial()

    def kill_worker(self, name: str) -> None:
        """Kill a worker: its link breaks, and it starts again later with its store or an empty one."""
        worker = self.workers[name]
        if not worker.alive:
            return
        worker.alive = False
        wiped = self.rng.random() < 0.4
        if wiped:
            worker.store = {}
        link, worker.link = worker.link, None
        if link is not None:
            link.open = False  # the scheduler may notice only after the next incarnation has sent Hello
            self.after(self.rng.choice((0.001, 0.01, 0.4, 1.0)), lambda: self.scheduler_lost(link))
        self.after(self.rng.choice((0.05, 0.3, 0.8, 2.0)), lambda: self.start_worker(name, worker.store))

    def _fault(self) -> None:
        if self.journaled and (self.restarts_only or self.rng.random() < 0.25):
            self.faults["kill scheduler"] += 1
            self.kill_scheduler()
            return
        kind = self.rng.choice(
            (
                "cut",
                "cut",
                "kill worker",
                "kill executor",
                "lose file",
                "cut client",
                "memory",
                "silence",
                "silence",
                "drift",
                "park",
            )
        )
        self.faults[kind] += 1
        worker = self.workers[self.rng.choice(sorted(self.workers))]
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
        elif kind == "lose file" and worker.store:
            del worker.store[self.rng.choice(sorted(worker.store))]
        elif kind == "cut client":
            link = self.rng.choice(self.clients).link
            if link is not None:
                link.cut()

    def _park_one(self, name: str) -> None:
        """Have a task of a worker parked as if it were waiting, whether it is or not."""
        peer = next((worker for worker in self.core.workers.values() if worker.name == name), None)
        if peer is not None and peer.assigned:
            self.core.parts.outputs.post(peer, m.Park(self.rng.choice(list(peer.assigned)).attempt))
            self.flush()

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
            self.after(rng.uniform(0, 0.5), lambda name=f"w{number}": self.start_worker(name))  # type: ignore[misc]
        for client in self.clients:
            client.dial()
            at = 0.0
            for plan in self.plans:
                at += rng.choice((0.0, 0.0, 0.0, 0.05))
                key = f"node-{plan.node}" if self.keyed else None
                if self.scatters and not plan.inputs and plan.node % 2:
                    copies = rng.choice((0, 1, 2, 2))
                    self.at(at, lambda c=client, n=plan.node, r=copies: c.scatter(n, r))  # type: ignore[misc]
                else:
                    self.at(at, lambda c=client, n=plan.node, k=key: c.submit(n, k))  # type: ignore[misc]
                if rng.random() < 0.2:
                    self.at(at + rng.uniform(0, 2), lambda c=client, n=plan.node: c.drop(n))  # type: ignore[misc]
                elif rng.random() < 0.05:
                    self.at(at + rng.uniform(0, 1), lambda c=client, n=plan.node: c.cancel(n))  # type: ignore[misc]
                elif rng.random() < 0.3:
                    self.at(at + rng.uniform(0, 4), lambda c=client, n=plan.node: c.retry(n))  # type: ignore[misc]
        if rng.random() < 0.15:
            for version in range(rng.randint(1, 3)):
                self.at(rng.uniform(0.1, 3), lambda v=version: self.clients[0].upload(v))  # type: ignore[misc]
        if rng.random() < 0.08:
            self.at(rng.uniform(0.2, 3), self._restart_cluster)
        if self.faulty:
            for _ in range(rng.randint(1, 8)):
                self.at(rng.uniform(0.6, FAULT_S), self._fault)

    def _restart_cluster(self) -> None:
        """A client has all tasks and data dropped."""
        self.faults["restart"] += 1
        self.clients[-1].core.query("restart")
        self.clients[-1].flush()

    def run(self) -> None:
        """Do the whole run.  Raises :class:`SimulationFailed`, or whatever error occurred."""
        self.prepare()
        self._drain("the cluster does not come to rest")
        self._check_files()
        self._check_replicas()
        self._check_uploads()
        self._check_results()
        self._check_books()
        for client in self.clients:
            for node in list(client.futures):
                client.drop(node)
        self._drain("the cluster does not come to rest after everything was released")
        self._check_clean()

    def _drain(self, what: str) -> None:
        busy_at = self.now
        for _ in range(MAX_EVENTS):
            if self._foreground:
                busy_at = self.now
            elif self.now - busy_at > REST_S:
                return
            self.now, _, event, background = heapq.heappop(self._events)
            self._foreground -= not background
            event()
            if self.touched:
                self.touched = False
                check_scheduler(self.core)
                if self.trace:
                    self._tell()
        raise SimulationFailed(what)

    def _tell(self) -> None:
        states = " ".join(f"{t.args.decode()}:{t.state.value}{t.attempt & 0xFFF or ''}" for t in self.core.tasks.values())
        print(f"{self.now:9.4f} workers {[w.name for w in self.core.workers.values()]} {states}")

    def _check_files(self) -> None:
        """Check that at rest every holder has what it should hold, except for what a fault took away."""
        if self.faults["lose file"] or self.faults["drift"] or self.echoes:
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
            if len(values) > 1 and not (self.faults["lose file"] or self.faults["drift"] or self.echoes):
                raise SimulationFailed(f"the copies of {task.key} differ")
            if task.retention is None:
                continue
            most = len(self.core.workers)
            if len(task.holders) < min(task.retention.copies or most, most):
                raise SimulationFailed(f"{task.key} has {len(task.holders)} copies of {task.retention.copies or most}")

    def _check_uploads(self) -> None:
        """Check that at rest every worker has the last version of the file that was uploaded."""
        last = self.clients[0].uploaded
        for worker in self.core.workers.values():
            there = self.workers[worker.name]
            if there.alive and last is not None and there.installed.get("mod.py") != last:
                raise SimulationFailed(f"{worker.name} has {there.installed}, not the uploaded version {last!r}")

    def _expected(self, node: int, memo: dict[int, bytes | None]) -> bytes | None:
        """Return the right value of a node; None if it or one of its inputs must fail."""
        if node not in memo:
            plan = self.plans[node]
            inputs = [self._expected(source, memo) for source in plan.inputs]
            scattered = self.scatters and not plan.inputs and plan.node % 2
            bad = not scattered and (plan.raises or plan.poison or None in inputs)
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

    def _crashed_too_often(self, record: Record) -> bool:
        """Return whether random faults explain the error: kills up to the crash_limit, others' memory, a lost worker."""
        kind, kills = record.error.kind if record.error is not None else "", self.faults["kill executor"]
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
    of each run that failed.
    """

    schedules: int = 0
    faults: Counter[str] = attrs.field(factory=Counter)
    taken: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    pairs: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    failed: list[tuple[int, str]] = attrs.field(factory=list)

    def add(self, other: Report) -> None:
        self.schedules += other.schedules
        self.faults += other.faults
        self.taken += other.taken
        self.pairs += other.pairs
        self.failed += other.failed

    def never_taken(self) -> list[tuple[str, str]]:
        """Return the transitions of the table that no run took."""
        return [(source, name) for source, _, name, _ in transitions.rows() if (source, name) not in self.taken]


def run_seeds(first: int, count: int, trace: bool = False) -> Report:
    """Run ``count`` schedules, with seeds from ``first`` on."""
    report = Report(count)
    for seed in range(first, first + count):
        world = World(seed, trace)
        try:
            world.run()
        except Exception:
            report.failed.append((seed, traceback.format_exc()))
        report.faults += world.faults
        report.taken += world.taken
        report.pairs += world.pairs
    return report


def main(argv: list[str] | None = None) -> int:
    """Run the command.  The exit status is 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m twistdist.testing.simulate", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="number of schedules")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--pairs", action="store_true", help="count which message came in which state of its task")
    parser.add_argument("--trace", action="store_true", help="print every event")
    options = parser.parse_args(argv)
    began = time.monotonic()
    share = -(-options.seeds // (options.jobs * 8)) if options.jobs > 1 else options.seeds
    starts = range(options.first_seed, options.first_seed + options.seeds, max(1, share))
    counts = [min(share, options.first_seed + options.seeds - start) for start in starts]
    if options.jobs > 1:
        with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
            parts = list(pool.map(run_seeds, starts, counts))
    else:
        parts = [run_seeds(start, count, options.trace) for start, count in zip(starts, counts, strict=True)]
    report = Report()
    for part in parts:
        report.add(part)
    for seed, text in report.failed[:5]:
        print(f"seed {seed} failed; repeat it with: python -m twistdist.testing.simulate --first-seed {seed} --seeds 1 --trace")
        print(text)
    seconds = time.monotonic() - began
    faults = dict(sorted(report.faults.items()))
    print(
        f"{report.schedules} schedules in {seconds:.1f} s, {report.faults.total()} faults {faults}, {len(report.failed)} failed"
    )
    if options.pairs:
        for (message, state), times in sorted(report.pairs.items()):
            print(f"{message:12} {state:28} {times}")
    for source, name in report.never_taken():
        print(f"never taken: from {source}, {name}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
