"""The control process's side of its executors: carries out what the worker's core decides, and reports back what happened."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import itertools
import operator
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.interfaces import IReadDescriptor, IWriteDescriptor
from twisted.logger import Logger
from zope.interface import implementer

from twistdist.errors import ProtocolError
from twistdist.executors import launch, packets
from twistdist.executors.preparing import TEARDOWN_S
from twistdist.executors.processes import exit_in_words, kernel_kills, kill_all, memory_of, state_of
from twistdist.executors.streams import Lines
from twistdist.wire import messages as m
from twistdist.wire.framing import FrameReader

#: Seconds.  An executor whose outcomes arrive faster than ``BUSY_S``, and that has more to do, is read again only after
#: ``PAUSE_S``: one wake-up for many outcomes.  (Tasks of 1 ms on two busy cores: 64 % of ideal without a pause, 73 with 2 ms,
#: 77 with 5 ms.)  A third of the work that it is given in advance.
BUSY_S = 0.010
PAUSE_S = 0.005

#: Forks requested and not yet answered: each occupies the template's socket with its descriptors.
MAX_FORKING = 32

#: First and longest pause before another template is started, in seconds: doubled each time that a template died without
#: having started an executor.
TEMPLATE_PAUSE_S, LONGEST_TEMPLATE_PAUSE_S = 0.2, 10.0

#: Seconds that the template has to answer before it is considered stuck, and seconds that it has to end at shutdown.  One that
#: could run or waits for its disk is not stuck but waits for its turn, on a machine with more to do than it can: it has longer.
TEMPLATE_PATIENCE_S, STOP_S = 5.0, 5.0
TURN_S, TURNS = 60.0, ("R", "D")

#: Seconds that the import of preloaded modules may take: even that of large ones from a slow network file system ends earlier.
PRELOAD_S = 600.0

#: Bytes of output read from an executor at a time, and the number of attempts whose keys are remembered for late lines.
OUTPUT_BYTES = 64 << 10
MAX_KEYS = 2_000

#: Environment variables that tell numeric libraries how many threads to use, each with the variables that the library reads
#: instead, in this order, if its own is not set.
THREAD_COUNTS = {
    "OMP_NUM_THREADS": (),
    "MKL_NUM_THREADS": ("OMP_NUM_THREADS",),
    "OPENBLAS_NUM_THREADS": ("GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "BLIS_NUM_THREADS": ("OMP_NUM_THREADS",),
    "NUMEXPR_NUM_THREADS": ("OMP_NUM_THREADS",),
    "NUMBA_NUM_THREADS": (),
    "VECLIB_MAXIMUM_THREADS": (),
}

#: An executor that could not be started at all.
NOT_STARTED = "not started"

#: How executors end: by themselves with status 0 or another one, by a signal of others, killed by us or for lack of memory.
DEATHS = ("ended", "exit code", "signal", "killed", "out of memory", "template died", NOT_STARTED)

#: The files with the functions that call a task's function.
_CALLERS = tuple(os.path.join("twistdist", "executors", name) for name in ("child.py", "surroundings.py"))

#: Bytes that are read of the Python stack that a dead process left.
MAX_STACK_BYTES = 16 << 10

_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)


class Listener(Protocol):
    """Receives the supervisor's reports: events of the worker's core."""

    def executor_started(self, number: int) -> None: ...

    def executor_outcomes(self, number: int, outcomes: list[Any]) -> None: ...

    def executor_ended(
        self, number: int, exit: str, detail: str = "", running: int = 0, blame: bool = True, when: str = "", us: int = 0
    ) -> None: ...

    def taken_back(self, number: int, attempts: list[int], running: int) -> None: ...

    def preloaded(self, error: str, first: bool) -> None: ...


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
        """Do nothing: the reactor is stopping."""


@implementer(IWriteDescriptor)
class Writer(Reader):
    """Calls ``ready`` when ``descriptor`` can be written."""

    def doWrite(self) -> None:
        self._ready()


@attrs.define(eq=False)
class _Stream:
    """The reading end of an executor's standard output or error."""

    descriptor: int
    name: str
    lines: Lines = attrs.field(factory=Lines)
    reader: Reader | None = None


