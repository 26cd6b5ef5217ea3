"""The reactor of the blocking API: it runs in a daemon thread, shared by all clients and clusters of the process."""

from __future__ import annotations

import concurrent.futures
import importlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from twistdist.blocking.waiting import wait_parked
from twistdist.config import as_timeout
from twistdist.errors import TwistdistError
from twistdist.net.timers import use_monotonic_time


def _new_reactor() -> Any:
    """Return the best reactor for this platform, without installing it as the global one."""
    for module, name in (("epollreactor", "EPollReactor"), ("kqreactor", "KQueueReactor")):
        try:
            return getattr(importlib.import_module(f"twisted.internet.{module}"), name)()
        except ImportError:
            continue
    return importlib.import_module("twisted.internet.selectreactor").SelectReactor()


class _Call:
    """A call that one thread made and the reactor's thread carries out."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.ended = threading.Event()
        self._function = function
        self._deferred: Deferred[Any] | None = None
        self.outcome: Any = None

    def start(self) -> None:
        self._deferred = maybeDeferred(self._function)
        self._deferred.addBoth(self._end)

    def _end(self, outcome: Any) -> None:
        self.outcome = outcome
        self.ended.set()

    def cancel(self) -> None:
        if self._deferred is not None:
            self._deferred.cancel()


class ReactorThread:
    """A reactor, and the thread in which it runs."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.reactor = _new_reactor()
        self._callbacks: queue.SimpleQueue[tuple[Callable[[Any], Any], Any]] | None = None
        use_monotonic_time(self.reactor)
        started = threading.Event()
        self.reactor.callWhenRunning(started.set)
        self.thread = threading.Thread(
            target=self.reactor.run, kwargs={"installSignalHandlers": False}, name="twistdist", daemon=True
        )
        self.thread.start()
        started.wait()

    def call(self, function: Callable[[], Any], timeout: float | None = None) -> Any:
        """Run ``function`` in the reactor's thread and return its value, or the value of the Deferred that it returns."""
        self.check()
        timeout = as_timeout(timeout)
        call = _Call(function)
        self.reactor.callFromThread(call.start)
        try:
            if not wait_parked(call.ended.wait, timeout):
                name = getattr(function, "__qualname__", "the call")  # a partial has none
                what = name.partition(".<locals>")[0].rpartition(".")[2]
                raise concurrent.futures.TimeoutError(f"{what}() did not finish within {timeout:g} s")
        except BaseException:  # Ctrl-C too: nobody waits for it any more
            self.reactor.callFromThread(call.cancel)
            raise
        outcome = call.outcome
        if isinstance(outcome, Failure):
            try:
                raise outcome.value  # type: ignore[misc]
            finally:
                del outcome, call  # the traceback holds this frame, so the error would hold itself
        return outcome

    def runs(self) -> bool:
        """Whether the thread exists: not in a forked child, and not while the interpreter ends and has stopped all threads."""
        return os.getpid() == self.pid and not sys.is_finalizing()

    def check_thread(self) -> None:
        """Raise ``TwistdistError`` if the thread does not exist (any more)."""
        if sys.is_finalizing():
            raise TwistdistError("the interpreter is ending, so nothing can be asked any more; do it in a function for atexit")
        if os.getpid() != self.pid:
            raise TwistdistError(
                "a client can't be used in a process that was forked after its creation; create another client there"
            )

    def check(self) -> None:
        """Raise ``TwistdistError`` where a blocking call could never return."""
        self.check_thread()
        if threading.current_thread() is self.thread:
            raise TwistdistError(
                "a blocking call in the reactor's thread would wait for itself forever; make it in another thread"
            )

    def call_back(self, function: Callable[[Any], Any], argument: Any) -> None:
        """Queue a call of ``function(argument)`` in the callback thread, where it may block.  Calls run in the order given."""
        if self._callbacks is None:
            self._callbacks = queue.SimpleQueue()
            threading.Thread(target=_run_callbacks, args=(self._callbacks,), name="twistdist-callbacks", daemon=True).start()
        self._callbacks.put((function, argument))


def _run_callbacks(waiting: queue.SimpleQueue[tuple[Callable[[Any], Any], Any]]) -> None:
    while True:
        try:
            call_back(*waiting.get())
        except BaseException:  # SystemExit too: a callback must not end the thread that runs the others
            logging.getLogger("twistdist").exception("a callback of a future tried to exit")


def call_back(function: Callable[[Any], Any], argument: Any) -> None:
    """Call a user's callback, and log what it raises."""
    try:
        function(argument)
    except Exception:  # as in concurrent.futures: log it and continue
        logging.getLogger("twistdist").exception("the callback %r of %r failed", function, argument)


_thread: ReactorThread | None = None
_thread_lock = threading.Lock()


def get_reactor_thread() -> ReactorThread:
    """Return the process's reactor thread.  It is started by the first call, and again after a fork."""
    global _thread
    with _thread_lock:
        if _thread is None or _thread.pid != os.getpid():
            _thread = ReactorThread()
        return _thread


def runs_here() -> bool:
    """Whether this process, and not the one that it was forked from, has a reactor thread."""
    return _thread is not None and _thread.runs()
