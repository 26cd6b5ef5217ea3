"""What a running task can ask about itself.  Set by the executor that this process is; empty in every other process."""

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
    an integer that is larger in every later attempt of the same task, so that an outside system which remembers the largest
    one it has seen can refuse a write of an attempt that was given up.
    """

    key: str
    attempt: int
    worker: str
    token: int


@attrs.define(eq=False)
class Context:
    """The attempt that runs in this process, and how it gives up its slot while it waits (``park`` until ``resume``).

    ``address``, ``secret`` and ``tls`` (a folder, or "") are for a client of its own, which ``client`` holds once it is made.
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
    client: Any = None
    lock: Any = attrs.field(factory=threading.Lock)

    @contextlib.contextmanager
    def parked(self) -> Iterator[None]:
        """While this lasts the task's slot is free for others.  Nothing happens in threads that the task has started."""
        if threading.current_thread() is not threading.main_thread() or not self.park():
            yield
            return
        try:
            yield
        finally:
            self.resume()


_current: Context | None = None


def current() -> Context | None:
    """The running task's context; None outside of a task."""
    return _current


def enter(context: Context | None) -> None:
    """For the executor alone: which task runs."""
    global _current
    _current = context


def current_attempt() -> Attempt:
    """The attempt that runs in this process.  ``TwistdistError`` outside of a task."""
    if _current is None:
        raise TwistdistError("current_attempt() has a meaning only inside a task, in the process that runs it")
    return Attempt(_current.key, _current.attempt, _current.worker, _current.attempt)
