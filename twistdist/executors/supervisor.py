"""The control process's side of its executors: carries out what the worker's core decides, and tells it what happened."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from zope.interface import implementer

from twistdist.executors import packets
from twistdist.wire import messages as m
from twistdist.wire.framing import FrameReader

#: An executor whose outcomes come faster than this, and that has more to do, is read again only after a pause: one wake-up
#: for many outcomes (tasks of 1 ms on two busy cores: 75 instead of 64 % of ideal).  Shorter than the work it is given ahead.
BUSY_S = 0.004
PAUSE_S = 0.002

#: Forks asked for and not yet answered: each lies in the template's socket with two descriptors.
MOST_FORKING = 32

#: Pause before another template is started, in seconds.
TEMPLATE_PAUSE_S = 0.2

#: Environment variables by which numeric libraries are told how many threads to use.
THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

#: Longest Python stack that is taken over from a process that died.
MOST_STACK_BYTES = 16 << 10

_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)


class Listener(Protocol):
    """What the supervisor tells: events of the worker's core."""

    def executor_started(self, slot: int) -> None: ...

    def executor_outcomes(self, slot: int, outcomes: list[Any]) -> None: ...

    def executor_ended(self, slot: int, exit: str, detail: str, running: int, blame: bool) -> None: ...

    def taken_back(self, slot: int, attempts: list[int]) -> None: ...


def exit_in_words(status: int) -> str:
    """How a process ended, for people; ``status`` as of ``os.waitstatus_to_exitcode``."""
    if status >= 0:
        return f"exit code {status}"
    try:
        number = signal.Signals(-status)
    except ValueError:
        return f"signal {-status}"
    return f"{number.name} ({signal.strsignal(number)})"


@implementer(IReadDescriptor)
class Reader:
    """Calls ``ready`` when ``descriptor`` can be read."""

    def __init__(self, descriptor: int, ready: Callable[[], None]) -> None:
        self._descriptor, self._ready = descriptor, ready

    def fileno(self) -> int:
        return self._descriptor

    def logPrefix(self) -> str:
        return "executors"

    def doRead(self) -> None:
        self._ready()

    def connectionLost(self, reason: Any) -> None:
        """The reactor stops."""


@implementer(IWriteDescriptor)
class Writer(Reader):
    """Calls ``ready`` when ``descriptor`` can be written."""

    def doWrite(self) -> None:
        self._ready()


@attrs.define(eq=False)
class _Executor:
    """One executor process, or one that is being forked (``pid`` 0).  ``expected`` outcomes are to come."""

    slot: int
    tasks: socket.socket
    far_end: socket.socket
    outcomes: int
    reader: Reader | None = None
    writer: Writer | None = None
    frames: FrameReader = attrs.field(factory=FrameReader)
    pid: int = 0
    killed_for: int = 0
    expected: int = 0
    read_at: float = 0.0
    backlog: deque[tuple[bytes, list[int]]] = attrs.field(factory=deque)
    files: list[str] = attrs.field(factory=list)


