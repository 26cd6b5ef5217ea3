"""Which workers are alive: silence, suspicion, and death by silence.  docs/network.rst."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.fleet import Fleet
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import (
    Incident,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.scattered import Scattered
from twistdist.core.scheduler.settings import Settings


@attrs.define(eq=False)
class Liveness:
    """The edge reports every sign of life (``heard``), calls ``pulse`` every ``Settings.look_every`` seconds, checks for each
    ``Probe`` whether a process listens at the worker's address (the answer is ``probed``), and closes the connections of
    workers for which it gets a ``GiveUp``.
    """

    alarms: Alarms
    settings: Settings
    outputs: Outputs
    registry: Registry
    reach: Reach
    placement: Placement
    copies: Copies
    scattered: Scattered
    fleet: Fleet
    _pulse_at: float | None = None

    def pulse(self, now: float) -> None:
        """Check who has been silent.  If this call is late, the delay is ours and is not held against any worker."""
        every = self.settings.look_every
        late = now - self._pulse_at - every if self._pulse_at is not None else 0.0
        self._pulse_at = now
        for worker in list(self.registry.workers.values()):
            if late > every:
                worker.heard_at = min(now, worker.heard_at + late)
            silence = now - worker.heard_at
            if silence >= self.settings.dead_after:
                self.outputs.give_up(worker)
                self.fleet.gone(now, worker, f"nothing was received from it for {silence:.1f} s (--dead-after)")
            elif silence >= self.settings.suspect_after and not worker.suspect:
                self._suspect(now, worker, f"nothing was received from it for {silence:.1f} s (--suspect-after)")

    def _suspect(self, now: float, worker: Worker, cause: str) -> None:
        """No new work for it; peers that know it use other workers."""
        worker.suspect = True
        if worker.retiring is None or not worker.retiring.told:  # else it does what it should
            self.outputs.incident(Incident(now, "worker suspected", worker.name, cause), worker)
        self.reach.tell_state(worker, "suspect")
        self.fleet.away(worker)

    def heard(self, now: float, worker: Worker) -> None:
        """A sign of life."""
        worker.heard_at = now
        if worker.suspect and worker.connected and self.registry.is_here(worker):
            worker.suspect = False
            self.placement.update(worker)
            self.reach.tell_state(worker, "")
            self.copies.look_at_all()
            self.scattered.look_at_awaited()

    def bytes_came(self, now: float, worker: Worker) -> None:
        """Part of a frame arrived, possibly a large one on a slow connection."""
        if self.registry.is_here(worker):
            self.heard(now, worker)

    def probed(self, now: float, worker: Worker, refused: bool) -> None:
        """The answer to a probe.  If nothing listens, the process is gone; it has ``worker_grace`` seconds to come back."""
        if refused and self.registry.is_here(worker) and not worker.reachable:
            self.alarms.set(now + self.settings.worker_grace, self._refused, (worker, worker.heard_at))

    def _refused(self, now: float, subject: tuple[Worker, float]) -> None:
        worker, heard_at = subject
        if worker.heard_at == heard_at and not worker.reachable:
            self.outputs.give_up(worker)
            self.fleet.gone(now, worker, "its process is gone: its address refuses connections")
