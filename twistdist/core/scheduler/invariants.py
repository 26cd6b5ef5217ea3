"""What must hold for a scheduler between any two events.  The simulation checks it after every event."""

from __future__ import annotations

from collections import Counter

from twistdist.core.scheduler.backlog import ANY, kind_of
from twistdist.core.scheduler.records import Task, TaskState
from twistdist.core.scheduler.scheduler import Scheduler

IDLE, WAITING, READY, ASSIGNED, AWAITED, DONE, FAILED = TaskState
_UNFINISHED = (WAITING, READY, ASSIGNED, AWAITED)


class Broken(AssertionError):
    """An invariant does not hold."""


def _broken(what: str, subject: object) -> Broken:
    if isinstance(subject, Task):
        subject = f"{subject.key} ({subject.state.value}, missing {subject.missing}, pending {subject.pending})"
    return Broken(f"{what}: {subject}")


def check_scheduler(scheduler: Scheduler) -> None:
    """Raise :class:`Broken` with the first violation found.  O(tasks + edges)."""
    pending: dict[Task, int] = dict.fromkeys(scheduler.parts.registry.tasks.values(), 0)
    for number, task in scheduler.parts.registry.tasks.items():
        if task.number != number:
            raise _broken("a task is filed under its number", task)
        for upstream in task.inputs:
            if upstream not in pending:
                raise _broken("inputs of a kept record are kept", task)
            if upstream.dependents is None or task not in upstream.dependents:
                raise _broken("inputs know their dependents", task)
            if task.state in _UNFINISHED and task.state is not AWAITED:
                pending[upstream] += 1
    for task in scheduler.parts.registry.tasks.values():
        _check_task(scheduler, task, pending[task])
    _check_workers(scheduler)
    unfinished = sum(1 for task in scheduler.parts.registry.tasks.values() if task.state in _UNFINISHED)
    states = {state.value: n for state, n in Counter(task.state for task in scheduler.parts.registry.tasks.values()).items()}
    if scheduler.parts.transitions.by_state(len(pending)) != states:
        raise _broken("tasks are counted by state", states)
    if scheduler.unfinished != unfinished:
        raise _broken("unfinished tasks are counted", f"{scheduler.unfinished}, not {unfinished}")
    _check_backlog(scheduler)
    for client in scheduler.parts.registry.clients.values():
        for cid, wanted in client.futures.items():
            if wanted is not None and (client, cid) not in wanted.watchers:
                raise _broken("a future watches its task", cid)


def _check_backlog(scheduler: Scheduler) -> None:
    backlog = scheduler.parts.backlog
    counted = {(kind, fn): n for kind, counts in [(ANY, backlog.any), *backlog.others.items()] for fn, n in counts.items()}
    ready = [task for task in scheduler.parts.registry.tasks.values() if task.state is READY and not task.options.beside]
    true = Counter((kind_of(task.options), task.function) for task in ready)
    if counted != true:
        raise _broken("ready tasks are counted by what they need", f"{counted}, not {dict(true)}")


