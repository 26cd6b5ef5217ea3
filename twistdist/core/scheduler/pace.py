"""How much one event may do: what is left is continued in an event of its own, and others are served in between."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.settings import Tuning


@attrs.define(eq=False)
class Pace:
    """Work that may be of any amount takes at most ``most`` tasks of it in one event, and calls ``go_on`` if some are left."""

    tuning: Tuning
    alarms: Alarms
    waiting: bool = False

    @property
    def most(self) -> int:
        """Tasks that one event drops, gives up or assigns at most."""
        return self.tuning.slice_tasks

    def go_on(self, now: float) -> None:
        """Something is left to do: an event follows as soon as others have been served."""
        if not self.waiting:
            self.waiting = True
            self.alarms.set(now, self._next, None)

    def _next(self, now: float, subject: None) -> None:
        """The end of this event does the next slice."""
        self.waiting = False
