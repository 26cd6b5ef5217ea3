"""Futures that are cancelled or tried again, and values that a client could not fetch."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.ahead import Ahead
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.detours import Detours
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import (
    Client,
    Task,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.transitions import (
    ASSIGNED,
    DONE,
    UNFINISHED,
)
from twistdist.core.scheduler.watchers import UNTIL_ENDED, Watchers
from twistdist.wire import messages as m

#: Errors of tasks that were refused when they were submitted: to run them again is not possible.
AT_BIRTH = ("KeyConflict", "TaskCancelled", "ConfigError")


@attrs.define(eq=False)
class Cancelling:
    """What a client says about single futures."""

    tuning: Tuning
    alarms: Alarms
    outputs: Outputs
    registry: Registry
    watchers: Watchers
    lifecycle: Lifecycle
    copies: Copies
    detours: Detours
    ahead: Ahead

    def cancel(self, now: float, client: Client, message: m.Cancel) -> None:
        """The client no longer wants these, nor anything that can't be computed without them."""
        for cid in message.cids:
            task = client.futures.get(cid)
            if task is None or task.state not in UNFINISHED or (message.unstarted and self._may_have_begun(task)):
                continue
            for dependent in self._unfinished_dependents(task):
                text = f"{dependent.key} was cancelled with its input {task.key}"
                cids = [one for owner, one in dependent.watchers if owner is client]
                self._cancel_futures(client, dependent, cids, m.ErrorInfo("TaskCancelled", "", text, key=dependent.key))
            error = m.ErrorInfo("TaskCancelled", "", f"{task.key} was cancelled", key=task.key)
            self._cancel_futures(client, task, [cid], error)

    def _may_have_begun(self, task: Task) -> bool:
        """Whether a worker has the task and, as far as is known, its inputs."""
        return task.state is ASSIGNED and task not in self.ahead.behind

    @staticmethod
    def _unfinished_dependents(task: Task) -> list[Task]:
        """The unfinished tasks that can't be computed without ``task``, at any depth, deepest first."""
        found: dict[Task, None] = {}
        todo = [task]
        while todo:
            for dependent in todo.pop().dependents or ():
                if dependent.state in UNFINISHED and dependent not in found:
                    found[dependent] = None
                    todo.append(dependent)
        return sorted(found, key=lambda task: -task.depth)

    def _cancel_futures(self, client: Client, task: Task, cids: list[int], error: m.ErrorInfo) -> None:
        """Cancel these futures of ``client``, and stop the task if nobody else wants it."""
        for cid in cids:
            self.watchers.cut(client, cid, error, task)
        for name in (client.name, UNTIL_ENDED):
            if name and (placeholder := self.watchers.placeholders.get(name)) is not None:
                self.watchers.let_go(placeholder, task)
        if not task.watchers and not task.pending and task.state in UNFINISHED:
            self.lifecycle.stop(task, kill=True)
        self.registry.reconsider(task)

    def retry(self, now: float, client: Client, message: m.Retry) -> None:
        """The client wants its failed tasks to be run again."""
        failed: dict[Task, None] = {}
        for cid in message.cids:
            task = client.futures.get(cid)
            if task is None or task.error is None:
                continue
            if task.error.kind in AT_BIRTH:
                self.watchers.tell(task, [(client, cid)])
            else:
                failed[task] = None
        self.lifecycle.retry(list(failed))
        for task in failed:
            if client.name and task.chosen is not None:
                self.watchers.keep(client.name, task)

    def unreachable(self, now: float, client: Client, message: m.Unreachable) -> None:
        """A client can't fetch a value: check the holders; tell it of others, of a new place, or again after a while."""
        task = client.futures.get(message.cid)
        if task is None or task.state is not DONE:
            return  # it will be notified when the task is done (again)
        if task.holders is None or task.value_attempt != message.attempt:
            self.watchers.tell(task, [(client, message.cid)])
            return
        for worker in task.holders:
            self.outputs.post(worker, m.Verify([task.value_attempt]))
        for number in message.holders:
            if number in self.registry.workers:
                self.detours.mark_link(now, client, number)
        if any(worker.reachable and worker.number not in message.holders for worker in task.holders):
            self.watchers.tell(task, [(client, message.cid)])  # of copies that it does not know
            return
        self.copies.relay(task, client)
        self.alarms.set(now + self.tuning.tell_again_s, self._tell_again, (client, message.cid, task))

    def _tell_again(self, now: float, subject: tuple[Client, int, Task]) -> None:
        client, cid, task = subject
        if client.futures.get(cid) is task and task.state is DONE and client.number in self.registry.clients:
            self.watchers.tell(task, [(client, cid)])
