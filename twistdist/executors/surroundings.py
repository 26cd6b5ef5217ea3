"""Restores what a task may change around itself in its process before the next task starts.

What a module sets up while it is imported for a task's function or arguments is not the task's doing and stays.  Other objects
that a task changes in place stay changed; docs/executors.rst has the full table.
"""

from __future__ import annotations

import _locale
import contextlib
import contextvars
import decimal
import faulthandler
import fcntl
import gc
import importlib
import logging
import operator
import os
import random
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

#: Modules in which replaced names are put back: those that tests and libraries patch most.
GUARDED = (
    "builtins",
    "os",
    "os.path",
    "posixpath",
    "time",
    "random",
    "math",
    "json",
    "pickle",
    "socket",
    "subprocess",
    "threading",
    "io",
    "signal",
    "tempfile",
    "shutil",
    "collections",
    "warnings",
    "logging",
)

#: Nanoseconds between two checks of what takes more than a microsecond to check.
LOOK_NS = 1_000_000

#: All that can be caught.
_SIGNALS = tuple(n for n in range(1, 32) if n not in (9, 19))

# This module binds the names that it needs here, so that a task that replaces them in their modules does not affect it.
_getcwd, _chdir, _umask, _fstat, _dup2 = os.getcwd, os.chdir, os.umask, os.fstat, os.dup2
# The C functions: those in signal.py turn each result into an enumeration member, at a cost of 2 µs.
_signal: Any = importlib.import_module("_signal")
_getsignal, _setsignal = _signal.getsignal, _signal.signal
_now, _differs = time.perf_counter_ns, operator.is_not
_tzset = time.tzset
_setitimer, _sigmask, _cancel_dump = signal.setitimer, signal.pthread_sigmask, faulthandler.cancel_dump_traceback_later
_getrlimit = resource.getrlimit
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = tuple(
    getattr(resource, name)
    for name in ("RLIMIT_NOFILE", "RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_STACK", "RLIMIT_DATA", "RLIMIT_CORE")
    if hasattr(resource, name)
)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_copy_context, _decimals, _use_decimals = contextvars.copy_context, decimal.getcontext, decimal.setcontext
_modules, _root = sys.modules, logging.root

#: The generator behind the module-level functions of ``random``.
_dice: Any = random._inst

#: Bytes.  An executor that holds less than this between two tasks is never considered spoiled.
LEAST_MEMORY = 64 << 20

#: Bytes.  Garbage is collected when an executor has grown by this much, or by a quarter if that is more, since the last time.
MAX_GARBAGE = 64 << 20

_Settings = tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...]

#: Settings that cost next to nothing to read: (how to read it, how to set it).
_SETTINGS: _Settings = (
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    (gc.get_threshold, lambda thresholds: gc.set_threshold(*thresholds)),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
    (lambda: _root.level, _root.setLevel),
    (lambda: _root.manager.disable, logging.disable),
)

#: The same for settings that only a close look checks.
_CLOSE_SETTINGS: _Settings = (
    (partial(_locale.setlocale, _locale.LC_ALL), partial(_locale.setlocale, _locale.LC_ALL)),
    (sys.getswitchinterval, sys.setswitchinterval),
    (gc.get_debug, gc.set_debug),
)
if hasattr(sys, "set_int_max_str_digits"):
    _CLOSE_SETTINGS += ((sys.get_int_max_str_digits, sys.set_int_max_str_digits),)

#: Settings that no import of a module changes, and that can't be put back without the privilege that was given up.
_PRIVILEGES: _Settings = (
    (partial(os.getpriority, os.PRIO_PROCESS, 0), partial(os.setpriority, os.PRIO_PROCESS, 0)),
    (os.getuid, os.setuid),
    (os.geteuid, os.seteuid),
    (os.getgid, os.setgid),
    (os.getegid, os.setegid),
)
if sys.platform == "linux":
    _PRIVILEGES += (
        (partial(os.sched_getaffinity, 0), partial(os.sched_setaffinity, 0)),
        (partial(os.sched_getscheduler, 0), lambda policy: os.sched_setscheduler(0, policy, os.sched_param(0))),
    )

_HOOKS = ("excepthook", "displayhook", "unraisablehook", "breakpointhook")
_ZONE = ("tzname", "timezone", "altzone", "daylight")

#: Names that an interactive interpreter leaves in ``sys``; they keep alive all that the frames of an error hold.
_LAST_ERRORS = ("last_exc", "last_type", "last_value", "last_traceback", "tracebacklimit")

