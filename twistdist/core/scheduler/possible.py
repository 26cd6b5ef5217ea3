"""What a ready task lacks when no connected worker may run it: it waits until one connects that may."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import attrs

from twistdist.core.scheduler import placement
from twistdist.core.scheduler.records import Task, Worker

#: What every task lacks when there are no workers.
NOBODY = "no worker is connected"

#: Workers that a text names at most.
MAX_NAMED = 8

#: A resource amount of 1, in the units of the wire.
UNITS = 1_000_000


def lack_of(task: Task, workers: Collection[Worker]) -> str:
    """What the task lacks, in words; "" if a connected worker may run it, now or when it has a slot."""
    here = [worker for worker in workers if worker.connected]
    if not here:
        return NOBODY
    if any(placement.allowed(task, worker) for worker in here):
        return ""
    named = [worker for worker in here if not task.options.workers or worker.name in task.options.workers]
    if not named and not task.options.allow_other_workers:
        return f"only {_listed(task.options.workers)} may run it; connected are {_listed([other.name for other in here])}"
    wanted = ", ".join(f"{name}={amount / UNITS:g}" for name, amount in (task.options.resources or {}).items())
    return f"it needs {wanted}; {'; '.join(_offer(worker) for worker in (named or here)[:MAX_NAMED])}"


def lacking(restricted: Iterable[Task], workers: Collection[Worker], unfinished: int) -> dict[str, dict[Task, None]]:
    """What ``restricted`` tasks lack, and which tasks lack it.  Without any worker: ``NOBODY``, and no tasks."""
    if not any(worker.connected for worker in workers):
        return {NOBODY: {}} if unfinished else {}
    found: dict[str, dict[Task, None]] = {}
    known: dict[int, str] = {}  # by options: the tasks of a map share theirs
    for task in restricted:
        text = known.get(id(task.options))
        if text is None:
            text = known[id(task.options)] = lack_of(task, workers)
        if text:
            found.setdefault(text, {})[task] = None
    return found


def _offer(worker: Worker) -> str:
    has = ", ".join(f"{name}={amount / UNITS:g}" for name, amount in worker.hello.resources.items())
    return f"{worker.name} has {has or 'no resources'}"


def _listed(names: Collection[str]) -> str:
    shown = [*names][:MAX_NAMED]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


@attrs.frozen
class Change:
    """``tasks`` (with ``all``: every unfinished one) now lack ``text``, or nothing any more ("").

    ``new``: no task lacked it before.
    """

    text: str
    tasks: list[Task]
    all: bool
    new: bool


class Tracker:
    """What is lacking now and has been reported, with the tasks that wait for it."""

    def __init__(self) -> None:
        self._told: dict[str, dict[Task, None]] = {}

    @property
    def any(self) -> bool:
        """Whether anything is lacking."""
        return bool(self._told)

    def look(self, restricted: Iterable[Task], workers: Collection[Worker], unfinished: int) -> Iterator[Change]:
        """What has changed since the last check.  ``restricted`` tasks are ready and bound to certain workers or resources."""
        found = lacking(restricted, workers, unfinished)
        before, self._told = self._told, found
        for text, tasks in before.items():
            still = found.get(text, {})
            yield Change("", [task for task in tasks if task not in still], text not in found and not tasks, False)
        for text, tasks in found.items():
            earlier = before.get(text, {})
            new = text not in before
            yield Change(text, [task for task in tasks if task not in earlier], new and not tasks, new)
