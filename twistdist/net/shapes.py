"""Futures in nestings of lists, tuples, sets and dicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from twistdist.net.futures import BaseFuture, Raw, unpack
from twistdist.wire import messages as m

_SKIP = object()


@attrs.frozen
class Place:
    """Stands for one of several futures, by its place among them."""

    number: int


def replace(shape: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """The nesting ``shape`` with ``function(one)`` in the place of each ``one`` of ``kind``."""
    if isinstance(shape, kind):
        return function(shape)
    if isinstance(shape, dict):
        return {key: replace(one, kind, function) for key, one in shape.items()}
    values = [replace(one, kind, function) for one in shape]
    if hasattr(shape, "_make"):  # a named tuple
        return shape._make(values)
    return values if isinstance(shape, list) else type(shape)(values)


def flatten(futures: Any, errors: str = "raise") -> list[Any]:
    """The futures in a nesting of lists, tuples, sets, frozensets and dicts (values), in order."""
    if errors not in ("raise", "skip"):
        raise ValueError(f"errors is 'raise' or 'skip', not {errors!r}")
    found: list[Any] = []
    todo = [futures]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseFuture):
            found.append(one)
        elif isinstance(one, dict):
            todo.extend(reversed(one.values()))
        elif isinstance(one, list | tuple):
            todo.extend(reversed(one))
        elif isinstance(one, set | frozenset):
            todo.extend(one)
        else:
            raise TypeError(f"gather takes futures in lists, tuples, sets and dicts, not {one!r}")
    return found


def rebuild(shape: Any, raws: dict[int, Raw], errors: str) -> Any:
    """``shape`` with each future replaced by its value; raises the first error unless ``errors`` is "skip"."""
    if isinstance(shape, list) and shape and isinstance(shape[0], BaseFuture) and errors == "raise":
        return [unpack(raws[id(one)]) if isinstance(one, BaseFuture) else rebuild(one, raws, errors) for one in shape]
    value = _rebuild(shape, raws, errors)
    return None if value is _SKIP else value


def _rebuild(shape: Any, raws: dict[int, Raw], errors: str) -> Any:
    if isinstance(shape, BaseFuture):
        raw = raws[id(shape)]
        return _SKIP if errors == "skip" and isinstance(raw, m.ErrorInfo) else unpack(raw)
    if isinstance(shape, dict):
        pairs = ((key, _rebuild(one, raws, errors)) for key, one in shape.items())
        return {key: value for key, value in pairs if value is not _SKIP}
    values = [value for one in shape if (value := _rebuild(one, raws, errors)) is not _SKIP]
    if hasattr(shape, "_make"):  # a named tuple
        return shape._make(values)
    return values if isinstance(shape, list) else type(shape)(values)
