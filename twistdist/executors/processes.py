"""What the kernel says of processes: how one ended, what memory it has, whether the kernel killed somebody for memory.

Read from /proc; where that does not exist the answers are "nothing known".
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from twistdist.executors.packets import EXIT_DESCRIPTORS, EXIT_START

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def exit_in_words(status: int) -> str:
    """How a process ended, for people; ``status`` as of ``os.waitstatus_to_exitcode``."""
    if status == EXIT_DESCRIPTORS:
        return "the task closed the descriptors of its executor, and its outcome can't be told"
    if status == EXIT_START:
        return "an error of the executor itself; its message is in the worker's log"
    if status >= 0:
        return f"exit code {status}"
    try:
        number = signal.Signals(-status)
    except ValueError:
        return f"signal {-status}"
    return f"{number.name} ({signal.strsignal(number)})"


def kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        with open("/proc/vmstat") as stream:
            return next((int(line.split()[1]) for line in stream if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def state_of(pid: int) -> str:
    """The kernel's letter for a process: ``T`` stopped by a signal (a debugger's is ``t``), ``Z`` ended and not reaped, …;
    "" where
    it does not say, or there is none."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def family(pid: int) -> list[int]:
    """A process and its descendants, as far as the system says."""
    found = [pid]
    for member in found:
        with contextlib.suppress(OSError):  # it has ended meanwhile, or this system does not say
            for thread in os.listdir(f"/proc/{member}/task"):
                with open(f"/proc/{member}/task/{thread}/children") as stream:
                    found += map(int, stream.read().split())
    return found


def memory_of(pid: int) -> int:
    """Bytes of anonymous memory of a process and its descendants.  Mapped files (the store's too) do not count."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError), open(f"/proc/{member}/statm") as stream:
            _, resident, shared, *_ = stream.read().split()
            total += (int(resident) - int(shared)) * _PAGE_BYTES
    return total


def is_tracker(pid: int) -> bool:
    """Whether this calls itself a resource tracker of ``multiprocessing``: when all that it serves are gone, such a process
    removes the semaphores and shared memory that they have left, and ends."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return b"multiprocessing.resource_tracker import main" in stream.read()
    except OSError:
        return False


def kill_all(pid: int) -> None:
    """SIGKILL an executor and what it has started, but for resource trackers: the template gives them a moment."""
    members = family(pid)
    trackers = [member for member in members if is_tracker(member)]
    if not trackers:
        kill_group(pid)  # all at once
    for member in members:
        if member not in trackers:
            _kill(os.kill, member)


def kill_orphan(pid: int) -> None:
    """SIGKILL what an executor has left, with its descendants, whatever they call themselves."""
    for member in family(pid):
        _kill(os.kill, member)


def kill_group(pid: int) -> None:
    """SIGKILL all processes of an executor's group."""
    _kill(os.killpg, pid)


def _kill(how: Callable[[int, int], None], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, or its group is made only now
        how(pid, signal.SIGKILL)


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or less where its control group says so."""
    found = [os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes", *_own_groups()):
        try:
            with open(path) as stream:
                text = stream.read().strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found)


def _own_groups() -> list[str]:
    """The files with the memory limits of this process's control groups, versions 1 and 2."""
    paths = []
    try:
        with open("/proc/self/cgroup") as stream:
            for line in stream:
                _, kinds, group = line.strip().split(":", 2)
                if kinds == "memory":
                    paths.append(f"/sys/fs/cgroup/memory{group}/memory.limit_in_bytes")
                elif not kinds:
                    paths.append(f"/sys/fs/cgroup{group}/memory.max")
    except OSError:
        return []
    return paths
