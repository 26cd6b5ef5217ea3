"""Gives ready tasks to workers, ahead of time too, and takes them back from those that have too many."""

from __future__ import annotations

import hashlib

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler import placement, transitions
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import (
    Task,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Settings, Tuning
from twistdist.core.scheduler.slots import Slots
from twistdist.core.scheduler.transitions import (
    Transitions,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Dispatch:
    """``schedule`` is called at the end of every event."""

    tuning: Tuning
    alarms: Alarms
    settings: Settings
    outputs: Outputs
    registry: Registry
    reach: Reach
    transitions: Transitions
    placement: Placement
    slots: Slots
    queues: Queues
    lifecycle: Lifecycle
    _recall_alarm: bool = False

    def schedule(self, now: float) -> None:
        """Assign what is ready, as long as a worker has room."""
        place, queues = self.placement, self.queues
        if queues.beside:
            self._place_beside(now)
        if queues.isolated:
            self._place_isolated(now)
        if not place:
            return
        # Restricted tasks are never given ahead of time: they could not be recalled for another worker that may run them.
        for worker in [w for w in place.idle if w.own] if queues.restricted else ():
            while worker in place.idle and (task := place.next_restricted(worker)) is not None:
                if task in queues.restricted:  # else it waits elsewhere by now: to run alone, or in the queue for any worker
                    bound = task in queues.pinned or queues.is_cut_off(task)  # it was offered where its inputs can be fetched
                    self._assign(now, task, worker if bound else place.wished_for(task, worker))
        while place:
            task = queues.ready.pop()
            if task is None:
                break
            if task not in queues.isolated and task not in queues.restricted:  # else the entry is stale
                self._assign(now, task, place.choose(task))
        if place.idle and place.ahead:
            self._recall(now)

    def _place_beside(self, now: float) -> None:
        """Tasks that take no slot: each starts at once on the worker that it names."""
        for task in list(self.queues.beside):
            named = [worker for worker in self.registry.workers.values() if worker.name in task.options.workers]
            if named:
                self._assign(now, task, named[0])

    def _place_isolated(self, now: float) -> None:
        """Tasks that must run alone: each reserves a worker, and starts when that worker has nothing else to run."""
        for task in list(self.queues.isolated):
            reserved = next((worker for worker in self.registry.workers.values() if worker.exclusive is task), None)
            if reserved is None or not reserved.reachable or reserved.resting or not reserved.most:
                if reserved is not None:
                    self.slots.release(reserved)
                free = [
                    worker
                    for worker in self.registry.workers.values()
                    if worker.reachable
                    and not worker.resting
                    and worker.most
                    and worker.exclusive is None
                    and placement.allowed(task, worker)
                ]
                if not free:
                    continue
                reserved = min(free, key=lambda worker: (worker.given, worker.number))
                self.slots.reserve(reserved, task)
            if not reserved.given and placement.has_resources(reserved, task):
                self.queues.placed(task)
                self._assign(now, task, reserved)
                if task.worker is not reserved:  # it can't be run at all
                    self.slots.release(reserved)

    def _assign(self, now: float, task: Task, worker: Worker) -> None:
        """Give the worker an attempt of the task; a task that is too large for a frame fails."""
        weight = len(task.args) + sum([len(upstream.value) for upstream in task.inputs if upstream.value is not None])
        if weight > self.tuning.max_compute_bytes:
            text = (
                f"the arguments and small inputs of {task.key} are {weight} bytes together, more than "
                f"{self.tuning.max_compute_bytes}; combine the inputs in a tree of tasks"
            )
            self.lifecycle.fail(task, m.ErrorInfo("SerializationError", "", text, key=task.key))
            return
        mean = task.function.mean_us
        cost = int(mean) + self.tuning.overhead_us if mean >= 0 else self.tuning.unknown_us
        attempt = self.registry.next_attempt()
        self.transitions.move(task, transitions.PLACED)
        task.attempt, task.cost_us, task.given_at = attempt, cost, now
        self.queues.placed(task)
        if not worker.assigned:
            worker.progress_at = now
        self.slots.take(worker, task)
        self.placement.update(worker)
        function = task.function
        if function.number not in worker.functions:
            worker.functions.add(function.number)
            self.outputs.post(worker, m.WorkerFunction(function.number, function.name, function.blob), len(function.blob))
        inputs = None
        restore = task.retention is not None and task.retention.checkpointed
        if task.inputs and not restore:
            inputs = []
            for upstream in task.positions or task.inputs:
                inputs.append(
                    m.Input(
                        upstream.number,
                        upstream.value_attempt,
                        upstream.value,
                        upstream.size,
                        upstream.digest,
                        self.reach.introduce(worker, upstream.holders or ()),
                    )
                )
        name = _checkpoint_of(self.settings.checkpoints, task) if task.options.checkpoint else ""
        compute = m.Compute(
            task.number,
            attempt,
            function.number,
            task.args,
            inputs,
            task.options.time_limit,
            int(mean),
            task.key,
            name,
            restore,
            task.options.beside,
        )
        self.outputs.post(worker, compute, weight)

    def _recall(self, now: float) -> None:
        """There are idle workers, and others with tasks ahead: ask the most loaded one for half of those."""
        for worker in self.placement.overloaded(now):
            given = [
                task
                for task in worker.assigned
                if not task.options.workers and not task.options.resources and task not in worker.parked
            ]
            ahead = min(len(given), worker.given - worker.hello.slots)
            if ahead > 0:
                worker.recalling = True
                self.registry.statistics.recalls += 1
                self.outputs.post(worker, m.Recall([task.attempt for task in given[len(given) - (ahead + 1) // 2 :]]))
                return
        if not self._recall_alarm:
            self._recall_alarm = True
            self.alarms.set(now + self.tuning.recall_stall_s, self._look_again, None)

    def _look_again(self, now: float, subject: None) -> None:
        """The end of this turn checks whether a worker is overloaded now."""
        self._recall_alarm = False

    def recalled(self, now: float, worker: Worker, message: m.Recalled) -> None:
        """The worker returns these attempts, which it had not begun."""
        worker.recalling = False
        if not message.attempts:
            worker.recall_after = now + 2 * self.tuning.recall_stall_s
        given = {task.attempt: task for task in worker.assigned}
        for attempt in message.attempts:
            task = given.pop(attempt, None)  # an attempt that is listed twice must be requeued once
            if task is not None:
                self.lifecycle.requeue(task)


def _checkpoint_of(store: str, task: Task) -> str:
    """The path of the task's value in the checkpoint store."""
    name = task.key.encode() + task.recipe  # after a change of function, arguments or inputs, no old result is found
    return f"{store}/{hashlib.blake2b(name, digest_size=20).hexdigest()}"
