"""What the scheduler writes down: which rows of the journal (``wire.journal``) its state needs, and which have changed.

The core reports every change that must survive it.  ``take`` returns the rows to write, composed from the state at that
moment, so changes that cancel out between two writes are never written.  A row is deleted when nothing in it is needed any
more; a row of which little is needed is replaced by a shorter one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from twistdist.core.scheduler.ledger_rows import Batch, Segment, data_row, name_row, outcome_row, session_row, set_bit
from twistdist.core.scheduler.records import Client, Dataset, Function, Task, Upload, Worker
from twistdist.wire import journal_rows as j

#: A row of at least this many entries is rewritten when fewer than a quarter of them are needed.
SPARSE_ENTRIES = 64

#: Futures in one row, which is rewritten whenever one of them is released.
MAX_WATCHES = 256


class Ledger:
    """The rows that are on disk, or should be, and those that have changed since ``take`` was last called."""

    kept = True

    def __init__(self) -> None:
        self._changes: dict[j.Key, Callable[[], Any] | None] = {}
        self._written: set[j.Key] = set()
        self._firsts: list[int] = []
        self._batches: dict[int, Batch] = {}
        self._ended: dict[Task, None] = {}
        self._outcomes: dict[int, Segment] = {}
        self._watched: dict[tuple[int, int], tuple[Segment, int]] = {}
        self._new_watches: dict[tuple[int, int], int] = {}
        self._count = 0

    @property
    def dirty(self) -> bool:
        """Whether anything must be written."""
        return bool(self._changes or self._ended or self._new_watches)

    def take(self) -> dict[j.Key, bytes | None]:
        """The rows that have changed, encoded; None: the row must be deleted."""
        self._compose_outcomes()
        self._compose_watches()
        changes, self._changes = self._changes, {}
        rows: dict[j.Key, bytes | None] = {}
        for key, compose in changes.items():
            if compose is None:
                self._written.discard(key)
                rows[key] = None
            else:
                self._written.add(key)
                rows[key] = j.encode(compose())
        return rows

    def _put(self, key: j.Key, compose: Callable[[], Any]) -> None:
        self._changes[key] = compose

    def _drop(self, key: j.Key) -> None:
        self._changes.pop(key, None)
        if key in self._written:
            self._changes[key] = None

    def _next(self) -> int:
        self._count += 1
        return self._count

    # ---- sessions, functions, workers, names ----------------------------------------------------

    def session(self, client: Client) -> None:
        """A session has become relevant, has received frames, or has other functions."""
        client.recorded = True
        self._put((j.SESSION, client.number), lambda: session_row(client))

    def session_gone(self, client: Client) -> None:
        self._drop((j.SESSION, client.number))

    def function(self, function: Function) -> None:
        self._put((j.FUNCTION, function.number), lambda: j.Function(function.name, function.digest, function.blob))

    def function_gone(self, function: Function) -> None:
        self._drop((j.FUNCTION, function.number))

    def worker(self, worker: Worker) -> None:
        hello = worker.hello
        row = j.Worker(hello.name, hello.incarnation, hello.host, hello.address, hello.store, hello.python)
        self._put((j.WORKER, worker.number), lambda: row)

    def worker_gone(self, number: int) -> None:
        self._drop((j.WORKER, number))

    def dataset(self, dataset: Dataset) -> None:
        self._put((j.NAME, dataset.number), lambda: name_row(dataset))

    def dataset_gone(self, dataset: Dataset) -> None:
        self._drop((j.NAME, dataset.number))

    def upload(self, upload: Upload) -> None:
        """A file was uploaded."""
        row = j.Upload(upload.name, upload.kind, upload.blob)
        self._put((j.UPLOAD, upload.number), lambda: row)

    def upload_gone(self, upload: Upload) -> None:
        """A newer version has replaced it."""
        self._drop((j.UPLOAD, upload.number))

    # ---- tasks ------------------------------------------------------------------------------

    def batch(self, client: Client, tasks: Sequence[Task]) -> None:
        """New tasks of one submit; each has the future that requested it."""
        if not tasks:
            return
        first, bits = tasks[0], (len(tasks) + 7) >> 3
        batch = Batch(
            client.number,
            first.origin,
            first.function.number,
            first.options,
            client.batch,
            list(tasks),
            [task.number for task in tasks],
            len(tasks),
            bytearray(bits),
            bytearray(bits),
        )
        self._add_batch(batch)
        self._put((j.BATCH, batch.numbers[0]), batch.encode)

    def _add_batch(self, batch: Batch) -> None:
        self._firsts.append(batch.numbers[0])  # numbers only grow
        self._batches[batch.numbers[0]] = batch

    def _find(self, task: Task) -> tuple[Batch, int] | None:
        at = bisect_right(self._firsts, task.number) - 1
        batch = self._batches[self._firsts[at]] if at >= 0 else None
        if batch is None:
            return None
        place = bisect_left(batch.numbers, task.number)
        return (batch, place) if place < len(batch.numbers) and batch.tasks[place] is task else None

    def data(self, task: Task) -> None:
        """Scattered data have arrived, or can be supplied by other sessions than before."""
        self._put((j.DATA, task.number), lambda: data_row(task))

    def target(self, task: Task, copies: int) -> None:
        self._put((j.TARGET, task.number), lambda: j.Target(copies))

    def ended(self, task: Task) -> None:
        """A task has an outcome, a different one than before, or a checkpoint."""
        self._ended[task] = None

    def history(self, task: Task) -> None:
        """The record of what went wrong with a task has changed, or no longer matters."""
        key = (j.HISTORY, task.number)
        history = task.history
        if history is None:
            self._drop(key)
        else:
            self._put(key, lambda: j.History(history.last, history.raised, list(history.crashes), history.exposed))

    def forget(self, task: Task) -> None:
        """A task's record is dropped."""
        if task.history is not None:
            self._drop((j.HISTORY, task.number))
        self._ended.pop(task, None)
        self._outcome_gone(task)
        if task.function.number == 0:
            self._drop((j.DATA, task.number))
        if task.retention is not None:
            self._drop((j.TARGET, task.number))
        found = self._find(task)
        if found is None:
            return
        batch, place = found
        batch.left -= 1
        first = batch.numbers[0]
        if not batch.left:
            del self._batches[first]
            del self._firsts[bisect_left(self._firsts, first)]
            self._drop((j.BATCH, first))
            self._drop((j.MARKS, first))
            return
        set_bit(batch.gone, place)
        if len(batch.tasks) >= SPARSE_ENTRIES and 4 * batch.left < len(batch.tasks):
            self._thin(batch)
        else:
            self._mark(batch)

    def _mark(self, batch: Batch) -> None:
        self._put((j.MARKS, batch.numbers[0]), lambda: j.Marks(bytes(batch.gone), bytes(batch.released)))

    def _thin(self, batch: Batch) -> None:
        """Few of its tasks are needed: rewrite the row with only these."""
        first = batch.numbers[0]
        batch.thin()
        del self._batches[first]
        self._drop((j.BATCH, first))
        self._drop((j.MARKS, first))
        at = bisect_left(self._firsts, first)
        self._firsts[at] = batch.numbers[0]
        self._batches[batch.numbers[0]] = batch
        self._put((j.BATCH, batch.numbers[0]), batch.encode)
        if any(batch.released):
            self._mark(batch)

    # ---- who wants what -----------------------------------------------------------------------

    def _is_origin(self, task: Task, client: Client, cid: int) -> tuple[Batch, int] | None:
        """Where the row of ``task`` says that this future requested it first."""
        found = self._find(task) if task.cid == cid else None
        return found if found is not None and found[0].session == client.number else None

    def watch(self, task: Task | None, client: Client, cid: int) -> None:
        """A future for an existing task; None: for one that was cancelled."""
        self._new_watches[(client.number, cid)] = task.number if task is not None else 0

    def unwatch(self, task: Task | None, client: Client, cid: int) -> None:
        """The future is no longer wanted."""
        key = (client.number, cid)
        if self._new_watches.pop(key, None) is not None:
            return
        known = self._watched.pop(key, None)
        if known is not None:
            segment, _ = known
            segment.left -= 1
            if not segment.left:
                self._drop((j.WATCHES, segment.number))
            else:
                self._put((j.WATCHES, segment.number), lambda: self._watches(segment))
            return
        found = self._is_origin(task, client, cid) if task is not None else None
        if found is not None:
            batch, place = found
            set_bit(batch.released, place)
            self._mark(batch)

    def _compose_watches(self) -> None:
        """Put the new futures of each session into rows of their own."""
        new, self._new_watches = self._new_watches, {}
        rows: dict[int, list[tuple[int, int]]] = {}
        for key in new:
            rows.setdefault(key[0], []).append(key)
        parts = [keys[at : at + MAX_WATCHES] for keys in rows.values() for at in range(0, len(keys), MAX_WATCHES)]
        for keys in parts:
            segment = Segment(self._next(), keys, len(keys))
            for key in keys:
                self._watched[key] = (segment, new[key])
            self._put((j.WATCHES, segment.number), lambda segment=segment: self._watches(segment))  # type: ignore[misc]

    def _watches(self, segment: Segment) -> j.Watches:
        live = [(key, entry[1]) for key in segment.entries if (entry := self._watched.get(key)) and entry[0] is segment]
        segment.entries = [key for key, _ in live]
        return j.Watches(live[0][0][0], [cid for (_, cid), _ in live], [task for _, task in live])

    # ---- outcomes ---------------------------------------------------------------------------

    def _outcome_gone(self, task: Task) -> None:
        """What was written about the task's outcome is no longer needed."""
        segment = self._outcomes.get(task.row)
        task.row = 0
        if segment is None:
            return
        segment.left -= 1
        if not segment.left:
            self._drop_outcomes(segment)
        elif len(segment.entries) >= SPARSE_ENTRIES and 4 * segment.left < len(segment.entries):
            self._rewrite_outcomes(segment)

    def retried(self, task: Task) -> None:
        """A failed task is run again: the outcome that was written must not be read again."""
        self._ended.pop(task, None)
        segment = self._outcomes.get(task.row)
        task.row = 0
        if segment is not None:
            self._rewrite_outcomes(segment)

    def _rewrite_outcomes(self, segment: Segment) -> None:
        """The row has entries that are no longer needed, or no longer true: write the others into a new one."""
        self._drop_outcomes(segment)
        for entry in segment.entries:
            if entry.row == segment.number:
                entry.row = 0
                self._ended[entry] = None

    def _drop_outcomes(self, segment: Segment) -> None:
        del self._outcomes[segment.number]
        self._drop((j.OUTCOMES, segment.number))

    def _compose_outcomes(self) -> None:
        while self._ended:
            ended, self._ended = self._ended, {}
            for task in ended:
                self._outcome_gone(task)
            tasks = [task for task in ended if task.error is not None or task.value_attempt]
            if not tasks:
                continue
            segment = Segment(self._next(), tasks, len(tasks))
            self._outcomes[segment.number] = segment
            for task in tasks:
                task.row = segment.number
            row = j.Outcomes([outcome_row(task) for task in tasks])
            self._put((j.OUTCOMES, segment.number), lambda row=row: row)  # type: ignore[misc]

    # ---- after a restart ----------------------------------------------------------------------

    def restored(self, key: j.Key) -> None:
        """A row that is on disk."""
        self._written.add(key)
        if key[0] in (j.OUTCOMES, j.WATCHES):
            self._count = max(self._count, key[1])

    def restored_batch(self, batch: Batch) -> None:
        self._add_batch(batch)

    def restored_outcomes(self, number: int, tasks: list[Task]) -> None:
        """The tasks for which a row of outcomes is the valid one."""
        if not tasks:
            self._drop((j.OUTCOMES, number))
            return
        self._outcomes[number] = Segment(number, tasks, len(tasks))
        for task in tasks:
            task.row = number

    def restored_watches(self, number: int, watches: dict[tuple[int, int], int]) -> None:
        """The futures of a row that are still wanted."""
        if not watches:
            self._drop((j.WATCHES, number))
            return
        segment = Segment(number, list(watches), len(watches))
        for key, task in watches.items():
            self._watched[key] = (segment, task)

    def drop(self, key: j.Key) -> None:
        """A row that turned out to be useless."""
        self._drop(key)
