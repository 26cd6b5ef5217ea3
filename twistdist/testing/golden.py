"""Golden traces: records of what the cores send in simulated clusters, to check that refactoring does not change it.

``python -m twistdist.testing.golden write FILE`` stores a digest of each seed's trace (every frame with its time and direction,
every row of the journal).  ``compare FILE`` produces the traces again and lists the seeds that differ.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator

from twistdist.testing.simulate import World

#: Maximum number of differing seeds to list.
MAX_NAMED = 20


def trace_of(seed: int) -> str:
    """Return the digest of one run, even if it fails."""
    world = World(seed)
    try:
        world.run()
    except Exception as error:
        return f"{world.trace_digest()} {type(error).__name__}"
    return world.trace_digest()


def traces_of(seeds: Iterable[int], jobs: int) -> Iterator[str]:
    """Yield the digests of many seeds, in their order."""
    if jobs == 1:
        yield from map(trace_of, seeds)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(trace_of, seeds, chunksize=20)


def write(path: pathlib.Path, seeds: range, jobs: int) -> int:
    lines = [f"{seed} {digest}\n" for seed, digest in zip(seeds, traces_of(seeds, jobs), strict=True)]
    path.write_text("".join(lines))
    print(f"{len(lines)} traces written")
    return 0


def compare(path: pathlib.Path, jobs: int) -> int:
    kept = dict(line.split(" ", 1) for line in path.read_text().splitlines())
    found = zip(kept, traces_of(map(int, kept), jobs), strict=True)
    differing = [seed for seed, digest in found if kept[seed] != digest]
    print(f"{len(kept) - len(differing)} of {len(kept)} traces are identical")
    if differing:
        others = " and others" if len(differing) > MAX_NAMED else ""
        print(
            f"these differ: {', '.join(differing[:MAX_NAMED])}{others}; see the first with: "
            f"python -m twistdist.testing.simulate --first-seed {differing[0]} --seeds 1 --trace"
        )
    return 1 if differing else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command.  The exit status is 1 if a trace differs."""
    parser = argparse.ArgumentParser(prog="python -m twistdist.testing.golden", description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes [%(default)s]")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    writing = commands.add_parser("write", help="store the traces of the code as it is")
    writing.add_argument("--seeds", type=int, default=5_000, help="number of seeds [%(default)s]")
    writing.add_argument("--first-seed", type=int, default=0)
    comparing = commands.add_parser("compare", help="compare the code with stored traces")
    for command in (writing, comparing):
        command.add_argument("file", type=pathlib.Path)
    options = parser.parse_args(argv)
    if options.command == "write":
        return write(options.file, range(options.first_seed, options.first_seed + options.seeds), options.jobs)
    return compare(options.file, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
