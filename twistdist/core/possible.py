"""What a task that is ready lacks: nobody who is here may ever run it, so it waits without an end unless somebody comes."""

from __future__ import annotations

from collections.abc import Collection

from twistdist.core import placement
from twistdist.core.records import Task, Worker

#: Seconds that such tasks wait before it is told, and between two looks.
LOOK_S = 5.0

#: The lack of everything.
NOBODY = "no worker is connected"

#: Workers that are named in a text.
MOST_NAMED = 8

#: Units of a resource on the wire that make 1.
UNITS = 1_000_000


def lack_of(task: Task, workers: Collection[Worker]) -> str:
    """In words; "" when a worker that is here may run the task, now or when it has a slot."""
    here = [worker for worker in workers if worker.connected]
    if not here:
        return NOBODY
    if any(placement.allowed(task, worker) for worker in here):
        return ""
    named = [worker for worker in here if not task.options.workers or worker.name in task.options.workers]
    if not named and not task.options.allow_other_workers:
        return f"only {_listed(task.options.workers)} may run it; connected are {_listed([one.name for one in here])}"
    wanted = ", ".join(f"{name}={amount / UNITS:g}" for name, amount in (task.options.resources or {}).items())
    return f"it needs {wanted}; {'; '.join(_offer(worker) for worker in (named or here)[:MOST_NAMED])}"


def _offer(worker: Worker) -> str:
    has = ", ".join(f"{name}={amount / UNITS:g}" for name, amount in worker.hello.resources.items())
    return f"{worker.name} has {has or 'no resources'}"


def _listed(names: Collection[str]) -> str:
    shown = [*names][:MOST_NAMED]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
