"""The tasks that are ready to run, by rank."""

from __future__ import annotations

import heapq
from collections import deque

from twistdist.core.records import Task, TaskState

_READY = TaskState.READY

#: Bits of a rank, from the low end: task number, inverted depth, batch; the priority is above them.
_NUMBER_BITS, _DEPTH_BITS, _BATCH_BITS = 48, 12, 40
_DEEPEST = (1 << _DEPTH_BITS) - 1


def rank(priority: int, batch: int, depth: int, number: int) -> int:
    """Smaller runs earlier: higher priority, then earlier batch of submissions, then deeper, then older."""
    low = (batch << _DEPTH_BITS | _DEEPEST - min(depth, _DEEPEST)) << _NUMBER_BITS | number
    return low - (priority << _NUMBER_BITS + _DEPTH_BITS + _BATCH_BITS)


class ReadyQueue:
    """A priority queue that costs next to nothing when tasks come in rank order, as a loop of submits makes them.

    Entries are never removed: an entry whose task is not READY when it comes up is skipped, and a task that became READY
    twice may have two entries, of which the second is skipped.
    """

    __slots__ = ("_heap", "_row")

    def __init__(self) -> None:
        self._row: deque[Task] = deque()
        self._heap: list[tuple[int, Task]] = []

    def push(self, task: Task) -> None:
        row = self._row
        if not row or row[-1].rank <= task.rank:
            row.append(task)
        else:
            heapq.heappush(self._heap, (task.rank, task))

    def pop(self) -> Task | None:
        """The ready task with the smallest rank, or None."""
        row, heap = self._row, self._heap
        while row or heap:
            if not heap or (row and row[0].rank <= heap[0][0]):
                task = row.popleft()
            else:
                task = heapq.heappop(heap)[1]
            if task.state is _READY:
                return task
        return None

    def __len__(self) -> int:
        """Entries, stale ones included."""
        return len(self._row) + len(self._heap)
