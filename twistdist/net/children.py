"""Processes that belong to a parent process: it starts them, they report when they are ready, and they end when it ends.

Parent and child share a socket pair.  The child writes a line of text when it is ready, and another when it leaves because it
was told to.  Each side sees the other's death, whatever the cause, as the end of the stream.
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
from twistdist.executors.launch import LEAVES, READY
from twistdist.executors.supervisor import Reader

#: Seconds between polls of a process whose socket is closed and that has not been reaped yet.
REAP_S = 0.01


class Child:
    """A child process with ``arguments`` for :mod:`twistdist.tap.__main__`.

    ``on_ready(text)`` is called when the child is ready, ``on_leaves(why)`` when the scheduler or a client has told it to end
    and it is about to do so, and ``on_exit(status)`` when it has ended; each at most once, in this order.  ``status`` is the
    exit code, negative for a signal.  The child inherits ``descriptors``.
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
        )  # Ctrl-C must reach the parent alone
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
        """Send a signal unless the process is known to have ended."""
        if self.process.poll() is None:
            self.process.send_signal(number)


class ParentLink:
    """The child's end: ``say`` sends a word and a text; ``on_gone()`` is called when the parent has ended."""

    def __init__(self, reactor: Any, descriptor: int, on_gone: Callable[[], None]) -> None:
        self._reactor, self._descriptor, self._on_gone = reactor, descriptor, on_gone
        os.set_inheritable(descriptor, False)
        self._reader = Reader(descriptor, self._readable)
        reactor.addReader(self._reader)

    def say(self, word: str, text: str) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next read sees that the parent has ended
            os.write(self._descriptor, f"{word} {' '.join(text.splitlines())}\n".encode())

    def _readable(self) -> None:
        if not os.read(self._descriptor, 4096):
            self._reactor.removeReader(self._reader)
            self._on_gone()
