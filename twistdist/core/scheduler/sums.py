"""What the tasks of one function, or of one group, have come to so far."""

from __future__ import annotations

import attrs


@attrs.define(eq=False)
class Sums:
    """Tasks whose value is being worked on (``unfinished``), attempts that gave a value (``done``; ``again``: of tasks that had
    one before), attempts that ``failed``, the microseconds of all of them, and when the last one ended (``at``)."""

    unfinished: int = 0
    done: int = 0
    failed: int = 0
    again: int = 0
    us: int = 0
    at: float = 0.0

    def add(self, at: float, count: int, us: int, value: bool, again: bool) -> None:
        """Attempts have ended, with a value or not; ``again``: their tasks had one before."""
        self.at = at
        self.us += us
        self.done += count * value
        self.failed += count * (not value)
        self.again += count * again
