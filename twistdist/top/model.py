"""What ``twistdist top`` knows: the last snapshot of the scheduler, and what the earlier ones add to it."""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

#: Numbers of tasks a second that are kept, one for each snapshot.
MAX_RATES = 200

#: Incidents that are kept.
MAX_INCIDENTS = 200

#: States of workers that are in order.
GOOD = ("connected", "retiring")

#: Seconds for which an incident counts as something that needs attention.
RECENT_S = 300.0


@attrs.define(eq=False)
class Model:
    """``incidents`` are (when by our clock, incident), the latest first.  ``last_failed`` is the key of the task that failed
    last, ``restarted`` when the scheduler was seen to be another one, and ``answered`` when it was last heard, by our clock."""

    snapshot: dict[str, Any] = attrs.field(factory=dict)
    rates: deque[float] = attrs.field(factory=lambda: deque(maxlen=MAX_RATES))
    incidents: deque[tuple[float, dict[str, Any]]] = attrs.field(factory=lambda: deque(maxlen=MAX_INCIDENTS))
    last_failed: str = ""
    restarted: float | None = None
    answered: float = 0.0

    @property
    def since(self) -> float | None:
        """What to ask the next snapshot with."""
        return self.snapshot.get("since")

    def is_of_another_life(self, snapshot: dict[str, Any]) -> bool:
        """Whether this is the snapshot of a scheduler that was started after the last one: with another clock."""
        return bool(self.snapshot) and snapshot["epoch"] != self.snapshot["epoch"]

    def take(self, snapshot: dict[str, Any], now: float) -> None:
        """The scheduler has answered; ``now`` is our time."""
        before = self.snapshot
        if self.is_of_another_life(snapshot):
            self.restarted = now
            self.rates.clear()
        elif before and snapshot["now"] > before["now"]:
            done = snapshot["counters"]["done"] - before["counters"]["done"]
            self.rates.append(max(0.0, done / (snapshot["now"] - before["now"])))
        for incident in snapshot["incidents"]:
            self.incidents.appendleft((now - (snapshot["now"] - incident["at"]), incident))
        for span in snapshot["spans"]:
            if span[5] in ("failed", "crashed"):
                self.last_failed = span[6]
        self.snapshot = {**snapshot, "spans": [], "incidents": []}
        self.answered = now

    def attention(self, now: float) -> list[str]:
        """What somebody should look at, the most urgent first."""
        snapshot, found = self.snapshot, []
        if snapshot["recovering"] is not None:
            found.append(f"the scheduler waits for workers to come back: {', '.join(snapshot['recovering']) or 'none'}")
        if snapshot["journal"]["state"] == "failing":
            found.append(f"the journal can't be written, nothing is accepted: {snapshot['journal'].get('error', '')}")
        if not snapshot["workers"]:
            found.append("no worker is connected")
        for name, worker in sorted(snapshot["workers"].items()):
            if worker["state"] not in GOOD:
                why = f": {worker['troubles'][-1]}" if worker["troubles"] else ""
                found.append(f"worker {name} is {worker['state']}, last heard {worker['last_seen']:.0f} s ago{why}")
        found += [f"{_many(tasks, 'task')} can run nowhere: {text}" for text, tasks in sorted(snapshot["lacks"].items())]
        if failed := snapshot["tasks"].get("failed", 0):
            found.append(
                f"{_many(failed, 'task')} failed" + (f", the last one is {self.last_failed}" if self.last_failed else "")
            )
        recent = [incident for at, incident in self.incidents if now - at < RECENT_S]
        if recent:
            found.append(f"{_many(len(recent), 'incident')} in the last {RECENT_S / 60:.0f} minutes")
        return found


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
