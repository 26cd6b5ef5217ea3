"""How many of some futures have ended, by function and by group: what ``progress`` shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from twistdist.core.client import State
from twistdist.display import Bars

#: Bars of functions at most, and as many of groups; the smaller ones share the last of them.
MAX_BARS = 8

#: Characters of a name in front of a bar.
MAX_NAME = 24


@attrs.define(eq=False)
class _Row:
    label: str
    total: int = 0
    done: int = 0
    failed: int = 0


class Tally:
    """Bars for these futures: one for all, one for each function if there are several, and one for each group if there are
    several (what is in no group counts as one, and has no bar)."""

    def __init__(self, futures: Iterable[Any], label: str, stream: Any = None) -> None:
        self.pending: dict[Any, None] = dict.fromkeys(futures)
        of = {future: _of(future) for future in self.pending}
        self._all = _Row(label, len(of))
        self._rows_of: dict[tuple[str, str], list[_Row]] = {key: [self._all] for key in dict.fromkeys(of.values())}
        totals: dict[tuple[str, str], int] = {}
        for key in of.values():
            totals[key] = totals.get(key, 0) + 1
        self._rows = [self._all, *self._split(totals, 0, "functions"), *self._split(totals, 1, "groups")]
        if len(self._rows) > 1:
            self._all.label = label or "all "
        self._bars = Bars([(row.label, row.total) for row in self._rows], stream)

    def _split(self, totals: dict[tuple[str, str], int], place: int, what: str) -> list[_Row]:
        """A row for each function (``place`` 0) or group (1), if there are several: the largest ones, and one for the rest."""
        sums: dict[str, int] = {}
        for key, count in totals.items():
            sums[key[place]] = sums.get(key[place], 0) + count
        if len(sums) < 2:
            return []
        names = sorted((name for name in sums if name), key=lambda name: -sums[name])
        kept = names if len(names) <= MAX_BARS else names[: MAX_BARS - 1]
        rows = {name: _Row(f"{name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + '…'} ", sums[name]) for name in kept}
        rest = _Row(f"{len(names) - len(kept)} other {what} ", sum(sums[name] for name in names[len(kept) :]))
        for key, affected in self._rows_of.items():
            if key[place]:
                affected.append(rows.get(key[place], rest))
        return [*rows.values(), *([rest] if rest.total else [])]

    def look(self) -> None:
        """Count those that have ended, and show it."""
        for future in [future for future in self.pending if future.done()]:
            self.ended(future)
        self.show()

    def ended(self, future: Any) -> None:
        """The future has ended; it is counted once."""
        if future in self.pending:
            del self.pending[future]
            for row in self._rows_of[_of(future)]:
                row.done += 1
                row.failed += _has_failed(future)

    def show(self) -> None:
        """Show what was counted."""
        self._bars.show([(row.done, row.failed) for row in self._rows])

    def end(self) -> None:
        """Nothing more will be shown."""
        self._bars.end()


def _of(future: Any) -> tuple[str, str]:
    """The names of the future's function and group, as far as they are known."""
    record = getattr(future, "_record", None)
    return record.of if record is not None else ("", "")


def _has_failed(future: Any) -> bool:
    record = getattr(future, "_record", None)
    return record is not None and record.state in FAILED


#: States of futures that count as failed.
FAILED: Sequence[State] = (State.ERROR, State.LOST)