@attrs.define(eq=False)
class _Executor:
    """One executor process, or one that is being forked (``pid`` 0).  ``expected`` outcomes are still due."""

    number: int
    tasks: socket.socket
    far_end: socket.socket
    outcomes: int
    streams: list[_Stream]
    reader: Reader | None = None
    writer: Writer | None = None
    frames: FrameReader = attrs.field(factory=FrameReader)
    pid: int = 0
    killed_for: int = 0
    expected: int = 0
    read_at: float = 0.0
    backlog: deque[tuple[bytes, list[int]]] = attrs.field(factory=deque)
    files: list[str] = attrs.field(factory=list)
    keys: dict[int, str] = attrs.field(factory=dict)
    closed: bool = False
    garbled: bool = False
    trouble: str = ""


@attrs.frozen
class TaskService:
    """What executors are told about their worker: its name, the scheduler's ``address`` and the ``secret`` (for a task's own
    client), the ``spill`` folder for results that do not fit in the store or are larger than ``most`` bytes, and how many bytes
    an executor may keep between two tasks (``most_left``, 0: no bound).  ``tls`` is the folder of certificates, or ""."""

    worker: str
    address: str
    secret: bytes
    spill: str = ""
    most: int = 0
    most_left: int = 0
    tls: str = ""


#: The log for the output of tasks, with its own namespace so that it can be shown when the rest is not.  ``output`` is what was
#: printed, ``text`` the same with a prefix for each line but the first.
_OUTPUT = Logger(namespace="twistdist.tasks")

#: The value of ``killed_for`` if no particular attempt is meant.
_NO_ATTEMPT = -1

_ENDS = frozenset({m.Done, m.Failed, m.InputLost})


