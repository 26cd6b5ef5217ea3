"""Rows of the journal as the ledger composes them from records."""

from __future__ import annotations

from typing import Any

import attrs

from twistdist.core.scheduler.records import Client, Dataset, Task
from twistdist.wire import journal_rows as j
from twistdist.wire.messages import Options


@attrs.define(eq=False)
class Batch:
    """The row of one submit: tasks by number, and which of them are no longer needed."""

    session: int
    origin: str
    function: int
    options: Options
    rank: int
    tasks: list[Task]
    numbers: list[int]
    left: int
    gone: bytearray
    released: bytearray

    def thin(self) -> None:
        """Keep only the tasks that are still needed."""
        keep = [at for at in range(len(self.tasks)) if not has_bit(self.gone, at)]
        released = bytearray((len(keep) + 7) >> 3)
        for to, at in enumerate(keep):
            if has_bit(self.released, at):
                set_bit(released, to)
        self.tasks = [self.tasks[at] for at in keep]
        self.numbers = [task.number for task in self.tasks]
        self.gone, self.released = bytearray(len(released)), released

    def encode(self) -> j.Batch:
        """The row itself."""
        tasks = self.tasks
        inputs = [[upstream.number for upstream in task.positions or task.inputs] for task in tasks]
        return j.Batch(
            self.session,
            self.origin,
            self.function,
            self.options,
            self.rank,
            self.numbers,
            [task.cid for task in tasks],
            [task.args for task in tasks],
            inputs if any(inputs) else None,
            [task.chosen for task in tasks] if any(task.chosen for task in tasks) else None,
            [task.recipe for task in tasks] if any(task.recipe for task in tasks) else None,
        )


@attrs.define(eq=False)
class Segment:
    """A row of entries that were written together: how many there were, and how many are still needed."""

    number: int
    entries: list[Any]
    left: int


def set_bit(bits: bytearray, at: int) -> None:
    """Set bit ``at``, counted from the low end of the first byte."""
    bits[at >> 3] |= 1 << (at & 7)


def has_bit(bits: bytes | bytearray, at: int) -> bool:
    """Whether bit ``at`` is set."""
    return at >> 3 < len(bits) and bool(bits[at >> 3] >> (at & 7) & 1)


def session_row(client: Client) -> j.Session:
    """The row of a session."""
    functions = [(fn, function.number) for fn, function in client.functions.items()]
    return j.Session(client.name, client.parent, client.session.received, functions, client.placeholder, client.next_cid)


def outcome_row(task: Task) -> j.Outcome:
    """A task's entry in a row of outcomes."""
    checkpointed = task.retention is not None and task.retention.checkpointed
    return j.Outcome(task.number, task.value_attempt, task.value, task.size, task.digest, task.error, checkpointed)


def name_row(dataset: Dataset) -> j.Name:
    """The row of a published name."""
    return j.Name(dataset.name, dataset.shape, [task.number for task in dataset.tasks])


def data_row(task: Task) -> j.Data:
    """The row of scattered data."""
    retention = task.retention
    source = retention.source if retention is not None else None
    sources = (
        []
        if source is None
        else [
            *([(source.client.number, source.cid)] if source.client is not None else []),
            *[(client.number, cid) for client, cid in source.others],
        ]
    )
    return j.Data(
        task.origin,
        task.cid,
        task.chosen,
        task.size,
        task.recipe,
        task.value,
        task.value_attempt,
        retention.copies if retention is not None else 0,
        list(source.workers) if source is not None else [],
        source.resupply if source is not None else False,
        retention.announced if retention is not None else True,
        sources,
    )
