"""What this process runs on, for people who read a report."""

from __future__ import annotations

import platform

import twisted
from twistdist import __version__


def versions() -> str:
    """Return the versions of this package and of what it stands on."""
    parts = (f"twistdist {__version__}", f"{platform.python_implementation()} {platform.python_version()}")
    return ", ".join((*parts, f"Twisted {twisted.__version__}", f"{platform.system()} {platform.machine()}"))
