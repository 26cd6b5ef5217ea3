"""The tasks assigned to each worker, and which of its slots and resources are free."""

from __future__ import annotations

import attrs

from twistdist.core.scheduler.ahead import Ahead
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.records import (
    Incident,
    Task,
    Worker,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Slots:
    """Owns ``Worker.assigned``, ``parked``, ``exclusive``, ``load_us``, ``resources`` and ``most``."""

    outputs: Outputs
    placement: Placement
    ahead: Ahead

    @staticmethod
    def take(worker: Worker, task: Task) -> None:
        """The worker has the task's attempt from now on; the caller informs :class:`Placement`."""
        task.worker = worker
        if task.options.resources:
            for name, amount in task.options.resources.items():
                worker.resources[name] -= amount
        worker.assigned[task] = None
        if task.options.beside:
            worker.parked[task] = None
            task.cost_us = 0
        worker.load_us += task.cost_us

    def give_back(self, task: Task) -> None:
        """The attempt is over, or given up: the worker's accounts are adjusted."""
        worker = task.worker
        if worker is None:
            return
        task.worker = None
        worker.assigned.pop(task, None)
        if self.ahead.behind:
            self.ahead.ended(task, worker)
        if worker.audit is not None:
            worker.audit.left.add(task.attempt)
        if worker.parked:
            worker.parked.pop(task, None)
        if worker.exclusive is task:
            worker.exclusive = None
        worker.load_us -= task.cost_us
        if task.options.resources:
            for name, amount in task.options.resources.items():
                worker.resources[name] += amount
        if worker.connected:
            self.placement.update(worker)

    def reserve(self, worker: Worker, task: Task) -> None:
        """The worker gets nothing else: the task will run there alone."""
        worker.exclusive = task
        self.placement.update(worker)

    def release(self, worker: Worker) -> None:
        """The worker is no longer reserved."""
        worker.exclusive = None
        self.placement.update(worker)

    def intake(self, now: float, worker: Worker, message: m.Intake) -> None:
        """The number of tasks that the worker runs at a time has changed."""
        worker.most, worker.why = max(0, min(message.most, worker.hello.slots)), message.why
        if message.why:
            worker.troubles.append(message.why)
            self.outputs.incident(Incident(now, "worker takes less work", worker.name, message.why), worker)
        self.placement.update(worker)

    def parked(self, now: float, worker: Worker, message: m.Parked) -> None:
        """A running task waits for others, or no longer does."""
        task = next((one for one in worker.assigned if one.attempt == message.attempt), None)
        if task is None:
            return
        if message.parked:
            worker.parked[task] = None
            worker.load_us -= task.cost_us
            task.cost_us = 0
            if worker.exclusive is task:  # its children may have nowhere else to run
                worker.exclusive = None
        else:
            worker.parked.pop(task, None)
        self.placement.update(worker)
