"""The simulated schedulers, and the disk that has their journal, of :mod:`.simulate`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from twistdist.core.exchange import ACK_S
from twistdist.core.scheduler import Scheduler, Settings, records
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import GiveUp, Peer, Probe
from twistdist.core.scheduler.settings import Tuning
from twistdist.errors import JournalError, LeaseLost, ProtocolError
from twistdist.net.outbox import Outbox
from twistdist.testing.parties import Link, Process, SimulationFailed
from twistdist.wire import framing
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m

if TYPE_CHECKING:
    from twistdist.testing.simulate import World

#: Limits of silence in seconds, ``suspect_after`` and ``dead_after``: shorter than the defaults, so that they are hit often.
SUSPECT_S, DEAD_S = 0.6, 2.4

#: Heartbeats and acknowledgements from which nothing followed, at most, before the invariants are checked all the same.
MAX_UNCHECKED = 10

#: Seconds after which a timer does not mean that the cluster is busy.
FAR_S = 5.0

Rows = dict[j.Key, bytes | None]


class Disk:
    """The journal's rows, and whose they are: ``holder`` is the only scheduler that may write.

    Writes fail until ``fails_until``; one that fails may have taken effect all the same.  ``durable`` are the attempts whose
    value has been on disk, and ``ended`` the sessions that no longer are.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[j.Key, bytes] = {}
        self.durable: set[int] = set()
        self.ended: set[int] = set()
        self.holder: SimJournal | None = None
        self.fails_until = 0.0
        self.lives = 0  # of schedulers with this journal

    def delete(self) -> None:
        """Delete the journal: the next scheduler begins another one."""
        self.ended.update(number for kind, number in self.rows if kind == j.SESSION)
        self.rows.clear()
        self.lives = 0

    def apply(self, rows: Rows, unsure: bool = False) -> None:
        """Write rows.  ``unsure``: some may be there already, because a write failed before."""
        for key, body in rows.items():
            self.world.record(f"row {key}", body or b"")
            if body is None and key[0] == j.SESSION:
                self.ended.add(key[1])
            if body is not None:
                self.rows[key] = body
                if key[0] == j.OUTCOMES:
                    self.durable.update(outcome.attempt for outcome in j.decode(j.OUTCOMES, body).outcomes)
                elif key[0] == j.DATA:
                    self.durable.add(j.decode(j.DATA, body).attempt)
            elif unsure:
                self.rows.pop(key, None)
            else:
                del self.rows[key]

    def load(self) -> list[tuple[j.Key, Any]]:
        """Return all rows, decoded."""
        return [(key, j.decode(key[0], body)) for key, body in self.rows.items()]

    def frames_of(self, session: int) -> int:
        """Return how many frames of a client's session have consequences that are on disk; all, if the session has ended since
        they were acknowledged."""
        if session in self.ended:
            return sys.maxsize
        row = self.rows.get((j.SESSION, session))
        return j.decode(j.SESSION, row).received if row is not None else 0


