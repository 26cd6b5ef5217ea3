"""Digests of calls: equal for equal functions and arguments in every run of a script, whatever its hash seed, its folder and
its line numbers.  docs/identity.rst has the table of what counts and what does not.

A digest is made from structure, not from pickles: those contain random numbers of classes, the order of sets, line numbers, and
which equal strings were one object.  Only clients and executors use this module.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib
import io
import linecache
import marshal
import pathlib
import pickle
import reprlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from twistdist.wire import registered
from twistdist.wire.payload import canonical_digest, collecting, dumps, is_importable

#: Types whose values are encoded by ``marshal`` (version 2: no references, so the same bytes in every Python).
_ATOMS = frozenset({int, float, bool, str, bytes, type(None), complex})

#: Names in a class's dictionary that do not describe what the class does, or repeat what other names describe.
_NOT_OF_A_CLASS = frozenset(
    {
        "__module__",
        "__qualname__",
        "__dict__",
        "__weakref__",
        "__doc__",
        "__firstlineno__",
        "__static_attributes__",
        "__abstractmethods__",
        "_abc_impl",
        "__match_args__",
        "__dataclass_params__",
        "__parameters__",
        "__orig_bases__",
        "__annotate__",
        "__annotate_func__",
        "__slotnames__",
        "__annotations_cache__",
        "__type_params__",
        "__classcell__",
    }
)

#: Files whose functions wrap the ``__repr__`` of a dataclass.
_OF_DATACLASSES = (reprlib.recursive_repr.__code__.co_filename, dataclasses.dataclass.__code__.co_filename)

_GLOBAL_OPCODES = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME"})

#: Fields of syntax trees that do not affect what is computed.
_NOT_OF_A_TREE = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def identity_of(*values: Any) -> bytes:
    """Return the digest (16 bytes) of ``values``.  Futures in them count by their keys.

    Raises:
        SerializationError: a value can't be pickled.
        Exception: whatever an object's own ``__reduce__`` raises.
    """
    try:
        with collecting() as inputs:
            return _Walk(inputs).digest(list(values))
    except RecursionError:  # too deep for this walk, but perhaps not for pickle
        with collecting() as inputs:
            data = canonical_digest(dumps(list(values)))
            return _hash(b"deep", data, *(future.key.encode() for future in inputs))


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


class _Walk:
    """Computes one digest.  Each object is visited once; one that contains itself counts by how many levels up it is."""

    def __init__(self, inputs: list[Any]) -> None:
        self._inputs = inputs
        self._known: dict[int, bytes] = {}
        self._alive: list[Any] = []  # otherwise another object might get the same id
        self._inside: dict[int, int] = {}

    def digest(self, obj: Any) -> bytes:
        kind = type(obj)
        if kind in _ATOMS:
            return _hash(b"atom", marshal.dumps(obj, 2))
        known = self._known.get(id(obj))
        if known is not None:
            return known
        if id(obj) in self._inside:
            return _hash(b"inside", b"%d" % (len(self._inside) - self._inside[id(obj)]))
        self._inside[id(obj)] = len(self._inside)
        try:
            found = self._of_kind(kind, obj)
        finally:
            del self._inside[id(obj)]
        self._known[id(obj)] = found
        self._alive.append(obj)
        return found

    def _all(self, tag: str, *objects: Any) -> bytes:
        return _hash(tag.encode(), *map(self.digest, objects))

    def _of_kind(self, kind: type, obj: Any) -> bytes:
        if kind is list or kind is tuple:
            if _ATOMS.issuperset(map(type, obj)):
                return _hash(b"flat", marshal.dumps(obj, 2))
            return self._all(kind.__name__, *obj)
        if kind is dict:
            return self._all("dict", *(item for pair in obj.items() for item in pair))
        special = _SPECIAL.get(kind)
        if special is not None:
            return special(self, obj)
        if isinstance(obj, type):
            return self._type(obj)
        if isinstance(obj, enum.Enum):
            return self._all("member", kind, obj._name_ or obj._value_)
        if isinstance(obj, set | frozenset):
            own = getattr(obj, "__dict__", None) or {}
            return _hash(b"set", self.digest(kind), self.digest(own), *sorted(map(self.digest, obj)))
        if isinstance(obj, pathlib.PurePath):
            return self._all("path", kind.__name__, str(obj))  # its module differs between Pythons
        numpy = sys.modules.get("numpy")
        if numpy is not None and kind is numpy.ndarray and not obj.dtype.hasobject:
            array = numpy.ascontiguousarray(obj)
            raw = hashlib.blake2b(array.reshape(-1).view("u1").data if array.size else b"", digest_size=16).digest()
            return self._all("array", repr(obj.dtype.descr), obj.shape, raw)
        if numpy is not None and isinstance(obj, numpy.generic) and not obj.dtype.hasobject:
            return self._all("scalar", obj.dtype.str, obj.tobytes())
        if isinstance(obj, functools._lru_cache_wrapper):
            return self._all("cached", obj.__wrapped__, obj.cache_parameters())
        return self._reduced(kind, obj)

    def _reduced(self, kind: type, obj: Any) -> bytes:
        """Digest an object by what pickle would reduce it to."""
        count = len(self._inputs)
        reduce = _reducer(kind)
        reduced = reduce(obj) if reduce is not None else obj.__reduce_ex__(5)
        if len(self._inputs) > count:  # a Future
            return self._all("input", self._inputs[-1].key)
        if isinstance(reduced, str):
            return self._all("name", getattr(obj, "__module__", None), reduced)
        make, args, state, items, pairs = (*reduced, None, None, None, None)[:5]
        return self._all("object", make, args, state, list(items or ()), list(map(list, pairs or ())))

    # ---- functions and classes ----------------------------------------------------------------------

    def _function(self, function: types.FunctionType) -> bytes:
        if is_importable(function):
            return _hash(b"importable", f"{function.__module__}.{function.__qualname__}".encode())
        code, names = function.__code__, function.__globals__
        closure = {name: _content(cell) for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)}
        used = {name: names[name] for name in sorted(_global_names(code)) if name in names}
        return self._all(
            "function",
            function.__name__,
            _tree_of(code) or self._bytecode(code),
            function.__defaults__,
            function.__kwdefaults__,
            sorted(closure.items()),
            sorted(used.items()),
            {name: one for name, one in function.__dict__.items() if name != "__wrapped__"},
        )

    def _bytecode(self, code: types.CodeType) -> list[Any]:
        """Describe code without source by this Python's own instructions, without lines and file."""
        consts = [self._bytecode(item) if isinstance(item, types.CodeType) else item for item in code.co_consts]
        counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
        return [code.co_name, code.co_code, consts, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, counts]

    def _code(self, code: types.CodeType) -> bytes:
        return self._all("code", _tree_of(code) or self._bytecode(code))

    def _type(self, kind: type) -> bytes:
        if is_importable(kind):
            return _hash(b"importable", f"{kind.__module__}.{kind.__qualname__}".encode())
        content: list[tuple[str, Any]] = []
        if issubclass(kind, enum.Enum):
            content = [(name, member._value_) for name, member in kind.__members__.items()]
        for name, item in sorted(vars(kind).items()):
            if name in _NOT_OF_A_CLASS or isinstance(item, types.MemberDescriptorType | types.GetSetDescriptorType):
                continue
            if issubclass(kind, enum.Enum) and getattr(item, "__module__", None) != kind.__module__:
                continue  # members are covered above; enum makes the rest
            if _is_generated(kind, item):
                continue
            content.append((name, _fields_of(item) if name == "__dataclass_fields__" else item))
        meta = None if issubclass(kind, enum.Enum) else type(kind)
        return self._all("class", kind.__qualname__, kind.__bases__, meta, content)

    def _module(self, module: types.ModuleType) -> bytes:
        return _hash(b"module", module.__name__.encode())

    def _builtin(self, function: types.BuiltinFunctionType) -> bytes:
        owner = function.__self__
        if owner is None or isinstance(owner, types.ModuleType):
            return _hash(b"importable", f"{function.__module__}.{function.__qualname__}".encode())
        return self._all("method", owner, function.__name__)

    def _method(self, method: types.MethodType) -> bytes:
        return self._all("method", method.__self__, method.__func__)

    def _property(self, item: property) -> bytes:
        return self._all("property", item.fget, item.fset, item.fdel)

    def _wrapped(self, item: Any) -> bytes:
        return self._all(type(item).__name__, item.__func__)

    def _cached_property(self, item: Any) -> bytes:
        return self._all("cached_property", item.func, item.attrname)

    def _buffer(self, item: pickle.PickleBuffer) -> bytes:
        return _hash(b"buffer", hashlib.blake2b(item.raw(), digest_size=16).digest())


