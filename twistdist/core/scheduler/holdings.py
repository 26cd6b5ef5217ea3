"""Which worker holds which value."""

from __future__ import annotations

import attrs

from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import (
    Task,
    Worker,
)
from twistdist.core.scheduler.targets import Targets
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Holdings:
    """Owns ``Task.holders`` while a value is stored, ``Worker.holds``, ``Worker.bytes_held`` and ``Worker.called_off``."""

    outputs: Outputs
    targets: Targets

    def add(self, worker: Worker, task: Task) -> None:
        """``worker`` has a copy of the value."""
        if task.holders is None:
            task.holders = {}
        task.holders[worker] = None
        if task not in worker.holds:
            worker.holds[task] = None
            worker.bytes_held += task.size
        if worker.retiring is not None:  # it must be copied elsewhere immediately
            self.targets.keep(task)

    @staticmethod
    def remove(worker: Worker, task: Task) -> None:
        """``worker`` has no copy (any more); the caller updates the task's own list."""
        if task in worker.holds:
            if worker.audit is not None:
                worker.audit.left.add(task.value_attempt)
            del worker.holds[task]
            worker.bytes_held -= task.size

    @staticmethod
    def call_off(worker: Worker, attempt: int) -> None:
        """A copy that is on its way to ``worker`` must be deleted, which it may not have heard when it says that it has it."""
        worker.called_off.add(attempt)

    @staticmethod
    def was_called_off(worker: Worker, attempt: int) -> bool:
        """Whether the copy that ``worker`` tells of was called off; once for each."""
        called_off = attempt in worker.called_off
        worker.called_off.discard(attempt)
        return called_off

    def refuse(self, worker: Worker, attempts: list[int]) -> None:
        """``worker`` reported files that are not needed: it must delete them, and an earlier inventory may still name them."""
        if worker.audit is not None:
            worker.audit.left.update(attempts)
        self.outputs.post(worker, m.Free(attempts))

    def drop(self, worker: Worker, task: Task) -> None:
        """``worker`` no longer has a copy of a value that may have others."""
        if task.holders is not None:
            task.holders.pop(worker, None)
        self.remove(worker, task)

    @staticmethod
    def clear(worker: Worker) -> list[Task]:
        """The worker is gone.  Return what it held; the caller updates the tasks' own lists."""
        held = list(worker.holds)
        worker.holds.clear()
        worker.bytes_held = 0
        return held
