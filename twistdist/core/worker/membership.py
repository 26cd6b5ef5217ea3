"""What the scheduler knows about this worker: registration, heartbeats, the lease, and audits."""

from __future__ import annotations

import attrs

from twistdist.core.digests import digest_of
from twistdist.core.session import Dialer, Session
from twistdist.core.worker.executors import Executors
from twistdist.core.worker.files import Files
from twistdist.core.worker.intake import Intake
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.lease import Lease
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.tuning import Tuning
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Membership:
    """Reports what this worker has; no value is ever unpickled here."""

    tuning: Tuning
    identity: m.HelloWorker
    dialer: Dialer
    outputs: Outputs
    files: Files
    jobs: Jobs
    executors: Executors
    intake: Intake
    lease: Lease = attrs.field(factory=Lease)
    _finished: list[m.Done | m.Failed | m.Crashed] = attrs.field(factory=list)
    _told_at: int = 0
    _early: list[m.WorkerLog] = attrs.field(factory=list)
    _leaving: m.Leaving | None = None
    _leave_at: float = 0.0

    def hello(self, now: float) -> m.HelloWorker:
        """The registration with the whole inventory, for a new session; the lease begins at this moment."""
        self.lease.begin(now)
        if self._told_at != self.dialer.fresh:
            self._told_at, self._finished = self.dialer.fresh, []  # the previous Hello was accepted
            self._early.clear()
        undelivered = self.dialer.session.undelivered()
        finished = self._finished
        finished += [message for message in undelivered if isinstance(message, m.Done | m.Failed | m.Crashed)]
        self.dialer.session = Session()
        who = self.identity
        self._tell_again()
        running = [(job.compute.task, job.attempt) for job in self.jobs.by_attempt.values() if not job.doomed]
        return m.HelloWorker(
            who.session,
            who.name,
            who.incarnation,
            who.pid,
            who.slots,
            who.address,
            who.host,
            who.store,
            who.resources,
            list(self.files.stored.values()),
            running,
            [one for one in finished if self._has(one)],
            who.python,
            who.versions,
        )

    def _has(self, outcome: m.Done | m.Failed | m.Crashed) -> bool:
        """Whether an outcome is still true: its file may be gone by the order of a scheduler that has been replaced since."""
        return not isinstance(outcome, m.Done) or outcome.value is not None or outcome.attempt in self.files.stored

    def _tell_again(self) -> None:
        """Post what a scheduler that has just greeted this worker does not know."""
        for log in self._early:
            self.outputs.post(log)
        self.intake.tell_again()
        for executor in self.executors.parked.values():
            if executor.parked is not None:
                self.outputs.post(m.Parked(executor.parked.attempt, True))

    def welcomed(self, now: float) -> None:
        """The scheduler has answered Hello: what it knows about this worker is right again."""
        if self.intake.fenced:
            self.intake.fence(False)
        self.look_at_lease(now)  # the answer may have taken longer than the lease lasts
        if self._leaving is not None:  # it may be a scheduler that was restarted
            self._say_leaving(now, self._leaving)

    def heard_beat(self, now: float, beat: m.Beat) -> None:
        """A heartbeat from the scheduler."""
        self.lease.echoed(beat)

    def pulse(self, now: float) -> m.Beat:
        """Called every ``dialer.beat_every`` seconds while the session is or was connected.  Return the beat to send."""
        beat = self.lease.next_beat(now, self.dialer)
        jobs = self.jobs.wanted()
        beat.running = sum(1 for one in self.executors.by_number.values() if one.given)
        beat.fetching = sum(1 for job in jobs if job.fetching)
        beat.queued = len(self.jobs.queue)
        beat.jobs = digest_of([job.attempt for job in jobs])
        if beat.number % self.tuning.files_every == 0:
            beat.stored = digest_of(self.files.stored)
        return beat

    def look_at_lease(self, now: float) -> None:
        """Fence this worker before the scheduler gives it up: nothing new is started, nothing is served, and Hello will be
        sent."""
        dialer = self.dialer
        if not self.intake.fenced and dialer.epoch and self.lease.over(now, dialer.dead_after - dialer.beat_every):
            dialer.epoch = 0
            self.intake.fence(True)

    def audit(self, now: float, message: m.Audit) -> None:
        """The answer is exact, since it follows everything that was reported before."""
        jobs = [job.attempt for job in self.jobs.by_attempt.values() if not job.doomed]
        self.outputs.post(m.Inventory(message.number, jobs, list(self.files.stored.values()) if message.stored else None))

    def damaged(self, now: float, attempts: list[int], text: str) -> None:
        """Files that do not match their digest were found and removed."""
        log = m.WorkerLog("damaged files", text)
        if self.dialer.fresh:
            self.outputs.post(log)
        else:  # found before the first Hello, which begins a session
            self._early.append(log)
        gone = [attempt for attempt in attempts if self.files.forget(attempt) is not None]
        if gone:
            self.outputs.post(m.Missing(gone))

    def rescued(self, now: float, worker: int, dead: bool, stored: list[m.Stored], spilled: list[int]) -> None:
        """The answer to RescueStore."""
        for file in stored:
            self.files.keep(file)
        self.files.spilled_files(now, spilled)
        self.outputs.post(m.Rescued(worker, dead, stored))

    def leave(self, now: float, seconds: float, why: str = "", patient: bool = False) -> None:
        """The process must end: what only it holds must be handed over.  Of several ends, the earliest counts."""
        if self._leaving is None or now + seconds < self._leave_at:
            self._leaving, self._leave_at = m.Leaving(seconds, why, patient), now + seconds
            self._say_leaving(now, self._leaving)

    def _say_leaving(self, now: float, leaving: m.Leaving) -> None:
        self.outputs.post(m.Leaving(max(0.0, self._leave_at - now), leaving.why, leaving.patient))

    def left(self) -> None:
        """The executors have ended, and the process is about to: the last thing that is said."""
        if self.dialer.fresh:
            self.outputs.post(m.Left())
