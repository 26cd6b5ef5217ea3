"""Who is alive: heartbeats, suspicion, death by silence, and books that are compared.  docs/network.rst.

The edge hands in every beat (``beat``), calls ``pulse`` every ``Settings.look_every`` seconds, looks whether a process listens
at the addresses in ``probes`` (the answer is ``probed``), and closes the connections of those in ``given_up``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twistdist.core import placement
from twistdist.core.records import Audit, Client, Incident, Worker
from twistdist.core.scatter import Scattered
from twistdist.core.transitions import DONE, READY, WAITING
from twistdist.wire import messages as m

#: Seconds of uninterrupted traffic after which the books are compared by a question, since beats can't tell.
AUDIT_AFTER_S = 10.0

#: The pause before the next question to a worker whose books were right: doubled each time.
AUDIT_PAUSE_S, LONGEST_AUDIT_PAUSE_S = 20.0, 640.0

#: Beats in a row that differ before the books are compared.
MOST_DIFFERENT = 2

#: Seconds in which a worker that has tasks runs none of them, fetches nothing and tells nothing before they are taken back.
STUCK_S = 10.0

#: Seconds that such a worker is given nothing.
REST_S = 30.0

#: Seconds without any progress after which the watchdog looks for a reason, and the longest pause between two looks.
WATCH_S, LONGEST_WATCH_S = 10.0, 80.0

_PRIME = (1 << 61) - 1


def digest_of(attempts: Iterable[int]) -> int:
    """A number that two sets of attempts share if they are equal, and almost never otherwise: a sum of squares modulo a prime.

    It tells accidents apart, not attacks.
    """
    return sum([attempt * attempt % _PRIME for attempt in attempts]) % _PRIME


class Liveness(Scattered):
    """The book of tasks, with an eye on who does what it should."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.probes: list[Worker] = []
        self.given_up: list[Worker] = []
        self.recovering = False  # in the first moments of a scheduler that was started again
        self._pulse_at: float | None = None
        self._progress: tuple[int, ...] = ()
        self._progress_at = 0.0
        self._watch_pause = WATCH_S

    # ---- silence ----------------------------------------------------------------------------

    def pulse(self, now: float) -> None:
        """Look who has been silent.  The time by which this call is late was ours, and is not held against anybody."""
        every = self.settings.look_every
        late = now - self._pulse_at - every if self._pulse_at is not None else 0.0
        self._pulse_at = now
        for worker in list(self.workers.values()):
            if late > every:
                worker.heard_at = min(now, worker.heard_at + late)
            silence = now - worker.heard_at
            if silence >= self.settings.dead_after:
                self.given_up.append(worker)
                self._worker_gone(now, worker, f"nothing was heard of it for {silence:.1f} s (--dead-after)")
            elif silence >= self.settings.suspect_after and not worker.suspect:
                self._suspect(now, worker, f"nothing was heard of it for {silence:.1f} s (--suspect-after)")
        if not self.recovering:
            self._watch(now)
        self._settle(now)

    def _settle(self, now: float) -> None:
        raise TypeError("the scheduler ends its events")

    def _suspect(self, now: float, worker: Worker, cause: str) -> None:
        """No new work for it, and whoever knows it looks elsewhere."""
        worker.suspect = True
        self.placement.remove(worker)
        if worker.retiring is None or not worker.retiring.told:  # else it does what it should
            self._incident(Incident(now, "worker suspected", worker.name, cause))
        self._tell_state(worker, "suspect")
        self._rescue(worker)
        self.probes.append(worker)

    def _heard(self, now: float, worker: Worker) -> None:
        """A sign of life."""
        worker.heard_at = now
        if worker.suspect and worker.connected and self.workers.get(worker.number) is worker:
            worker.suspect = False
            self.placement.update(worker)
            self._tell_state(worker, "")
            self._workers_changed()
            self._look_at_awaited()

    def bytes_came(self, now: float, worker: Worker) -> None:
        """A part of a frame came, which may be a large one on a slow line."""
        if self.workers.get(worker.number) is worker:
            self._heard(now, worker)

    def _tell_state(self, worker: Worker, state: str) -> None:
        for peer in self._peers():
            if worker.number in peer.peers and peer is not worker:
                self.post(peer, m.PeerState(worker.number, state))

    def _peers(self) -> list[Client | Worker]:
        return [*self.clients.values(), *self.workers.values()]

    def _worker_gone(self, now: float, worker: Worker, cause: str, alive: bool = False) -> None:
        known = self.workers.get(worker.number) is worker
        super()._worker_gone(now, worker, cause, alive)
        if known:
            self._tell_state(worker, "gone")
            for peer in self._peers():
                peer.peers.discard(worker.number)

    def probed(self, now: float, worker: Worker, refused: bool) -> None:
        """The answer to a probe.  Nobody listening means that the process is gone; it has a moment to come back."""
        if refused and self.workers.get(worker.number) is worker and not worker.well:
            self._alarm(now + self.settings.worker_grace, self._worker_refused, (worker, worker.heard_at))

    def _worker_refused(self, now: float, subject: tuple[Worker, float]) -> None:
        worker, heard_at = subject
        if worker.heard_at == heard_at and not worker.well:
            self.given_up.append(worker)
            self._worker_gone(now, worker, "its process is gone: its address refuses connections")

    # ---- beats and books ----------------------------------------------------------------------

    def beat(self, now: float, worker: Worker, beat: m.Beat, received: int) -> None:
        """A heartbeat, on a frame that acknowledges our frames up to ``received``."""
        was_suspect = worker.suspect
        self._heard(now, worker)
        worker.beat = beat
        if beat.sent == worker.session.received and received == worker.session.sent and not worker.session.waiting:
            worker.quiet_at = now
            self._compare(now, worker, beat)
        elif now - worker.quiet_at > AUDIT_AFTER_S and now >= worker.audit_after:
            self._audit(now, worker, stored=True)
        self._look_if_stuck(now, worker, beat, received)
        if self.dirty or self._untended or was_suspect:
            self._settle(now)

    def _compare(self, now: float, worker: Worker, beat: m.Beat) -> None:
        """Nothing is on its way: both sides should have the same books."""
        stored = beat.stored >= 0 and beat.stored != digest_of([task.value_attempt for task in worker.holds])
        if stored or beat.jobs != digest_of([task.attempt for task in worker.assigned]):
            worker.differs += 1
            if worker.differs >= MOST_DIFFERENT or stored:
                self._audit(now, worker, stored)
        else:
            worker.differs = 0

    def _audit(self, now: float, worker: Worker, stored: bool) -> None:
        if worker.audit is None:
            files = {task: task.value_attempt for task in worker.holds} if stored else None
            worker.audit = Audit(self._next("audit"), {task: task.attempt for task in worker.assigned}, files)
            self.post(worker, m.Audit(worker.audit.number, stored))

    def _inventory(self, now: float, worker: Worker, message: m.Inventory) -> None:
        """What the worker had when it was asked; whatever it told before that has been heard already."""
        audit = worker.audit
        if audit is None or audit.number != message.number or (audit.stored is not None) != (message.stored is not None):
            self.statistics.stale += 1
            return
        worker.audit, worker.differs = None, 0
        has, given = set(message.jobs), {task.attempt for task in worker.assigned}
        lost = [task for task, attempt in audit.assigned.items()
                if task.worker is worker and task.attempt == attempt and attempt not in has]  # fmt: skip
        strange = [one for one in message.jobs if one not in given and one not in audit.left]
        gone, unknown = self._compare_files(worker, audit, message)
        if not (lost or strange or gone or unknown):
            worker.audit_pause = min(LONGEST_AUDIT_PAUSE_S, max(AUDIT_PAUSE_S, 2 * worker.audit_pause))
            worker.audit_after = now + worker.audit_pause
            return
        worker.audit_pause = 0.0
        text = (f"of the tasks that it was given it has not got {len(lost)} and has {len(strange)} others; of the results "
                f"that it held it has not got {len(gone)} and has {len(unknown)} others")  # fmt: skip
        self._incident(Incident(now, "drift", worker.name, text, requeued=len(lost)))
        for task in lost:
            self._again(task)
        if strange:
            self.post(worker, m.Abort(strange, True))
        if gone:
            self._missing(now, worker, m.Missing(gone))
        if unknown:
            self._have(now, worker, m.Have(unknown))

    @staticmethod
    def _compare_files(worker: Worker, audit: Audit, message: m.Inventory) -> tuple[list[int], list[m.Stored]]:
        """(attempts that it should hold and does not, files that it should not hold)."""
        if audit.stored is None or message.stored is None:
            return [], []
        has = {one.attempt for one in message.stored}
        gone = [attempt for task, attempt in audit.stored.items()
                if task in worker.holds and task.value_attempt == attempt and attempt not in has]  # fmt: skip
        held = {task.value_attempt for task in worker.holds}
        unknown = [one for one in message.stored if one.attempt not in held and one.attempt not in audit.left]
        return gone, unknown

    # ---- no progress ------------------------------------------------------------------------

    def _look_if_stuck(self, now: float, worker: Worker, beat: m.Beat, received: int) -> None:
        """A worker that beats, has tasks, and does nothing with them: they are taken back, and it rests."""
        if beat.running or beat.fetching or not worker.given or worker.session.waiting:
            worker.idle_since = None
            return
        if worker.idle_since is None:
            worker.idle_since, worker.idle_sent = now, worker.session.sent
        elif received < worker.idle_sent:
            worker.idle_since = now  # its tasks are still on their way
        if now - max(worker.idle_since, worker.progress_at) < STUCK_S:
            return
        worker.idle_since, worker.resting = None, True
        tasks = [task for task in worker.assigned if task not in worker.parked]
        self.placement.update(worker)
        text = f"it beats, and has done nothing for {STUCK_S:g} s with the {len(tasks)} tasks that it has"
        self._incident(Incident(now, "worker stuck", worker.name, text, requeued=len(tasks)))
        self.post(worker, m.Abort([task.attempt for task in tasks], True))
        for task in tasks:
            self._again(task)
        self._alarm(now + REST_S, self._rested, worker)

    def _rested(self, now: float, worker: Worker) -> None:
        worker.resting = False
        if self.workers.get(worker.number) is worker:
            self.placement.update(worker)

    def _watch(self, now: float) -> None:
        """Report, once in a while, work that is wanted and does not move although it could."""
        counts = self.statistics
        progress = (counts.done, counts.failed, counts.submitted, counts.reruns)
        if progress != self._progress or not self.unfinished:
            self._progress, self._progress_at, self._watch_pause = progress, now, WATCH_S
            return
        if now - self._progress_at < self._watch_pause:
            return
        self._progress_at = now
        self._watch_pause = min(LONGEST_WATCH_S, 2 * self._watch_pause)
        found = self._why_no_progress()
        if found:
            text = f"nothing has ended for a while, and {found}; this is a bug in twistdist, please report it"
            self._incident(Incident(now, "no progress", f"{self.unfinished} unfinished tasks", text))

    def _why_no_progress(self) -> str:
        """What should not be: a task that could run, or waits for nothing."""
        nobody: set[int] = set()  # options that no idle worker fits, by identity: the tasks of a map share theirs
        for task in self.tasks.values():
            if task.state is READY and task not in self.alone and id(task.options) not in nobody:
                fit = [one for one in self.placement.idle
                       if placement.allowed(task, one) and placement.has_resources(one, task)]  # fmt: skip
                if not fit:
                    nobody.add(id(task.options))
                for able in fit:  # some may be left out, where they can't fetch its inputs and others can
                    if task not in self.restricted or placement.offered(task, able):
                        return f"{task.key} is ready and {able.name} is free"
            if task.state is WAITING and not (task.trouble is not None and task.trouble.paused) and (
                all(one.state is DONE for one in task.inputs)
            ):
                return f"{task.key} waits although all its inputs are there"
        return ""
