"""The worker's control process: what the scheduler asks for, where inputs come from, what is held.

Events go in with the time; messages for the scheduler come out in the dialer's session, and everything else to be done in
``effects``, which the edge carries out in order.  No value is ever unpickled here.  The executors are the storey below
(:mod:`.pool`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from twistdist.core import effects, memory
from twistdist.core.digests import digest_of
from twistdist.core.lease import Lease
from twistdist.core.pool import MOST_PARKED, Job, Pool
from twistdist.core.session import Dialer, Session
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: Beats between two that tell the digest of all files.
FILES_EVERY = 16


@attrs.define(eq=False)
class Transfer:
    """A file on its way from another worker, the jobs that wait for it, and whether it was asked for as a ``copy``."""

    source: m.Input
    holders: list[int]
    jobs: list[Job] = attrs.field(factory=list)
    copy: bool = False


class Worker(Pool):
    """The pure core.  ``identity`` is the Hello without inventory; ``stored`` what the store held at the start, of which the
    attempts in ``spilled`` are on disk; no more than ``most_parked`` tasks give up their slots at a time."""

    def __init__(self, identity: m.HelloWorker, stored: Iterable[m.Stored] = (), spilled: Iterable[int] = (),
                 limits: memory.Limits | None = None, most_parked: int = MOST_PARKED) -> None:  # fmt: skip
        super().__init__(identity.slots, limits, most_parked)
        self.identity = identity
        self.dialer = Dialer(identity.session)
        for one in stored:
            self._keep_stored(one)
        self.spilled_files(0.0, spilled)
        self.peers: dict[int, m.Peer] = {}
        self.transfers: dict[int, Transfer] = {}
        self.unmappable: set[str] = set()
        self._finished: list[m.Done | m.Failed | m.Crashed] = []
        self._told_at = 0
        self._early: list[m.WorkerLog] = []
        self.lease = Lease()
        self.suspects: set[int] = set()
        self._handlers: dict[type, Callable[[float, Any], None]] = {
            m.Compute: self._compute,
            m.WorkerFunction: self._function,
            m.ForgetFunctions: self._forget_functions,
            m.Peer: self._peer,
            m.Recall: lambda now, message: self.recall(now, message.attempts),
            m.Free: self._free,
            m.Abort: lambda now, message: self.abort(now, message.attempts, message.kill),
            m.Verify: self._verify,
            m.Stop: self._stop,
            m.Copy: self._copy,
            m.Rescue: lambda now, message: self.effects.append(effects.RescueStore(message.worker, message.store)),
            m.Located: self._located,
            m.PeerState: self._peer_state,
            m.Audit: self._audit,
            m.Park: lambda now, message: self.park(message.attempt),
            m.Beat: lambda now, message: None,  # it has a meaning only outside the numbers
        }

    # ---- the scheduler ----------------------------------------------------------------------

    def hello(self, now: float) -> m.HelloWorker:
        """The registration with the whole inventory, for a new session, which is a lease from this moment on."""
        self.lease.begin(now)
        if self._told_at != self.dialer.fresh:
            self._told_at, self._finished = self.dialer.fresh, []  # the Hello before this one was accepted
            self._early.clear()
        undelivered = self.dialer.session.undelivered()
        finished = self._finished
        finished += [one for one in undelivered if isinstance(one, m.Done | m.Failed | m.Crashed)]
        self.dialer.session = Session()
        who = self.identity
        self._tell_again()
        running = [(job.compute.task, job.attempt) for job in self.jobs.values() if not job.doomed]
        return m.HelloWorker(who.session, who.name, who.incarnation, who.pid, who.slots, who.address, who.host, who.store,
                             who.resources, list(self.stored.values()), running, list(finished))  # fmt: skip

    def _tell_again(self) -> None:
        """What a scheduler that has just greeted this worker does not know."""
        for log in self._early:
            self._post(log)
        self._told_intake = (self.slots, "")
        self._adjust_intake()
        for executor in self.parked.values():
            if executor.parked is not None:
                self._post(m.Parked(executor.parked.attempt, True))

    def resumed(self) -> None:
        """The session goes on."""

    def welcomed(self, now: float) -> None:
        """The scheduler has answered Hello: what it knows of this worker is right again."""
        if self.fenced:
            self.fenced = False
            self.effects.append(effects.Fence(False))
            self._adjust_intake()
            self._feed(now)

    def heard_beat(self, now: float, beat: m.Beat) -> None:
        """A heartbeat of the scheduler."""
        self.lease.echoed(beat)

    def pulse(self, now: float) -> m.Beat:
        """Called every ``dialer.beat_every`` seconds while the session is connected or was: the beat to send."""
        beat = self.lease.next_beat(now, self.dialer)
        jobs = [job for job in self.jobs.values() if not job.doomed]
        beat.running = sum(1 for one in self.executors.values() if one.given)
        beat.fetching = sum(1 for job in jobs if job.fetching)
        beat.queued = len(self.queue)
        beat.jobs = digest_of([job.attempt for job in jobs])
        if beat.number % FILES_EVERY == 0:
            beat.stored = digest_of(self.stored)
        return beat

    def look_at_lease(self, now: float) -> None:
        """Fence this worker before the scheduler gives it up: nothing new is started, nothing served, and Hello will be
        said."""
        if self.fenced or not self.dialer.epoch or not self.lease.over(now, self.dialer.dead_after - self.dialer.beat_every):
            return
        self.fenced = True
        self.dialer.epoch = 0
        self._adjust_intake()
        self.effects.append(effects.Fence(True))

    def _audit(self, now: float, message: m.Audit) -> None:
        """The answer is exact: it stands behind all that was told before."""
        jobs = [job.attempt for job in self.jobs.values() if not job.doomed]
        self._post(m.Inventory(message.number, jobs, list(self.stored.values()) if message.stored else None))

    def _peer_state(self, now: float, message: m.PeerState) -> None:
        peer = self.peers.get(message.worker)
        if message.state and peer is not None:
            self.suspects.add(message.worker)
            self.effects.append(effects.PeerTrouble(peer.address, message.state == "gone"))
        else:
            self.suspects.discard(message.worker)
        if message.state == "gone":
            self.peers.pop(message.worker, None)
            self.suspects.discard(message.worker)

    def receive(self, now: float, messages: Iterable[Any]) -> None:
        """Messages from the scheduler that the session accepted, in order."""
        handlers = self._handlers
        try:
            for message in messages:
                handlers[type(message)](now, message)
        finally:  # what came before a message that breaks the protocol counts
            self._feed(now)

    def _function(self, now: float, message: m.WorkerFunction) -> None:
        old = self.functions.get(message.fn)
        if old is not None and old.blob != message.blob:  # a scheduler without memory numbers anew
            for executor in self.executors.values():
                executor.functions.discard(message.fn)
        self.functions[message.fn] = message

    def _forget_functions(self, now: float, message: m.ForgetFunctions) -> None:
        if not {job.compute.fn for job in self.jobs.values() if not job.doomed}.isdisjoint(message.fns):
            raise ProtocolError(f"functions {message.fns} are to be forgotten, and tasks that are here use them")
        for fn in message.fns:
            self.functions.pop(fn, None)
        for executor in self.active.values():
            known = [fn for fn in message.fns if fn in executor.functions]
            if known and executor.up:
                executor.functions.difference_update(known)
                self.effects.append(effects.Give(executor.number, [m.ForgetFunctions(known)]))

    def _peer(self, now: float, message: m.Peer) -> None:
        self.peers[message.worker] = message
        self.unmappable.discard(message.store)

    def _compute(self, now: float, message: m.Compute) -> None:
        if message.attempt <= 0 or message.attempt in self.jobs or message.attempt in self.stored:
            raise ProtocolError(f"attempt {message.attempt} was given twice, or is none")
        if message.fn not in self.functions:
            raise ProtocolError(f"a task of the unknown function {message.fn} was given")
        if not 0 <= message.limit < float("inf"):  # NaN too
            raise ProtocolError("a task with an impossible time limit was given")
        self._take_up(message)

    def _take_up(self, message: m.Compute) -> None:
        job = Job(message)
        self.jobs[message.attempt] = job
        if message.inputs is not None:
            for one in message.inputs:
                if one.value is None:
                    self._locate(job, one)
        if not job.fetching:
            self.queue.append(job)

    def _locate(self, job: Job, source: m.Input) -> None:
        """A path for a stored input: our own file, one of a worker on this host, or one that must be fetched."""
        own = self.stored.pop(source.attempt, None)
        if own is not None:
            self.stored[source.attempt] = own  # used last
            source.path = self._path(self.identity.store, source.attempt)
            return
        for number in source.holders:
            peer = self.peers.get(number)
            if peer is not None and peer.host == self.identity.host and peer.store not in self.unmappable:
                source.path = self._path(peer.store, source.attempt)
                return
        self._fetch(job, source)

    @staticmethod
    def _path(store: str, attempt: int) -> str:
        return f"{store}/{attempt:x}"

    def _fetch(self, job: Job, source: m.Input) -> None:
        if source.attempt in job.fetching:
            return  # the same input a second time
        job.fetching.add(source.attempt)
        self._transfer(source).jobs.append(job)

    def _transfer(self, source: m.Input) -> Transfer:
        transfer = self.transfers.get(source.attempt)
        if transfer is None:
            transfer = self.transfers[source.attempt] = Transfer(source, list(source.holders))
            self.effects.append(effects.StartFetch(source.attempt, source.size, source.digest, self._in_turn(source.holders)))
        return transfer

    def _in_turn(self, holders: list[int]) -> list[m.Peer]:
        """Where the holders can be reached, each worker beginning with another one of them."""
        peers = [self.peers[number] for number in holders if number in self.peers]
        first = self.identity.incarnation % len(peers) if peers else 0
        return sorted(peers[first:] + peers[:first], key=lambda one: one.worker in self.suspects)

    def _copy(self, now: float, message: m.Copy) -> None:
        """A copy is to be kept here."""
        source = message.source
        stored = self.stored.get(source.attempt)
        if stored is not None:
            self._post(m.Have([stored]))
        else:
            self._transfer(source).copy = True

    def all_busy(self, now: float, attempt: int) -> None:
        """Everybody who was known to have the file sends enough already: ask who else has it."""
        transfer = self.transfers.get(attempt)
        if transfer is not None:
            self._post(m.Locate(transfer.source.task, attempt))

    def _located(self, now: float, message: m.Located) -> None:
        transfer = self.transfers.get(message.attempt)
        if transfer is not None:
            transfer.holders = list(dict.fromkeys([*transfer.holders, *message.holders]))
            self.effects.append(effects.MoreHolders(message.attempt, self._in_turn(message.holders)))

    def received(self, now: float, stored: m.Stored) -> None:
        """A client has put a file into the store."""
        self._keep_stored(stored)
        self._post(m.Have([stored]))

    def rescued(self, now: float, worker: int, dead: bool, stored: list[m.Stored], spilled: list[int]) -> None:
        """The answer to RescueStore."""
        for one in stored:
            self._keep_stored(one)
        self.spilled_files(now, spilled)
        self._post(m.Rescued(worker, dead, stored))

    def damaged(self, now: float, attempts: list[int], text: str) -> None:
        """Files that do not fit their digest were found, and removed."""
        log = m.WorkerLog("damaged files", text)
        if self.dialer.fresh:
            self._post(log)
        else:  # found before the first Hello, which begins a session
            self._early.append(log)
        gone = [attempt for attempt in attempts if self._forget_stored(attempt) is not None]
        if gone:
            self._post(m.Missing(gone))

    def leave(self, now: float, seconds: float) -> None:
        """The process was told to stop: what only it holds is to be handed over."""
        self._post(m.Leaving(seconds))

    def _stop_fetching(self, job: Job) -> None:
        for attempt in job.fetching:
            self.transfers[attempt].jobs.remove(job)

    def _free(self, now: float, message: m.Free) -> None:
        for attempt in message.attempts:
            self._forget_stored(attempt)
        self.effects.append(effects.DeleteFiles(list(message.attempts)))

    def _verify(self, now: float, message: m.Verify) -> None:
        self.effects.append(effects.LookForFiles(list(message.attempts)))

    def _stop(self, now: float, message: m.Stop) -> None:
        self.effects.append(effects.StopWorker(message.text))

    # ---- outcomes ---------------------------------------------------------------------------

    def _outcome(self, now: float, job: Job, outcome: Any) -> None:
        if isinstance(outcome, m.InputLost):
            self._unmapped(job, outcome)
            return
        stored = isinstance(outcome, m.Done) and outcome.value is None
        if job.doomed:
            if stored:
                self.effects.append(effects.DeleteFiles([outcome.attempt]))
            return
        if isinstance(outcome, m.Done):
            if stored:
                self._keep_stored(m.Stored(outcome.task, outcome.attempt, outcome.size, outcome.digest))
            self._post(outcome)
        else:
            self._post(outcome, len(outcome.error.pickled) + len(outcome.error.traceback))

    def _unmapped(self, job: Job, outcome: m.InputLost) -> None:
        """An executor could not open inputs: ours are gone, another worker's are fetched instead of mapped."""
        if job.doomed:
            return
        gone, compute = [], job.compute
        failed = {attempt for attempt, _ in outcome.inputs}
        for source in compute.inputs or ():
            if source.attempt not in failed:
                continue
            if source.attempt in self.stored:
                gone.append(source.attempt)
            for number in source.holders:
                peer = self.peers.get(number)
                if peer is not None and source.path.startswith(peer.store + "/"):
                    self.unmappable.add(peer.store)
            source.path = ""
        if gone:  # perhaps: it may have come since the executor looked
            self.effects.append(effects.LookForFiles(gone))
            self._post(m.InputLost(compute.task, compute.attempt, []))
            return
        job.executor = None
        self._take_up(compute)

    # ---- data -------------------------------------------------------------------------------

    def fetched(self, now: float, attempt: int) -> None:
        """The file of ``attempt`` is in our store, checked."""
        transfer = self.transfers.pop(attempt)
        source = transfer.source
        stored = m.Stored(source.task, attempt, source.size, source.digest)
        self._keep_stored(stored)
        self._post(m.Have([stored]))
        for job in transfer.jobs:
            job.fetching.discard(attempt)
            for one in job.compute.inputs or ():
                if one.attempt == attempt:
                    one.path = self._path(self.identity.store, attempt)
            if not job.fetching:
                self.queue.append(job)
        self._feed(now)

    def fetch_failed(self, now: float, attempt: int, own: str = "") -> None:
        """None of the holders gave it: the jobs that need it go back to the scheduler.  ``own``: it has no room here, which is
        not the holders' fault; the jobs fail."""
        transfer = self.transfers.pop(attempt)
        tried = [(attempt, holder) for holder in transfer.holders]
        if transfer.copy:
            self._post(m.CopyFailed(attempt, [] if own else list(transfer.holders)))
        for job in transfer.jobs:
            job.fetching.discard(attempt)
            del self.jobs[job.attempt]
            for other in job.fetching:
                self.transfers[other].jobs.remove(job)
            if own:
                text = f"an input of {transfer.source.size} bytes can't be stored on {self.identity.name}: {own}"
                self._post(m.Failed(job.compute.task, job.attempt, m.ErrorInfo("StoreError", "", text), 0))
            else:
                self._post(m.InputLost(job.compute.task, job.attempt, tried))

    def verified(self, now: float, attempts: list[int], absent: list[int]) -> None:
        """The answer to LookForFiles."""
        for attempt in absent:
            self._forget_stored(attempt)
        unknown = [attempt for attempt in attempts if attempt not in self.stored]
        if unknown:
            self._post(m.Missing(unknown))
