"""The facade: it creates the parts, knows which message goes to which part, and ends every event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.attempts import Attempts
from twistdist.core.scheduler.audits import Audits
from twistdist.core.scheduler.cancelling import Cancelling
from twistdist.core.scheduler.client_sessions import ClientSessions
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.detours import Detours
from twistdist.core.scheduler.dispatch import Dispatch
from twistdist.core.scheduler.durable import Durable
from twistdist.core.scheduler.fleet import Fleet
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.holdings import Holdings
from twistdist.core.scheduler.lacks import Lacks
from twistdist.core.scheduler.leaving import Leaving
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.liveness import Liveness
from twistdist.core.scheduler.nested import Nested
from twistdist.core.scheduler.no_ledger import NoLedger
from twistdist.core.scheduler.outputs import Bundle, Outputs, Peer
from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.queries import Queries
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import Client, Statistics, Worker
from twistdist.core.scheduler.recovery import Recovery
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.rejoining import Rejoining
from twistdist.core.scheduler.restoring import Restoring
from twistdist.core.scheduler.scattered import Scattered
from twistdist.core.scheduler.settings import Settings
from twistdist.core.scheduler.slots import Slots
from twistdist.core.scheduler.submits import Submits
from twistdist.core.scheduler.supplies import Supplies
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.transitions import Transitions
from twistdist.core.scheduler.watchdog import Watchdog
from twistdist.core.scheduler.watchers import Watchers
from twistdist.errors import ProtocolError
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m


class Scheduler:
    """The pure core.  Events are passed in with the time (``greet``, ``receive``, ``beat``, ``pulse``, ``connection_lost``,
    ``reconnected``, ``probed``, ``tick``); what they lead to is fetched with ``take``.  ``wake`` says when ``tick`` must be
    called next.  ``tasks``, ``workers`` and ``clients`` are the records by number, to be read only.

    ``epoch`` is a positive integer below 2**27 that no earlier life had; with a journal, ``ledger`` knows what must be written.
    """

    def __init__(self, epoch: int, settings: Settings | None = None, ledger: Ledger | None = None) -> None:
        self.epoch = epoch
        self.settings = settings = settings or Settings()
        tuning = settings.tuning
        self.ledger = ledger = ledger or NoLedger()
        self.statistics = statistics = Statistics()
        self._alarms = alarms = Alarms()
        # The parts, in order: each is given those before it that it needs.
        self.outputs = outputs = Outputs(tuning, statistics)
        self.registry = registry = Registry(outputs, ledger, epoch, statistics)
        self.reach = reach = Reach(outputs, registry)
        self.targets = targets = Targets()
        self.holdings = holdings = Holdings(outputs, targets)
        self.placement = placement = Placement(tuning)
        self.slots = slots = Slots(outputs, placement)
        self.queues = queues = Queues(tuning, registry, reach, slots)
        self.watchers = watchers = Watchers(outputs, registry, reach, ledger)
        self.supplies = supplies = Supplies(outputs, registry, reach, ledger)
        self.transitions = transitions = Transitions()
        self.lifecycle = lifecycle = Lifecycle(
            outputs, registry, ledger, transitions, targets, slots, queues, watchers, supplies
        )
        self.dispatch = Dispatch(
            tuning, alarms, settings, outputs, registry, reach, transitions, placement, slots, queues, lifecycle
        )
        self.attempts = attempts = Attempts(outputs, registry, ledger, transitions, targets, holdings, slots, queues, lifecycle)
        self.garbage = garbage = Garbage(tuning, outputs, registry, ledger, targets, holdings, queues, supplies, lifecycle)
        self.copies = copies = Copies(tuning, alarms, outputs, registry, reach, ledger, targets, holdings, watchers, supplies)
        self.recovery = recovery = Recovery(outputs, registry, reach, targets, holdings, lifecycle, copies)
        self.scattered = scattered = Scattered(
            tuning, alarms, outputs, registry, ledger, targets, watchers, supplies, lifecycle, garbage
        )
        self.detours = detours = Detours(
            tuning, alarms, settings, outputs, registry, reach, queues, lifecycle, attempts, copies, recovery
        )
        self.leaving = leaving = Leaving(alarms, outputs, registry, placement, targets, copies)
        self.fleet = fleet = Fleet(
            tuning,
            outputs,
            registry,
            ledger,
            reach,
            placement,
            holdings,
            queues,
            attempts,
            copies,
            recovery,
            scattered,
            leaving,
        )
        self.liveness = Liveness(alarms, settings, outputs, registry, reach, placement, copies, scattered, fleet)
        self.watchdog = Watchdog(tuning, alarms, outputs, registry, transitions, placement, queues, lifecycle)
        self.audits = Audits(tuning, outputs, registry, lifecycle, recovery)
        self.nested = nested = Nested(tuning, alarms, outputs, registry)
        self.client_sessions = client_sessions = ClientSessions(
            alarms, settings, outputs, registry, ledger, watchers, scattered
        )
        self.cancelling = Cancelling(tuning, alarms, outputs, registry, watchers, lifecycle, copies, detours)
        self.durable = durable = Durable(registry, ledger, watchers, client_sessions)
        self.lacks = Lacks(tuning, alarms, outputs, registry, transitions, queues)
        self.submits = Submits(tuning, alarms, settings, registry, ledger, targets, watchers, lifecycle, garbage, nested)
        self.rejoining = rejoining = Rejoining(
            tuning, alarms, settings, outputs, registry, ledger, transitions, lifecycle, copies
        )
        self.restoring = Restoring(
            outputs, registry, ledger, transitions, targets, watchers, lifecycle, garbage, client_sessions, durable, rejoining
        )
        self.queries = Queries(
            outputs,
            registry,
            transitions,
            queues,
            watchers,
            lifecycle,
            garbage,
            copies,
            leaving,
            fleet,
            client_sessions,
            durable,
            rejoining,
        )
        self.tasks, self.workers, self.clients = registry.tasks, registry.workers, registry.clients
        self._handlers = self._table()

    def _table(self) -> dict[type, Callable[[float, Any, Any], None]]:
        """Which part each message goes to."""
        return {
            m.Function: self.client_sessions.function,
            m.Submit: self.submits.submit,
            m.Release: self.durable.release,
            m.Cancel: self.cancelling.cancel,
            m.Unreachable: self.cancelling.unreachable,
            m.Query: self.queries.query,
            m.Bye: self.client_sessions.bye,
            m.DropFunctions: self.client_sessions.drop_functions,
            m.Scatter: self.scattered.scatter,
            m.NotSupplied: self.scattered.not_supplied,
            m.Keeps: self.scattered.keeps,
            m.Done: self.attempts.done,
            m.Failed: self.attempts.failed,
            m.Crashed: self.attempts.crashed,
            m.InputLost: self.detours.input_lost,
            m.Have: self.recovery.have,
            m.Missing: self.recovery.missing,
            m.Recalled: self.dispatch.recalled,
            m.WorkerLog: self.fleet.log,
            m.Intake: self.slots.intake,
            m.Parked: self.slots.parked,
            m.CopyFailed: self.copies.copy_failed,
            m.Rescued: self.fleet.rescued,
            m.Locate: self.copies.locate,
            m.Leaving: self.leaving.leaving,
            m.Inventory: self.audits.inventory,
            m.Beat: lambda now, peer, message: None,  # it only matters outside the numbered frames
            m.Undecodable: lambda now, client, message: self.client_sessions.refuse(now, client, message, message.text),
        }

    # ---- what the edge asks -----------------------------------------------------------------------

    @property
    def wake(self) -> float | None:
        """When ``tick`` must be called next."""
        return self._alarms.next

    @property
    def recovering(self) -> bool:
        """Whether the scheduler waits for workers after a restart; nothing is assigned until they have come back."""
        return self.rejoining.active

    @property
    def unfinished(self) -> int:
        """How many tasks there are whose value is being worked on."""
        return self.transitions.unfinished

    @property
    def dirty(self) -> bool:
        """Whether something is queued for some peer."""
        return bool(self.outputs.dirty)

    @property
    def expected(self) -> Mapping[str, j.Worker]:
        """The workers that are awaited after a restart, by name."""
        return self.rejoining.expected

    def observe(self, observer: Callable[[Peer, Any], None]) -> None:
        """For tests: ``observer(peer, message)`` sees every message before it is handled."""

        table = self._table()

        def handle(now: float, peer: Peer, message: Any) -> None:
            observer(peer, message)
            table[type(message)](now, peer, message)

        self._handlers = dict.fromkeys(table, handle)

    def take(self, reads: Callable[[Peer], bool]) -> Bundle:
        """What the events since the last call lead to; frames only for peers for which ``reads(peer)`` is true."""
        return self.outputs.take(reads)

    def refusal(self, hello: m.HelloClient | m.HelloWorker) -> m.Refused | None:
        """Why a Hello must be refused: another incarnation of that worker has registered since."""
        if isinstance(hello, m.HelloWorker) and hello.incarnation in self.fleet.outlived:
            return m.Refused(
                "replaced",
                f"another worker named {hello.name!r} has taken this one's place; give each worker a name of its own",
            )
        return None

    def find_session(self, resume: m.Resume) -> Peer | None:
        """The peer whose session a Resume names, if it can be resumed."""
        client = self.registry.clients.get(resume.session)
        if client is not None and not client.placeholder and (resume.epoch == self.epoch or client.recorded):
            return client
        if resume.epoch != self.epoch:
            return None
        return next((worker for worker in self.registry.workers.values() if worker.hello.session == resume.session), None)

    # ---- events -----------------------------------------------------------------------------------

    def restore(self, now: float, lives: int, rows: Iterable[tuple[Any, Any]]) -> None:
        """Before all other events: make the records from a journal's rows, which ``lives`` earlier schedulers have written."""
        self.restoring.restore(now, lives, rows)

    def not_there(self, now: float, name: str) -> None:
        """After ``restore``: nothing listens at the address that the worker had."""
        self.rejoining.not_there(now, name)

    def greet(self, now: float, hello: m.HelloClient | m.HelloWorker) -> Peer:
        """A new session.  The edge answers with Ready, outside the numbered frames."""
        peer: Peer
        if isinstance(hello, m.HelloClient):
            peer = self.client_sessions.greet(hello)
        else:
            peer = self.fleet.greet(now, hello)
            self.rejoining.came_back(now, peer)
        self._settle(now)
        return peer

    def receive(self, now: float, peer: Peer, messages: Iterable[Any]) -> None:
        """Messages that ``peer``'s session accepted, in order; those of a peer that has left the cluster are refused."""
        handlers = self._handlers
        if not self.registry.is_here(peer):
            raise ProtocolError(f"the session of {peer.name or 'a client'} has ended or was replaced, but still sends messages")
        if isinstance(peer, Worker):
            self.liveness.heard(now, peer)
        for message in messages:
            kind = type(message)
            try:
                handlers[kind](now, peer, message)
            except ProtocolError as error:
                if not isinstance(peer, Client):
                    raise
                self.client_sessions.refuse(now, peer, message, str(error))
            if kind is m.Bye:
                break  # nothing may follow it
        if isinstance(peer, Client) and peer.number in self.registry.clients:
            self.ledger.session(peer)  # which frames were received: its side may be waiting with the next ones
        self._settle(now)

    def bytes_came(self, now: float, worker: Worker) -> None:
        """Part of a frame arrived, possibly a large one on a slow connection."""
        self.liveness.bytes_came(now, worker)

    def beat(self, now: float, worker: Worker, beat: m.Beat, received: int) -> None:
        """A heartbeat, on a frame that acknowledges our frames up to ``received``."""
        was_suspect = worker.suspect
        self.liveness.heard(now, worker)
        self.audits.beat(now, worker, beat, received)
        self.watchdog.look_if_stuck(now, worker, beat, received)
        if self.outputs.dirty or self.targets.to_check or was_suspect:
            self._settle(now)

    def pulse(self, now: float) -> None:
        """Every ``Settings.look_every`` seconds: check for silence, and for work that makes no progress."""
        self.liveness.pulse(now)
        if not self.rejoining.active:
            self.watchdog.watch(now)
        self._settle(now)

    def probed(self, now: float, worker: Worker, refused: bool) -> None:
        """The answer to a probe; ``refused``: nothing listens at the worker's address."""
        self.liveness.probed(now, worker, refused)

    def connection_lost(self, now: float, peer: Peer) -> None:
        """The connection broke; the session is kept for the grace period."""
        peer.connected, peer.away_since = False, now
        if isinstance(peer, Worker):
            self.fleet.away(peer)
        else:
            self.client_sessions.away(now, peer)
        self._settle(now)

    def reconnected(self, now: float, peer: Peer) -> None:
        """The session continues over a new connection."""
        peer.connected = True
        self.outputs.look_at(peer)
        if isinstance(peer, Client):
            if peer.restored:
                self.client_sessions.returned(peer)
            self.nested.look_after(now, peer)
        else:
            self.liveness.heard(now, peer)
            self.placement.update(peer)
            self.fleet.came(peer)
        self._settle(now)

    def tick(self, now: float) -> None:
        """Perform every action that is due."""
        self._alarms.ring(now)
        self._settle(now)

    def journal_is(self, status: dict[str, Any]) -> None:
        """What the edge reports about the journal, for queries."""
        self.queries.journal_is(status)

    def _settle(self, now: float) -> None:
        """The end of every event: drop what nobody wants, then assign work."""
        if self.client_sessions.fatherless:
            self.client_sessions.end_with_parents()
        if self.registry.unwanted:
            self.garbage.collect()
        if self.rejoining.active:
            return
        if self.targets.to_check:
            self.copies.tend()
        if self.leaving.retiring:
            self.leaving.look(now)
        self.dispatch.schedule(now)
        self.lacks.settle(now)
