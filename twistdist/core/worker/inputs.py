"""Where inputs come from: our own files, those of a worker on this host, or files that are fetched."""

from __future__ import annotations

import attrs

from twistdist.core.worker import effects
from twistdist.core.worker.files import Files, path_in
from twistdist.core.worker.following import Following
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Job, Transfer
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Inputs:
    """``transfers`` are the files on their way, by attempt; ``unmappable`` are stores on this host that can't be opened."""

    identity: m.HelloWorker
    outputs: Outputs
    files: Files
    jobs: Jobs
    following: Following
    peers: dict[int, m.Peer] = attrs.field(factory=dict)
    transfers: dict[int, Transfer] = attrs.field(factory=dict)
    unmappable: set[str] = attrs.field(factory=set)
    suspects: set[int] = attrs.field(factory=set)

    def take_up(self, now: float, message: m.Compute) -> None:
        """Create a job for this attempt, which can run when all its inputs are on this host."""
        job = self.jobs.add(message)
        if message.inputs is None:
            self.jobs.ready(job)
            return
        for source in message.inputs:
            if source.value is None and not source.awaited:
                self._locate(now, job, source)
        self.following.take_up(job)
        if not job.waits:
            self.jobs.ready(job)

    def _locate(self, now: float, job: Job, source: m.Input) -> None:
        """Find a path for a stored input: our own file, or one of a worker on this host; otherwise fetch it."""
        if self.files.use(source.attempt):
            source.path = self.files.path(source.attempt)
            return
        for number in source.holders:
            peer = self.peers.get(number)
            if peer is not None and peer.host == self.identity.host and peer.store not in self.unmappable:
                source.path = path_in(peer.store, source.attempt)
                return
        self._fetch(now, job, source)

    def _fetch(self, now: float, job: Job, source: m.Input) -> None:
        if source.attempt in job.fetching:
            return  # the same input a second time
        job.fetching.add(source.attempt)
        self._transfer(now, source).jobs.append(job)

    def _transfer(self, now: float, source: m.Input) -> Transfer:
        transfer = self.transfers.get(source.attempt)
        if transfer is None:
            transfer = self.transfers[source.attempt] = Transfer(source, list(source.holders), now)
            self.outputs.do(effects.StartFetch(source.attempt, source.size, source.digest, self._in_turn(source.holders)))
        return transfer

    def _in_turn(self, holders: list[int]) -> list[m.Peer]:
        """Where the holders can be reached; each worker begins with a different one."""
        peers = [self.peers[number] for number in holders if number in self.peers]
        first = self.identity.incarnation % len(peers) if peers else 0
        return sorted(peers[first:] + peers[:first], key=lambda one: one.worker in self.suspects)

    def copy(self, now: float, message: m.Copy) -> None:
        """Keep a copy here."""
        source = message.source
        stored = self.files.stored.get(source.attempt)
        if stored is not None:
            self.outputs.post(m.Have([stored]))
        else:
            self._transfer(now, source).copy = True

    def all_busy(self, now: float, attempt: int) -> None:
        """All known holders of the file are busy: ask who else has it."""
        transfer = self.transfers.get(attempt)
        if transfer is not None:
            self.outputs.post(m.Locate(transfer.source.task, attempt))

    def located(self, now: float, message: m.Located) -> None:
        """Who else has the file."""
        transfer = self.transfers.get(message.attempt)
        if transfer is not None:
            transfer.holders = list(dict.fromkeys([*transfer.holders, *message.holders]))
            self.outputs.do(effects.MoreHolders(message.attempt, self._in_turn(message.holders)))

    def fetched(self, now: float, attempt: int, address: str = "") -> None:
        """The file of ``attempt`` is in our store, verified.  It came over the network from ``address``; "": it did not."""
        transfer = self.transfers.pop(attempt)
        source = transfer.source
        stored = m.Stored(source.task, attempt, source.size, source.digest)
        self.files.keep(stored)
        known = (peer.worker for number in transfer.holders if (peer := self.peers.get(number)) and peer.address == address)
        holder = next(known, 0)
        self.outputs.post(m.Have([stored], holder, round((now - transfer.since) * 1e6)) if holder else m.Have([stored]))
        for job in transfer.jobs:
            job.fetching.discard(attempt)
            for given in job.compute.inputs or ():
                if given.attempt == attempt:
                    given.path = self.files.path(attempt)
            if not job.waits:
                self.jobs.ready(job)

    def fetch_failed(self, now: float, attempt: int, own: str = "") -> None:
        """No holder provided it: the jobs that need it go back to the scheduler.  ``own``: why it can't be stored here, which
        is not the holders' fault; then the jobs fail."""
        transfer = self.transfers.pop(attempt)
        tried = [(attempt, holder) for holder in transfer.holders]
        if transfer.copy:
            self.outputs.post(m.CopyFailed(attempt, [] if own else list(transfer.holders)))
        for job in transfer.jobs:
            job.fetching.discard(attempt)
            self.jobs.forget(job)
            for other in job.fetching:
                self.transfers[other].jobs.remove(job)
            if own:
                text = f"an input of {transfer.source.size} bytes can't be stored on {self.identity.name}: {own}"
                self.outputs.post(m.Failed(job.compute.task, job.attempt, m.ErrorInfo("StoreError", "", text), 0))
            else:
                self.outputs.post(m.InputLost(job.compute.task, job.attempt, tried))

    def stop_fetching(self, job: Job) -> None:
        """Nothing more is fetched for it."""
        for attempt in job.fetching:
            self.transfers[attempt].jobs.remove(job)

    def unmapped(self, now: float, job: Job, outcome: m.InputLost) -> None:
        """An executor could not open inputs: our own are gone; those of another worker are fetched instead of mapped."""
        if job.doomed:
            return
        gone, compute = [], job.compute
        failed = {attempt for attempt, _ in outcome.inputs}
        for source in compute.inputs or ():
            if source.attempt not in failed or source.awaited:
                continue
            if source.attempt in self.files.stored:
                gone.append(source.attempt)
            for number in source.holders:
                peer = self.peers.get(number)
                if peer is not None and source.path.startswith(peer.store + "/"):
                    self.unmappable.add(peer.store)
            source.path = ""
        if gone:  # perhaps: it may have arrived since the executor looked
            self.outputs.do(effects.LookForFiles(gone))
            self.outputs.post(m.InputLost(compute.task, compute.attempt, []))
            return
        job.executor = None
        self.take_up(now, compute)

    def peer(self, now: float, message: m.Peer) -> None:
        """Where another worker can be reached."""
        self.peers[message.worker] = message
        self.unmappable.discard(message.store)

    def peer_state(self, now: float, message: m.PeerState) -> None:
        """Another worker is suspected, gone, or reachable again."""
        peer = self.peers.get(message.worker)
        if message.state and peer is not None:
            self.suspects.add(message.worker)
            self.outputs.do(effects.PeerTrouble(peer.address, message.state == "gone"))
        else:
            self.suspects.discard(message.worker)
        if message.state == "gone":
            self.peers.pop(message.worker, None)
            self.suspects.discard(message.worker)
