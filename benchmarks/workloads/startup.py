"""W12: from the start of a process to its first result, and what must be installed for it."""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from benchmarks.figures import LOWER, Figure, Scale
from benchmarks.systems.system import System


def first(system: System, scale: Scale) -> Iterator[Figure]:
    """A script that starts two workers, gets one result and ends."""
    name = type(system).__module__.rpartition(".")[2]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "benchmarks.first", name], stdout=subprocess.PIPE) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == b"first\n", f"{name} gave no result"
        yield Figure("first result after", time.perf_counter() - began, "s", LOWER)
        got = time.perf_counter()
    yield Figure("end of the process after that", time.perf_counter() - got, "s", LOWER)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    yield Figure("CPU in all", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "s", LOWER)
    if system.distributions:
        sizes = installed(system.distributions)
        yield Figure("installed, without bytecode", sum(sizes.values()) / 2**20, "MiB", LOWER)
        yield Figure("distributions", len(sizes), "")


def installed(names: Sequence[str]) -> dict[str, int]:
    """Bytes of the files of these distributions and of all that they require, by name; bytecode is not counted."""
    found: dict[str, int] = {}
    todo = list(names)
    for name in todo:
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        found[key] = _bytes_of(distribution, key)
        plain = (one for one in distribution.requires or () if "extra ==" not in one)
        todo += [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in plain]
    return found


def _bytes_of(distribution: importlib.metadata.Distribution, key: str) -> int:
    paths = [pathlib.Path(str(file.locate())) for file in distribution.files or ()]
    if key == "twistdist":  # a checkout's list of files does not name the package's
        import twistdist

        paths = list(pathlib.Path(twistdist.__file__).parent.rglob("*"))
    return sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.is_file())
