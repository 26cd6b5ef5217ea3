"""An executor: reads tasks, runs them one at a time, writes outcomes.  Forked from the template; no Twisted here."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Callable
from typing import Any

from twistdist.config import INLINE_RESULT_BYTES
from twistdist.errors import SerializationError
from twistdist.executors import packets
from twistdist.executors.packets import Page
from twistdist.storage.store import read_file, write_file
from twistdist.wire import messages as m
from twistdist.wire.failures import dump_error
from twistdist.wire.payload import dump_value, load_call, load_value


class _Absent(Exception):
    """Inputs whose files can't be opened."""

    def __init__(self, attempts: list[int]) -> None:
        super().__init__(attempts)
        self.attempts = attempts


class Executor:
    """One executor's loop.  ``slot`` is its entry in ``page``; ``outcomes`` the descriptor of the pipe's writing end."""

    def __init__(self, slot: int, page: Page, tasks: socket.socket, outcomes: int, store: str) -> None:
        self._slot, self._page, self._tasks, self._outcomes, self._store = slot, page, tasks, outcomes, store
        self._pickled: dict[int, m.WorkerFunction] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        self._pid = os.getpid()

    def run(self) -> None:
        """Until the control process closes its end."""
        buffer = bytearray(packets.RECEIVE_BYTES)
        view = memoryview(buffer)
        while True:
            count = self._tasks.recv_into(buffer)
            if not count:
                return
            self._packet(packets.decode_packet(view[:count]))

    def _packet(self, content: list[Any]) -> None:
        for message in content:
            if isinstance(message, m.Compute):
                self._compute(message)
            elif isinstance(message, m.WorkerFunction):
                self._pickled[message.fn] = message
                self._functions.pop(message.fn, None)
            elif isinstance(message, packets.PacketFile):
                with open(message.path, "rb") as stream:
                    data = stream.read()
                os.unlink(message.path)
                self._packet(packets.decode_packet(data))
            else:
                for fn in message.fns:
                    self._pickled.pop(fn, None)
                    self._functions.pop(fn, None)

    def _compute(self, compute: m.Compute) -> None:
        self._page.set(self._slot, compute.attempt)
        began = time.perf_counter_ns()
        try:
            value = self._call(compute)
            outcome: packets.Outcome = self._done(compute, value, began)
        except _Absent as absent:
            outcome = m.InputLost(compute.task, compute.attempt, [(attempt, 0) for attempt in absent.attempts])
        except SerializationError as error:
            outcome = self._failed(compute, error, "SerializationError", began)
        except Exception as error:
            outcome = self._failed(compute, error, "", began)
        except BaseException as error:  # SystemExit, KeyboardInterrupt: raised by the task, must not end a client
            outcome = self._failed(compute, error, "TaskError", began)
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked and both came back: the copy has no business here
        self._write(packets.encode_outcome(outcome))

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._outcomes, data)
            while written < len(data):
                written += os.write(self._outcomes, data[written:])
        except BrokenPipeError:
            os._exit(0)  # the control process is gone; nobody is left to tell

    def _call(self, compute: m.Compute) -> Any:
        function = self._functions.get(compute.fn)
        if function is None:
            function = self._load_function(compute.fn)
        inputs = self._load_inputs(compute.inputs) if compute.inputs else ()
        try:
            args, kwargs = load_call(compute.args, inputs)
        except Exception as error:
            raise SerializationError(f"the arguments can't be unpickled on the worker: {_say(error)}") from error
        return function(*args, **kwargs)

    def _load_function(self, fn: int) -> Callable[..., Any]:
        pickled = self._pickled[fn]
        try:
            function: Callable[..., Any] = pickle.loads(pickled.blob)
        except Exception as error:
            raise SerializationError(
                f"the function {pickled.name} can't be unpickled on the worker: {_say(error)}; "
                "is its module installed there, or beside the script?"
            ) from error
        self._functions[fn] = function
        return function

    def _load_inputs(self, inputs: list[m.Input]) -> list[Any]:
        data: list[bytes | memoryview] = []
        absent = []
        for one in inputs:
            if one.value is not None:
                data.append(one.value)
                continue
            try:
                data.append(read_file(one.path))
            except (OSError, ValueError):
                absent.append(one.attempt)
        if absent:
            raise _Absent(absent)
        try:
            return [load_value(one) for one in data]
        except Exception as error:
            raise SerializationError(f"an input can't be unpickled on the worker: {_say(error)}") from error

    def _done(self, compute: m.Compute, value: Any, began: int) -> m.Done:
        try:
            parts = dump_value(value)
        except Exception as error:
            kind = type(value).__qualname__
            raise SerializationError(f"the result, a {kind}, can't be pickled: {_say(error)}") from error
        size, digest, inline = sum(map(len, parts)), b"", None
        if size <= INLINE_RESULT_BYTES:
            inline = parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)
        else:
            size, digest = write_file(self._store, compute.task, compute.attempt, parts)
        us = (time.perf_counter_ns() - began) // 1000
        return m.Done(compute.task, compute.attempt, inline, size, digest, us)

    @staticmethod
    def _failed(compute: m.Compute, error: BaseException, kind: str, began: int) -> m.Failed:
        try:
            if not kind:
                _strip_own_frames(error)
            info = dump_error(error, kind)
        except BaseException as own:  # an exception that fights back is still only that task's affair
            text = f"its exception can't be described: {type(own).__qualname__}"
            info = m.ErrorInfo("TaskError", type(error).__qualname__, text)
        if kind == "TaskError":
            info = m.ErrorInfo(kind, info.type, f"the task raised {info.type}: {info.text}", info.traceback)
        return m.Failed(compute.task, compute.attempt, info, (time.perf_counter_ns() - began) // 1000)


def _say(error: BaseException) -> str:
    return f"{type(error).__qualname__}: {error}"


def _strip_own_frames(error: BaseException) -> None:
    """The user's traceback begins in the user's function, not in ours."""
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
        tb = tb.tb_next
    if tb is not None:
        BaseException.with_traceback(error, tb)
