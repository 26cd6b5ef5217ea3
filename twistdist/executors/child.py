"""An executor: reads tasks, runs them one at a time and writes outcomes.  Forked from the template; no Twisted here.

Tasks that replace functions of the standard library do not affect this loop: it binds the functions that it needs when the
template starts.
"""

from __future__ import annotations

import _thread
import os
import pickle
import socket
import sys
import threading
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import attrs

from twistdist.config import INLINE_RESULT_BYTES, python_here
from twistdist.errors import DataLost, SerializationError, StoreError
from twistdist.executors import awaiting, context, packets
from twistdist.executors.packets import Page
from twistdist.executors.processes import children
from twistdist.executors.streams import Output
from twistdist.executors.surroundings import Surroundings
from twistdist.storage.files import file_path, read_file, write_file
from twistdist.wire import messages as m
from twistdist.wire.failures import chain, dump_error
from twistdist.wire.payload import dump_value, load_call, load_value

_write, _getpid, _exit, _now, _count_threads = os.write, os.getpid, os._exit, time.perf_counter_ns, _thread._count
_waitpid, _modules = os.waitpid, sys.modules

#: Microseconds.  A task that is expected to take at least this long, or of which nothing is known, starts in restored
#: surroundings.
LOOK_US = 1_000

#: Small values that are remembered for tasks that follow: as many as an executor is given tasks ahead of time, 4 MiB at most.
MOST_MADE = 1_000

#: The builtins that this loop depends on.  If a task replaces one, it is put back before anything else is done.
_BUILTINS = (len, isinstance, type, open, memoryview, sum, map, int, bytes, max, enumerate, list, dict)

#: Prefixes of the names of threads that our own client starts.
_OUR_THREADS = ("twistdist", "PoolThread-twisted")

#: The folders of our own code whose frames surround the user's code in a traceback.
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_OUR_FOLDERS = tuple(os.path.join(_PACKAGE, name, "") for name in ("executors", "storage", "wire"))

_EXCEPTIONS = {number: error for number, error in packets.INTERRUPTS.values()}


class _Absent(Exception):
    """The files of some inputs can't be opened."""

    def __init__(self, attempts: list[int]) -> None:
        super().__init__(attempts)
        self.attempts = attempts


@attrs.frozen
class Setup:
    """What an executor needs to know about its place: its ``number`` and ``page``, the ``tasks`` socket, the descriptor of the
    ``outcomes`` pipe, the ``store`` folder, the ``spill`` folder for results that do not fit there or are larger than ``most``
    bytes (0: no bound), the ``worker``'s name, the scheduler's ``address`` and ``secret``, and ``tls``, the folder of the
    certificates ("": none)."""

    number: int
    page: Page
    tasks: socket.socket
    outcomes: int
    store: str
    spill: str
    most: int
    worker: str
    address: str
    secret: bytes
    tls: str


