"""What was executed and fetched lately: sums by function and by group, spans, transfers.  docs/live-page.rst."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import attrs

from twistdist.core.scheduler.records import Function, Task, Worker
from twistdist.core.scheduler.sums import Sums

#: Spans and transfers that are kept.
MAX_SPANS, MAX_TRANSFERS = 10_000, 5_000

#: Names of functions, and groups, whose sums are kept; of more, those that are idle longest are dropped, if any are.
MAX_NAMES = 1_000

#: What became of the runs of a span: ``again`` is the run of a task that had a value before.
RUN, AGAIN, FAILED, CRASHED = "run", "again", "failed", "crashed"


@attrs.define(eq=False)
class Span:
    """``count`` runs of one function on one worker, of which the scheduler heard at ``end``; ``us`` is their time in all.

    ``key`` is that of the first one.
    """

    end: float
    us: int
    worker: str
    name: str
    kind: str
    key: str
    count: int = 1

    def row(self) -> list[Any]:
        """As plain data, in the order of docs/live-page.rst."""
        return [self.end, self.us, self.worker, self.name, self.count, self.kind, self.key]


@attrs.define(eq=False)
class Transfer:
    """``count`` results that one worker has fetched from another, of which the scheduler heard at ``end``.  The one that took
    longest took ``us`` microseconds; ``key`` is that of the first one."""

    end: float
    us: int
    worker: str
    holder: str
    bytes_moved: int
    key: str
    count: int = 1

    def row(self) -> list[Any]:
        """As plain data, in the order of docs/live-page.rst."""
        return [self.end, self.us, self.worker, self.holder, self.count, self.bytes_moved, self.key]


@attrs.define(eq=False)
class Activity:
    """Owns the sums of functions and groups.  ``made`` and ``moved`` count all spans and transfers, also those not kept."""

    functions: dict[str, Sums] = attrs.field(factory=dict)
    groups: dict[str, Sums] = attrs.field(factory=dict)
    spans: deque[Span] = attrs.field(factory=lambda: deque(maxlen=MAX_SPANS))
    transfers: deque[Transfer] = attrs.field(factory=lambda: deque(maxlen=MAX_TRANSFERS))
    made: int = 0
    moved: int = 0
    _at: float = -1.0
    _moving: dict[tuple[Worker, Worker], Transfer] = attrs.field(factory=dict)
    _open: dict[tuple[Worker, Function, str, str], Span] = attrs.field(factory=dict)

    def known(self, function: Function) -> None:
        """The function is one of the cluster's: it shares the sums of all that have its name."""
        function.sums = _of(self.functions, function.name)

    def group(self, name: str) -> Sums:
        """The sums of a group."""
        return _of(self.groups, name)

    def ran(self, now: float, worker: Worker, task: Task, us: int, kind: str) -> None:
        """An attempt has ended on a worker."""
        if now != self._at:
            self.add_up()
            self._at = now
        function, group = task.function, task.options.group
        mark = (worker, function, kind, group)
        span = self._open.get(mark)
        if span is None:
            span = self._open[mark] = Span(now, us, worker.name, function.name, kind, task.key)
            self.spans.append(span)
            self.made += 1
        else:
            span.us += us
            span.count += 1

    def add_up(self) -> None:
        """Add the runs of the last event to the sums."""
        for (_, function, kind, group), span in self._open.items():
            value, again = kind in (RUN, AGAIN), kind == AGAIN
            function.sums.add(span.end, span.count, span.us, value, again)
            if group:
                self.group(group).add(span.end, span.count, span.us, value, again)
        self._open.clear()

    def fetched(self, now: float, worker: Worker, holder: Worker, us: int, task: Task) -> None:
        """A worker has fetched a value from another one."""
        transfer = self._moving.get((worker, holder))
        if transfer is None or transfer.end != now:
            self._moving = {pair: one for pair, one in self._moving.items() if one.end == now}
            transfer = Transfer(now, us, worker.name, holder.name, task.size, task.key)
            self._moving[worker, holder] = transfer
            self.transfers.append(transfer)
            self.moved += 1
        else:
            transfer.us = max(transfer.us, us)
            transfer.bytes_moved += task.size
            transfer.count += 1

    @staticmethod
    def since(kept: deque[Any], when: float) -> list[list[Any]]:
        """Those of the spans or transfers that ended after ``when``."""
        found: list[list[Any]] = []
        for one in reversed(kept):
            if one.end <= when:
                break
            found.append(one.row())
        return found[::-1]

    @staticmethod
    def latest(sums: Iterable[tuple[str, Sums]], most: int) -> list[list[Any]]:
        """Of these names the ones with the most recent activity, as plain data."""
        chosen = sorted(sums, key=lambda item: (item[1].unfinished > 0, item[1].at), reverse=True)[:most]
        return [[name, s.unfinished, s.done, s.failed, s.again, s.us] for name, s in chosen]


def _of(known: dict[str, Sums], name: str) -> Sums:
    found = known.get(name)
    if found is None:
        tenth = max(1, MAX_NAMES // 10)
        if len(known) >= MAX_NAMES and not len(known) % tenth:  # rarely: it looks at all of them
            _make_room(known, tenth)
        found = known[name] = Sums()
    return found


def _make_room(known: dict[str, Sums], count: int) -> None:
    """Drop the names that have been idle longest.  Those with unfinished tasks stay: they will be counted down."""
    idle = sorted((one for one in known if not known[one].unfinished), key=lambda one: known[one].at)
    for name in idle[:count]:
        del known[name]
