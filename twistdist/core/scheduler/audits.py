"""What a worker has and what it should have: compared by digests in every beat, by a question where those differ."""

from __future__ import annotations

import attrs

from twistdist.core.digests import digest_of
from twistdist.core.scheduler.ahead import Ahead
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import (
    Audit,
    Incident,
    Worker,
)
from twistdist.core.scheduler.recovery import Recovery
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Audits:
    """Owns ``Worker.audit`` and the fields that belong to it."""

    tuning: Tuning
    outputs: Outputs
    registry: Registry
    ahead: Ahead
    lifecycle: Lifecycle
    recovery: Recovery

    def beat(self, now: float, worker: Worker, beat: m.Beat, received: int) -> None:
        """A heartbeat, on a frame that acknowledges our frames up to ``received``."""
        worker.beat = beat
        if beat.sent == worker.session.received and received == worker.session.sent and not worker.session.waiting:
            worker.quiet_at = now
            self._compare(now, worker, beat)
        elif now - worker.quiet_at > self.tuning.audit_after_s and now >= worker.audit_after:
            self._ask(now, worker, stored=True)

    def _compare(self, now: float, worker: Worker, beat: m.Beat) -> None:
        """Nothing is in transit: both sides should have the same records."""
        stored = beat.stored >= 0 and beat.stored != digest_of([task.value_attempt for task in worker.holds])
        if stored or beat.jobs != digest_of([task.attempt for task in worker.assigned]):
            worker.differs += 1
            if worker.differs >= self.tuning.max_different or stored:
                self._ask(now, worker, stored)
        else:
            worker.differs = 0

    def _ask(self, now: float, worker: Worker, stored: bool) -> None:
        """Ask the worker what it has; with ``stored``, also which files."""
        if worker.audit is None:
            files = {task: task.value_attempt for task in worker.holds} if stored else None
            worker.audit = Audit(self.registry.next("audit"), {task: task.attempt for task in worker.assigned}, files)
            self.outputs.post(worker, m.Audit(worker.audit.number, stored))

    def inventory(self, now: float, worker: Worker, message: m.Inventory) -> None:
        """What the worker had when it was asked; everything that it reported before has been processed already."""
        audit = worker.audit
        if audit is None or audit.number != message.number or (audit.stored is not None) != (message.stored is not None):
            self.registry.statistics.stale += 1
            return
        worker.audit, worker.differs = None, 0
        has, given = set(message.jobs), {task.attempt for task in worker.assigned}
        lost = [
            task
            for task, attempt in audit.assigned.items()
            if task.worker is worker and task.attempt == attempt and attempt not in has
        ]
        unexpected = [attempt for attempt in message.jobs if attempt not in given and attempt not in audit.left]
        gone, unknown = self._compare_files(worker, audit, message)
        if not (lost or unexpected or gone or unknown):
            worker.audit_pause = min(self.tuning.longest_audit_pause_s, max(self.tuning.audit_pause_s, 2 * worker.audit_pause))
            worker.audit_after = now + worker.audit_pause
            return
        worker.audit_pause = 0.0
        text = (
            f"of the tasks assigned to it, it lacks {len(lost)} and has {len(unexpected)} others; of the results "
            f"that it held, it lacks {len(gone)} and has {len(unknown)} others"
        )
        self.outputs.incident(Incident(now, "drift", worker.name, text, requeued=len(lost)), worker)
        # What was sent behind a lost task would wait for it for ever.
        followers = [task for task in self.ahead.followers(lost) if task.worker is worker]
        unexpected += [task.attempt for task in followers]
        for task in (*followers, *lost):
            self.lifecycle.requeue(task)
        if unexpected:
            self.outputs.post(worker, m.Abort(unexpected, True))
        if gone:
            self.recovery.missing(now, worker, m.Missing(gone))
        if unknown:
            self.recovery.have(now, worker, m.Have(unknown))

    @staticmethod
    def _compare_files(worker: Worker, audit: Audit, message: m.Inventory) -> tuple[list[int], list[m.Stored]]:
        """(attempts that it should hold but does not, files that it should not hold)."""
        if audit.stored is None or message.stored is None:
            return [], []
        has = {file.attempt for file in message.stored}
        gone = [
            attempt
            for task, attempt in audit.stored.items()
            if task in worker.holds and task.value_attempt == attempt and attempt not in has
        ]
        held = {task.value_attempt for task in worker.holds}
        unknown = [file for file in message.stored if file.attempt not in held and file.attempt not in audit.left]
        return gone, unknown
