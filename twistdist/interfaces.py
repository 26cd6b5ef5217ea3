"""Records that the client's queries return."""

from __future__ import annotations

import attrs


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
    """

    kind: str
    what: str
    cause: str
    age: float
    requeued: int
    lost: int
    replayed: int
    adopted: int
