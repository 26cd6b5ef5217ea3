"""Shows that the simulator and the tests of the cores would notice a bug: plants the deliberate bugs of :mod:`.mutants` in a
copy of the package, one at a time, and prints what finds each::

    python -m twistdist.testing.mutations                       # all of them; in a checkout, whose tests are used
    python -m twistdist.testing.mutations --only "fence"        # those with this in their names
    python -m twistdist.testing.mutations --rst                 # as the table of docs/simulator.rst

The simulator comes first.  The tests of the cores are run only if it finds nothing.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NoReturn

import attrs

from twistdist.testing.mutants import MUTANTS, Mutant

#: Schedules that each mutant is given, and the first of their seeds.
SEEDS, FIRST_SEED = 400, 0

#: Seconds after which a simulation, or a run of the tests, counts as one that does not end.
PATIENCE_S = 240.0

#: The tests of the cores that take seconds; those of the simulator add nothing to its schedules, which are tried before.
TESTS = ("tests/core", "tests/fuzz/test_cores.py")

#: Fails on a busy machine, bug or not: its examples have deadlines.
WITH_DEADLINES = "tests/core/test_lineage.py"

#: Those in tests/core that most probably find a bug of a part of the cores.
_TESTS_OF = {
    "session": ("test_session", "test_restart", "test_liveness", "test_client"),
    "exchange": ("test_session",),
    "worker/": ("test_worker", "test_following", "test_beside", "test_liveness"),
    "client/": ("test_client",),
    "scheduler/(gate|ledger|re)": ("test_restart", "test_journaled"),
    "scheduler/(liveness|fleet|audits|watchdog)": ("test_liveness", "test_restart"),
    "scheduler/(copies|scattered|supplies|leaving|recovery)": ("test_replicas", "test_journaled"),
    "scheduler/(placement|dispatch|ready_queue)": ("test_placement", "test_scheduler"),
    "scheduler/(attempts|ahead|lifecycle)": ("test_retry", "test_ahead", "test_scheduler"),
    "scheduler/": ("test_scheduler", "test_journaled", "test_queries"),
}

#: What the processes that are forked need not import again.
PRELOADED = ("pytest", "msgspec", "cloudpickle", "tblib", "xxhash", "twisted.internet.defer", "twisted.web.server")

#: What a copy needs so that the tests run in it.
COPIED = ("twistdist", "tests", "docs", "pyproject.toml")


@attrs.frozen
class Finding:
    """``by`` is "simulation", "tests" or "" (nothing found it); ``how`` says after how many seeds, or which test."""

    mutant: Mutant
    by: str
    how: str
    seconds: float


def mutated(mutant: Mutant, source: str) -> str:
    """Return the source with the bug in it; ``ValueError`` if its text does not occur exactly once, or it can't be parsed."""
    count = source.count(mutant.old)
    if count != 1:
        raise ValueError(
            f"mutant {mutant.name!r}: its text occurs {count} times in core/{mutant.file}, not once; adapt the list"
        )
    changed = source.replace(mutant.old, mutant.new)
    try:
        ast.parse(changed)
    except SyntaxError as error:
        raise ValueError(f"mutant {mutant.name!r}: core/{mutant.file} can't be parsed with it: {error}") from error
    return changed


