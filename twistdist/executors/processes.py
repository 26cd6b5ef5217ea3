"""What the kernel reports about processes: how one ended, how much memory it has, whether any was killed for lack of memory.

Read from /proc; where that does not exist the answers are "nothing known".
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

from twistdist.executors.packets import EXIT_DESCRIPTORS, EXIT_PLUGIN, EXIT_START

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def exit_in_words(status: int) -> str:
    """Describe for people how a process ended; ``status`` is as returned by ``os.waitstatus_to_exitcode``."""
    if status == EXIT_DESCRIPTORS:
        return "the task closed the descriptors of its executor, so its outcome could not be reported"
    if status == EXIT_PLUGIN:
        return "a plugin could not be set up; see the message in the worker's log"
    if status == EXIT_START:
        return "an error of the executor itself; see the message in the worker's log"
    if status >= 0:
        return f"exit code {status}"
    try:
        number = signal.Signals(-status)
    except ValueError:
        return f"signal {-status}"
    return f"{number.name} ({signal.strsignal(number)})"


def kernel_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since it booted; 0 where it does not say."""
    try:
        with open("/proc/vmstat") as stream:
            return next((int(line.split()[1]) for line in stream if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def state_of(pid: int) -> str:
    """Return the kernel's letter for the state of a process: ``T`` stopped by a signal (``t`` by a debugger), ``Z`` ended but
    not reaped, …; "" where the kernel does not say or there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def family(pid: int) -> list[int]:
    """Return a process and its descendants, as far as the system reports them."""
    found = [pid]
    for member in found:
        found += children(member)
    return found


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, as far as the system reports them."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended in the meantime, or this system does not say
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as stream:
                found += map(int, stream.read().split())
    return found


def memory_of(pid: int) -> int:
    """Return the bytes of anonymous memory of a process and its descendants.  Mapped files (also the store's) do not count."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError), open(f"/proc/{member}/statm") as stream:
            _, resident, shared, *_ = stream.read().split()
            total += (int(resident) - int(shared)) * _PAGE_BYTES
    return total


def is_tracker(pid: int) -> bool:
    """Return whether a process claims to be a resource tracker of ``multiprocessing``.  Once all the processes that it serves
    are gone, a tracker removes the semaphores and shared memory that they left, and ends."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return b"multiprocessing.resource_tracker import main" in stream.read()
    except OSError:
        return False


def kill_all(pid: int) -> None:
    """SIGKILL an executor and all that it started, except resource trackers: the template gives these a moment."""
    members = family(pid)
    trackers = [member for member in members if is_tracker(member)]
    if not trackers:
        kill_group(pid)  # all at once
    for member in members:
        if member not in trackers:
            _kill(os.kill, member)


def kill_orphan(pid: int) -> None:
    """SIGKILL a process that an executor left behind, and its descendants, whatever they claim to be."""
    for member in family(pid):
        _kill(os.kill, member)


def kill_group(pid: int) -> None:
    """SIGKILL all processes of an executor's group."""
    _kill(os.killpg, pid)


def _kill(how: Callable[[int, int], None], pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, or its group does not exist yet
        how(pid, signal.SIGKILL)


def machine_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or less if its control group says so."""
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
    """Return the files that hold the memory limits of this process's control groups, versions 1 and 2."""
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
