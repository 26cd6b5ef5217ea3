"""``--log-json``: each event of Twisted's log as one flat JSON object on a line of its own.  docs/operations.rst

Not ``twisted.logger.jsonFileLogObserver``: its lines are made to be read back by Twisted.  They begin with a record separator,
have the text only as a format with its arguments, and nest levels and failures under UUIDs, so that neither Loki's nor
Elasticsearch's parser finds a time, a level or a text in them.
"""

from __future__ import annotations

import datetime
import json
import math
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from twisted.logger import FileLogObserver, formatEvent
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

#: Characters of one field; Loki refuses lines of more than 256 KiB, and an event of a task's output has up to 68 KiB.
MAX_CHARACTERS = 80_000

#: Fields of one line.
MAX_FIELDS = 64

#: Integers up to this one are the same in every reader of JSON; larger ones are written as text.
MAX_INTEGER = 1 << 53

#: What tasks print: the namespace of those events, in which ``output`` is the bare text.
TASKS = "twistdist.tasks"

#: Fields of events that are no information of their own: those of Twisted's old log, and what is only there for the text.
_SKIPPED = frozenset(("message", "time", "level", "logger", "traceback", "exception", "format", "isError", "system", "failure"))
_SKIPPED_OF_TASKS = frozenset(("who", "text", "output"))


def json_line(event: dict[str, Any]) -> str:
    """Return an event as a line of JSON.  Whatever is in the event, the line is valid JSON in ASCII."""
    namespace = _text(event.get("log_namespace") or event.get("log_system") or "-")
    of_task = namespace == TASKS and isinstance(event.get("output"), str)
    line: dict[str, Any] = {
        "time": _time(event.get("log_time")),
        "level": _text(getattr(event.get("log_level"), "name", "info")),
        "logger": namespace,
        "message": _text(event["output"] if of_task else formatEvent(event)),
    }
    for name, value in event.items():
        if len(line) >= MAX_FIELDS:
            break
        if not name.startswith(("log_", "_")) and name not in _SKIPPED and not (of_task and name in _SKIPPED_OF_TASKS):
            plain = _plain(name, value)
            if plain is not None and plain != line["message"]:
                line[_text(name)] = plain
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        line["exception"] = _text(getattr(failure.type, "__qualname__", failure.type))
        line["traceback"] = _traceback(failure)
    return json.dumps(line, allow_nan=False) + "\n"


def _time(at: Any) -> str:
    """ISO 8601 in UTC, with microseconds."""
    try:
        moment = datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):
        moment = datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _plain(name: str, value: Any) -> str | int | float | bool | None:
    """A field's value as a scalar; None for one that says nothing."""
    if value is None or value == "" or callable(value):
        return None
    if name == "attempt":  # the name of something, not a quantity, and usually larger than MAX_INTEGER
        return _text(value) if value else None
    if type(value) is bool:
        return value
    if type(value) is int:
        return value if -MAX_INTEGER <= value <= MAX_INTEGER else str(value)
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    return _text(value)


def _text(value: Any) -> str:
    """Any value as text that can be encoded, of bounded length."""
    if isinstance(value, bytes):
        value = value[: MAX_CHARACTERS + 1].decode("utf-8", "backslashreplace")
    try:
        text = value if type(value) is str else str(value)
    except Exception as error:  # an object of a user's class
        text = f"<a {type(value).__name__} whose str() raises {type(error).__name__}>"
    if len(text) > MAX_CHARACTERS:
        text = f"{text[: MAX_CHARACTERS - 1]}…"
    return text.encode("utf-8", "backslashreplace").decode()  # lone surrogates are no text


def _traceback(failure: Failure) -> str:
    try:
        return _text(failure.getTraceback().rstrip())
    except Exception as error:  # it formats objects of users
        return f"<the traceback can't be formatted: {type(error).__name__}>"


def logs_to_stdout(twistd: Mapping[str, Any]) -> bool:
    """Whether twistd's options mean that the log goes to standard output."""
    return twistd.get("logfile") == "-" or bool(twistd.get("nodaemon") and not twistd.get("logfile"))


def observer(twistd: Mapping[str, Any]) -> FileLogObserver:
    """Return an observer that writes where these options of twistd say, and rotates a file as twistd does."""
    if logs_to_stdout(twistd):
        if not twistd.get("nodaemon"):
            raise SystemExit("twistd: a daemon can't log to standard output; add -n, or name a file with --logfile")
        return FileLogObserver(sys.stdout, json_line)
    from twisted.internet import reactor

    file = LogFile.fromFullPath(twistd.get("logfile") or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        the_reactor: Any = reactor
        signal.signal(signal.SIGUSR1, lambda *_: the_reactor.callFromThread(file.rotate))
    return FileLogObserver(file, json_line)