class SimJournal:
    """One scheduler's way to the disk, as :class:`~twistdist.net.outbox.Outbox` uses it."""

    bytes = 0

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.writing: Rows | None = None
        self._in_time: Rows | None = None  # this write was on disk before another scheduler took the journal over
        self._unsure = self._dead = False
        disk.holder = self

    def write(self, rows: Rows) -> Deferred[None]:
        """Write rows, which takes a while."""
        done: Deferred[None] = Deferred()
        self.writing = rows
        self.disk.world.after(self.disk.world.write_seconds(), lambda: self._wrote(rows, done))
        return done

    def _wrote(self, rows: Rows, done: Deferred[None]) -> None:
        if self._dead:
            return
        self.writing, world = None, self.disk.world
        in_time, self._in_time = self._in_time is rows, None
        if self.disk.holder is not self and not in_time:
            done.errback(Failure(LeaseLost("another scheduler has the journal")))
        elif world.now < self.disk.fails_until:
            if world.more.random() < 0.3 and not in_time:
                self.disk.apply(rows, True)
            self._unsure = True
            world.fault("failed write")
            done.errback(Failure(JournalError("the disk is full")))
        else:
            if not in_time:
                self.disk.apply(rows, self._unsure)
            self._unsure = False
            done.callback(None)
        if isinstance(done.result, Failure):  # an error in what followed, which belongs to the run
            failure, _ = done.result, done.addErrback(lambda _: None)
            failure.raiseException()

    def check(self) -> Deferred[None]:
        """Check that the journal is still ours."""
        return succeed(None) if self.disk.holder is self else fail(LeaseLost("another scheduler has the journal"))

    def crash(self, lands: bool) -> None:
        """The scheduler is killed; the write in progress ``lands`` on disk, whole, or not at all."""
        if self.writing and lands:
            self.disk.apply(self.writing, self._unsure)
        self.writing, self._dead = None, True

    def lose(self, lands: bool) -> None:
        """Another scheduler takes the journal over; the write in progress ``lands`` before that, or fails."""
        if self.writing and lands:
            self.disk.apply(self.writing, self._unsure)
            self._in_time = self.writing


class _Call:
    """What ``callLater`` returns."""

    def __init__(self, what: Callable[[], None]) -> None:
        self._what: Callable[[], None] | None = what

    def cancel(self) -> None:
        self._what = None

    def run(self) -> None:
        if self._what is not None:
            self._what()


class SimReactor:
    """What the outbox needs of a reactor, on the simulated clock."""

    def __init__(self, world: World) -> None:
        self._world = world

    def seconds(self) -> float:
        """Return the simulated time."""
        return self._world.now

    def callLater(self, delay: float, function: Callable[..., None], *args: Any) -> _Call:
        """Call a function after ``delay`` simulated seconds."""
        call = _Call(partial(function, *args))
        self._world.after(delay, call.run)
        return call


@attrs.define(eq=False)
class ToPeer:
    """The scheduler's end of a link, as the outbox uses it."""

    link: Link
    told: bool = False

    def send(self, frames: list[m.Frame]) -> None:
        """Send frames to the party that dialed."""
        for frame in frames:
            self.link.send(False, frame)

    def fail(self, error: Exception) -> None:
        """A message can't be encoded, which never happens here."""
        raise error


