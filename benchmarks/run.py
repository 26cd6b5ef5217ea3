"""Runs: the systems take turns, and each (system, workload, repeat) has a new process and a limit of time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks import meter, systems
from benchmarks.figures import Scale
from benchmarks.workloads import Workload

ROOT = pathlib.Path(__file__).parents[1]

#: Outcomes of a run.  "hung": it was killed at the limit of time; "failed": it ended by itself before it was done.
OK, HUNG, FAILED = "ok", "hung", "failed"

#: A quick run has this much less time.
QUICK_SHARE = 0.4

#: Seconds that killed processes have to be gone; one that waits for a device can take longer, and is left.
LONGEST_END_S = 10.0

_PATH = re.compile(r"(?<![\w:/])/(?:[\w.+@-]+/)+([\w.+@-]+)")


@dataclasses.dataclass(frozen=True)
class Turn:
    """One run that must be made."""

    system: str
    workload: Workload
    repeat: int


def turns(names: Sequence[str], workloads: Iterable[Workload], repeat: int) -> Iterator[Turn]:
    """Ours, a peer, …, ours, a peer, …: what slows the machine for a while hits all of them."""
    features = {name: systems.load(name).features for name in names}
    for workload in workloads:
        for number in range(repeat):
            for name in names:
                if name == systems.OURS or (not workload.ours_only and workload.needs <= features[name]):
                    yield Turn(name, workload, number)


def take(turn: Turn, scale: Scale) -> dict[str, Any]:
    """Make a run and return what is stored of it: its outcome and its figures."""
    limit = turn.workload.limit_s * (QUICK_SHARE if scale.quick else 1.0)
    flags = [f"--{name}" for name, is_set in dataclasses.asdict(scale).items() if is_set]
    made = execute("benchmarks.one", [turn.system, turn.workload.name, *flags], limit)
    return {
        "system": turn.system,
        "workload": turn.workload.name,
        "repeat": turn.repeat,
        "outcome": made.outcome,
        "detail": made.detail,
        "seconds": made.seconds,
        "figures": made.lines,
    }


@dataclasses.dataclass(frozen=True)
class Made:
    """How the process of a run ended, after how many seconds, and the lines of JSON that it stored before."""

    outcome: str
    detail: str
    seconds: float
    lines: list[dict[str, Any]]


def execute(module: str, arguments: Sequence[str], limit: float) -> Made:
    """Run ``python -m MODULE FILE ARGUMENTS…`` in a folder of its own, for at most ``limit`` seconds.

    The process writes lines of JSON to the file; the last one has the key ``done``.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tb", ignore_cleanup_errors=True) as folder:
        stored, output = pathlib.Path(folder, "stored"), pathlib.Path(folder, "output")
        status = _wait_for(module, [str(stored), *arguments], folder, output, limit)
        lines = [json.loads(line) for line in stored.read_text().splitlines()] if stored.exists() else []
        said = output.read_text(errors="replace")
    seconds = round(time.monotonic() - began, 2)
    if lines and "done" in lines[-1]:
        return Made(OK, lines[-1]["detail"], seconds, lines[:-1])
    if status is None:
        return Made(HUNG, f"after {limit:g} s", seconds, lines)
    return Made(FAILED, _last_line(said) or f"exit status {status}", seconds, lines)


def _wait_for(module: str, arguments: Sequence[str], folder: str, output: pathlib.Path, limit: float) -> int | None:
    """Run the process in ``folder``.  Return its exit status, or None if it was killed at the limit."""
    command = [sys.executable, "-m", module, *arguments]
    # A secret of its own, and modules of this checkout in all processes.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": folder}
    environment.pop("TWISTDIST_SECRET_FILE", None)
    with output.open("w") as stream:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=stream, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_descendants()
            process.wait()
            reap_orphans()


def end_descendants() -> None:
    """Kill what this process has started, and what that has left behind (``meter.adopt_orphans``)."""
    end = time.monotonic() + LONGEST_END_S
    while (left := [pid for pid in meter.family(os.getpid()) if pid != os.getpid()]) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)  # until the kernel has ended them


def reap_orphans() -> None:
    """Remove the entries of ended processes from the kernel's table."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _last_line(said: str) -> str:
    """What a process said last, without paths of this machine."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return _PATH.sub(r"…/\1", lines[-1])[:200] if lines else ""
