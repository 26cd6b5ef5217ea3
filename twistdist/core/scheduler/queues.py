"""Tasks that are ready to run, by which workers may run them."""

from __future__ import annotations

import heapq

import attrs

from twistdist.core.scheduler import placement
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.ready_queue import ReadyQueue
from twistdist.core.scheduler.records import (
    Task,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.slots import Slots


@attrs.define(eq=False)
class Queues:
    """``ready`` tasks may run anywhere, ``restricted`` ones are in the queues of the workers that may run them
    (``Worker.own``), ``isolated`` ones must run alone, those in ``beside`` take no slot.  ``pinned`` ones are computed again
    where their value can be used: on the worker that could not fetch it.
    """

    tuning: Tuning
    registry: Registry
    reach: Reach
    slots: Slots
    ready: ReadyQueue = attrs.field(factory=ReadyQueue)
    restricted: dict[Task, None] = attrs.field(factory=dict)
    isolated: dict[Task, None] = attrs.field(factory=dict)
    pinned: dict[Task, Worker] = attrs.field(factory=dict)
    beside: dict[Task, None] = attrs.field(factory=dict)

    def add(self, task: Task) -> None:
        """The task is ready."""
        if task.options.beside:
            self.beside[task] = None
        elif task.history is not None and task.history.exposed >= self.tuning.isolated_after:
            self.isolated[task] = None
        elif task.options.workers or task.options.resources or task in self.pinned or self.is_cut_off(task):
            self.restricted[task] = None
            self.offer_to_all(task)
        else:
            self.ready.push(task)

    def remove(self, task: Task) -> None:
        """No longer READY, for whatever reason: remove the task from the queues that it can leave."""
        self.restricted.pop(task, None)
        if self.beside:
            self.beside.pop(task, None)
        if self.isolated and task in self.isolated:
            del self.isolated[task]
            for worker in self.registry.workers.values():
                if worker.exclusive is task:
                    self.slots.release(worker)

    def placed(self, task: Task) -> None:
        """The task is given to a worker; entries that are left in the queues no longer count."""
        self.restricted.pop(task, None)
        if self.beside:
            self.beside.pop(task, None)
        if self.isolated:
            self.isolated.pop(task, None)
        if self.pinned:
            self.pinned.pop(task, None)

    def pin(self, task: Task, worker: Worker) -> None:
        """When the task is ready, offer it to this worker alone, as long as the worker is part of the cluster."""
        self.pinned[task] = worker

    def unpin(self, task: Task) -> None:
        """The task may be offered to any worker again."""
        self.pinned.pop(task, None)

    def is_cut_off(self, task: Task) -> bool:
        """Whether some workers can't fetch the inputs although their holders exist."""
        return bool(self.reach.links and task.history is not None and task.history.lost_inputs)

    def offer_to_all(self, task: Task) -> None:
        """To all workers that may run it; those that can't fetch its inputs are left out if there are others."""
        wanted = self.pinned.get(task)
        if wanted is not None and self.registry.is_here(wanted) and placement.allowed(task, wanted):
            self.offer(task, wanted)
            return
        workers = list(self.registry.workers.values())
        if self.reach.links:
            able = [worker for worker in workers if self.reach.can_fetch(worker, task)]
            if any(worker.reachable and placement.allowed(task, worker) for worker in able):
                workers = able
        for worker in workers:
            self.offer(task, worker)

    def offer_again(self) -> None:
        """Tasks were kept from workers that could not fetch their inputs: which workers may run them may have changed."""
        for task in self.restricted:
            if task in self.pinned or (task.history is not None and task.history.lost_inputs):
                self.offer_to_all(task)

    def offer_restricted(self, worker: Worker) -> None:
        """A worker has joined: put the restricted tasks that it may run into its queues too."""
        for task in self.restricted:
            self.offer(task, worker)

    def offer(self, task: Task, worker: Worker) -> None:
        """The worker may take the task, if the task may run there at all."""
        if placement.allowed(task, worker):
            kind = tuple(sorted((task.options.resources or {}).items()))
            heapq.heappush(worker.own.setdefault(kind, []), (task.rank, task))