_SPECIAL: dict[type, Callable[[_Walk, Any], bytes]] = {
    types.FunctionType: _Walk._function,
    types.CodeType: _Walk._code,
    types.ModuleType: _Walk._module,
    types.BuiltinFunctionType: _Walk._builtin,
    types.MethodType: _Walk._method,
    property: _Walk._property,
    classmethod: _Walk._wrapped,
    staticmethod: _Walk._wrapped,
    functools.cached_property: _Walk._cached_property,
    pickle.PickleBuffer: _Walk._buffer,
}


def _reducer(kind: type) -> Callable[[Any], Any] | None:
    """Return how pickle or cloudpickle reduces objects of a type that does not define this itself; None if it does."""
    found = registered.reducer(kind)
    if found is None and "__reduce__" not in vars(kind) and "__reduce_ex__" not in vars(kind):
        cloudpickle = importlib.import_module("cloudpickle")
        found = cloudpickle.Pickler(io.BytesIO()).dispatch_table.get(kind)
    return found


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is still empty
        return types.CellType


def _fields_of(fields: Any) -> list[Any]:
    """Describe the fields of a dataclass; the field objects themselves differ between Pythons."""
    return [
        [item.name, item.type, item.default, item.default_factory, item.init, item.repr, item.hash, item.compare, item.kw_only]
        for item in fields.values()
    ]


