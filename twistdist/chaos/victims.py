"""Processes of a cluster that can be killed and stopped.  Nothing else is ever signalled.

A process is identified by its pid, its parent and its start time.  A descriptor of it (``pidfd``) is opened before these are
read, so that the pid cannot be reused in between.
"""

from __future__ import annotations

import contextlib
import os
import signal

from twistdist.executors.processes import children


class NoVictim(Exception):
    """There is nothing that the fault could hit at this moment; the text says why."""


def _parent_and_start(pid: int) -> tuple[int, int]:
    """Return the parent of a process that has not ended, and when it started, in ticks since the machine booted."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
    except OSError as error:
        raise NoVictim(f"process {pid} has ended") from error
    if fields[0] == "Z":
        raise NoVictim(f"process {pid} has ended")
    return int(fields[1]), int(fields[19])


class Victim:
    """A process that is a child of ``parent``.

    Raises:
        NoVictim: It has ended, or it is not a child of ``parent``.
    """

    def __init__(self, pid: int, parent: int) -> None:
        self.pid = pid
        self._descriptor = -1
        if hasattr(os, "pidfd_open"):
            try:
                self._descriptor = os.pidfd_open(pid)
            except ProcessLookupError as error:
                raise NoVictim(f"process {pid} has ended") from error
        try:
            found, self._started = _parent_and_start(pid)
            if found != parent:
                raise NoVictim(f"process {pid} is not a child of process {parent}")
        except NoVictim:
            self.close()
            raise

    def signal(self, number: signal.Signals) -> None:
        """Send a signal.

        Raises:
            NoVictim: The process has ended.
        """
        try:
            if self._descriptor >= 0:
                signal.pidfd_send_signal(self._descriptor, number)
            elif _parent_and_start(self.pid)[1] == self._started:
                os.kill(self.pid, number)
            else:
                raise NoVictim(f"process {self.pid} has ended")
        except ProcessLookupError as error:
            raise NoVictim(f"process {self.pid} has ended") from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def template_of(worker: int) -> int:
    """Return the pid of the template of a worker's control process.

    Raises:
        NoVictim: There is none at this moment.
    """
    for pid in children(worker):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as stream:
            if b"twistdist.executors.template" in stream.read():
                return pid
    raise NoVictim("its template is being started")


def executor_of(worker: int, number: float) -> tuple[int, int]:
    """Return the pids of an executor of a worker's control process and of its template.

    Args:
        worker: The pid of the control process.
        number: Chooses one of the executors; a fraction below 1.

    Raises:
        NoVictim: There is none at this moment.
    """
    template = template_of(worker)
    executors = sorted(children(template))
    if not executors:
        raise NoVictim("it has no executor at this moment")
    return executors[int(number * len(executors))], template


def why_unavailable() -> str:
    """Return why processes can't be signalled safely on this system; "" if they can."""
    try:
        _parent_and_start(os.getpid())
    except NoVictim:
        return "needs Linux's /proc, to be sure which process is signalled"
    return ""
