"""The template: a small single-threaded process that forks executors and tells how each ended.  No Twisted here.

Started by the control process as ``python -m twistdist.executors.template CONTROL_FD STORE PAGE SLOTS``.  On the control
socket (packets of msgpack arrays) it gets ``["fork", slot]`` with two descriptors and ``["kill", slot, pid]``, and says
``["started", slot, pid]`` and ``["ended", slot, pid, status]``.  When the control process is gone it kills its executors.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import io
import os
import selectors
import signal
import socket
import sys
from typing import NoReturn

import cloudpickle  # noqa: F401  imported here so that every executor has it for nothing
import msgspec
import tblib.pickling_support  # noqa: F401

from twistdist.executors import packets
from twistdist.executors.child import Executor

_PR_SET_PDEATHSIG = 1
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Template:
    """The loop: requests from the control process on one side, ends of children on the other."""

    def __init__(self, control: socket.socket, store: str, page: packets.Page) -> None:
        self._control, self._store, self._page = control, store, page
        self._children: dict[int, int] = {}  # pid to slot
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._pid = os.getpid()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)

    def run(self) -> None:
        """Until the control process closes its end; then the executors are killed and reaped."""
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the control process's to act on
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
                self._reap()
            if self._control in ready and not self._request():
                break
        for pid in self._children:
            self._kill(pid)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _request(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 2, _CLOEXEC)
        except ConnectionResetError:
            return False
        if not data:
            return False
        request = msgspec.msgpack.decode(data)
        if request[0] == "fork":
            self._fork(request[1], descriptors[0], descriptors[1])
        elif request[2] in self._children:
            self._kill(request[2])
        return True

    @staticmethod
    def _kill(pid: int) -> None:
        """End an executor and whatever processes its task has started."""
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):  # its group is made a moment after the fork
                end(pid, signal.SIGKILL)

    def _say(self, *words: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is seen by the next read
            self._control.send(msgspec.msgpack.encode(words))

    def _reap(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # what its task had started dies with it
                self._say("ended", self._children.pop(pid), pid, os.waitstatus_to_exitcode(status))

    def _fork(self, slot: int, tasks: int, outcomes: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._say("refused", slot, 0, str(error))
            pid = -1
        if pid == 0:
            self._become_executor(slot, tasks, outcomes)
        os.close(tasks)
        os.close(outcomes)
        if pid > 0:
            self._children[pid] = slot
            self._say("started", slot, pid)

    def _become_executor(self, slot: int, tasks: int, outcomes: int) -> NoReturn:
        """The child's side of the fork; never returns."""
        status = 1
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            if self._libc is not None:
                self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == self._pid:  # else the template died before the line above
                self._control.close()
                self._wake_read.close()
                self._wake_write.close()
                self._page.set(slot, 0)
                for stream in (sys.stdout, sys.stderr):
                    if isinstance(stream, io.TextIOWrapper):
                        stream.reconfigure(line_buffering=True)  # an executor has no orderly end to flush at
                # Kept open for the life of the process: faulthandler writes to the descriptor.
                stack = open(packets.stack_path(self._store, slot), "wb")  # noqa: SIM115
                faulthandler.enable(stack, all_threads=False)
                kind = packets.SOCKET_TYPE
                Executor(slot, self._page, socket.socket(socket.AF_UNIX, kind, fileno=tasks), outcomes, self._store).run()
                status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)


def main() -> None:
    """Entry of the process."""
    descriptor, store, page, slots = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    control = socket.socket(socket.AF_UNIX, packets.SOCKET_TYPE, fileno=descriptor)
    template = Template(control, store, packets.Page(page, slots))
    gc.collect()
    gc.freeze()  # what is here now stays shared with the executors
    template.run()


if __name__ == "__main__":
    main()
