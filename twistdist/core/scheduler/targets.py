"""Which values need more than one computed copy: their targets, and those that must be checked."""

from __future__ import annotations

import attrs

from twistdist.core.scheduler.records import (
    Retention,
    Task,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Targets:
    """``tasks`` have a target; ``to_check`` are those whose holders or target have changed since they were checked."""

    tasks: dict[Task, None] = attrs.field(factory=dict)
    to_check: dict[Task, None] = attrs.field(factory=dict)

    @staticmethod
    def of(task: Task) -> Retention:
        """What the task's value needs; created if it needed nothing so far."""
        if task.retention is None:
            task.retention = Retention()
        return task.retention

    def add(self, task: Task) -> None:
        """The value has a target from now on."""
        self.tasks[task] = None

    def keep(self, task: Task) -> None:
        """The value has a target from now on, and must be checked."""
        self.of(task)
        self.tasks[task] = self.to_check[task] = None

    def look_at(self, task: Task) -> None:
        """Its holders or its target have changed."""
        self.to_check[task] = None

    def take_to_check(self) -> dict[Task, None]:
        """Those that must be checked now."""
        to_check, self.to_check = self.to_check, {}
        return to_check

    def forget(self, task: Task) -> None:
        """The value has no target any more."""
        self.tasks.pop(task, None)

    def give(self, task: Task, options: m.Options) -> None:
        """Copies beyond the first; a value that must not be computed twice has two, or a checkpoint, before it is announced."""
        never = options.replay == "never"
        task.retention = Retention(max(options.replicas, 2 if never and not options.checkpoint else 1), announced=not never)
        self.add(task)