class Supervisor:
    """Owns the template process and the executors.  ``reactor`` is the one that the worker runs on, ``store`` is the worker's
    folder, and executors have numbers below ``entries``.  Each template first imports the modules ``preload``; then the
    listener's ``preloaded`` is called.  If the ``first`` template can't import them, no other is started; if a later one can't,
    it is replaced like one that died."""

    _log = Logger()

    def __init__(
        self, reactor: Any, store: str, entries: int, listener: Listener, service: TaskService, preload: Sequence[str] = ()
    ) -> None:
        self._reactor, self._store, self._listener, self._service = reactor, store, listener, service
        self._page_path, self._entries = f"{store}/.page", entries
        self._page = packets.Page(self._page_path, self._entries, create=True)
        self._executors: dict[int, _Executor] = {}
        self._template: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._control_reader: Reader | None = None
        self._packet_files = 0
        self._forking = 0
        self._forks_waiting: deque[int] = deque()
        self._templates_failed = 0
        self._kernel_kills = kernel_kills()
        self._warm = self._stopped = self._template_owes = False
        self._import_from: list[str] = []
        self._plugins: list[tuple[str, str]] = []
        self._preload, self._preloading, self._preloaded = list(preload), False, False
        self._why_not_preloaded = ""
        self._preload_limit: Any = None
        self._watching: Any = None
        self._owes_since = 0.0
        self.deaths = dict.fromkeys(DEATHS, 0)  #: how many executors have ended, by kind

    # ---- template ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the template.  ``start_executor`` has executors forked from it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, packets.SOCKET_TYPE)
        command = launch.command(
            "twistdist.executors.template", [str(theirs.fileno()), self._store, self._page_path, str(self._entries)]
        )
        environment = {**thread_counts(os.environ), **os.environ}
        self._template = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment, start_new_session=True
        )
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        self._forking = 0
        self._control_reader = Reader(ours.fileno(), self._template_says)
        self._reactor.addReader(self._control_reader)
        self._tell_template("serve", *attrs.astuple(self._service))
        if self._warm:
            self._tell_template("warm")
        if self._import_from:
            self._tell_template("path", self._import_from)
        if self._preload:
            self._preloading, self._why_not_preloaded = True, ""
            why = f"{', '.join(self._preload)} took longer than {PRELOAD_S:g} s"
            self._preload_limit = self._reactor.callLater(PRELOAD_S, self._not_preloaded, why)
            self._tell_template("preload", self._preload)
        if self._plugins:
            self._tell_template("plugins", self._plugins)

    def _expect_template(self) -> None:
        """Expect a message from the template soon: that an executor has started or ended."""
        if not self._template_owes:
            self._template_owes, self._owes_since = True, self._reactor.seconds()
            if self._watching is None or not self._watching.active():
                self._watching = self._reactor.callLater(TEMPLATE_PATIENCE_S, self._look_at_template)

    def _look_at_template(self) -> None:
        """Kill a template that owes an answer: a task may have stopped it, and then it would start and reap nothing more."""
        if not self._template_owes or self._template is None or self._stopped:
            return
        left = self._owes_since + TEMPLATE_PATIENCE_S - self._reactor.seconds()
        if left > 0.001:  # it has answered in the meantime, and owes another answer
            self._watching = self._reactor.callLater(left, self._look_at_template)
        elif left > TEMPLATE_PATIENCE_S - TURN_S and state_of(self._template.pid) in TURNS:
            self._watching = self._reactor.callLater(TEMPLATE_PATIENCE_S / 5, self._look_at_template)
        else:
            self._log.error("the executors' template does not answer; replacing it", worker=self._service.worker)
            self._template.kill()

    def _tell_template(self, *words: object) -> None:
        if self._control is not None:
            try:
                self._control.send(msgspec.msgpack.encode(words))
            except OSError as error:
                self._log.debug("the template is gone, as its socket is about to show: {error}", error=error)

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
            word, number, pid, *rest = msgspec.msgpack.decode(data)
            if word == "preloaded":
                self._watch_preload_no_more()
                if rest[0]:
                    self._not_preloaded(rest[0])
                else:
                    self._have_preloaded()
                continue
            executor = self._executors.get(number)
            self._template_owes = False
            if word in ("started", "refused"):
                self._forking -= 1
                self._fork_waiting()
            if executor is None:
                continue
            if word == "started":
                executor.pid = pid
            elif word == "ended":
                self._ended(executor, *self._how(executor, rest[0]))
            else:
                self._ended(executor, f"it could not be forked: {rest[0]}", NOT_STARTED)

    def _how(self, executor: _Executor, status: int) -> tuple[str, str]:
        """Describe how an executor ended and, as far as that is known, who sent SIGKILL: in words, and as a kind."""
        words = exit_in_words(status)
        if executor.trouble:
            return executor.trouble, "exit code"
        if executor.garbled:
            return "the task wrote into its executor's own pipe and was killed", "killed"
        if status != -signal.SIGKILL:
            return words, "ended" if status == 0 else "exit code" if status > 0 else "signal"
        before, self._kernel_kills = self._kernel_kills, kernel_kills()
        if executor.killed_for:
            return f"{words} by its worker", "killed"
        if self._kernel_kills > before:
            return f"{words} by the kernel, which was out of memory", "out of memory"
        return f"{words} by a process that is not ours", "signal"

    def _watch_preload_no_more(self) -> None:
        if self._preload_limit is not None and self._preload_limit.active():
            self._preload_limit.cancel()

    def _have_preloaded(self) -> None:
        self._preloading = False
        first, self._preloaded = not self._preloaded, True
        self._listener.preloaded("", first)

    def _not_preloaded(self, why: str) -> None:
        """End a template that could not import the modules, or takes too long."""
        assert self._template is not None
        self._why_not_preloaded = why
        kill_all(self._template.pid)

    def _template_lost(self) -> None:
        """Start another template: this one died, and the kernel killed its executors with it."""
        assert self._control is not None and self._template is not None
        self._reactor.removeReader(self._control_reader)
        self._control.close()
        self._control = None
        self._template_owes = False
        exit = exit_in_words(self._template.wait())
        if self._stopped:
            return
        if self._preloading:
            self._preloading = False
            self._watch_preload_no_more()
            died = f"the process that imports {', '.join(self._preload)} died: {exit}"
            self._listener.preloaded(self._why_not_preloaded or died, not self._preloaded)
            if not self._preloaded:
                return
        else:
            self._log.error("the executors' template died ({exit}); starting another", exit=exit, worker=self._service.worker)
        self._templates_failed += 1
        for executor in list(self._executors.values()):
            if executor.pid:  # the kernel killed it, but not what its task started
                kill_all(executor.pid)
            self._ended(executor, f"its template died ({exit})", "template died", blame=False)
        waiting, self._forks_waiting = self._forks_waiting, deque()
        self.deaths[NOT_STARTED] += len(waiting)
        for number in waiting:
            self._listener.executor_ended(number, f"its template died ({exit})")
        pause = min(LONGEST_TEMPLATE_PAUSE_S, TEMPLATE_PAUSE_S * 2 ** (min(self._templates_failed, 10) - 1))
        self._reactor.callLater(pause, self._restart_template)

    def _restart_template(self) -> None:
        if not self._stopped:
            self.start()

    def stop(self) -> None:
        """End the template and all executors, and wait until they are gone."""
        self._stopped = True
        if self._plugins:
            self._let_plugins_end()
        for executor in list(self._executors.values()):
            self._close(executor)
        self._executors.clear()
        if self._control is not None:
            self._reactor.removeReader(self._control_reader)
            self._control.close()
            self._control = None
        if self._watching is not None and self._watching.active():
            self._watching.cancel()
        self._watch_preload_no_more()
        if self._template is not None:
            try:
                self._template.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._template.kill()
                self._template.wait()

    def _let_plugins_end(self) -> None:
        """Give executors that are idle the time to tear down their plugins; the others are killed."""
        self._tell_template("end", TEARDOWN_S)
        for executor in self._executors.values():
            if executor.pid and executor.expected > 0:
                kill_all(executor.pid)
            else:
                self.end_executor(executor.number)

    def use_plugins(self, plugins: list[tuple[str, str]]) -> None:
        """Have executors that are forked from now on set up these plugins: pairs of a name and a file."""
        self._plugins = plugins
        self._tell_template("plugins", plugins)

    def import_from(self, folders: list[str]) -> None:
        """Have executors that are forked from now on import from these folders before all others."""
        self._import_from = folders
        self._tell_template("path", folders)

    # ---- executors --------------------------------------------------------------------------

    def start_executor(self, number: int, delay: float) -> None:
        """Have executor ``number`` forked after ``delay`` seconds."""
        if delay or self._control is None:
            self._reactor.callLater(max(delay, 0.01), self._fork, number)
        else:
            self._fork(number)

    def _fork(self, number: int) -> None:
        if self._stopped:
            return
        if self._control is None or self._preloading:  # between two templates
            self._reactor.callLater(TEMPLATE_PAUSE_S, self._fork, number)
            return
        if self._forking >= MAX_FORKING:
            self._forks_waiting.append(number)
            return
        self._page.clear(number)
        try:
            executor, far_ends = self._prepare(number)
        except OSError as error:  # most likely out of descriptors
            self.deaths[NOT_STARTED] += 1
            self._reactor.callLater(0, self._listener.executor_ended, number, f"it could not be forked: {error}")
            return
        self._executors[number] = executor
        executor.reader = Reader(executor.outcomes, lambda: self._readable(executor))
        executor.writer = Writer(executor.tasks.fileno(), lambda: self._send_backlog(executor))
        self._reactor.addReader(executor.reader)
        for stream in executor.streams:
            self._listen_to(executor, stream)
        self._forking += 1
        try:
            socket.send_fds(self._control, [msgspec.msgpack.encode(("fork", number))], far_ends)
            self._expect_template()
        except OSError as error:
            self._log.debug("the template is gone, as its socket is about to show: {error}", error=error)
        for descriptor in far_ends[1:]:
            os.close(descriptor)

    @staticmethod
    def _prepare(number: int) -> tuple[_Executor, list[int]]:
        """Open the socket and the pipes of a new executor.  Return it with the descriptors of the far ends."""
        opened: list[int] = []
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, packets.SOCKET_TYPE)
            ours.setblocking(False)
            for _ in range(3):
                opened += os.pipe()
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        outcomes, outcomes_end, out, out_end, err, err_end = opened
        for descriptor in (outcomes, out, err):
            os.set_blocking(descriptor, False)
        if _F_SETPIPE_SZ is not None:
            with contextlib.suppress(OSError):  # above the user's limit: the default size works too, with more wake-ups
                fcntl.fcntl(outcomes, _F_SETPIPE_SZ, _PIPE_BYTES)
        streams = [_Stream(out, "stdout"), _Stream(err, "stderr")]
        return _Executor(number, ours, theirs, outcomes, streams), [theirs.fileno(), outcomes_end, out_end, err_end]

    def end_executor(self, number: int) -> None:
        """Let an executor that has nothing to do end: it sees the end of its socket."""
        executor = self._executors.get(number)
        if executor is not None:
            with contextlib.suppress(OSError):  # it is already gone
                executor.tasks.shutdown(socket.SHUT_WR)

    def _fork_waiting(self) -> None:
        if self._forks_waiting:
            self._fork(self._forks_waiting.popleft())

    def _close(self, executor: _Executor) -> None:
        self._reactor.removeReader(executor.reader)
        self._reactor.removeWriter(executor.writer)
        for stream in executor.streams:
            self._reactor.removeReader(stream.reader)
        executor.closed = True
        # In the reactor's next turn: it may hold an event for one of these numbers, which would reach the number's next owner.
        self._reactor.callLater(0, _close_all, executor)
        for path in executor.files:
            if os.path.exists(path):
                os.unlink(path)

    def _ended(self, executor: _Executor, exit: str, kind: str, blame: bool = True) -> None:
        """Report the end of an executor: first deliver what it wrote before it died, then ask the page what it was running."""
        self.deaths[kind] += 1
        self._read(executor)
        running, began = self._page.get(executor.number) if executor.pid else (0, 0)
        for stream in executor.streams:
            self._read_stream(executor, stream, running)
            self._log_lines(executor, stream, stream.lines.end(running))
        if executor.killed_for not in (0, running):
            running = 0  # our kill was a moment late and hit the next task, which is innocent
        self._close(executor)
        if self._executors.get(executor.number) is executor:
            del self._executors[executor.number]
        when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        us = max(0, time.perf_counter_ns() - began) // 1000 if running else 0
        blame = blame and not self._page.threads_left(executor.number)
        self._listener.executor_ended(executor.number, exit, self._last_words(executor, running), running, blame, when, us)

    def _last_words(self, executor: _Executor, running: int) -> str:
        """Return the Python stack that faulthandler wrote, and the last lines of the task's standard error."""
        parts = []
        path = packets.stack_path(self._store, executor.number)
        with contextlib.suppress(OSError), open(path, "rb") as file:  # if there is none, nothing is known
            parts.append(_users_part(file.read(MAX_STACK_BYTES).decode("utf-8", "replace").strip()))
        lines = executor.streams[1].lines
        if running and lines.tail_of == running and lines.tail:
            parts.append("Last lines of its standard error:\n" + "\n".join(f"  {line}" for line in lines.tail))
        return "\n".join(part for part in parts if part)

    # ---- output -----------------------------------------------------------------------------

    def _listen_to(self, executor: _Executor, stream: _Stream) -> None:
        stream.reader = Reader(stream.descriptor, lambda: self._output_came(executor, stream))
        self._reactor.addReader(stream.reader)

    def _output_came(self, executor: _Executor, stream: _Stream) -> None:
        if not self._read_stream(executor, stream, self._page.get(executor.number)[0], once=True):
            self._reactor.removeReader(stream.reader)  # every writer is gone

    def _read_stream(self, executor: _Executor, stream: _Stream, running: int, once: bool = False) -> bool:
        """Log what can be read.  Return False when the other end is closed."""
        for _ in range(1 if once else 32):  # a dead task's children may still be writing
            try:
                data = os.read(stream.descriptor, OUTPUT_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._log_lines(executor, stream, stream.lines.feed(data, running))
        return True

    def _log_lines(self, executor: _Executor, stream: _Stream, lines: Iterable[tuple[int, str]]) -> None:
        for attempt, some in itertools.groupby(lines, operator.itemgetter(0)):
            key = executor.keys.get(attempt, "")
            who = key or (f"attempt {attempt}" if attempt else "an executor")
            printed = [line for _, line in some]  # one event for many lines
            _OUTPUT.info(
                "{who} {stream}: {text}",
                who=who,
                stream=stream.name,
                text=f"\n{who} {stream.name}: ".join(printed),
                output="\n".join(printed),
                key=key,
                attempt=attempt,
                worker=self._service.worker,
            )

    # ---- outcomes ---------------------------------------------------------------------------

    def _readable(self, executor: _Executor) -> None:
        now = self._reactor.seconds()
        if not self._read(executor):
            self._reactor.removeReader(executor.reader)  # the other end is closed; the template will say why
        elif executor.expected and now - executor.read_at < BUSY_S:
            self._reactor.removeReader(executor.reader)
            self._reactor.callLater(PAUSE_S, self._read_again, executor)
        executor.read_at = now

    def _read_again(self, executor: _Executor) -> None:
        if not executor.closed:
            self._reactor.addReader(executor.reader)
            self._readable(executor)

    def _read(self, executor: _Executor) -> bool:
        """Deliver the outcomes that can be read.  Return False when the other end is closed."""
        outcomes: list[Any] = []
        open_still = True
        while not executor.garbled:
            try:
                data = os.read(executor.outcomes, _PIPE_BYTES)
            except BlockingIOError:
                break
            if not data:
                open_still = False
                break
            try:
                outcomes += [packets.decode_outcome(body) for body in executor.frames.feed(data)]
            except ProtocolError:
                self._is_garbled(executor)
                open_still = False
                break
            if len(data) < 4096:
                break  # most likely the pipe is empty; if not, the reactor calls again
        if outcomes and type(outcomes[0]) is m.WorkerLog:
            executor.trouble = outcomes[0].text
            outcomes.clear()
        if outcomes and type(outcomes[0]) is m.Started:
            del outcomes[0]
            self._templates_failed = 0
            self._listener.executor_started(executor.number)
        if outcomes:
            for outcome in outcomes:
                executor.expected -= len(outcome.unstarted) if type(outcome) is m.Waits else type(outcome) in _ENDS
            if any(type(outcome) is m.UsesClient for outcome in outcomes):
                outcomes = [outcome for outcome in outcomes if type(outcome) is not m.UsesClient]
                self._warm_up()
            self._listener.executor_outcomes(executor.number, outcomes)
        return open_still

    def _is_garbled(self, executor: _Executor) -> None:
        """Kill the executor and its running task: something other than the executor has written into its pipe."""
        if not executor.garbled:
            executor.garbled = True
            if executor.pid:
                executor.killed_for = self._page.get(executor.number)[0]
                kill_all(executor.pid)

    def _warm_up(self) -> None:
        """Have the template load what a client needs, once for all later executors: tasks use clients."""
        if not self._warm:
            self._warm = True
            self._tell_template("warm")

    # ---- tasks ------------------------------------------------------------------------------

    def give(self, number: int, messages: list[Any]) -> None:
        """Send messages to an executor in as few packets as their sizes allow."""
        executor = self._executors[number]
        data = packets.encode_packet(messages)
        if len(data) <= packets.PACKET_BYTES:
            self._send(executor, data, messages)
        elif len(messages) > 1:
            half = len(messages) // 2
            self.give(number, messages[:half])
            self.give(number, messages[half:])
        else:
            self._give_by_file(executor, data, messages)

    def _give_by_file(self, executor: _Executor, data: bytes, messages: list[Any]) -> None:
        """Pass one large message in a file, in the store or else in the spill folder.  If both are full, its task fails."""
        trouble: OSError | None = None
        for folder in (self._store, self._service.spill):
            self._packet_files += 1
            path = f"{folder}/.packet-{executor.number}-{self._packet_files}"
            try:
                os.makedirs(folder, mode=0o700, exist_ok=True)
                with open(path, "wb") as stream:
                    stream.write(data)
            except OSError as error:
                trouble = error
                with contextlib.suppress(OSError):
                    os.unlink(path)
                continue
            executor.files = [file for file in executor.files if os.path.exists(file)] + [path]
            self._send(executor, packets.encode_packet([packets.PacketFile(path)]), messages)
            return
        text = f"{len(data)} bytes of arguments can't be passed to the task's process: {trouble}; make room in the store"
        failed = [
            m.Failed(message.task, message.attempt, m.ErrorInfo("StoreError", "", text), 0)
            for message in messages
            if isinstance(message, m.Compute)
        ]
        for message in messages:
            if isinstance(message, m.Compute):
                worker = self._service.worker
                self._log.error("{key}: {text}", key=message.key, text=text, attempt=message.attempt, worker=worker)
        self._reactor.callLater(0, self._failed_to_give, executor, failed)

    def _failed_to_give(self, executor: _Executor, failed: list[Any]) -> None:
        if not executor.closed:
            self._listener.executor_outcomes(executor.number, failed)

    def _send(self, executor: _Executor, data: bytes, messages: list[Any]) -> None:
        attempts = []
        for message in messages:
            if type(message) is m.Compute:
                attempts.append(message.attempt)
                executor.keys[message.attempt] = message.key
        while len(executor.keys) > MAX_KEYS:
            del executor.keys[next(iter(executor.keys))]
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
                return  # it is dead; the template will report it
            executor.backlog.popleft()
        self._reactor.removeWriter(executor.writer)

    def take_back(self, number: int) -> None:
        """Take what the executor has not read out of the socket, and report it to the listener's ``taken_back``."""
        executor = self._executors.get(number)
        attempts: list[int] = []
        if executor is not None:
            grants: list[Any] = []
            while True:
                try:
                    data = executor.far_end.recv(packets.RECEIVE_BYTES, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                if not data:
                    break  # our end is closed: the executor is being ended
                content = packets.decode_packet(data)
                grants += [message for message in content if isinstance(message, m.GoOn)]
                attempts += self._attempts_in(content)
            for _, unsent in executor.backlog:
                attempts += unsent
            executor.backlog.clear()
            executor.expected -= len(attempts)
            for grant in grants:  # these must not be taken back
                self.go_on(number, grant.attempt)
        self._listener.taken_back(number, attempts, self._page.get(number)[0])

    def go_on(self, number: int, attempt: int) -> None:
        """Tell an executor whose task was waiting that it has a slot again."""
        executor = self._executors.get(number)
        if executor is not None:
            self._send(executor, packets.encode_packet([m.GoOn(attempt)]), [])

    def _attempts_in(self, content: list[Any]) -> list[int]:
        attempts = []
        for message in content:
            if isinstance(message, packets.PacketFile):
                try:
                    with open(message.path, "rb") as stream:
                        data = stream.read()
                    os.unlink(message.path)
                except OSError as error:
                    self._log.error("a packet that was taken back is lost: {error}", error=error, worker=self._service.worker)
                    continue
                attempts += self._attempts_in(packets.decode_packet(data))
            elif isinstance(message, m.Compute):
                attempts.append(message.attempt)
        return attempts

    def interrupt(self, number: int, attempt: int, why: str) -> None:
        """Raise an exception in the executor's task if it is running ``attempt`` now."""
        executor = self._executors.get(number)
        if executor is not None and executor.pid and self._page.get(number)[0] == attempt:
            self._page.doom(number, attempt, packets.INTERRUPTS[why][0])
            self._tell_template("interrupt", number, executor.pid)

    def kill(self, number: int, attempt: int) -> None:
        """Kill the executor if it is running ``attempt`` now (0: whatever it is running; no task is blamed)."""
        executor = self._executors.get(number)
        if executor is not None and executor.pid and (not attempt or self._page.get(number)[0] == attempt):
            executor.killed_for = attempt or _NO_ATTEMPT
            kill_all(executor.pid)  # without asking the template, which a task may have stopped
            self._expect_template()

    # ---- state of processes ---------------------------------------------------------------------

    def stopped(self) -> set[int]:
        """Return the executors that have work but are stopped by a signal."""
        found = set()
        for number, executor in self._executors.items():
            state = state_of(executor.pid) if executor.pid and executor.expected > 0 else ""
            if state == "T":
                found.add(number)
            elif state == "Z":  # the template reports it in a moment, unless it is stopped itself
                self._expect_template()
        return found

    def alive(self) -> tuple[int, int, int]:
        """Return how many executors are there, how many are being started, and the bytes of memory of all of them."""
        pids = [executor.pid for executor in self._executors.values() if executor.pid]
        return len(pids), len(self._executors) - len(pids) + len(self._forks_waiting), sum(map(memory_of, pids))

    def memory(self) -> tuple[dict[int, int], dict[int, int]]:
        """Return (the bytes of memory of each executor that has work, the attempt that each of them is running)."""
        used, running = {}, {}
        for number, executor in self._executors.items():
            if executor.pid and executor.expected > 0:
                used[number] = memory_of(executor.pid)
                running[number] = self._page.get(number)[0]
        return used, running


def thread_counts(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add so that no library starts a thread per processor: slots define how much runs at a time.

    The user's settings take precedence, also for libraries that read them because their own variable is not set.
    """
    return {
        name: "1"
        for name, others in THREAD_COUNTS.items()
        if name not in environment and not any(other in environment for other in others)
    }


def _close_all(executor: _Executor) -> None:
    executor.tasks.close()
    executor.far_end.close()
    for descriptor in (executor.outcomes, *(stream.descriptor for stream in executor.streams)):
        os.close(descriptor)


def _users_part(stack: str) -> str:
    """Return faulthandler's text without the executor's frames below the task's."""
    lines, ours = [], False
    for line in stack.splitlines():
        ours = (ours or any(caller in line for caller in _CALLERS)) and line.startswith("  ")
        if not ours:
            lines.append(line)
    return "\n".join(lines)
