"""Checks memory: carries out what the ladder of :mod:`.memory` says."""

from __future__ import annotations

import attrs

from twistdist.core.worker import memory
from twistdist.core.worker.ending import Endings
from twistdist.core.worker.files import Files
from twistdist.core.worker.giving import Giving
from twistdist.core.worker.intake import Intake
from twistdist.core.worker.tuning import Tuning


@attrs.define(eq=False)
class Usage:
    """Results move to disk, intake goes down, an executor is ended."""

    tuning: Tuning
    limits: memory.Limits
    files: Files
    intake: Intake
    ending: Endings
    giving: Giving

    def look(self, now: float, executors: dict[int, int], running: dict[int, int], stored: int) -> float:
        """Check memory: ``executors`` are the bytes of each executor that runs something, ``running`` which attempt that is,
        ``stored`` the bytes of stored results that count as memory.  Return the seconds until the next check.
        """
        verdict = memory.judge(self.tuning, self.limits, executors, stored, self.intake.paused)
        if verdict.spill:
            self.files.spill(now, verdict.spill)
        if verdict.pause != self.intake.paused:
            self.intake.pause(verdict.pause)
            self.giving.feed(now)
        if verdict.stop is not None:
            self.ending.stop(verdict.stop, running[verdict.stop.number])
        limit = self.limits.executor or self.limits.worker
        return self.tuning.look_closely_s if 2 * (sum(executors.values()) + stored) > limit else self.tuning.look_s
