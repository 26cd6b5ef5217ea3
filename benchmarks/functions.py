"""What tasks do.  Every system imports these by name; the module itself imports little."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

from benchmarks.meter import own_memory


def note(log: str, *words: object) -> None:
    """Add a line to a file; lines of several processes do not mix."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
    os.close(descriptor)


def lines(log: str) -> list[list[str]]:
    """The words of each line; none if the file does not exist yet."""
    try:
        with open(log) as stream:
            return [line.split() for line in stream]
    except FileNotFoundError:
        return []


def inc(x: int) -> int:
    return x + 1


def add(a: int, b: int) -> int:
    return a + b


def nap(seconds: float, i: int) -> int:
    time.sleep(seconds)
    return i


def spin(seconds: float, i: int) -> int:
    """Use ``seconds`` of CPU time; time without the CPU does not count."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return i


def noted_nap(log: str, seconds: float, i: int) -> int:
    """``nap``, with a line before (``begin i pid``) and one behind (``end i pid``)."""
    note(log, "begin", i, os.getpid())
    time.sleep(seconds)
    note(log, "end", i, os.getpid())
    return i


def block(log: str, size: int, i: int) -> bytes:
    """``size`` bytes that depend on ``i`` alone, and a line for each run."""
    note(log, "begin", i, os.getpid())
    return value_of(size, i)


def value_of(size: int, i: int) -> bytes:
    """``size`` bytes that depend on ``i`` alone."""
    return random.Random(i).randbytes(size)


def noted_block(log: str, seconds: float, size: int, i: int) -> bytes:
    """``value_of``, after a pause, with a line before (``begin i pid``) and one behind (``end i pid``)."""
    note(log, "begin", i, os.getpid())
    time.sleep(seconds)
    value = value_of(size, i)
    note(log, "end", i, os.getpid())
    return value


def noted_length(log: str, data: bytes, i: int) -> int:
    """The length of some data and ``i``, added, with the same lines."""
    note(log, "begin", i, os.getpid())
    found = len(data) + i
    note(log, "end", i, os.getpid())
    return found


def poison(log: str) -> None:
    """Die of a segmentation fault."""
    note(log, "begin", "poison", os.getpid())
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def gate(path: str) -> int:
    """Wait until a file exists."""
    while not os.path.exists(path):
        time.sleep(0.01)
    return 0


def make_array(log: str, count: int) -> Any:
    """``count`` numbers of 8 bytes, and a line with the seconds that it took."""
    import numpy as np

    began = time.perf_counter()
    array = np.arange(count, dtype=np.float64)
    note(log, time.perf_counter() - began)
    return array


def ends(array: Any) -> float:
    """The first number and the last one, added."""
    return float(array[0] + array[-1])


def memory_with(array: Any) -> int:
    """Bytes that only this process uses when it has read the whole array, if any."""
    if array is not None:
        array.sum()
    return own_memory()
