"""The last lines that this process has logged, for ``client.logs``."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.logger import ILogObserver, LogLevel, eventAsText, globalLogPublisher
from zope.interface import implementer

#: Lines that are kept, and characters of a line.
MAX_LINES, MAX_CHARACTERS = 2_000, 2_000


@implementer(ILogObserver)
class LogLines:
    """An observer of Twisted's log that keeps the last lines, with their times, but none of level debug."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def __call__(self, event: dict[str, Any]) -> None:
        if event.get("log_level") is LogLevel.debug:
            return
        for line in eventAsText(event, includeSystem=False).splitlines():
            self._lines.append(line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…")

    def last(self, count: int) -> list[str]:
        """Return the last ``count`` lines, oldest first."""
        return list(self._lines)[-count:]

    def start(self) -> None:
        """Keep what is logged from now on."""
        globalLogPublisher.addObserver(self)  # type: ignore[arg-type]  # mypy does not know zope

    def stop(self) -> None:
        """Keep nothing more."""
        globalLogPublisher.removeObserver(self)  # type: ignore[arg-type]
