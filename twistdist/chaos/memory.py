"""Memory pressure: a process beside the slots of a worker holds memory, which counts towards the worker's limit."""

from __future__ import annotations

import time

from twistdist.executors.processes import machine_memory

#: The memory that one process holds at most, as a share of this machine's free memory.
HELD_SHARE = 0.25

#: The memory limit of a worker in a cluster with faults, as a share of the free memory, unless another limit is given.
LIMIT_SHARE = 0.20

#: What a worker uses in all while memory is held, as a share of its limit: results move to disk, it takes one task at a time,
#: and nothing is ended yet (the shares are in ``core/worker/tuning.py``).
USED_SHARE = 0.90

#: Bytes below which it is not worth it.
MIN_BYTES = 1 << 20


def free_memory() -> int:
    """Return the bytes of memory that programs can take without swapping; a quarter of all where the kernel does not say."""
    limit = machine_memory()
    try:
        with open("/proc/meminfo") as stream:
            [kibibytes] = [line.split()[1] for line in stream if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        return limit // 4
    return min(limit, int(kibibytes) << 10)


def worker_limit() -> int:
    """Return the default memory limit of a worker of a cluster with faults, in bytes."""
    return int(LIMIT_SHARE * free_memory())


def size_for(limit: int, used: int) -> int:
    """Return how many bytes to hold so that a worker with a limit uses most of it.

    Args:
        limit: The worker's limit in bytes.
        used: The bytes that it uses already.
    """
    return max(0, min(int(USED_SHARE * limit) - used, int(HELD_SHARE * free_memory())))


def hold(size: int, seconds: float) -> int:
    """Hold ``size`` bytes of memory for a time, and return how many were held.  It runs on a worker."""
    held = b"\1" * size  # not zeros, which would not take memory before they are written
    time.sleep(seconds)
    return len(held)
