"""``client.restart``: all tasks and data are dropped, and every worker gets fresh executors."""

from __future__ import annotations

import attrs

from twistdist.core.scheduler.broadcasts import Broadcasts
from twistdist.core.scheduler.durable import Durable
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import Client, Incident
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.transitions import UNFINISHED
from twistdist.core.scheduler.watchers import Watchers
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Restarts:
    """Sessions stay connected, durable ones too, but nothing is left in them."""

    outputs: Outputs
    registry: Registry
    broadcasts: Broadcasts
    watchers: Watchers
    lifecycle: Lifecycle
    durable: Durable

    def restart(self, now: float, client: Client, who: str) -> int:
        """Drop everything, for the reason that ``who`` asked for it.  Return the number of the broadcast to the workers."""
        count = len(self.registry.tasks)
        why = f"the cluster was restarted by client {who}"
        for name in list(self.durable.datasets):
            self.durable.unpublish(name)
        for session in list(self.registry.clients.values()):
            for cid, task in list(session.futures.items()):
                if session.placeholder and task is not None:
                    self.watchers.let_go(session, task)
                elif task is not None:
                    error = m.ErrorInfo("TaskCancelled", "", f"{task.key} was cancelled: {why}", key=task.key)
                    self.watchers.cut(session, cid, error, task)
        for task in sorted(self.registry.tasks.values(), key=lambda task: -task.depth):
            if task.state in UNFINISHED:
                self.lifecycle.stop(task, kill=True)
            self.registry.reconsider(task)
        self.outputs.incident(Incident(now, "cluster restarted", f"{count} tasks dropped", why))
        return self.broadcasts.send(self.registry.workers.values(), m.Renew)
