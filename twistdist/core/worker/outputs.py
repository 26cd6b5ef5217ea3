"""What one event of the worker produces: messages for the scheduler, and effects for the edge."""

from __future__ import annotations

from typing import Any

import attrs

from twistdist.core.session import Dialer
from twistdist.core.worker import effects


@attrs.define(eq=False)
class Outputs:
    """Messages are queued in the dialer's session; the edge carries out effects, in order."""

    dialer: Dialer
    _effects: list[effects.Effect] = attrs.field(factory=list)

    def post(self, message: Any, weight: int = 0) -> None:
        """Send a message to the scheduler; ``weight`` is its size in bytes if that is large."""
        self.dialer.session.post(message, weight)

    def do(self, effect: effects.Effect) -> None:
        """Have the edge do something."""
        self._effects.append(effect)

    def take(self) -> list[effects.Effect]:
        """The effects since the last call."""
        taken, self._effects = self._effects, []
        return taken
