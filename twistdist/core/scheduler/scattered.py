"""Scattered data: values without a recipe, which a session supplies, again if all copies are lost.  docs/data.rst."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import (
    Client,
    Retention,
    Source,
    Task,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.supplies import Supplies
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.transitions import (
    AWAITED,
)
from twistdist.core.scheduler.watchers import Watchers
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Scattered:
    """Data arrive, are requested again, and are lost with their session."""

    tuning: Tuning
    alarms: Alarms
    outputs: Outputs
    registry: Registry
    ledger: Ledger
    targets: Targets
    watchers: Watchers
    supplies: Supplies
    lifecycle: Lifecycle
    garbage: Garbage

    def scatter(self, now: float, client: Client, message: m.Scatter) -> None:
        """A session has data: they are in the message, or the session is asked to send them to a worker."""
        if message.cid in client.futures or message.cid in client.sources:
            raise ProtocolError(f"the future {message.cid} was submitted twice")
        known = self.garbage.find(message.key) if message.key else None
        if known is not None and known.recipe == message.digest and known.size == message.size:
            source = known.retention.source if known.retention is not None else None
            if source is not None and message.resupply:
                source.others.append((client, message.cid))
                client.sources[message.cid] = known
            elif message.value is None:
                self.outputs.post(client, m.DropData([message.cid]))
            self.supplies.record(known)
            self.lifecycle.watch(known, client, message.cid)
            return
        task = self.registry.new_task(
            client, message.cid, self.registry.data_function, b"", (), m.Options(), message.key if known is None else None
        )
        task.recipe, task.size, task.digest = message.digest, message.size, message.digest
        self.watchers.add(task, client, message.cid)
        self.ledger.data(task)
        if known is not None:
            text = f"the key {message.key!r} is in use with other content; choose another key, or release the old one first"
            self.lifecycle.fail(task, m.ErrorInfo("KeyConflict", "", text))
            self.outputs.post(client, m.DropData([message.cid]))
            return
        task.value_attempt = self.registry.next_attempt()
        if message.value is not None:
            task.value = message.value
            self.lifecycle.accept(task)
            return
        source = Source(client, message.cid, tuple(message.workers), message.resupply)
        task.retention = Retention(max(0, message.replicas), announced=False, source=source)
        client.sources[message.cid] = task
        self.targets.add(task)
        self.lifecycle.await_data(task)

    def look_at_awaited(self) -> None:
        """Workers have joined or left: data waiting for one, or on their way to one that is gone, are asked for again."""
        for task in list(self.supplies.awaited):
            source = task.retention.source if task.retention is not None else None
            if task.state is not AWAITED or source is None:
                self.supplies.stop_asking(task)
            elif source.supplying is None or source.supplying.number not in self.registry.workers:
                source.tries = 0  # other workers are available now
                self.supplies.ask(task, source)

    def not_supplied(self, now: float, client: Client, message: m.NotSupplied) -> None:
        """The session could not send the data: another session is asked, or it tries another worker after a pause."""
        task = client.sources.get(message.cid)
        source = task.retention.source if task is not None and task.retention is not None else None
        if task is None or source is None or task.state is not AWAITED or task not in self.supplies.awaited:
            return
        if source.client is not client or source.cid != message.cid:
            return
        source.tries += 1
        if not message.worker and source.others:
            client.sources.pop(message.cid, None)
            self.supplies.next_source(source)
            self.supplies.record(task)
            self.supplies.ask(task, source)
            return
        if not message.worker or source.tries >= self.tuning.max_tries:
            self._not_brought(task, source, message)
            return
        worker = self.registry.workers.get(message.worker)
        if worker is not None and len(source.failed) + 1 < len(self.registry.workers):
            source.failed[worker] = None
        else:
            source.failed.clear()
        source.supplying = None
        pause = min(self.tuning.longest_supply_pause_s, self.tuning.supply_pause_s * 2**source.tries)
        self.alarms.set(now + pause, self._supply_again, (task, source, source.tries))

    def _not_brought(self, task: Task, source: Source, message: m.NotSupplied) -> None:
        """The session no longer has the data, or no worker can take them."""
        if not message.worker or (task.retention is not None and task.retention.announced):
            self.lifecycle.data_lost(task, f"their session can't supply them: {message.text}")
            return
        self.supplies.stop_asking(task)
        text = f"the data {task.key} could not be sent to a worker in {source.tries} tries: {message.text}"
        self.lifecycle.fail(task, m.ErrorInfo("StoreError", "", text, key=task.key))

    def keeps(self, now: float, client: Client, message: m.Keeps) -> None:
        """What the client keeps in case it is requested again; it may drop what will not be."""
        useless = [cid for cid in message.cids if cid not in client.sources]
        if useless:
            self.outputs.post(client, m.DropData(useless))

    def _supply_again(self, now: float, subject: tuple[Task, Source, int]) -> None:
        task, source, tries = subject
        if task.state is AWAITED and source.supplying is None and source.tries == tries:
            self.supplies.ask(task, source)

    def sources_gone(self, client: Client) -> None:
        """The session has ended, and its files with it: it will supply nothing more."""
        for task in list(client.sources.values()):
            source = task.retention.source if task.retention is not None else None
            if source is None:
                continue
            source.others = [one for one in source.others if one[0] is not client]
            self.supplies.record(task)
            if source.client is client:
                self.supplies.next_source(source)
                if task not in self.supplies.awaited:
                    continue  # nobody was asked: after a restart the workers may bring them
                if task.state is AWAITED and source.client is not None:
                    self.supplies.ask(task, source)
                elif task.state is AWAITED and (task.watchers or task.pending):
                    self.lifecycle.data_lost(task, "the session that scattered them has ended")
                elif task.state is AWAITED:  # what needed them has just failed, of which the garbage will hear later
                    self.supplies.stop_asking(task)
                    self.lifecycle.end(task)
        client.sources.clear()
