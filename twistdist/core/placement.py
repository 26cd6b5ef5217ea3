"""Which worker gets the next task, and how many it is given ahead of time.

A worker is *idle* while it has a slot without a task, and *open* while it may be given tasks ahead: one in any case, more
while all that it has is expected to take less than ``HORIZON_US`` for each slot.  Late binding: a task that waits on the
scheduler can still go anywhere, so the window is no longer than it takes to send the next frame.
"""

from __future__ import annotations

import heapq

from twistdist.core.records import Task, TaskState, Worker

#: Expected work that one slot is given ahead: a few times the round trip of a loaded cluster (measured: 1 to 3 ms).
HORIZON_US = 10_000

#: Upper bound of tasks that one slot is given ahead.
MAX_AHEAD = 512

#: What a task costs beside its function (unpickling, bookkeeping), and what one of unknown duration is taken for.
OVERHEAD_US = 15
UNKNOWN_US = 20_000

#: A worker with tasks ahead is asked for some back for an idle one when they are expected to last longer than this,
RECALL_LOAD_US = 4_000
#: or when it has finished nothing for this many seconds.
RECALL_STALL_S = 0.02


class Placement:
    """The workers that can be given work, in rotation."""

    def __init__(self) -> None:
        self.idle: dict[Worker, None] = {}
        self.open: dict[Worker, None] = {}
        self.ahead: dict[Worker, None] = {}  # those with more tasks than slots

    def update(self, worker: Worker) -> None:
        """Something about ``worker`` changed: put it where it belongs, at the end of the rotation."""
        self.remove(worker)
        if not worker.connected:
            return
        given, slots = len(worker.assigned), worker.hello.slots
        if given > slots:
            self.ahead[worker] = None
        if given < slots:
            self.idle[worker] = None
        elif given == slots or (worker.load_us < slots * HORIZON_US and given < slots * MAX_AHEAD):
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
            for one in task.inputs:
                for holder in one.holders or ():
                    if holder in pool:
                        held[holder] = held.get(holder, 0) + one.size
            if held:
                return max(held, key=held.__getitem__)
        return next(iter(pool))

    def next_restricted(self, worker: Worker) -> Task | None:
        """The first ready task of ``worker``'s own queue that its free resources allow."""
        held_back, found = [], None
        while worker.own and found is None:
            entry = heapq.heappop(worker.own)
            task = entry[2]
            if task.state is not TaskState.READY:
                continue
            if resources_fit(task, worker.resources):
                found = task
            else:
                held_back.append(entry)
        for entry in held_back:
            heapq.heappush(worker.own, entry)
        return found

    def has_room(self, worker: Worker) -> bool:
        return worker in self.idle or worker in self.open

    def overloaded(self, now: float) -> Worker | None:
        """The worker from which tasks should be recalled for an idle one, if any."""
        best, most = None, 0
        for worker in self.ahead:
            if worker.recalling or now < worker.recall_after:
                continue
            stalled = now - worker.progress_at >= RECALL_STALL_S
            if (worker.load_us > RECALL_LOAD_US or stalled) and worker.load_us > most:
                best, most = worker, worker.load_us
        return best


def resources_fit(task: Task, free: dict[str, float]) -> bool:
    """Whether ``free`` has all that the task asks for."""
    wanted = task.options.resources
    return not wanted or all(free.get(name, 0.0) >= amount for name, amount in wanted.items())


def allowed(task: Task, worker: Worker) -> bool:
    """Whether the task may run on ``worker`` at all (its names and total resources)."""
    names = task.options.workers
    if names and worker.name not in names and not task.options.allow_other_workers:
        return False
    return resources_fit(task, worker.hello.resources)
