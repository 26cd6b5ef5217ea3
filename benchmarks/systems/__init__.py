"""The measured systems.  A further one is a module here, named like the system, with a class ``Measured``."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import pkgutil

from benchmarks.systems.system import System

OURS = "twistdist"


def names() -> list[str]:
    """The systems that there are adapters for, ours first."""
    found = [module.name for module in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)]) if module.name != "system"]
    return sorted(found, key=lambda name: (name != OURS, name))


def load(name: str) -> System:
    """The adapter of a system.  The system itself is imported when it is started."""
    system: System = importlib.import_module(f"benchmarks.systems.{name}").Measured()
    return system


def why_not(name: str) -> str:
    """Why a system can't be measured with this Python; "" if it can."""
    return absent(load(name))


def absent(system: System) -> str:
    """What must be installed before a system can be measured; "" if nothing."""
    missing = [module for module in system.modules if importlib.util.find_spec(module) is None]
    return f"not installed (pip install {' '.join(system.distributions)})" if missing else ""
