"""What has happened to a task so far, and what a worker does, as plain data."""

from __future__ import annotations

from typing import Any

from twistdist.core.scheduler.records import Task, TaskState, Worker
from twistdist.core.scheduler.timeline import computed

#: Characters of an error, and of its traceback, that ``why`` tells: the last ones of a traceback say most.
MAX_ERROR_CHARACTERS, MAX_TRACEBACK_CHARACTERS = 2_000, 8_000


def story_of(task: Task) -> dict[str, Any]:
    """What has happened to a task so far."""
    history = task.history
    return {
        "key": task.key,
        "state": task.state.value,
        "worker": task.worker.name if task.worker is not None else "",
        "attempt": task.attempt,
        "holders": [worker.name for worker in task.holders or ()],
        "missing": task.missing if task.state is TaskState.WAITING else 0,
        "inputs": {upstream.key: upstream.state.value for upstream in task.inputs},
        "raised": history.raised if history else 0,
        "crashes": list(history.crashes) if history else [],
        "exposed": history.exposed if history else 0,
        "lost_inputs": history.lost_inputs if history else 0,
        "error": _error_of(task),
        "traceback": task.error.traceback[-MAX_TRACEBACK_CHARACTERS:] if task.error is not None else "",
        "ran_on": _ran_on(task),
        "events": _events_of(task),
    }


def _ran_on(task: Task) -> list[str]:
    """The workers that ran its last attempts, as far as that is known."""
    running = task.worker.name if task.worker is not None else ""
    made, failed = task.made[1] if task.made is not None else "", task.error.worker if task.error is not None else ""
    return [name for name in dict.fromkeys((running, made, failed)) if name]


def aged(story: dict[str, Any], now: float) -> dict[str, Any]:
    """The story with the ages of its events in seconds instead of their times, so that clocks need not agree."""
    return {**story, "events": [[max(0.0, now - at), text] for at, text in story["events"]]}


def _events_of(task: Task) -> list[tuple[float, str]]:
    """What happened, in order: (time, text)."""
    events = [(task.since, "it was submitted")] if task.since is not None else []
    events += [(event.at, event.text) for event in task.events or ()]
    if task.made is not None:
        made = computed(task.made)
        events.append((made.at, made.text))
    if task.worker is not None:
        events.append((task.given_at, f"{task.worker.name} was given attempt {task.attempt}"))
    return events


def _error_of(task: Task) -> str:
    if task.error is None:
        return ""
    kind = task.error.kind or task.error.type
    return f"{kind}: {task.error.text}"[:MAX_ERROR_CHARACTERS]


def info_of(worker: Worker, now: float) -> dict[str, Any]:
    """What a worker does now: the fields of ``interfaces.WorkerInfo``."""
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
        "retired_by": worker.retiring.by if worker.retiring is not None else "",
    }


def load_of(worker: Worker, now: float) -> list[Any]:
    """``[name, slots, running tasks, idle seconds, bytes held, values held, state, resources, parked tasks]``.

    A worker that has any task has been idle for 0 seconds.  It is ``"leaving"`` if it can't be told to stay any more.
    """
    hello = worker.hello
    idle = 0.0 if worker.assigned else max(0.0, now - worker.progress_at)
    leaves = worker.retiring is not None and not worker.retiring.careful
    state = "leaving" if leaves or (worker.retiring is not None and worker.retiring.told) else _state(worker)
    running = min(worker.given, hello.slots)
    held = worker.bytes_held, len(worker.holds)
    return [hello.name, hello.slots, running, idle, *held, state, dict(hello.resources), len(worker.parked)]


def _state(worker: Worker) -> str:
    if not worker.connected:
        return "away"
    if worker.suspect:
        return "suspect"
    if worker.resting:
        return "stuck"
    return "retiring" if worker.retiring is not None else "paused" if worker.why else "connected"
