"""The simulated clients of :mod:`.simulate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twistdist.core import client as client_core
from twistdist.core.client import FunctionRef, Record, State
from twistdist.core.client import effects as client_effects
from twistdist.testing.parties import Party, SimulationFailed, is_right, value_of
from twistdist.wire import framing
from twistdist.wire import messages as m

if TYPE_CHECKING:
    from twistdist.testing.simulate import World


class SimClient(Party):
    """A client that submits a graph, and releases and cancels at random.

    With a ``name`` it is part of a durable session.  ``began_anew`` says whether it has lost its session, which may only happen
    when nobody else is to blame: the session was cleared, or kept too briefly.
    """

    decoder = framing.TO_CLIENT

    def __init__(self, world: World, number: int, session: int = 0, name: str = "", parent: int = 0) -> None:
        self.number = number
        self.core: client_core.Client = client_core.Client(session or 1000 + number, name, parent)
        super().__init__(world, f"task client {number}" if parent else f"client {number}", self.core)
        self.futures: dict[int, Record] = {}
        self.cancelled: set[int] = set()
        self.data: dict[int, bytes] = {}
        self.uploaded: bytes | None = None  # the version that every worker has or gets
        self._uploads: dict[int, bytes] = {}
        self._asked: dict[int, Callable[[m.Reply], None]] = {}
        self._cid = 0
        self.pulse()
        self.function = FunctionRef("f", b"f" * 16, b"f")

    @property
    def began_anew(self) -> bool:
        """Whether the scheduler has refused to continue its session, and another one has begun."""
        return self.core.dialer.fresh > 1

    def ask(self, what: str, args: list[Any], then: Callable[[m.Reply], None] = lambda reply: None) -> None:
        """Ask the scheduler something or order something; ``then`` gets the answer."""
        if self.asleep(lambda: self.ask(what, args, then)):
            return
        self._asked[self.core.query(what, args)] = then
        self.flush()

    def _answered(self, reply: m.Reply) -> None:
        self.uploaded = self._uploads.pop(reply.query, self.uploaded)
        then = self._asked.pop(reply.query, None)
        if then is not None:
            then(reply)

    def known(self) -> list[int]:
        """The nodes whose futures the scheduler knows."""
        return [node for node, record in self.futures.items() if record.cid in self.core.records and not record.orphan]

    def heard_notice(self, notice: Any) -> None:
        if isinstance(notice, m.Reply):  # before what it was sent after; it comes again in its place
            self.messages([notice])
        else:
            self.core.notice(notice)

    def leave(self, said: bool) -> None:
        """The process ends, with a farewell if it is ``said`` or without; its futures are gone."""
        if said:
            self.core.bye()
            self.flush()
        self.futures.clear()
        self.data.clear()
        self.drop_former()
        link, self.link, self.alive = self.link, None, False
        if link is not None:
            link.last_words = True
            self.world.after(0.3, link.cut)

    def submit(self, node: int, key: str | None) -> None:
        """Submit the task of a node."""
        if self.asleep(lambda: self.submit(node, key)):
            return
        plan = self.world.plans[node]
        if not self.alive or node in self.futures or not {*self.known()}.issuperset(plan.inputs):
            return
        self._cid += 1
        record = self.futures[node] = Record(self._cid)
        inputs = [self.futures[source].cid for source in plan.inputs]
        self.core.submit(record, self.function, str(node).encode(), inputs, key, plan.options)
        self.flush()

    def drop(self, node: int) -> None:
        """Release a future."""
        if self.asleep(lambda: self.drop(node)):
            return
        record = self.futures.pop(node, None)
        if record is not None:
            self.core.let_go(record.cid)
            self.core.release([record.cid])
            self.flush()

    def cancel(self, node: int, unstarted: bool = False) -> None:
        """Cancel a future."""
        if self.asleep(lambda: self.cancel(node, unstarted)):
            return
        if node in self.futures:
            self.cancelled.add(node)
            self.core.cancel([self.futures[node].cid], unstarted)
            self.flush()

    def upload(self, version: int) -> None:
        """Upload a file."""
        if self.asleep(lambda: self.upload(version)):
            return
        blob = b"version %d" % version
        self._uploads[self.core.query("upload", ["mod.py", "module", blob])] = blob
        self.flush()

    def retry(self, node: int) -> None:
        """Retry a future, if it has failed."""
        if self.asleep(lambda: self.retry(node)):
            return
        if node in self.futures and self.core.retry([self.futures[node].cid]):
            self.world.fault("retry")
            self.flush()

    def scatter(self, node: int, replicas: int) -> None:
        """Scatter the client's own data, with the value that the node's task would compute."""
        if not self.alive or node in self.futures or self.asleep(lambda: self.scatter(node, replicas)):
            return
        self._cid += 1
        record = self.futures[node] = Record(self._cid)
        self.data[self._cid] = value = value_of(self.world.plans[node], [])
        self.core.scatter(record, "", len(value), b"d", None, replicas)
        self.flush()

    def attach(self, what: str, nodes: list[int], dataset: str = "") -> None:
        """Get futures of tasks that exist already, by their keys or as the contents of a dataset."""
        if self.asleep(lambda: self.attach(what, nodes, dataset)):
            return
        records = {}
        for node in nodes:
            self._cid += 1
            records[node] = self.core.records[self._cid] = Record(self._cid)
        cids = [record.cid for record in records.values()]
        args = [dataset, *cids] if dataset else [[record.cid, f"node-{node}"] for node, record in records.items()]
        self.ask(what, args, lambda reply: self._attached(records, cids if dataset and not reply.error else reply.value or []))

    def _attached(self, records: dict[int, Record], found: list[int]) -> None:
        for node, record in records.items():
            if record.cid not in found:
                self.core.records.pop(record.cid, None)
            elif node in self.futures:  # it was submitted meanwhile
                self.core.release([record.cid])
            else:
                self.futures[node] = record

    def messages(self, messages: list[Any]) -> None:
        self._check_durable(messages)
        met = self.world.met
        cancelled = [record for record in self.futures.values() if record.state is State.CANCELLED]
        self.core.receive(messages if met is None else met.at_client(self.core, messages))
        if any(record.state is not State.CANCELLED for record in cancelled):
            raise SimulationFailed(f"a future of {self.name} that had been cancelled is not any more")
        for effect in self.core.take():
            if isinstance(effect, client_effects.Answer):
                self._answered(effect.reply)
            elif isinstance(effect, client_effects.DropData):
                for cid in effect.cids:
                    del self.data[cid]
            elif isinstance(effect, client_effects.Supply):
                self.world.after(self.world.rng.uniform(0.001, 0.05), lambda one=effect.supply: self._supply(one))  # type: ignore[misc]

    def _check_durable(self, messages: list[Any]) -> None:
        """Check that nothing was acknowledged or announced before it was on disk."""
        if not self.world.journaled:
            return
        delivered = self.core.dialer.session.delivered
        if delivered > self.world.disk.frames_of(self.core.dialer.number):
            raise SimulationFailed(f"frame {delivered} of {self.name} was acknowledged before its consequences were on disk")
        core = self.link.scheduler.core if self.link is not None else self.world.core
        peer = core.clients.get(self.core.dialer.number)
        futures = peer.futures if peer is not None else {}  # neither released nor cancelled since
        told = [one for one in messages if isinstance(one, m.Finished) and one.cid in self.core.records]
        # A value that was lost and made again before anything could be written is followed by news of the later attempt.
        told = [one for one in told if (task := futures.get(one.cid)) is not None and task.value_attempt == one.attempt]
        early = [one for one in told if one.attempt not in self.world.disk.durable]
        if early:
            raise SimulationFailed(f"{early[0]} was announced before it was on disk")

    def _supply(self, supply: m.Supply) -> None:
        """Bring the data to the first of the named workers, if it can be reached."""
        value = self.data.get(supply.cid)
        worker = self.world.workers.get(self.core.peers[supply.workers[0]].name)
        fails = 0.9 if self.world.swarm.cut_off else 0.2
        works = self.world.rng.random() > fails or not self.world.faulty or self.world.now > 6
        if value is None:
            self.core.not_supplied(supply.cid, 0, "released")
        elif worker is None or not worker.alive or not works:
            self.core.not_supplied(supply.cid, supply.workers[0], "unreachable")
        else:
            worker.store[supply.attempt] = (value, supply.task)
            worker.event(worker.core.received, m.Stored(supply.task, supply.attempt, len(value), b"d"))
        self.flush()

    def fetch(self, node: int) -> bytes | None:
        """Return the value of a finished future, from a holder's store if it is not inline; None if no holder has it."""
        record = self.futures[node]
        if record.value is not None:
            return bytes(record.value)
        assert record.place is not None
        for number in record.place.holders:
            worker = self.world.workers.get(self.core.peers[number].name)
            found = worker.store.get(record.place.attempt) if worker is not None and worker.alive else None
            if found is not None and is_right(found[0]):
                return found[0]
        self.core.unreachable(record)
        self.flush()
        return None


