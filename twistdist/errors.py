"""Every error that twistdist raises.

``TwistdistError`` is the base of all.  A message says what happened, to what, and what the user can do.
Errors about one task carry a ``__twistdist__`` attribute (:class:`TaskInfo`) when they reach a client; so do the
user's own exceptions.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

import attrs


@attrs.frozen
class TaskInfo:
    """Where an exception came from.

    ``key`` names the task, ``attempt`` is the attempt's integer, ``worker`` the worker's name, ``exit`` says in words
    how the process ended ("" when it did not), ``traceback`` is the remote traceback's text.
    """

    key: str
    attempt: int = 0
    worker: str = ""
    exit: str = ""
    traceback: str = ""


class TwistdistError(Exception):
    """Base of all errors of twistdist."""


class TaskError(TwistdistError):
    """A task raised an exception that can't travel as itself: its type's name, its text and its traceback."""


class TaskCrashed(TwistdistError):
    """A task ended its executor process as often as its ``crash_limit`` allows."""


class TimeLimitExceeded(TwistdistError, TimeoutError):
    """A task ran longer than its ``time_limit`` and its process was ended."""


class MemoryLimitExceeded(TwistdistError, MemoryError):
    """A task used more memory than its process may and the process was ended."""


class TaskCancelled(TwistdistError, concurrent.futures.CancelledError):
    """A task was cancelled; ``reason`` says by whom or why."""

    def __init__(self, message: str = "cancelled", reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class DataLost(TwistdistError):
    """Values are gone and nothing can bring them back: which, and why no replay could."""


class StoreError(TwistdistError, OSError):
    """A result can't be written to its worker's store, or to the checkpoint store: which, and why."""


class NonDeterministicReplay(TwistdistError):
    """A second execution gave another value than the first."""


class NoValidWorker(TwistdistError):
    """A task names workers or resources that this cluster has never had."""


class KeyConflict(TwistdistError, ValueError):
    """A key that is in use was submitted again with another function or other arguments."""


class SerializationError(TwistdistError, TypeError):
    """A function, an argument or a result can't be pickled or unpickled: which, and where."""


class SchedulerUnreachable(TwistdistError, ConnectionError):
    """No scheduler answers at the address."""


class AuthenticationError(TwistdistError, ConnectionError):
    """The other side does not know our shared secret."""


class VersionMismatch(TwistdistError, ConnectionError):
    """The other side speaks another version of the protocol."""


class ProtocolError(TwistdistError, ConnectionError):
    """The other side sent what the protocol does not allow; the connection is closed."""


class JournalError(TwistdistError, OSError):
    """The journal can't be written or read; nothing is acknowledged that is not durable."""


class LeaseLost(JournalError):
    """The journal belongs to another scheduler now, or may; this one must end, and does not write any more."""

    fatal = True


class ClientClosed(TwistdistError, RuntimeError):
    """The client was closed; its futures are released."""


class ConfigError(TwistdistError, ValueError):
    """An option has an impossible value: which, and what it may be."""


def shown(value: Any, most: int = 200) -> str:
    """``repr(value)`` for an error's text: short, and there whatever the object's own ``__repr__`` does."""
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__qualname__} that can't be shown"
    return text if len(text) <= most else f"{text[: most - 10]}…{text[-9:]}"


def said(error: BaseException, most: int = 2_000) -> str:
    """An exception's type and text for the text of another, short, and there whatever its own ``__str__`` does."""
    kind = type(error).__qualname__
    try:
        text = str(error)
    except Exception:
        return f"{kind}, whose text could not be made"
    return f"{kind}: {text if len(text) <= most else text[:most] + '…'}"
