"""What a task may change around itself in its process, put back before the next one.

Objects that a task changes in place elsewhere stay changed; docs/executors.rst says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import sys
import time
import types
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


class Surroundings:
    """The state of the process before the first task."""

    def __init__(self, stdout: Any, stderr: Any, high_descriptor: int) -> None:
        """``stdout`` and ``stderr`` are what the names in ``sys`` stand for; copies of descriptors 0 to 2 are kept above
        ``high_descriptor``."""
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
        self._modules = [(module, vars(module), dict(vars(module))) for module in dict.fromkeys(modules)]
        self._looked = 0

    @staticmethod
    def _identity(descriptor: int) -> tuple[int, int] | None:
        try:
            found = _fstat(descriptor)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def restore(self, closely: bool = False) -> list[str]:
        """Put back what is not as it was; what that was, in words.  ``closely``: look at everything, whatever it costs."""
        changed: list[str] = []
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            sys.stdout, sys.stderr = self._stdout, self._stderr
            changed.append("sys.stdout or sys.stderr")
        if sys.getrecursionlimit() != self._recursion:
            sys.setrecursionlimit(self._recursion)
            changed.append("the recursion limit")
        if self._environ != self._environ_before:
            self._restore_environment()
            changed.append("the environment")
        self._restore_folder(changed)
        for number, before in self._signals:
            if _getsignal(number) is not before:
                with contextlib.suppress(ValueError, OSError, TypeError):
                    _setsignal(number, before)
                changed.append(f"the handler of signal {number}")
        if closely or _now() - self._looked > LOOK_NS:
            self._look_closely(changed)
            self._looked = _now()
        return changed

    def _restore_environment(self) -> None:
        for name in [name for name in os.environ if os.fsencode(name) not in self._environ_before]:
            del os.environ[name]
        for name, value in self._environ_before.items():
            if self._environ.get(name) != value:
                os.environ[os.fsdecode(name)] = os.fsdecode(value)

    def _restore_folder(self, changed: list[str]) -> None:
        try:
            same = _getcwd() == self._folder
        except OSError:  # the task has removed the folder that it was in
            same = False
        if not same:
            with contextlib.suppress(OSError):  # it was ours that is gone: nothing to go back to
                _chdir(self._folder)
            changed.append("the working directory")

    def _look_closely(self, changed: list[str]) -> None:
        for number, copy in enumerate(self._copies):
            if self._identity(number) != self._files[number]:
                _dup2(copy, number)
                changed.append(f"descriptor {number}")
        mask = _umask(self._umask_before)
        if mask != self._umask_before:
            changed.append("the umask")
        for module, now, before in self._modules:
            if now != before:
                changed += self._restore_module(module, now, before)

    @staticmethod
    def _restore_module(module: types.ModuleType, now: dict[str, Any], before: dict[str, Any]) -> list[str]:
        names = [name for name, value in before.items() if now.get(name, before) is not value]
        for name in names:
            now[name] = before[name]
        for name in now.keys() - before.keys():  # new names harm nobody and may be caches
            before[name] = now[name]
        return [f"{module.__name__}.{name}" for name in names]