class Copy:
    """A copy of a checkout, in which one bug is planted after the other."""

    def __init__(self, checkout: pathlib.Path, folder: pathlib.Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", "_build")
        for name in COPIED:
            if (checkout / name).is_dir():
                shutil.copytree(checkout / name, folder / name, ignore=ignored)
            else:
                shutil.copy(checkout / name, folder / name)
        self._clock = int(time.time())

    def write(self, path: pathlib.Path, text: str) -> None:
        """Python recompiles a module whose time has changed, in whole seconds, or whose size has."""
        path.write_text(text)
        self._clock += 2
        os.utime(path, (self._clock, self._clock))

    def run(self, *arguments: str) -> tuple[int | None, str]:
        """Run ``python arguments`` on the copy.  Return the exit status, None if it does not end, and the output."""
        env = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONHASHSEED": "0"}
        command = [sys.executable, *arguments]
        try:
            ran = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            return None, ""
        return ran.returncode, ran.stdout + ran.stderr

    def fork(self, work: Callable[[], int]) -> tuple[int | None, str]:
        """Do ``work`` in a process that finds the copy instead of this package, and everything else imported already.

        Return its exit status, None if it does not end, and what it printed.
        """
        with tempfile.TemporaryFile("w+") as told:
            child = os.fork()
            if not child:
                self._be_child(work, told.fileno())
            deadline = time.monotonic() + PATIENCE_S
            while not (ended := os.waitpid(child, os.WNOHANG))[0]:
                if time.monotonic() > deadline:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return None, ""
                time.sleep(0.02)
            told.seek(0)
            return os.waitstatus_to_exitcode(ended[1]), told.read()

    def _be_child(self, work: Callable[[], int], told: int) -> NoReturn:
        status = 70
        try:
            os.dup2(told, 1)
            os.dup2(told, 2)
            sys.stdout = sys.stderr = os.fdopen(told, "w")
            os.chdir(self.folder)
            sys.path.insert(0, str(self.folder))
            for name in list(sys.modules):
                if name.partition(".")[0] in ("twistdist", "tests"):
                    del sys.modules[name]
            importlib.invalidate_caches()
            status = work()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def simulate(self, seeds: int) -> str:
        """Return after how many seeds the simulator fails, or ""."""
        options = ["--seeds", str(seeds), "--first-seed", str(FIRST_SEED), "--until-failure"]
        status, told = self.fork(lambda: int(importlib.import_module("twistdist.testing.simulate").main(options)))
        failed = re.search(r"^seed (\d+) failed", told, re.MULTILINE)
        if failed is not None:
            count = int(failed[1]) - FIRST_SEED + 1
            return f"{count} seed{'s' * (count > 1)}"
        if status is None:
            return "a run does not end"
        if status:
            raise RuntimeError(f"the simulator could not be run:\n{told}")
        return ""

    def test(self, mutant: Mutant) -> str:
        """Return the first test that fails, or ""; those of the mutant's part of the core come first."""
        names = next(names for part, names in _TESTS_OF.items() if re.match(part, mutant.file))
        first = [str(path) for path in sorted(self.folder.glob("tests/core/test_*.py")) if path.stem in names]
        return (self._test(first) if first else "") or self._test(TESTS)

    def _test(self, tests: Sequence[str]) -> str:
        options = ["-q", "-x", "-p", "no:cacheprovider", f"--ignore={WITH_DEADLINES}", *tests]
        status, told = self.fork(lambda: int(importlib.import_module("pytest").main(options)))
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", told, re.MULTILINE)
        if failed is not None:
            return failed[1]
        if status is None:
            return "the tests do not end"
        if status:
            raise RuntimeError(f"the tests could not be run:\n{told}")
        return ""

    def find(self, mutant: Mutant, seeds: int) -> Finding:
        """Plant a bug, and tell what finds it."""
        path = self.folder / "twistdist" / "core" / mutant.file
        source, began = path.read_text(), time.monotonic()
        self.write(path, mutated(mutant, source))
        try:
            by, how = "simulation", self.simulate(seeds)
            if not how:
                by, how = "tests", self.test(mutant)
        finally:
            self.write(path, source)
        return Finding(mutant, by if how else "", how, time.monotonic() - began)


def check_all(core: pathlib.Path) -> None:
    """``ValueError`` for the first mutant that can't be applied to the sources in ``core``."""
    names = Counter(mutant.name for mutant in MUTANTS)
    for mutant in MUTANTS:
        if names[mutant.name] > 1:
            raise ValueError(f"two mutants are named {mutant.name!r}")
        mutated(mutant, (core / mutant.file).read_text())


def _row(finding: Finding) -> str:
    how = f"``{finding.how.rpartition('/')[2]}``" if finding.by == "tests" else finding.how
    return (
        f"   * - {finding.mutant.name}\n     - ``{finding.mutant.file}``\n     - {finding.mutant.promise}\n"
        f"     - {how or 'NOT FOUND'}"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command.  The exit status is 1 if a bug was not found."""
    parser = argparse.ArgumentParser(
        prog="python -m twistdist.testing.mutations", description="Plant bugs in the cores and tell what finds each."
    )
    parser.add_argument("--only", metavar="TEXT", action="append", help="mutants whose name or file contains this; repeatable")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="schedules that each is given [%(default)s]")
    parser.add_argument("--part", default="1/1", metavar="N/M", help="the N-th of M equal parts of the list [%(default)s]")
    parser.add_argument("--rst", action="store_true", help="print the rows of the table in the docs")
    options = parser.parse_args(argv)
    checkout = pathlib.Path(__file__).parents[2]
    for name in PRELOADED:
        importlib.import_module(name)
    if not (checkout / "tests" / "core").is_dir():
        parser.error(f"{checkout} is not a checkout: the tests are needed, which an installed package does not have")
    check_all(checkout / "twistdist" / "core")
    part = re.fullmatch(r"(\d+)/(\d+)", options.part)
    if part is None or not 1 <= int(part[1]) <= int(part[2]):
        parser.error(f"--part must be N/M with 1 <= N <= M, got {options.part!r}")
    wanted = [
        mutant
        for mutant in MUTANTS
        if not options.only or any(text in (mutant.name, mutant.file) or text in mutant.name for text in options.only)
    ]
    wanted = wanted[int(part[1]) - 1 :: int(part[2])]
    if not wanted:
        parser.error("no mutant has such a name")
    began, found = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(checkout, pathlib.Path(folder))
        for mutant in wanted:
            finding = copy.find(mutant, options.seeds)
            found[finding.by] += 1
            if options.rst:
                print(_row(finding), flush=True)
            else:
                what = f"{finding.by}: {finding.how}" if finding.by else "NOT FOUND"
                print(f"{mutant.name:45} {mutant.file:32} {finding.seconds:6.1f} s  {what}", flush=True)
    print(
        f"{len(wanted)} mutants in {time.monotonic() - began:.0f} s: {found['simulation']} found by simulation, "
        f"{found['tests']} by tests, {found['']} NOT FOUND",
        file=sys.stderr,
    )
    return 1 if found[""] else 0


if __name__ == "__main__":
    sys.exit(main())
