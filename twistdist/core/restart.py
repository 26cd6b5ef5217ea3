"""The scheduler is started again: its books from the journal, and the time until the workers have brought the rest.

``restore`` makes the records anew.  Then the scheduler is *recovering*: it takes in workers and clients, and gives out nothing,
until every worker that it knew has come back, or ``dead_after`` is over (``RESTART_GRACE_S`` for those whose address refuses
connections).  Values that lie in stores, and attempts that are running, are claimed by the workers' Hellos; what nobody
claims is
brought back as after any other loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twistdist.core import transitions
from twistdist.core.ledger import Batch, has_bit
from twistdist.core.queue import rank
from twistdist.core.records import Care, Client, Dataset, Function, Incident, Source, Task, Trouble, Worker
from twistdist.core.session import Session
from twistdist.core.sessions import FIRST_HELD, Sessions
from twistdist.core.transitions import AWAITED, DONE, IDLE, UNFINISHED, WAITING
from twistdist.errors import JournalError
from twistdist.wire import journal as j
from twistdist.wire import messages as m

#: Seconds that a worker whose process is gone has to be started again, after a restart of the scheduler.
RESTART_GRACE_S = 3.0

#: Bits by which each life of the scheduler numbers on beyond what an earlier one may have given out and not written down.
LIFE_BITS = {"task": 32, "worker": 20, "function": 20, "audit": 20, "batch": 24}


class Restarting(Sessions):
    """The book of tasks, as it comes out of a journal."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.expected: dict[str, j.Worker] = {}
        self._expected_rows: dict[str, list[j.Key]] = {}
        self._refused: set[str] = set()
        self._restarted_at = 0.0
        self._unclaimed: dict[Task, None] = {}

    # ---- reading ----------------------------------------------------------------------------

    def restore(self, now: float, lives: int, rows: Iterable[tuple[j.Key, Any]]) -> None:
        """Make the records of a journal's rows; ``self.ledger`` knows from then on what is on disk."""
        ledger = self.ledger
        for what, bits in LIFE_BITS.items():
            self._numbers[what] = max(self._numbers[what], lives << bits)
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
            ended.update({self.tasks[one.task]: (number, one) for one in outcomes.outcomes if one.task in self.tasks})
        self._restore_outcomes(found[j.OUTCOMES], ended)
        for number, row in found[j.TROUBLE]:
            if number in self.tasks:
                self.tasks[number].trouble = Trouble(row.last, row.raised, list(row.crashes), row.exposed)
            else:
                ledger.drop((j.TROUBLE, number))
        for number, target in found[j.TARGET]:
            if number in self.tasks:
                self._care(self.tasks[number]).copies = target.copies
                self.targets[self.tasks[number]] = None
            else:
                ledger.drop((j.TARGET, number))
        for number, name in found[j.NAME]:
            tasks = [self.tasks[one] for one in name.tasks if one in self.tasks]
            self.datasets[name.name] = Dataset(number, name.name, name.shape, tasks)
            self._numbers["dataset"] = max(self._numbers["dataset"], number)
        self._restore_states()
        for function in list(self.functions.values()):
            function.users -= 1  # what kept it while the tasks that use it were made
            if not function.users:
                del self.functions[function.digest]
                ledger.function_gone(function)
        for number, worker in found[j.WORKER]:
            self.expected[worker.name] = worker
            self.worker_names.add(worker.name)
            self._expected_rows.setdefault(worker.name, []).append((j.WORKER, number))
        self.collect()
        self._restarted_at = now
        self.recovering = bool(self.expected)
        if self.recovering:
            self._alarm(now + self.settings.dead_after, self._time_to_recover, None)
        else:
            self._recovered(now)
        if not lives:
            return
        text = f"{len(self.tasks)} tasks, {self.unfinished} of them unfinished; {len(self.expected)} workers are waited for"
        self._incident(Incident(now, "scheduler restarted", f"epoch {self.epoch}", text))

    def _restore_functions(self, found: list[tuple[int, Any]]) -> dict[int, Function]:
        functions = {}
        for number, row in found:
            functions[number] = self.functions[row.digest] = Function(number, row.name, row.digest, row.blob, users=1)
            self._numbers["function"] = max(self._numbers["function"], number)
        return functions

    def _restore_sessions(self, now: float, found: list[tuple[int, Any]], functions: dict[int, Function]) -> None:
        for number, row in found:
            session = Session(received=row.received, safe=row.received)
            client = Client(number, row.name, session, connected=False, away_since=now, parent=row.parent, held=row.held,
                            next_cid=row.next_cid, recorded=True, restored=True)  # fmt: skip
            self.clients[number] = client
            for fn, function in row.functions:
                if function in functions:
                    client.functions[fn] = functions[function]
                    functions[function].users += 1
            if row.held:
                self.held[row.name] = client
                self._numbers["held"] = max(self._numbers["held"], number - FIRST_HELD)
            elif client.parent:
                self._fatherless_session(client)
            else:
                self._alarm(now + self.settings.client_grace, self._client_overdue, client)

    def _fatherless_session(self, client: Client) -> None:
        raise TypeError("the scheduler knows sessions of tasks")

    def _client_overdue(self, now: float, client: Client) -> None:
        raise TypeError("the scheduler ends sessions")

    def _restore_batch(self, first: int, row: j.Batch, marks: j.Marks | None, functions: dict[int, Function]) -> None:
        if row.function not in functions:
            raise JournalError(f"the journal has tasks of the function {row.function}, and not that function")
        function, client, count = functions[row.function], self.clients.get(row.session), len(row.numbers)
        gone = marks.gone if marks is not None else b""
        released = marks.released if marks is not None else b""
        size = (count + 7) >> 3
        batch = Batch(row.session, row.origin, row.function, row.options, row.rank, [], row.numbers, 0,
                      bytearray(gone.ljust(size, b"\0")), bytearray(released.ljust(size, b"\0")))  # fmt: skip
        special = row.options.replicas > 1 or row.options.replay == "never"
        for at, number in enumerate(row.numbers):
            inputs: tuple[Task, ...] = ()
            if row.inputs is not None and row.inputs[at]:
                inputs = tuple([self.tasks[one] for one in row.inputs[at] if one in self.tasks])
            key = row.keys[at] if row.keys is not None else None
            depth = 1 + max([one.depth for one in inputs]) if inputs else 0
            order = rank(row.options.priority, row.rank, depth, number)
            task = Task(number, function, row.args[at], inputs, row.options, order, key, row.origin, row.cids[at])
            batch.tasks.append(task)
            if has_bit(gone, at):
                continue
            batch.left += 1
            if len(inputs) > 1 and len(set(inputs)) < len(inputs):
                task.positions, task.inputs = inputs, tuple(dict.fromkeys(inputs))
            task.depth = depth
            task.recipe = row.recipes[at] if row.recipes is not None else b""
            function.users += 1
            self.tasks[number] = task
            if key is not None:
                self.keys[key] = task
            if special:
                self._give_target(task, row.options)
            if client is not None and not has_bit(released, at):
                client.futures[task.cid] = task
                task.watchers[(client, task.cid)] = None
        if batch.left:
            self.ledger.restored_batch(batch)
        else:
            self.ledger.drop((j.BATCH, first))

    def _give_target(self, task: Task, options: m.Options) -> None:
        raise TypeError("the scheduler knows what options ask for")

    def _restore_data(self, number: int, row: j.Data) -> None:
        task = Task(number, self._data, b"", (), m.Options(), number, row.key, row.origin, row.cid)
        self._data.users += 1
        task.rank = rank(0, 0, 0, number)
        task.recipe = task.digest = row.digest
        task.size, task.value_attempt, task.value = row.size, row.attempt, row.value
        self.tasks[number] = task
        if row.key is not None:
            self.keys[row.key] = task
        if row.value is not None:
            return
        sources = [(client, cid) for session, cid in row.sources if (client := self.clients.get(session)) is not None]
        first = sources.pop(0) if sources else (None, 0)
        task.care = Care(row.copies, row.announced,
                         source=Source(first[0], first[1], tuple(row.workers), row.resupply, sources))  # fmt: skip
        self.targets[task] = None
        for client, cid in ([(first[0], first[1])] if first[0] is not None else []) + sources:
            client.sources[cid] = task

    def _restore_watches(self, number: int, row: j.Watches) -> None:
        client, wanted = self.clients.get(row.session), {}
        for cid, of in zip(row.cids, row.tasks, strict=True):
            task = self.tasks.get(of)
            if client is None or (of and task is None):
                continue
            client.futures[cid] = task
            wanted[(row.session, cid)] = of
            if task is not None:
                task.watchers[(client, cid)] = None
                if client.held:
                    client.kept[task] = cid
        self.ledger.restored_watches(number, wanted)

    def _restore_outcomes(self, found: list[tuple[int, Any]], ended: dict[Task, tuple[int, j.Outcome]]) -> None:
        valid: dict[int, list[Task]] = {number: [] for number, _ in found}
        for task, (number, outcome) in ended.items():
            valid[number].append(task)
            task.value_attempt, task.value, task.size, task.digest = (outcome.attempt, outcome.value, outcome.size,
                                                                      outcome.digest)  # fmt: skip
            task.error = outcome.error
            if outcome.checkpointed:
                self._care(task).checkpointed = True
        for number, tasks in valid.items():
            self.ledger.restored_outcomes(number, tasks)

    def _restore_states(self) -> None:
        """From the last task to the first, so that it is known of each whether a later one needs it; then forwards, to
        count."""
        for task in self.tasks.values():
            if task.value is not None or task.error is not None or (task.care is not None and task.care.checkpointed):
                task.inputs = ()  # as at the time: its lineage was cut
            for one in task.inputs:
                if one.dependents is None:
                    one.dependents = {}
                one.dependents[task] = None
        for number in sorted(self.tasks, reverse=True):
            task = self.tasks[number]
            if task.error is not None:
                self.transitions.move(task, transitions.READ_FAILED)
            elif task.value is not None:
                self.transitions.move(task, transitions.READ_DONE)
            elif task.watchers or task.pending:
                if task.value_attempt:
                    self.transitions.move(task, transitions.READ_AWAITED)
                    self._unclaimed[task] = None
                    continue
                self.transitions.move(task, transitions.READ_WAITING)
                for one in task.inputs:
                    one.pending += 1
            else:
                self._garbage.append(task)
        for number in sorted(self.tasks):
            task = self.tasks[number]
            if task.state is not WAITING:
                continue
            broken = next((one.error for one in task.inputs if one.error is not None), None)
            if broken is not None:
                self._fail(task, broken)
                continue
            task.missing = sum(1 for one in task.inputs if one.state is not DONE)
            if not task.missing:
                self._make_ready(task, transitions.INPUTS_THERE)

    # ---- recovering -------------------------------------------------------------------------

    def not_there(self, now: float, name: str) -> None:
        """Nobody listens at the address that the worker had."""
        if name in self.expected:
            self._refused.add(name)
            self._alarm(max(now, self._restarted_at + RESTART_GRACE_S), self._look_who_came, None)

    def _came_back(self, now: float, worker: Worker) -> None:
        """A worker has said Hello."""
        self.expected.pop(worker.name, None)
        self._drop_rows(worker.name)
        self._look_who_came(now, None)

    def _drop_rows(self, name: str) -> None:
        """The worker of that name is waited for no longer, also not by a scheduler after this one."""
        for key in self._expected_rows.pop(name, ()):
            self.ledger.drop(key)

    def _look_who_came(self, now: float, subject: None) -> None:
        if self.recovering and (not self.expected or (
            now >= self._restarted_at + RESTART_GRACE_S - 1e-6 and self._refused.issuperset(self.expected)
        )):  # fmt: skip
            self._recovered(now)

    def _time_to_recover(self, now: float, subject: None) -> None:
        if self.recovering:
            self._recovered(now)

    def _recovered(self, now: float) -> None:
        """Whoever was to come has come, or will not: what nobody has brought is brought back now, and work is given out."""
        missing = ", ".join(sorted(self.expected))
        self.recovering = False
        self.expected.clear()
        for name in list(self._expected_rows):
            self._drop_rows(name)
        unclaimed = [task for task in self._unclaimed if task.state is AWAITED and self.tasks.get(task.number) is task]
        self._unclaimed.clear()
        for task in unclaimed:
            self.transitions.move(task, transitions.UNCLAIMED)
        needed = [task for task in unclaimed if self._needed(task)]
        if missing or needed:
            text = f"{missing or 'nobody'} did not come back after the scheduler was started again"
            incident = Incident(now, "workers missing", missing or "results", text, lost=len(needed))
            self._recover(needed, incident)
            self._incident(incident)
        self._garbage.extend(unclaimed)
        self._workers_changed()

    def returned(self, client: Client) -> None:
        """A client resumes a session that was read from the journal: it is told how everything is that it waits for."""
        client.restored = False
        for cid, task in client.futures.items():
            if task is None:
                error = m.ErrorInfo("TaskCancelled", "", "it was cancelled")
                self.post(client, m.Erred(cid, error))
            elif task.state not in UNFINISHED and task.state is not IDLE:
                self._tell(task, [(client, cid)])
