"""Tasks that wait for tasks of their own: a slot is lent if these find none."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler import nesting
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import (
    Client,
    Incident,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.transitions import (
    ASSIGNED,
    UNFINISHED,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Nested:
    """Which slot to lend is decided in :mod:`.nesting`."""

    tuning: Tuning
    alarms: Alarms
    outputs: Outputs
    registry: Registry

    def look_after(self, now: float, client: Client) -> None:
        """The client of a task has submitted something: make sure that it can begin although the task has a slot."""
        if client.parent and not client.look_after:
            client.look_after = self.tuning.nested_look_s
            self.alarms.set(now + client.look_after, self._look_at, client)

    def _look_at(self, now: float, client: Client) -> None:
        parent = self.registry.tasks.get(client.parent)
        wanted = [task for task in client.futures.values() if task is not None and task.state in UNFINISHED]
        if not client.connected or parent is None or parent.state is not ASSIGNED or not wanted:
            client.look_after = 0.0
            return
        client.look_after = min(self.tuning.longest_nested_look_s, 2 * client.look_after)
        self.alarms.set(now + client.look_after, self._look_at, client)
        tasks, clients, workers = self.registry.tasks, self.registry.clients.values(), list(self.registry.workers.values())
        parents = {tasks[other.parent] for other in clients if other.connected and other.parent in tasks}
        found = nesting.slot_to_free(parent, wanted, workers, parents, self.tuning.max_looked_at)
        if found is not None:
            worker, task = found
            text = f"{len(wanted)} tasks of {parent.key} can't begin: every slot is held by tasks that have tasks of their own"
            text = f"{text}; {task.key} continues without its slot"
            self.outputs.incident(Incident(now, "slot lent", worker.name, text, key=task.key), worker, task)
            self.outputs.post(worker, m.Park(task.attempt))
