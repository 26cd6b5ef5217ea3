"""Pickles functions, and decides which pickles may be cached."""

from __future__ import annotations

import builtins
import hashlib
import types
from collections.abc import Callable
from typing import Any

import attrs

from twistdist.config import MAX_ARGUMENT_BYTES
from twistdist.core.client import FunctionRef
from twistdist.errors import SerializationError, shown
from twistdist.wire.identity import identity_of
from twistdist.wire.payload import dump_function

#: Functions whose pickles are cached; when there are more, the cache is emptied.
MAX_FUNCTIONS = 1_000


@attrs.frozen
class _Known:
    """A function that was pickled, and what its pickle depends on: the pickle is valid as long as none of that has changed."""

    function: Any
    ref: FunctionRef
    parts: tuple[Any, Any, Any] | None = None
    names: tuple[tuple[str, Any], ...] = ()

    def holds(self) -> bool:
        if self.parts is None:
            return True
        function = self.function
        code, defaults, kwdefaults = self.parts
        if function.__code__ is not code or function.__defaults__ is not defaults or function.__kwdefaults__ is not kwdefaults:
            return False
        found = function.__globals__
        for name, constant in self.names:  # noqa: SIM110  all() costs more than the loop, for each task
            if found.get(name) is not constant:
                return False
        return True


class Functions:
    """Pickles functions, and caches the pickles that may be cached.

    A function that is pickled by name always pickles to the same bytes.  A function that is pickled by value may have other
    globals or another closure each time, so it is pickled again unless it refers only to modules and builtins, and these are
    still the same.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._identities: dict[int, tuple[FunctionRef, bytes]] = {}

    def identity(self, function: Callable[..., Any], ref: FunctionRef) -> bytes:
        """Return a digest of what the function computes; ``ref`` is what :meth:`ref` has just returned for it."""
        known = self._identities.get(id(function))
        if known is not None and known[0] is ref:
            return known[1]
        found = identity_of(function)
        if id(function) in self._known:  # that reference also keeps its id from being reused
            self._identities[id(function)] = (ref, found)
        return found

    def ref(self, function: Callable[..., Any]) -> FunctionRef:
        known = self._known.get(id(function))
        if known is not None:
            if known.holds():
                return known.ref
            del self._known[id(function)]
        blob, by_name = dump_function(function)
        if len(blob) > MAX_ARGUMENT_BYTES:
            raise SerializationError(
                f"the function {shown(function)} is {len(blob)} bytes when pickled, more than {MAX_ARGUMENT_BYTES}; "
                "pass what is large in its closure, defaults or globals as an argument, which may have any size "
                "(it is sent separately as data), or let a task read it"
            )
        ref = FunctionRef(_name_of(function), hashlib.blake2b(blob, digest_size=16).digest(), blob)
        known = None
        if by_name and _is_reference(function):
            known = _Known(function, ref)
        elif _is_self_contained(function):
            names = function.__globals__
            used = tuple((name, names.get(name)) for name in sorted(_names_in(function.__code__)))
            known = _Known(function, ref, (function.__code__, function.__defaults__, function.__kwdefaults__), used)
        if known is not None:
            if len(self._known) >= MAX_FUNCTIONS:
                self._known.clear()
                self._identities.clear()
            self._known[id(function)] = known  # holding the function keeps its id from being reused
        return ref


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", None) or type(function).__name__
    return name.encode("utf-8", "replace").decode()[:200] if isinstance(name, str) else "task"


def _is_reference(function: Any) -> bool:
    """Whether its pickle is only its name: partials, methods and callable objects carry state that may change."""
    return isinstance(function, types.FunctionType | types.BuiltinFunctionType | type) and "." not in function.__qualname__


def _is_self_contained(function: Any) -> bool:
    if not isinstance(function, types.FunctionType) or function.__closure__ or function.__defaults__:
        return False
    return not function.__kwdefaults__ and _reads_nothing(function.__code__, function.__globals__)


def _names_in(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names_in(constant)
    return found


def _reads_nothing(code: types.CodeType, names: dict[str, Any]) -> bool:
    """Whether the code refers only to builtins and modules; a name that does not exist yet may be defined later."""
    for name in code.co_names:
        if not (isinstance(names.get(name), types.ModuleType) or (name not in names and hasattr(builtins, name))):
            return False
    return all(_reads_nothing(constant, names) for constant in code.co_consts if isinstance(constant, types.CodeType))
