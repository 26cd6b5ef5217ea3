"""Functions whose value comes later: coroutines run on an event loop, Deferreds fire on a reactor, both in the executor."""

from __future__ import annotations

import importlib
import sys
from types import CoroutineType
from typing import Any

_modules = sys.modules

#: Seconds that a reactor waits for events at most before it is checked whether the Deferred has fired.
TURN_S = 0.1


def is_awaited(value: Any) -> bool:
    """Return whether what a function returned stands for a value that comes later."""
    if isinstance(value, CoroutineType):
        return True
    defer = _modules.get("twisted.internet.defer")  # without it there can be no Deferred
    return defer is not None and isinstance(value, defer.Deferred)


def final_value(value: Any) -> Any:
    """Wait for the value of a coroutine or a Deferred, which may give another one in turn.

    Raises:
        Exception: what the coroutine raised, or the exception of the Deferred's Failure.
    """
    while is_awaited(value):
        value = _run_coroutine(value) if isinstance(value, CoroutineType) else _run_reactor(value)
    return value


def _run_coroutine(coroutine: Any) -> Any:
    return importlib.import_module("asyncio").run(coroutine)


def _run_reactor(deferred: Any) -> Any:
    """Turn the reactor until the Deferred has fired.

    The main loop is not used, because it would catch the exception by which a task is interrupted.
    """
    reactor: Any = importlib.import_module("twisted.internet.reactor")
    results: list[Any] = []
    deferred.addBoth(results.append)
    if not results:
        reactor.startRunning(installSignalHandlers=False)
        try:
            while not results:
                pause = reactor.timeout()
                reactor.iterate(TURN_S if pause is None else min(pause, TURN_S))
        finally:
            reactor.crash()  # unlike after stop(), it can be started again
    (result,) = results
    if isinstance(result, _modules["twisted.python.failure"].Failure):
        result.raiseException()
    return result


def leftovers() -> bool:
    """Return whether a task has left calls or connections in the reactor, which the next task would run."""
    reactor: Any = _modules.get("twisted.internet.reactor")
    if reactor is None:
        return False
    own = getattr(reactor, "_internalReaders", ())
    return bool(reactor.getDelayedCalls() or set(reactor.getReaders()) - set(own) or reactor.getWriters())
