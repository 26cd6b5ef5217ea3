"""What the figures were measured on: neither paths nor names of hosts."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from typing import Any

from benchmarks.systems.system import System


def header(measured: Iterable[System], **options: Any) -> dict[str, Any]:
    """Versions, Python, machine and load, as one dict of plain values."""
    versions: dict[str, str] = {}
    for system in measured:
        versions |= system.versions()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": versions,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": round(os.getloadavg()[0], 2),
        **options,
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as stream:
        names = [line.partition(":")[2].strip() for line in stream if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.machine()
