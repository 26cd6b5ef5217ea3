"""The small systems of which :mod:`.exhaustive` tries every interleaving, made of the real classes."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

import attrs

from twistdist.core.client import Client, FunctionRef, Record, State
from twistdist.core.exchange import Exchange
from twistdist.core.scheduler import Scheduler, records
from twistdist.core.scheduler.gate import Gate
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import GiveUp, Peer, Probe
from twistdist.core.session import Dialer, Gap, Session
from twistdist.core.worker import Death, Worker, effects
from twistdist.wire import framing
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m

Action = tuple[Any, ...]


class Wrong(AssertionError):
    """A promise is broken."""


@attrs.define(eq=False)
class Wire:
    """One connection: what is in transit in each direction, and the scheduler's end of the session, once it was greeted."""

    up: deque[Any] = attrs.field(factory=deque)
    down: deque[Any] = attrs.field(factory=deque)
    peer: Any = None


# ---- the session layer and output commit --------------------------------------------------------------


class Notes:
    """Stands for the ledger: a row for each message that the scheduler of :class:`Commit` was told, and one for the session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.new: list[int] = []
        self.dirty = False

    def take(self) -> dict[Any, Any]:
        rows, self.new, self.dirty = dict.fromkeys(self.new, True), [], False
        return {"received": self.session.received, **rows}


class Commit:
    """A client sends ``messages`` numbers, the scheduler writes down each one and answers it; ``faults`` happen at any moment.

    Faults: the connection is cut (what is in transit is lost, and the client dials again at any later time), a write fails,
    the scheduler is killed before or after the write in progress is on disk.  Promises: each message takes effect once and in
    order; what was acknowledged or answered is on disk; in the end everything is answered.
    """

    def __init__(self, messages: int, faults: int) -> None:
        self.left, self.faults = messages, faults
        self.messages = messages
        # the client
        self.dialer = Dialer(1, epoch=1)
        self.exchange = Exchange(self)
        self.answered: set[int] = set()
        self.wire: Wire | None = None
        # the scheduler
        self.disk: dict[Any, Any] = {"received": 0}
        self.writing: dict[Any, Any] | None = None
        self.epoch = 0
        self._start()
        self.dial()
        self.do(("up",))
        self.do(("down",))

    # what Exchange asks of a core

    def hello(self, now: float) -> Any:
        raise Wrong("the scheduler no longer knows a session whose messages it has acknowledged")

    def resumed(self) -> None:
        """The session continues."""

    # the scheduler

    def _noted(self) -> list[int]:
        """The messages that are on disk."""
        return sorted(key for key in self.disk if key != "received")

    def _start(self) -> None:
        self.epoch += 1
        self.log, received = self._noted(), self.disk["received"]
        self.restored = True
        self.session = Session(received=received, safe=received)
        self.notes = Notes(self.session)
        self.gate = Gate(self.notes)  # type: ignore[arg-type]
        self.writing = None

    def _flush(self) -> None:
        wire = self.wire
        if wire is not None and wire.peer is self.session:
            for frame in self.session.take():
                self._say(frame)
        if self.writing is None:
            self.writing = self.gate.begin()

    def _say(self, frame: Any) -> None:
        if not self.gate.hold((self.wire, frame)) and self.wire is not None:
            self.wire.down.append(frame)

    # what happens

    def actions(self) -> list[Action]:
        found: list[Action] = []
        wire = self.wire
        if self.left:
            found.append(("post",))
        if wire is None:
            found.append(("dial",))
        else:
            if wire.up:
                found.append(("up",))
            if wire.down:
                found.append(("down",))
            if wire.peer is self.session and self.session.owes_ack:
                found.append(("acknowledge",))
            if self.exchange.owes_ack:
                found.append(("client acknowledges",))
        if self.writing is not None:
            found.append(("written",))
        if self.faults:
            if wire is not None:
                found.append(("cut",))
            if self.writing is not None:
                found += [("write fails",), ("crash", True)]
            found.append(("crash", False))
        return found

    def do(self, action: Action) -> None:
        kind = action[0]
        if kind in ("cut", "crash", "write fails"):
            self.faults -= 1
        getattr(self, kind.replace(" ", "_"))(*action[1:])

    def post(self) -> None:
        """The client's user asks for something."""
        self.dialer.session.post(self.messages - self.left + 1)
        self.left -= 1
        self._client_sends()

    def _client_sends(self) -> None:
        if self.wire is not None:
            self.wire.up.extend(self.exchange.take())

    def dial(self) -> None:
        self.wire = Wire()
        self.wire.up.append(self.exchange.opened(0.0))

    def up(self) -> None:
        assert self.wire is not None
        frame = self.wire.up.popleft()
        if self.wire.peer is None:
            self._greeted(frame[2][0])
            return
        try:
            for message in self.session.accept(frame):
                self.log.append(message)
                self.notes.new.append(message)
                self.session.post(message)
        except Gap:
            self.cut()
            return
        self.notes.dirty = True  # which frames were received
        self._flush()
        self.gate.touch(self.session)

    def _greeted(self, resume: m.Resume) -> None:
        assert self.wire is not None
        self.wire.peer = self.session
        same = resume.epoch == self.epoch
        self.wire.down.append((0, 0, [m.Resumed(self.session.sure, self.epoch)]))
        for frame in self.session.resume(resume.received if same else 0):
            self._say(frame)
        if self.restored:  # as ClientSessions.returned
            self.restored = False
            for message in self.log:
                self.session.post(message)
        self._flush()

    def down(self) -> None:
        assert self.wire is not None
        frame = self.wire.down.popleft()
        if not self.dialer.connected:
            found = self.exchange.answered(0.0, frame[2][0])
            self.wire.up.extend(found.frames)
        else:
            try:
                self.answered.update(self.exchange.accept(frame)[1])
            except Gap:
                self.cut()
                return
        self._client_sends()

    def acknowledge(self) -> None:
        assert self.wire is not None
        self.wire.down.append(self.session.bare_ack())

    def client_acknowledges(self) -> None:
        assert self.wire is not None
        self.wire.up.append(self.exchange.ack())

    def written(self) -> None:
        assert self.writing is not None
        self.disk |= self.writing
        self.writing = None
        for wire, frame in self.gate.written():
            if self.wire is not None and wire is self.wire:
                self.wire.down.append(frame)
        self._flush()

    def write_fails(self) -> None:
        self.writing = self.gate.again()

    def cut(self) -> None:
        self.wire = None
        self.exchange.lost()

    def crash(self, written: bool) -> None:
        if written and self.writing is not None:
            self.disk |= self.writing
        if self.wire is not None:
            self.wire = None
            self.exchange.lost()
        self._start()

    # promises

    def check(self) -> None:
        received, noted = self.disk["received"], set(self._noted())
        if self.log != sorted(set(self.log)) or self.log != list(range(1, len(self.log) + 1)):
            raise Wrong(f"messages took effect as {self.log}: not each once and in order")
        if self.dialer.session.delivered > received:
            raise Wrong(f"frame {self.dialer.session.delivered} was acknowledged, but on disk are {received}")
        if not self.answered <= noted:
            raise Wrong(f"{self.answered - noted} were answered before they were on disk")

    def check_end(self) -> None:
        if len(self.answered) != self.messages:
            raise Wrong(f"nothing more happens, but only {self.answered} were answered")

    def state(self) -> Any:
        return (
            self.left,
            self.faults,
            self.dialer,
            self.answered,
            self.wire,
            self.disk,
            self.writing,
            self.epoch,
            self.log,
            self.restored,
            self.session,
            self.notes.dirty,
            self.notes.new,
            self.gate._number - (self.gate._held[0][0] if self.gate._held else 0),
            [(ticket - self.gate._number, item) for ticket, item in self.gate._held],
            self.gate._touched,
            self.gate._snapshot,
        )

    def wiring(self) -> frozenset[type]:
        return frozenset()


