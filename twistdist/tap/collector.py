"""Python's cycle collector in a process that keeps millions of objects and must never stand still.

A full collection looks at every object that lives: 0.3 s with 300,000 tasks, during which nobody is served.  The cores break
the cycles of what they drop, so that reference counts free it at once, and what lives long is mostly no garbage.  Therefore
what has survived the young generations is *frozen*: moved, in no time, to where collections do not look.  Cycles among frozen
objects, as closed connections leave, are collected while there are few objects in all, and at the latest after a day.
"""

from __future__ import annotations

import gc
import time
from typing import Any

#: Allocations before the youngest objects are examined, and how often that happens before those that survived it once are:
#: 30,000 objects take some milliseconds.
YOUNG, MIDDLE = 5_000, 5

#: Full collections are started here alone.
NEVER = 1_000_000_000

#: Seconds between two looks at what has survived.
LOOK_S = 1.0

#: Seconds between two full collections, and frozen objects above which one is put off: 100,000 take 10 to 20 ms.
FULL_S, FEW = 600.0, 100_000

#: Seconds after which a full collection is no longer put off.
LONGEST_S = 86_400.0


class Collector:
    """Replaces the cycle collector's own timing in this process, from ``start`` until ``stop``."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._call: Any = None
        self._before = gc.get_threshold()
        self._full_at = 0.0
        self.longest = 0.0  #: seconds of the longest full collection

    def start(self) -> None:
        """Collect everything once, and from now on only as the module's docstring says.  Does nothing if that is so already."""
        if self._call is not None:
            return
        self._before = gc.get_threshold()
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        self._collect()
        self._call = self._reactor.callLater(LOOK_S, self._look)

    def stop(self) -> None:
        """Leave it to Python again."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
            gc.unfreeze()
            gc.set_threshold(*self._before)

    def _look(self) -> None:
        self._call = self._reactor.callLater(LOOK_S, self._look)
        overdue = self._reactor.seconds() - self._full_at
        if overdue >= LONGEST_S or (overdue >= FULL_S and gc.get_freeze_count() <= FEW):
            self._collect()
        else:
            gc.collect(1)  # otherwise garbage among the youngest objects would be frozen too
            gc.freeze()

    def _collect(self) -> None:
        began = time.perf_counter()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._full_at = self._reactor.seconds()
        self.longest = max(self.longest, time.perf_counter() - began)
