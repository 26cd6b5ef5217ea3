"""A whole cluster in one thread under one seed: the three cores on a simulated network, clock and set of processes::

    python -m twistdist.testing.simulate --seeds 10000 --jobs 2
    python -m twistdist.testing.simulate --first-seed 4711 --seeds 1 --trace      # one run again, told step by step

Each seed makes a random task graph, random faults (frames lost, delayed, repeated and reordered, connections cut and resumed or
given up, workers and executors killed, stores kept or wiped) and random behaviour of clients.  After every event the
scheduler's invariants are checked; at the end every future that is still wanted must have the right value or the right
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

from twistdist.core import client as client_core
from twistdist.core import records
from twistdist.core import worker as worker_core
from twistdist.core.client import FunctionRef, Record, State
from twistdist.core.invariants import check_scheduler
from twistdist.core.scheduler import Scheduler
from twistdist.core.session import Gap
from twistdist.wire import framing
from twistdist.wire import messages as m

#: Seconds after which an acknowledgement is sent although nothing else is, as at the real edge.
ACK_S = 0.05

#: Simulated seconds in which faults happen, and events after which a run counts as stuck.
FAULT_S = 4.0
MOST_EVENTS = 60_000


class SimulationFailed(AssertionError):
    """A run broke a promise."""


@attrs.frozen
class Plan:
    """What the task of one node does: derived from its number and the seed alone."""

    node: int
    inputs: tuple[int, ...]
    large: bool
    raises: bool
    flaky: int
    poison: bool
    seconds: float
    options: m.Options


def value_of(plan: Plan, inputs: list[bytes]) -> bytes:
    """What the task computes: a digest of its number and its inputs."""
    return hashlib.blake2b(repr((plan.node, inputs)).encode(), digest_size=8).digest()


class Link:
    """One connection between a dialing party and the scheduler, with latency and faults, in both directions."""

    def __init__(self, world: World, party: Party) -> None:
        self.world, self.party = world, party
        self.open = True
        self.peer: records.Client | records.Worker | None = None
        self._last = [0.0, 0.0]

    def send(self, to_scheduler: bool, frame: m.Frame) -> None:
        """Deliver a frame later, through encoder and decoder, unless a fault hits it."""
        world, side = self.world, int(to_scheduler)
        data = framing.encode_frame(frame)[4:]
        if frame[2] and not frame[0] and world.greeting_fault():
            self.cut()
            return
        at = max(self._last[side], world.now + world.rng.uniform(0.0001, world.latency))
        fault = world.frame_fault() if frame[0] else ""  # a connection that loses a greeting is cut
        if fault == "lose":
            world.after(world.rng.uniform(0.0, 0.3), lambda: self.cut())
            return
        if fault == "reorder":
            at += world.latency * 2
        else:
            self._last[side] = at
        world.at(at, lambda: self._deliver(to_scheduler, data))
        if fault == "repeat":
            world.at(at, lambda: self._deliver(to_scheduler, data))

    def _deliver(self, to_scheduler: bool, data: bytes) -> None:
        if not self.open or not self.party.alive:
            return
        try:
            if to_scheduler:
                self.world.scheduler_receives(self, data)
            else:
                self.party.receives(self, data)
        except Gap:
            self.world.faults["gap"] += 1
            self.cut()

    def cut(self) -> None:
        """The connection breaks; the sides learn it at different times."""
        if not self.open:
            return
        self.open = False
        world = self.world
        world.after(world.rng.uniform(0.0, 0.05), lambda: world.scheduler_lost(self))
        world.after(world.rng.uniform(0.0, 0.05), lambda: self.party.lost(self))


class Party:
    """A dialing process: its core's dialer, its link, and whether it lives."""

    core: client_core.Client | worker_core.Worker

    def __init__(self, world: World) -> None:
        self.world = world
        self.alive = True
        self.link: Link | None = None
        self._ack_due = False

    def dial(self) -> None:
        if not self.alive or self.link is not None:
            return
        self.link = Link(self.world, self)
        greeting = self.core.dialer.greeting() or self.core.hello()
        self.link.send(True, (0, 0, [greeting]))

    def receives(self, link: Link, data: bytes) -> None:
        if link is not self.link:
            return
        dialer = self.core.dialer
        if not dialer.connected:
            for answer in framing.decode_frame(framing.GREETING_FROM_SCHEDULER, data)[2]:
                again = dialer.greeted(answer)
                if again is None:
                    link.send(True, (0, 0, [self.core.hello()]))
                for frame in again or ():
                    link.send(True, frame)
        else:
            frame = framing.decode_frame(self.decoder, data)
            self.messages(dialer.session.accept(frame))
        self.flush()

    decoder: Any

    def messages(self, messages: list[Any]) -> None:
        raise TypeError("clients and workers say what they do with messages")

    def flush(self) -> None:
        dialer = self.core.dialer
        if isinstance(self.core, client_core.Client):
            self.core.close_batch()
        if self.link is not None and dialer.connected:
            for frame in dialer.session.take():
                self.link.send(True, frame)
            if dialer.session.owes_ack and not self._ack_due:
                self._ack_due = True
                self.world.after(ACK_S, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_due = False
        if self.link is not None and self.core.dialer.connected and self.core.dialer.session.owes_ack:
            self.link.send(True, self.core.dialer.session.bare_ack())

    def lost(self, link: Link) -> None:
        if link is not self.link:
            return
        self.link = None
        self.core.dialer.connected = False
        pause = self.world.rng.choice((0.001, 0.05, 0.2, 1.5)) if self.world.faulty else 0.01
        self.world.after(pause, self.dial)


class SimClient(Party):
    """A client that submits a graph, releases and cancels at random, and checks what it gets."""

    decoder = framing.TO_CLIENT

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world)
        self.core: client_core.Client = client_core.Client(1000 + number)
        self.futures: dict[int, Record] = {}
        self.cancelled: set[int] = set()
        self._cid = 0
        self.function = FunctionRef("f", b"f" * 16, b"f")

    def submit(self, node: int, key: str | None) -> None:
        plan = self.world.plans[node]
        if any(one not in self.futures for one in plan.inputs):
            return
        self._cid += 1
        record = self.futures[node] = Record(self._cid)
        inputs = [self.futures[one].cid for one in plan.inputs]
        self.core.submit(record, self.function, str(node).encode(), inputs, key, plan.options)
        self.flush()

    def drop(self, node: int) -> None:
        record = self.futures.pop(node, None)
        if record is not None:
            self.core.release([record.cid])
            self.flush()

    def cancel(self, node: int) -> None:
        if node in self.futures:
            self.cancelled.add(node)
            self.core.cancel([self.futures[node].cid])
            self.flush()

    def messages(self, messages: list[Any]) -> None:
        self.core.receive(messages)

    def fetch(self, node: int) -> bytes | None:
        """The value of a finished future, from a holder's store where it is not inline."""
        record = self.futures[node]
        if record.value is not None:
            return bytes(record.value)
        assert record.place is not None
        for number in record.place.holders:
            worker = self.world.workers.get(self.core.peers[number].name)
            if worker is not None and worker.alive and record.place.attempt in worker.store:
                return worker.store[record.place.attempt][0]
        self.core.unreachable(record)
        self.flush()
        return None


