"""Programs on a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading

import pyte

from tests.integration.habits import until


class Terminal:
    """A process on a terminal of its own, and what that shows.  A context manager that ends it."""

    def __init__(self, command, columns=100, lines=30, **environment):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.theirs = theirs  # kept open, so that its modes can be looked at
        self.modes = termios.tcgetattr(theirs)
        self.raw, self._screen = b"", pyte.Screen(columns, lines)
        self._stream, self._lock = pyte.ByteStream(self._screen), threading.Lock()
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm-256color", **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 65536):
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)

    def text(self):
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def shows(self, pattern):
        until(lambda: re.search(pattern, self.text()) or self.process.poll() is not None)
        assert re.search(pattern, self.text()), self.text()

    def type(self, keys):
        os.write(self._ours, keys)

    def ends(self):
        """The exit status; the modes of the terminal are as before, its screen and cursor are back."""
        status = self.process.wait(60)
        assert termios.tcgetattr(self.theirs) == self.modes
        until(lambda: self.raw.count(b"\x1b[?1049h") == self.raw.count(b"\x1b[?1049l"))
        assert self.raw.rfind(b"\x1b[?25h") >= self.raw.rfind(b"\x1b[?25l")
        return status

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        os.close(self.theirs)
        self._reader.join(60)
        os.close(self._ours)
