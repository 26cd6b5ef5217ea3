"""The process of one run: python -m benchmarks.one FILE SYSTEM WORKLOAD [--quick] [--full]

``FILE`` gets a line of JSON for each figure when it is known, and a last line when the system has been closed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from typing import Any

from benchmarks import functions, meter
from benchmarks.figures import Scale
from benchmarks.systems import load
from benchmarks.systems.system import System
from benchmarks.waiting import Waiting
from benchmarks.workloads import ALL, Workload

WARM_UP = 100

#: Seconds that a system has to end its processes.
CLOSE_S = 30.0


def run(system: System, workload: Workload, scale: Scale, store: Any) -> None:
    """Measure, and store the lines."""

    def write(line: dict[str, Any]) -> None:
        store.write(json.dumps(line) + "\n")
        store.flush()

    if workload.workers:
        system.start(workload.workers)
        assert system.gather([system.submit(functions.inc, i) for i in range(WARM_UP)]) == list(range(1, WARM_UP + 1))
    for figure in workload.run(system, scale):
        write(figure.plain())
    write({"done": True, "detail": _closed(system) if workload.workers else ""})


def _closed(system: System) -> str:
    """Close a system.  Return what went wrong; this is not the workload's fault."""
    closing = Waiting(system.close)
    closing.join(CLOSE_S)
    if closing.is_alive():
        return f"does not close within {CLOSE_S:g} s"
    return f"close raises {type(closing.error).__name__}" if closing.error else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("file", "system", "workload"):
        parser.add_argument(name)
    for name in ("--quick", "--full"):
        parser.add_argument(name, action="store_true")
    options = parser.parse_args()
    meter.adopt_orphans()
    status = 0
    with open(options.file, "w") as store:
        try:
            run(load(options.system), ALL[options.workload], Scale(options.quick, options.full), store)
        except BaseException:
            traceback.print_exc()
            status = 1
    sys.stderr.flush()
    os._exit(status)  # a system that does not close may not let the interpreter end either


if __name__ == "__main__":
    main()
