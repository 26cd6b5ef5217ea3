"""python -m benchmarks.recovery [--peers dask,ray,parsl,processpool] [--scenarios s1,s2] [--repeat N] [--json FILE]

Makes the same things go wrong for twistdist and for the named peers, in turn, each run in a new process, and prints one table:
time to recover, tasks executed again, results lost.  docs/recovery-benchmark.rst explains the scenarios and figures.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import machine, meter, run
from benchmarks.options import positive, several
from benchmarks.recovery import adapters, table
from benchmarks.recovery.scenarios import ALL, WORKERS
from benchmarks.systems import OURS

#: Seconds that a run may take besides its two rounds: to start, to warm up, and to get to the fault.
OVERHEAD_S = 300.0


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=description)
    peers = [name for name in adapters.names() if name != OURS]
    add = parser.add_argument
    add("--peers", type=several("peer", peers), default=["processpool"], help=f"from {', '.join(peers)} (default: processpool)")
    add("--scenarios", type=several("scenario", list(ALL)), default=list(ALL), help=f"from {', '.join(ALL)} (default: all)")
    add("--repeat", type=positive, default=3, help="runs of each scenario and system (default: 3)")
    add("--limit", type=positive, default=60, metavar="SECONDS", help='what takes longer is told as "never" (default: 60)')
    add("--quick", action="store_true", help="small sizes, to see that it works: the figures mean nothing")
    add("--json", type=pathlib.Path, metavar="FILE", help="write everything that was measured")
    add("--table", type=pathlib.Path, metavar="FILE", help="measure nothing: print the table of what --json wrote")
    add("--rst", action="store_true", help="print reStructuredText")
    return parser


def turns(names: list[str], scenarios: list[str], repeat: int) -> Iterator[tuple[str, int, str, bool]]:
    """The runs to make: scenario, repeat, system, and whether with its settings for resilience.  The systems take turns."""
    for scenario in scenarios:
        for number in range(repeat):
            for name in names:
                adapter = adapters.load(name)
                if scenario not in adapter.unsupported:
                    for resilient in (False, True) if scenario in adapter.resilient_in else (False,):
                        yield scenario, number, name, resilient


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make all runs, and tell about each of them on standard error."""
    missing = {name: why for name in options.peers if (why := adapters.why_not(name))}
    names = [OURS, *(name for name in options.peers if name not in missing)]
    told = {"repeat": options.repeat, "limit": f"{options.limit} s", "workers": WORKERS}
    header = machine.header(map(adapters.load, names), **told, sizes="quick" if options.quick else "usual")
    runs: list[dict[str, Any]] = []
    data = {"header": header, "systems": names, "limit": options.limit, "missing": missing, "runs": runs}
    meter.adopt_orphans()
    for scenario, number, name, resilient in turns(names, options.scenarios, options.repeat):
        flags = ["--resilient"] * resilient + ["--quick"] * options.quick
        made = run.execute(
            "benchmarks.recovery.one", [name, scenario, str(options.limit), *flags], 2 * options.limit + OVERHEAD_S
        )
        runs.append(
            {
                "system": name,
                "resilient": resilient,
                "scenario": scenario,
                "repeat": number,
                "outcome": made.outcome,
                "detail": made.detail,
                "seconds": made.seconds,
                "rounds": made.lines,
            }
        )
        what = f"{scenario} {table.shown(name, resilient)} {number + 1}/{options.repeat}: {made.seconds:.1f} s"
        print(f"{what}, {made.outcome} {made.detail} {made.lines[1:]}", file=sys.stderr)
        if options.json:
            options.json.write_text(json.dumps(data, indent=1) + "\n")  # a measurement that is broken off is not lost
    return data


def main() -> None:
    parser = _parser()
    options = parser.parse_args()
    if not pathlib.Path("/proc/self/stat").exists():
        raise SystemExit("the benchmarks find processes in /proc, which this system does not have")
    try:
        data = table.load(options.table) if options.table else measure(options)
    except (OSError, ValueError) as error:
        if options.table is None:
            raise
        parser.error(f"argument --table: {error}")
    sys.stdout.write(table.rst(data) if options.rst else table.text(data))


if __name__ == "__main__":
    main()
