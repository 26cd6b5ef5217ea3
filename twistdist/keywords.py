"""Unknown keywords: error messages that name the equivalent, for users of other frameworks."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

_ACTOR = "there are no actors in this version"
_SLOTS = "use slots=…: each worker runs that many tasks at a time, each in a process of its own"
_WORKERS = "use n_workers=…, the number of workers, and slots=…, how many tasks each of them runs at a time"
_HOST = "use host=…, the name or address at which other machines reach a LocalCluster, and tls=…; its port is a free one"
_SECRET = "use secret=…, the shared secret, and tls=…, a folder of certificates made by twistdist certs"
_ADDRESS = "give the scheduler's address, or a cluster, as the first argument"

_HTTP = "use http=…, where the scheduler serves its state, such as 8787; twistdist status ADDRESS shows what a cluster is doing"

#: The option's name in other frameworks -> what to do instead.
_HINTS = {
    "actor": _ACTOR,
    "address": _ADDRESS,
    "asynchronous": "the client of twistdist.connect returns Deferreds, that of twistdist.blocking waits",
    "cluster": _ADDRESS,
    "dashboard_address": _HTTP,
    "death_timeout": "use timeout=…, the seconds to wait for the scheduler",
    "interface": _HOST,
    "ip": _HOST,
    "local_directory": "results are kept in shared memory, and on disk under TMPDIR when memory is short",
    "loop": "the blocking API has a reactor of its own, and the Deferred API is given one",
    "max_workers": _WORKERS,
    "memory": "use memory_limit=…, the memory that each worker's tasks and results may use",
    "name": "use session=… of Client and connect, the name of a durable session",
    "nanny": "a worker that dies is always started again",
    "ncores": _SLOTS,
    "nprocs": _WORKERS,
    "nthreads": _SLOTS,
    "num_cpus": _WORKERS,
    "n_jobs": _WORKERS,
    "port": _HOST,
    "processes": "each task runs in a process; n_workers=… and slots=… set how many run at a time",
    "protocol": "use tls=… to encrypt connections",
    "scheduler_file": _ADDRESS,
    "scheduler_port": _HOST,
    "security": _SECRET,
    "silence_logs": "set TWISTDIST_LOG_LEVEL in the environment, the level from which the processes log (default: error)",
    "threads_per_worker": _SLOTS,
    "worker_dashboard_address": _HTTP,
}

#: Methods of clients of other frameworks -> what to do instead.
_METHODS = {
    "as_completed": "as_completed(futures) is a function of twistdist.blocking, and of twistdist",
    "call_stack": "use why(future), or logs()",
    "dump_cluster_state": "use status(), incidents() and workers()",
    "forward_logging": "use logs()",
    "get_events": "use incidents()",
    "get_executor": "use executor(**options)",
    "get_metadata": "use publish_dataset(name, futures) and get_dataset(name)",
    "get_scheduler_logs": "use incidents(); the scheduler's log is where its process writes it",
    "get_task_stream": "use report(path) or recording(path), or why(future) for one task",
    "get_versions": "each connection checks the version of the protocol; twistdist.__version__ is this one's",
    "get_worker_logs": "use logs()",
    "graph": "use lineage(futures)",
    "log_event": "print in the task, and use logs()",
    "nbytes": "use workers(): memory, in bytes of results",
    "ncores": "use workers(): slots",
    "nthreads": "use workers(): slots",
    "processing": "use workers(): running and queued",
    "profile": "profile the function itself; why(future) tells where and how long it ran",
    "put": "use scatter(data)",
    "register_worker_callbacks": "use run(function)",
    "register_worker_plugin": "use register_plugin(plugin, name)",
    "remote": "use submit(function, *args)",
    "restart_workers": "use restart(); retire_workers(names) ends workers",
    "run_coroutine": "use run(function): a coroutine function is awaited on the worker",
    "run_on_scheduler": "the scheduler never runs code of users; use status() and incidents()",
    "scheduler_info": "use status() and workers()",
    "set_metadata": "use publish_dataset(name, futures) and get_dataset(name)",
    "start_ipython_workers": "use run(function, workers=[name])",
    "story": "use why(future)",
    "subscribe_topic": "use incidents()",
    "unregister_worker_plugin": "use unregister_plugin(name)",
    "wait": "wait(futures) is a function of twistdist.blocking, and of twistdist",
    "wait_for_worker": "use wait_for_workers(n)",
    "who_holds": "use who_has(futures)",
}

_AMOUNTS = 'use resources={"GPU": 1}, the free resources that a worker must have, of those it was started with (--resources)'

#: The options of ``submit``.
TASK_OPTIONS = (
    "allow_other_workers",
    "checkpoint",
    "crash_limit",
    "group",
    "key",
    "priority",
    "pure",
    "replace",
    "replay",
    "replicas",
    "resources",
    "retries",
    "time_limit",
    "workers",
)

#: The same for ``submit`` and ``map``, which pass unknown keywords to the function.
_TASK_HINTS = {
    "actor": _ACTOR,
    "actors": _ACTOR,
    "batch_size": "map sends its tasks in batches automatically",
    "fifo_timeout": "use priority=…: larger ones run earlier, equal ones in the order in which they were submitted",
    "max_retries": "use retries=…, how often the task runs again after an exception",
    "num_cpus": _AMOUNTS,
    "num_gpus": _AMOUNTS,
    "timeout": "use time_limit=…, the seconds that the task may run; future.result(timeout) limits the wait for it",
}


def _misspelt(word: str) -> str:
    near = difflib.get_close_matches(word, TASK_OPTIONS, 1)
    return f"did you mean {near[0]}?" if near else ""


def refuse_foreign(function: Callable[..., Any], keywords: Iterable[str]) -> None:
    """Raise ``TypeError`` for misspelt task options, and those of other frameworks, that ``function`` does not accept."""
    found = {name: _TASK_HINTS.get(name) or _misspelt(name) for name in keywords}
    if not any(found.values()):
        return
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return  # unknown: let the call fail or succeed by itself
    named = {
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    foreign = [name for name, hint in found.items() if hint and name not in named]
    if foreign and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        hints = "; ".join(f"{name} is not an option here: {found[name]}" for name in foreign)
        raise TypeError(f"{hints} (the function {getattr(function, '__name__', function)!s} has no such parameter)")


def unknown_keywords(whose: str, given: Iterable[str], known: Iterable[str]) -> TypeError:
    """Return the error for keywords that ``whose`` does not have: what to use instead of each, or the most similar option."""
    options, parts = sorted(set(known)), []
    for word in given:
        near = difflib.get_close_matches(word, options, 1)
        if word in _HINTS:
            parts.append(f"{word} is not an option here: {_HINTS[word]}")
        else:
            parts.append(f"there is no option {word}" + (f", did you mean {near[0]}?" if near else ""))
    return TypeError(f"{whose}: {'; '.join(parts)} (its options are {', '.join(options)})")


def unknown_method(thing: Any, name: str) -> AttributeError:
    """Return the error for an attribute that a client does not have: what to use instead, if another framework has it."""
    text = f"{type(thing).__name__!r} object has no attribute {name!r}"
    return AttributeError(f"{text}: {_METHODS[name]}" if name in _METHODS else text, name=name, obj=thing)
