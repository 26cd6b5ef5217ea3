"""Functions to pickles, and which pickles may be remembered."""

from __future__ import annotations

import builtins
import types
from collections.abc import Callable
from typing import Any

from twistdist.config import MAX_ARGUMENT_BYTES
from twistdist.core.client import FunctionRef
from twistdist.errors import SerializationError
from twistdist.wire.payload import canonical_digest, dump_function

#: Functions whose pickles are remembered; more and the memory starts over.
MOST_FUNCTIONS = 1_000


class Functions:
    """Pickles functions, and remembers what can be remembered.

    A function that is found again by its name pickles to the same bytes for ever.  One that travels by value may have other
    globals or another closure each time, so it is pickled anew unless it refers to nothing that can change.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, FunctionRef]] = {}

    def ref(self, function: Callable[..., Any]) -> FunctionRef:
        known = self._known.get(id(function))
        if known is not None:
            return known[1]
        blob, by_name = dump_function(function)
        if len(blob) > MAX_ARGUMENT_BYTES:
            raise SerializationError(
                f"the function {function!r} is {len(blob)} bytes long when pickled, more than {MAX_ARGUMENT_BYTES}; "
                "pass the data in its closure as an argument, or let a task read it"
            )
        ref = FunctionRef(_name_of(function), canonical_digest(blob), blob)
        if (by_name and _is_reference(function)) or _is_self_contained(function):
            if len(self._known) >= MOST_FUNCTIONS:
                self._known.clear()
            self._known[id(function)] = (function, ref)  # holding the function keeps its id its own
        return ref


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", None) or type(function).__name__
    return name.encode("utf-8", "replace").decode()[:200] if isinstance(name, str) else "task"


def _is_reference(function: Any) -> bool:
    """Whether its pickle is nothing but its name: partials, methods and callable objects carry state that may change."""
    return isinstance(function, types.FunctionType | types.BuiltinFunctionType | type) and "." not in function.__qualname__


def _is_self_contained(function: Any) -> bool:
    if not isinstance(function, types.FunctionType) or function.__closure__ or function.__defaults__:
        return False
    return not function.__kwdefaults__ and _reads_nothing(function.__code__, function.__globals__)


def _reads_nothing(code: types.CodeType, names: dict[str, Any]) -> bool:
    """Whether all that the code names are builtins and modules; what is not there yet may come."""
    for name in code.co_names:
        if not (isinstance(names.get(name), types.ModuleType) or (name not in names and hasattr(builtins, name))):
            return False
    return all(_reads_nothing(one, names) for one in code.co_consts if isinstance(one, types.CodeType))
