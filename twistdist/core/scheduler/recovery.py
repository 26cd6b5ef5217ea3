"""The resilience manager: lost values are recovered where they are needed, and values that return are taken in.

Which tasks to execute again is decided in :mod:`.lineage`; they are started like all other work.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from twistdist.core.scheduler.activity import Activity
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.holdings import Holdings
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import (
    Incident,
    Task,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.timeline import Timeline
from twistdist.core.scheduler.transitions import (
    DONE,
    UNFINISHED,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Recovery:
    """Is informed of every value that a worker no longer holds, or holds again."""

    outputs: Outputs
    registry: Registry
    timeline: Timeline
    reach: Reach
    targets: Targets
    holdings: Holdings
    lifecycle: Lifecycle
    copies: Copies
    activity: Activity

    def lose(self, worker: Worker, tasks: list[Task], incident: Incident) -> None:
        """``worker`` no longer holds these; those that no other worker holds are recovered if they are needed."""
        lost = []
        for task in tasks:
            if task.state is not DONE or task.holders is None:
                continue
            self.holdings.drop(worker, task)
            if task.retention is not None:
                self.targets.look_at(task)
            if not task.holders:
                self.timeline.note(task, f"its only copy was lost with {worker.name}: {incident.cause}")
                self.lifecycle.lose_value(task)
                lost.append(task)
        needed = [task for task in lost if task.needed]
        incident.lost += len(needed)
        if needed and not incident.key:
            incident.key = needed[0].key
        self.lifecycle.recover(needed, incident)
        for task in lost:
            self.registry.reconsider(task)

    def missing(self, now: float, worker: Worker, message: m.Missing) -> None:
        """Files are not where they should be."""
        gone = set(message.attempts)
        lost = [task for task in worker.holds if task.value_attempt in gone]
        if lost:
            incident = Incident(now, "files lost", f"{len(lost)} results of {worker.name}", "the worker has lost the files")
            self.lose(worker, lost, incident)
            self.outputs.incident(incident, worker)

    def have(self, now: float, worker: Worker, message: m.Have) -> None:
        """Values that the worker fetched from others."""
        unknown = []
        source = self.registry.workers.get(message.holder) if message.holder else None
        for stored in message.stored:
            task = self.registry.tasks.get(stored.task)
            if self.holdings.was_called_off(worker, stored.attempt):
                unknown.append(stored.attempt)
            elif task is not None and task.value_attempt == stored.attempt and stored.attempt and self._is_worth_keeping(task):
                for holder in task.holders or ():  # it was fetched from one of these
                    self.reach.unmark(worker, holder.number)
                self._take_in(task, worker)
                if source is not None and source is not worker:
                    self.activity.fetched(now, worker, source, max(0, message.us), task)
            else:
                unknown.append(stored.attempt)
        if unknown:
            self.holdings.refuse(worker, unknown)

    def adopt(self, now: float, worker: Worker, values: Iterable[m.Stored], cause: str) -> None:
        """Take in the stored values that were accepted and are needed; the worker must delete the others."""
        finished = {outcome.attempt for outcome in worker.hello.finished}
        useless, adopted = [], 0
        for stored in values:
            task = self.registry.tasks.get(stored.task)
            if task is None or not stored.attempt or task.value_attempt != stored.attempt or not self._is_worth_keeping(task):
                if stored.attempt not in finished:
                    useless.append(stored.attempt)
                continue
            adopted += 1
            self._take_in(task, worker)
        if useless:
            self.holdings.refuse(worker, useless)
        if adopted:
            self.outputs.incident(Incident(now, "worker back", worker.name, cause, adopted=adopted), worker)

    def _take_in(self, task: Task, worker: Worker) -> None:
        """``worker`` has the accepted value: one more copy, or the first one again."""
        self.copies.arrived(task, worker)
        if task.holders is not None:
            self.holdings.add(worker, task)
            return
        if task.state in UNFINISHED:
            self.lifecycle.stop(task)
        self.timeline.note(task, f"{worker.name} came back with its value")
        self.holdings.add(worker, task)
        self.lifecycle.accept(task)

    def _is_worth_keeping(self, task: Task) -> bool:
        """Whether a stored value of this task is useful: it is stored already, or it is needed and being computed again."""
        return task.holders is not None or (task.state in UNFINISHED and task.needed)
