"""The script that W12 measures: python -m benchmarks.first SYSTEM"""

from __future__ import annotations

import sys

from benchmarks.functions import inc
from benchmarks.systems import load


def main() -> None:
    system = load(sys.argv[1])
    system.start(2)
    assert system.result(system.submit(inc, 1)) == 2
    print("first", flush=True)
    system.close()


if __name__ == "__main__":
    main()