_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


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

    def __init__(self, stdout: Any, stderr: Any, high_descriptor: int, most_memory: int = 0, stacks: int = 2) -> None:
        """``stdout`` and ``stderr`` are the values of those names in ``sys``.  Copies of descriptors 0 to 2 are kept at
        ``high_descriptor`` and above.  A process that holds more than ``most_memory`` bytes between tasks is spoiled (0: no
        bound).  faulthandler writes to descriptor ``stacks``."""
        self._stdout, self._stderr = stdout, stderr
        self._environ: dict[Any, Any] = os.environ._data  # type: ignore[attr-defined]  # compared after every task
        self._folder = _getcwd()
        self._umask_before = _umask(0o077)
        _umask(self._umask_before)
        self._signals = [_getsignal(n) for n in _SIGNALS]
        self._copies = [fcntl.fcntl(n, fcntl.F_DUPFD_CLOEXEC, high_descriptor) for n in range(3)]
        self._files = [self._identity(n) for n in range(3)]
        modules = [sys.modules[name] for name in GUARDED if name in sys.modules]
        self._guarded = [(vars(module), dict(vars(module))) for module in dict.fromkeys(modules)]
        self._sigmask = _sigmask(signal.SIG_BLOCK, ())
        self._limits = [(kind, _getrlimit(kind)) for kind in _LIMITS]
        self._privileges = [(get, put, get()) for get, put in _PRIVILEGES]
        self._statm = _open_statm(high_descriptor)
        self._most_memory = max(LEAST_MEMORY, most_memory) if most_memory else sys.maxsize
        self._collect_above = self._own_memory() + MAX_GARBAGE
        self._stacks = stacks
        self.spoiled = False
        self._looked = 0
        self._numpy_errors: dict[str, str] = dict(_NUMPY_ERRORS)
        self._numpy_dice: tuple[int, float] | None = None
        self._shuffle()
        self.accept()

    @staticmethod
    def _identity(descriptor: int) -> tuple[int, int] | None:
        try:
            found = _fstat(descriptor)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def accept(self) -> None:
        """Take the current state as the one to restore from now on: modules that were just imported may have changed it."""
        self._environ_before = dict(self._environ)
        self._settings = [(get, put, get()) for get, put in _SETTINGS]
        self._close_settings = [(get, put, get()) for get, put in _CLOSE_SETTINGS]
        lists = (sys, "path"), (sys, "argv"), (warnings, "filters"), (_root, "handlers")
        self._lists = [(vars(owner), name, vars(owner)[name], list(vars(owner)[name])) for owner, name in lists]
        self._hooks = [(name, getattr(sys, name)) for name in _HOOKS]
        self._context = _copy_context()
        # A copy of the context shares this object, and tasks change it in place.  Mostly there is none: a task that needs one
        # has a fresh one made.
        self._decimals = _decimals().copy() if any(variable.name == "decimal_context" for variable in self._context) else None
        self._time_zone = time.tzname
        for now, before in self._guarded:
            if now is vars(time):
                before.update({name: now[name] for name in _ZONE})
        self._start_method: Any = None
        self._loop_policy: Any = None
        if "multiprocessing.context" in _modules:
            self._start_method = _modules["multiprocessing.context"]._default_context._actual_context
        if "asyncio.events" in _modules:
            self._loop_policy = vars(_modules["asyncio.events"])["_event_loop_policy"]
        if "numpy" in _modules:
            self._numpy_errors = _modules["numpy"].geterr()

    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call ``function`` with its own context variables and return its result."""
        return self._context.copy().run(function, *args, **kwargs)

    def restore(self, closely: bool = False) -> bool:
        """Put back what has changed.  Return True if everything was checked; ``closely`` demands that whatever it costs.

        ``spoiled`` is set if something can't be put back.
        """
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            sys.stdout, sys.stderr = self._stdout, self._stderr
        for get, put, before in self._settings:
            if get() != before:
                put(before)
        for owner, name, content, before in self._lists:
            if owner[name] is not content or content != before:
                self._restore_list(owner, name, content, before)
        if self._environ != self._environ_before:
            self._restore_environment()
        if time.tzname is not self._time_zone:
            _tzset()
            time.tzname = self._time_zone
        if self._decimals is not None:
            self._context.run(_use_decimals, self._decimals.copy())
        if _dice.gauss_next is not self._mark:
            self._shuffle()
        self._restore_libraries()
        self._restore_folder()
        if any(map(_differs, map(_getsignal, _SIGNALS), self._signals)):
            self._restore_signals()
        closely = closely or _now() - self._looked > LOOK_NS
        if closely:
            self._look_closely()
            self._looked = _now()
        return closely

    @staticmethod
    def _restore_list(owner: dict[str, Any], name: str, content: list[Any], before: list[Any]) -> None:
        content[:] = before
        owner[name] = content
        if name == "filters":  # otherwise decisions made by the old filters are remembered
            warnings._filters_mutated()  # type: ignore[attr-defined]

    def _restore_environment(self) -> None:
        for name in [name for name in os.environ if os.fsencode(name) not in self._environ_before]:
            del os.environ[name]
        for name, value in self._environ_before.items():
            if self._environ.get(name) != value:
                os.environ[os.fsdecode(name)] = os.fsdecode(value)

    def _shuffle(self) -> None:
        """Make random numbers unpredictable again.  Seeding clears the second number that gauss() keeps: this reveals it."""
        _dice.seed()
        _dice.gauss(0.0, 1.0)
        self._mark = _dice.gauss_next

    def _restore_libraries(self) -> None:
        """Restore the state of modules that most tasks do without, if they are loaded."""
        methods: Any = _modules.get("multiprocessing.context")
        if methods is not None and methods._default_context._actual_context is not self._start_method:
            methods._default_context._actual_context = self._start_method
        events: Any = _modules.get("asyncio.events")
        if events is not None and events._event_loop_policy is not None:
            # A policy creates no loop after one was set and removed: it must be as if it had never been used.
            events._event_loop_policy = self._loop_policy
            loops = getattr(self._loop_policy, "_local", None)
            if loops is not None:
                self._loop_policy._local = type(loops)()

    def _restore_signals(self) -> None:
        for number, handler in zip(_SIGNALS, self._signals, strict=True):
            if _getsignal(number) is not handler:
                with contextlib.suppress(ValueError, OSError, TypeError):
                    _setsignal(number, handler)

    def _restore_folder(self) -> None:
        try:
            same = _getcwd() == self._folder
        except OSError:  # the task removed the folder that it was in
            same = False
        if not same:
            with contextlib.suppress(OSError):  # our own folder is gone: there is nothing to return to
                _chdir(self._folder)

    def _look_closely(self) -> None:
        for timer in _TIMERS:
            _setitimer(timer, 0)
        _cancel_dump()
        faulthandler.enable(self._stacks, all_threads=False)
        sys.settrace(None)
        sys.setprofile(None)
        _sigmask(signal.SIG_SETMASK, self._sigmask)
        for kind, limits in self._limits:
            if _getrlimit(kind) != limits:
                self._restore_limit(kind, limits)
        for get, put, before in self._close_settings:
            if get() != before:
                put(before)
        for get, put, before in self._privileges:
            if get() != before:
                try:
                    put(before)
                except OSError:  # the task gave up the privilege
                    self.spoiled = True
        for number, copy in enumerate(self._copies):
            if self._identity(number) != self._files[number]:
                _dup2(copy, number)
        _umask(self._umask_before)
        for now, before in self._guarded:
            if now != before:
                self._restore_module(now, before)
        for name, hook in self._hooks:
            if getattr(sys, name, None) is not hook:
                setattr(sys, name, hook)
        for name in _LAST_ERRORS:
            if name in vars(sys):
                delattr(sys, name)
        tracing = _modules.get("_tracemalloc")
        if tracing is not None and tracing.is_tracing():
            tracing.stop()
        self._restore_numpy()
        self._look_at_memory()
        if self._stdout.closed or self._stderr.closed:
            self.spoiled = True

    @staticmethod
    def _restore_module(now: dict[str, Any], before: dict[str, Any]) -> None:
        for name, value in before.items():
            if now.get(name, before) is not value:
                now[name] = value
        for name in now.keys() - before.keys():  # new names do no harm and may be caches
            before[name] = now[name]

    def _restore_limit(self, kind: int, limits: tuple[int, int]) -> None:
        try:
            resource.setrlimit(kind, limits)
        except (OSError, ValueError):  # the hard limit was lowered permanently
            self.spoiled = True

    def _restore_numpy(self) -> None:
        """Restore numpy's handling of floating-point errors and make its random numbers unpredictable.

        Like ``random``, numpy keeps a second number; it is used in the same way.
        """
        numpy = _modules.get("numpy")
        if numpy is None or not hasattr(numpy, "seterr"):  # it is not loaded, or only in part
            return
        if numpy.geterr() != self._numpy_errors:
            numpy.seterr(**self._numpy_errors)
        dice = _modules.get("numpy.random")
        if dice is not None and hasattr(dice, "get_state"):
            state = dice.get_state(legacy=False)
            if (state.get("has_gauss"), state.get("gauss")) != self._numpy_dice:
                dice.seed()
                dice.standard_normal()
                state = dice.get_state(legacy=False)
                self._numpy_dice = state.get("has_gauss"), state.get("gauss")

    def _look_at_memory(self) -> None:
        """Collect garbage when the process has grown.  If it still exceeds its bound then, it will not give the memory back."""
        own = self._own_memory()
        if own > self._collect_above or own > self._most_memory:
            gc.collect()
            own = self._own_memory()
            self._collect_above = own + max(MAX_GARBAGE, own // 4)
        if own > self._most_memory:
            self.spoiled = True

    def _own_memory(self) -> int:
        """Return the bytes of anonymous memory of this process; 0 where that is unknown."""
        if self._statm < 0:
            return 0
        try:
            _, resident, shared, *_ = os.pread(self._statm, 128, 0).split()
        except OSError:  # the task closed it
            self.spoiled = True
            return 0
        return (int(resident) - int(shared)) * _PAGE_BYTES