# ---- the cluster ----------------------------------------------------------------------------------------


def value_of(node: int, inputs: list[bytes]) -> bytes:
    """What the task of a node computes."""
    return hashlib.blake2b(repr((node, inputs)).encode(), digest_size=4).digest()


#: The inputs of each task, and whether its value is stored at the worker (else it is small and travels inline).
GRAPH: tuple[tuple[tuple[int, ...], bool], ...] = (((), True), ((0,), False), ((), False))

#: Times that the clock may advance in one run: more means that it does not end.
MOST_TICKS = 60


class SmallParty:
    """A client or a worker process with its connection."""

    def __init__(self, name: str, core: Any, greeting: Any, decoder: Any) -> None:
        self.name, self.core = name, core
        self.exchange = Exchange(core)
        self.from_scheduler, self.to_scheduler = greeting, decoder
        self.wire: Wire | None = None
        self.alive = True

    def state(self) -> list[Any]:
        return [self.wire, self.alive, self.exchange, *[part for name, part in vars(self.core).items() if name != "_handlers"]]


class SmallWorker(SmallParty):
    """One executor, which is ready at once, runs what it is given in order, and ends a task when the search says so."""

    def __init__(self, name: str, incarnation: int) -> None:
        identity = m.HelloWorker(
            incarnation, name, incarnation, 1, 1, f"addr-{name}", f"host-{name}", f"store-{name}", {}, [], [], []
        )
        core = Worker(identity, [])
        super().__init__(name, core, framing.TO_WORKER, framing.FROM_WORKER)
        self.given: dict[int, list[m.Compute]] = {}
        self.fetching: list[effects.StartFetch] = []
        self.store: dict[int, tuple[bytes, int]] = {}
        self.made: dict[int, bytes] = {}

    def state(self) -> list[Any]:
        return [*super().state(), self.given, self.fetching, self.store, self.made]


