"""How tasks ended."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from benchmarks.systems.system import System
from benchmarks.waiting import Waiting

T = TypeVar("T")

TIMEOUTS = (TimeoutError, concurrent.futures.TimeoutError, asyncio.TimeoutError)  # three classes before Python 3.11

#: Seconds that are spent on one task before the others have their turn again: one that hangs must not hide those that are done.
LOOK_S = 0.5

#: Seconds past the limit after which a call that does not keep to its timeout is given up.
GRACE_S = 5.0

#: What is counted among the errors if a task has a value, but not the right one.
WRONG = "a wrong value"


class Outcomes:
    """How tasks ended, within ``limit`` seconds from now: how many are ``right``, ``failed`` and ``pending``.

    ``expected(i)`` is the value of task ``i``, by default ``i``.  ``errors`` counts the classes of exceptions of those that
    failed, and ``seconds`` is how long it took until all had ended, or the limit was over.
    """

    def __init__(self, system: System, handles: Sequence[Any], limit: float, expected: Callable[[int], Any] = int) -> None:
        self.right = self.failed = 0
        self.errors: Counter[str] = Counter()
        began = time.perf_counter()
        collecting = Waiting(self._collect, system, handles, time.monotonic() + limit, expected)
        collecting.join(limit + GRACE_S)
        self.seconds = time.perf_counter() - began
        self.pending = len(handles) - self.right - self.failed

    def _collect(self, system: System, handles: Sequence[Any], end: float, expected: Callable[[int], Any]) -> None:
        pending = list(enumerate(handles))
        while pending and time.monotonic() < end:
            pending = [(i, one) for i, one in pending if not self._ended(system, one, end, expected(i))]

    def _ended(self, system: System, handle: Any, end: float, expected: Any) -> bool:
        """Whether a task has ended, after a look at it."""
        try:
            found = system.result(handle, timeout=max(0.01, min(LOOK_S, end - time.monotonic()))) == expected
        except TIMEOUTS:
            return False
        except Exception as error:  # of the system, or of what the task became in it
            self.failed += 1
            self.errors[type(error).__name__] += 1
            return True
        self.right += found
        self.failed += not found
        if not found:
            self.errors[WRONG] += 1
        return True


def submitted(system: System, fn: Any, *args: Any) -> Any:
    """A task; a pool that is broken already refuses it."""
    try:
        return system.submit(fn, *args)
    except Exception as error:
        refused: concurrent.futures.Future[Any] = concurrent.futures.Future()
        refused.set_exception(error)
        return refused


def until(what: Callable[[], T], seconds: float = 60.0) -> T:
    """Wait for something that other processes do, and return it."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise RuntimeError("what the benchmark waits for did not happen")
        time.sleep(0.005)
    return found