class TaskClient(SimClient):
    """The client of a running task, in its executor's process.  It submits the task's children, under keys that are the same
    when the task runs again, and calls ``then`` when all have ended: ``values`` and ``errors`` say how, by node."""

    def __init__(self, world: World, number: int, parent: int, nodes: tuple[int, ...], then: Callable[[], None]) -> None:
        super().__init__(world, number, 100_000 + number, parent=parent)
        self.parent, self.nodes, self._then = parent, nodes, then
        self.inputs: list[bytes] = []  # the task's
        self.values: dict[int, bytes] = {}
        self.errors: dict[int, m.ErrorInfo] = {}
        world.children[self] = None

    def begin(self) -> None:
        """Connect, and submit all children."""
        self.dial()
        for node in self.nodes:
            self.submit(node, f"{self.parent}-{node}")

    def messages(self, messages: list[Any]) -> None:
        super().messages(messages)
        self._look()

    def _look(self) -> None:
        if not self.alive or len(self.futures) < len(self.nodes) or self._ended() or self.asleep(self._look):
            return
        for node, record in self.futures.items():
            if node in self.values or node in self.errors or record.state is State.PENDING:
                continue
            if record.state is State.LOST:
                self.errors[node] = m.ErrorInfo("SessionLost", "", "")
            elif record.state is not State.FINISHED:
                self.errors[node] = record.error or m.ErrorInfo("TaskCancelled", "", "")
            else:
                value = self.fetch(node)
                if value is not None:
                    self.values[node] = value
                else:
                    self.world.after(0.3, self._look)  # its holders are asked meanwhile
        if self._ended():
            self._then()

    def _ended(self) -> bool:
        return len(self.values) + len(self.errors) == len(self.nodes)

    def leave(self, said: bool) -> None:
        self.world.children.pop(self, None)
        super().leave(said)
