"""What has happened to a task so far, as plain data."""

from __future__ import annotations

from typing import Any

from twistdist.core.scheduler.records import Task

#: Characters of an error that ``why`` shows.
MAX_ERROR_CHARACTERS = 2_000


def story_of(task: Task) -> dict[str, Any]:
    """What has happened to a task so far."""
    history = task.history
    return {
        "key": task.key,
        "state": task.state.value,
        "worker": task.worker.name if task.worker is not None else "",
        "attempt": task.attempt,
        "holders": [worker.name for worker in task.holders or ()],
        "missing": task.missing,
        "inputs": {upstream.key: upstream.state.value for upstream in task.inputs},
        "raised": history.raised if history else 0,
        "crashes": list(history.crashes) if history else [],
        "exposed": history.exposed if history else 0,
        "lost_inputs": history.lost_inputs if history else 0,
        "error": _error_of(task),
    }


def _error_of(task: Task) -> str:
    if task.error is None:
        return ""
    kind = task.error.kind or task.error.type
    return f"{kind}: {task.error.text}"[:MAX_ERROR_CHARACTERS]
