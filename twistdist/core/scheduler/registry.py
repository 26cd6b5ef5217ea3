"""All records by number and by name, and the numbers that are assigned."""

from __future__ import annotations

from typing import Any

import attrs

from twistdist.core.scheduler.activity import Activity
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Outputs, Peer
from twistdist.core.scheduler.ready_queue import rank
from twistdist.core.scheduler.records import (
    Client,
    Function,
    Statistics,
    Task,
    Worker,
)
from twistdist.core.scheduler.timeline import Timeline
from twistdist.core.session import Session
from twistdist.wire import messages as m

#: Digits of the largest number of a future.
CID_DIGITS = 19

#: Bits of an attempt's counter; the epoch is above them.
ATTEMPT_BITS = 36


@attrs.define(eq=False)
class Registry:
    """Tasks, functions, workers and client sessions."""

    outputs: Outputs
    ledger: Ledger
    epoch: int
    statistics: Statistics
    timeline: Timeline
    activity: Activity
    tasks: dict[int, Task] = attrs.field(factory=dict)
    keys: dict[str, Task] = attrs.field(factory=dict)
    functions: dict[bytes, Function] = attrs.field(factory=dict)
    workers: dict[int, Worker] = attrs.field(factory=dict)
    clients: dict[int, Client] = attrs.field(factory=dict)
    worker_names: set[str] = attrs.field(factory=set)  # of all workers that ever joined
    first_epoch: int = attrs.field(init=False)  # of the journal; each life has the next one
    unwanted: list[Task] = attrs.field(factory=list)  # perhaps: garbage checks them
    data_function: Function = attrs.field(factory=lambda: Function(0, "data", b"", b"", users=1))  # of scattered data
    _numbers: dict[str, int] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.first_epoch = self.epoch

    def next(self, what: str) -> int:
        """A number that no other ``what`` has."""
        number = self._numbers[what] = self._numbers.get(what, 0) + 1
        return number

    def next_attempt(self) -> int:
        """The number of a new attempt, which no attempt of another life of the scheduler has either."""
        return self.epoch << ATTEMPT_BITS | self.next("attempt")

    def lived_before(self, lives: int) -> None:
        """The journal is of so many earlier lives."""
        self.first_epoch = self.epoch - lives

    def is_of_earlier_life(self, attempt: int) -> bool:
        """Whether an earlier life of this scheduler assigned the attempt.  What schedulers with other journals, or without one,
        have assigned means nothing here: the numbers of its tasks are those of other tasks."""
        return self.first_epoch <= attempt >> ATTEMPT_BITS < self.epoch

    def is_taken(self, what: str, number: int) -> None:
        """Numbers up to this one were assigned in an earlier life."""
        self._numbers[what] = max(self._numbers.get(what, 0), number)

    def new_session(self) -> Session:
        """For a new peer; with a journal, its messages are acknowledged when they are durable."""
        return Session(safe=0 if self.ledger.kept else None)

    def reconsider(self, task: Task) -> None:
        """Perhaps nobody wants the task any more: that is checked at the end of the event."""
        self.unwanted.append(task)

    def find(self, client: Client, name: int | str) -> Task | None:
        """A task by this client's cid, or by any client's key."""
        if isinstance(name, int):
            return client.futures.get(name)
        task = self.keys.get(name)
        return self._by_generated_name(name) if task is None and isinstance(name, str) else task

    def _by_generated_name(self, name: str) -> Task | None:
        """The task without a key that has this name: function, session and number of the future; see :attr:`.Task.key`."""
        _, _, origin = name.rpartition("-")[0].rpartition("-")
        number = name.rpartition("-")[2]
        if not number.isdecimal() or len(number) > CID_DIGITS:
            return None
        cid = int(number)
        named = (task for task in self.tasks.values() if task.cid == cid and task.origin == origin)  # fast: there may be many
        return next((task for task in named if task.key == name), None)

    def peers(self) -> list[Client | Worker]:
        """All sessions."""
        return [*self.clients.values(), *self.workers.values()]

    def new_task(
        self,
        client: Client,
        cid: int,
        function: Function,
        args: bytes,
        inputs: tuple[Any, ...],
        options: m.Options,
        key: str | None,
    ) -> Task:
        """A new task, which the future ``cid`` of ``client`` requests."""
        number = self.next("task")
        depth = 1 + max([upstream.depth for upstream in inputs]) if inputs else 0
        order = rank(options.priority, client.batch, depth, number)
        task = Task(number, function, args, inputs, options, order, key, f"{client.number:x}"[:8], cid)
        task.since = self.timeline.now
        self.add_task(task, depth)
        return task

    def add_task(self, task: Task, depth: int = 0) -> None:
        """Add a new record; its inputs are as the arguments count them, one perhaps twice."""
        inputs = task.inputs
        if len(inputs) > 1 and len(set(inputs)) < len(inputs):
            task.positions, task.inputs = inputs, tuple(dict.fromkeys(inputs))
        task.depth = depth
        task.function.users += 1
        self.tasks[task.number] = task
        if task.chosen is not None:
            self.keys[task.chosen] = task

    def forget(self, task: Task) -> None:
        """Drop the record, and its key if that still refers to it."""
        del self.tasks[task.number]
        self.drop_key(task)

    def drop_key(self, task: Task) -> None:
        """The key is free for another task."""
        if task.chosen is not None and self.keys.get(task.chosen) is task:
            del self.keys[task.chosen]

    def add_function(self, function: Function) -> None:
        self.activity.known(function)
        self.functions[function.digest] = function

    def add_client(self, client: Client) -> None:
        self.clients[client.number] = client

    def drop_client(self, client: Client) -> None:
        del self.clients[client.number]

    def add_worker(self, worker: Worker) -> None:
        self.workers[worker.number] = worker
        self.remember_worker(worker.name)

    def remember_worker(self, name: str) -> None:
        """A worker of that name is, or was, part of the cluster."""
        self.worker_names.add(name)

    def drop_worker(self, worker: Worker) -> bool:
        """The worker is no longer part of the cluster.  Return False if it was not part of it before."""
        return self.workers.pop(worker.number, None) is not None

    def is_here(self, peer: Peer) -> bool:
        """Whether this session, or incarnation of a worker, is part of the cluster."""
        known = self.workers if isinstance(peer, Worker) else self.clients
        return known.get(peer.number) is peer

    def drop_function_user(self, function: Function) -> None:
        """One task or session no longer uses the function."""
        function.users -= 1
        if function.users == 0:
            del self.functions[function.digest]
            self.ledger.function_gone(function)
            for worker in self.workers.values():
                if function.number in worker.functions:
                    worker.functions.discard(function.number)
                    self.outputs.post(worker, m.ForgetFunctions([function.number]))
