"""The demonstration: analyse Python's own standard library on a cluster on this machine while its workers are killed.

Each source file of the running Python's standard library is one task: count its identifiers and list its imports.  A tree of
merge tasks combines the results into one table.  Workers are killed with SIGKILL at random moments, and the answer is compared
with that of a serial run.
"""

from __future__ import annotations

import ast
import random
import sysconfig
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from twistdist.blocking import Client, Future, LocalCluster, wait
from twistdist.display import Bar

#: How many partial tables one merge combines.
FAN_IN = 8

#: Folders of the standard library that are skipped: third-party packages, and files that are broken on purpose.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "lib2to3", "__pycache__"}

#: (identifier -> uses, module -> modules it imports)
Table = tuple[Counter[str], dict[str, list[str]]]


def source_files(most: int | None = None) -> list[str]:
    """Return the paths of the standard library's source files, at most ``most``."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(str(p) for p in root.rglob("*.py") if not _LEFT_OUT.intersection(p.relative_to(root).parts[:-1]))
    return files[:most]


def read_file(path: str) -> Table:
    """Return one file's identifiers and imports.  A file that this Python can't parse has none."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError):
        return Counter(), {}
    names: Counter[str] = Counter()
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names[node.id] += 1
        elif isinstance(node, ast.Attribute):
            names[node.attr] += 1
        elif isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names[node.name] += 1
        elif isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports.add("." * node.level + (node.module or ""))
    module = Path(path).relative_to(sysconfig.get_paths()["stdlib"]).with_suffix("")
    return names, {".".join(module.parts): sorted(imports)}


def merge(tables: Sequence[Table]) -> Table:
    """Merge several tables into one."""
    names: Counter[str] = Counter()
    imports: dict[str, list[str]] = {}
    for more, graph in tables:
        names.update(more)
        imports.update(graph)
    return names, imports


def serial(files: Sequence[str]) -> Table:
    """Compute the answer without a cluster."""
    return merge([read_file(path) for path in files])


def submit_all(client: Client, files: Sequence[str]) -> tuple[Future, list[Future]]:
    """Submit all tasks; return (the future of the whole answer, the futures of all tasks)."""
    level = client.map(read_file, files)
    everything = list(level)
    while len(level) > 1:
        level = client.map(merge, [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)])
        everything += level
    return level[0], everything


@attrs.frozen
class Report:
    """The outcome of a demonstration.  ``right``: the answer equals that of the serial run; times are in seconds."""

    files: int
    tasks: int
    killed: list[str]
    right: bool
    seconds: float
    serial_seconds: float
    incidents: list[Any]
    statistics: dict[str, Any]
    answer: Table

    def __str__(self) -> str:
        top = ", ".join(f"{name} {count}" for name, count in self.answer[0].most_common(5))
        edges = sum(map(len, self.answer[1].values()))
        lost = sum(incident.lost for incident in self.incidents if incident.kind == "worker lost")
        adopted = sum(incident.adopted for incident in self.incidents)
        requeued = sum(incident.requeued for incident in self.incidents if incident.kind == "worker lost")
        lines = [
            f"files read        {self.files} of Python's standard library, {self.tasks} tasks",
            f"identifiers       {sum(self.answer[0].values())} uses of {len(self.answer[0])}; most used: {top}",
            f"import graph      {len(self.answer[1])} modules, {edges} imports",
            f"workers killed    {', '.join(self.killed) or 'none'}",
            f"lost              {lost} results without another copy; {requeued} tasks given to a dead worker",
            f"brought back      {self.statistics['replays']} results replayed from their lineage, "
            f"{adopted} taken over from a dead worker's store",
            f"executed          {self.statistics['done']} tasks in total, {self.statistics['done'] - self.tasks} of them again",
            f"time              {self.seconds:.2f} s on the cluster, {self.serial_seconds:.2f} s serially",
            f"answer            {'right: the same as the serial run' if self.right else 'WRONG: differs from the serial run'}",
        ]
        return "\n".join(lines)


def run(
    workers: int = 2,
    kill: int = 1,
    seed: int | None = None,
    wipe: bool = False,
    most_files: int | None = None,
    show: bool = True,
) -> Report:
    """Run the demonstration.

    Args:
        workers: The number of workers.
        kill: How many times a worker is killed, one after the other.
        seed: The seed for choosing the moments and the victims.
        wipe: Delete a killed worker's store too.
        most_files: The number of files to read; None for all.
        show: Show a progress bar.
    """
    rng = random.Random(seed)
    files = source_files(most_files)
    with LocalCluster(n_workers=workers) as cluster, Client(cluster.address) as client:
        began = time.monotonic()
        last, everything = submit_all(client, files)
        middle = len(everything) / (kill + 1)
        moments = [int(middle * (i + 1) + rng.uniform(-0.3, 0.3) * middle) for i in range(kill)]
        victims = _victims(sorted(cluster.workers), kill, rng)
        killed = _watch(cluster, everything, list(zip(moments, victims, strict=True)), wipe, show)
        answer: Table = last.result()
        seconds = time.monotonic() - began
        incidents, statistics = client.incidents(), client.status()
    began = time.monotonic()
    expected = serial(files)
    return Report(
        len(files),
        len(everything),
        killed,
        answer == expected,
        seconds,
        time.monotonic() - began,
        incidents,
        statistics,
        answer,
    )


def _victims(names: list[str], kill: int, rng: random.Random) -> list[str]:
    """Choose the workers to kill: each one once before any a second time."""
    order = rng.sample(names, len(names))
    return [order[i % len(order)] for i in range(kill)]


def _watch(cluster: LocalCluster, futures: list[Future], plan: list[tuple[int, str]], wipe: bool, show: bool) -> list[str]:
    """Show progress and kill workers when it is time, until all tasks have ended; return descriptions of the kills."""
    bar, killed = Bar(len(futures), "tasks "), []
    pending: set[Any] = set(futures)
    while pending:
        pending = wait(pending, 0.02).not_done
        done = len(futures) - len(pending)
        if show:
            bar.show(done)
        while plan and done >= plan[0][0]:
            _, name = plan.pop(0)
            pids = cluster.workers
            if name in pids:
                cluster.kill_worker(name, wipe)
                killed.append(f"{name} (pid {pids[name]}) when {done} tasks were done")
    if show:
        bar.end()
    return killed
