"""What users keep beyond their processes: durable sessions and published names.  docs/journal.rst."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from twistdist.core.scheduler.client_sessions import ClientSessions
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.records import (
    Client,
    Dataset,
    Task,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.transitions import (
    UNFINISHED,
)
from twistdist.core.scheduler.watchers import PUBLISHED, UNTIL_ENDED, Watchers
from twistdist.core.session import Session
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Durable:
    """``datasets`` are the published names; the tasks that they and durable sessions keep are held by :class:`Watchers`."""

    registry: Registry
    ledger: Ledger
    watchers: Watchers
    client_sessions: ClientSessions
    datasets: dict[str, Dataset] = attrs.field(factory=dict)

    def restore(self, dataset: Dataset) -> None:
        """A published name, as read from the journal."""
        self.datasets[dataset.name] = dataset
        self.registry.is_taken("dataset", dataset.number)

    def release(self, now: float, client: Client, message: m.Release) -> None:
        """The process no longer wants these futures; with ``durable``, its durable session does not either."""
        if message.durable:
            self._let_go(client, message.cids)
        for cid in message.cids:
            self.watchers.remove(client, cid)

    def keep_until_ended(self, tasks: Iterable[Task]) -> None:
        """Compute these even if nobody wants them any more."""
        for task in tasks:
            if task.state in UNFINISHED:
                self.watchers.keep(UNTIL_ENDED, task)

    def session_tasks(self, client: Client) -> list[Task]:
        """What the durable session of ``client`` keeps, and what its process wants."""
        placeholder = self.watchers.placeholders.get(client.name) if client.name else None
        own = [task for task in client.futures.values() if task is not None]
        return list(dict.fromkeys([*(placeholder.kept if placeholder is not None else ()), *own]))

    def _let_go(self, client: Client, cids: Iterable[int]) -> None:
        """The durable session no longer wants these; the process releases its own futures itself."""
        placeholder = self.watchers.placeholders.get(client.name) if client.name else None
        for cid in cids:
            task = client.futures.get(cid)
            if placeholder is not None and task is not None:
                self.watchers.let_go(placeholder, task)

    def end_session(self, client: Client) -> int:
        """Release what the durable session of ``client`` keeps, and what its processes want.  Return the number of tasks."""
        count = len(self.session_tasks(client))
        placeholder = self.watchers.drop_placeholder(client.name) if client.name else None
        if placeholder is not None:
            placeholder.kept.clear()
            self.client_sessions.end(placeholder)
        others = [other for other in self.registry.clients.values() if other.name == client.name and not other.placeholder]
        for other in others if client.name else ():
            other.name = ""
            if other is not client and not other.connected:
                self.client_sessions.end(other)
            elif other.recorded:
                self.ledger.session(other)
        return count

    def check_sessions(self, names: Iterable[str]) -> None:
        """``ValueError`` unless all are durable sessions without a connected client."""
        known = {client.name for client in self.registry.clients.values() if client.name not in (PUBLISHED, UNTIL_ENDED)}
        for name in names:
            if name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise ValueError(f"there is no durable session {name!r}; durable sessions: {there}")
            if any(client.connected for client in self.registry.clients.values() if client.name == name):
                raise ValueError(f"a client of the session {name!r} is connected; close it first, or call its end_session()")

    def end_named_session(self, name: str) -> None:
        """Release everything that a durable session without processes keeps."""
        self.end_session(Client(0, name, Session(), connected=False))

    def publish(self, name: str, shape: bytes, tasks: list[Task]) -> None:
        """Keep ``tasks`` under a name until it is unpublished.  ``ValueError`` if the name is taken."""
        if name in self.datasets:
            raise ValueError(f"{name!r} is already published; unpublish it first, or choose another name")
        dataset = self.datasets[name] = Dataset(self.registry.next("dataset"), name, shape, tasks)
        for task in tasks:
            self.watchers.keep(PUBLISHED, task)
        self.ledger.dataset(dataset)

    def unpublish(self, name: str) -> None:
        """Drop the name, and what only it kept.  ``ValueError`` for an unknown name."""
        dataset = self.datasets.pop(name, None)
        if dataset is None:
            raise ValueError(f"nothing is published as {name!r}")
        self.ledger.dataset_gone(dataset)
        still = {task for one in self.datasets.values() for task in one.tasks}
        placeholder = self.watchers.placeholder(PUBLISHED)
        for task in dataset.tasks:
            if task not in still:
                self.watchers.let_go(placeholder, task)
