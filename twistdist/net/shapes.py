"""Futures nested in lists, tuples, sets and dicts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from twistdist.config import as_choice
from twistdist.errors import shown
from twistdist.net.futures import BaseFuture, Raw, unpack
from twistdist.wire import messages as m

_SKIP = object()

#: Levels that a nesting of futures may have; a deeper one is assumed to contain itself.
MAX_LEVELS = 100


@attrs.frozen
class Place:
    """Stands for one of several futures, by its index among them."""

    number: int


def replace(shape: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Return the nesting ``shape`` with each item of type ``kind`` replaced by ``function(item)``."""
    if isinstance(shape, kind):
        return function(shape)
    if isinstance(shape, dict):
        return _like(shape, {key: replace(item, kind, function) for key, item in shape.items()})
    return _of_kind(shape, [replace(item, kind, function) for item in shape])


def as_shape(futures: Any, level: int = 0) -> Any:
    """Return a nesting of futures that can be walked more than once.

    Any iterable in it other than a list, tuple, set or dict (views, a deque, a generator, an array of objects, a Series)
    becomes a list.  Raises ``ValueError`` for a nesting that contains itself.
    """
    if level > MAX_LEVELS:
        raise ValueError(f"futures are nested more than {MAX_LEVELS} levels deep, or in something that contains itself")
    if isinstance(futures, BaseFuture | str | bytes | bytearray):
        return futures
    if isinstance(futures, dict):
        return _like(futures, {key: as_shape(item, level + 1) for key, item in futures.items()})
    if isinstance(futures, list | tuple):
        if all(isinstance(future, BaseFuture) for future in futures):
            return futures
        return _of_kind(futures, [as_shape(future, level + 1) for future in futures])
    if isinstance(futures, set | frozenset) or not isinstance(futures, Iterable):
        return futures
    return [as_shape(future, level + 1) for future in futures]


def flatten(futures: Any, errors: str = "raise") -> list[Any]:
    """Return the futures in a nesting of lists, tuples, sets, frozensets and dicts (their values), in order."""
    as_choice(errors, "errors", ("raise", "skip"))
    found: list[Any] = []
    todo = [as_shape(futures)]
    while todo:
        item = todo.pop()
        if isinstance(item, BaseFuture):
            found.append(item)
        elif isinstance(item, dict):
            todo.extend(reversed(item.values()))
        elif isinstance(item, list | tuple):
            todo.extend(reversed(item))
        elif isinstance(item, set | frozenset):
            todo.extend(item)
        else:
            raise TypeError(
                f"{shown(item)} is not a Future of this API; futures must be given in lists, tuples, sets, dicts or other "
                "iterables"
            )
    return found


def rebuild(shape: Any, raws: dict[int, Raw], errors: str) -> Any:
    """Return ``shape`` with each future replaced by its value; raise the first error unless ``errors`` is "skip"."""
    value = _Rebuilder(raws, errors == "skip").rebuild(shape)
    return None if value is _SKIP else value


class _Rebuilder:
    """Replaces futures by their values."""

    def __init__(self, raws: dict[int, Raw], skip: bool) -> None:
        self._raws, self._skip = raws, skip
        self._used: set[int] = set()

    def rebuild(self, shape: Any) -> Any:
        if isinstance(shape, BaseFuture):
            return self._value(shape)
        if isinstance(shape, dict):
            pairs = ((key, self.rebuild(item)) for key, item in shape.items())
            return _like(shape, {key: value for key, value in pairs if value is not _SKIP})
        return _of_kind(shape, [value for item in shape if (value := self.rebuild(item)) is not _SKIP])

    def _value(self, future: BaseFuture) -> Any:
        raw = self._raws[id(future)]
        if isinstance(raw, m.ErrorInfo):
            return _SKIP if self._skip else unpack(raw)
        if isinstance(raw, memoryview):  # a future that occurs twice gives two independent values
            if id(raw) in self._used:
                return unpack(memoryview(bytearray(raw)))
            self._used.add(id(raw))
        return unpack(raw)


def _like(mapping: dict[Any, Any], values: dict[Any, Any]) -> dict[Any, Any]:
    """Return ``values`` as a mapping of the same type: a defaultdict or an OrderedDict keeps its type."""
    if type(mapping) is dict:
        return values
    made = copy.copy(mapping)
    made.clear()
    made.update(values)
    return made


def _of_kind(shape: Any, values: list[Any]) -> Any:
    """Return ``values`` in a container of the type of ``shape``: list, tuple, named tuple or set; else in a list."""
    if hasattr(shape, "_make"):  # a named tuple
        return shape._make(values) if len(values) == len(shape) else tuple(values)
    return type(shape)(values) if isinstance(shape, tuple | set | frozenset) else values
