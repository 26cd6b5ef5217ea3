"""Answers about the cluster, read from the scheduler's records.  The two orders among them call the scheduler's methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from twistdist.core import possible
from twistdist.core.records import Client, Task, TaskState, Worker
from twistdist.core.refusals import MOST_CIDS
from twistdist.core.sessions import PUBLISHED, UNTIL_ENDED

if TYPE_CHECKING:
    from twistdist.core.scheduler import Scheduler


#: Names under which tasks are kept that are no sessions of users.
HIDDEN = (PUBLISHED, UNTIL_ENDED)

#: Characters of an error that are told by ``why``.
MOST_ERROR_CHARACTERS = 2_000


def answer(scheduler: Scheduler, now: float, client: Client, what: str, args: list[Any], again: bool = False) -> Any:
    """The answer to ``what``, as plain data.  ``LookupError``, ``TypeError`` or ``ValueError`` for an odd question.

    ``again``: it may have been carried out before, and then not be refused for that reason.
    """
    query = (_AGAIN.get(what) if again else None) or _QUERIES.get(what)
    if query is None:
        raise LookupError("this scheduler does not know it")
    return query(scheduler, now, client, args)


def _worker_info(worker: Worker, now: float) -> dict[str, Any]:
    hello = worker.hello
    return {
        "slots": hello.slots,
        "running": min(worker.given, hello.slots),
        "queued": max(0, worker.given - hello.slots),
        "waiting": len(worker.parked),
        "memory": worker.bytes_held,
        "keys": len(worker.holds),
        "address": hello.address,
        "pid": hello.pid,
        "state": _state(worker),
        "last_seen": now - worker.heard_at,
        "lag": (worker.beat.lag if worker.beat is not None else 0) / 1e6,
        "troubles": list(worker.troubles),
    }


def _state(worker: Worker) -> str:
    if not worker.connected:
        return "away"
    if worker.suspect:
        return "suspect"
    if worker.resting:
        return "stuck"
    return "retiring" if worker.retiring is not None else "paused" if worker.why else "connected"


def _workers(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> dict[str, Any]:
    return {worker.name: _worker_info(worker, now) for worker in scheduler.workers.values()}


def _incidents(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> list[dict[str, Any]]:
    """Incidents with their age in seconds, so that clocks need not agree; ``args`` may hold the greatest age wanted."""
    oldest = now - args[0] if args and args[0] is not None else float("-inf")
    found = []
    for incident in scheduler.statistics.incidents:
        if incident.at >= oldest:
            fields = attrs.asdict(incident)
            fields["age"] = now - fields.pop("at")
            found.append(fields)
    return found


def _find(scheduler: Scheduler, client: Client, name: int | str) -> Task | None:
    """A task by this client's cid, or by anybody's key."""
    if isinstance(name, int):
        return client.futures.get(name)
    task = scheduler.keys.get(name)
    if task is None and isinstance(name, str):
        task = next((one for one in scheduler.tasks.values() if one.key == name), None)
    return task


def _who_has(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> dict[str, list[str]]:
    """``args``: cids and keys; none: every task that has a value."""
    if args:
        tasks = [task for name in args if (task := _find(scheduler, client, name)) is not None]
    else:
        tasks = [task for task in scheduler.tasks.values() if task.state is TaskState.DONE]
    return {task.key: [worker.name for worker in task.holders or ()] for task in tasks}


def _has_what(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> dict[str, list[str]]:
    """``args``: worker names; none: all."""
    chosen = [worker for worker in scheduler.workers.values() if not args or worker.name in args]
    return {worker.name: [task.key for task in worker.holds] for worker in chosen}


def _watch(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> list[int]:
    """Take up tasks by key: ``args`` are pairs of a new cid and a key; the answer lists the cids whose key is known."""
    known = []
    if any(type(cid) is not int or not 0 <= cid < MOST_CIDS or cid in client.futures for cid, _ in args):
        raise ValueError("futures have numbers of their own")
    for cid, key in args:
        task = _find(scheduler, client, str(key))
        if task is not None:
            if cid in client.futures:
                raise ValueError(f"the future {cid} comes twice")
            scheduler.watch(task, client, cid)
            known.append(cid)
    return known


def _why(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> dict[str, Any] | None:
    """What is known of the one task that ``args`` names by cid or key; None when there is no such task."""
    task = _find(scheduler, client, args[0])
    if task is None:
        return scheduler.failures.get(args[0])
    lack = possible.lack_of(task, scheduler.workers.values()) if task.state is TaskState.READY else ""
    return {**story_of(task), "lacks": lack}


def story_of(task: Task) -> dict[str, Any]:
    """What has become of a task so far."""
    trouble = task.trouble
    return {
        "key": task.key,
        "state": task.state.value,
        "worker": task.worker.name if task.worker is not None else "",
        "attempt": task.attempt,
        "holders": [worker.name for worker in task.holders or ()],
        "missing": task.missing,
        "inputs": {one.key: one.state.value for one in task.inputs},
        "raised": trouble.raised if trouble else 0,
        "crashes": list(trouble.crashes) if trouble else [],
        "exposed": trouble.exposed if trouble else 0,
        "lost_inputs": trouble.lost_inputs if trouble else 0,
        "error": _error_of(task),
    }


def _error_of(task: Task) -> str:
    if task.error is None:
        return ""
    kind = task.error.kind or task.error.type
    return f"{kind}: {task.error.text}"[:MOST_ERROR_CHARACTERS]


def _lacks(scheduler: Scheduler) -> dict[str, int]:
    """What ready tasks lack to be run at all: how many lack it."""
    found = possible.lacking(scheduler.restricted, scheduler.workers.values(), scheduler.unfinished)
    return {text: len(tasks) or scheduler.unfinished for text, tasks in found.items()}


def _status(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> dict[str, Any]:
    states: dict[str, int] = {}
    for task in scheduler.tasks.values():
        states[task.state.value] = states.get(task.state.value, 0) + 1
    return {
        "epoch": scheduler.epoch,
        "tasks": states,
        "lacks": _lacks(scheduler),
        "workers": _workers(scheduler, now, client, []),
        "sessions": {
            "connected": sum(1 for c in scheduler.clients.values() if c.connected),
            "away": sum(1 for c in scheduler.clients.values() if not c.connected and not c.held),
            "durable": {name: len(c.kept) for name, c in scheduler.held.items() if name not in HIDDEN},
        },
        "datasets": sorted(scheduler.datasets),
        "suspects": sorted(worker.name for worker in scheduler.workers.values() if worker.suspect),
        "recovering": sorted(scheduler.expected) if scheduler.recovering else None,
        "journal": scheduler.journal,
        "functions": len(scheduler.functions),
        **scheduler.statistics.counters(),
        "incidents": len(scheduler.statistics.incidents),
    }


def _clear(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> dict[str, int]:
    """``args``: names of durable sessions that go too."""
    names = list(dict.fromkeys(str(name) for name in args))
    scheduler.check_sessions(names)
    return _clear_again(scheduler, now, client, names)


def _clear_again(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> dict[str, int]:
    """Sessions that are gone have gone before."""
    before = len(scheduler.tasks)
    for name in args:
        scheduler.end_named_session(name)
    sessions = scheduler.clear() + len(args)
    scheduler.collect()
    return {"sessions": sessions, "tasks": before - len(scheduler.tasks)}


def _replicate(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> int:
    """``args``: the number of copies to be kept, then cids and keys; how many of them are known."""
    copies, *names = args
    tasks = [task for name in names if (task := _find(scheduler, client, name)) is not None]
    for task in tasks:
        scheduler.set_target(task, max(0, int(copies)))
    return len(tasks)


def _until_ended(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> int:
    """``args``: cids; how many are known."""
    tasks = [task for cid in args if (task := client.futures.get(cid)) is not None]
    scheduler.keep_until_ended(tasks)
    return len(tasks)


def _short_of_copies(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> int:
    """How many copies are being made; ``args``: cids and keys, none: all values."""
    if not args:
        return scheduler.moving()
    tasks = [task for name in args if (task := _find(scheduler, client, name)) is not None]
    return sum(len(task.care.copying) if task.care is not None else 0 for task in tasks)


def _rebalance(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> int:
    """``args``: cids and keys that may be moved, none: all; how many moves were started."""
    tasks = [task for name in args if (task := _find(scheduler, client, name)) is not None]
    return scheduler.rebalance(tasks if args else None)


def _retire(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> list[str]:
    """``args``: seconds, then names of workers that are to leave; those of them that are part of the cluster."""
    seconds, *names = args
    if not 0 <= float(seconds) < float("inf"):
        raise ValueError(f"{seconds} is no number of seconds")
    chosen = [worker for worker in scheduler.workers.values() if worker.name in names]
    for worker in chosen:
        scheduler.retire(now, worker, float(seconds), f"retired by client {client.name or format(client.number, 'x')[:8]}")
    return [worker.name for worker in chosen]


def _sync(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> None:
    """The answer comes after everything that was said before."""


def _keys(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> list[str]:
    """The keys of all that the client's durable session keeps and its process wants."""
    return [task.key for task in scheduler.session_tasks(client)]


