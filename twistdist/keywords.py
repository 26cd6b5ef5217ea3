"""Keywords that nobody knows: what they are called here, for people who come from other frameworks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

_ACTOR = "nothing so far: there are no actors in this version"
_SLOTS = "slots=…: each worker runs that many tasks at a time, each in a process of its own"
_WORKERS = "n_workers=…: how many workers there are, and slots=…: how many tasks each of them runs at a time"
_LOOPBACK = "nothing: a LocalCluster is reached from this machine alone; start twistd twistdist-scheduler for others to reach"
_SECRET = "secret=… and tls=…: the shared secret, and a folder of certificates as twistdist certs makes it"
_ADDRESS = "the first argument: the scheduler's address, or a cluster"

#: What other frameworks call it -> what it is here.
_HINTS = {
    "actor": _ACTOR,
    "address": _ADDRESS,
    "asynchronous": "nothing: the client of twistdist.connect gives Deferreds, that of twistdist.blocking waits",
    "cluster": _ADDRESS,
    "dashboard_address": "nothing so far: twistdist status ADDRESS tells what a cluster does",
    "death_timeout": "timeout=…: seconds to wait for the scheduler",
    "host": _LOOPBACK,
    "interface": _LOOPBACK,
    "ip": _LOOPBACK,
    "local_directory": "nothing: results live in shared memory, and on disk under TMPDIR when that is short",
    "loop": "nothing: the blocking API has a reactor of its own, and the Deferred API is given one",
    "max_workers": _WORKERS,
    "memory": "memory_limit=…: what each worker's tasks and results may use",
    "name": "session=… of Client and connect: the name of a durable session",
    "nanny": "nothing: a worker that dies is always started again",
    "ncores": _SLOTS,
    "nprocs": _WORKERS,
    "nthreads": _SLOTS,
    "num_cpus": _WORKERS,
    "n_jobs": _WORKERS,
    "port": _LOOPBACK,
    "processes": "nothing: each task runs in a process; n_workers=… and slots=… say how many run at a time",
    "protocol": "nothing: with tls=… connections are encrypted",
    "scheduler_file": _ADDRESS,
    "scheduler_port": _LOOPBACK,
    "security": _SECRET,
    "silence_logs": "nothing: TWISTDIST_LOG_LEVEL in the environment says what the processes log (error)",
    "threads_per_worker": _SLOTS,
    "worker_dashboard_address": "nothing so far: twistdist status ADDRESS tells what a cluster does",
}

_AMOUNTS = 'resources={"GPU": 1}: what a worker must have free, of what it was started with (--resources)'

#: The same for ``submit`` and ``map``, whose other keywords are the function's.
_TASK_HINTS = {
    "actor": _ACTOR,
    "actors": _ACTOR,
    "batch_size": "nothing: map sends its tasks in batches by itself",
    "fifo_timeout": "priority=…: a larger one runs earlier; of equal ones what was submitted first",
    "max_retries": "retries=…: how often the task is run again after an exception",
    "num_cpus": _AMOUNTS,
    "num_gpus": _AMOUNTS,
    "timeout": "time_limit=…: seconds that the task may run; future.result(timeout) says how long to wait for it",
}


def refuse_foreign(function: Callable[..., Any], keywords: Iterable[str]) -> None:
    """``TypeError`` for task options of other frameworks among ``keywords`` that ``function`` does not take."""
    found = [name for name in keywords if name in _TASK_HINTS]
    if not found:
        return
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return  # it can't be known
    named = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    foreign = [name for name in found if name not in named]
    if foreign and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        hints = "; ".join(f"{name} is here {_TASK_HINTS[name]}" for name in foreign)
        raise TypeError(f"{hints} (the function {getattr(function, '__name__', function)!s} takes no such keyword)")


def unknown_keywords(whose: str, given: Iterable[str], known: Iterable[str]) -> TypeError:
    """The error for keywords that ``whose`` has not got: what each is called here, or the nearest of those that there are."""
    options, parts = sorted(known), []
    for word in given:
        near = difflib.get_close_matches(word, options, 1)
        if word in _HINTS:
            parts.append(f"{word} is here {_HINTS[word]}")
        else:
            parts.append(f"there is no {word}" + (f", did you mean {near[0]}?" if near else ""))
    return TypeError(f"{whose}: {'; '.join(parts)} (its options are {', '.join(options)})")
