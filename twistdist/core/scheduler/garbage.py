"""Drops what nobody wants: activity, then value, then record."""

from __future__ import annotations

from typing import Any

import attrs

from twistdist.core.scheduler.holdings import Holdings
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.pace import Pace
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.records import (
    Task,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.stories import story_of
from twistdist.core.scheduler.supplies import Supplies
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.transitions import (
    DONE,
    FAILED,
    UNFINISHED,
    Transitions,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Garbage:
    """``failures`` says, by key, what became of tasks that failed and were forgotten."""

    tuning: Tuning
    pace: Pace
    outputs: Outputs
    registry: Registry
    ledger: Ledger
    transitions: Transitions
    targets: Targets
    holdings: Holdings
    queues: Queues
    supplies: Supplies
    lifecycle: Lifecycle
    failures: dict[str, dict[str, Any]] = attrs.field(factory=dict)

    def collect(self, now: float) -> None:
        """Drop what nobody wants, inputs after what needed them; at most a slice of it."""
        garbage = self.registry.unwanted
        for _ in range(self.pace.most):
            if not garbage:
                return
            self._reconsider(garbage.pop())
        if garbage:
            self.pace.go_on(now)

    def collect_all(self) -> None:
        """Drop all that nobody wants, however long that takes."""
        garbage = self.registry.unwanted
        while garbage:
            self._reconsider(garbage.pop())

    def _reconsider(self, task: Task) -> None:
        """If nobody wants the task, drop its activity, then its value, then its record."""
        if task.watchers or task.pending or task.number not in self.registry.tasks:
            return
        if task.state in UNFINISHED:
            self.lifecycle.stop(task)
        if task.dependents:
            if task.state is DONE and task.holders is not None and not _is_irreplaceable(task):
                self._free(task)
            return
        if task.state is DONE:
            self._free(task)
        self._forget(task)

    def _free(self, task: Task) -> None:
        """DONE and not needed: drop the bytes, keep the recipe."""
        copying = task.retention.copying if task.retention is not None else {}
        for worker in copying:
            self.holdings.call_off(worker, task.value_attempt)
        for worker in (*(task.holders or ()), *copying):
            self.holdings.remove(worker, task)
            self.outputs.post(worker, m.Free([task.value_attempt]))
        self.lifecycle.free_value(task)

    def _forget(self, task: Task) -> None:
        """Drop the record, and with it the task's hold on the records of its inputs."""
        if task.state is FAILED and task.error is not None and task.error.kind != "TaskCancelled":
            self._remember(task)
        elif self.failures and task.chosen is not None:
            self.failures.pop(task.chosen, None)  # an earlier task of this key had failed
        if task.retention is not None and task.retention.source is not None:
            self.supplies.drop(task, task.retention.source)
        self.targets.forget(task)
        self.ledger.forget(task)
        self.queues.unpin(task)
        self.transitions.forget(task)
        self.registry.forget(task)
        self.lifecycle.cut_lineage(task)
        self.registry.drop_function_user(task.function)

    def _remember(self, task: Task) -> None:
        """Remember for a while why a task failed."""
        self.failures.pop(task.key, None)
        self.failures[task.key] = story_of(task)
        if len(self.failures) > self.tuning.max_failures:
            del self.failures[next(iter(self.failures))]

    def find(self, key: str) -> Task | None:
        """The task with that key, unless nobody wants it any more."""
        task = self.registry.keys.get(key)
        if task is not None and not task.watchers and not task.pending:
            self._reconsider(task)
            task = self.registry.keys.get(key)
        return task

    def is_wanted(self, task: Task) -> bool:
        """Whether a future of a session that has not ended wants the task, or something that needs it."""
        clients, seen, todo = self.registry.clients, {task}, [task]
        while todo:
            one = todo.pop()
            if any(clients.get(client.number) is client for client, _ in one.watchers):
                return True
            more = [other for other in one.dependents or () if other.state in UNFINISHED and other not in seen]
            seen.update(more)
            todo += more
        return False


def _is_irreplaceable(task: Task) -> bool:
    """Whether a dropped value could not be made again, although a replay of what depends on it might need it."""
    retention = task.retention
    if retention is not None and (retention.checkpointed or retention.source is not None):
        return retention.source is not None and retention.source.client is None
    return task.options.replay == "never"
