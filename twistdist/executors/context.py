"""What a running task can ask about itself.  Set if this process is an executor; empty in every other process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from twistdist.errors import TwistdistError


@attrs.frozen
class Attempt:
    """One execution of a task.

    ``key`` is the task's name, ``attempt`` the attempt's integer, ``worker`` the worker's name.  ``token`` is a fencing token:
    an integer that grows with every later attempt of the same task.  An outside system that remembers the largest token it has
    seen can refuse writes of an attempt that was given up.
    """

    key: str
    attempt: int
    worker: str
    token: int


@attrs.define(eq=False)
class Context:
    """The attempt that is running in this process, and how it gives up its slot while it waits (``park`` until ``resume``).

    ``address``, ``secret`` and ``tls`` (a folder, or "") are for the task's own client; ``client`` holds it once it is made.
    ``trace`` is the trace context of a traced task.
    """

    key: str
    task: int
    attempt: int
    worker: str
    address: str
    secret: bytes
    tls: str
    park: Callable[[], bool]
    resume: Callable[[], None]
    uses_client: Callable[[], None]
    trace: str = ""
    client: Any = None
    lock: Any = attrs.field(factory=threading.Lock)

    @contextlib.contextmanager
    def parked(self) -> Iterator[None]:
        """Give up the task's slot for the duration of the block.  Does nothing in threads that the task started."""
        if threading.current_thread() is not threading.main_thread() or not self.park():
            yield
            return
        try:
            yield
        finally:
            self.resume()


_current: Context | None = None


def current() -> Context | None:
    """Return the running task's context, or None outside a task."""
    return _current


def enter(context: Context | None) -> None:
    """Set the running task's context (None: no task is running).  Only the executor calls this."""
    global _current
    _current = context


def current_attempt() -> Attempt:
    """Return the attempt that is running in this process.

    Raises:
        TwistdistError: called outside a task.
    """
    if _current is None:
        raise TwistdistError("current_attempt() works only inside a task, in the process that runs it")
    return Attempt(_current.key, _current.attempt, _current.worker, _current.attempt)
