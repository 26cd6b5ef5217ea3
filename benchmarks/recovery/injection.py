"""The faults: whom they hit, and how.  Every system is hit by these functions and by nothing else.

Tasks note their beginnings and ends in a file (``functions.note``), outside the system.  The file says how far the work is,
which process works on what, and how often each task was executed.  An adapter only says which processes make up a node, which
ones are the head, and which node holds a value.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks import functions


def ran(log: str, word: str = "begin") -> int:
    """How many lines of the log begin with a word: how many executions began."""
    return sum(words[0] == word for words in functions.lines(log))


def executed_again(log: str) -> int:
    """How many executions there were beyond one of each task."""
    begun = [words[1] for words in functions.lines(log) if words[0] == "begin"]
    return len(begun) - len(set(begun))


def at_work(log: str) -> list[int]:
    """The number and the pid of a task that has begun and not ended, if there is one."""
    lines = functions.lines(log)
    ended = {words[1] for words in lines if words[0] == "end"}
    return next(([int(i), int(pid)] for word, i, pid in lines if word == "begin" and i not in ended), [])


def busiest(log: str) -> int:
    """The process that has ended most tasks."""
    [(pid, _)] = Counter(int(pid) for word, _, pid in functions.lines(log) if word == "end").most_common(1)
    return pid


@contextlib.contextmanager
def struck(processes: Sequence[int], number: signal.Signals) -> Iterator[None]:
    """Send a signal to all of the processes; those that SIGSTOP has stopped continue when the block ends.

    Raises:
        RuntimeError: None of the processes exists.
    """
    if not sum([_sent(pid, number) for pid in processes]):
        raise RuntimeError(f"none of the processes that {number.name} is for exists")
    try:
        yield
    finally:
        if number == signal.SIGSTOP:
            for pid in processes:
                _sent(pid, signal.SIGCONT)


def standing_still(processes: Sequence[int]) -> contextlib.AbstractContextManager[None]:
    """Stop processes for the length of a block; their connections stay open."""
    return struck(processes, signal.SIGSTOP)


def _sent(pid: int, number: signal.Signals) -> bool:
    """Send a signal unless the process has ended: its system may have killed it, or it fell with its parent."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
