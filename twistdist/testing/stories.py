"""Hand-written stories of the scheduler's core: the test writes each message of a peer and looks at each answer.

All invariants are checked after every step.
"""

from __future__ import annotations

from typing import Any, TypeVar

from twistdist.core.scheduler import Scheduler, Settings
from twistdist.core.scheduler.gate import Gate
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Effect, Peer
from twistdist.core.scheduler.records import Client, Worker
from twistdist.core.scheduler.settings import Tuning
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m

M = TypeVar("M")

#: Messages that most stories do not look at; any other one that is left is a surprise.
EXPECTED = (m.WorkerFunction, m.ForgetFunctions, m.Compute, m.Free, m.Peer, m.PeerState, m.Finished, m.Erred, m.Reply, m.Lacks)


class Story:
    """A scheduler with workers and one client, whose session has the number 1 and knows one function.

    By default it sends no tasks ahead: a task that a worker is given can run.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.now = 0.0
        self.cid = 0
        self._incarnation = 100
        self._settings = settings or Settings(tuning=Tuning(max_behind=0))
        self.core = self.new_core()
        self.client = self.open_client()

    def new_core(self) -> Scheduler:
        """Make the scheduler with which the story begins."""
        return Scheduler(1, self._settings)

    def open_client(self) -> Client:
        """Open session 1, which knows function 1, and return its client."""
        client = self.core.greet(self.now, m.HelloClient(1))
        assert isinstance(client, Client)
        self.tell(client, m.Function(1, "f", b"f", b"blob"))
        return client

    # ---- events -----------------------------------------------------------------------------------

    def tell(self, peer: Peer, *messages: Any) -> None:
        """The peer sends these messages in one frame."""
        self.core.receive(self.now, peer, messages)
        check_scheduler(self.core)

    def later(self, seconds: float) -> None:
        """Time passes: ``seconds`` in one step."""
        self.now += seconds
        self.core.tick(self.now)
        check_scheduler(self.core)

    def lost(self, peer: Peer) -> None:
        """The connection breaks, and nothing listens at a worker's address any more."""
        self.core.connection_lost(self.now, peer)
        if isinstance(peer, Worker):
            self.core.probed(self.now, peer, True)
        check_scheduler(self.core)

    def worker(self, name: str = "w", slots: int = 1, **inventory: Any) -> Worker:
        """A worker registers.  Return the scheduler's record of it.

        ``inventory`` is what its Hello says about ``resources``, ``stored`` values, ``running`` and ``finished`` attempts,
        and its ``host``.
        """
        self._incarnation += 1
        fields: dict[str, Any] = {"stored": [], "running": [], "finished": [], "resources": {}, "host": "h"} | inventory
        hello = m.HelloWorker(
            self._incarnation,
            name,
            self._incarnation,
            1,
            slots,
            "tcp:x:1",
            fields["host"],
            "/s",
            fields["resources"],
            fields["stored"],
            fields["running"],
            fields["finished"],
            fields.get("python", ""),
        )
        worker = self.core.greet(self.now, hello)
        assert isinstance(worker, Worker)
        check_scheduler(self.core)
        return worker

    def submit(self, *inputs: int, key: str | None = None, **options: Any) -> int:
        """The client submits a task whose inputs are the values of these futures.  Return the number of its future."""
        self.cid += 1
        given = m.Options(**options) if options else None
        keys = [key] if key else None
        self.tell(self.client, m.Submit(self.cid, 1, [b"%d" % self.cid], [list(inputs)], keys, given))
        return self.cid

    def done(self, worker: Worker, compute: m.Compute, value: bytes | None = b"v", size: int = 1, us: int = 50_000) -> None:
        """The worker has computed a value; None: the value is in the worker's store, ``size`` bytes long."""
        stored = value is None
        self.tell(worker, m.Done(compute.task, compute.attempt, value, size, b"d" if stored else b"", us))

    # ---- what the core sends ----------------------------------------------------------------------

    def said(self, peer: Peer, kind: type[M] | None = None) -> list[M]:
        """Return the messages that the core sent to a peer since the last call, or only those of the class ``kind``."""
        messages = [message for frame in peer.session.take() for message in frame[2]]
        return messages if kind is None else [message for message in messages if isinstance(message, kind)]

    def given(self, worker: Worker) -> list[m.Compute]:
        """Return the attempts that the worker was given since the last call."""
        return self.said(worker, m.Compute)

    def outcome(self, cid: int) -> m.Finished | m.Erred | None:
        """Return the outcome of a future that the client was sent since the last call, or None."""
        told: list[Any] = self.said(self.client)
        found = [message for message in told if isinstance(message, m.Finished | m.Erred) and message.cid == cid]
        return found[-1] if found else None

    def end(self, *expected: type) -> None:
        """The story is told: nothing is left that was said to a peer and that a test should have looked at.

        Raises:
            AssertionError: names the peer and the messages, unless they are of the kinds in ``EXPECTED`` or ``expected``.
        """
        peers: list[Peer] = [*self.core.clients.values(), *self.core.workers.values()]
        for peer in peers:
            left: list[Any] = self.said(peer)
            odd = [message for message in left if not isinstance(message, (*EXPECTED, *expected))]
            assert not odd, f"{peer.name or 'the client'} was told something that the story did not expect: {odd}"

    def effects(self) -> list[Effect]:
        """Return the effects that the core requested from the edge since the last call."""
        return self.core.take(lambda peer: False).effects


class JournaledStory(Story):
    """A story whose scheduler has a journal on ``disk``."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.disk: dict[j.Key, bytes] = {}
        self.lives = 0
        super().__init__(settings)

    def new_core(self) -> Scheduler:
        """Make a scheduler from what its previous life had written."""
        self.lives += 1
        core = Scheduler(self.lives, self._settings, Ledger())
        self.gate = Gate(core.ledger)
        core.restore(self.now, self.lives - 1, [(key, j.decode(key[0], body)) for key, body in self.disk.items()])
        check_scheduler(core)
        return core

    def write(self) -> None:
        """Write the changes to disk."""
        while (rows := self.gate.begin()) is not None:
            for key, body in rows.items():
                if body is None:
                    del self.disk[key]
                else:
                    self.disk[key] = body
            self.gate.written()

    def restart(self, written: bool = True) -> None:
        """The scheduler is killed, before or after the last changes are written, and started again."""
        if written:
            self.write()
        self.core = self.new_core()
        if 1 in self.core.clients:
            self.client = self.core.clients[1]

    def resume(self, number: int = 1) -> Client:
        """The client of session ``number`` reconnects.  Return its record."""
        client = self.core.find_session(m.Resume(number, self.lives - 1, 0))
        assert isinstance(client, Client)
        self.core.reconnected(self.now, client)
        check_scheduler(self.core)
        return client

    def rows(self, kind: int) -> list[Any]:
        """Return the rows of ``kind`` on disk, in the order of their numbers."""
        return [j.decode(kind, body) for key, body in sorted(self.disk.items()) if key[0] == kind]