class Cluster:
    """The real cores: a scheduler with a journal, workers w0 and w1 with a slot each, a client that has submitted the first
    ``tasks`` of ``GRAPH`` in one frame.  The second needs the value of the first, which is stored at a worker.

    ``faults`` of these ``kinds`` happen at any moment:

    * cut: a connection breaks.  What is in transit is lost; the party dials at once, the scheduler notices at any later time.
    * kill: a worker's process and its store are gone.  The scheduler notices at any later time; another process of that name
      starts at any later time.
    * crash: the scheduler is killed, before or after the write in progress is on disk, and starts again; all dial at once.

    Time: alarms go off only when nothing else can happen, in their order.  There are no heartbeats, and acknowledgements
    travel only with other messages.
    """

    KINDS = ("cut", "kill", "crash")

    def __init__(self, faults: int, kinds: tuple[str, ...] = KINDS, tasks: int = len(GRAPH)) -> None:
        self.faults, self.kinds = faults, kinds
        self.now, self.ticks, self.lives, self.incarnations = 0.0, 0, 0, 10
        self.disk: dict[j.Key, bytes] = {}
        self.writing: dict[j.Key, bytes | None] | None = None
        self.parties: dict[str, SmallParty] = {}
        self.unnoticed: list[tuple[str, Wire]] = []
        self.probes: list[records.Worker] = []
        self.accepted: set[int] = set()
        self.records: list[Record] = []
        self._start()
        self.client = SmallParty("client", Client(1000), framing.TO_CLIENT, framing.FROM_CLIENT)
        self.parties["client"] = self.client
        for name in ("w0", "w1"):
            self.start(name)
        self._settle("client")
        function = FunctionRef("f", b"f" * 16, b"f")
        self.records = [Record(node + 1) for node in range(tasks)]
        for node, (inputs, _) in enumerate(GRAPH[:tasks]):
            cids = [self.records[source].cid for source in inputs]
            self.client.core.submit(self.records[node], function, str(node).encode(), cids)
        self._send(self.client)

    def _settle(self, name: str) -> None:
        """At the beginning: connect, and let the scheduler write."""
        if self.parties[name].wire is None:
            self.dial(name)
        busy = True
        while busy:
            busy = False
            for action in self.actions():
                if action[0] in ("up", "down", "written"):
                    self.do(action)
                    busy = True
                    break

    # ---- the scheduler ------------------------------------------------------------------------------

    def _start(self) -> None:
        self.lives += 1
        self.core = Scheduler(self.lives, None, Ledger())
        self.gate = Gate(self.core.ledger)
        self.wires: dict[Peer, Wire] = {}
        self.writing = None
        self.probes.clear()
        self.unnoticed.clear()
        self.core.restore(self.now, self.lives - 1, [(key, j.decode(key[0], body)) for key, body in self.disk.items()])

    def _flush(self) -> None:
        bundle = self.core.take(lambda peer: peer in self.wires)
        for effect in bundle.effects:
            if isinstance(effect, Probe):
                self.probes.append(effect.worker)
            elif isinstance(effect, GiveUp):
                wire = self.wires.pop(effect.worker, None)
                if wire is not None:
                    self._broken(wire)
        for peer, frames in bundle.frames:
            for frame in frames:
                self._say(self.wires[peer], frame)
        if self.writing is None:
            self.writing = self.gate.begin()

    def _say(self, wire: Wire, frame: m.Frame) -> None:
        if not self.gate.hold((wire, frame)):
            self._put(wire, frame)

    @staticmethod
    def _put(wire: Wire, frame: m.Frame) -> None:
        wire.down.append(framing.encode_frame(frame)[4:])

    def _greet(self, wire: Wire, greeting: Any) -> None:
        peer: Any
        if isinstance(greeting, m.Resume):
            peer = self.core.find_session(greeting)
            if peer is None:
                self._put(wire, (0, 0, [m.Refused("session", "unknown")]))
                return
            self._bind(wire, peer)
            same = greeting.epoch == self.core.epoch
            self._put(wire, (0, 0, [m.Resumed(peer.session.sure, self.core.epoch)]))
            for frame in peer.session.resume(greeting.received if same else 0):
                self._say(wire, frame)
            self.core.reconnected(self.now, peer)
            return
        peer = self.core.greet(self.now, greeting)
        if isinstance(greeting, m.HelloWorker):
            self._count(greeting.finished)
        self._bind(wire, peer)
        ready = (0, 0, [m.Ready(self.core.epoch)])
        if isinstance(peer, records.Worker):
            self._say(wire, ready)
        else:
            self._put(wire, ready)

    def _bind(self, wire: Wire, peer: Any) -> None:
        if self.wires.pop(peer, None) is not None:
            self.core.connection_lost(self.now, peer)
        wire.peer = peer
        self.wires[peer] = wire

    def _broken(self, wire: Wire) -> None:
        """The scheduler has closed a connection; its other end notices at once."""
        for party in self.parties.values():
            if party.wire is wire:
                party.wire = None
                party.exchange.lost()

    def _count(self, messages: list[Any]) -> None:
        """No outcome of an attempt is accepted twice."""
        outcomes = [message for message in messages if isinstance(message, m.Done)]
        for outcome in outcomes:
            task = self.core.tasks.get(outcome.task)
            if task is not None and task.value_attempt == outcome.attempt:
                self.accepted.add(outcome.attempt)

    # ---- what happens -------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        found: list[Action] = []
        for name, party in self.parties.items():
            wire = party.wire
            if not party.alive:
                found.append(("start", name))
            elif wire is None:
                found.append(("dial", name))
            else:
                if wire.up:
                    found.append(("up", name))
                if wire.down:
                    found.append(("down", name))
            if isinstance(party, SmallWorker) and party.alive:
                found += [("run", name, number) for number, given in party.given.items() if given]
                found += [("fetch", name)] * bool(party.fetching)
        found += [("notice", number) for number in range(len(self.unnoticed))]
        found += [("probe",)] * bool(self.probes)
        if self.writing is not None:
            found.append(("written",))
        if not found and self.records and not self.ended:
            found += [("tick",)] * (self._next_wake() is not None)
        if self.faults and not self.ended:
            found += self._faults()
        return found

    def _faults(self) -> list[Action]:
        found: list[Action] = []
        if "cut" in self.kinds:
            found += [("cut", name) for name, party in self.parties.items() if party.wire is not None]
        if "kill" in self.kinds:
            found += [("kill", name) for name, party in self.parties.items() if isinstance(party, SmallWorker) and party.alive]
        if "crash" in self.kinds:
            found += [("crash", False)] + [("crash", True)] * (self.writing is not None)
        return found

    @property
    def ended(self) -> bool:
        """Whether every future has ended."""
        return bool(self.records) and all(record.state is not State.PENDING for record in self.records)

    def do(self, action: Action) -> None:
        if action[0] in self.KINDS:
            self.faults -= 1
        getattr(self, action[0])(*action[1:])

    def dial(self, name: str) -> None:
        party = self.parties[name]
        party.wire = Wire()
        party.wire.up.append(framing.encode_frame(party.exchange.opened(self.now))[4:])

    def up(self, name: str) -> None:
        wire = self.parties[name].wire
        assert wire is not None
        data, decoder = wire.up.popleft(), self.parties[name].to_scheduler
        if wire.peer is None:
            self._greet(wire, framing.decode_frame(framing.GREETING_TO_SCHEDULER, data)[2][0])
        elif self.wires.get(wire.peer) is wire:
            peer, done = wire.peer, self.core.statistics.done
            messages = peer.session.accept(framing.decode_frame(decoder, data))
            fresh = {message.attempt for message in messages if isinstance(message, m.Done)} - self.accepted
            self.core.receive(self.now, peer, messages)
            if self.core.statistics.done - done > len(fresh):
                raise Wrong("an outcome was accepted twice")
            self._count(messages)
            self.gate.touch(peer.session)
        self._flush()

    def down(self, name: str) -> None:
        party = self.parties[name]
        assert party.wire is not None
        data = party.wire.down.popleft()
        if not party.core.dialer.connected:
            answer = framing.decode_frame(framing.GREETING_FROM_SCHEDULER, data)[2][0]
            answered = party.exchange.answered(self.now, answer)
            party.wire.up.extend(framing.encode_frame(frame)[4:] for frame in answered.frames)
            if answered.fresh and isinstance(party, SmallWorker):
                party.core.welcomed(self.now)
        else:
            _, messages = party.exchange.accept(framing.decode_frame(party.from_scheduler, data))
            if isinstance(party, SmallWorker):
                party.core.receive(self.now, messages)
            else:
                for record in party.core.receive(messages):
                    self._told(record)
                party.core.take()
        self._send(party)

    def _told(self, record: Record) -> None:
        """The client was told an outcome: it is right, and it is on disk."""
        node = record.cid - 1
        if record.state is not State.FINISHED:
            raise Wrong(f"task {node} is {record.state.value}: {record.error}")
        if record.value is not None and bytes(record.value) != expected(node):
            raise Wrong(f"task {node} has a wrong value")
        numbers: dict[int, int] = {}
        ended: set[int] = set()
        for (kind, _), body in self.disk.items():
            row = j.decode(kind, body)
            if kind == j.BATCH:
                numbers |= dict(zip(row.cids, row.numbers, strict=True))
            elif kind == j.OUTCOMES:
                ended |= {outcome.task for outcome in row.outcomes}
        if numbers.get(record.cid) not in ended:
            raise Wrong(f"task {node} was announced before its outcome was on disk")

    def _send(self, party: SmallParty) -> None:
        """The end of a party's event: its effects are carried out, and its frames are sent."""
        if isinstance(party, SmallWorker):
            self._carry_out(party)
        else:
            party.core.close_batch()
        if party.wire is not None:
            party.wire.up.extend(framing.encode_frame(frame)[4:] for frame in party.exchange.take())

    def _carry_out(self, worker: SmallWorker) -> None:
        core = worker.core
        while found := core.take():
            for effect in found:
                if isinstance(effect, effects.StartExecutor):
                    worker.given[effect.number] = []
                    core.executor_started(self.now, effect.number)
                elif isinstance(effect, effects.Give):
                    worker.given[effect.number] += [one for one in effect.messages if isinstance(one, m.Compute)]
                elif isinstance(effect, effects.TakeBack):
                    given = worker.given[effect.number]
                    worker.given[effect.number] = given[:1]
                    running = given[0].attempt if given else 0
                    core.taken_back(self.now, effect.number, [one.attempt for one in given[1:]], running)
                elif isinstance(effect, effects.Kill | effects.EndExecutor):
                    given = worker.given.pop(effect.number)
                    core.executor_ended(self.now, effect.number, Death("SIGKILL", running=given[0].attempt if given else 0))
                elif isinstance(effect, effects.StartFetch):
                    worker.fetching.append(effect)
                elif isinstance(effect, effects.DeleteFiles):
                    for attempt in effect.attempts:
                        worker.store.pop(attempt, None)
                elif isinstance(effect, effects.LookForFiles):
                    absent = [attempt for attempt in effect.attempts if attempt not in worker.store]
                    core.verified(self.now, effect.attempts, absent)
                elif isinstance(effect, effects.RescueStore):
                    there = self.parties[effect.store.removeprefix("store-")]
                    core.rescued(self.now, effect.worker, not there.alive, [], [])
                elif not isinstance(effect, effects.Interrupt | effects.PeerTrouble | effects.MoreHolders):
                    raise Wrong(f"the model does not know {effect}")

    def run(self, name: str, number: int) -> None:
        """An executor ends the task that it is running."""
        worker = self.parties[name]
        assert isinstance(worker, SmallWorker)
        compute = worker.given[number].pop(0)
        node, inputs, lost = int(compute.args), [], []
        for source in compute.inputs or ():
            value = source.value
            if value is None and source.attempt in worker.made:
                value = worker.made[source.attempt]
            if value is None and source.attempt in worker.store:
                value = worker.store[source.attempt][0]
            if value is None:
                lost.append((source.attempt, 0))
            else:
                inputs.append(value)
        if lost:
            worker.core.executor_outcomes(self.now, number, [m.InputLost(compute.task, compute.attempt, lost)])
        else:
            value, stored = value_of(node, inputs), GRAPH[node][1]
            worker.made[compute.attempt] = value
            if stored:
                worker.store[compute.attempt] = (value, compute.task)
            outcome = m.Done(
                compute.task, compute.attempt, None if stored else value, len(value), b"d" if stored else b"", 1000
            )
            worker.core.executor_outcomes(self.now, number, [outcome])
        self._send(worker)

    def fetch(self, name: str) -> None:
        """A fetch ends: with the file if one of the holders still has it."""
        worker = self.parties[name]
        assert isinstance(worker, SmallWorker)
        effect = worker.fetching.pop(0)
        for peer in effect.holders:
            holder = self.parties[peer.name]
            if isinstance(holder, SmallWorker) and holder.alive and effect.attempt in holder.store:
                worker.store[effect.attempt] = holder.store[effect.attempt]
                worker.core.fetched(self.now, effect.attempt)
                break
        else:
            worker.core.fetch_failed(self.now, effect.attempt)
        self._send(worker)

    def written(self) -> None:
        assert self.writing is not None
        self._to_disk(self.writing)
        self.writing = None
        for wire, frame in self.gate.written():
            self._put(wire, frame)
        self._flush()

    def _to_disk(self, rows: dict[j.Key, bytes | None]) -> None:
        for key, body in rows.items():
            if body is None:
                del self.disk[key]
            else:
                self.disk[key] = body

    def notice(self, number: int) -> None:
        """The scheduler learns that a connection is gone."""
        _, wire = self.unnoticed.pop(number)
        if wire.peer is not None and self.wires.get(wire.peer) is wire:
            del self.wires[wire.peer]
            self.core.connection_lost(self.now, wire.peer)
            self._flush()

    def probe(self) -> None:
        """The edge has looked whether a worker's process is there."""
        worker = self.probes.pop(0)
        if self.core.workers.get(worker.number) is worker:
            party = self.parties[worker.name]
            there = party.alive and party.core.identity.incarnation == worker.hello.incarnation
            self.core.probed(self.now, worker, not there)
            self._flush()

    def _next_wake(self) -> float | None:
        wakes = [self.core.wake, *[party.core.wake for party in self.parties.values() if isinstance(party, SmallWorker)]]
        return min([wake for wake in wakes if wake is not None], default=None)

    def tick(self) -> None:
        """Nothing else can happen: time passes until the next alarm."""
        wake = self._next_wake()
        assert wake is not None
        self.now, self.ticks = max(self.now, wake), self.ticks + 1
        if self.core.wake is not None and self.core.wake <= self.now:
            self.core.tick(self.now)
            self._flush()
        for party in self.parties.values():
            if isinstance(party, SmallWorker) and party.alive and party.core.wake is not None and party.core.wake <= self.now:
                party.core.tick(self.now)
                self._send(party)

    # ---- faults -------------------------------------------------------------------------------------

    def cut(self, name: str) -> None:
        party = self.parties[name]
        assert party.wire is not None
        self.unnoticed.append((name, party.wire))
        party.wire.up.clear()
        party.wire.down.clear()
        party.exchange.lost()
        self.dial(name)

    def kill(self, name: str) -> None:
        party = self.parties[name]
        party.alive = False
        if party.wire is not None:
            self.unnoticed.append((name, party.wire))
            party.wire = None

    def start(self, name: str) -> None:
        self.incarnations += 1
        worker = self.parties[name] = SmallWorker(name, self.incarnations)
        worker.core.start(self.now)
        self._carry_out(worker)
        if not self.records:
            self._settle(name)

    def crash(self, written: bool) -> None:
        if written and self.writing is not None:
            self._to_disk(self.writing)
        self._start()
        self._flush()
        for name, party in self.parties.items():
            if party.alive:
                party.exchange.lost()
                self.dial(name)

    # ---- promises -----------------------------------------------------------------------------------

    def check(self) -> None:
        check_scheduler(self.core)
        if self.ticks > MOST_TICKS:
            raise Wrong("the run does not end")
        delivered = self.client.core.dialer.session.delivered
        row = self.disk.get((j.SESSION, 1000))
        if delivered > (j.decode(j.SESSION, row).received if row is not None else 0):
            raise Wrong(f"frame {delivered} of the client was acknowledged and is not on disk")

    def check_end(self) -> None:
        if not self.ended:
            raise Wrong(f"nothing more happens, but futures are {[record.state.value for record in self.records]}")

    def state(self) -> Any:
        return (
            self.faults,
            self.now,
            self.lives,
            self.incarnations,
            self.disk,
            self.writing,
            [*vars(self.core.parts).values()],
            self.gate,
            self.wires,
            [party.state() for party in self.parties.values()],
            self.unnoticed,
            self.probes,
            self.accepted,
            self.records,
        )

    def wiring(self) -> frozenset[type]:
        """The parts of the cores."""
        cores = [self.core.parts, *[party.core for party in self.parties.values()]]
        parts = [part for core in cores for part in vars(core).values() if type(part).__module__.startswith("twistdist.core.")]
        return frozenset({type(part) for part in parts} | {type(core) for core in cores} | {Scheduler})


def expected(node: int) -> bytes:
    """The right value of a node."""
    return value_of(node, [expected(source) for source in GRAPH[node][0]])
