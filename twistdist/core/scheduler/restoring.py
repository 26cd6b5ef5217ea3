"""The scheduler is restarted: its records are made from the rows of a journal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import attrs

from twistdist.core.scheduler import transitions
from twistdist.core.scheduler.client_sessions import ClientSessions
from twistdist.core.scheduler.durable import Durable
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.ledger_rows import Batch, has_bit
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.ready_queue import rank
from twistdist.core.scheduler.records import (
    Client,
    Dataset,
    Function,
    History,
    Incident,
    Retention,
    Source,
    Task,
    Upload,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.rejoining import Rejoining
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.transitions import (
    DONE,
    WAITING,
    Transitions,
)
from twistdist.core.scheduler.uploads import Uploads
from twistdist.core.scheduler.watchers import Watchers
from twistdist.core.session import Session
from twistdist.errors import JournalError
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m

#: Bits by which each life of the scheduler skips numbers that an earlier one may have assigned and not written down.
LIFE_BITS = {"task": 32, "worker": 20, "function": 20, "audit": 20, "batch": 24}


@attrs.define(eq=False)
class Restoring:
    """Only ``restore`` is called from outside, once, before any other event."""

    outputs: Outputs
    registry: Registry
    ledger: Ledger
    transitions: Transitions
    targets: Targets
    watchers: Watchers
    lifecycle: Lifecycle
    garbage: Garbage
    client_sessions: ClientSessions
    durable: Durable
    rejoining: Rejoining
    uploads: Uploads

    def restore(self, now: float, lives: int, rows: Iterable[tuple[j.Key, Any]]) -> None:
        """Make the records from a journal's rows; from then on ``self.ledger`` knows what is on disk."""
        ledger, tasks = self.ledger, self.registry.tasks
        self.registry.lived_before(lives)
        for what, bits in LIFE_BITS.items():
            self.registry.is_taken(what, lives << bits)
        found: dict[int, list[tuple[int, Any]]] = {kind: [] for kind in j.KINDS}
        for (kind, number), record in rows:
            found[kind].append((number, record))
            if kind != j.META:
                ledger.restored((kind, number))
        functions = self._restore_functions(found[j.FUNCTION])
        self._restore_sessions(now, found[j.SESSION], functions)
        marks = dict(found[j.MARKS])
        for number, data in sorted(found[j.DATA]):
            self._restore_data(number, data)
        for number, batch in sorted(found[j.BATCH]):
            self._restore_batch(number, batch, marks.pop(number, None), functions)
        for number in marks:
            ledger.drop((j.MARKS, number))
        for number, watches in sorted(found[j.WATCHES]):
            self._restore_watches(number, watches)
        ended: dict[Task, tuple[int, j.Outcome]] = {}
        for number, outcomes in sorted(found[j.OUTCOMES]):
            ended.update({tasks[outcome.task]: (number, outcome) for outcome in outcomes.outcomes if outcome.task in tasks})
        self._restore_outcomes(found[j.OUTCOMES], ended)
        for number, row in found[j.HISTORY]:
            if number in tasks:
                tasks[number].history = History(row.last, row.raised, list(row.crashes), row.exposed)
            else:
                ledger.drop((j.HISTORY, number))
        for number, target in found[j.TARGET]:
            if number in tasks:
                self.targets.of(tasks[number]).copies = target.copies
                self.targets.add(tasks[number])
            else:
                ledger.drop((j.TARGET, number))
        for number, row in sorted(found[j.UPLOAD]):
            digest = hashlib.blake2b(row.blob, digest_size=16).digest()
            self.uploads.restore(Upload(number, row.name, row.kind, digest, row.blob))
        for number, name in found[j.NAME]:
            self.durable.restore(Dataset(number, name.name, name.shape, [tasks[task] for task in name.tasks if task in tasks]))
        self._restore_states()
        for function in functions.values():
            self.registry.drop_function_user(function)  # which kept it while the tasks that use it were made
        for number, worker in found[j.WORKER]:
            self.rejoining.expect(number, worker)
        self.garbage.collect_all()
        self.rejoining.begin(now)
        if not lives:
            return
        text = (
            f"{len(tasks)} tasks, {self.transitions.unfinished} of them unfinished; "
            f"waiting for {len(self.rejoining.expected)} workers"
        )
        self.outputs.incident(Incident(now, "scheduler restarted", f"epoch {self.registry.epoch}", text))

    def _restore_functions(self, found: list[tuple[int, Any]]) -> dict[int, Function]:
        functions = {}
        for number, row in found:
            functions[number] = Function(number, row.name, row.digest, row.blob, users=1)
            self.registry.add_function(functions[number])
            self.registry.is_taken("function", number)
        return functions

    def _restore_sessions(self, now: float, found: list[tuple[int, Any]], functions: dict[int, Function]) -> None:
        for number, row in found:
            session = Session(received=row.received, safe=row.received)
            client = Client(
                number,
                row.name,
                session,
                connected=False,
                away_since=now,
                parent=row.parent,
                placeholder=row.placeholder,
                next_cid=row.next_cid,
                recorded=True,
                restored=True,
            )
            self.registry.add_client(client)
            for fn, function in row.functions:
                if function in functions:
                    client.functions[fn] = functions[function]
                    functions[function].users += 1
            if row.placeholder:
                self.watchers.restore(client)
            else:
                self.client_sessions.away(now, client)

    def _restore_batch(self, first: int, row: j.Batch, marks: j.Marks | None, functions: dict[int, Function]) -> None:
        if row.function not in functions:
            raise JournalError(f"the journal has tasks of the function {row.function}, but not that function")
        function, client, count = functions[row.function], self.registry.clients.get(row.session), len(row.numbers)
        gone = marks.gone if marks is not None else b""
        released = marks.released if marks is not None else b""
        size = (count + 7) >> 3
        batch = Batch(
            row.session,
            row.origin,
            row.function,
            row.options,
            row.rank,
            [],
            row.numbers,
            0,
            bytearray(gone.ljust(size, b"\0")),
            bytearray(released.ljust(size, b"\0")),
        )
        special = row.options.replicas > 1 or row.options.replay == "never"
        for at, number in enumerate(row.numbers):
            inputs: tuple[Task, ...] = ()
            if row.inputs is not None and row.inputs[at]:
                inputs = tuple(
                    [self.registry.tasks[upstream] for upstream in row.inputs[at] if upstream in self.registry.tasks]
                )
            key = row.keys[at] if row.keys is not None else None
            depth = 1 + max([upstream.depth for upstream in inputs]) if inputs else 0
            order = rank(row.options.priority, row.rank, depth, number)
            task = Task(number, function, row.args[at], inputs, row.options, order, key, row.origin, row.cids[at])
            batch.tasks.append(task)
            if has_bit(gone, at):
                continue
            batch.left += 1
            task.recipe = row.recipes[at] if row.recipes is not None else b""
            self.registry.add_task(task, depth)
            if special:
                self.targets.give(task, row.options)
            if client is not None and not has_bit(released, at):
                self.watchers.link(task, client, task.cid)
        if batch.left:
            self.ledger.restored_batch(batch)
        else:
            self.ledger.drop((j.BATCH, first))

    def _restore_data(self, number: int, row: j.Data) -> None:
        task = Task(number, self.registry.data_function, b"", (), m.Options(), number, row.key, row.origin, row.cid)
        task.rank = rank(0, 0, 0, number)
        task.recipe = task.digest = row.digest
        task.size, task.value_attempt, task.value = row.size, row.attempt, row.value
        self.registry.add_task(task)
        if row.value is not None:
            return
        sources = [(client, cid) for session, cid in row.sources if (client := self.registry.clients.get(session)) is not None]
        first = sources.pop(0) if sources else (None, 0)
        task.retention = Retention(
            row.copies, row.announced, source=Source(first[0], first[1], tuple(row.workers), row.resupply, sources)
        )
        self.targets.add(task)
        for client, cid in ([(first[0], first[1])] if first[0] is not None else []) + sources:
            client.sources[cid] = task

    def _restore_watches(self, number: int, row: j.Watches) -> None:
        client, wanted = self.registry.clients.get(row.session), {}
        for cid, of in zip(row.cids, row.tasks, strict=True):
            task = self.registry.tasks.get(of)
            if client is None or (of and task is None):
                continue
            client.futures[cid] = task
            wanted[(row.session, cid)] = of
            if task is not None:
                task.watchers[(client, cid)] = None
                if client.placeholder:
                    client.kept[task] = cid
        self.ledger.restored_watches(number, wanted)

    def _restore_outcomes(self, found: list[tuple[int, Any]], ended: dict[Task, tuple[int, j.Outcome]]) -> None:
        valid: dict[int, list[Task]] = {number: [] for number, _ in found}
        for task, (number, outcome) in ended.items():
            valid[number].append(task)
            task.value_attempt, task.value, task.size, task.digest = (
                outcome.attempt,
                outcome.value,
                outcome.size,
                outcome.digest,
            )
            task.error = outcome.error
            if outcome.checkpointed:
                self.targets.of(task).checkpointed = True
        for number, tasks in valid.items():
            self.ledger.restored_outcomes(number, tasks)

    def _restore_states(self) -> None:
        """From the last task to the first, so that it is known of each whether a later one needs it; then forward, to
        count missing inputs."""
        for task in self.registry.tasks.values():
            if task.value is not None or (task.retention is not None and task.retention.checkpointed):
                task.inputs = ()  # as at that time: its lineage was cut
            for upstream in task.inputs:
                if upstream.dependents is None:
                    upstream.dependents = {}
                upstream.dependents[task] = None
        for number in sorted(self.registry.tasks, reverse=True):
            task = self.registry.tasks[number]
            if not task.needed:  # what was about to be dropped too
                self.registry.reconsider(task)
            if task.error is not None:
                self.transitions.move(task, transitions.READ_FAILED)
            elif task.value is not None:
                self.transitions.move(task, transitions.READ_DONE)
            elif task.watchers or task.pending:
                if task.value_attempt:
                    self.transitions.move(task, transitions.READ_AWAITED)
                    self.rejoining.is_unclaimed(task)
                    continue
                self.transitions.move(task, transitions.READ_WAITING)
                for upstream in task.inputs:
                    upstream.pending += 1
        for number in sorted(self.registry.tasks):
            task = self.registry.tasks[number]
            if task.state is not WAITING:
                continue
            broken = next((upstream.error for upstream in task.inputs if upstream.error is not None), None)
            if broken is not None:
                self.lifecycle.fail(task, broken)
                continue
            task.missing = sum(1 for upstream in task.inputs if upstream.state is not DONE)
            if not task.missing:
                self.lifecycle.make_ready(task, transitions.INPUTS_THERE)
