"""One reactor timer, for a core that says when it must be woken."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def use_monotonic_time(reactor: Any) -> None:
    """Have a reactor of ours use the monotonic clock: Twisted's default is the wall clock, which may jump.

    Nothing changes if timers are already set, since their times would not be comparable.
    """
    if not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


class Alarm:
    """Calls ``ring`` at the earliest time requested; requesting a later time costs nothing."""

    def __init__(self, reactor: Any, ring: Callable[[], None]) -> None:
        self._reactor, self._ring = reactor, ring
        self._call: Any = None
        self._at = 0.0

    def set(self, at: float | None) -> None:
        """Ring at ``at`` (in terms of ``reactor.seconds()``) or earlier; None requests nothing."""
        if at is None:
            return
        if self._call is not None:
            if self._at <= at:
                return
            self._call.cancel()
        self._at = at
        self._call = self._reactor.callLater(max(0.0, at - self._reactor.seconds()), self._due)

    def _due(self) -> None:
        self._call = None
        self._ring()

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
