"""The stories of a worker: it joins, it is replaced, its connection breaks, it is gone."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from twistdist.core.scheduler.attempts import Attempts
from twistdist.core.scheduler.broadcasts import Broadcasts
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.holdings import Holdings
from twistdist.core.scheduler.leaving import Leaving
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import (
    Incident,
    Worker,
)
from twistdist.core.scheduler.recovery import Recovery
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.scattered import Scattered
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.uploads import Uploads
from twistdist.errors import ProtocolError
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m

#: The kinds of incident for a worker that was told to stop and did, by a client or otherwise: no faults.
RETIRED, LEFT = "worker retired", "worker left"


@attrs.define(eq=False)
class Fleet:
    """Each story is one method, which informs every part concerned, in order."""

    tuning: Tuning
    outputs: Outputs
    registry: Registry
    ledger: Ledger
    broadcasts: Broadcasts
    uploads: Uploads
    reach: Reach
    placement: Placement
    holdings: Holdings
    queues: Queues
    attempts: Attempts
    copies: Copies
    recovery: Recovery
    scattered: Scattered
    leaving: Leaving
    outlived: dict[int, None] = attrs.field(factory=dict)  # incarnations that were replaced by a later one

    def refusal(self, hello: m.HelloClient | m.HelloWorker, expected: Mapping[str, j.Worker]) -> m.Refused | None:
        """Why a Hello must be refused: another incarnation of that worker has registered since, or it runs another Python than
        the workers, and those that are ``expected`` back after a restart: whoever comes first does not decide again."""
        mine = isinstance(hello, m.HelloWorker)
        if isinstance(hello, m.HelloWorker) and hello.incarnation in self.outlived:
            return m.Refused(
                "replaced",
                f"another worker named {hello.name!r} has taken this one's place; give each worker a name of its own",
            )
        pythons = {one.hello.python: one.name for one in self.registry.workers.values() if one.connected and one.hello.python}
        pythons |= {row.python: f"{name}, which is expected back" for name, row in expected.items() if row.python}
        if not hello.python or not pythons or hello.python in pythons:
            return None
        python, worker = next(iter(pythons.items()))
        who = f"the worker {hello.name}" if mine else "this client"
        return m.Refused(
            "python",
            f"{who} runs Python {hello.python}, but the cluster's workers run Python {python} ({worker}): functions that one "
            f"pickles can't be read by the other; start it with Python {python}",
        )

    def greet(self, now: float, hello: m.HelloWorker) -> Worker:
        """A worker registers: for the first time, again after it was given up, or instead of another one with its name.

        Values come first, so that what an earlier incarnation held and this one brings is never considered lost.
        """
        if hello.slots < 0 or min(hello.resources.values(), default=0) < 0:
            raise ProtocolError(f"worker {hello.name} has negative slots or resources: {hello.slots} slots, {hello.resources}")
        worker = Worker(
            self.registry.next("worker"),
            hello,
            self.registry.new_session(),
            resources=dict(hello.resources),
            progress_at=now,
            heard_at=now,
            quiet_at=now,
        )
        earlier = [other for other in self.registry.workers.values() if other.name == hello.name]
        leaving = self.leaving.of_incarnation(hello.incarnation)
        self.registry.add_worker(worker)
        self.ledger.worker(worker)
        self.uploads.joined(worker)
        self.recovery.adopt(now, worker, hello.stored, f"incarnation {hello.incarnation:x} brought its store")
        for old in earlier:
            self._replace(now, old, hello)
        self.attempts.adopt(now, worker)
        self.queues.offer_restricted(worker)
        self.placement.update(worker)
        if leaving is not None:  # a process that must leave must leave even if it says Hello again
            seconds = max(0.0, leaving.deadline - now)
            self.leaving.retire(now, worker, seconds, leaving.why, leaving.by, leaving.patient, leaving.careful)
        self.came(worker)
        self._compare(now, worker)
        return worker

    def _compare(self, now: float, worker: Worker) -> None:
        """The first worker decides on Python's version; clients that came before it may have another one."""
        python = worker.hello.python
        others = sorted({client.python for client in self.registry.clients.values() if client.connected and client.python})
        if python and others and others != [python]:
            text = f"it runs Python {python}, and clients that are connected run Python {', '.join(others)}: "
            self.outputs.incident(Incident(now, "another Python", worker.name, text + "their functions can't be read there"))

    def came(self, worker: Worker) -> None:
        """A worker has joined or returned: check what waits for one."""
        self.copies.look_at_all()
        self.scattered.look_at_awaited()
        for other in self.registry.workers.values():  # nobody may have been connected when it was lost
            if not other.connected and other.hello.host == worker.hello.host and other is not worker:
                self.outputs.post(worker, m.Rescue(other.number, other.hello.store))

    def _replace(self, now: float, old: Worker, hello: m.HelloWorker) -> None:
        """A worker with the name of ``old`` says Hello: the same process again, or another one that replaces it."""
        if old.hello.incarnation == hello.incarnation:
            self.gone(now, old, "it was silent for so long that it registered again", alive=True)
            return
        self.gone(now, old, "a new incarnation has replaced it")
        self.outputs.replace(old)
        self.outlived[old.hello.incarnation] = None
        if len(self.outlived) > self.tuning.max_outlived:
            del self.outlived[next(iter(self.outlived))]

    def away(self, worker: Worker) -> None:
        """It is silent, or its connection broke: it gets no more work, and its process is probed."""
        self.placement.remove(worker)
        self._rescue(worker)
        self.outputs.probe(worker)

    def _rescue(self, worker: Worker) -> None:
        """Have another worker on the same host check whether the process of ``worker`` is dead, and take over its store."""
        hello = worker.hello
        for other in self.registry.workers.values():
            if other.reachable and other.hello.host == hello.host and other.retiring is None and hello.store:
                self.outputs.post(other, m.Rescue(worker.number, hello.store))
                return

    def rescued(self, now: float, by: Worker, message: m.Rescued) -> None:
        """Values come first, so that what exists again is never considered lost."""
        worker = self.registry.workers.get(message.worker)
        self.recovery.adopt(now, by, message.stored, f"{by.name} took over a store on its host")
        if message.dead and worker is not None and not worker.reachable:
            self.gone(now, worker, "its process died")

    def gone(self, now: float, worker: Worker, cause: str, alive: bool = False) -> None:
        """Everything that the end of a worker means, in order.  ``alive``: its process is only saying Hello again."""
        if not self.registry.drop_worker(worker):
            return  # it was already given up
        self.ledger.worker_gone(worker.number)
        worker.connected = False  # the break of its connection may have gone unnoticed; it is given nothing any more
        self.placement.remove(worker)
        self.outputs.drop(worker)
        self.broadcasts.gone(worker)
        self.reach.drop_links(worker)
        self.copies.not_to(worker)
        incident = self._incident_of(now, worker, cause, alive)
        attempts = list(worker.assigned)
        # A worker that was leaving was ended from outside: none of its tasks is suspected.
        alone = None if alive or worker.retiring is not None else self.attempts.expose(worker)
        # Values come first, so that the plan for the tasks that were running sees what is missing.
        self.recovery.lose(worker, self.holdings.clear(worker), incident)
        for task in attempts:
            self.attempts.lost(now, task, worker, cause, ran_alone=task is alone)
        self.queues.offer_again()
        self.outputs.incident(incident, worker)
        self.copies.look_at_all()
        self.scattered.look_at_awaited()
        self.reach.tell_state(worker, "gone")
        self.reach.forget(worker)

    def left(self, now: float, worker: Worker, message: m.Left) -> None:
        """Its process has ended in order."""
        self.gone(now, worker, "its process ended")

    @staticmethod
    def _incident_of(now: float, worker: Worker, cause: str, alive: bool) -> Incident:
        kind = "worker registered anew" if alive else "worker lost"
        if worker.retiring is not None and worker.retiring.told and not alive:
            kind, cause = RETIRED if worker.retiring.by else LEFT, worker.retiring.why
        return Incident(now, kind, worker.name, cause, requeued=len(worker.assigned))

    def shut_down(self, text: str) -> None:
        """Tell every worker to stop; the edge ends the scheduler."""
        self.outputs.end(text)
        for worker in self.registry.workers.values():
            self.outputs.post(worker, m.Stop(text))

    def log(self, now: float, worker: Worker, message: m.WorkerLog) -> None:
        """The worker reports trouble of its own."""
        worker.troubles.append(f"{message.kind}: {message.text}")
        self.outputs.incident(Incident(now, message.kind, worker.name, message.text), worker)
