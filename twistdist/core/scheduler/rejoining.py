"""After a restart the scheduler waits for its former workers: it accepts workers and clients, and assigns nothing.

The wait ends when every worker that it knew has come back, or after ``dead_after`` (``Tuning.restart_grace_s`` if their
addresses refuse connections).  Stored values and running attempts are claimed by the workers' Hellos; what nobody claims is
recovered as after any other loss.
"""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler import transitions
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import (
    Incident,
    Task,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Settings, Tuning
from twistdist.core.scheduler.transitions import (
    AWAITED,
    Transitions,
)
from twistdist.wire import journal_rows as j


@attrs.define(eq=False)
class Rejoining:
    """``expected`` are the workers that may come back, by name; ``active`` while the scheduler waits for them."""

    tuning: Tuning
    alarms: Alarms
    settings: Settings
    outputs: Outputs
    registry: Registry
    ledger: Ledger
    transitions: Transitions
    lifecycle: Lifecycle
    copies: Copies
    active: bool = False
    expected: dict[str, j.Worker] = attrs.field(factory=dict)
    _rows: dict[str, list[j.Key]] = attrs.field(factory=dict)
    _refused: set[str] = attrs.field(factory=set)
    _restarted_at: float = 0.0
    _unclaimed: dict[Task, None] = attrs.field(factory=dict)

    def expect(self, number: int, row: j.Worker) -> None:
        """A former worker, which may come back."""
        self.expected[row.name] = row
        self.registry.remember_worker(row.name)
        self._rows.setdefault(row.name, []).append((j.WORKER, number))

    def is_unclaimed(self, task: Task) -> None:
        """A worker should bring the value."""
        self._unclaimed[task] = None

    def begin(self, now: float) -> None:
        """All records are made: wait for the workers, if there were any."""
        self._restarted_at = now
        self.active = bool(self.expected)
        if self.active:
            self.alarms.set(now + self.settings.dead_after, self._time_to_recover, None)
        else:
            self._recovered(now)

    def not_there(self, now: float, name: str) -> None:
        """Nothing listens at the address that the worker had."""
        if name in self.expected:
            self._refused.add(name)
            self.alarms.set(max(now, self._restarted_at + self.tuning.restart_grace_s), self._look_who_came, None)

    def came_back(self, now: float, worker: Worker) -> None:
        """A worker has said Hello."""
        self.expected.pop(worker.name, None)
        self._drop_rows(worker.name)
        self._look_who_came(now, None)

    def _drop_rows(self, name: str) -> None:
        """Stop waiting for the worker of that name, in later lives of the scheduler too."""
        for key in self._rows.pop(name, ()):
            self.ledger.drop(key)

    def _look_who_came(self, now: float, subject: None) -> None:
        if self.active and (
            not self.expected
            or (now >= self._restarted_at + self.tuning.restart_grace_s - 1e-6 and self._refused.issuperset(self.expected))
        ):
            self._recovered(now)

    def _time_to_recover(self, now: float, subject: None) -> None:
        if self.active:
            self._recovered(now)

    def _recovered(self, now: float) -> None:
        """Every expected worker has come back, or will not: recover what none of them has brought, and start to assign work."""
        missing = ", ".join(sorted(self.expected))
        self.active = False
        self.expected.clear()
        for name in list(self._rows):
            self._drop_rows(name)
        unclaimed = [task for task in self._unclaimed if task.state is AWAITED and self.registry.tasks.get(task.number) is task]
        self._unclaimed.clear()
        for task in unclaimed:
            self.transitions.move(task, transitions.UNCLAIMED)
        needed = [task for task in unclaimed if task.needed]
        if missing or needed:
            text = f"{missing or 'some results'} did not come back after the scheduler was restarted"
            incident = Incident(now, "workers missing", missing or "results", text, lost=len(needed))
            self.lifecycle.recover(needed, incident)
            self.outputs.incident(incident)
        for task in unclaimed:
            self.registry.reconsider(task)
        self.copies.look_at_all()
