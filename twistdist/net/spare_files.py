"""How long the spare files of a store are kept (:mod:`twistdist.storage.spares`)."""

from __future__ import annotations

from typing import Any

from twistdist.core.worker.tuning import Tuning
from twistdist.net.timers import Alarm
from twistdist.storage.spares import KEEP_S, Spares

#: Spare files may have one part in this many of a worker's memory limit.
SHARE = 8


class SpareFiles:
    """Removes spare files ``KEEP_S`` seconds after the last one was set aside, or when memory is short.

    ``in_memory``: whether the store uses memory; on a disk nothing would be gained.  ``limit``: the owner's memory
    limit in bytes (0: none).
    """

    def __init__(self, reactor: Any, spares: Spares, in_memory: bool, limit: int = 0) -> None:
        self._reactor, self._spares, self._limit = reactor, spares, limit
        self._alarm = Alarm(reactor, self._ring)
        self._until = 0.0
        spares.most = 0 if not in_memory else min(spares.most, limit // SHARE) if limit else spares.most

    def touch(self) -> None:
        """Files may have been set aside: keep what there is for ``KEEP_S`` from now."""
        if self._spares.size():
            self._until = self._reactor.seconds() + KEEP_S
            self._alarm.set(self._until)

    def _ring(self) -> None:
        if self._reactor.seconds() < self._until - 0.001:
            self._alarm.set(self._until)
        else:
            self._spares.drop()

    def look(self, used: int) -> None:
        """``used`` bytes are in use without the spare files: remove those before results would move to disk."""
        if self._limit and used + self._spares.size() > Tuning().spill_until * self._limit:
            self._spares.drop()

    def stop(self) -> None:
        self._alarm.cancel()
