"""Workers that must leave."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.records import (
    Retiring,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.targets import Targets
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Leaving:
    """Owns ``Worker.retiring``."""

    alarms: Alarms
    outputs: Outputs
    registry: Registry
    placement: Placement
    targets: Targets
    copies: Copies
    retiring: dict[Worker, None] = attrs.field(factory=dict)

    def retire(self, now: float, worker: Worker, seconds: float, why: str) -> None:
        """``worker`` must leave: it gets no new work, unstarted tasks go elsewhere, sole copies are copied to others."""
        if worker.retiring is not None:
            if worker.retiring.told:  # it asks although it was told to stop: repeat that
                self.outputs.post(worker, m.Stop(f"{worker.name} is leaving: {why}"))
            return
        worker.retiring = Retiring(now + seconds, why)
        self.retiring[worker] = None
        self.placement.update(worker)
        for task in list(worker.holds):
            self.targets.keep(task)
        self.copies.look_at_all()
        if worker.assigned:
            self.outputs.post(worker, m.Recall([task.attempt for task in worker.assigned]))
        self.alarms.set(now + seconds, self._time_is_up, worker)

    def leaving(self, now: float, worker: Worker, message: m.Leaving) -> None:
        """The worker itself was told to stop."""
        self.retire(now, worker, max(0.0, min(message.seconds, 3600.0)), "it was told to stop")

    def of_incarnation(self, incarnation: int) -> Retiring | None:
        """Whether, and until when, that process must leave."""
        return next(
            (
                worker.retiring
                for worker in self.registry.workers.values()
                if worker.retiring is not None and worker.hello.incarnation == incarnation
            ),
            None,
        )

    def _time_is_up(self, now: float, worker: Worker) -> None:
        """Nothing to do: the end of the event calls ``look``."""

    def look(self, now: float) -> None:
        """The end of an event: which workers can be told to stop?"""
        for worker in list(self.retiring):
            self._look_at(now, worker)

    def _look_at(self, now: float, worker: Worker) -> None:
        """Send Stop when nothing is left that could be saved, or when the time is up."""
        leaving = worker.retiring
        if leaving is None or worker.number not in self.registry.workers or leaving.told:
            del self.retiring[worker]
            return
        over = now >= leaving.deadline - 1e-6
        others = any(other.reachable and other.retiring is None for other in self.registry.workers.values())
        sole = [task for task in worker.holds if not self.copies.staying(task, self.targets.of(task))]
        hopeful = any(self.copies.may_be_copied(task) for task in sole)
        if not over and ((worker.assigned and others) or hopeful):
            return
        leaving.told = True
        left = f"; {len(sole)} results were held by it alone and could not be handed over" if sole else ""
        self.outputs.post(worker, m.Stop(f"{worker.name} is leaving: {leaving.why}{left}"))
