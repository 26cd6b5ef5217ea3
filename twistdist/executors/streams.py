"""What tasks write to standard output and error: whose it is, and how it becomes lines of the worker's log.

An executor's descriptors 1 and 2 are pipes to the control process.  A mark precedes what is written through ``sys.stdout`` and
``sys.stderr`` whenever the writing attempt changes, and another follows at the end of the task.  What C code and child
processes write has no mark and is attributed to the attempt that the page says is running.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

_write, _fstat = os.write, os.fstat

_MARK = re.compile(rb"\x00\x1e([0-9a-f]{16})\n")
_MARK_BYTES = 19

#: Bytes of one attempt's output that are logged; the rest is counted and dropped.
MAX_LOGGED = 1 << 20

#: Bytes at which a line is broken.
LONGEST_LINE = 4096

#: Lines of standard error that are kept for the report of a crash.
TAIL_LINES = 20


class Output(io.RawIOBase):
    """The executor's side of one stream.  ``attempt()`` returns the attempt whose output it is now."""

    def __init__(self, descriptor: int, private: int, attempt: Callable[[], int]) -> None:
        """``private`` is another descriptor of the same pipe that tasks do not know about."""
        super().__init__()
        self._descriptor, self._private, self._attempt = descriptor, private, attempt
        self._pipe = self._identity(private)
        self._marked = 0

    @staticmethod
    def _identity(descriptor: int) -> tuple[int, int]:
        found = _fstat(descriptor)
        return found.st_dev, found.st_ino

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        attempt = self._attempt()
        if attempt != self._marked and self._identity(self._descriptor) == self._pipe:  # not into a file of the task's own
            self._mark(attempt)
        at = 0
        while at < len(view):
            at += _write(self._descriptor, view[at:])
        return at

    def _mark(self, attempt: int) -> None:
        _write(self._private, b"\0\x1e%016x\n" % attempt)
        self._marked = attempt

    def end_task(self) -> None:
        """Mark the end of the task: unmarked output from now on is not the last task's."""
        if self._marked:
            with contextlib.suppress(OSError):  # the task closed even the private descriptor
                self._mark(0)


def text_stream(raw: Output) -> io.TextIOWrapper:
    """Return a text stream like ``sys.stdout`` on ``raw`` that never raises on what a program prints."""
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[arg-type]


class Lines:
    """The control process's side of one stream: bytes in, (attempt, line) out.  ``tail`` is the last lines of ``tail_of``."""

    def __init__(self) -> None:
        self._attempt = 0  # of the last mark; 0: unmarked
        self._rest = b""
        self._logged = 0
        self._dropped = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.tail_of = 0

    def feed(self, data: bytes, running: int) -> Iterator[tuple[int, str]]:
        """Yield the lines that ``data`` completes.  ``running`` is the attempt that the page names now."""
        data = self._rest + data
        at = 0
        for mark in _MARK.finditer(data):
            yield from self._text(data[at : mark.start()], running, False)
            self._attempt, at = int(mark[1], 16), mark.end()
            self._rest = b""
        data = data[at:]
        cut = data.rfind(b"\0")
        if cut >= 0 and len(data) - cut < _MARK_BYTES:  # this may be the beginning of a mark
            yield from self._text(data[:cut], running, False) if cut else ()
            self._rest = data[cut:]
        else:
            yield from self._text(data, running, True)

    def end(self, running: int) -> Iterator[tuple[int, str]]:
        """Yield what is left at the end of the stream."""
        rest, self._rest = self._rest, b""
        yield from self._text(rest, running, False)
        yield from self._cut_note()

    def _text(self, data: bytes, running: int, more: bool) -> Iterator[tuple[int, str]]:
        """Yield the lines of ``data``; an unfinished last line waits if ``more`` may arrive."""
        attempt = self._attempt or running
        if attempt != self.tail_of:
            yield from self._cut_note()
            self.tail.clear()
            self.tail_of, self._logged, self._dropped = attempt, 0, 0
        lines = data.split(b"\n")
        last = lines.pop()
        self._rest = b""
        if more and len(last) < LONGEST_LINE:
            self._rest = last
        elif last:
            lines.append(last)
        for line in lines:
            for start in range(0, max(1, len(line)), LONGEST_LINE):
                part = line[start : start + LONGEST_LINE]
                text = part.decode("utf-8", "backslashreplace")
                self.tail.append(text)
                if self._logged < MAX_LOGGED:
                    self._logged += len(part) + 1
                    yield attempt, text
                else:
                    self._dropped += len(part) + 1

    def _cut_note(self) -> Iterator[tuple[int, str]]:
        if self._dropped:
            yield self.tail_of, f"[… {self._dropped} more bytes of this task are not logged]"
            self._dropped = 0
