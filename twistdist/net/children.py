"""Processes that belong to another one: started together, heard of when ready, and gone with it.

Parent and child share a socket pair.  The child writes a line of text when it is ready, and another one when it was told to
leave and does so; each side sees the other's death as the end of the stream, however it came about.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from twistdist.executors import launch
from twistdist.executors.supervisor import Reader

#: What the child's lines begin with.
READY, LEAVES = "ready", "leaves"

#: Seconds between looks at a process whose socket is closed and that has not been reaped yet.
REAP_S = 0.01


class Child:
    """A child process with ``arguments`` for :mod:`twistdist.tap.__main__`.

    ``on_ready(text)`` is called when it is ready, ``on_leaves(why)`` when the scheduler or a client has told it to end and it
    is about to, ``on_exit(status)`` when it is gone; each at most once, in this order.  ``status`` is the exit code, negative
    for a signal.  ``descriptors`` are passed on.
    """

    def __init__(
        self,
        reactor: Any,
        arguments: Sequence[str],
        environment: dict[str, str],
        on_ready: Callable[[str], None],
        on_leaves: Callable[[str], None],
        on_exit: Callable[[int], None],
        descriptors: Sequence[int] = (),
    ) -> None:
        self._reactor, self._on_exit = reactor, on_exit
        self._on_word = {READY: on_ready, LEAVES: on_leaves}
        self._line = b""
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        command = launch.command("twistdist.tap.__main__", ["--parent-fd", str(theirs.fileno()), *arguments])
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno(), *descriptors], start_new_session=True
        )  # Ctrl-C is for the parent alone
        theirs.close()
        self._reader = Reader(self._socket.fileno(), self._readable)
        reactor.addReader(self._reader)

    @property
    def pid(self) -> int:
        return self.process.pid

    def _readable(self) -> None:
        try:
            data = self._socket.recv(4096)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            *lines, self._line = (self._line + data).split(b"\n")
            for line in lines:
                word, _, text = line.decode().partition(" ")
                self._on_word[word](text)
            return
        self._reactor.removeReader(self._reader)
        self._socket.close()
        self._reap()

    def _reap(self) -> None:
        status = self.process.poll()
        if status is None:
            self._reactor.callLater(REAP_S, self._reap)
        else:
            self._on_exit(status)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal unless the process is known to be gone."""
        if self.process.poll() is None:
            self.process.send_signal(number)


class ParentLink:
    """The child's end: ``say`` a word and a text; ``on_gone()`` is called when the parent is gone."""

    def __init__(self, reactor: Any, descriptor: int, on_gone: Callable[[], None]) -> None:
        self._reactor, self._descriptor, self._on_gone = reactor, descriptor, on_gone
        os.set_inheritable(descriptor, False)
        self._reader = Reader(descriptor, self._readable)
        reactor.addReader(self._reader)

    def say(self, word: str, text: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is seen by the next read
            os.write(self._descriptor, f"{word} {' '.join(text.splitlines())}\n".encode())

    def _readable(self) -> None:
        if not os.read(self._descriptor, 4096):
            self._reactor.removeReader(self._reader)
            self._on_gone()
