"""Records that the client's questions are answered with."""

from __future__ import annotations

import attrs


@attrs.frozen
class WorkerInfo:
    """One worker as the scheduler sees it.

    ``slots`` tasks run at a time, ``running`` do now, ``queued`` more are given and ``waiting`` ones wait for other tasks;
    ``memory`` bytes of results in ``keys`` files; ``address`` is where peers fetch; ``state`` is "connected", "paused" (it
    takes less work than it has slots; the last of ``troubles`` says why), "retiring", "suspect" (it is silent), "stuck" (it
    did nothing with its tasks) or "away".  Its last sign of life came ``last_seen`` seconds ago, when its event loop was
    ``lag`` seconds late.
    ``troubles`` are the last things that went wrong with its executors.
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
    """A fault that was seen and what recovery cost.

    ``kind`` of fault, ``what`` it hit, its ``cause``, ``age`` in seconds.  ``requeued`` tasks had been given to what died (most
    of them not started), ``lost`` values had no other copy and were needed, ``replayed`` tasks were executed again to bring
    them back, ``adopted`` values came back with a worker.
    """

    kind: str
    what: str
    cause: str
    age: float
    requeued: int
    lost: int
    replayed: int
    adopted: int