class SimWorker(Party):
    """A worker process with its executors, on a store that may outlive it."""

    decoder = framing.TO_WORKER

    def __init__(self, world: World, name: str, incarnation: int, store: dict[int, tuple[bytes, int]]) -> None:
        super().__init__(world)
        self.name, self.store = name, store
        host = "h1" if world.rng.random() < 0.5 else f"host-{name}"
        identity = m.HelloWorker(incarnation, name, incarnation, 1, world.rng.choice((1, 1, 2)), f"addr-{name}", host,
                                 f"store-{name}", {"GPU": 1_000_000} if name == "w0" else {}, [], [], [])  # fmt: skip
        stored = [m.Stored(task, attempt, len(value), b"d") for attempt, (value, task) in store.items()]
        self.core: worker_core.Worker = worker_core.Worker(identity, stored)
        self.inboxes: dict[int, list[Any]] = {}
        self.running: dict[int, m.Compute | None] = {}
        self.busy: dict[int, bool] = {}
        self.lives: Counter[int] = Counter()
        self._wake: float | None = None
        self.core.start(world.now)
        self.carry_out()

    def messages(self, messages: list[Any]) -> None:
        self.core.receive(self.world.now, messages)
        self.carry_out()

    def event(self, what: Callable[..., None], *args: Any) -> None:
        """One event of the core and all that follows from it."""
        if self.alive:
            what(self.world.now, *args)
            self.carry_out()
            self.flush()

    def carry_out(self) -> None:
        while self.core.effects:
            effects, self.core.effects = self.core.effects, []
            for effect in effects:
                getattr(self, "do_" + type(effect).__name__)(effect)
        wake = self.core.wake
        if wake is not None and wake != self._wake:
            self._wake = wake
            self.world.at(wake, lambda: self._tick(wake))

    def _tick(self, wake: float) -> None:
        if self._wake == wake:
            self._wake = None
        self.event(self.core.tick)

    # effects

    def do_StartExecutor(self, effect: worker_core.StartExecutor) -> None:
        self.world.after(effect.delay + 0.01, lambda: self._started(effect.slot))

    def _started(self, slot: int) -> None:
        self.lives[slot] += 1
        self.inboxes[slot], self.running[slot], self.busy[slot] = [], None, False
        self.event(self.core.executor_started, slot)

    def do_Give(self, effect: worker_core.Give) -> None:
        assert self.core.slots[effect.slot].up
        self.inboxes[effect.slot].append(effect.messages)
        self._run_next(effect.slot)

    def do_TakeBack(self, effect: worker_core.TakeBack) -> None:
        packets, self.inboxes[effect.slot] = self.inboxes.get(effect.slot, []), []
        attempts = [one.attempt for packet in packets for one in packet if isinstance(one, m.Compute)]
        self.core.taken_back(self.world.now, effect.slot, attempts)

    def do_Interrupt(self, effect: worker_core.Interrupt) -> None:
        running = self.running.get(effect.slot)
        if running is not None and effect.attempt in (0, running.attempt):
            self.kill_executor(effect.slot)

    def do_StartFetch(self, effect: worker_core.StartFetch) -> None:
        self.world.after(self.world.rng.uniform(0.001, 0.05), lambda: self._fetch(effect))

    def _fetch(self, effect: worker_core.StartFetch) -> None:
        for peer in effect.holders:
            holder = self.world.workers.get(peer.name)
            works = self.world.rng.random() > 0.2 or not self.world.faulty
            if holder is not None and holder.alive and effect.attempt in holder.store and works:
                self.store[effect.attempt] = holder.store[effect.attempt]
                self.event(self.core.fetched, effect.attempt)
                return
        self.event(self.core.fetch_failed, effect.attempt)

    def do_DeleteFiles(self, effect: worker_core.DeleteFiles) -> None:
        for attempt in effect.attempts:
            self.store.pop(attempt, None)

    def do_LookForFiles(self, effect: worker_core.LookForFiles) -> None:
        absent = [attempt for attempt in effect.attempts if attempt not in self.store]
        self.core.verified(self.world.now, effect.attempts, absent)

    def do_StopWorker(self, effect: worker_core.StopWorker) -> None:
        self.alive = False

    # executors

    def _run_next(self, slot: int) -> None:
        """The executor reads a packet; its tasks run one after the other."""
        if self.busy[slot] or not self.inboxes[slot]:
            return
        self.busy[slot] = True
        packet = [one for one in self.inboxes[slot].pop(0) if isinstance(one, m.Compute)]
        self._run_packet(slot, packet, self.lives[slot])

    def _run_packet(self, slot: int, packet: list[m.Compute], life: int) -> None:
        if not packet:
            self.busy[slot] = False
            self._run_next(slot)
            return
        compute = self.running[slot] = packet[0]
        plan = self.world.plans[int(compute.args)]
        self.world.executions[plan.node] += 1
        duration = plan.seconds * self.world.rng.uniform(0.5, 1.5)
        self.world.after(duration, lambda: self._end_task(slot, packet, plan, life))

    def _end_task(self, slot: int, packet: list[m.Compute], plan: Plan, life: int) -> None:
        if not self.alive or self.lives[slot] != life:
            return
        compute = packet[0]
        if plan.poison:
            self.kill_executor(slot)
            return
        outcome = self._outcome(compute, plan)
        self.running[slot] = None
        self.event(self.core.executor_outcomes, slot, [outcome])
        if self.alive and self.lives[slot] == life:
            self._run_packet(slot, packet[1:], life)

    def _outcome(self, compute: m.Compute, plan: Plan) -> m.Done | m.Failed | m.InputLost:
        inputs, lost = [], []
        for one in compute.inputs or ():
            value = one.value if one.value is not None else self.world.open_path(one.path)
            if value is None:
                lost.append((one.attempt, 0))
            else:
                inputs.append(value)
        if lost:
            self.world.executions[plan.node] -= 1  # the function was not called
            return m.InputLost(compute.task, compute.attempt, lost)
        runs = self.world.executions[plan.node]
        if plan.raises or runs <= plan.flaky:
            return m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", f"node {plan.node}"), 10)
        value = value_of(plan, inputs)
        us = int(plan.seconds * 1e6)
        if not plan.large:
            return m.Done(compute.task, compute.attempt, value, len(value), b"", us)
        self.store[compute.attempt] = (value, compute.task)
        return m.Done(compute.task, compute.attempt, None, len(value), b"d", us)

    def kill_executor(self, slot: int) -> None:
        running = self.running.get(slot)
        if running is not None and self.world.rng.random() < 0.3 and self.world.plans[int(running.args)].large:
            self.store[running.attempt] = (b"made and never told of", running.task)
        self.lives[slot] += 1
        self.inboxes[slot], self.running[slot] = [], None
        attempt = running.attempt if running is not None else 0
        self.world.after(0.001, lambda: self.event(self.core.executor_ended, slot, "SIGKILL", "", attempt))


