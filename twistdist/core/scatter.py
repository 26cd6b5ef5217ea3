"""Scattered data: values without a recipe, which a session brings and, if all copies are lost, brings again.  docs/data.rst."""

from __future__ import annotations

from typing import Any

from twistdist.core import transitions
from twistdist.core.records import Care, Client, Function, Source, Task, Worker
from twistdist.core.replicas import Replicas
from twistdist.core.tasks import ATTEMPT_BITS
from twistdist.core.transitions import AWAITED
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: Times that a session is asked to bring its data to a worker that it can't reach.
MOST_TRIES = 8

#: Pause between them, in seconds: doubled each time.
SUPPLY_PAUSE_S, LONGEST_SUPPLY_PAUSE_S = 0.1, 5.0


class Scattered(Replicas):
    """The book of tasks, with data that have no recipe."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.clients: dict[int, Client] = {}
        self.awaited: dict[Task, None] = {}
        self._data = Function(0, "data", b"", b"", users=1)

    def _scatter(self, now: float, client: Client, message: m.Scatter) -> None:
        if message.cid in client.futures or message.cid in client.sources:
            raise ProtocolError(f"the future {message.cid} was submitted twice")
        known = self.keys.get(message.key) if message.key else None
        if known is not None and not known.watchers and not known.pending:
            self.collect()
            known = self.keys.get(message.key)
        if known is not None and known.recipe == message.digest and known.size == message.size:
            source = known.care.source if known.care is not None else None
            if source is not None and message.resupply:
                source.others.append((client, message.cid))
                client.sources[message.cid] = known
            elif message.value is None:
                self.post(client, m.DropData([message.cid]))
            self._record_data(known)
            self.watch(known, client, message.cid)
            return
        task = self._new_task(client, message.cid, self._data, b"", (), m.Options(), message.key if known is None else None)
        task.recipe, task.size, task.digest = message.digest, message.size, message.digest
        client.futures[message.cid] = task
        task.watchers[(client, message.cid)] = None
        self.ledger.session(client)
        self.ledger.watch(task, client, message.cid)
        self.ledger.data(task)
        if known is not None:
            text = f"the key {message.key!r} is in use with other content; choose another key, or release the old one first"
            self._fail(task, m.ErrorInfo("KeyConflict", "", text))
            self.post(client, m.DropData([message.cid]))
            return
        task.value_attempt = self.epoch << ATTEMPT_BITS | self._next("attempt")
        if message.value is not None:
            task.value = message.value
            self._has_value(task)
            return
        source = Source(client, message.cid, tuple(message.workers), message.resupply)
        task.care = Care(max(0, message.replicas), announced=False, source=source)
        client.sources[message.cid] = task
        self.targets[task] = None
        self._await(task)

    def _record_data(self, task: Task) -> None:
        """Who can bring the data has changed."""
        if task.number in self.tasks and task.function is self._data:
            self.ledger.data(task)

    def watch(self, task: Task, client: Client, cid: int) -> None:
        raise TypeError("the scheduler watches")

    def _new_task(self, client: Client, cid: int, function: Function, args: bytes, inputs: tuple[Any, ...],
                  options: m.Options, key: str | None) -> Task:  # fmt: skip
        raise TypeError("the scheduler makes tasks")

    def _await(self, task: Task) -> None:
        """The data are to come (again) from their session; without one they are lost."""
        source = task.care.source if task.care is not None else None
        if source is None or source.client is None:
            self._data_lost(task, "the session that scattered them is gone, or can't supply them again")
            return
        self.transitions.move(task, transitions.TO_BE_SUPPLIED)
        source.tries = 0
        source.failed.clear()
        self._ask_supply(task, source)

    def _data_lost(self, task: Task, why: str) -> None:
        self.awaited.pop(task, None)
        text = f"the scattered data {task.key} are lost with every worker that had them, and {why}; scatter them again"
        self._fail(task, m.ErrorInfo("DataLost", "", text, key=task.key))

    def _ask_supply(self, task: Task, source: Source) -> None:
        """Ask the session to bring the data to one worker; without a worker they wait for one."""
        self.awaited[task] = None
        source.supplying = None
        free = [one for one in self.workers.values()
                if one.well and one.retiring is None and one not in source.failed
                and (not source.workers or one.name in source.workers)]  # fmt: skip
        if free and source.client is not None:
            chosen = min(free, key=lambda one: (one.bytes_held, one.number))
            source.supplying = chosen
            numbers = self._introduce(source.client, [chosen])
            self.post(source.client, m.Supply(source.cid, task.number, task.value_attempt, numbers))

    def _announce(self, task: Task, care: Care) -> None:
        if not care.announced and care.source is not None:
            self._record_data(task)
        super()._announce(task, care)
        if care.source is not None and not care.source.resupply and care.source.client is not None:
            self._drop_source(task, care.source)

    def _look_at_awaited(self) -> None:
        """Workers have come or gone: data that wait for one, or were on their way to one that is gone, are asked for again."""
        for task in list(self.awaited):
            source = task.care.source if task.care is not None else None
            if task.state is not AWAITED or source is None:
                del self.awaited[task]
            elif source.supplying is None or source.supplying.number not in self.workers:
                source.tries = 0  # other workers are there now
                self._ask_supply(task, source)

    def _not_supplied(self, now: float, client: Client, message: m.NotSupplied) -> None:
        task = client.sources.get(message.cid)
        source = task.care.source if task is not None and task.care is not None else None
        if task is None or source is None or task.state is not AWAITED or task not in self.awaited:
            return
        if source.client is not client or source.cid != message.cid:
            return
        source.tries += 1
        if not message.worker and source.others:
            client.sources.pop(message.cid, None)
            self._next_source(source)
            self._record_data(task)
            self._ask_supply(task, source)
            return
        if not message.worker or source.tries >= MOST_TRIES:
            self._not_brought(task, source, message)
            return
        worker = self.workers.get(message.worker)
        if worker is not None and len(source.failed) + 1 < len(self.workers):
            source.failed[worker] = None
        else:
            source.failed.clear()
        source.supplying = None
        pause = min(LONGEST_SUPPLY_PAUSE_S, SUPPLY_PAUSE_S * 2**source.tries)
        self._alarm(now + pause, self._supply_again, (task, source, source.tries))

    def _not_brought(self, task: Task, source: Source, message: m.NotSupplied) -> None:
        """The session has not got the data any more, or no worker can take them."""
        if not message.worker or (task.care is not None and task.care.announced):
            self._data_lost(task, f"their session can't supply them: {message.text}")
            return
        self.awaited.pop(task, None)
        text = f"the data {task.key} could not be brought to a worker in {source.tries} tries: {message.text}"
        self._fail(task, m.ErrorInfo("StoreError", "", text, key=task.key))

    def _keeps(self, now: float, client: Client, message: m.Keeps) -> None:
        """What the client keeps in case it is asked for again: what will not be may go."""
        useless = [cid for cid in message.cids if cid not in client.sources]
        if useless:
            self.post(client, m.DropData(useless))

    def _supply_again(self, now: float, subject: tuple[Task, Source, int]) -> None:
        task, source, tries = subject
        if task.state is AWAITED and source.supplying is None and source.tries == tries:
            self._ask_supply(task, source)

    def _forget(self, task: Task) -> None:
        source = task.care.source if task.care is not None else None
        if source is not None:
            self._drop_source(task, source)
        super()._forget(task)

    def _drop_source(self, task: Task, source: Source) -> None:
        """The data will not be asked for again."""
        self.awaited.pop(task, None)
        them = [*([(source.client, source.cid)] if source.client is not None else []), *source.others]
        source.client = None
        source.others.clear()
        self._record_data(task)
        for client, cid in them:
            client.sources.pop(cid, None)
            if client.number in self.clients:
                self.post(client, m.DropData([cid]))

    def _sources_gone(self, client: Client) -> None:
        """The session has ended, and its files with it: what was to come from it will not."""
        for task in list(client.sources.values()):
            source = task.care.source if task.care is not None else None
            if source is None:
                continue
            source.others = [one for one in source.others if one[0] is not client]
            self._record_data(task)
            if source.client is client:
                self._next_source(source)
                if task not in self.awaited:
                    continue  # nobody was asked: after a restart the workers may bring them
                if task.state is AWAITED and source.client is not None:
                    self._ask_supply(task, source)
                elif task.state is AWAITED and (task.watchers or task.pending):
                    self._data_lost(task, "the session that scattered them has ended")
        client.sources.clear()

    @staticmethod
    def _next_source(source: Source) -> None:
        """The session that brought the data can't any more; another one that scattered the same may."""
        source.client, source.cid = source.others.pop(0) if source.others else (None, 0)

    def _worker_gone(self, now: float, worker: Worker, cause: str, alive: bool = False) -> None:
        super()._worker_gone(now, worker, cause, alive)
        self._look_at_awaited()

    def _worker_came(self, worker: Worker) -> None:
        self._workers_changed()
        self._look_at_awaited()
        for other in self.workers.values():  # nobody may have been there when it was lost
            if not other.connected and other.hello.host == worker.hello.host and other is not worker:
                self.post(worker, m.Rescue(other.number, other.hello.store))
