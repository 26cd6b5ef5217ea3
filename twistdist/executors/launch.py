"""Starting Python processes of ours that find the modules which this process finds.

The module path travels in a variable of its own: what a task starts may be another Python, which PYTHONPATH would lead to our
standard library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

#: The variable: entries of ``sys.path``, one a line.  A worker's control process hands it on to its template, where it ends.
PATH = "TWISTDIST_PATH"

# Like "python -m", which could not find our own package where only this process's sys.path knows of it.
_RUN = (
    f"import importlib, os, sys; given = os.environ.get('{PATH}', ''); "
    "sys.path[:] = given.split('\\n') if given else map(os.path.abspath, sys.path); "
    "del sys.argv[0]; importlib.import_module(sys.argv[0]).main()"
)


def command(module: str, arguments: Iterable[str]) -> list[str]:
    """The command line of a process that calls ``main()`` of ``module``, with ``arguments`` in its ``sys.argv``."""
    return [sys.executable, "-c", _RUN, module, *arguments]


def path_here() -> str:
    """This process's module path for :data:`PATH`."""
    return "\n".join(dict.fromkeys(os.path.abspath(entry or os.curdir) for entry in sys.path))
