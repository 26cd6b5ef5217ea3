"""The options of a cluster, checked, as words for the command lines of its processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta

from twistdist.config import MEMORY_SHARE, as_path, as_seconds, as_text, as_whole_number, silence_limits
from twistdist.errors import shown
from twistdist.net.hosts import check_http, memory_limit_of
from twistdist.net.options import check_declared

#: The maximum number of workers, and of slots of each.  A larger number is taken for a mistake.
MAX_WORKERS = 10_000
MAX_SLOTS = 4096


def worker_words(
    slots: int | None,
    memory_limit: str | float | None,
    executor_memory_limit: str | float | None,
    resources: Mapping[str, float] | None,
    share: float | None = None,
) -> list[str]:
    """Return the words for a worker.

    Args:
        slots: How many tasks it runs at a time; None: what the worker finds.
        memory_limit: As for :class:`twistdist.LocalCluster`.
        executor_memory_limit: The same for the process of one task.
        resources: What it has.
        share: The share of this machine's memory that is the limit of each worker if none is given.  None: the worker is
            elsewhere, and finds out itself what a fraction means.

    Raises:
        ConfigError: A size is invalid.
        TypeError: An option has the wrong type.
        ValueError: An option is out of range.
    """
    words = [] if slots is None else ["--slots", str(as_whole_number(slots, "slots", 1, MAX_SLOTS))]
    for name, value in (("memory_limit", memory_limit), ("executor_memory_limit", executor_memory_limit)):
        limit = memory_limit_of(value, name, MEMORY_SHARE if share is None else share)
        if value is not None or (share is not None and name == "memory_limit"):
            words.append(f"--{name.replace('_', '-')}={value if share is None else limit}")
    declared = ",".join(f"{name}={units / 1_000_000:g}" for name, units in (check_declared(resources) or {}).items())
    return [*words, f"--resources={declared}"] if declared else words


def preload_words(preload: str | Iterable[str]) -> list[str]:
    """Return the words for the modules that every executor of a worker has imported before its first task.

    Raises:
        TypeError: One of ``preload`` is not text.
        ValueError: It is not the name of a module.
    """
    words = []
    for module in [preload] if isinstance(preload, str) else list(preload):
        if not all(part.isidentifier() for part in as_text(module, "preload").split(".")):
            raise ValueError(f"preload must be names of modules, such as 'package.module', got {shown(module)}")
        words.append(f"--preload={module}")
    return words


def scheduler_words(
    checkpoint_store: str | os.PathLike[str] | None,
    suspect_after: float | timedelta | None,
    dead_after: float | timedelta | None,
    http: str | None,
) -> list[str]:
    """Return the words for the scheduler.  The arguments are those of :class:`twistdist.LocalCluster`.

    Raises:
        ConfigError: ``http`` is no endpoint, or ``suspect_after`` is not less than ``dead_after``.
        TypeError: An option has the wrong type.
        ValueError: An option is out of range.
    """
    words = [] if checkpoint_store is None else ["--checkpoint-store", as_path(checkpoint_store, "checkpoint_store")]
    if http is not None:
        words += ["--http", check_http(as_text(http, "http"))]
    silence = {"suspect_after": suspect_after, "dead_after": dead_after}
    given = {name: None if value is None else as_seconds(value, name, 0.1, 86_400) for name, value in silence.items()}
    first, last = silence_limits(given["suspect_after"], given["dead_after"])
    return [*words, f"--suspect-after={first}", f"--dead-after={last}"]
