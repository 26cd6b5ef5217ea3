"""Calls that may hang."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any


class Waiting(threading.Thread):
    """Calls a function in a thread, whose process can end while it hangs.

    When the thread has ended, ``seconds`` is how long the function took, and ``error`` what it raised, if anything.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._work = functools.partial(function, *args)
        self._began = time.perf_counter()
        self.seconds = 0.0
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:  # which one it is differs from system to system
            self.error = error
        self.seconds = time.perf_counter() - self._began
