"""CPU time and memory of processes, as the kernel counts them in /proc."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator, Mapping

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36

#: In the numbers of fields that follow a process's name in /proc/PID/stat.
_STATE, _PARENT, _CPU, _CHILDREN = 0, 1, slice(11, 13), slice(13, 15)


def adopt_orphans() -> None:
    """From now on processes whose parent ends become children of this process, as long as it is their ancestor."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _stat(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that it has waited for.  Raises ``OSError`` if it is gone."""
    fields = _stat(pid)
    try:
        own = time.clock_gettime((~pid << 3) | 2)  # the clock of its CPU time: finer than the ticks in /proc
    except OSError:
        own = sum(map(int, fields[_CPU])) / TICKS
    return own + sum(map(int, fields[_CHILDREN])) / TICKS


def _own_seconds() -> float:
    """The same for this process."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def parents() -> dict[int, int]:
    """The parent of each process of this machine that is not a zombie."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = _stat(int(name))
            if fields[_STATE] != "Z":
                found[int(name)] = int(fields[_PARENT])
    return found


def family(root: int) -> dict[int, int]:
    """``root`` and its descendants, parents first: pid to parent."""
    children: dict[int, list[int]] = {}
    everyone = parents()
    for pid, parent in everyone.items():
        children.setdefault(parent, []).append(pid)
    found: dict[int, int] = {}
    todo = [root] if root in everyone else []
    for pid in todo:
        found[pid] = everyone[pid]
        todo += children.get(pid, [])
    return found


def roles_in(tree: Mapping[int, int], known: Mapping[int, str]) -> dict[int, str]:
    """The role of each process of a tree: its own in ``known``, or that of its nearest ancestor."""
    found: dict[int, str] = {}
    for pid, parent in tree.items():
        found[pid] = known.get(pid) or found.get(parent, "")
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process uses."""
    with open(f"/proc/{pid}/statm") as stream:
        return int(stream.read().split()[1]) * PAGE


def own_memory() -> int:
    """Bytes of memory that only this process uses: without mapped files."""
    with open("/proc/self/statm") as stream:
        _, pages, shared, *_ = map(int, stream.read().split())
    return (pages - shared) * PAGE


def command_of(pid: int) -> str:
    """The command line of a process; "" if it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline") as stream:
            return stream.read().replace("\0", " ").strip()
    except OSError:
        return ""


class Meter:
    """Measures a ``with`` block: wall time, and CPU time of this process and all its descendants.

    ``known`` gives the roles of processes; descendants have the role of their nearest ancestor, and this process is the client.
    Afterwards ``seconds`` is the wall time, ``cpu`` the CPU seconds in all and ``by_role`` those of each role.
    """

    def __init__(self, known: Mapping[int, str]) -> None:
        self._known = {os.getpid(): "client", **known}
        self.seconds = self.cpu = 0.0
        self.by_role: dict[str, float] = {}

    def __enter__(self) -> Meter:
        self._before = dict(self._others())
        self._own, self._began = _own_seconds(), time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self.seconds, own = time.perf_counter() - self._began, _own_seconds() - self._own
        after = dict(self._others())
        # A process that has ended since is counted by the parent that waited for it, which has the same role.
        self.by_role = {role: after.get(role, 0.0) - self._before.get(role, 0.0) for role in {**self._before, **after}}
        self.by_role["client"] = self.by_role.get("client", 0.0) + own
        self.cpu = sum(self.by_role.values())

    def _others(self) -> Iterator[tuple[str, float]]:
        """CPU seconds by role, without those of this process itself."""
        totals: dict[str, float] = {}
        for pid, role in roles_in(family(os.getpid()), self._known).items():
            if pid != os.getpid():
                with contextlib.suppress(OSError):
                    totals[role] = totals.get(role, 0.0) + cpu_seconds(pid)
        yield from totals.items()
