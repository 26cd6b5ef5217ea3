"""Running a user's script on a cluster with faults, and comparing its answer with that of a run without faults."""

from __future__ import annotations

import contextlib
import filecmp
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import attrs

from twistdist.blocking import Client
from twistdist.chaos.cluster import HOST, ChaosCluster
from twistdist.chaos.disks import places, small_disks
from twistdist.chaos.inject import Injected, Injector
from twistdist.chaos.plan import Fault
from twistdist.chaos.watch import Counts, Watch

#: How much of a script's standard error is kept for the report, in bytes, and shown, in lines.
MAX_ERROR_BYTES, SHOWN_LINES = 16 << 10, 20

#: Characters of a line that differs that are shown.
SHOWN_CHARACTERS = 200

#: Runs a script in such a way that the kernel ends it with this program (``prctl(2)``, ``PR_SET_PDEATHSIG``), even if that is
#: killed: the script would wait for a cluster that is gone.
_ENDS_WITH_US = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

#: Seconds that workers may take to register.
START_S = 60.0


@attrs.frozen
class Answer:
    """How a run of the script ended.

    Attributes:
        output: The file with its standard output.
        status: Its exit status, negative for a signal; None if it did not end in time.
        seconds: How long it took.
        errors: The last lines of its standard error.
    """

    output: Path
    status: int | None
    seconds: float
    errors: list[str]


@attrs.frozen
class Run:
    """A run of the script on a cluster of its own: its answer, what the cluster did, and the faults."""

    answer: Answer
    counts: Counts
    faults: dict[str, int] = attrs.field(factory=dict)
    missed: int = 0
    injected: list[Injected] = attrs.field(factory=list)


@attrs.frozen
class Script:
    """What to run, and on which cluster.

    Attributes:
        path: The Python file.
        arguments: Its arguments.
        workers: The number of workers.
        slots: The slots of each.
        timeout: Seconds that a run may take.
        kinds: The kinds of faults.
        folder: A folder for files of this program.
    """

    path: Path
    arguments: Sequence[str]
    workers: int
    slots: int
    timeout: float
    kinds: Sequence[str]
    folder: Path

    def run(self, number: int, faults: Iterator[Fault] | None) -> Run:
        """Run the script once, on a cluster of its own.

        Args:
            number: The number of the run; 0 for the reference.
            faults: A plan; None: without faults.

        Raises:
            TwistdistError: The cluster does not start.
            OSError: No disk can be mounted.
        """
        secret = os.urandom(32).hex()
        with (
            small_disks(self.kinds) as disks,
            ChaosCluster(self.workers, self.slots, secret, [str(self.path.resolve().parent)], **places(disks)) as cluster,
            Client(cluster.direct_address, secret=secret) as client,
        ):
            cluster.disks = disks
            client.wait_for_workers(self.workers, START_S)
            watch = Watch(client)
            injectors: list[Injector] = []

            def start() -> None:
                if faults is not None:
                    injectors.append(Injector(cluster, watch, faults))

            try:
                answer = self._execute(number, cluster.address, secret, start)
            finally:
                for injector in injectors:
                    injector.stop()
                watch.stop()
            found = [(injector.counts, injector.missed, injector.injected) for injector in injectors]
        return Run(answer, watch.counts(), *(found[0] if found else ()))

    def _execute(self, number: int, address: str, secret: str, start: Callable[[], None]) -> Answer:
        """Run the script's process; ``start`` is called when it has been started."""
        output = self.folder / f"output-{number}"
        secret_file = self.folder / f"secret-{number}"
        secret_file.touch(mode=0o600)
        secret_file.write_text(secret)
        environment = {
            **os.environ,
            "TWISTDIST_SCHEDULER": address,
            "TWISTDIST_SECRET_FILE": str(secret_file),
            HOST: f"chaos-{os.getpid()}-client",
        }
        wrapper = ["-c", _ENDS_WITH_US] if sys.platform == "linux" else []
        command = [sys.executable, *wrapper, str(self.path), *self.arguments]
        with open(output, "wb") as out, tempfile.TemporaryFile() as errors:
            began = time.monotonic()
            # Its own group: whatever it has started ends with it, and Ctrl-C reaches this program alone.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment, start_new_session=True
            )
            try:
                start()
                status: int | None = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                seconds = time.monotonic() - began
                if process.poll() is None:  # not reaped, so the number is still the script's
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            return Answer(output, status, seconds, _last_lines(errors))


def _last_lines(stream: BinaryIO) -> list[str]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - MAX_ERROR_BYTES))
    return stream.read().decode(errors="replace").splitlines()[-SHOWN_LINES:]


def verdict(reference: Answer | None, answer: Answer) -> str:
    """Return ``"right"``, ``"wrong"`` or ``"none"``.

    ``"none"``: the script did not end in time, was killed, or failed where the reference did not: it says itself that it has no
    answer.  Without a reference, exit status 0 is right, and any other one is "none".
    """
    if answer.status is None or answer.status < 0:
        return "none"
    expected = 0 if reference is None else reference.status
    if answer.status and not expected:
        return "none"
    if answer.status != expected:
        return "wrong"
    same = reference is None or filecmp.cmp(reference.output, answer.output, shallow=False)
    return "right" if same else "wrong"


def difference(reference: Answer, answer: Answer) -> str:
    """Describe the first line of standard output that differs; "" if none does."""
    if reference.status != answer.status:
        return f"exit status {answer.status} instead of {reference.status}"
    with open(reference.output, "rb") as expected, open(answer.output, "rb") as found:
        for number, (before, now) in enumerate(itertools.zip_longest(expected, found), 1):
            if before != now:
                return f"line {number} is {_shown(now)} instead of {_shown(before)}"
    return ""


def _shown(line: bytes | None) -> str:
    if line is None:
        return "missing"
    text = line.decode(errors="replace").rstrip("\n")
    return repr(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…")
