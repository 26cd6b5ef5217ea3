"""How much the scheduler may have this worker run."""

from __future__ import annotations

import attrs

from twistdist.core.worker import effects, memory
from twistdist.core.worker.executors import Executors
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.tuning import Tuning
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Intake:
    """At most ``most`` executors are busy at a time, not counting parked ones.

    ``fenced``: the scheduler may have given the worker up; ``paused``: memory use is high.
    """

    tuning: Tuning
    slots: int
    limits: memory.Limits
    outputs: Outputs
    executors: Executors
    most: int = attrs.field(default=attrs.Factory(lambda self: self.slots, takes_self=True))
    fenced: bool = False
    paused: bool = False
    _told: int = attrs.field(default=attrs.Factory(lambda self: self.slots, takes_self=True))

    def adjust(self) -> None:
        """Tell the scheduler how much may run here, if that has changed."""
        up = sum(1 for executor in self.executors.active.values() if executor.up)
        if self.fenced:
            self.most = 0  # the tasks that wait here may have been given to others
            return
        if self.executors.starts_failed >= self.tuning.max_failed_starts and up < self.slots:
            most, why = up, f"its executors do not start: {self.executors.why_no_start}"
        elif self.paused:
            limit = memory.in_words(self.limits.worker)
            most, why = 1, f"it uses more than {self.tuning.pause_above:.0%} of its {limit} of memory"
        else:
            most, why = self.slots, ""
        self.most = most
        if most != self._told:
            self._told = most
            self.outputs.post(m.Intake(most, why))

    def tell_again(self) -> None:
        """The scheduler assumes that the worker runs as many tasks as it has slots: correct that if necessary."""
        self._told = self.slots
        self.adjust()

    def fence(self, on: bool) -> None:
        """Nothing new is started while the scheduler may have given this worker up."""
        self.fenced = on
        self.adjust()
        self.outputs.do(effects.Fence(on))

    def pause(self, on: bool) -> None:
        """Run one task at a time, because memory use is high."""
        self.paused = on
        self.adjust()
