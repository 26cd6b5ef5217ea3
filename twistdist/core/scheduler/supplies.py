"""Scattered data that are needed again: which session can supply them, and to which worker it is asked to send them."""

from __future__ import annotations

import attrs

from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import (
    Source,
    Task,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Supplies:
    """Owns ``Source``, and ``awaited``: the data that a session is asked for."""

    outputs: Outputs
    registry: Registry
    reach: Reach
    ledger: Ledger
    awaited: dict[Task, None] = attrs.field(factory=dict)

    def begin(self, task: Task, source: Source) -> None:
        """The data are needed (again)."""
        source.tries = 0
        source.failed.clear()
        self.ask(task, source)

    def ask(self, task: Task, source: Source) -> None:
        """Ask the session to send the data to one worker; without any worker they wait for one."""
        self.awaited[task] = None
        source.supplying = None
        free = [
            worker
            for worker in self.registry.workers.values()
            if worker.reachable
            and worker.retiring is None
            and worker not in source.failed
            and (not source.workers or worker.name in source.workers)
        ]
        if free and source.client is not None:
            chosen = min(free, key=lambda worker: (worker.bytes_held, worker.number))
            source.supplying = chosen
            numbers = self.reach.introduce(source.client, [chosen])
            self.outputs.post(source.client, m.Supply(source.cid, task.number, task.value_attempt, numbers))

    def stop_asking(self, task: Task) -> None:
        """The data have arrived, or never will."""
        self.awaited.pop(task, None)

    def record(self, task: Task) -> None:
        """The sessions that can supply the data have changed."""
        if task.number in self.registry.tasks and task.function is self.registry.data_function:
            self.ledger.data(task)

    @staticmethod
    def next_source(source: Source) -> None:
        """The session that supplied the data no longer can; another one that scattered the same may."""
        source.client, source.cid = source.others.pop(0) if source.others else (None, 0)

    def drop(self, task: Task, source: Source) -> None:
        """The data will not be requested again."""
        self.awaited.pop(task, None)
        them = [*([(source.client, source.cid)] if source.client is not None else []), *source.others]
        source.client = None
        source.others.clear()
        self.record(task)
        for client, cid in them:
            client.sources.pop(cid, None)
            if client.number in self.registry.clients:
                self.outputs.post(client, m.DropData([cid]))