def _take_up(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> list[int]:
    """Watch what the session keeps; ``args`` are pairs of a new cid and a key; the answer lists the cids whose key is known."""
    tasks, known = {task.key: task for task in scheduler.session_tasks(client)}, []
    for cid, key in args:
        if key in tasks:
            scheduler.watch(tasks[key], client, int(cid))
            known.append(int(cid))
    return known


def _end_session(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> int:
    """End the durable session: how many tasks it had."""
    return scheduler.end_session(client)


def _publish(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> None:
    """``args``: a name, the pickled shape, and the cids of what is in it."""
    name, shape, cids = args
    tasks = [client.futures.get(cid) for cid in cids]
    if any(task is None for task in tasks):
        raise ValueError("a future that was cancelled or released can't be published")
    scheduler.publish(str(name), bytes(shape), [task for task in tasks if task is not None])


def _dataset(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> list[Any]:
    """``args``: a name, then new cids or none; the shape, and the keys in order, which the cids watch from now on."""
    name, *cids = args
    dataset = scheduler.datasets.get(name)
    if dataset is None:
        there = ", ".join(sorted(scheduler.datasets)) or "none"
        raise ValueError(f"nothing is published as {name!r}; published names: {there}")
    if cids and len(cids) == len(dataset.tasks):
        for cid, task in zip(cids, dataset.tasks, strict=True):
            scheduler.watch(task, client, int(cid))
    return [dataset.shape, [task.key for task in dataset.tasks]]


def _datasets(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> list[str]:
    return sorted(scheduler.datasets)


def _unpublish(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> None:
    scheduler.unpublish(str(args[0]))


def _shutdown(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> bool:
    scheduler.shutdown(f"shutdown asked for by client {client.name or format(client.number, 'x')[:8]}")
    return True


_QUERIES: dict[str, Callable[[Scheduler, float, Client, list[Any]], Any]] = {
    "workers": _workers,
    "incidents": _incidents,
    "who_has": _who_has,
    "has_what": _has_what,
    "watch": _watch,
    "status": _status,
    "why": _why,
    "clear": _clear,
    "sync": _sync,
    "replicate": _replicate,
    "until_ended": _until_ended,
    "copying": _short_of_copies,
    "rebalance": _rebalance,
    "retire": _retire,
    "keys": _keys,
    "take_up": _take_up,
    "end_session": _end_session,
    "publish": _publish,
    "dataset": _dataset,
    "datasets": _datasets,
    "unpublish": _unpublish,
    "shutdown": _shutdown,
}


def _watch_again(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> list[int]:
    return [cid for cid, _ in args if cid in client.futures] or _watch(scheduler, now, client, args)


def _publish_again(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> None:
    name, shape, cids = args
    dataset = scheduler.datasets.get(str(name))
    if dataset is None or dataset.shape != shape or dataset.tasks != [client.futures.get(cid) for cid in cids]:
        _publish(scheduler, now, client, args)


def _unpublish_again(scheduler: Scheduler, now: float, client: Client, args: list[Any]) -> None:
    if str(args[0]) in scheduler.datasets:
        _unpublish(scheduler, now, client, args)


#: Orders that could not be carried out a second time.
_AGAIN: dict[str, Callable[[Scheduler, float, Client, list[Any]], Any]] = {
    "clear": _clear_again,
    "watch": _watch_again,
    "publish": _publish_again,
    "unpublish": _unpublish_again,
}
