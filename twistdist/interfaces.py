"""Records that the client's queries return."""

from __future__ import annotations

from typing import Any

import attrs


def ago(seconds: float) -> str:
    """Return an age in words: ``0.250 s ago``, ``8 h 02 min ago``."""
    if seconds < 60:
        return f"{seconds:.3f} s ago"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {rest:02} s ago"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h ago" if days else f"{hours} h {minutes:02} min ago"


@attrs.frozen
class WorkerInfo:
    """One worker, as the scheduler sees it.

    Attributes:
        slots: How many tasks it runs at a time.
        running: How many tasks are running now.
        queued: How many more tasks were given to it.
        waiting: How many of its tasks wait for other tasks.
        memory: Bytes of results in its store.
        keys: How many results are in its store.
        address: Where peers fetch results, as a Twisted endpoint description.
        pid: The id of its process.
        state: ``"connected"``, ``"paused"`` (it takes less work than it has slots; the last of ``troubles`` says why),
            ``"retiring"``, ``"suspect"`` (it is silent), ``"stuck"`` (it made no progress with its tasks) or ``"away"``.
        last_seen: Seconds since its last sign of life.
        troubles: The latest problems with its executors.
        lag: By how many seconds its event loop was late at its last sign of life.
        retired_by: The client that has it leave; "" if none has.
    """

    slots: int
    running: int
    queued: int
    waiting: int
    memory: int
    keys: int
    address: str
    pid: int
    state: str
    last_seen: float
    troubles: list[str]
    lag: float = 0.0
    retired_by: str = ""


@attrs.frozen
class Incident:
    """A fault that was noticed, and what recovery from it cost.

    Attributes:
        kind: The kind of fault.
        what: What it hit.
        cause: Its cause.
        age: Seconds since it was noticed.
        requeued: How many tasks had been given to what died; most of them had not started.
        lost: How many values had no other copy and were needed.
        replayed: How many tasks were executed again to compute such values.
        adopted: How many values came back with a worker.
        key: The key of the task that it hit, or of one of them; ``""`` if it is not about tasks.
    """

    kind: str
    what: str
    cause: str
    age: float
    requeued: int
    lost: int
    replayed: int
    adopted: int
    key: str = ""


@attrs.frozen
class StoryEvent:
    """Something that happened to a task.

    Attributes:
        age: How many seconds ago.
        text: What happened, as a sentence without its full stop.
    """

    age: float
    text: str


@attrs.frozen
class Story:
    """What became of a task, and why.  ``str()`` of it is a text that can be read.

    Attributes:
        key: The task's key.
        state: ``"waiting"`` (for inputs), ``"ready"`` (for a worker), ``"assigned"`` (a worker has it), ``"awaited"`` (data
            that must be sent again), ``"done"``, ``"failed"``, or ``"idle"`` (it has no value at the moment, and nobody
            needs it).
        worker: The worker that has it now; ``""`` if none.
        attempt: The number of its last attempt; 0 before the first.
        holders: The workers that hold its value.
        missing: How many of its inputs have no value yet.
        inputs: The state of each of its inputs, by key.
        raised: How many of its attempts raised an exception.
        crashes: How its attempts ended their processes, one text each.
        exposed: How many workers died while it ran on them.
        lost_inputs: How often its inputs could not be fetched.
        error: Why it failed; ``""`` if it did not.
        lacks: What it needs that no connected worker has; ``""`` if nothing.
        events: What happened, in order: a list of :class:`StoryEvent`.
    """

    key: str
    state: str
    worker: str = ""
    attempt: int = 0
    holders: list[str] = attrs.field(factory=list)
    missing: int = 0
    inputs: dict[str, str] = attrs.field(factory=dict)
    raised: int = 0
    crashes: list[str] = attrs.field(factory=list)
    exposed: int = 0
    lost_inputs: int = 0
    error: str = ""
    lacks: str = ""
    events: list[StoryEvent] = attrs.field(factory=list)

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Story:
        """Make a story from what the scheduler answers; fields of a later version are left out."""
        known = {name: fields[name] for name in attrs.fields_dict(cls) if name in fields}
        return cls(**{**known, "events": [StoryEvent(*event) for event in fields.get("events", ())]})

    def __str__(self) -> str:
        lines = [f"{self.key}: {self._now()}"]
        lines += [f"{ago(event.age):>16}  {event.text}" for event in self.events]
        if self.lacks:
            lines.append(f"no connected worker may run it: {self.lacks}")
        unfinished = [f"{key} ({state})" for key, state in self.inputs.items() if state != "done"]
        if unfinished and self.state == "waiting":
            shown = ", ".join(unfinished[:10])
            lines.append(f"it waits for {shown}{f' and {len(unfinished) - 10} more' if len(unfinished) > 10 else ''}")
        if self.error:
            lines.append(self.error)
        return "\n".join(lines)

    def _now(self) -> str:
        if self.state == "assigned":
            return f"assigned to {self.worker}"
        if self.state == "done" and self.holders:
            return f"done, its value is on {', '.join(self.holders)}"
        return self.state
