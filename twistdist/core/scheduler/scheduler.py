"""The facade: it passes events to the parts, and ends every event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.no_ledger import NoLedger
from twistdist.core.scheduler.outputs import Bundle, Peer
from twistdist.core.scheduler.parts import Parts
from twistdist.core.scheduler.records import Client, Worker
from twistdist.core.scheduler.registry import ATTEMPT_BITS
from twistdist.core.scheduler.settings import Settings
from twistdist.errors import ProtocolError
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m

#: A later scheduler with our journal has one of so many next epochs.  Other journals begin at random (``storage/sqlite.py``):
#: what another cluster has served is taken for that with a probability of 1.5e-5.
MOST_LIVES_LATER = 1000


class Scheduler:
    """The pure core.  Events are passed in with the time (``greet``, ``receive``, ``beat``, ``pulse``, ``connection_lost``,
    ``reconnected``, ``probed``, ``tick``); what they lead to is fetched with ``take``.  ``wake`` says when ``tick`` must be
    called next.  ``tasks``, ``workers`` and ``clients`` are the records by number, to be read only.

    ``epoch`` is a positive integer below 2**27 that no earlier life had; with a journal, ``ledger`` knows what must be written.
    """

    def __init__(self, epoch: int, settings: Settings | None = None, ledger: Ledger | None = None) -> None:
        self.epoch = epoch
        self.settings = settings = settings or Settings()
        self.ledger = ledger = ledger or NoLedger()
        self.parts = parts = Parts(epoch, settings, ledger)
        self.statistics = parts.statistics
        self.tasks, self.workers, self.clients = parts.registry.tasks, parts.registry.workers, parts.registry.clients
        self._handlers = parts.table()

    # ---- what the edge asks -----------------------------------------------------------------------

    @property
    def wake(self) -> float | None:
        """When ``tick`` must be called next."""
        return self.parts.alarms.next

    @property
    def recovering(self) -> bool:
        """Whether the scheduler waits for workers after a restart; nothing is assigned until they have come back."""
        return self.parts.rejoining.active

    @property
    def unfinished(self) -> int:
        """How many tasks there are whose value is being worked on."""
        return self.parts.transitions.unfinished

    @property
    def dirty(self) -> bool:
        """Whether something is queued for some peer."""
        return bool(self.parts.outputs.dirty)

    @property
    def expected(self) -> Mapping[str, j.Worker]:
        """The workers that are awaited after a restart, by name."""
        return self.parts.rejoining.expected

    def take(self, reads: Callable[[Peer], bool]) -> Bundle:
        """What the events since the last call lead to; frames only for peers for which ``reads(peer)`` is true."""
        return self.parts.outputs.take(reads)

    def refusal(self, hello: m.HelloClient | m.HelloWorker) -> m.Refused | None:
        """Why a Hello must be refused."""
        return self.parts.fleet.refusal(hello, self.expected)

    def is_outdated_by(self, greeting: m.HelloClient | m.HelloWorker | m.Resume) -> bool:
        """Whether a later scheduler has served who greets.  Then the journal, if there is one, is not ours any more, and files
        that we know nothing of may be needed."""
        if isinstance(greeting, m.HelloClient):
            return False
        if isinstance(greeting, m.Resume):
            epochs = {greeting.epoch}
        else:
            attempts = [one.attempt for one in (*greeting.stored, *greeting.finished)]
            attempts += [attempt for _, attempt in greeting.running]
            epochs = {attempt >> ATTEMPT_BITS for attempt in attempts}
        return any(0 < epoch - self.epoch <= MOST_LIVES_LATER for epoch in epochs)

    def find_session(self, resume: m.Resume) -> Peer | None:
        """The peer whose session a Resume names, if it can be resumed."""
        client = self.parts.registry.clients.get(resume.session)
        if client is not None and not client.placeholder and (resume.epoch == self.epoch or client.recorded):
            return client
        if resume.epoch != self.epoch:
            return None
        return next((worker for worker in self.parts.registry.workers.values() if worker.hello.session == resume.session), None)

    # ---- events -----------------------------------------------------------------------------------

    def restore(self, now: float, lives: int, rows: Iterable[tuple[Any, Any]]) -> None:
        """Before all other events: make the records from a journal's rows, which ``lives`` earlier schedulers have written."""
        self.parts.timeline.now = now
        self.parts.restoring.restore(now, lives, rows)

    def not_there(self, now: float, name: str) -> None:
        """After ``restore``: nothing listens at the address that the worker had."""
        self.parts.rejoining.not_there(now, name)

    def greet(self, now: float, hello: m.HelloClient | m.HelloWorker) -> Peer:
        """A new session.  The edge answers with Ready, outside the numbered frames."""
        self.parts.timeline.now = now
        peer: Peer
        if isinstance(hello, m.HelloClient):
            peer = self.parts.client_sessions.greet(hello)
        else:
            peer = self.parts.fleet.greet(now, hello)
            self.parts.rejoining.came_back(now, peer)
        self._settle(now)
        return peer

    def receive(self, now: float, peer: Peer, messages: Iterable[Any]) -> None:
        """Messages that ``peer``'s session accepted, in order; those of a peer that has left the cluster are refused."""
        self.parts.timeline.now = now
        handlers = self._handlers
        if not self.parts.registry.is_here(peer):
            raise ProtocolError(f"the session of {peer.name or 'a client'} has ended or was replaced, but still sends messages")
        if isinstance(peer, Worker):
            self.parts.liveness.heard(now, peer)
        for message in messages:
            kind = type(message)
            try:
                handlers[kind](now, peer, message)
            except ProtocolError as error:
                if not isinstance(peer, Client):
                    raise
                self.parts.client_sessions.refuse(now, peer, message, str(error))
            if kind is m.Bye or kind is m.Left:
                break  # nothing may follow it
        if isinstance(peer, Client) and peer.number in self.parts.registry.clients:
            self.ledger.session(peer)  # which frames were received: its side may be waiting with the next ones
        self._settle(now)

    def bytes_came(self, now: float, worker: Worker) -> None:
        """Part of a frame arrived, possibly a large one on a slow connection."""
        self.parts.liveness.bytes_came(now, worker)

    def beat(self, now: float, worker: Worker, beat: m.Beat, received: int) -> None:
        """A heartbeat, on a frame that acknowledges our frames up to ``received``."""
        was_suspect = worker.suspect
        self.parts.liveness.heard(now, worker)
        self.parts.audits.beat(now, worker, beat, received)
        self.parts.watchdog.look_if_stuck(now, worker, beat, received)
        if self.parts.outputs.dirty or self.parts.targets.to_check or was_suspect:
            self._settle(now)

    def pulse(self, now: float) -> None:
        """Every ``Settings.look_every`` seconds: check for silence, and for work that makes no progress."""
        self.parts.timeline.now = now
        self.parts.liveness.pulse(now)
        if not self.parts.rejoining.active:
            self.parts.watchdog.watch(now)
        self._settle(now)

    def probed(self, now: float, worker: Worker, refused: bool) -> None:
        """The answer to a probe; ``refused``: nothing listens at the worker's address."""
        self.parts.liveness.probed(now, worker, refused)

    def connection_lost(self, now: float, peer: Peer) -> None:
        """The connection broke; the session is kept for the grace period."""
        self.parts.timeline.now = now
        peer.connected, peer.away_since = False, now
        if isinstance(peer, Worker):
            self.parts.fleet.away(peer)
        else:
            self.parts.client_sessions.away(now, peer)
        self._settle(now)

    def reconnected(self, now: float, peer: Peer) -> None:
        """The session continues over a new connection."""
        self.parts.timeline.now = now
        peer.connected = True
        self.parts.outputs.look_at(peer)
        if isinstance(peer, Client):
            if peer.restored:
                self.parts.client_sessions.returned(peer)
            self.parts.nested.look_after(now, peer)
        else:
            self.parts.liveness.heard(now, peer)
            self.parts.placement.update(peer)
            self.parts.fleet.came(peer)
        self._settle(now)

    def tick(self, now: float) -> None:
        """Perform every action that is due."""
        self.parts.timeline.now = now
        self.parts.alarms.ring(now)
        self._settle(now)

    def journal_is(self, status: dict[str, Any]) -> None:
        """What the edge reports about the journal, for queries."""
        self.parts.queries.journal_is(status)

    def versions_are(self, versions: str) -> None:
        """What the edge says that this process runs on."""
        self.parts.queries.versions_are(versions)

    def longest_events_are(self, longest: dict[str, float]) -> None:
        """Where the edge keeps how long each kind of event has taken at most, in seconds, for queries."""
        self.parts.queries.longest_events_are(longest)

    def _settle(self, now: float) -> None:
        """The end of every event: drop what nobody wants, then assign work."""
        if self.parts.client_sessions.fatherless:
            self.parts.client_sessions.end_with_parents()
        if self.parts.client_sessions.ended:
            self.parts.client_sessions.forget_ended(now)
        if self.parts.registry.unwanted:
            self.parts.garbage.collect(now)
        if self.parts.rejoining.active:
            return
        if self.parts.targets.to_check:
            self.parts.copies.tend()
        if self.parts.leaving.retiring:
            self.parts.leaving.look(now)
        self.parts.dispatch.schedule(now)
        self.parts.lacks.settle(now)