def _check_task(scheduler: Scheduler, task: Task, pending: int) -> None:
    if task.pending != pending:
        raise _broken("pending counts the unfinished dependents", task)
    needed = bool(task.watchers or task.pending)
    kept = needed or task.dependents or task in scheduler.parts.registry.unwanted
    if not kept:
        raise _broken("a record that nobody wants and no lineage needs is forgotten", task)
    if needed and task.state is IDLE:
        raise _broken("what is needed is done or being done", task)
    if (task.state is ASSIGNED) != (task.worker is not None):
        raise _broken("exactly the assigned tasks have a worker", task)
    if (task.error is not None) != (task.state is FAILED):
        raise _broken("exactly the failed tasks have an error", task)
    if task.state is DONE:
        if (task.value is None) == (task.holders is None):
            raise _broken("a value is inline or in stores", task)
        if task.value is None and not task.holders:
            raise _broken("a stored value has a holder", task)
    else:
        if task.value is not None or task.holders is not None:
            raise _broken("only done tasks have values", task)
    if task.state is AWAITED:
        source = task.retention.source if task.retention is not None else None
        recovering = scheduler.parts.rejoining.active and task.value_attempt
        comes = source is not None and source.client is not None
        if not (recovering or comes):
            raise _broken("awaited data have a session that supplies them", task)
        if not recovering and task not in scheduler.parts.supplies.awaited:
            raise _broken("awaited data are asked for", task)
    restores = task.retention is not None and task.retention.checkpointed
    if task.state is READY and not restores and not all(given.state is DONE for given in task.inputs):
        raise _broken("a ready task's inputs have values", task)
    if task.state is WAITING:
        missing = sum(1 for given in task.inputs if given.state is not DONE)
        missing += task.history is not None and task.history.paused
        if task.missing != missing:
            raise _broken("missing counts the inputs without a value", task)
        if task.missing <= 0:
            raise _broken("a waiting task waits for something", task)
    known = task.worker is None or scheduler.parts.registry.workers.get(task.worker.number) is task.worker
    if not known:
        raise _broken("the worker of an assigned task is part of the cluster", task)
    for holder in task.holders or ():
        if scheduler.parts.registry.workers.get(holder.number) is not holder:
            raise _broken("holders are known workers", task)
        if task not in holder.holds:
            raise _broken("a holder's list names what it holds", task)


def _check_workers(scheduler: Scheduler) -> None:
    place, isolated = scheduler.parts.placement, scheduler.parts.queues.isolated
    for worker in (*place.idle, *place.open, *place.ahead):
        if not scheduler.parts.registry.is_here(worker):
            raise _broken("only workers of the cluster are given work", worker.name)
    for worker in scheduler.parts.registry.workers.values():
        for task in worker.assigned:
            if task.number not in scheduler.parts.registry.tasks:
                raise _broken("assigned tasks are kept", task)
            if task.worker is not worker or task.state is not ASSIGNED:
                raise _broken("assigned tasks know their worker", task)
        if worker.load_us != sum(task.cost_us for task in worker.assigned):
            raise _broken("load is the sum of costs", worker.name)
        if not all(task in worker.assigned for task in worker.parked):
            raise _broken("parked tasks are assigned", worker.name)
        following = {task: None for task in worker.assigned if task in scheduler.parts.ahead.behind}
        if worker.following.keys() != following.keys():
            raise _broken("tasks that were sent ahead are known to follow", worker.name)
        if worker.exclusive is not None:
            task = worker.exclusive
            if task not in isolated and task not in worker.assigned:
                raise _broken("a reserved worker is reserved for a task", task)
            if scheduler.parts.placement.has_room(worker):
                raise _broken("a reserved worker has no room for other tasks", worker.name)
        if worker.bytes_held != sum(task.size for task in worker.holds):
            raise _broken("bytes held add up", worker.name)
        for task in worker.holds:
            if task.holders is None or worker not in task.holders:
                raise _broken("held tasks know their holder", task)
            if task.number not in scheduler.parts.registry.tasks:
                raise _broken("held tasks are kept", task)
        able = worker.reachable and not worker.resting
        if not able and scheduler.parts.placement.has_room(worker):
            raise _broken("a worker that is away or suspected has no room", worker.name)
        for name, amount in worker.resources.items():
            used = sum((t.options.resources or {}).get(name, 0) for t in worker.assigned)
            if not (amount >= 0 and amount + used == worker.hello.resources[name]):
                raise _broken("resources add up", f"{worker.name} {name}")
    if scheduler.parts.placement.idle and not scheduler.parts.rejoining.active:
        row = [
            task
            for task in scheduler.parts.registry.tasks.values()
            if task.state is READY
            and task not in scheduler.parts.queues.restricted
            and task not in scheduler.parts.queues.beside
            and task not in isolated
        ]
        if row and not scheduler.parts.pace.waiting:
            raise _broken("no task is ready while a worker is idle", [task.key for task in row[:3]])