class TaskRunner:
    """One executor's loop."""

    def __init__(
        self,
        setup: Setup,
        outputs: list[Output],
        flush: Callable[[], None],
        surroundings: Surroundings,
        tear_down: Callable[[], None],
    ) -> None:
        self._number, self._page, self._tasks, self._outcomes = setup.number, setup.page, setup.tasks, setup.outcomes
        self._setup, self._outputs, self._flush = setup, outputs, flush
        self._surroundings, self._tear_down = surroundings, tear_down
        self._pickled: dict[int, m.WorkerFunction] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        self._waiting: deque[Any] = deque()
        self._buffer = bytearray(packets.RECEIVE_BYTES)
        self._made: dict[int, bytes] = {}
        self._written: Sequence[Any] = ()
        self._threads = 0
        self._inside = self._interrupted = self._looked = False
        self.attempt = 0
        self._pid = _getpid()
        # What plugins have started: it stays, and is not taken for something that a task left behind.
        self._own_threads = set(threading.enumerate())
        self._own_children = set(children(self._pid))

    def run(self) -> None:
        """Run tasks until the control process closes its end."""
        self._send(m.Started())
        while self._waiting or self._receive():
            message = self._waiting.popleft()
            if isinstance(message, m.Compute):
                self._compute(message)
            else:
                self._learn(message)
        self._tear_down()

    def _end(self) -> NoReturn:
        """End this process although there may be more tasks: another executor gets them."""
        self._tear_down()
        _exit(0)

    def _receive(self) -> bool:
        """Wait for the next packet.  Return False at the end of the stream."""
        try:
            count = self._tasks.recv_into(self._buffer)
        except OSError:
            _exit(packets.EXIT_DESCRIPTORS)
        if not count:
            return False
        self._unpack(packets.decode_packet(memoryview(self._buffer)[:count]))
        return True

    def _unpack(self, content: list[Any]) -> None:
        for message in content:
            if isinstance(message, packets.PacketFile):
                with open(message.path, "rb") as stream:
                    data = stream.read()
                os.unlink(message.path)
                self._unpack(packets.decode_packet(data))
            else:
                self._waiting.append(message)

    def _learn(self, message: Any) -> None:
        """Take in a function, or forget those that are no longer needed."""
        if isinstance(message, m.WorkerFunction):
            self._pickled[message.fn] = message
            self._functions.pop(message.fn, None)
        elif isinstance(message, m.ForgetFunctions):
            for fn in message.fns:
                self._pickled.pop(fn, None)
                self._functions.pop(fn, None)

    def _send(self, outcome: packets.Outcome) -> None:
        data = packets.encode_outcome(outcome)
        try:
            written = _write(self._outcomes, data)
            while written < len(data):
                written += _write(self._outcomes, data[written:])
        except BrokenPipeError:
            _exit(0)  # the control process is gone: nobody is left to report to
        except OSError:
            _exit(packets.EXIT_DESCRIPTORS)

    # ---- one task ---------------------------------------------------------------------------

    def _compute(self, compute: m.Compute) -> None:
        if not self._looked and (compute.fn not in self._functions or not 0 <= compute.cost < LOOK_US):
            self._looked = self._surroundings.restore(closely=True)  # what shorter tasks left behind could affect this one
            if self._surroundings.spoiled and self.attempt:
                self._end()  # an earlier task spoiled them, and this one has not started
        self.attempt, self._interrupted = compute.attempt, False
        began = _now()
        self._page.set(self._number, compute.attempt, began)
        setup = self._setup
        task = context.Context(
            compute.key,
            compute.task,
            compute.attempt,
            setup.worker,
            setup.address,
            setup.secret,
            setup.tls,
            self._park,
            self._resume,
            self._uses_client,
            compute.trace,
        )
        context.enter(task)
        try:
            outcome = self._run(compute, began) if not compute.trace else self._run_traced(compute, began)
        except BaseException as error:  # the interrupt arrived after the function had ended
            self._inside = False
            outcome = self._failed(compute, error, "TaskError", began)
        self._put_builtins_back()
        if _getpid() != self._pid:
            _exit(0)  # the task forked and both processes returned: the copy must not continue
        self._flush()
        for output in self._outputs:
            output.end_task()
        self._send(outcome)
        self._written = ()  # frees the value's memory, for which nobody waits now
        if self._interrupted:
            _exit(0)  # whatever the task started ends with its process
        context.enter(None)
        if task.client is not None:
            task.client.leave(isinstance(outcome, m.Failed))
        self._looked = self._surroundings.restore()
        if self._surroundings.spoiled or self._children_left():
            self._end()  # whatever the task left behind ends with its process
        if self._threads or _count_threads():
            self._look_at_threads()

    def _children_left(self) -> bool:
        """Return whether processes that the task started are still running.  Reap those that have ended."""
        try:
            while _waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return not self._own_children or not self._own_children.issuperset(children(self._pid))

    def _run(self, compute: m.Compute, began: int) -> packets.Outcome:
        try:
            self._inside = True
            outcome = self._checkpointed(compute, began) if compute.checkpoint else self._value(compute, began)
            self._inside = False
            return outcome
        except _Absent as absent:
            self._inside = False
            return m.InputLost(compute.task, compute.attempt, [(attempt, 0) for attempt in absent.attempts])
        except (SerializationError, StoreError, DataLost) as error:
            self._inside = False
            return self._failed(compute, error, type(error).__name__, began)
        except Exception as error:
            self._inside = False
            return self._failed(compute, error, "", began)
        except BaseException as error:  # SystemExit or KeyboardInterrupt raised by the task: it must not end a client
            self._inside = False
            return self._failed(compute, error, "TaskError", began)

    def _run_traced(self, compute: m.Compute, began: int) -> packets.Outcome:
        from twistdist.executors.tracing import entered

        with entered(compute.trace, compute.attempt):
            return self._run(compute, began)

    def on_signal(self, *_: Any) -> None:
        """Handle the interrupt signal: raise in the task if it is the one meant and its function has not ended."""
        doomed, why = self._page.doomed(self._number)
        if self._inside and doomed == self.attempt and not self._interrupted and _getpid() == self._pid:
            self._interrupted = True
            raise _EXCEPTIONS[why]

    def _look_at_threads(self) -> None:
        """Record in the page whether tasks left threads behind: these may be the cause of what happens later."""
        own = self._own_threads  # the main thread is one of them
        ours = sum(1 for thread in threading.enumerate() if thread in own or thread.name.startswith(_OUR_THREADS))
        self._threads = max(0, _count_threads() + 1 - ours)
        self._page.set_threads_left(self._number, self._threads > 0)

    def _call(self, compute: m.Compute) -> Any:
        function = self._functions.get(compute.fn)
        if function is None:
            function = self._load_function(compute.fn)
        imported = len(_modules)
        inputs = self._load_inputs(compute.inputs) if compute.inputs else ()
        try:
            args, kwargs = load_call(compute.args, inputs)
        except Exception as error:
            raise SerializationError(f"the arguments can't be unpickled on the worker: {_say(error)}") from error
        if len(_modules) != imported and self._looked:  # otherwise an earlier task's changes could be taken for the modules'
            self._surroundings.accept()
        value = self._surroundings.run(function, args, kwargs)
        return self._wait_for(value) if awaiting.is_awaited(value) else value

    def _wait_for(self, value: Any) -> Any:
        try:
            return self._surroundings.run(awaiting.final_value, (value,), {})
        finally:
            if awaiting.leftovers():
                self._surroundings.spoiled = True

    def _load_function(self, fn: int) -> Callable[..., Any]:
        pickled = self._pickled[fn]
        try:
            function: Callable[..., Any] = pickle.loads(pickled.blob)
        except Exception as error:
            raise SerializationError(
                f"the function {pickled.name} can't be unpickled on the worker, which runs Python {python_here()}: "
                f"{_say(error)}; is its module installed there, or in the folder of the script?"
            ) from error
        self._functions[fn] = function
        self._surroundings.accept()
        return function

    def _load_inputs(self, inputs: list[m.Input]) -> list[Any]:
        data: list[bytes | memoryview] = []
        absent = []
        for source in inputs:
            value, path = source.value, source.path
            if source.awaited:  # it was made here, a moment ago
                value = self._made.get(source.attempt)
                path = file_path(self._setup.store, source.attempt)
            if value is not None:
                data.append(value)
                continue
            try:
                data.append(read_file(path, source.attempt))
            except (OSError, ValueError):
                absent.append(source.attempt)
        if absent:
            raise _Absent(absent)
        try:
            return [load_value(pickled) for pickled in data]
        except Exception as error:
            raise SerializationError(f"an input can't be unpickled on the worker: {_say(error)}") from error

    def _put_builtins_back(self) -> None:
        if (len, isinstance, type, open, memoryview, sum, map, int, bytes, max, enumerate, list, dict) != _BUILTINS:
            self._surroundings.restore(closely=True)

    def _value(self, compute: m.Compute, began: int) -> m.Done:
        value = self._call(compute)
        self._put_builtins_back()  # otherwise what is reported about the value may be wrong
        if _getpid() != self._pid:
            _exit(0)  # the task forked and both processes returned: the copy must not continue, let alone write the result
        return self._done(compute, value, began)

    def _checkpointed(self, compute: m.Compute, began: int) -> m.Done:
        """Take the value from its checkpoint if there is one.  Otherwise compute it and save it there before reporting it."""
        from twistdist.storage import checkpoints

        setup = self._setup
        done = checkpoints.load(compute, setup.store)
        if done is None and compute.restore:
            raise DataLost(f"the checkpoint {compute.checkpoint} is gone, and the inputs of {compute.key} no longer exist")
        if done is None:
            done = self._value(compute, began)
            checkpoints.save(compute, done, setup.store)
        return done

    def _done(self, compute: m.Compute, value: Any, began: int) -> m.Done:
        try:
            parts = dump_value(value)
        except Exception as error:
            kind = type(value).__qualname__
            raise SerializationError(f"the result, a {kind}, can't be pickled: {_say(error)}") from error
        size, digest, inline = sum(map(len, parts)), b"", None
        if size <= INLINE_RESULT_BYTES:
            inline = parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)
            self._remember(compute.attempt, inline)
        else:
            size, digest = self._store_value(compute, parts, size)
        return m.Done(compute.task, compute.attempt, inline, size, digest, (_now() - began) // 1000)

    def _remember(self, attempt: int, value: bytes) -> None:
        """Tasks that need the value may be next."""
        self._made[attempt] = value
        if len(self._made) > MOST_MADE:
            del self._made[next(iter(self._made))]

    def _store_value(self, compute: m.Compute, parts: list[Any], size: int) -> tuple[int, bytes]:
        setup = self._setup
        self._written = parts
        try:
            return write_file(setup.store, compute.task, compute.attempt, parts, setup.spill, setup.most)
        except OSError as error:
            raise StoreError(
                f"the result of {compute.key}, {size} bytes, can't be stored on {setup.worker}: {error.strerror} "
                f"(tried the store {setup.store}, then {setup.spill or 'no spill folder'}); make room there, or choose other "
                "folders with --store and --spill"
            ) from error

    @staticmethod
    def _failed(compute: m.Compute, error: BaseException, kind: str, began: int) -> m.Failed:
        try:
            told = chain(error)
            for linked in told:
                BaseException.with_traceback(linked, _users_frames(linked.__traceback__))
            info = dump_error(error, kind)
            for linked in told:  # an error that is kept or is part of a cycle must not keep alive what the frames hold
                traceback.clear_frames(linked.__traceback__)
                BaseException.with_traceback(linked, None)
        except BaseException as own:  # an exception that can't be handled must affect only its own task
            text = f"its exception can't be described: {type(own).__qualname__}"
            info = m.ErrorInfo("TaskError", type(error).__qualname__, text)
        if kind == "TaskError":
            info = m.ErrorInfo(kind, info.type, f"the task raised {info.type}: {info.text}", info.traceback)
        return m.Failed(compute.task, compute.attempt, info, (_now() - began) // 1000)

    # ---- a task that waits for other tasks ----------------------------------------------------

    def _park(self) -> bool:
        """Give up the slot until :meth:`_resume`, and return the tasks that were queued behind the running one."""
        if self._interrupted or _getpid() != self._pid:
            return False
        unstarted = []
        while self._waiting:
            message = self._waiting.popleft()
            if isinstance(message, m.Compute):
                unstarted.append(message.attempt)
            else:
                self._learn(message)
        self._send(m.Waits(self.attempt, unstarted))
        return True

    def _resume(self) -> None:
        """Wait for a slot.  Tasks that were in transit when the wait began may arrive first; they are kept for later."""
        if self._interrupted:
            return
        self._send(m.Resumes(self.attempt))
        while True:
            for message in self._waiting:
                if isinstance(message, m.GoOn):
                    self._waiting.remove(message)
                    return
            if not self._receive():
                _exit(0)  # the control process is gone

    def _uses_client(self) -> None:
        self._send(m.UsesClient())


def _say(error: BaseException) -> str:
    return f"{type(error).__qualname__}: {error}"


def _users_frames(tb: types.TracebackType | None) -> types.TracebackType | None:
    """Return the traceback without our frames at its ends: the callers of the user's function and the interrupt handler."""
    entries = []
    while tb is not None:
        entries.append(tb)
        tb = tb.tb_next
    theirs = [n for n, entry in enumerate(entries) if not entry.tb_frame.f_code.co_filename.startswith(_OUR_FOLDERS)]
    users: types.TracebackType | None = None
    for entry in reversed(entries[theirs[0] : theirs[-1] + 1] if theirs else ()):
        users = types.TracebackType(users, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return users
