"""Describes the content of a journal in words."""

from __future__ import annotations

from collections.abc import Iterator

from twistdist.storage.postgres import SCHEMES, read_rows
from twistdist.storage.sqlite import read_journal
from twistdist.wire import journal_rows as j


def describe(path: str, full: bool = False) -> Iterator[str]:
    """Yield lines for people: totals, sessions, functions, names, workers and, with ``full``, each task.

    Raises:
        JournalError: the journal at ``path`` (a file or a URL) does not exist, is damaged or can't be read.
    """
    rows: dict[int, list[tuple[int, object]]] = {kind: [] for kind in j.KINDS}
    sizes = dict.fromkeys(j.KINDS, 0)
    for (kind, number), body in read_rows(path) if path.startswith(SCHEMES) else read_journal(path):
        record = j.decode(kind, body)
        rows[kind].append((number, record))
        sizes[kind] += len(body)
    for _, meta in rows[j.META]:
        assert isinstance(meta, j.Meta)
        yield f"journal of format {meta.format}, epoch {meta.epoch}, {meta.lives} lives before this one"
    for kind, found in rows.items():
        if found and kind != j.META:
            yield f"{j.name_of(kind):9} {len(found)} rows, {sizes[kind]} bytes"
    for number, session in sorted(rows[j.SESSION]):
        assert isinstance(session, j.Session)
        kept = "durable session" if session.name else "published names"
        what = kept if session.placeholder else "session"
        name_of = session.name or format(number, "x")
        yield f"{what} {name_of}: {session.received} frames received, {len(session.functions)} functions"
    for _, name in rows[j.NAME]:
        assert isinstance(name, j.Name)
        yield f"published {name.name}: {len(name.tasks)} tasks"
    for _, worker in rows[j.WORKER]:
        assert isinstance(worker, j.Worker)
        yield f"worker {worker.name} at {worker.address}"
    yield from _tasks(rows, full)


def _tasks(rows: dict[int, list[tuple[int, object]]], full: bool) -> Iterator[str]:
    marks = {number: row for number, row in rows[j.MARKS] if isinstance(row, j.Marks)}
    functions = {number: row.name for number, row in rows[j.FUNCTION] if isinstance(row, j.Function)}
    ended: dict[int, j.Outcome] = {}
    for _, outcomes in sorted(rows[j.OUTCOMES]):
        assert isinstance(outcomes, j.Outcomes)
        ended.update({row.task: row for row in outcomes.outcomes})
    lines, count, done, failed = [], 0, 0, 0
    for first, batch in sorted(rows[j.BATCH]):
        assert isinstance(batch, j.Batch)
        gone = marks[first].gone if first in marks else b""
        for at, number in enumerate(batch.numbers):
            if at >> 3 < len(gone) and gone[at >> 3] >> (at & 7) & 1:
                continue
            outcome = ended.get(number)
            count += 1
            failed += outcome is not None and outcome.error is not None
            done += outcome is not None and outcome.error is None
            key = batch.keys[at] if batch.keys is not None else None
            if outcome is None:
                state = "unfinished"
            else:
                state = "failed" if outcome.error is not None else f"done, {outcome.size} bytes"
            name = key or f"{functions.get(batch.function, 'task')}-{batch.origin}-{batch.cids[at]}"
            lines.append(f"task {number} {name}: {state}")
    yield f"{count} tasks, {done} of them done, {failed} failed; {len(rows[j.DATA])} scattered"
    if full:
        yield from lines
