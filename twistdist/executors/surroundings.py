"""What a task may change around itself in its process, put back before the next one.

Objects that a task changes in place elsewhere stay changed; docs/executors.rst says so.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import importlib
import os
import resource
import signal
import sys
import time
from typing import Any

#: Modules in which names that were replaced are put back: what tests and libraries patch most.
GUARDED = ("builtins", "os", "os.path", "posixpath", "time", "random", "math", "json", "pickle", "socket", "subprocess",
           "threading", "io", "signal", "tempfile", "shutil", "collections")  # fmt: skip

#: Nanoseconds between two looks at what costs more than a microsecond to look at.
LOOK_NS = 1_000_000

_SIGNALS = tuple(range(1, 32))
_UNCATCHABLE = {9, 19}

# The names this module needs are bound here, so that a task that replaces them in their modules does not reach it.
_getcwd, _chdir, _umask, _fstat, _dup2 = os.getcwd, os.chdir, os.umask, os.fstat, os.dup2
# The C functions: the ones in signal.py make an enumeration member of each answer, at 2 µs.
_signal: Any = importlib.import_module("_signal")
_getsignal, _setsignal = _signal.getsignal, _signal.signal
_now = time.perf_counter_ns
_setitimer, _sigmask, _cancel_dump = signal.setitimer, signal.pthread_sigmask, faulthandler.cancel_dump_traceback_later
_getrlimit = resource.getrlimit
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = tuple(getattr(resource, name) for name in ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_STACK",
                                                     "RLIMIT_DATA", "RLIMIT_CORE") if hasattr(resource, name))  # fmt: skip
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

#: An executor that holds less between two tasks is never taken to be spoiled.
LEAST_MEMORY = 64 << 20


def _open_statm(high: int) -> int:
    try:
        low = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    moved = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, high)
    os.close(low)
    return moved



class Surroundings:
    """The state of the process before the first task."""

    def __init__(self, stdout: Any, stderr: Any, high_descriptor: int, most_memory: int = 0) -> None:
        """``stdout`` and ``stderr`` are what the names in ``sys`` stand for; copies of descriptors 0 to 2 are kept above
        ``high_descriptor``.  A process that holds more than ``most_memory`` bytes between tasks is spoiled (0: no bound)."""
        self._stdout, self._stderr = stdout, stderr
        self._environ: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]  # compared at every task
        self._environ_before = dict(self._environ)
        self._folder = _getcwd()
        self._recursion = sys.getrecursionlimit()
        self._umask_before = _umask(0o077)
        _umask(self._umask_before)
        self._signals = [(n, _getsignal(n)) for n in _SIGNALS if n not in _UNCATCHABLE]
        self._copies = [fcntl.fcntl(n, fcntl.F_DUPFD_CLOEXEC, high_descriptor) for n in range(3)]
        self._files = [self._identity(n) for n in range(3)]
        modules = [sys.modules[name] for name in GUARDED if name in sys.modules]
        self._modules = [(vars(module), dict(vars(module))) for module in dict.fromkeys(modules)]
        self._sigmask = _sigmask(signal.SIG_BLOCK, ())
        self._limits = [(kind, _getrlimit(kind)) for kind in _LIMITS]
        self._statm = _open_statm(high_descriptor)
        self._most_memory = max(LEAST_MEMORY, most_memory) if most_memory else sys.maxsize
        self.spoiled = False
        self._looked = 0

    @staticmethod
    def _identity(descriptor: int) -> tuple[int, int] | None:
        try:
            found = _fstat(descriptor)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def restore(self, closely: bool = False) -> bool:
        """Put back what is not as it was; whether everything was looked at, as ``closely`` asks for whatever it costs.

        ``spoiled`` says that something can't be put back.
        """
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            sys.stdout, sys.stderr = self._stdout, self._stderr
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
        if self._environ != self._environ_before:
            self._restore_environment()
        self._restore_folder()
        for number, before in self._signals:
            if _getsignal(number) is not before:
                with contextlib.suppress(ValueError, OSError, TypeError):
                    _setsignal(number, before)
        closely = closely or _now() - self._looked > LOOK_NS
        if closely:
            self._look_closely()
            self._looked = _now()
        return closely

    def _restore_environment(self) -> None:
        for name in [name for name in os.environ if os.fsencode(name) not in self._environ_before]:
            del os.environ[name]
        for name, value in self._environ_before.items():
            if self._environ.get(name) != value:
                os.environ[os.fsdecode(name)] = os.fsdecode(value)

    def _restore_folder(self) -> None:
        try:
            same = _getcwd() == self._folder
        except OSError:  # the task has removed the folder that it was in
            same = False
        if not same:
            with contextlib.suppress(OSError):  # it was ours that is gone: nothing to go back to
                _chdir(self._folder)

    def _look_closely(self) -> None:
        for timer in _TIMERS:
            _setitimer(timer, 0)
        _cancel_dump()
        sys.settrace(None)
        sys.setprofile(None)
        _sigmask(signal.SIG_SETMASK, self._sigmask)
        for kind, limits in self._limits:
            if _getrlimit(kind) != limits:
                self._restore_limit(kind, limits)
        if self._stdout.closed or self._stderr.closed or self._own_memory() > self._most_memory:
            self.spoiled = True
        for number, copy in enumerate(self._copies):
            if self._identity(number) != self._files[number]:
                _dup2(copy, number)
        _umask(self._umask_before)
        for now, before in self._modules:
            if now != before:
                self._restore_module(now, before)

    @staticmethod
    def _restore_module(now: dict[str, Any], before: dict[str, Any]) -> None:
        for name, value in before.items():
            if now.get(name, before) is not value:
                now[name] = value
        for name in now.keys() - before.keys():  # new names harm nobody and may be caches
            before[name] = now[name]

    def _restore_limit(self, kind: int, limits: tuple[int, int]) -> None:
        try:
            resource.setrlimit(kind, limits)
        except (OSError, ValueError):  # the hard limit was lowered, for good
            self.spoiled = True

    def _own_memory(self) -> int:
        """Anonymous bytes of this process; 0 where that can't be known."""
        if self._statm < 0:
            return 0
        try:
            _, resident, shared, *_ = os.pread(self._statm, 128, 0).split()
        except OSError:  # the task has closed it
            self.spoiled = True
            return 0
        return (int(resident) - int(shared)) * _PAGE_BYTES
