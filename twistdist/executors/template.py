"""The template: a small single-threaded process that forks executors and reports how each ended.  No Twisted here.

The control process starts it (``launch.py``) with the arguments CONTROL_FD STORE PAGE ENTRIES.  On the control socket (packets
of msgpack arrays) it receives

* ``["serve", …]`` with the fields of ``supervisor.TaskService``, once and first,
* ``["fork", number]`` with four descriptors: tasks, outcomes, standard output, standard error,
* ``["interrupt", number, pid]``,
* ``["path", folders]``: where executors forked from now on find uploaded modules, before all others,
* ``["preload", modules]``: import these, for all executors that are forked from now on,
* ``["plugins", pairs]``: names and files of the plugins that executors forked from now on set up,
* ``["warm"]``: tasks use clients, so executors forked from now on should have one loaded,
* ``["end", seconds]``: the control process is about to close its end; executors have this time to end by themselves,

and sends ``["started", number, pid]``, ``["refused", number, 0, why]``, ``["ended", number, pid, status]`` and
``["preloaded", 0, 0, error]``.  It kills its executors when the control process is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import os
import resource
import selectors
import signal
import socket
import sys
import time
from typing import NoReturn

import cloudpickle  # noqa: F401  imported here so that every executor has it at no cost
import msgspec
import tblib.pickling_support  # noqa: F401

from twistdist.executors import launch, packets, preparing
from twistdist.executors.child import Setup, TaskRunner
from twistdist.executors.processes import is_tracker, kill_all, kill_group, kill_orphan
from twistdist.executors.streams import Output, text_stream
from twistdist.executors.surroundings import Surroundings
from twistdist.wire import messages as m

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

#: An executor's own descriptors have this number or higher: a task that closes and opens files does not hit them by accident.
HIGH_DESCRIPTOR = 1000

#: Characters of what is reported about a plugin that could not be set up: less than fits into a pipe.
LONGEST_TROUBLE = 2_000

#: Seconds that a resource tracker of ``multiprocessing`` has to remove what its executor left behind.
TRACKER_GRACE_S = 1.0

#: What the kernel adds to an executor's badness when memory runs out: executors are killed before our other processes.
OOM_SCORE = 800


class Template:
    """The loop: requests from the control process on one side, ends of children on the other."""

    def __init__(self, control: socket.socket, store: str, page: packets.Page) -> None:
        self._control, self._store, self._page = control, store, page
        self._service: tuple[str, str, bytes, str, int, int, str] = ("", "", b"", "", 0, 0, "")
        self._folders: list[str] = []
        self._plugins: list[tuple[str, str]] = []
        self._kill_at: float | None = None
        self._children: dict[int, int] = {}  # pid to executor number
        self._trackers: dict[int, float] = {}  # pid to the time at which its grace ends
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._pid = os.getpid()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)

    def run(self) -> None:
        """Serve until the control process closes its end; then kill and reap the executors."""
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the control process acts on Ctrl-C
        self._prctl(_PR_SET_CHILD_SUBREAPER, 1)
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        serving = some_left = True
        while serving or some_left:  # each child that ends may leave its own children to us
            ends = [*self._trackers.values(), *(() if serving or self._kill_at is None else (self._kill_at,))]
            patience = min(ends) - time.monotonic() if ends else None
            ready = {key.fileobj for key, _ in selector.select(None if patience is None else max(0.0, patience))}
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            if self._control in ready and not self._request():
                serving = False
                selector.unregister(self._control)
                self._kill_at = self._kill_at or time.monotonic()
            if not serving and self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_at = None
                for pid in self._children:
                    kill_all(pid)
            some_left = self._reap()

    def _prctl(self, option: int, value: int) -> None:
        if self._libc is not None:
            self._libc.prctl(option, value)

    def _request(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 65536, 4, _CLOEXEC)
        except ConnectionResetError:
            return False
        if not data:
            return False
        word, *rest = msgspec.msgpack.decode(data)
        if word == "fork":
            self._fork(rest[0], descriptors)
        elif word == "serve":
            self._service = tuple(rest)
        elif word == "path":
            self._import_from(rest[0])
        elif word == "preload":
            error = preparing.import_all(rest[0])
            gc.collect()
            gc.freeze()
            self._say("preloaded", 0, 0, error)
        elif word == "plugins":
            self._plugins = rest[0]
        elif word == "end":
            self._kill_at = time.monotonic() + rest[0]
        elif word == "warm":
            importlib.import_module("twistdist.blocking")  # imports only; it starts nothing
            gc.freeze()
        elif rest[1] in self._children:
            os.kill(rest[1], packets.INTERRUPT_SIGNAL)
        return True

    def _import_from(self, folders: list[str]) -> None:
        sys.path[:] = [*folders, *[folder for folder in sys.path if folder not in self._folders]]
        self._folders = folders
        importlib.invalidate_caches()

    def _say(self, *words: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next read sees the end
            self._control.send(msgspec.msgpack.encode(words))

    def _reap(self) -> bool:
        """Report executors that ended and kill what their tasks left, now our children.  Return whether any child is left."""
        ended = []
        some_left = True
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                self._trackers.pop(pid, None)
                number = self._children.pop(pid, None)
                if number is not None:
                    ended.append(pid)
                    self._say("ended", number, pid, os.waitstatus_to_exitcode(status))
        except ChildProcessError:
            some_left = False
        self._kill_orphans(ended)
        return some_left

    def _kill_orphans(self, ended: list[int]) -> None:
        """Kill our children that are not executors, and the groups of executors that have ``ended``.

        A live executor reaps its own children, so these belong to dead ones.  A resource tracker that we inherit from a dead
        executor has a moment to do its work; any process that appears under that name later is not one.
        """
        try:
            with open(f"/proc/self/task/{self._pid}/children") as stream:
                orphans = {int(pid) for pid in stream.read().split()} - self._children.keys()
        except OSError:
            orphans = set()  # this system does not say
        now = time.monotonic()
        for pid in orphans:
            if ended and pid not in self._trackers and is_tracker(pid):
                self._trackers[pid] = now + TRACKER_GRACE_S
            if now >= self._trackers.get(pid, 0.0):
                self._trackers.pop(pid, None)
                kill_orphan(pid)
        for pid in ended if not self._trackers else ():
            kill_group(pid)

    def _fork(self, number: int, descriptors: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._say("refused", number, 0, str(error))
            pid = -1
        if pid == 0:
            self._become_executor(number, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._children[pid] = number
            self._say("started", number, pid)

    def _become_executor(self, number: int, descriptors: list[int]) -> NoReturn:
        """Be the child's side of the fork; never returns."""
        status = packets.EXIT_START
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(signum, signal.SIG_DFL)
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == self._pid:  # otherwise the template died before the line above
                self._prctl(_PR_SET_CHILD_SUBREAPER, 1)
                self._executor(number, descriptors).run()
                status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _executor(self, number: int, descriptors: list[int]) -> TaskRunner:
        """Make this process an executor: put descriptors where they belong, set up streams and handlers."""
        for ours in (self._control, self._wake_read, self._wake_write):
            ours.close()
        tasks, outcomes, out, err = descriptors
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        _be_taken_first()
        most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if "TWISTDIST_NOFILE" in os.environ:  # the limit at the time the worker was started
            most = int(os.environ.pop("TWISTDIST_NOFILE"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        high = max(3, min(HIGH_DESCRIPTOR, most - 64))
        executor: TaskRunner | None = None
        private = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, high) for fd in (1, 2)]
        outputs = [
            Output(fd, own, lambda: executor.attempt if executor else 0) for fd, own in zip((1, 2), private, strict=True)
        ]
        sys.stdout, sys.stderr = streams = text_stream(outputs[0]), text_stream(outputs[1])
        sys.__stdout__, sys.__stderr__ = streams  # type: ignore[misc]

        def flush() -> None:
            for stream in streams:
                try:  # noqa: SIM105  contextlib.suppress costs as much as the call, for each task
                    stream.flush()
                except (OSError, ValueError):  # the task closed it
                    pass

        self._page.clear(number)
        # The copy stays open for the life of the process: faulthandler writes to it.
        with open(packets.stack_path(self._store, number), "wb") as stream:
            self._stack = fcntl.fcntl(stream.fileno(), fcntl.F_DUPFD_CLOEXEC, high)
        faulthandler.enable(self._stack, all_threads=False)
        signal.signal(packets.INTERRUPT_SIGNAL, lambda *_: executor.on_signal() if executor else None)
        worker, address, secret, spill, most_bytes, most_left, tls = self._service
        setup = Setup(
            number,
            self._page,
            socket.socket(socket.AF_UNIX, packets.SOCKET_TYPE, fileno=_move(tasks, high)),
            _move(outcomes, high),
            self._store,
            spill,
            most_bytes,
            worker,
            address,
            secret,
            tls,
        )
        plugins = preparing.Plugins(preparing.PluginWorker(worker, address, number))
        trouble = plugins.set_up(self._plugins)
        if trouble:
            flush()
            os.write(setup.outcomes, packets.encode_outcome(m.WorkerLog("plugin", trouble[:LONGEST_TROUBLE])))
            os._exit(packets.EXIT_PLUGIN)
        surroundings = Surroundings(*streams, high, most_left, self._stack)  # after the plugins: it keeps what they have set
        executor = TaskRunner(setup, outputs, flush, surroundings, plugins.tear_down)
        return executor


def _move(descriptor: int, high: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, high)
    os.close(descriptor)
    return moved


def _be_taken_first() -> None:
    """Make the kernel kill an executor before any other process of ours when it runs out of memory."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as stream:  # not on this system
        stream.write(str(OOM_SCORE))


def main() -> None:
    """Run the template process."""
    descriptor, store, page, entries = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    del sys.argv[1:]  # none of the tasks' business
    launch.restore_path()
    control = socket.socket(socket.AF_UNIX, packets.SOCKET_TYPE, fileno=descriptor)
    try:
        the_page = packets.Page(page, entries)
    except FileNotFoundError:
        return  # the store is gone: the control process has ended, or is about to
    template = Template(control, store, the_page)
    gc.collect()
    gc.freeze()  # what exists now stays shared with the executors
    template.run()
