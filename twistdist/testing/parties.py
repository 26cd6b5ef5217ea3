"""The simulated clients, workers and connections of :mod:`.simulate`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from twistdist.core import client as client_core
from twistdist.core import records
from twistdist.core import worker as worker_core
from twistdist.core.client import FunctionRef, Record
from twistdist.core.session import Gap
from twistdist.wire import framing
from twistdist.wire import messages as m

if TYPE_CHECKING:
    from twistdist.testing.simulate import World

#: Seconds after which an acknowledgement is sent although nothing else is, as at the real edge.
ACK_S = 0.05


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
        self.functions: dict[int, set[int]] = {}
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
        self.inboxes[slot], self.running[slot], self.busy[slot], self.functions[slot] = [], None, False, set()
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
        content = self.inboxes[slot].pop(0)
        self.functions[slot].update(one.fn for one in content if isinstance(one, m.WorkerFunction))
        packet = [one for one in content if isinstance(one, m.Compute)]
        if not self.functions[slot].issuperset(one.fn for one in packet):
            raise SimulationFailed(f"an executor of {self.name} was given a task without its function")
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
