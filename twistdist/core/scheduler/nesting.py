"""Tasks that wait for tasks of their own without saying so: in threads, in asyncio, by polling.

A task that calls ``result()`` in its main thread reports that and gives up its slot.  Of a task that waits in another way, only
this is known: it has a client whose tasks do not begin, because every slot that they could use is held by tasks with clients.
Then one of these is parked where it is: it continues, and another executor runs beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from twistdist.core.scheduler import placement
from twistdist.core.scheduler.records import Task, Worker
from twistdist.core.scheduler.transitions import ASSIGNED, READY, UNFINISHED


def slot_to_free(
    parent: Task, wanted: Iterable[Task], workers: Collection[Worker], parents: Collection[Task], limit: int
) -> tuple[Worker, Task] | None:
    """A worker, and one of ``parents`` there, whose slot a task of ``wanted``, or what that task needs, must have to begin.

    ``parents`` are the tasks that have clients; ``parent``, whose client wants the tasks, is chosen if that helps.  None
    while every wanted task either runs, or may begin as soon as a task without a client ends.  ``limit`` tasks are examined.
    """
    full = {worker: holding for worker in workers if worker.connected and (holding := _holding(worker, parents)) is not None}
    if not full:
        return None
    looked_at: set[int] = set()  # options of ready tasks: the tasks of a map share theirs
    for task in _next_to_begin(wanted, limit):
        if task.state is ASSIGNED and (task in parents or not any(task in worker.assigned for worker in full)):
            continue  # it runs, or is next
        if id(task.options) in looked_at:
            continue
        looked_at.add(id(task.options))
        possible = [worker for worker in workers if worker.connected and placement.allowed(task, worker)]
        if possible and all(worker in full for worker in possible):
            first = next((worker for worker in possible if parent in full[worker]), possible[0])
            return first, parent if parent in full[first] else full[first][0]
    return None


def _holding(worker: Worker, parents: Collection[Task]) -> list[Task] | None:
    """The tasks with clients that hold all slots of a worker; None if a slot is free or held by another task."""
    holding = [task for task in worker.assigned if task in parents and task not in worker.parked]
    return holding if len(holding) >= max(1, worker.most) else None


def _next_to_begin(wanted: Iterable[Task], limit: int) -> Iterable[Task]:
    """Those of ``wanted``, or of what they wait for, that are ready or assigned."""
    seen: set[Task] = set()
    todo = [task for task in wanted if task.state in UNFINISHED]
    while todo and len(seen) < limit:
        task = todo.pop()
        if task in seen:
            continue
        seen.add(task)
        if task.state is READY or task.state is ASSIGNED:
            yield task
        else:
            todo.extend(upstream for upstream in task.inputs if upstream.state in UNFINISHED)
