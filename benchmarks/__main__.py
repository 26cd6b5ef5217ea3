"""python -m benchmarks [--peers dask,ray,processpool,loky] [--workloads w1,w2] [--repeat N] [--json FILE]

Measures twistdist and the named peers in turn, each run in a new process, and prints one table of medians.  CPU times are those
of all processes.  The machine should be quiet.  docs/performance.rst explains the workloads and figures.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from typing import Any

from benchmarks import machine, meter, run, systems, table
from benchmarks.figures import Scale
from benchmarks.options import positive, several
from benchmarks.workloads import ALL


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=description)
    peers = [name for name in systems.names() if name != systems.OURS]
    add = parser.add_argument
    add("--peers", type=several("peer", peers), default=["processpool"], help=f"from {', '.join(peers)} (default: processpool)")
    add("--workloads", type=several("workload", list(ALL)), default=list(ALL), help="such as w1,w2 (default: all)")
    add("--repeat", type=positive, default=5, help="runs of each workload and system (default: 5)")
    add("--quick", action="store_true", help="small sizes, to see that it works: the figures mean nothing")
    add("--full", action="store_true", help="W13 with a million tasks too")
    add("--json", type=pathlib.Path, metavar="FILE", help="write everything that was measured")
    add("--table", type=pathlib.Path, metavar="FILE", help="measure nothing: print the table of what --json wrote")
    add("--rst", action="store_true", help="print reStructuredText")
    return parser


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make all runs, and tell about each of them on standard error."""
    missing = {name: why for name in options.peers if (why := systems.why_not(name))}
    for name, why in missing.items():
        print(f"{name}: {why}", file=sys.stderr)
    names = [systems.OURS, *(name for name in options.peers if name not in missing)]
    scale = Scale(options.quick, options.full)
    sizes = "quick" if scale.quick else "full" if scale.full else "usual"
    header = machine.header(map(systems.load, names), repeat=options.repeat, sizes=sizes)
    data: dict[str, Any] = {"header": header, "systems": names, "missing": missing, "runs": []}
    meter.adopt_orphans()
    for turn in run.turns(names, [ALL[name] for name in options.workloads], options.repeat):
        made = run.take(turn, scale)
        data["runs"].append(made)
        how = " ".join(filter(None, (made["outcome"], made["detail"])))
        print(
            f"{turn.workload.name} {turn.system} {turn.repeat + 1}/{options.repeat}: {made['seconds']:.1f} s, {how}",
            file=sys.stderr,
        )
        if options.json:
            options.json.write_text(json.dumps(data, indent=1) + "\n")  # a run that is broken off is not lost
    return data


def main() -> None:
    options = _parser().parse_args()
    if not pathlib.Path("/proc/self/stat").exists():
        raise SystemExit("the benchmarks read CPU times from /proc, which this system does not have")
    data = json.loads(options.table.read_text()) if options.table else measure(options)
    sys.stdout.write(table.rst(data) if options.rst else table.text(data))


if __name__ == "__main__":
    main()
