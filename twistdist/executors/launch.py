"""Starting our own Python processes so that they find the same modules as this process.

The module path is passed in a variable of its own rather than in PYTHONPATH: a task may start another Python version, and
PYTHONPATH would lead that to our standard library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

#: The environment variable: entries of ``sys.path``, one per line.  A worker's control process passes it on to its template,
#: which removes it.
PATH = "TWISTDIST_PATH"

# Like "python -m", which would not find our own package if only this process's sys.path leads to it.
_RUN = (
    f"import importlib, os, sys; given = os.environ.get('{PATH}', ''); "
    "sys.path[:] = given.split('\\n') if given else map(os.path.abspath, sys.path); "
    "del sys.argv[0]; importlib.import_module(sys.argv[0]).main()"
)


def command(module: str, arguments: Iterable[str]) -> list[str]:
    """Return the command line of a process that calls ``main()`` of ``module`` with ``arguments`` in its ``sys.argv``."""
    return [sys.executable, "-c", _RUN, module, *arguments]


def path_here() -> str:
    """Return this process's module path in the format of :data:`PATH`."""
    return "\n".join(dict.fromkeys(os.path.abspath(entry or os.curdir) for entry in sys.path))