class World:
    """The simulated cluster of one seed."""

    def __init__(self, seed: int, trace: bool = False) -> None:
        self.rng = random.Random(seed)
        self.trace = trace
        self.now = 0.0
        self.latency = self.rng.choice((0.0005, 0.005, 0.05))
        self.faulty = self.rng.random() < 0.85
        self.frame_faults = self.faulty and self.rng.random() < 0.6
        self.faults: Counter[str] = Counter()
        self.executions: Counter[int] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.core = Scheduler(1)
        self.links: dict[Any, Link] = {}
        self.workers: dict[str, SimWorker] = {}
        self._incarnations = 0
        self._wake: float | None = None
        self.touched = False
        self._ack_due = False
        self.plans = self._make_plans()
        self.keyed = self.rng.random() < 0.4
        self.clients = [SimClient(self, number) for number in range(self.rng.choice((1, 1, 2)))]

    def _make_plans(self) -> list[Plan]:
        rng, plans = self.rng, []
        trouble, picky = rng.random() < 0.3, rng.random() < 0.3
        for node in range(rng.randint(3, 25)):
            inputs = rng.sample(range(node), min(node, rng.choice((0, 0, 1, 1, 2, 3))))
            kind = rng.random() if trouble else 1.0
            flaky = 1 if 0.08 <= kind < 0.15 else 0
            special = rng.random() if picky else 1.0
            options = m.Options(
                retries=flaky,
                crash_limit=3,
                priority=rng.choice((0, 0, 1)),
                workers=("w0",) if special < 0.1 else ("w0", "w1") if special < 0.2 else (),
                allow_other_workers=special < 0.05,
                resources={"GPU": rng.choice((300_000, 1_000_000))} if 0.2 < special < 0.4 else None,
            )
            plans.append(Plan(node, tuple(inputs), large=rng.random() < 0.5, raises=kind < 0.05, poison=0.05 <= kind < 0.08,
                              flaky=flaky, seconds=rng.choice((0.0001, 0.001, 0.02, 0.2)), options=options))  # fmt: skip
        return plans

    # time

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, what))

    def after(self, delay: float, what: Callable[[], None]) -> None:
        self.at(self.now + delay, what)

    # the scheduler's edge

    def scheduler_receives(self, link: Link, data: bytes) -> None:
        if link.peer is None:
            for greeting in framing.decode_frame(framing.GREETING_TO_SCHEDULER, data)[2]:
                self._greet(link, greeting)
        elif self.links.get(link.peer) is link:
            decoder = framing.FROM_CLIENT if isinstance(link.peer, records.Client) else framing.FROM_WORKER
            self.core.receive(self.now, link.peer, link.peer.session.accept(framing.decode_frame(decoder, data)))
        self.flush()

    def _greet(self, link: Link, greeting: Any) -> None:
        if isinstance(greeting, m.Resume):
            peer = self.core.find_session(greeting)
            if peer is None:
                link.send(False, (0, 0, [m.Refused("session", "unknown")]))
                return
            self._bind(link, peer)
            link.send(False, (0, 0, [m.Resumed(peer.session.received)]))
            for frame in peer.session.resume(greeting.received):
                link.send(False, frame)
            self.core.reconnected(self.now, peer)
        else:
            peer = self.core.greet(self.now, greeting)
            self._bind(link, peer)
            link.send(False, (0, 0, [m.Ready(1, "")]))

    def _bind(self, link: Link, peer: Any) -> None:
        old = self.links.pop(peer, None)
        if old is not None:
            old.open = False
            self.core.connection_lost(self.now, peer)
            self.after(0.001, lambda: old.party.lost(old))
        link.peer = peer
        self.links[peer] = link

    def scheduler_lost(self, link: Link) -> None:
        if link.peer is not None and self.links.get(link.peer) is link:
            del self.links[link.peer]
            self.core.connection_lost(self.now, link.peer)
            self.flush()

    def flush(self) -> None:
        self.touched = True
        dirty, self.core.dirty = self.core.dirty, {}
        for peer in dirty:
            link = self.links.get(peer)
            if link is not None and link.open:
                for frame in peer.session.take():
                    link.send(False, frame)
        if not self._ack_due and any(peer.session.owes_ack for peer in self.links):
            self._ack_due = True
            self.after(ACK_S, self._acknowledge)
        wake = self.core.wake
        if wake is not None and wake != self._wake:
            self._wake = wake
            self.at(wake, lambda: self._tick(wake))

    def _acknowledge(self) -> None:
        self._ack_due = False
        for peer, link in self.links.items():
            if link.open and peer.session.owes_ack:
                link.send(False, peer.session.bare_ack())

    def _tick(self, wake: float) -> None:
        if self._wake == wake:
            self._wake = None
        self.core.tick(self.now)
        self.flush()

    # faults

    def frame_fault(self) -> str:
        """What happens to the frame that is sent now."""
        if not self.frame_faults or self.now > FAULT_S or self.rng.random() > 0.03:
            return ""
        fault = self.rng.choice(("lose", "repeat", "reorder"))
        self.faults[fault] += 1
        return fault

    def greeting_fault(self) -> bool:
        """Whether the connection breaks while a greeting is on it."""
        if not self.faulty or self.now > FAULT_S or self.rng.random() > 0.05:
            return False
        self.faults["cut greeting"] += 1
        return True

    def start_worker(self, name: str, store: dict[int, tuple[bytes, int]] | None = None) -> None:
        self._incarnations += 1
        worker = SimWorker(self, name, self._incarnations, {} if store is None else store)
        self.workers[name] = worker
        worker.dial()

    def kill_worker(self, name: str) -> None:
        """SIGKILL: its link breaks; it comes back later on its store, or on an empty one."""
        worker = self.workers[name]
        if not worker.alive:
            return
        worker.alive = False
        link, worker.link = worker.link, None
        if link is not None:
            link.open = False  # the scheduler may see it only after the next incarnation has said Hello
            self.after(self.rng.choice((0.001, 0.01, 0.4, 1.0)), lambda: self.scheduler_lost(link))
        store = worker.store if self.rng.random() < 0.6 else {}
        self.after(self.rng.choice((0.05, 0.3, 0.8, 2.0)), lambda: self.start_worker(name, store))

    def _fault(self) -> None:
        kind = self.rng.choice(("cut", "cut", "kill worker", "kill executor", "lose file", "cut client"))
        self.faults[kind] += 1
        worker = self.workers[self.rng.choice(sorted(self.workers))]
        if kind == "cut" and worker.link is not None:
            worker.link.cut()
        elif kind == "kill worker":
            self.kill_worker(worker.name)
        elif kind == "kill executor" and worker.alive and worker.core.slots[0].up:
            worker.kill_executor(0)
        elif kind == "lose file" and worker.store:
            del worker.store[self.rng.choice(sorted(worker.store))]
        elif kind == "cut client":
            link = self.rng.choice(self.clients).link
            if link is not None:
                link.cut()

    def open_path(self, path: str) -> bytes | None:
        """What an executor finds under a path: any store of a worker on the same host, alive or not."""
        store, _, attempt = path.partition("/")
        worker = self.workers.get(store.removeprefix("store-"))
        found = worker.store.get(int(attempt, 16)) if worker is not None else None
        return found[0] if found is not None else None

    # a run

    def prepare(self) -> None:
        """Everything random that will happen from outside."""
        rng = self.rng
        for number in range(rng.choice((1, 2, 2, 3))):
            self.after(rng.uniform(0, 0.5), lambda name=f"w{number}": self.start_worker(name))  # type: ignore[misc]
        for client in self.clients:
            client.dial()
            at = 0.0
            for plan in self.plans:
                at += rng.choice((0.0, 0.0, 0.0, 0.05))
                key = f"node-{plan.node}" if self.keyed else None
                self.at(at, lambda c=client, n=plan.node, k=key: c.submit(n, k))  # type: ignore[misc]
                if rng.random() < 0.2:
                    self.at(at + rng.uniform(0, 2), lambda c=client, n=plan.node: c.drop(n))  # type: ignore[misc]
                elif rng.random() < 0.05:
                    self.at(at + rng.uniform(0, 1), lambda c=client, n=plan.node: c.cancel(n))  # type: ignore[misc]
        if self.faulty:
            for _ in range(rng.randint(1, 8)):
                self.at(rng.uniform(0.6, FAULT_S), self._fault)

    def run(self) -> None:
        """The whole run; raises :class:`SimulationFailed` or what broke."""
        self.prepare()
        self._drain("the cluster does not come to rest")
        self._check_files()
        self._check_results()
        for client in self.clients:
            for node in list(client.futures):
                client.drop(node)
        self._drain("the cluster does not come to rest after everything was released")
        self._check_clean()

    def _drain(self, what: str) -> None:
        for _ in range(MOST_EVENTS):
            if not self._events:
                return
            self.now, _, event = heapq.heappop(self._events)
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
        """At rest every holder has what it is said to hold (but for what a fault took away)."""
        if self.faults["lose file"]:
            return
        for task in self.core.tasks.values():
            for holder in task.holders or ():
                if task.value_attempt not in self.workers[holder.name].store:
                    raise SimulationFailed(f"{holder.name} does not hold {task.key}, attempt {task.value_attempt}")

    def _expected(self, node: int, memo: dict[int, bytes | None]) -> bytes | None:
        """The right value of a node; None when it or an input of it must fail."""
        if node not in memo:
            plan = self.plans[node]
            inputs = [self._expected(one, memo) for one in plan.inputs]
            bad = plan.raises or plan.poison or None in inputs
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
                    if value != expected:
                        raise SimulationFailed(f"node {node} has a wrong value")
                elif expected is not None and not self._crashed_too_often(record):
                    raise SimulationFailed(f"node {node} failed: {record.error}")
        if not self.faulty and not any(p.flaky or p.poison for p in self.plans):
            again = {node: runs for node, runs in self.executions.items() if runs > 1}
            if again and not self.keyed and len(self.clients) == 1:
                raise SimulationFailed(f"run more than once without a fault: {again}")

    def _crashed_too_often(self, record: Record) -> bool:
        """Random executor kills may hit one task as often as its crash_limit."""
        return record.error is not None and record.error.kind == "TaskCrashed" and self.faults["kill executor"] >= 3

    def _tainted(self) -> set[int]:
        """Nodes that a cancelled one leads to."""
        tainted: set[int] = set().union(*(client.cancelled for client in self.clients))
        for plan in self.plans:
            if tainted.intersection(plan.inputs):
                tainted.add(plan.node)
        return tainted

    def _fetch(self, client: SimClient, node: int) -> bytes | None:
        for _ in range(10):
            value = client.fetch(node)
            if value is not None:
                return value
            self._drain("a value can't be had")
        raise SimulationFailed(f"the value of node {node} can't be fetched")

    def _check_clean(self) -> None:
        if self.core.tasks:
            raise SimulationFailed(f"tasks left: {[task.key for task in self.core.tasks.values()]}")
        for worker in self.workers.values():
            if worker.store and worker.alive:
                raise SimulationFailed(f"files left on {worker.name}: {sorted(worker.store)}")
            if worker.core.jobs or worker.core.transfers:
                raise SimulationFailed(f"jobs left on {worker.name}")


def run_seeds(first: int, count: int, trace: bool = False) -> tuple[int, Counter[str], list[tuple[int, str]]]:
    """(schedules run, faults injected by kind, [(seed, traceback text), …] of those that failed)."""
    faults: Counter[str] = Counter()
    failed = []
    for seed in range(first, first + count):
        world = World(seed, trace)
        try:
            world.run()
        except Exception:
            failed.append((seed, traceback.format_exc()))
        faults += world.faults
    return count, faults, failed


def main(argv: list[str] | None = None) -> int:
    """The command; exit status 1 when a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m twistdist.testing.simulate", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many schedules")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--trace", action="store_true", help="tell every event")
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
    faults: Counter[str] = sum((part[1] for part in parts), Counter())
    failed = [one for part in parts for one in part[2]]
    for seed, text in failed[:5]:
        print(f"seed {seed} failed; again with: python -m twistdist.testing.simulate --first-seed {seed} --seeds 1 --trace")
        print(text)
    total = sum(part[0] for part in parts)
    seconds = time.monotonic() - began
    print(f"{total} schedules in {seconds:.1f} s, {sum(faults.values())} faults {dict(sorted(faults.items()))}, "
          f"{len(failed)} failed")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
