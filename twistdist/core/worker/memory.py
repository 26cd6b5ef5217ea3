"""The memory ladder: what a worker does when its executors and results need more than it may use.  Pure functions.

The steps are those of docs/executors.rst: results move to disk, then intake goes down to one task at a time, then the largest
executor is ended.  Each has a lower threshold at which it stops, so that it is not started and stopped in turn.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from twistdist.core.worker.tuning import Tuning


@attrs.frozen
class Limits:
    """Bytes; 0: no limit.  ``worker`` bounds executors and results in memory together, ``executor`` one executor."""

    worker: int = 0
    executor: int = 0


@attrs.frozen
class Overuse:
    """Executor ``number`` uses ``size`` bytes, and ``limit`` is exceeded: the worker's, or that of one executor."""

    number: int
    size: int
    limit: int
    of_worker: bool


@attrs.frozen
class Verdict:
    """``spill`` bytes of results should move to disk; ``pause``: one task at a time; ``stop`` this executor."""

    spill: int = 0
    pause: bool = False
    stop: Overuse | None = None


def judge(tuning: Tuning, limits: Limits, executors: Mapping[int, int], stored: int, paused: bool) -> Verdict:
    """``executors``: bytes of each running executor; ``stored``: bytes of results in memory; ``paused``: as before."""
    largest = max(executors, key=executors.__getitem__, default=None)
    if largest is not None and limits.executor and executors[largest] > limits.executor:
        return Verdict(pause=paused, stop=Overuse(largest, executors[largest], limits.executor, False))
    limit = limits.worker
    if not limit:
        return Verdict()
    used = sum(executors.values()) + stored
    spill = min(stored, int(used - tuning.spill_until * limit)) if used > tuning.spill_above * limit else 0
    pause = used > (tuning.pause_until if paused else tuning.pause_above) * limit
    # What can still go to disk is not held against an executor, unless the rest is too much by itself.
    too_much = used - stored > tuning.stop_above * limit or (used > tuning.stop_above * limit and not spill)
    stop = Overuse(largest, executors[largest], limit, True) if too_much and largest is not None else None
    return Verdict(spill, pause, stop)


def in_words(size: int) -> str:
    """``1.5 GiB``, as people write sizes."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"
