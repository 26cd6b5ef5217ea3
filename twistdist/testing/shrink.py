"""Shortens a failing seed of :mod:`.simulate`: omits outside events and faults as long as the run fails in the same way."""

from __future__ import annotations

import re
import textwrap
import traceback

import attrs

from twistdist.testing.simulate import EVERYWHERE, World

#: Runs that are tried at most.
MAX_RUNS = 2_000


@attrs.frozen
class Short:
    """A run that fails: with ``only`` these outside events and without the faults in ``quiet``; ``wrong`` is how it fails,
    ``story`` what happens in it, and ``runs`` how many were tried."""

    seed: int
    only: tuple[int, ...]
    quiet: tuple[str, ...]
    wrong: str
    story: list[tuple[float, str]]
    of: int
    runs: int


class Shrinker:
    """Delta debugging (Zeller and Hildebrandt, IEEE TSE 28(2), 2002) over the outside events of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.runs = 0
        self.world = World(seed)
        self.wrong = self._failure(self.world)
        if not self.wrong:
            raise ValueError(f"seed {seed} does not fail")

    @staticmethod
    def _failure(world: World) -> str:
        try:
            world.run()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__} in {where.name}: {error}"
        return ""

    def _fails(self, only: list[int], quiet: tuple[str, ...]) -> bool:
        """Whether that run fails in the same way: numbers and names of tasks may differ."""
        self.runs += 1
        found = self._failure(World(self.seed, only=only, quiet=quiet))
        return bool(found) and _kind(found) == _kind(self.wrong)

    def shrink(self) -> Short:
        """Return the shortest run that was found: to leave out any one thing more makes it succeed."""
        quiet: tuple[str, ...] = ()
        only = list(range(self.world.outside.outsiders))
        for fault in EVERYWHERE:
            if self._fails(only, (*quiet, fault)):
                quiet = (*quiet, fault)
        parts = 2
        while only and self.runs < MAX_RUNS:
            size = max(1, len(only) // parts)
            for at in range(0, len(only), size):
                rest = only[:at] + only[at + size :]
                if self._fails(rest, quiet):
                    only, parts = rest, max(2, parts - 1)
                    break
            else:
                if size == 1:
                    break
                parts = min(len(only), 2 * parts)
        for fault in EVERYWHERE:
            if fault not in quiet and self._fails(only, (*quiet, fault)):
                quiet = (*quiet, fault)
        world = World(self.seed, only=only, quiet=quiet)
        wrong = self._failure(world)
        return Short(self.seed, tuple(only), quiet, wrong, world.outside.story, world.outside.outsiders, self.runs)


def _kind(failure: str) -> str:
    return re.sub(r"\b[\w'\\-]*\d[\w'\\-]*|\(.*\)|\[.*\]|\{.*\}", "#", failure.partition("\n")[0])


def script(short: Short) -> str:
    """Return a test file with the run: its story in words, and the call that repeats it."""
    wrong = textwrap.indent("\n".join(textwrap.wrap(short.wrong, 110)), "    ").replace("\\", "/").replace('"', "'")
    story = "\n".join(f"    {at:7.3f} s  {text}" for at, text in short.story)
    left = ", ".join(fault for fault in EVERYWHERE if fault not in short.quiet) or "none"
    return (
        f'"""Seed {short.seed} of the simulator, shortened from {short.of} outside events to {len(short.only)}::\n\n{story}\n\n'
        f'Faults all over the run: {left}.  It failed with::\n\n{wrong}\n"""\n\n'
        f"from twistdist.testing.simulate import World\n\n\ndef test_seed_{short.seed}():\n"
        f"    World({short.seed}, only={short.only!r}, quiet={short.quiet!r}).run()\n"
    )


def write(seed: int) -> int:
    """Print the test file of a failing seed.  Return the exit status: 1 if it does not fail."""
    try:
        shrinker = Shrinker(seed)
    except ValueError as error:
        print(error)
        return 1
    print(script(shrinker.shrink()), end="")
    return 0
