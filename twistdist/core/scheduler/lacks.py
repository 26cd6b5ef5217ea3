"""Tasks that no connected worker may run: their clients are told what they lack."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler import possible
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.records import (
    Client,
    Incident,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.transitions import (
    Transitions,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Lacks:
    """What is lacking is determined in :mod:`.possible`."""

    tuning: Tuning
    alarms: Alarms
    outputs: Outputs
    registry: Registry
    transitions: Transitions
    queues: Queues
    _tracker: possible.Tracker = attrs.field(factory=possible.Tracker)
    _looking: bool = False

    def settle(self, now: float) -> None:
        """The end of an event: is a check worthwhile?"""
        if not self._looking and (self.queues.restricted or (self.transitions.unfinished and not self.registry.workers)):
            self._looking = True
            self.alarms.set(now + self.tuning.lacks_look_s, self._look, None)

    def _look(self, now: float, _: None) -> None:
        """Report tasks that no connected worker may run, and those that one may run again."""
        for change in self._tracker.look(self.queues.restricted, self.registry.workers.values(), self.transitions.unfinished):
            self._tell(change)
            if change.new:
                tasks, unfinished = change.tasks, self.transitions.unfinished
                some = f"{unfinished} tasks"
                if tasks:
                    some = tasks[0].key if len(tasks) == 1 else f"{len(tasks)} tasks, {tasks[0].key} among them"
                incident = Incident(now, "tasks wait", some, change.text, key=tasks[0].key if tasks else "")
                self.outputs.incident(incident, task=tasks[0] if len(tasks) == 1 else None)
        self._looking = bool(self._tracker.any or self.queues.restricted)
        if self._looking:
            self.alarms.set(now + self.tuning.lacks_look_s, self._look, None)

    def _tell(self, change: possible.Change) -> None:
        cids: dict[Client, list[int]] = {}
        for task in change.tasks:
            for client, cid in task.watchers:
                cids.setdefault(client, []).append(cid)
        if change.all:
            cids = {client: [] for client in self.registry.clients.values()}
        for client, of_client in cids.items():
            if not client.placeholder:
                self.outputs.post(client, m.Lacks(of_client, change.text))
