"""Which worker gets the next task, and how many tasks it is given ahead of time.

A worker is *idle* while it has a slot without a task, and *open* while it may be given tasks ahead of time: one in any case,
more while everything it has is expected to take less than ``Tuning.horizon_us`` per slot.  Late binding: a task that waits on
the scheduler can still go anywhere, so the window is no longer than it takes to send the next frame.
"""

from __future__ import annotations

import heapq

from twistdist.core.scheduler.records import Task, TaskState, Worker
from twistdist.core.scheduler.settings import Tuning


class Placement:
    """The workers that can be given work, in rotation."""

    def __init__(self, tuning: Tuning) -> None:
        self._horizon_us, self._max_ahead = tuning.horizon_us, tuning.max_ahead
        self._max_behind = tuning.max_behind
        self._recall_load_us, self._recall_stall_s = tuning.recall_load_us, tuning.recall_stall_s
        self.idle: dict[Worker, None] = {}
        self.open: dict[Worker, None] = {}
        self.ahead: dict[Worker, None] = {}  # those with more tasks than slots

    def update(self, worker: Worker) -> None:
        """``worker`` has changed: put it where it belongs, at the end of the rotation."""
        self.remove(worker)
        if not worker.connected or worker.suspect or worker.resting:
            return
        given, slots, most = worker.given, worker.hello.slots, worker.most
        if given > slots:
            self.ahead[worker] = None
        if worker.exclusive is not None or worker.retiring is not None:
            return
        if given < most:
            self.idle[worker] = None
        elif most < slots:
            return
        elif given == slots or (worker.load_us < slots * self._horizon_us and given < slots * self._max_ahead):
            self.open[worker] = None

    def remove(self, worker: Worker) -> None:
        self.idle.pop(worker, None)
        self.open.pop(worker, None)
        self.ahead.pop(worker, None)

    def __bool__(self) -> bool:
        return bool(self.idle or self.open)

    def choose(self, task: Task) -> Worker:
        """Among the idle workers, else the open ones: the one that holds most bytes of the inputs, else the next in turn."""
        pool = self.idle or self.open
        if task.inputs:
            held: dict[Worker, int] = {}
            for upstream in task.inputs:
                for holder in upstream.holders or ():
                    if holder in pool:
                        held[holder] = held.get(holder, 0) + upstream.size
            if held:
                return max(held, key=held.__getitem__)
        return next(iter(pool))

    @staticmethod
    def next_restricted(worker: Worker) -> Task | None:
        """The first ready task in ``worker``'s own queues whose kind of resources is free."""
        best: list[tuple[int, Task]] | None = None
        for kind in list(worker.own):
            queue = worker.own[kind]
            while queue and queue[0][1].state is not TaskState.READY:
                heapq.heappop(queue)
            if not queue:
                del worker.own[kind]
            elif all(worker.resources.get(name, 0) >= amount for name, amount in kind) and (
                best is None or queue[0][0] < best[0][0]
            ):
                best = queue
        return heapq.heappop(best)[1] if best else None

    @staticmethod
    def next_bound(worker: Worker) -> Task | None:
        """The next ready task without resources in ``worker``'s own queues, if no other worker may run it.

        It can be given ahead of time: nobody would want it back.
        """
        queue = worker.own.get((), [])
        while queue and queue[0][1].state is not TaskState.READY:
            heapq.heappop(queue)
        if queue and queue[0][1].options.workers == (worker.name,) and not queue[0][1].options.allow_other_workers:
            return heapq.heappop(queue)[1]
        return None

    def wished_for(self, task: Task, worker: Worker) -> Worker:
        """``worker``, or an idle one that the task prefers."""
        names = task.options.workers
        if not task.options.allow_other_workers or not names or worker.name in names:
            return worker
        return next((other for other in self.idle if other.name in names and has_resources(other, task)), worker)

    def has_room(self, worker: Worker) -> bool:
        return worker in self.idle or worker in self.open

    def has_room_behind(self, worker: Worker) -> bool:
        """Whether the worker may be sent a task ahead: one in any case, more within the same limits as other tasks."""
        slots, following = worker.hello.slots, len(worker.following)
        if not self.has_room(worker) or following >= slots * self._max_behind:
            return False
        return worker.load_us < slots * self._horizon_us or not following

    def overloaded(self, now: float) -> list[Worker]:
        """The workers from which tasks should be recalled for an idle one, most loaded first."""
        found = []
        for worker in self.ahead:
            stalled = now >= worker.progress_at + self._recall_stall_s
            if (worker.load_us > self._recall_load_us or stalled) and not worker.recalling and now >= worker.recall_after:
                found.append(worker)
        return sorted(found, key=lambda worker: -worker.load_us)


def allowed(task: Task, worker: Worker) -> bool:
    """Whether the task may run on ``worker`` at all, by its names and total resources."""
    names = task.options.workers
    if names and worker.name not in names and not task.options.allow_other_workers:
        return False
    total = worker.hello.resources
    return all(total.get(name, 0) >= amount for name, amount in (task.options.resources or {}).items())


def has_resources(worker: Worker, task: Task) -> bool:
    """Whether the resources that the task needs are free on ``worker`` now."""
    return all(worker.resources.get(name, 0) >= amount for name, amount in (task.options.resources or {}).items())


def offered(task: Task, worker: Worker) -> bool:
    """Whether a restricted task is in the worker's own queues."""
    return any(one is task for queue in worker.own.values() for _, one in queue)