class Supervisor:
    """Owns the template process and the executors.  ``reactor`` is the one the worker runs on; ``store`` its folder."""

    _log = Logger()

    def __init__(self, reactor: Any, store: str, slots: int, listener: Listener) -> None:
        self._reactor, self._store, self._slots, self._listener = reactor, store, slots, listener
        self._page_path = f"{store}/.page"
        self._page = packets.Page(self._page_path, slots, create=True)
        self._executors: dict[int, _Executor] = {}
        self._template: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._control_reader: Reader | None = None
        self._packet_files = 0
        self._forking = 0
        self._forks_waiting: deque[int] = deque()
        self._stopped = False

    # ---- template ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the template; executors are forked by ``start_executor``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, packets.SOCKET_TYPE)
        command = [sys.executable, "-m", "twistdist.executors.template",
                   str(theirs.fileno()), self._store, self._page_path, str(self._slots)]  # fmt: skip
        # Slots are what says how much runs at a time; libraries that start a thread for each processor would multiply it.
        environment = {**dict.fromkeys(THREAD_COUNTS, "1"), **os.environ}
        self._template = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment,
                                          start_new_session=True)  # fmt: skip
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        self._forking = 0
        self._control_reader = Reader(ours.fileno(), self._template_says)
        self._reactor.addReader(self._control_reader)

    def _template_says(self) -> None:
        assert self._control is not None
        while True:
            try:
                data = self._control.recv(4096)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self._template_lost()
                return
            word, slot, pid, *rest = msgspec.msgpack.decode(data)
            executor = self._executors.get(slot)
            if word in ("started", "refused"):
                self._forking -= 1
                self._fork_waiting()
            if executor is None:
                continue
            if word == "started":
                executor.pid = pid
                self._listener.executor_started(slot)
            else:
                exit = exit_in_words(rest[0]) if word == "ended" else f"it could not be forked: {rest[0]}"
                self._ended(executor, exit, "")

    def _template_lost(self) -> None:
        """The template died, and the kernel has killed its executors with it: start again."""
        assert self._control is not None and self._template is not None
        self._reactor.removeReader(self._control_reader)
        self._control.close()
        self._control = None
        exit = exit_in_words(self._template.wait())
        if self._stopped:
            return
        self._log.error("the executors' template died ({exit}); another is started", exit=exit)
        self._forks_waiting.clear()
        for executor in list(self._executors.values()):
            self._ended(executor, f"its template died ({exit})", "", blame=False)
        self._reactor.callLater(TEMPLATE_PAUSE_S, self._restart_template)

    def _restart_template(self) -> None:
        if not self._stopped:
            self.start()

    def stop(self) -> None:
        """End the template and with it every executor, and wait until they are gone."""
        self._stopped = True
        for executor in list(self._executors.values()):
            self._close(executor)
        self._executors.clear()
        if self._control is not None:
            self._reactor.removeReader(self._control_reader)
            self._control.close()
            self._control = None
        if self._template is not None:
            self._template.wait()

    # ---- executors --------------------------------------------------------------------------

    def start_executor(self, slot: int, delay: float) -> None:
        """Have an executor forked for the slot after ``delay`` seconds."""
        if delay or self._control is None:
            self._reactor.callLater(max(delay, 0.01), self._fork, slot)
        else:
            self._fork(slot)

    def _fork(self, slot: int) -> None:
        if self._stopped:
            return
        if self._control is None:  # between two templates
            self._reactor.callLater(TEMPLATE_PAUSE_S, self._fork, slot)
            return
        if self._forking >= MOST_FORKING:
            self._forks_waiting.append(slot)
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, packets.SOCKET_TYPE)
        ours.setblocking(False)
        outcomes, outcomes_end = os.pipe()
        os.set_blocking(outcomes, False)
        if _F_SETPIPE_SZ is not None:
            try:
                fcntl.fcntl(outcomes, _F_SETPIPE_SZ, _PIPE_BYTES)
            except OSError as error:  # over the user's limit: the default size works, with more wake-ups
                self._log.debug("the pipe of an executor stays small: {error}", error=error)
        executor = _Executor(slot, ours, theirs, outcomes)
        self._executors[slot] = executor
        executor.reader = Reader(outcomes, lambda: self._readable(executor))
        executor.writer = Writer(ours.fileno(), lambda: self._send_backlog(executor))
        self._reactor.addReader(executor.reader)
        self._forking += 1
        try:
            socket.send_fds(self._control, [msgspec.msgpack.encode(("fork", slot))], [theirs.fileno(), outcomes_end])
        except OSError as error:
            self._log.debug("the template is gone, which its socket will tell: {error}", error=error)
        os.close(outcomes_end)

    def _fork_waiting(self) -> None:
        if self._forks_waiting:
            self._fork(self._forks_waiting.popleft())

    def _close(self, executor: _Executor) -> None:
        self._reactor.removeReader(executor.reader)
        self._reactor.removeWriter(executor.writer)
        executor.tasks.close()
        executor.far_end.close()
        os.close(executor.outcomes)
        executor.outcomes = -1
        for path in executor.files:
            if os.path.exists(path):
                os.unlink(path)

    def _ended(self, executor: _Executor, exit: str, detail: str, blame: bool = True) -> None:
        """What it wrote before it died comes first; then the page says what it was running."""
        self._read(executor)
        running = self._page.get(executor.slot)
        if executor.killed_for not in (0, running):
            running = 0  # our kill came a moment late and hit the next task, which is innocent
        self._close(executor)
        detail = detail or self._stack(executor.slot)
        if self._executors.get(executor.slot) is executor:
            del self._executors[executor.slot]
        self._listener.executor_ended(executor.slot, exit, detail, running, blame)

    def _stack(self, slot: int) -> str:
        """What faulthandler wrote when the slot's executor was ended by a signal; "" when it could not."""
        path = packets.stack_path(self._store, slot)
        if not os.path.exists(path):
            return ""
        with open(path, "rb") as stream:
            return stream.read(MOST_STACK_BYTES).decode("utf-8", "replace").strip()

    # ---- outcomes ---------------------------------------------------------------------------

    def _readable(self, executor: _Executor) -> None:
        now = self._reactor.seconds()
        if not self._read(executor):
            self._reactor.removeReader(executor.reader)  # its end is closed; the template will say why
        elif executor.expected and now - executor.read_at < BUSY_S:
            self._reactor.removeReader(executor.reader)
            self._reactor.callLater(PAUSE_S, self._read_again, executor)
        executor.read_at = now

    def _read_again(self, executor: _Executor) -> None:
        if executor.outcomes >= 0:
            self._reactor.addReader(executor.reader)
            self._readable(executor)

    def _read(self, executor: _Executor) -> bool:
        """Deliver what there is; False when the other end is closed."""
        outcomes: list[Any] = []
        open_still = True
        while True:
            try:
                data = os.read(executor.outcomes, _PIPE_BYTES)
            except BlockingIOError:
                break
            if not data:
                open_still = False
                break
            outcomes += [packets.decode_outcome(body) for body in executor.frames.feed(data)]
            if len(data) < 4096:
                break  # the pipe is empty, most likely; the reactor tells if not
        if outcomes:
            executor.expected -= len(outcomes)
            self._listener.executor_outcomes(executor.slot, outcomes)
        return open_still

    # ---- tasks ------------------------------------------------------------------------------

    def give(self, slot: int, messages: list[Any]) -> None:
        """Send messages to an executor in as few packets as their sizes allow."""
        executor = self._executors[slot]
        data = packets.encode_packet(messages)
        if len(data) <= packets.PACKET_BYTES:
            self._send(executor, data, messages)
        elif len(messages) > 1:
            half = len(messages) // 2
            self.give(slot, messages[:half])
            self.give(slot, messages[half:])
        else:
            self._packet_files += 1
            path = f"{self._store}/.packet-{slot}-{self._packet_files}"
            with open(path, "wb") as stream:
                stream.write(data)
            executor.files = [one for one in executor.files if os.path.exists(one)] + [path]
            self._send(executor, packets.encode_packet([packets.PacketFile(path)]), messages)

    def _send(self, executor: _Executor, data: bytes, messages: list[Any]) -> None:
        attempts = [one.attempt for one in messages if isinstance(one, m.Compute)]
        executor.expected += len(attempts)
        executor.backlog.append((data, attempts))
        if len(executor.backlog) == 1:
            self._send_backlog(executor)

    def _send_backlog(self, executor: _Executor) -> None:
        while executor.backlog:
            try:
                executor.tasks.send(executor.backlog[0][0])
            except BlockingIOError:
                self._reactor.addWriter(executor.writer)
                return
            except (BrokenPipeError, ConnectionResetError):
                return  # it is dead: the template will say so
            executor.backlog.popleft()
        self._reactor.removeWriter(executor.writer)

    def take_back(self, slot: int) -> None:
        """Take out of the socket what the executor has not read; the listener's ``taken_back`` hears what it was."""
        executor = self._executors.get(slot)
        attempts: list[int] = []
        if executor is not None:
            while True:
                try:
                    data = executor.far_end.recv(packets.RECEIVE_BYTES, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                attempts += self._attempts_in(packets.decode_packet(data))
            for _, unsent in executor.backlog:
                attempts += unsent
            executor.backlog.clear()
            executor.expected -= len(attempts)
        self._listener.taken_back(slot, attempts)

    def _attempts_in(self, content: list[Any]) -> list[int]:
        attempts = []
        for message in content:
            if isinstance(message, packets.PacketFile):
                with open(message.path, "rb") as stream:
                    data = stream.read()
                os.unlink(message.path)
                attempts += self._attempts_in(packets.decode_packet(data))
            elif isinstance(message, m.Compute):
                attempts.append(message.attempt)
        return attempts

    def interrupt(self, slot: int, attempt: int) -> None:
        """Kill the slot's executor if it is running ``attempt`` now (0: whatever it runs)."""
        executor = self._executors.get(slot)
        if executor is None or not executor.pid or self._control is None:
            return
        if attempt in (0, self._page.get(slot)):
            executor.killed_for = attempt
            try:
                self._control.send(msgspec.msgpack.encode(("kill", slot, executor.pid)))
            except OSError as error:
                self._log.debug("the template is gone, and with it the executor: {error}", error=error)