def _is_generated(kind: type, item: Any) -> bool:
    """Return whether ``dataclass`` or ``namedtuple`` made a method from what the class declares anyway."""
    function = getattr(item, "__func__", item)
    made = "__dataclass_fields__" in vars(kind) or (issubclass(kind, tuple) and "_fields" in vars(kind))
    if not made or not isinstance(function, types.FunctionType):
        return type(item).__name__ == "_tuplegetter"
    file = function.__code__.co_filename
    return file.startswith("<") or file in _OF_DATACLASSES or is_importable(function) or function.__module__ != kind.__module__


# ---- code --------------------------------------------------------------------------------------------


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _nested(item)


def _global_names(code: types.CodeType) -> set[str]:
    return {item.argval for part in _nested(code) for item in dis.get_instructions(part) if item.opname in _GLOBAL_OPCODES}


def _tree_of(code: types.CodeType) -> str | None:
    """Return the syntax tree of a function as text, the same in every Python; None if its source can't be found for certain."""
    lines = linecache.getlines(code.co_filename)
    if not lines:
        return None
    trees, codes = _parsed(code.co_filename, "".join(lines))
    place = (code.co_name, code.co_firstlineno)
    found: set[str] = set(trees.get(place, ()))
    # The file may have changed since the code was loaded; two lambdas on one line can't be told apart.
    if len(found) != 1 or not any(_is_same(code, item) for item in codes.get(place, ())):
        return None
    return found.pop()


_Places = dict[tuple[str, int], list[Any]]


@functools.lru_cache(maxsize=64)
def _parsed(name: str, text: str) -> tuple[_Places, _Places]:
    """Return (the trees of all functions in a file, their compiled code), each by name and first line."""
    trees: _Places = {}
    codes: _Places = {}
    with contextlib.suppress(SyntaxError, ValueError, RecursionError):
        root = ast.parse(text)
        for code in _nested(compile(text, name, "exec", dont_inherit=True)):
            codes.setdefault((code.co_name, code.co_firstlineno), []).append(code)
        for node in ast.walk(root):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                line = min([node.lineno, *(item.lineno for item in node.decorator_list)])
                trees.setdefault((node.name, line), []).append(_as_text(node))
            elif isinstance(node, ast.Lambda):
                trees.setdefault(("<lambda>", node.lineno), []).append(_as_text(node))
    return trees, codes


def _as_text(node: Any) -> str:
    """Return a syntax tree as text, without positions, docstrings and empty fields (later Pythons have more of these)."""
    if isinstance(node, list):
        return f"[{','.join(map(_as_text, node))}]"
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__} {node!r}"
    fields = []
    for name in node._fields:
        value = getattr(node, name, None)
        if name == "body" and isinstance(value, list) and _is_text(value[:1]):
            value = value[1:]
        if value is not None and value != [] and name not in _NOT_OF_A_TREE:
            fields.append(f"{name}={_as_text(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _is_text(body: list[Any]) -> bool:
    """Return whether a body starts with a docstring."""
    return (
        bool(body)
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    )


def _is_same(one: types.CodeType, other: types.CodeType) -> bool:
    if (one.co_code, one.co_names, one.co_varnames, one.co_freevars) != (
        other.co_code,
        other.co_names,
        other.co_varnames,
        other.co_freevars,
    ):
        return False
    return len(one.co_consts) == len(other.co_consts) and all(map(_is_same_constant, one.co_consts, other.co_consts))


def _is_same_constant(one: Any, other: Any) -> bool:
    if isinstance(one, types.CodeType) and isinstance(other, types.CodeType):
        return _is_same(one, other)
    return type(one) is type(other) and bool(one == other or (one != one and other != other))
