"""Starting our own Python processes so that they find the same modules as this process.

The module path is passed in a variable of its own rather than in PYTHONPATH: a task may start another Python version, and
PYTHONPATH would lead that to our standard library.

Our own modules must not be led astray by what lies beside a user's script, say a ``queue.py``.  So a process of ours looks into
the folders that its Python knows by itself first.  The template restores the user's order when it has loaded what it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

#: The environment variable: entries of ``sys.path``, one per line.  A worker's control process passes it on to its template,
#: which removes it.
PATH = "TWISTDIST_PATH"

#: The first words of the lines that a child of :mod:`twistdist.tap.__main__` writes to its parent.
READY, LEAVES = "ready", "leaves"

# Like "python -m", which would not find our own package if only this process's sys.path leads to it.  The arguments are our
# package's folder, the module, and the module's arguments.
_RUN = (
    "import importlib, os, sys; "
    f"given = os.environ.setdefault('{PATH}', '\\n'.join(map(os.path.abspath, sys.path))).split('\\n'); "
    "known = [entry for entry in sys.path if entry]; del sys.argv[0]; ours = sys.argv.pop(0); "
    "known = known if ours in known else [ours, *known]; "
    "sys.path[:] = [*known, *(entry for entry in given if entry not in known)]; "
    "importlib.import_module(sys.argv[0]).main()"
)


def command(module: str, arguments: Iterable[str]) -> list[str]:
    """Return the command line of a process that calls ``main()`` of ``module`` with ``arguments`` in its ``sys.argv``."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [sys.executable, "-c", _RUN, package, module, *arguments]


def path_here() -> str:
    """Return this process's module path in the format of :data:`PATH`."""
    return "\n".join(dict.fromkeys(os.path.abspath(entry or os.curdir) for entry in sys.path))


def restore_path() -> None:
    """Set ``sys.path`` to the order that a user's program has, and remove the variable."""
    sys.path[:] = os.environ.pop(PATH).split("\n")
