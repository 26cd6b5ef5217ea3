"""The last lines that this process has logged, for ``client.logs`` and for what a task has written."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.logger import ILogObserver, LogLevel, eventAsText, globalLogPublisher
from zope.interface import implementer

#: Lines that are kept, and characters of a line.
MAX_LINES, MAX_CHARACTERS = 2_000, 2_000

#: The namespace of what tasks have written; its events have the task's ``key``.
OF_TASKS = "twistdist.tasks"


def _shortened(line: str) -> str:
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"


@implementer(ILogObserver)
class LogLines:
    """An observer of Twisted's log that keeps the last lines, with their times, but none of level debug."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._of_tasks: deque[tuple[str, str]] = deque(maxlen=MAX_LINES)  # the key of the task that wrote it, and the line

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_level") is LogLevel.debug:
            return
        self._lines.extend(map(_shortened, _text_of(event).rstrip("\n").split("\n")))
        if event.get("log_namespace") == OF_TASKS:
            for line in str(event.get("output", "")).split("\n"):
                self._of_tasks.append((str(event.get("key", "")), _shortened(f"{event.get('stream', '')}: {line}")))

    def last(self, count: int, key: str = "") -> list[str]:
        """Return the last ``count`` lines, oldest first; with ``key``, of those that the task of this name has written."""
        return [line for whose, line in self._of_tasks if whose == key][-count:] if key else list(self._lines)[-count:]

    def start(self) -> None:
        """Keep what is logged from now on."""
        globalLogPublisher.addObserver(self)  # type: ignore[arg-type]  # mypy does not know zope

    def stop(self) -> None:
        """Keep nothing more."""
        globalLogPublisher.removeObserver(self)  # type: ignore[arg-type]


def _text_of(event: dict[str, Any]) -> str:
    """The text of an event.  Each line of a task's output says whose it is: without a log's fields, nothing else would."""
    if not event.get("attempt") or "output" not in event:
        return eventAsText(event, includeSystem=False)
    who = f"{event['key'] or 'a task'} (attempt {event['attempt']} on {event['worker']}) {event['stream']}: "
    output = str(event["output"]).split("\n")  # other ends of lines are the task's
    return eventAsText({**event, "log_format": "{told}", "told": "\n".join(who + line for line in output)}, includeSystem=False)
