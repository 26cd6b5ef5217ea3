"""The systems whose recovery is measured.  A further one is a module here, named like it, with a class ``Recovering``."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import pkgutil

from benchmarks.recovery.adapters.adapter import Adapter
from benchmarks.systems import OURS, absent


def names() -> list[str]:
    """The systems that there are adapters for, ours first."""
    found = [module.name for module in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)]) if module.name != "adapter"]
    return sorted(found, key=lambda name: (name != OURS, name))


def load(name: str, resilient: bool = False) -> Adapter:
    """The adapter of a system; ``resilient``: with the settings that its documentation has for it."""
    adapter: Adapter = importlib.import_module(f"benchmarks.recovery.adapters.{name}").Recovering()
    adapter.name, adapter.resilient = name, resilient
    return adapter


def why_not(name: str) -> str:
    """Why a system can't be measured with this Python; "" if it can."""
    return absent(load(name))
