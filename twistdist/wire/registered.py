"""Reducers that other libraries have registered with ``copyreg``, without those that break what plain pickle can do.

``twisted.persisted.styles`` registers its own reducers for bound methods, modules and StringIO, for the whole process.  With
them a bound class method becomes a method of ``type``, which can't be unpickled, and every process that loads a bound method
imports Twisted.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable
from typing import Any

#: A module whose registrations are ignored.
IGNORED = "twisted.persisted.styles"

_tables: dict[int, dict[type, Callable[[Any], Any]]] = {}


def table() -> dict[type, Callable[[Any], Any]] | None:
    """Return the registered reducers by type; None if there is nothing to leave out, so that pickle's own table is right."""
    if IGNORED not in sys.modules:
        return None
    everything: dict[type, Callable[[Any], Any]] = copyreg.dispatch_table
    found = _tables.get(len(everything))
    if found is None:
        _tables.clear()
        found = {kind: reduce for kind, reduce in everything.items() if getattr(reduce, "__module__", "") != IGNORED}
        _tables[len(everything)] = found
    return found


def reducer(kind: type) -> Callable[[Any], Any] | None:
    """Return the registered reducer of a type, if it has one."""
    found: Callable[[Any], Any] | None = copyreg.dispatch_table.get(kind)
    return None if getattr(found, "__module__", "") == IGNORED else found
