"""The tasks that are ready to run, by rank."""

from __future__ import annotations

import heapq
from collections import deque

from twistdist.core.scheduler.records import Task, TaskState

_READY = TaskState.READY

#: Bits of a rank, from the low end: task number, inverted depth, batch; the priority is above them.
_NUMBER_BITS, _DEPTH_BITS, _BATCH_BITS = 48, 12, 40
#: Number of entries at which stale ones are first removed.
_COMPACT = 10_000

_DEEPEST = (1 << _DEPTH_BITS) - 1


def rank(priority: int, batch: int, depth: int, number: int) -> int:
    """Smaller runs earlier: higher priority, then earlier batch of submissions, then deeper, then older."""
    low = (batch << _DEPTH_BITS | _DEEPEST - min(depth, _DEEPEST)) << _NUMBER_BITS | number
    return low - (priority << _NUMBER_BITS + _DEPTH_BITS + _BATCH_BITS)


class ReadyQueue:
    """A priority queue that costs next to nothing when tasks arrive in rank order, as a loop of submits makes them.

    Entries are never removed: an entry whose task is not READY when its turn comes is skipped, and a task that became READY
    twice may have two entries, of which the second is skipped.
    """

    __slots__ = ("_compact_at", "_heap", "_row")

    def __init__(self) -> None:
        self._row: deque[Task] = deque()
        self._compact_at = _COMPACT
        self._heap: list[tuple[int, Task]] = []

    def push(self, task: Task) -> None:
        if len(self._row) + len(self._heap) >= self._compact_at:
            self._compact()
        row = self._row
        if not row or row[-1].rank <= task.rank:
            row.append(task)
        else:
            heapq.heappush(self._heap, (task.rank, task))

    def _compact(self) -> None:
        """Drop stale entries, so that they never outnumber the live ones for long."""
        self._row = deque(task for task in self._row if task.state is _READY)
        self._heap = [entry for entry in self._heap if entry[1].state is _READY]
        heapq.heapify(self._heap)
        self._compact_at = max(_COMPACT, 2 * len(self))

    def pop(self) -> Task | None:
        """The ready task with the smallest rank, or None."""
        row, heap = self._row, self._heap
        while row or heap:
            from_row = not heap or (row and row[0].rank <= heap[0][0])
            task = row.popleft() if from_row else heapq.heappop(heap)[1]
            if task.state is _READY:
                return task
        return None

    def __len__(self) -> int:
        """Entries, stale ones included."""
        return len(self._row) + len(self._heap)
