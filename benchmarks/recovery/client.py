"""The script of the scenario "client": python -m benchmarks.recovery.client ARGUMENTS

``ARGUMENTS`` is a list in JSON: system, whether with its settings for resilience, address, log, file for the answer, number of
tasks, and seconds to wait for them.  It does the same whenever it is started.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

from benchmarks import functions
from benchmarks.recovery import adapters
from benchmarks.recovery.outcomes import Outcomes
from benchmarks.recovery.scenarios import ALL, WORKERS


def main() -> None:
    name, resilient, address, log, answer, count, limit = json.loads(sys.argv[1])
    scenario, adapter = ALL["client"], adapters.load(name, resilient)
    adapter.connect(address, WORKERS)
    tasks = adapter.submit_again(functions.noted_block, [(log, scenario.seconds, scenario.size, i) for i in range(count)])
    functions.note(log, "submitted", count, os.getpid())
    outcomes = Outcomes(adapter, tasks, limit, scenario.expected)
    found = {name: getattr(outcomes, name) for name in ("right", "failed", "pending", "errors")}
    fresh = pathlib.Path(f"{answer}.new")
    fresh.write_text(json.dumps(found))
    fresh.rename(answer)
    os._exit(0)  # what the system does at its end is not measured


if __name__ == "__main__":
    main()
