"""Actions that a core wants performed at given times: the edge asks when the next one is due, and says when it is."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Alarms:
    """Actions ordered by time, and by insertion where times are equal."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._count = 0

    def set(self, at: float, action: Callable[[float, Any], None], subject: Any) -> None:
        """Call ``action(now, subject)`` at ``at`` or soon after."""
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, action, subject))

    @property
    def next(self) -> float | None:
        """When the first action is due."""
        return self._heap[0][0] if self._heap else None

    def ring(self, now: float) -> None:
        """Perform every action that is due."""
        while self._heap and self._heap[0][0] <= now:
            _, _, action, subject = heapq.heappop(self._heap)
            action(now, subject)
