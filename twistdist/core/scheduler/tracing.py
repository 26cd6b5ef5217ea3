"""Which client is told of the attempts of traced tasks, and what."""

from __future__ import annotations

from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import Client, Task, Worker
from twistdist.core.scheduler.registry import Registry
from twistdist.wire import messages as m

#: Characters of an error's text, and of its traceback, that are told.
MAX_TEXT, MAX_TRACEBACK = 2_000, 20_000

#: Links to inputs that are told.
MAX_LINKS = 128

#: Tasks that have submitted one another, above which nobody looks further.
MAX_NESTED = 100


def tell(
    outputs: Outputs,
    registry: Registry,
    now: float,
    task: Task,
    worker: Worker,
    us: int,
    outcome: str,
    error: m.ErrorInfo | None = None,
) -> None:
    """Tell the client that the task's current attempt has ended.  To be called before the attempt changes anything."""
    client = _asking(registry, task)
    if client is None:
        return
    links = [(one.options.trace, one.value_attempt) for one in task.inputs if one.options.trace and one.value_attempt]
    kind, text, traceback = ("", "", "") if error is None else (error.kind or error.type, error.text, error.traceback)
    message = m.Traced(
        task.options.trace,
        task.key,
        task.function.name,
        task.options.group,
        task.attempt,
        worker.name,
        now,
        us,
        outcome,
        bool(task.value_attempt),
        kind,
        text[:MAX_TEXT],
        traceback[-MAX_TRACEBACK:],
        links[:MAX_LINKS],
    )
    outputs.post(client, message, len(message.traceback))


def _asking(registry: Registry, task: Task | None) -> Client | None:
    """The client of a user that has submitted the task, or the task that submitted it, and so on."""
    for _ in range(MAX_NESTED):
        if task is None:
            return None
        origin = task.origin
        client = next((one for one in registry.clients.values() if f"{one.number:x}"[:8] == origin), None)
        if client is None or client.placeholder:
            client = next((one for one, _ in task.watchers if not one.placeholder), None)
        if client is None or not client.parent:
            return client
        task = registry.tasks.get(client.parent)
    return None
