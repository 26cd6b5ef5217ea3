"""Sessions of clients: how they begin, break and end, and the functions that they bring."""

from __future__ import annotations

import itertools
from typing import Any

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler import refusals
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.pace import Pace
from twistdist.core.scheduler.records import (
    Client,
    Function,
    Incident,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.scattered import Scattered
from twistdist.core.scheduler.settings import Settings
from twistdist.core.scheduler.transitions import (
    IDLE,
    UNFINISHED,
)
from twistdist.core.scheduler.watchers import FIRST_PLACEHOLDER, Watchers
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: Stands for a task that is not known any more, so that no later one of its number becomes the session's parent.
GONE = -1


@attrs.define(eq=False)
class ClientSessions:
    """``fatherless`` are the sessions that tasks have opened and that are away.  ``ended`` ones, by number, still have futures,
    which are dropped a slice at a time."""

    alarms: Alarms
    pace: Pace
    settings: Settings
    outputs: Outputs
    registry: Registry
    ledger: Ledger
    watchers: Watchers
    scattered: Scattered
    fatherless: dict[Client, None] = attrs.field(factory=dict)
    ended: dict[int, Client] = attrs.field(factory=dict)

    def greet(self, hello: m.HelloClient) -> Client:
        """A new session; ``ProtocolError`` for a number that no client uses."""
        if not 0 <= hello.session < FIRST_PLACEHOLDER:
            raise ProtocolError("the session number is out of range")
        parent = hello.parent if not hello.parent or hello.parent in self.registry.tasks else GONE
        client = Client(hello.session, hello.name, self.registry.new_session(), parent=parent, python=hello.python)
        if hello.session in self.registry.clients:  # its Ready never arrived, so it has not requested anything yet
            self.end(self.registry.clients[hello.session])
        if hello.session in self.ended:  # the journal must not mix up the futures of the two
            self._forget(self.ended[hello.session], len(self.ended[hello.session].futures))
        self.registry.add_client(client)
        return client

    def away(self, now: float, client: Client) -> None:
        """Its connection broke: keep the session for a while."""
        if client.parent:
            self.fatherless[client] = None
        else:
            self.alarms.set(now + self.settings.client_grace, self._overdue, client)

    def _overdue(self, now: float, client: Client) -> None:
        if not client.connected and now - client.away_since >= self.settings.client_grace - 1e-6:
            self.end(client)

    def returned(self, client: Client) -> None:
        """A client resumes a session that was read from the journal: send it the state of everything that it waits for."""
        client.restored = False
        for cid, task in client.futures.items():
            if task is None:
                error = m.ErrorInfo("TaskCancelled", "", "it was cancelled")
                self.outputs.post(client, m.Erred(cid, error))
            elif task.state not in UNFINISHED and task.state is not IDLE:
                self.watchers.tell(task, [(client, cid)])

    def end_with_parents(self) -> None:
        """A task's session that is away ends with the task; until then the task may run again and find its children."""
        for client in list(self.fatherless):
            parent = self.registry.tasks.get(client.parent)
            if client.connected or parent is None or parent.state not in UNFINISHED:
                del self.fatherless[client]
                if not client.connected:
                    self.end(client)

    def bye(self, now: float, client: Client, message: m.Bye) -> None:
        """The client closes its session."""
        self.end(client)

    def end(self, client: Client) -> None:
        """The session has ended: whatever only it wanted is no longer wanted."""
        if self.registry.clients.get(client.number) is not client:
            return  # ended before; the number may be that of a later session
        if client.name and not client.placeholder:
            self.watchers.keep_wishes(client)
        self.registry.drop_client(client)
        self.ledger.session_gone(client)
        self.scattered.sources_gone(client)
        for function in client.functions.values():
            self.registry.drop_function_user(function)
        self.outputs.drop(client)
        self.ended[client.number] = client

    def forget_ended(self, now: float) -> None:
        """Drop a slice of the futures of sessions that have ended."""
        left = self.pace.most
        for client in list(self.ended.values()):
            left -= self._forget(client, left)
            if left <= 0:
                break
        if self.ended:
            self.pace.go_on(now)

    def forget_all_ended(self) -> None:
        """Drop all futures of sessions that have ended, however long that takes."""
        for client in list(self.ended.values()):
            self._forget(client, len(client.futures))

    def _forget(self, client: Client, most: int) -> int:
        """Drop at most this many of an ended session's futures.  Return how many it were."""
        cids = list(itertools.islice(client.futures, most))
        for cid in cids:
            self.watchers.remove(client, cid)
        if not client.futures:
            self.outputs.drop(client)  # it may have been told something meanwhile
            del self.ended[client.number]
        return len(cids)

    def clear(self) -> int:
        """Drop the sessions of clients that are not connected and need not outlive them.  Return how many there were.

        That of a task that is not finished is needed: it ends with the task.
        """
        away = [
            client
            for client in self.registry.clients.values()
            if not client.connected and not client.placeholder and not client.name and client not in self.fatherless
        ]
        for client in away:
            self.end(client)
        return len(away)

    def function(self, now: float, client: Client, message: m.Function) -> None:
        """The session will submit tasks of this function, by the number that it assigns to it."""
        if message.fn in client.functions:
            raise ProtocolError(f"function {message.fn} was sent twice")
        function = self.registry.functions.get(message.digest)
        if function is None:
            function = Function(self.registry.next("function"), message.name, message.digest, message.blob)
            self.registry.add_function(function)
            self.ledger.function(function)
        function.users += 1
        client.functions[message.fn] = function
        self.ledger.session(client)

    def drop_functions(self, now: float, client: Client, message: m.DropFunctions) -> None:
        """The session will submit no more tasks of these functions."""
        for fn in message.fns:
            function = client.functions.pop(fn, None)
            if function is not None:
                self.registry.drop_function_user(function)

    def refuse(self, now: float, client: Client, message: Any, text: str) -> None:
        """Do not carry out a client's message: its futures fail, its question is answered, and the session continues."""
        cids, query = refusals.concerned(message)
        for cid in cids:
            if cid not in client.futures and cid not in client.sources:
                self.watchers.cut(client, cid, m.ErrorInfo("ProtocolError", "", f"the scheduler refused it: {text}"))
        if query is not None:
            self.outputs.post(client, m.Reply(query, f"the scheduler refused the query: {text}"))
        kind = "message" if isinstance(message, m.Undecodable) else type(message).__name__
        self.outputs.incident(Incident(now, "message refused", client.name or f"{client.number:x}", f"{kind}: {text}"))
