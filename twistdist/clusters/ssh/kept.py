"""One job on a host, as its parent sees it: a process of :mod:`twistdist.tap.__main__`, its output and how it ended."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from typing import Any

from twistdist.executors import launch
from twistdist.executors.launch import LEAVES, READY
from twistdist.executors.processes import exit_in_words

#: What a job and its files may be called.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"

#: Seconds between SIGTERM and SIGKILL: a worker has 10 to hand over what only it holds.
STOP_S = 20.0

#: Bounds: lines that are kept and their length, bytes of the log file.
MAX_LINES, MAX_TEXT, MAX_LOG = 1_000, 2_000, 1 << 20


def fingerprint(role: str, options: Sequence[str], files: dict[str, str]) -> str:
    """Return a digest of what makes one job different from another one of the same name."""
    return hashlib.sha256(json.dumps([role, list(options), sorted(files.items())]).encode()).hexdigest()


class Process:
    """One job: a process of :mod:`twistdist.tap.__main__`, its output, and what it says to its parent."""

    def __init__(self, name: str, owner: str, mark: str, command: list[str], folder: pathlib.Path, lock: int) -> None:
        self.name, self.owner, self.mark, self.folder = name, owner, mark, folder
        self.ready = self.leaves = ""
        self.status: int | None = None
        self.ended_at = 0.0
        self.kill_at: float | None = None  # it has been told to end
        self.remove = False  # its folder, when it has ended
        self.lines: deque[str] = deque(maxlen=MAX_LINES)
        self._line = self._word = b""
        self.words, theirs = socket.socketpair()
        self.words.setblocking(False)
        self.output, output = os.pipe()
        os.set_blocking(self.output, False)
        arguments = ["--parent-fd", str(theirs.fileno()), *command]
        try:
            self.popen = subprocess.Popen(
                launch.command("twistdist.tap.__main__", arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), lock],
                start_new_session=True,
            )
        except OSError:
            self.words.close()
            os.close(self.output)
            raise
        finally:
            theirs.close()
            os.close(output)
        (folder / "pid").write_text(f"{self.popen.pid}\n")

    @property
    def alive(self) -> bool:
        return self.status is None

    def read_output(self) -> bool:
        """Take in what it has written; return whether there may be more later."""
        for _ in range(64):  # then the others
            try:
                data = os.read(self.output, 64 << 10)
            except BlockingIOError:
                return True
            if not data:
                return False
            *lines, self._line = (self._line + data).split(b"\n")
            if len(self._line) > MAX_TEXT:
                lines, self._line = [*lines, self._line], b""
            self._keep(lines)
        return True

    def _keep(self, lines: list[bytes]) -> None:
        texts = [line.decode(errors="replace")[:MAX_TEXT] for line in lines]
        self.lines.extend(texts)
        log = self.folder / "log"
        with contextlib.suppress(OSError):  # a full disk: the latest lines are in memory
            if log.exists() and log.stat().st_size > MAX_LOG:
                log.replace(self.folder / "log.1")
            with log.open("a") as stream:
                stream.writelines(f"{text}\n" for text in texts)

    def read_words(self) -> bool:
        """Take in what it says to its parent; return whether that was anything."""
        try:
            data = self.words.recv(4096)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        *lines, self._word = (self._word + data).split(b"\n")
        for line in lines:
            word, _, text = line.decode(errors="replace").partition(" ")
            if word == READY:
                self.ready = text
            elif word == LEAVES:
                self.leaves = text
        return bool(data)

    def look(self, now: float) -> bool:
        """Return whether it has ended since the last look."""
        if self.status is not None or (status := self.popen.poll()) is None:
            return False
        while self.read_words():
            pass
        self.read_output()
        if self._line:
            self._keep([self._line])
        self.status, self.ended_at = status, now
        self.words.close()
        os.close(self.output)
        with contextlib.suppress(OSError):
            (self.folder / "pid").unlink()
        return True

    def end(self, now: float, remove: bool) -> None:
        """Send SIGTERM, once."""
        self.remove = self.remove or remove
        if self.alive and self.kill_at is None:
            self.kill_at = now + STOP_S
            self.popen.terminate()

    def state(self) -> dict[str, Any]:
        """Return what owners are sent."""
        return {
            "name": self.name,
            "owner": self.owner,
            "pid": self.popen.pid,
            "phase": "running" if self.alive else "ended",
            "ready": self.ready,
            "ok": self.status == 0,
            "why": "" if self.alive else self._why(),
        }

    def _why(self) -> str:
        assert self.status is not None
        said = next((line for line in reversed(self.lines) if line.strip()), "")
        if self.status == 0 or self.kill_at is not None:
            return f"it left: {self.leaves}" if self.leaves else "it was told to end" if self.kill_at is not None else "it left"
        return f"it ended with {exit_in_words(self.status)}" + (f": {said}" if said else "")
