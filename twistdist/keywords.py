"""Keywords that nobody knows: what they are called here, for people who come from other frameworks."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SLOTS = "slots=…: each worker runs that many tasks at a time, each in a process of its own"
_WORKERS = "n_workers=…: how many workers there are, and slots=…: how many tasks each of them runs at a time"
_LOOPBACK = "nothing: a LocalCluster is reached from this machine alone; start twistd twistdist-scheduler for others to reach"
_SECRET = "secret=… and tls=…: the shared secret, and a folder of certificates as twistdist certs makes it"
_ADDRESS = "the first argument: the scheduler's address, or a cluster"

#: What other frameworks call it -> what it is here.
_HINTS = {
    "actor": "nothing so far: there are no actors in this version",
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
}  # fmt: skip


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
