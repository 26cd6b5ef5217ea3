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


def _must(condition: object, what: str, subject: object = "") -> None:
    if not condition:
        if isinstance(subject, Task):
            subject = f"{subject.key} ({subject.state.value}, missing {subject.missing}, pending {subject.pending})"
        raise Broken(f"{what}: {subject}")


def check_scheduler(scheduler: Scheduler) -> None:
    """Raise :class:`Broken` with the first violation found.  O(tasks + edges)."""
    pending: dict[Task, int] = dict.fromkeys(scheduler.parts.registry.tasks.values(), 0)
    for number, task in scheduler.parts.registry.tasks.items():
        _must(task.number == number, "a task is filed under its number", task)
        for upstream in task.inputs:
            _must(upstream in pending, "inputs of a kept record are kept", task)
            _must(upstream.dependents is not None and task in upstream.dependents, "inputs know their dependents", task)
            if task.state in _UNFINISHED and task.state is not AWAITED:
                pending[upstream] += 1
    for task in scheduler.parts.registry.tasks.values():
        _check_task(scheduler, task, pending[task])
    _check_workers(scheduler)
    unfinished = sum(1 for task in scheduler.parts.registry.tasks.values() if task.state in _UNFINISHED)
    states = Counter(task.state.value for task in scheduler.parts.registry.tasks.values())
    _must(scheduler.parts.transitions.by_state(states.total()) == states, "tasks are counted by state", states)
    _must(scheduler.unfinished == unfinished, "unfinished tasks are counted", f"{scheduler.unfinished}, not {unfinished}")
    _check_backlog(scheduler)
    for client in scheduler.parts.registry.clients.values():
        for cid, wanted in client.futures.items():
            _must(wanted is None or (client, cid) in wanted.watchers, "a future watches its task", cid)


def _check_backlog(scheduler: Scheduler) -> None:
    backlog = scheduler.parts.backlog
    counted = {(kind, fn): n for kind, counts in [(ANY, backlog.any), *backlog.others.items()] for fn, n in counts.items()}
    ready = [task for task in scheduler.parts.registry.tasks.values() if task.state is READY and not task.options.beside]
    true = Counter((kind_of(task.options), task.function) for task in ready)
    _must(counted == true, "ready tasks are counted by what they need", f"{counted}, not {dict(true)}")


def _check_task(scheduler: Scheduler, task: Task, pending: int) -> None:
    _must(task.pending == pending, "pending counts the unfinished dependents", task)
    needed = bool(task.watchers or task.pending)
    kept = needed or task.dependents or task in scheduler.parts.registry.unwanted
    _must(kept, "a record that nobody wants and no lineage needs is forgotten", task)
    _must(not (needed and task.state is IDLE), "what is needed is done or being done", task)
    _must((task.state is ASSIGNED) == (task.worker is not None), "exactly the assigned tasks have a worker", task)
    _must((task.error is not None) == (task.state is FAILED), "exactly the failed tasks have an error", task)
    if task.state is DONE:
        _must((task.value is None) != (task.holders is None), "a value is inline or in stores", task)
        _must(task.value is not None or task.holders, "a stored value has a holder", task)
    else:
        _must(task.value is None and task.holders is None, "only done tasks have values", task)
    if task.state is AWAITED:
        source = task.retention.source if task.retention is not None else None
        recovering = scheduler.parts.rejoining.active and task.value_attempt
        comes = source is not None and source.client is not None
        _must(recovering or comes, "awaited data have a session that supplies them", task)
        _must(recovering or task in scheduler.parts.supplies.awaited, "awaited data are asked for", task)
    restores = task.retention is not None and task.retention.checkpointed
    if task.state is READY and not restores:
        _must(all(given.state is DONE for given in task.inputs), "a ready task's inputs have values", task)
    if task.state is WAITING:
        missing = sum(1 for given in task.inputs if given.state is not DONE)
        missing += task.history is not None and task.history.paused
        _must(task.missing == missing, "missing counts the inputs without a value", task)
        _must(task.missing > 0, "a waiting task waits for something", task)
    known = task.worker is None or scheduler.parts.registry.workers.get(task.worker.number) is task.worker
    _must(known, "the worker of an assigned task is part of the cluster", task)
    for holder in task.holders or ():
        _must(scheduler.parts.registry.workers.get(holder.number) is holder, "holders are known workers", task)
        _must(task in holder.holds, "a holder's list names what it holds", task)


def _check_workers(scheduler: Scheduler) -> None:
    place, isolated = scheduler.parts.placement, scheduler.parts.queues.isolated
    for worker in (*place.idle, *place.open, *place.ahead):
        _must(scheduler.parts.registry.is_here(worker), "only workers of the cluster are given work", worker.name)
    for worker in scheduler.parts.registry.workers.values():
        for task in worker.assigned:
            _must(task.number in scheduler.parts.registry.tasks, "assigned tasks are kept", task)
            _must(task.worker is worker and task.state is ASSIGNED, "assigned tasks know their worker", task)
        _must(worker.load_us == sum(task.cost_us for task in worker.assigned), "load is the sum of costs", worker.name)
        _must(all(task in worker.assigned for task in worker.parked), "parked tasks are assigned", worker.name)
        following = {task: None for task in worker.assigned if task in scheduler.parts.ahead.behind}
        _must(worker.following.keys() == following.keys(), "tasks that were sent ahead are known to follow", worker.name)
        if worker.exclusive is not None:
            task = worker.exclusive
            _must(task in isolated or task in worker.assigned, "a reserved worker is reserved for a task", task)
            _must(not scheduler.parts.placement.has_room(worker), "a reserved worker has no room for other tasks", worker.name)
        _must(worker.bytes_held == sum(task.size for task in worker.holds), "bytes held add up", worker.name)
        for task in worker.holds:
            _must(task.holders is not None and worker in task.holders, "held tasks know their holder", task)
            _must(task.number in scheduler.parts.registry.tasks, "held tasks are kept", task)
        able = worker.reachable and not worker.resting
        _must(
            able or not scheduler.parts.placement.has_room(worker),
            "a worker that is away or suspected has no room",
            worker.name,
        )
        for name, amount in worker.resources.items():
            used = sum((t.options.resources or {}).get(name, 0) for t in worker.assigned)
            _must(amount >= 0 and amount + used == worker.hello.resources[name], "resources add up", f"{worker.name} {name}")
    if scheduler.parts.placement.idle and not scheduler.parts.rejoining.active:
        row = [
            task
            for task in scheduler.parts.registry.tasks.values()
            if task.state is READY
            and task not in scheduler.parts.queues.restricted
            and task not in scheduler.parts.queues.beside
            and task not in isolated
        ]
        _must(
            not row or scheduler.parts.pace.waiting, "no task is ready while a worker is idle", [task.key for task in row[:3]]
        )
