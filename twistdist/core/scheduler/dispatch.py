"""Gives ready tasks to workers, ahead of time too, and takes them back from those that have too many."""

from __future__ import annotations

import hashlib

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler import placement
from twistdist.core.scheduler.ahead import Ahead, makers
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.pace import Pace
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
    DONE,
    PLACED,
    SENT_AHEAD,
    WAITING,
    Cause,
    Transitions,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Dispatch:
    """``schedule`` is called at the end of every event."""

    tuning: Tuning
    alarms: Alarms
    pace: Pace
    settings: Settings
    outputs: Outputs
    registry: Registry
    reach: Reach
    transitions: Transitions
    placement: Placement
    slots: Slots
    queues: Queues
    lifecycle: Lifecycle
    ahead: Ahead
    _may_follow: list[Task] = attrs.field(factory=list)
    _recall_alarm: bool = False

    def schedule(self, now: float) -> None:
        """Assign what is ready, as long as a worker has room."""
        place, queues = self.placement, self.queues
        if queues.beside:
            self._place_beside(now)
        if queues.isolated:
            self._place_isolated(now)
        if not place:
            self._may_follow.clear()  # no worker has room behind something either; others are found when one has
            return
        left = self.pace.most
        if queues.restricted:
            left -= self._place_restricted(now, left)
        while place:
            if not left:
                self.pace.go_on(now)
                return
            task = queues.ready.pop()
            if task is None:
                break
            left -= 1
            if task not in queues.isolated and task not in queues.restricted:  # else the entry is stale
                self._assign(now, task, place.choose(task))
        if self._may_follow:
            self._send_ahead(now)
        if place.idle and place.ahead:
            self._recall(now)

    def admitted(self, task: Task) -> None:
        """A new task: it may be sent to where its inputs are being made."""
        if task.state is WAITING:
            self._may_follow.append(task)

    def _send_ahead(self, now: float) -> None:
        """Send tasks to where their last inputs are being made, as far as those workers have room for more."""
        left = self.pace.most
        while self._may_follow:
            if not left:
                self.pace.go_on(now)
                return
            task, left = self._may_follow.pop(), left - 1
            if task.state is WAITING and self._is_ordinary(task):
                worker = makers(task)
                if worker is not None and self.placement.has_room_behind(worker) and placement.allowed(task, worker):
                    self._assign(now, task, worker, SENT_AHEAD)

    def _is_ordinary(self, task: Task) -> bool:
        """Whether nothing but its inputs keeps the task from running on any worker that its options allow."""
        options = task.options
        return not (options.beside or options.resources or task.history is not None or task in self.queues.pinned)

    def _place_restricted(self, now: float, most: int) -> int:
        """Assign at most this many tasks that only some workers may run.  Return how many it were.

        Those that several may run are not given ahead of time: they could not be recalled from one worker for another."""
        place, queues, left = self.placement, self.queues, most
        for worker in [w for w in place.idle if w.own]:
            while left and worker in place.idle and (task := place.next_restricted(worker)) is not None:
                left -= 1
                if task in queues.restricted:  # else it waits elsewhere by now: to run alone, or in the queue for any worker
                    bound = task in queues.pinned or queues.is_cut_off(task)  # it was offered where its inputs can be fetched
                    self._assign(now, task, worker if bound else place.wished_for(task, worker))
        for worker in [w for w in place.open if w.own]:
            while left and worker in place.open and (task := place.next_bound(worker)) is not None:
                left -= 1
                if task in queues.restricted:
                    self._assign(now, task, worker)
        return most - left

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
            if reserved is None or not _may_be_reserved(reserved):
                if reserved is not None:
                    self.slots.release(reserved)
                free = [
                    worker
                    for worker in self.registry.workers.values()
                    if _may_be_reserved(worker) and worker.exclusive is None and placement.allowed(task, worker)
                ]
                if not free:
                    continue
                reserved = min(free, key=lambda worker: (len(worker.assigned), worker.number))
                self.slots.reserve(reserved, task)
            if not reserved.assigned.keys() - reserved.parked.keys() and placement.has_resources(reserved, task):
                self.queues.placed(task)
                self._assign(now, task, reserved)
                if task.worker is not reserved:  # it can't be run at all
                    self.slots.release(reserved)

    def _assign(self, now: float, task: Task, worker: Worker, cause: Cause = PLACED) -> None:
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
        self.transitions.move(task, cause)
        if cause is SENT_AHEAD:
            self.ahead.sent(task, worker)
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
            inputs = [self._input(worker, upstream) for upstream in task.positions or task.inputs]
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
            task.options.trace,
        )
        self.outputs.post(worker, compute, weight)
        for dependent in task.dependents or ():
            if dependent.state is WAITING:
                self._may_follow.append(dependent)
            break  # only the input of a single task has one sent behind it

    def _input(self, worker: Worker, upstream: Task) -> m.Input:
        """Where the worker finds the value of an input."""
        if upstream.state is not DONE:
            return m.Input(upstream.number, upstream.attempt, None, awaited=True)
        holders = self.reach.introduce(worker, upstream.holders or ())
        return m.Input(upstream.number, upstream.value_attempt, upstream.value, upstream.size, upstream.digest, holders)

    def _recall(self, now: float) -> None:
        """There are idle workers, and others with tasks ahead: ask the most loaded one for half of those."""
        for worker in self.placement.overloaded(now):
            given = [
                task
                for task in worker.assigned
                if not (task.options.workers or task.options.resources or task in worker.parked or task in self.ahead.behind)
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


def _may_be_reserved(worker: Worker) -> bool:
    """Whether a task could run there alone."""
    return worker.reachable and worker.retiring is None and not worker.resting and worker.most > 0


def _checkpoint_of(store: str, task: Task) -> str:
    """The path of the task's value in the checkpoint store."""
    name = task.key.encode() + task.recipe  # after a change of function, arguments or inputs, no old result is found
    return f"{store}/{hashlib.blake2b(name, digest_size=20).hexdigest()}"
