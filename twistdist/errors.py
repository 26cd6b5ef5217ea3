"""The errors that twistdist raises.

All of them derive from :class:`TwistdistError`.  A message says what happened, to what, and what to do about it.  When an
error about a task reaches a client, its ``__twistdist__`` attribute is a :class:`TaskInfo`.  This includes exceptions that the
task's own function raised.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

import attrs


@attrs.frozen
class TaskInfo:
    """Where an exception came from: the ``__twistdist__`` attribute of an error about a task.

    Attributes:
        key: The key of the task.
        attempt: The number of the attempt; 0 if the error does not belong to an attempt.
        worker: The name of the worker; ``""`` if the error does not belong to a worker.
        exit: How the task's process ended, in words; ``""`` if it did not end.
        traceback: The text of the remote traceback; ``""`` if there is none.
    """

    key: str
    attempt: int = 0
    worker: str = ""
    exit: str = ""
    traceback: str = ""


class TwistdistError(Exception):
    """The base class of all twistdist errors."""


class TaskError(TwistdistError):
    """A task raised an exception that could not be sent to the client as an object.

    The message has the name of its type and its text; the remote traceback is the ``__cause__``.  ``SystemExit`` and
    ``KeyboardInterrupt`` also arrive as a ``TaskError``, so that a task can't end the client.
    """


class TaskCrashed(TwistdistError):
    """The executor process died under a task as many times as the task's ``crash_limit`` allows."""


class TimeLimitExceeded(TwistdistError, TimeoutError):
    """A task ran longer than its ``time_limit`` and was stopped."""


class MemoryLimitExceeded(TwistdistError, MemoryError):
    """A task was killed because its process, or its worker as a whole, exceeded the memory limit."""


class TaskCancelled(TwistdistError, concurrent.futures.CancelledError):
    """A task was cancelled.

    Args:
        message: The text of the error.
        reason: Who cancelled the task, or why; by default the message.

    Attributes:
        reason: Who cancelled the task, or why.
    """

    def __init__(self, message: str = "cancelled", reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class DataLost(TwistdistError):
    """A value is gone and can't be restored, or its future was released.

    The message names the value and says why it could not be computed again.
    """


class StoreError(TwistdistError, OSError):
    """A result or a large argument could not be stored, or a checkpoint store could not be used."""


class NonDeterministicReplay(TwistdistError):
    """A lost value was computed again and the new value differs from the first one."""


class NoValidWorker(TwistdistError):
    """A task may run only on named workers, and none of them has ever been part of this cluster."""


class KeyConflict(TwistdistError, ValueError):
    """A key that is in use was submitted again with a different function or different arguments."""


class SerializationError(TwistdistError, TypeError):
    """A function, an argument or a result can't be pickled or unpickled."""


class SchedulerUnreachable(TwistdistError, ConnectionError):
    """No scheduler answers at the address within the timeout."""


class AuthenticationError(TwistdistError, ConnectionError):
    """The other side does not have the same shared secret, or its TLS certificate was not accepted."""


class VersionMismatch(TwistdistError, ConnectionError):
    """The other side uses another version of the protocol, or of Python."""


class ProtocolError(TwistdistError, ConnectionError):
    """The other side violated the protocol; the connection is closed."""


class JournalError(TwistdistError, OSError):
    """The journal can't be read or written.  The scheduler acknowledges nothing that is not durable."""


class LeaseLost(JournalError):
    """Another scheduler has, or may have, taken over the journal.  This scheduler stops writing and exits."""

    fatal = True


class ClientClosed(TwistdistError, RuntimeError):
    """The client was closed or has failed and can't be used any more."""


class ConfigError(TwistdistError, ValueError):
    """An option, an address, a secret or a certificate directory is invalid."""


def shown(value: Any, most: int = 200) -> str:
    """Return ``repr(value)`` for an error message, cut to ``most`` characters.  Never raises, even if ``repr()`` does."""
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__qualname__} object whose repr() failed"
    return text if len(text) <= most else f"{text[: most - 10]}…{text[-9:]}"


def said(error: BaseException, most: int = 2_000) -> str:
    """Return an exception's type and text for another error's message.  Never raises, even if ``str()`` does.

    A text longer than ``most`` characters is cut.
    """
    kind = type(error).__qualname__
    try:
        text = str(error)
    except Exception:
        return f"{kind} (its str() failed)"
    return f"{kind}: {text if len(text) <= most else text[:most] + '…'}"
