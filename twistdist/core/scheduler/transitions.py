"""The states of tasks on the scheduler, and every transition between them.  Nothing else assigns ``Task.state``.

docs/architecture.rst shows the table, generated from this one.
"""

from __future__ import annotations

from collections import Counter

import attrs

from twistdist.core.scheduler.activity import Activity
from twistdist.core.scheduler.backlog import Backlog
from twistdist.core.scheduler.records import Task, TaskState

IDLE, WAITING, READY, ASSIGNED, AWAITED, DONE, FAILED = TaskState

#: States of a task whose value is being worked on.
UNFINISHED = frozenset({WAITING, READY, ASSIGNED, AWAITED})


@attrs.frozen(eq=False)
class Cause:
    """Why tasks go from one of the ``sources`` to ``target``; ``unfinished`` is by how much that changes their number."""

    name: str
    sources: tuple[TaskState, ...]
    target: TaskState
    because: str
    unfinished: int


#: All causes, by name.
TABLE: dict[str, Cause] = {}


def _cause(name: str, sources: tuple[TaskState, ...], target: TaskState, because: str) -> Cause:
    (before,) = {source in UNFINISHED for source in sources}
    cause = TABLE[name] = Cause(name, sources, target, because, (target in UNFINISHED) - before)
    return cause


WANTED = _cause("wanted", (IDLE,), WAITING, "it was submitted, or is in a recovery plan")
TO_BE_READ = _cause("to be read", (IDLE,), READY, "its value is needed again and is in the checkpoint store")
TO_BE_SUPPLIED = _cause("to be supplied", (IDLE,), AWAITED, "its value was scattered: a session must supply it")
INPUTS_THERE = _cause(
    "inputs there", (WAITING,), READY, "the last missing input got its value, or the pause after a lost input is over"
)
INPUT_LOST = _cause("input lost", (READY,), WAITING, "all copies of an input were lost")
PAUSED = _cause("paused", (IDLE,), WAITING, "its worker could not fetch an input: it is tried again after a pause")
PLACED = _cause("placed", (READY,), ASSIGNED, "a worker was given an attempt")
SENT_AHEAD = _cause(
    "sent ahead",
    (WAITING,),
    ASSIGNED,
    "the worker that is making its last inputs was given an attempt, to start when they are there",
)
ADOPTED = _cause("adopted", (WAITING, READY), ASSIGNED, "a worker that came back continues an attempt that was considered lost")
OUTRUN = _cause("outrun", (ASSIGNED,), READY, "a worker came back with a later attempt than the running one")
ENDED = _cause(
    "ended",
    (WAITING, READY, ASSIGNED, AWAITED),
    IDLE,
    "work on its value has ended: by an outcome, a loss, a retry, or because nobody wants it",
)
UNCLAIMED = _cause("unclaimed", (AWAITED,), IDLE, "after a restart of the scheduler, no worker brought the value")
ACCEPTED = _cause(
    "accepted", (IDLE,), DONE, "a value was accepted: from an outcome, scattered, or brought by a worker that came back"
)
BROKEN = _cause("broken", (IDLE,), FAILED, "an error was accepted: its own or that of an input")
RETRIED = _cause("retried", (FAILED,), IDLE, "a client wants it to be run again")
LOST = _cause("lost", (DONE,), IDLE, "all copies of its value were lost")
FREED = _cause("freed", (DONE,), IDLE, "nobody needs its value any more")
READ_WAITING = _cause("read waiting", (IDLE,), WAITING, "read from the journal: wanted, without a value")
READ_AWAITED = _cause("read awaited", (IDLE,), AWAITED, "read from the journal: a worker should bring the value")
READ_DONE = _cause("read done", (IDLE,), DONE, "read from the journal with its value")
READ_FAILED = _cause("read failed", (IDLE,), FAILED, "read from the journal with its error")


class Transitions:
    """Moves tasks between states and counts the ``unfinished`` ones; with ``taken``, also how often each row was used.

    ``counts`` has the number of tasks in each state but IDLE, in which records begin and mostly end.
    """

    def __init__(self, activity: Activity, backlog: Backlog) -> None:
        self.activity, self.backlog = activity, backlog
        self.unfinished = 0
        self.counts: dict[TaskState, int] = dict.fromkeys(TaskState, 0)
        self.taken: Counter[tuple[str, str]] | None = None

    def move(self, task: Task, cause: Cause) -> None:
        """Move the task; ``RuntimeError`` for a transition that is not in the table."""
        source = task.state
        if source not in cause.sources:
            raise RuntimeError(f"{task.key} can't go from {source.value} to {cause.target.value}: {cause.name}")
        task.state = cause.target
        if cause.unfinished:
            self.unfinished += cause.unfinished
            task.function.sums.unfinished += cause.unfinished
            if task.options.group:
                self.activity.group(task.options.group).unfinished += cause.unfinished
        counts, target = self.counts, cause.target
        counts[source] -= 1
        counts[target] += 1
        if target is READY:
            self.backlog.add(task)
        elif source is READY:
            self.backlog.drop(task)
        if self.taken is not None:
            self.taken[source.value, cause.name] += 1

    def forget(self, task: Task) -> None:
        """The record is dropped."""
        self.counts[task.state] -= 1
        self.counts[IDLE] += 1

    def by_state(self, total: int) -> dict[str, int]:
        """How many of ``total`` tasks are in each state, without those in which there are none."""
        counts = {**self.counts, IDLE: total - sum(self.counts[state] for state in TaskState if state is not IDLE)}
        return {state.value: count for state, count in counts.items() if count}


def rows() -> list[tuple[str, str, str, str]]:
    """(from, to, name of the cause, because) of each transition."""
    return [
        (source.value, cause.target.value, cause.name, cause.because) for cause in TABLE.values() for source in cause.sources
    ]
