"""What a report has in it: put together from snapshots of one or more lives of a scheduler, as plain data.

Times are those of this process's clock (``time.time()``): the clocks of two schedulers say nothing to one another.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import attrs

#: Spans, transfers and incidents in a report.  Of more spans, short ones that went well are left out; of the rest, the oldest.
MAX_SPANS, MAX_TRANSFERS, MAX_INCIDENTS = 100_000, 20_000, 1_000

#: Names of functions, and of groups, that are told apart, workers, and tasks that have a story.
MAX_NAMES, MAX_WORKERS, MAX_STORIES = 2_000, 2_000, 200

#: Seconds for which what an incident cost may still grow.
GROWS_S = 600.0

#: The name of everything beyond ``MAX_NAMES``.
OTHERS = "(others)"

#: Kinds of spans whose tasks have a story: those that say more come first.
TELLING = ("failed", "crashed", "again")

#: What is kept of a story that the scheduler has forgotten.
LASTING = ("error", "traceback", "crashes", "ran_on")

#: Counters of a snapshot.
COUNTERS = ("submitted", "done", "failed", "replays", "reruns")


@attrs.define(eq=False)
class Life:
    """One life of a scheduler, whose clock is ``ahead`` seconds behind ours; the rest is what it had told when last asked."""

    epoch: int
    ahead: float
    began: float
    since: float = 0.0
    until: float = 0.0
    spans: int = 0
    transfers: int = 0
    incidents: int = 0
    known_incidents: int = 0
    counters: dict[str, int] = attrs.field(factory=dict)
    sums: dict[str, dict[str, list[Any]]] = attrs.field(factory=lambda: {"functions": {}, "groups": {}})


@attrs.define(eq=False)
class Collected:
    """``take`` is given one snapshot after the other; ``data`` is what the report shows."""

    lives: list[Life] = attrs.field(factory=list)
    spans: list[list[Any]] = attrs.field(factory=list)
    transfers: list[list[Any]] = attrs.field(factory=list)
    incidents: dict[tuple[int, float, str, str], dict[str, Any]] = attrs.field(factory=dict)
    costs: dict[str, dict[str, list[int]]] = attrs.field(factory=lambda: {"functions": {}, "groups": {}})
    counters: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(COUNTERS, 0))
    workers: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    dropped: dict[str, int] = attrs.field(factory=lambda: {"spans": 0, "short": 0, "transfers": 0, "incidents": 0})
    stories: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    to_tell: dict[str, int] = attrs.field(factory=dict)
    last: dict[str, Any] = attrs.field(factory=dict)

    @property
    def life(self) -> Life | None:
        """The present life of the scheduler."""
        return self.lives[-1] if self.lives else None

    def question(self) -> list[Any]:
        """The arguments with which the next snapshot must be asked for."""
        life = self.life
        return [None, MAX_NAMES, None] if life is None else [life.since, MAX_NAMES, max(life.began, life.since - GROWS_S)]

    def begin(self, snapshot: dict[str, Any], wall: float) -> None:
        """A recording begins at this snapshot, which arrived at ``wall``: what was before is not in it."""
        life = self._live(snapshot, wall)
        life.began = snapshot["now"]
        life.spans, life.transfers = snapshot["spans_in_all"], snapshot["transfers_in_all"]
        life.incidents = snapshot["incidents_in_all"]
        life.counters = snapshot["counters"]
        life.sums = {kind: {row[0]: row for row in snapshot[kind]} for kind in life.sums}
        self._remember(snapshot, life)

    def take(self, snapshot: dict[str, Any], wall: float) -> None:
        """A snapshot has arrived at ``wall``; of another life, it has everything that this life remembers."""
        life = self.life
        if life is None or life.epoch != snapshot["epoch"]:
            life = self._live(snapshot, wall)
        self._take_spans(snapshot, life)
        self._take_incidents(snapshot["incidents"], snapshot["incidents_in_all"], life)
        for kind in self.costs:
            self._add_up(snapshot[kind], life.sums[kind], self.costs[kind])
        for name in COUNTERS:
            self.counters[name] += max(0, snapshot["counters"][name] - life.counters.get(name, 0))
        life.counters = snapshot["counters"]
        self._remember(snapshot, life)

    def _live(self, snapshot: dict[str, Any], wall: float) -> Life:
        life = Life(snapshot["epoch"], wall - snapshot["now"], began=float("-inf"))
        self.lives.append(life)
        return life

    def _remember(self, snapshot: dict[str, Any], life: Life) -> None:
        life.since, life.until = snapshot["since"], snapshot["now"] + life.ahead
        for name, worker in snapshot["workers"].items():
            if name in self.workers or len(self.workers) < MAX_WORKERS:
                self.workers[name] = worker
        several = ("spans", "transfers", "incidents", "functions", "groups")
        self.last = {name: value for name, value in snapshot.items() if name not in several}

    # ---- spans and transfers -----------------------------------------------------------------------

    def _take_spans(self, snapshot: dict[str, Any], life: Life) -> None:
        for kind, kept in (("spans", self.spans), ("transfers", self.transfers)):
            new, in_all = snapshot[kind], snapshot[f"{kind}_in_all"]
            self.dropped[kind] += max(0, in_all - getattr(life, kind) - len(new))
            setattr(life, kind, in_all)
            for end, us, worker, other, *rest in new:
                kept.append([end + life.ahead, us, sys.intern(worker), sys.intern(other), *rest])
        for kind in TELLING:
            self.will_tell((span[6] for span in snapshot["spans"] if span[5] == kind), TELLING.index(kind))
        if len(self.spans) > MAX_SPANS:
            self._thin_out()
        more = len(self.transfers) - MAX_TRANSFERS
        if more > 0:
            self.dropped["transfers"] += more
            del self.transfers[:more]

    def _thin_out(self) -> None:
        """Leave the shortest quarter of the spans out, those of failures and of replays last."""
        keep = sorted(range(len(self.spans)), key=lambda at: (self.spans[at][5] == "run", -self.spans[at][1]))
        kept = sorted(keep[: MAX_SPANS - MAX_SPANS // 4])
        self.dropped["short"] += len(self.spans) - len(kept)
        self.spans[:] = [self.spans[at] for at in kept]

    def will_tell(self, keys: Iterable[str], weight: int) -> None:
        """The stories of these tasks belong into the report; those of less ``weight`` come first."""
        for key in keys:
            if key not in self.to_tell and len(self.to_tell) >= MAX_STORIES:
                least = max(self.to_tell, key=self.to_tell.__getitem__)
                if self.to_tell[least] <= weight:
                    continue
                del self.to_tell[least]
                self.stories.pop(least, None)
            self.to_tell[key] = min(weight, self.to_tell.get(key, weight))

    def tell(self, key: str, story: dict[str, Any], wall: float) -> None:
        """The story of a task, with ages.  A later life of the scheduler does not know what happened in an earlier one."""
        epoch = self.lives[-1].epoch
        told = self.stories.setdefault(key, {"epoch": epoch, "before": []})
        if told["epoch"] != epoch:
            told.update(epoch=epoch, before=told["story"]["events"])
        known = told.get("story", {})
        kept = {name: known[name] for name in LASTING if known.get(name) and not story.get(name)}
        events = [*told["before"], *([wall - age, text] for age, text in story["events"])]
        told["story"] = {**story, **kept, "events": events}

    # ---- incidents ---------------------------------------------------------------------------------

    def _take_incidents(self, told: list[dict[str, Any]], in_all: int, life: Life) -> None:
        for incident in told:
            name = (life.epoch, incident["at"], incident["kind"], incident["what"])
            life.known_incidents += name not in self.incidents
            self.incidents[name] = {**incident, "at": incident["at"] + life.ahead}
            self.will_tell([incident["key"]] if incident.get("key") else [], 0)
        self.dropped["incidents"] += max(0, in_all - life.incidents - life.known_incidents)
        life.known_incidents = max(life.known_incidents, in_all - life.incidents)
        while len(self.incidents) > MAX_INCIDENTS:
            del self.incidents[next(iter(self.incidents))]
            self.dropped["incidents"] += 1

    # ---- cost --------------------------------------------------------------------------------------

    @staticmethod
    def _add_up(rows: list[list[Any]], seen: dict[str, list[Any]], costs: dict[str, list[int]]) -> None:
        """Add what has come to the sums since they were last seen: ``[done, failed, again, microseconds]`` by name."""
        for row in rows:
            name, before = row[0], seen.get(row[0])
            if before is None or any(now < then for now, then in zip(row[2:], before[2:], strict=True)):
                before = [name, 0, 0, 0, 0, 0]  # it is new, or the scheduler had forgotten it
            seen[name] = row
            more = [now - then for now, then in zip(row[2:], before[2:], strict=True)]
            if any(more):
                known = name in costs or len(costs) < MAX_NAMES
                sums = costs.setdefault(name if known else OTHERS, [0, 0, 0, 0])
                sums[:] = [one + another for one, another in zip(sums, more, strict=True)]

    # ---- the result --------------------------------------------------------------------------------

    def data(self) -> dict[str, Any]:
        """What the report shows of all this."""
        return {
            "lives": [[life.epoch, life.until] for life in self.lives],
            "dropped": self.dropped,
            "counters": self.counters,
            "functions": [[name, *sums] for name, sums in self.costs["functions"].items()],
            "groups": [[name, *sums] for name, sums in self.costs["groups"].items()],
            "workers": self.workers,
            "stories": self.stories,
            "snapshot": {
                **self.last,
                "now": self.lives[-1].until,
                "spans": self.spans,
                "transfers": self.transfers,
                "incidents": list(self.incidents.values()),
            },
        }
