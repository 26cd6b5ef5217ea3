"""Which futures want which task, and what they are sent.  Futures without a process: docs/journal.rst."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import (
    Client,
    Task,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.session import Session
from twistdist.wire import messages as m

#: Numbers of sessions that no process opened begin here; those of processes are lower.
FIRST_PLACEHOLDER = 1 << 62

#: The name under which published tasks are kept; no user's session has this name.
PUBLISHED = ""

#: The name under which tasks are kept that are wanted until they have ended, whoever leaves; no user's session has this name.
UNTIL_ENDED = "\0until ended"


@attrs.define(eq=False)
class Watchers:
    """Owns ``Task.watchers``, ``Client.futures`` and ``Client.kept``.

    A durable session is represented by a placeholder: a ``Client`` without a process behind it, in ``placeholders`` by its
    name.  It keeps each task with a key chosen by the user from its submission on, and all others that its process still wants
    when that ends; until the session is ended, or the task fails, so that the next run computes it again.  Published names have
    a placeholder too, which keeps tasks that have failed.
    """

    outputs: Outputs
    registry: Registry
    reach: Reach
    ledger: Ledger
    placeholders: dict[str, Client] = attrs.field(factory=dict)

    @staticmethod
    def link(task: Task, client: Client, cid: int) -> None:
        """The future ``cid`` of ``client`` wants the task, as the task's own row in the journal says."""
        client.futures[cid] = task
        task.watchers[(client, cid)] = None

    def add(self, task: Task, client: Client, cid: int) -> None:
        """The future ``cid`` of ``client`` wants the task; this is written to the journal."""
        self.link(task, client, cid)
        self.ledger.session(client)
        self.ledger.watch(task, client, cid)

    def remove(self, client: Client, cid: int) -> None:
        """The future is no longer wanted."""
        task = client.futures.pop(cid, None)
        self.ledger.unwatch(task, client, cid)
        if task is not None:
            task.watchers.pop((client, cid), None)
            self.registry.reconsider(task)

    def cut(self, client: Client, cid: int, error: m.ErrorInfo, task: Task | None = None) -> None:
        """The future itself has failed, whatever becomes of the task."""
        client.futures[cid] = None
        if task is not None:
            task.watchers.pop((client, cid), None)
            self.ledger.unwatch(task, client, cid)
        self.ledger.watch(None, client, cid)
        self.outputs.post(client, m.Erred(cid, error))

    def tell(self, task: Task, watchers: Iterable[tuple[Client, int]]) -> None:
        """Notify futures of how their task ended, unless its value must not be announced yet."""
        error = task.error
        early = error is None and task.retention is not None and not task.retention.announced
        for client, cid in list(watchers):
            if client.placeholder:
                if (error is not None and client.name != PUBLISHED) or client.name == UNTIL_ENDED:
                    self.let_go(client, task)  # a failed task is computed again when it is requested again
            elif error is not None:
                self.outputs.post(client, m.Erred(cid, error), len(error.pickled) + len(error.traceback))
            elif early:
                continue
            elif task.holders is None:
                self.outputs.post(client, m.Finished(cid, task.value_attempt, task.value, task.size), task.size)
            else:
                holders = self.reach.introduce(client, task.holders)
                self.outputs.post(client, m.Finished(cid, task.value_attempt, None, task.size, task.digest, holders))

    def placeholder(self, name: str) -> Client:
        """The durable session of that name; created when it is first needed."""
        placeholder = self.placeholders.get(name)
        if placeholder is None:
            number = FIRST_PLACEHOLDER + self.registry.next("placeholder")
            placeholder = Client(number, name, Session(), connected=False, placeholder=True)
            self.placeholders[name] = placeholder
            self.registry.add_client(placeholder)
        return placeholder

    def keep(self, name: str, task: Task) -> None:
        """The durable session wants the task from now on."""
        placeholder = self.placeholder(name)
        if task in placeholder.kept or (task.error is not None and name != PUBLISHED):
            return
        placeholder.next_cid += 1
        cid = placeholder.kept[task] = placeholder.next_cid
        self.add(task, placeholder, cid)

    def let_go(self, placeholder: Client, task: Task) -> None:
        """The durable session no longer wants the task, if it ever did."""
        cid = placeholder.kept.pop(task, None)
        if cid is not None:
            self.remove(placeholder, cid)

    def drop_placeholder(self, name: str) -> Client | None:
        """The durable session has ended; the caller ends its placeholder."""
        return self.placeholders.pop(name, None)

    def restore(self, placeholder: Client) -> None:
        """A placeholder, as read from the journal."""
        self.placeholders[placeholder.name] = placeholder
        self.registry.is_taken("placeholder", placeholder.number - FIRST_PLACEHOLDER)

    def keep_wishes(self, client: Client) -> None:
        """A process of a durable session has ended: keep what it still wanted."""
        for task in client.futures.values():
            if task is not None:
                self.keep(client.name, task)
