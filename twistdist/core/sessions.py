"""Wishes that outlive processes: durable sessions, and published names.  docs/journal.rst.

What such a one wants is watched by a ``Client`` of its own that is ``held``: no process speaks for it and none is told.  A
durable session keeps each task with a key of the user's from its submission on, and all others that its process still wants
when that ends; until the session is ended, or the task fails, so that the next run computes it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twistdist.core.liveness import Liveness
from twistdist.core.records import Client, Dataset, Task
from twistdist.core.session import Session
from twistdist.core.transitions import UNFINISHED
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: Numbers of sessions that no process opened begin here; those of processes are below.
FIRST_HELD = 1 << 62

#: The name under which published tasks are kept; no session of a user is named so.
PUBLISHED = ""

#: The name under which tasks are kept that are wanted until they have ended, whoever leaves; no session of a user is named so.
UNTIL_ENDED = "\0until ended"


class Sessions(Liveness):
    """The book of tasks, with wishes that outlive processes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.held: dict[str, Client] = {}
        self.datasets: dict[str, Dataset] = {}
        self._numbers["held"] = self._numbers["dataset"] = 0

    def _held_session(self, name: str) -> Client:
        """The durable session of that name; made when it is first wanted."""
        holder = self.held.get(name)
        if holder is None:
            number = FIRST_HELD + self._next("held")
            holder = Client(number, name, Session(), connected=False, held=True)
            self.held[name] = self.clients[number] = holder
        return holder

    def _hold_task(self, name: str, task: Task) -> None:
        """The durable session wants the task from now on."""
        holder = self._held_session(name)
        if task in holder.kept or task.error is not None:
            return
        holder.next_cid += 1
        cid = holder.kept[task] = holder.next_cid
        holder.futures[cid] = task
        task.watchers[(holder, cid)] = None
        self.ledger.session(holder)
        self.ledger.watch(task, holder, cid)

    def _unhold_task(self, holder: Client, task: Task) -> None:
        cid = holder.kept.pop(task, None)
        if cid is not None:
            self._unwatch(holder, cid)

    def _unwatch(self, client: Client, cid: int) -> None:
        raise TypeError("the scheduler releases futures")

    def _end_client(self, client: Client) -> None:
        raise TypeError("the scheduler ends sessions")

    def _tell(self, task: Task, watchers: Iterable[tuple[Client, int]]) -> None:
        them = list(watchers)
        super()._tell(task, them)
        for client, _ in them:
            if client.held and (task.error is not None or client.name == UNTIL_ENDED):
                self._unhold_task(client, task)  # a failed one is computed again when it is asked for again

    def keep_until_ended(self, tasks: Iterable[Task]) -> None:
        """These are computed although nobody may want them any more."""
        for task in tasks:
            if task.state in UNFINISHED:
                self._hold_task(UNTIL_ENDED, task)

    def _keep_wishes(self, client: Client) -> None:
        """A process of a durable session has ended: what it still wanted is kept."""
        for task in client.futures.values():
            if task is not None:
                self._hold_task(client.name, task)

    def session_tasks(self, client: Client) -> list[Task]:
        """What the durable session of ``client`` has, and what its process wants."""
        holder = self.held.get(client.name) if client.name else None
        own = [task for task in client.futures.values() if task is not None]
        return list(dict.fromkeys([*(holder.kept if holder is not None else ()), *own]))

    def let_go(self, client: Client, cids: Iterable[int]) -> None:
        """The durable session does not want these any more; the process says itself that it does not."""
        holder = self.held.get(client.name) if client.name else None
        for cid in cids:
            task = client.futures.get(cid)
            if holder is not None and task is not None:
                self._unhold_task(holder, task)

    def end_session(self, client: Client) -> int:
        """Release what the durable session of ``client`` keeps, and what its processes want; how many tasks that were."""
        holder = self.held.pop(client.name, None) if client.name else None
        count = len(self.session_tasks(client)) + (len(holder.kept) if holder is not None else 0)
        if holder is not None:
            holder.kept.clear()
            self._end_client(holder)
        for other in [one for one in self.clients.values() if one.name == client.name and one.name and not one.held]:
            other.name = ""
            if other is not client and not other.connected:
                self._end_client(other)
            elif other.recorded:
                self.ledger.session(other)
        return count

    def check_sessions(self, names: Iterable[str]) -> None:
        """``ValueError`` unless all are durable sessions that nobody is connected with."""
        known = {client.name for client in self.clients.values() if client.name not in (PUBLISHED, UNTIL_ENDED)}
        for name in names:
            if name not in known:
                there = ", ".join(sorted(known)) or "none"
                raise ValueError(f"there is no durable session {name!r}; there are: {there}")
            if any(client.connected for client in self.clients.values() if client.name == name):
                raise ValueError(f"a client of the session {name!r} is connected; close it first, or call its end_session()")

    def end_named_session(self, name: str) -> None:
        """Release all that a durable session keeps, of which no process is here any more."""
        self.end_session(Client(0, name, Session(), connected=False))

    # ---- published names ----------------------------------------------------------------------

    def publish(self, name: str, shape: bytes, tasks: list[Task]) -> None:
        """Keep ``tasks`` under a name until it is unpublished.  ``ValueError`` when the name is taken."""
        if name in self.datasets:
            raise ValueError(f"{name!r} is published already; unpublish it first, or choose another name")
        dataset = self.datasets[name] = Dataset(self._next("dataset"), name, shape, tasks)
        for task in tasks:
            self._hold_task(PUBLISHED, task)
        self.ledger.dataset(dataset)

    def unpublish(self, name: str) -> None:
        """The name, and what only it kept, go.  ``ValueError`` for an unknown one."""
        dataset = self.datasets.pop(name, None)
        if dataset is None:
            raise ValueError(f"nothing is published as {name!r}")
        self.ledger.dataset_gone(dataset)
        still = {task for one in self.datasets.values() for task in one.tasks}
        holder = self._held_session(PUBLISHED)
        for task in dataset.tasks:
            if task not in still:
                self._unhold_task(holder, task)

    @staticmethod
    def check_name(hello: m.HelloClient) -> None:
        """``ProtocolError`` for a session that no client opens."""
        if not 0 <= hello.session < FIRST_HELD:
            raise ProtocolError("a session with an impossible number")