class SimScheduler(Process):
    """One life of the scheduler, with what was durable before it: the core, and an edge that is the real outbox on a simulated
    network and disk.  A scheduler whose journal another one has taken over goes on until it notices."""

    def __init__(self, world: World, epoch: int) -> None:
        super().__init__()
        self.world = world
        self.up = True
        tuning = Tuning(slice_tasks=world.slice)
        settings = Settings(SUSPECT_S, DEAD_S, client_grace=world.client_grace, checkpoints="store", tuning=tuning)
        self.core = Scheduler(epoch, settings, Ledger() if world.journaled else None)
        self.core.parts.transitions.taken = world.taken
        self.links: dict[Any, Link] = {}
        self._ways: dict[Any, Any] = {}
        self._wake: float | None = None
        self._ack_due = False
        self._unchecked = 0
        self.out = Outbox(SimReactor(world), self._ways, self.flush, self._trouble, self._fatal)
        self.journal: SimJournal | None = None
        if world.journaled:
            rows = world.disk.load()
            self.journal = journal = SimJournal(world.disk)
            thread: Any = journal
            self.out.use(thread, self.core.ledger)
            self.core.restore(world.now, world.disk.lives, rows)
            world.disk.lives += 1
            check_scheduler(self.core)
            for name in self.core.expected:
                world.after(world.rng.uniform(0.001, 0.05), partial(self._look_for, name))

    # its process

    def end(self, lands: bool) -> None:
        """The process ends: all connections break, and the write in progress ``lands`` on disk or not."""
        self.up = False
        self.out.stop()
        if self.journal is not None:
            self.journal.crash(lands)
        world = self.world
        for party in (*world.workers.values(), *world.clients, *world.children):
            link = party.link
            if link is not None and link.open and link.scheduler is self:
                link.open = False
                world.after(world.rng.uniform(0.0, 0.05), partial(party.lost, link))

    def _fatal(self, text: str) -> None:
        """Another scheduler has the journal."""
        self.world.fault("stood down")
        self.end(False)

    def _look_for(self, name: str) -> None:
        """Tell the scheduler if no process listens where a worker was before the restart."""
        if self.up and not self.world.workers[name].alive:
            self.core.not_there(self.world.now, name)
            self.flush()

    def _trouble(self, text: str) -> None:
        """The journal can't be written or, with "", can be written again."""
        for peer, link in list(self.links.items()):
            if link.open and link.greeted and isinstance(peer, records.Client):
                link.send(False, (*peer.session.bare_ack()[:2], [m.Trouble(text)]))

    # what arrives

    def receives(self, link: Link, data: bytes) -> None:
        """A frame arrives."""
        if not self.up or self.asleep(partial(link.deliver, True, data)):
            return
        world = self.world
        quiet = False
        if link.peer is None:
            for greeting in framing.decode_frame(framing.GREETING_TO_SCHEDULER, data)[2]:
                self._greet(link, greeting)
        elif self.links.get(link.peer) is link:
            peer = link.peer
            if not self.core.parts.registry.is_here(peer):  # its session has ended: the connection is closed
                link.cut()
                return
            decoder = framing.FROM_CLIENT if isinstance(peer, records.Client) else framing.FROM_WORKER
            frame = framing.decode_frame(decoder, data)
            if not frame[0] and isinstance(peer, records.Worker):
                for beat in frame[2] if world.met is None else world.met.at_scheduler(self, peer, frame[2]):
                    self.core.beat(world.now, peer, beat, frame[1])
            messages = peer.session.accept(frame)
            counted = messages if world.met is None else world.met.at_scheduler(self, peer, messages)
            self.core.receive(world.now, peer, counted)
            if world.echoes:
                self._echo(link, messages)
            self.out.touch(peer.session)
            quiet = not messages
        self.flush(quiet)

    def _echo(self, link: Link, messages: list[Any]) -> None:
        """Let the scheduler receive an old message again, as a bug of the other side might cause."""
        peer = link.peer
        assert peer is not None
        for message in self.world.echo_of(peer, messages):
            first = getattr(message, "first", getattr(message, "cid", None))
            if isinstance(message, m.Submit | m.Scatter) and isinstance(peer, records.Client) and first not in peer.futures:
                continue  # it was released: sent again it would be a new one that nobody would release
            try:
                self.core.receive(self.world.now, peer, [message])
            except ProtocolError:
                link.cut()

    def _greet(self, link: Link, greeting: Any) -> None:
        now = self.world.now
        if self.world.met is not None:
            self.world.met.greeting(self, greeting)
        if self.journal is not None and self.core.is_outdated_by(greeting):
            self.out.look()
            link.cut()
            return
        if isinstance(greeting, m.Resume):
            peer = self.core.find_session(greeting)
            if peer is None:
                link.send(False, (0, 0, [m.Refused("session", "unknown")]))
                return
            self._bind(link, peer)
            same = greeting.epoch == self.core.epoch
            link.send(False, (0, 0, [m.Resumed(peer.session.sure, self.core.epoch)]))
            again = peer.session.resume(greeting.received if same else 0)
            if again:
                self.out.say(self._ways[peer], peer, again)
            self._tell_trouble(link)
            self.core.reconnected(now, peer)
        else:
            peer = self.core.greet(now, greeting)
            self._bind(link, peer)
            ready = (0, 0, [m.Ready(self.core.epoch, "", SUSPECT_S, DEAD_S)])
            if isinstance(peer, records.Worker):
                self.out.say(self._ways[peer], peer, [ready])
            else:
                link.send(False, ready)
                self._tell_trouble(link)

    def _tell_trouble(self, link: Link) -> None:
        if self.out.trouble and isinstance(link.peer, records.Client):
            link.send(False, (0, 0, [m.Trouble(self.out.trouble)]))

    def _bind(self, link: Link, peer: Any) -> None:
        old = self.links.pop(peer, None)
        if old is not None:
            old.open = False
            self.core.connection_lost(self.world.now, peer)
            self.world.after(0.001, lambda: old.party.lost(old))
        link.peer = peer
        self.links[peer] = link
        self._ways[peer] = ToPeer(link)

    def lost(self, link: Link) -> None:
        """A connection broke."""
        if not self.up or self.asleep(partial(self.lost, link)):
            return
        if link.peer is not None and self.links.get(link.peer) is link:
            del self.links[link.peer]
            self.core.connection_lost(self.world.now, link.peer)
            self.flush()

    # what leaves

    def pulse(self) -> None:
        """Send heartbeats; called periodically."""
        if not self.up or self.is_paused():
            return
        self.out.look()
        if not self.up:
            return
        self.core.pulse(self.world.now)
        for peer, link in list(self.links.items()):
            if link.open and link.greeted:
                heard = peer.beat.number if isinstance(peer, records.Worker) and peer.beat is not None else 0
                link.send(False, (*peer.session.bare_ack()[:2], [m.Beat(1, heard, peer.session.sent)]), background=True)
        self.flush(quiet=True)

    def flush(self, quiet: bool = False) -> None:
        """The end of an event: carry out what follows from it, and have the invariants checked.

        ``quiet``: it was a heartbeat or an acknowledgement.  These are most events; if nothing follows from one of them, what
        it left is checked with a later event.
        """
        if not self.up:
            return
        world = self.world
        bundle = self.core.take(self._reads)
        self._unchecked += 1
        if not quiet or bundle.frames or bundle.effects or self._unchecked > MAX_UNCHECKED:
            self._unchecked = 0
            world.touched[self] = None
        for effect in bundle.effects:
            if isinstance(effect, Probe):
                world.after(world.rng.uniform(0.001, 0.05), partial(self._probe, effect.worker))
            elif isinstance(effect, GiveUp):
                self._give_up(effect.worker)
        for peer, frames in bundle.frames:
            self.out.say(self._ways[peer], peer, frames)
        if not self._ack_due and any(peer.session.owes_ack for peer in self.links):
            self._ack_due = True
            world.after(ACK_S, self._acknowledge)
        self.out.write()
        wake = self.core.wake
        if wake is not None and wake != self._wake:
            self._wake = wake
            world.at(wake, partial(self._tick, wake), background=wake - world.now > FAR_S)

    def _reads(self, peer: Peer) -> bool:
        link = self.links.get(peer)
        return link is not None and link.open

    def _give_up(self, worker: records.Worker) -> None:
        self.world.fault("given up")
        there = self.world.workers[worker.name]
        holds = there.core.dialer.epoch == self.core.epoch and not there.is_paused()
        if there.alive and there.core.identity.incarnation == worker.hello.incarnation and holds:
            raise SimulationFailed(f"{worker.name} was given up while it held its lease")
        link = self.links.pop(worker, None)
        if link is not None:
            link.open = False
            self.world.after(0.001, lambda: link.party.lost(link))

    def _probe(self, worker: records.Worker) -> None:
        """Tell the scheduler whether a process listens at the worker's address."""
        there = self.world.workers.get(worker.name)
        refused = there is None or not there.alive
        if not self.up or self.core.workers.get(worker.number) is not worker:
            return
        if not refused or self.world.rng.random() < 0.9:
            self.core.probed(self.world.now, worker, refused)
            self.flush()

    def _acknowledge(self) -> None:
        self._ack_due = False
        for peer, link in self.links.items():
            if link.open and link.greeted and peer.session.owes_ack:
                link.send(False, peer.session.bare_ack())

    def _tick(self, wake: float) -> None:
        if not self.up or self.asleep(partial(self._tick, wake)):
            return
        if self._wake == wake:
            self._wake = None
        self.core.tick(self.world.now)
        self.flush()
