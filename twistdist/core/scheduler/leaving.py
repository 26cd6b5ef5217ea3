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
from twistdist.core.scheduler.scattered import Scattered
from twistdist.core.scheduler.targets import Targets
from twistdist.wire import messages as m

#: Seconds that a worker may take to leave by its own account.
LONGEST_LEAVE_S = 3600.0


@attrs.define(eq=False)
class Leaving:
    """Owns ``Worker.retiring``."""

    alarms: Alarms
    outputs: Outputs
    registry: Registry
    placement: Placement
    targets: Targets
    copies: Copies
    scattered: Scattered
    retiring: dict[Worker, None] = attrs.field(factory=dict)

    def retire(
        self,
        now: float,
        worker: Worker,
        seconds: float,
        why: str,
        by: str = "",
        patient: bool = False,
        careful: bool = False,
    ) -> None:
        """``worker`` must leave: it gets no new work, unstarted tasks go elsewhere, sole copies are copied to others.

        If it is leaving already, an earlier end replaces a later one, and one that is not careful replaces one that is.

        ``by``: the client that has ordered it.  ``patient``: it waits for workers to copy to.  ``careful``: it stays if it
        can't leave in that time without losing a running task or a value.
        """
        leaving = worker.retiring
        if leaving is not None and leaving.told:  # it asks although it was told to stop: repeat that
            self.outputs.post(worker, m.Stop(f"{worker.name} is leaving: {why}"))
            return
        stronger = leaving is not None and leaving.careful and not careful
        if leaving is not None and now + seconds >= leaving.deadline and not stronger:
            return
        by = by or (leaving.by if leaving is not None else "")
        worker.retiring = Retiring(now + seconds, why, by, patient, careful=careful)
        self.alarms.set(now + seconds, self._time_is_up, worker)
        if leaving is not None:
            return
        self.retiring[worker] = None
        self.placement.update(worker)
        for task in list(worker.holds):
            self.targets.keep(task)
        self.copies.look_at_all()
        if worker.assigned:
            self.outputs.post(worker, m.Recall([task.attempt for task in worker.assigned]))

    def dismiss(self, now: float, workers: list[Worker], seconds: float, why: str, by: str) -> None:
        """These workers leave if nothing is lost by it; of those that were dismissed before, all others stay."""
        for worker in list(self.retiring):
            leaving = worker.retiring
            if leaving is not None and leaving.careful and not leaving.told and worker not in workers:
                self._keep(worker)
        for worker in workers:
            if worker.retiring is None:
                self.retire(now, worker, seconds, why, by, careful=True)

    def _keep(self, worker: Worker) -> None:
        """The worker stays, and is given work again."""
        worker.retiring = None
        self.retiring.pop(worker, None)
        self.placement.update(worker)
        self.copies.look_at_all()
        self.scattered.look_at_awaited()

    def leaving(self, now: float, worker: Worker, message: m.Leaving) -> None:
        """The worker itself must end."""
        seconds = max(0.0, min(message.seconds, LONGEST_LEAVE_S))
        self.retire(now, worker, seconds, message.why or "it was told to stop", patient=message.patient)

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
            self.retiring.pop(worker, None)
            return
        over = now >= leaving.deadline - 1e-6
        sole = [task for task in worker.holds if not self.copies.staying(task, self.targets.of(task))]
        hopeful = any(self.copies.may_be_copied(task) for task in sole)
        if leaving.careful and (over or (sole and not hopeful)):
            self._keep(worker)
            return
        if leaving.careful and (worker.assigned or sole):
            return
        if not over and (worker.assigned or hopeful or (sole and leaving.patient)):
            return
        leaving.told = True
        left = f"; {len(sole)} results were held by it alone and could not be handed over" if sole else ""
        self.outputs.post(worker, m.Stop(f"{worker.name} is leaving: {leaving.why}{left}"))
