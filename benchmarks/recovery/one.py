"""The process of one run: python -m benchmarks.recovery.one FILE SYSTEM SCENARIO LIMIT [--resilient] [--quick]

``FILE`` gets a line of JSON for each round, and a last line when both are done.
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
from benchmarks.recovery import adapters, scenarios
from benchmarks.recovery.adapters.adapter import Adapter

WARM_UP = 30


def run(adapter: Adapter, scenario: scenarios.Scenario, scale: Scale, limit: float, store: Any) -> None:
    """Measure, and store the lines."""

    def write(line: dict[str, Any]) -> None:
        store.write(json.dumps(line) + "\n")
        store.flush()

    adapter.start_cluster(scenarios.WORKERS)
    if scenario.name != "client":
        adapter.connect(adapter.address, scenarios.WORKERS)
        tasks = [adapter.submit(functions.inc, i) for i in range(WARM_UP)]
        assert adapter.gather(tasks) == list(range(1, WARM_UP + 1))
    for made in scenarios.run(scenario, adapter, scale, limit):
        write(made)
    write({"done": True, "detail": ""})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("file", "system", "scenario"):
        parser.add_argument(name)
    parser.add_argument("limit", type=float)
    parser.add_argument("--resilient", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    meter.adopt_orphans()
    status = 0
    with open(options.file, "w") as store:
        try:
            adapter = adapters.load(options.system, options.resilient)
            run(adapter, scenarios.ALL[options.scenario], Scale(options.quick), options.limit, store)
        except BaseException:
            traceback.print_exc()
            status = 1
    sys.stderr.flush()
    os._exit(status)  # nothing is closed: whoever started this process ends everything below it


if __name__ == "__main__":
    main()
