"""Waiting in a thread: a task that waits for others gives up its slot meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from twistdist.executors import context

#: Seconds that a task waits before it gives up its slot.  A shorter wait ends before another executor could have started.
PARK_AFTER_S = 0.002


def wait_parked(wait: Callable[[float | None], bool], timeout: float | None) -> bool:
    """Return ``wait(timeout)``.  Inside a task, give up the slot while waiting, unless the wait is very short."""
    task = context.current()
    if task is None:
        return wait(timeout)
    if wait(PARK_AFTER_S if timeout is None else min(timeout, PARK_AFTER_S)):
        return True
    left = None if timeout is None else timeout - PARK_AFTER_S
    if left is not None and left <= 0:
        return False
    with task.parked():
        return wait(left)


class ParkingEvent(threading.Event):
    """The event on which ``concurrent.futures.wait`` and ``as_completed`` wait inside a task."""

    def wait(self, timeout: float | None = None) -> bool:
        return wait_parked(super().wait, timeout)
