"""Converts user objects to bytes and back: pickle protocol 5, large buffers out of band.

A value's bytes are either a plain pickle (first byte 0x80) or a container for a pickle and its out-of-band buffers::

    b"TWD1"  count (4)  length of pickle (8)  length of each buffer (8 each)  pickle  pad  buffer  pad  buffer …

with every buffer at a multiple of 64 bytes from the start, so that a mapped file gives aligned arrays without a copy.

Only clients and executors call the loading functions; the scheduler and the worker's control process only carry bytes.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import inspect
import io
import linecache
import os
import pickle
import pickletools
import struct
import sys
import threading
import tokenize
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from twistdist.errors import SerializationError, said, shown
from twistdist.wire import registered
from twistdist.wire.pages import HUGE_FROM_BYTES, use_huge_pages

_MAGIC = b"TWD1"
_ALIGN = 64
_FIXED = struct.Struct("<4sIQ")

Buffer = bytes | memoryview


class _Context(threading.local):
    """The meaning of the references inside an object while it is pickled or unpickled in this thread."""

    collected: list[Any] | None = None
    resolved: Sequence[Any] | None = None


_context = _Context()


@contextmanager
def collecting() -> Iterator[list[Any]]:
    """Yield a list to which :func:`reference` appends its targets during the block."""
    outer, _context.collected = _context.collected, []
    try:
        yield _context.collected
    finally:
        _context.collected = outer


def _advice(value: Any) -> str:
    if isinstance(value, types.GeneratorType):
        return "; pass a list of what it yields"
    if callable(getattr(value, "add_done_callback", None)):
        return "; it is the Future of something else: pass its result"
    return ""


def reference(target: Any) -> tuple[Callable[[int], Any], tuple[int]]:
    """Return a ``__reduce__`` value that refers to ``target`` as one of a task's inputs.

    Raises:
        SerializationError: called outside :func:`collecting`; a future has a meaning only in a task's arguments.
    """
    if _context.collected is None:
        raise SerializationError(
            f"{target!r} can't be pickled: a Future can be sent only in the arguments of a task; take its result() first"
        )
    _context.collected.append(target)
    return _input, (len(_context.collected) - 1,)


def _input(index: int) -> Any:
    if _context.resolved is None:
        raise SerializationError("a reference to a task's input was unpickled outside its task")
    return _context.resolved[index]


def dumps(obj: Any) -> bytes:
    """Pickle in one piece: with plain pickle if possible, with cloudpickle for what pickle can't do and for ``__main__``.

    Raises whatever cloudpickle or an object's ``__reduce__`` raises.
    """
    try:
        data = _pickle(obj)
    except Exception:
        return _cloudpickle(obj)
    return _cloudpickle(obj) if b"__main__" in data else data


def _pickle(obj: Any) -> bytes:
    """Plain pickle, as it is without Twisted in the process."""
    return pickle.dumps(obj, 5) if registered.table() is None else b"".join(_pickle_pieces(obj, None))


def _cloudpickle(obj: Any) -> bytes:
    return b"".join(_cloudpickle_pieces(obj, None))


class _Pieces:
    """A stream that keeps what is written to it.  Pickle writes large bytes, wherever they are in a value, without copying them
    first, so a piece may be an object of the value itself."""

    __slots__ = ("pieces", "write")

    def __init__(self) -> None:
        self.pieces: list[Buffer | bytearray] = []
        self.write = self.pieces.append


def _pickle_pieces(obj: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None) -> list[Buffer | bytearray]:
    stream = _Pieces()
    pickler = pickle.Pickler(stream, 5, buffer_callback=buffer_callback)
    table = registered.table()
    if table is not None:
        pickler.dispatch_table = table
    pickler.dump(obj)
    return stream.pieces


def _cloudpickle_pieces(obj: Any, buffer_callback: Callable[[pickle.PickleBuffer], Any] | None) -> list[Buffer | bytearray]:
    import cloudpickle  # takes 27 ms to import, and most processes do not need it

    collected = _context.collected
    if collected:
        collected.clear()  # references left by the attempt with plain pickle
    stream = _Pieces()
    pickler = _pickler_class(cloudpickle.Pickler)(stream, 5, buffer_callback)
    table = registered.table()
    if table is not None:
        pickler.dispatch_table = collections.ChainMap(cloudpickle.Pickler._dispatch_table, table)
    pickler.dump(obj)
    return stream.pieces


@functools.cache
def _pickler_class(base: type[Any]) -> type[Any]:
    class Pickler(base):  # type: ignore[misc]
        """cloudpickle's pickler, except for what that can't send or sends in a way that people do not expect.

        Code keeps the name of its file and brings its lines.  Cached and dispatching functions and cached properties of a
        script can be sent.  Open files can't: cloudpickle would send their remaining content as a file in memory.
        """

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, types.CodeType):
                return _reduce_code(obj, self.dispatch_table[types.CodeType](obj))
            if isinstance(obj, functools._lru_cache_wrapper) and not is_importable(obj):
                return _cached, (obj.__wrapped__, obj.cache_parameters())
            if isinstance(obj, functools.cached_property):  # it has a lock before Python 3.12
                return functools.cached_property, (obj.func,), {"attrname": obj.attrname}
            if isinstance(obj, types.FunctionType) and _is_dispatching(obj) and not is_importable(obj):
                registry: Any = getattr(obj, "registry")  # noqa: B009  made by singledispatch
                return _dispatching, (registry[object], list(registry.items()))
            if isinstance(obj, io.TextIOWrapper | io.BufferedIOBase | io.FileIO) and not isinstance(obj, io.BytesIO):
                raise pickle.PicklingError(f"an open file ({type(obj).__name__}) can't be sent; send its name or its content")
            return super().reducer_override(obj)

    return Pickler


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    """Return a function with its own cache, initially empty."""
    return functools.lru_cache(**parameters)(function)


def _is_dispatching(function: Any) -> bool:
    """Return whether ``functools.singledispatch`` made the function."""
    return isinstance(getattr(function, "registry", None), types.MappingProxyType) and hasattr(function, "dispatch")


def _dispatching(function: Callable[..., Any], registry: list[tuple[type, Callable[..., Any]]]) -> Any:
    made = functools.singledispatch(function)
    for kind, implementation in registry:
        made.register(kind, implementation)
    return made


#: Largest source (characters) that is sent with a function.
_MOST_SOURCE = 64 << 10


def _reduce_code(code: types.CodeType, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Reduce code as cloudpickle does, plus the name of its file, and its lines for processes that can't read that file."""
    make, args = reduced
    name = code.co_filename
    named = tuple(name if isinstance(arg, str) and arg == "<dynamic-code>" else arg for arg in args)
    first = code.co_firstlineno
    lines = linecache.getlines(name)[first - 1 :]
    with contextlib.suppress(SyntaxError, tokenize.TokenError):  # the file has changed in the meantime
        lines = inspect.getblock(lines)
    if not 0 < sum(map(len, lines)) <= _MOST_SOURCE:
        return make, named
    return _make_code, (make, named, name, first, lines)


def _make_code(make: Callable[..., Any], args: tuple[Any, ...], name: str, first: int, lines: list[str]) -> Any:
    if not os.path.exists(name):
        known = linecache.cache.get(name)
        there: list[str] = list(known[2]) if known is not None and len(known) > 2 else []
        there += ["...\n"] * (first - 1 + len(lines) - len(there))  # unlike blank lines, ends the preceding block
        there[first - 1 : first - 1 + len(lines)] = lines
        linecache.cache[name] = (sum(map(len, there)), None, there, name)
    return make(*args)


def is_importable(obj: Any) -> bool:
    """Return whether a function or class is sent by name only: it is found by its name in a module that is not the script."""
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", "")
    found: Any
    if module in (None, "__main__") or "<locals>" in name:
        return False
    found = sys.modules.get(module)
    cloudpickle = sys.modules.get("cloudpickle")
    if found is None or (cloudpickle is not None and module in cloudpickle.list_registry_pickle_by_value()):
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj


#: Types of values in which nothing can be a future or need cloudpickle.
_ATOMS = frozenset({int, float, bool, str, bytes, type(None), complex})

#: Bytes.  Pickle writes its instructions in frames of 64 KiB and a bit more; a larger piece is the content of one object.
_MOST_INSTRUCTIONS = 256 << 10


def _names_main(pieces: Sequence[Any]) -> bool:
    """Return whether a pickle refers to something by its name in ``__main__``."""
    if len(pieces) == 1:
        return b"__main__" in pieces[0]
    return any(b"__main__" in piece for piece in pieces if len(piece) <= _MOST_INSTRUCTIONS)


def dump_value(value: Any) -> list[Buffer]:
    """Return the parts of a value's bytes in order; joined, they are what :func:`load_value` reads.

    Parts may be views of the value's own memory: it must not change before they have been written.  Raises whatever pickling
    raises.
    """
    if type(value) in _ATOMS and (not isinstance(value, bytes | str) or len(value) <= _MOST_INSTRUCTIONS):
        return [pickle.dumps(value, 5)]
    buffers: list[pickle.PickleBuffer] = []
    try:
        pieces = _pickle_pieces(value, buffers.append)
        plain = not _names_main(pieces)
    except Exception:
        plain = False
    if not plain:
        buffers = []
        pieces = _cloudpickle_pieces(value, buffers.append)
    parts: list[Buffer] = [memoryview(piece) if isinstance(piece, bytearray) else piece for piece in pieces]
    if not buffers:
        return parts
    raws, length = [buffer.raw() for buffer in buffers], sum(map(len, parts))
    head = _FIXED.pack(_MAGIC, len(raws), length) + b"".join(raw.nbytes.to_bytes(8, "little") for raw in raws)
    parts.insert(0, head)
    at = len(head) + length
    for raw in raws:
        pad = -at % _ALIGN
        parts += [bytes(pad), raw]
        at += pad + raw.nbytes
    return parts


def load_value(data: Buffer) -> Any:
    """Return the value in ``data``.  If ``data`` is writable, the value's buffers are views of it rather than copies.

    Raises whatever unpickling raises.
    """
    view = memoryview(data)
    if view[:4] != _MAGIC:
        return _loads(view, ())
    if view.readonly:  # arrays must be writable, as they were
        view = memoryview(bytearray(view))
    _, count, length = _FIXED.unpack_from(view)
    sizes = struct.unpack_from(f"<{count}Q", view, _FIXED.size)
    at = _FIXED.size + 8 * count
    head, at = view[at : at + length], at + length
    buffers = []
    for size in sizes:
        at += -at % _ALIGN
        buffers.append(view[at : at + size])
        at += size
    return _loads(head, buffers)


def _loads(view: memoryview, buffers: Sequence[memoryview]) -> Any:
    if len(view) < HUGE_FROM_BYTES or not _is_mostly_bytes(view):
        return pickle.loads(view, buffers=buffers)
    return pickle.Unpickler(_Stream(view), buffers=buffers).load()


#: Opcodes between the frames of a pickle, which precede a large object: (length of its size, whether it is bytes).
_LARGE_OPCODES = {b"B": (4, True), b"\x8e": (8, True), b"\x96": (8, True), b"X": (4, False), b"\x8d": (8, False)}
_FRAME, _MOST_FRAMES = b"\x95", 1000


def _is_mostly_bytes(view: memoryview) -> bool:
    """Return whether large bytes make up most of a pickle.  Looks at its first frames and at what is between them."""
    at, large = 2, 0
    for _ in range(_MOST_FRAMES):
        opcode = bytes(view[at : at + 1])
        width, is_bytes = (8, False) if opcode == _FRAME else _LARGE_OPCODES.get(opcode, (0, False))
        if not width:
            break
        size = int.from_bytes(view[at + 1 : at + 1 + width], "little")
        at += 1 + width + size
        large += size if is_bytes and size >= HUGE_FROM_BYTES else 0
    return 2 * large > len(view)


class _Stream:
    """A large pickle as a stream: pickle asks it to fill each large object, whose memory can be prepared for that."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._at = view, 0

    def read(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        return bytes(self._view[start : self._at])

    def readline(self) -> bytes:  # only pickles of protocol 0 have lines
        raise pickle.UnpicklingError("the pickle is damaged")

    def readinto(self, target: memoryview) -> int:
        piece = self._view[self._at : self._at + len(target)]
        self._at += len(piece)
        if len(target) >= HUGE_FROM_BYTES:
            use_huge_pages(target)
        target[: len(piece)] = piece
        return len(piece)


def dump_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, list[Any]]:
    """Pickle the arguments of a call.

    Returns:
        (the pickle, the futures found inside the arguments in the order of their references).

    Raises:
        SerializationError: names the argument that can't be pickled.
    """
    try:
        if not kwargs and _ATOMS.issuperset(map(type, args)):  # nothing inside can be a future or needs cloudpickle
            return pickle.dumps((args, kwargs), 5), []
        with collecting() as inputs:
            return dumps((args, kwargs)), inputs
    except Exception as error:
        raise _name_argument(args, kwargs, error) from error


def _name_argument(args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> SerializationError:
    for name, value in [*enumerate(args), *kwargs.items()]:
        try:
            with collecting():
                dumps(value)
        except Exception as own:
            place = f"argument {name + 1}" if isinstance(name, int) else f"argument {name!r}"
            return SerializationError(f"{place}, a {type(value).__qualname__}, can't be pickled: {said(own)}{_advice(value)}")
    return SerializationError(f"the arguments can't be pickled: {said(error)}")


def load_call(data: Buffer, inputs: Sequence[Any] = ()) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs) with the references replaced by ``inputs``.  Raises whatever unpickling raises."""
    _context.resolved = inputs
    try:
        args, kwargs = pickle.loads(data)
    finally:
        _context.resolved = None
    return args, kwargs


def canonical_digest(data: bytes) -> bytes:
    """Return a digest (16 bytes) of a pickle's content that does not depend on which equal strings were one object.

    Pickle writes a string once and refers to it wherever the same object occurs again, so equal values may have different bytes
    within one process and across processes.
    """
    digest = hashlib.blake2b(digest_size=16)
    strings: dict[int, Any] = {}
    others: dict[int, int] = {}
    count, last = 0, None
    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name == "FRAME":
            continue
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            number = count if name == "MEMOIZE" else argument
            count += 1
            if last is not None:
                strings[number] = last
            else:
                others[number] = len(others)
            continue
        last = argument if isinstance(argument, str) else None
        if name in ("BINGET", "LONG_BINGET"):
            last = strings.get(argument)
            name, argument = ("string", last) if last is not None else ("get", others.get(argument))
        elif last is not None and "UNICODE" in name:
            name = "string"
        if isinstance(argument, bytes | bytearray):
            digest.update(b"%s %d " % (name.encode(), len(argument)))
            digest.update(argument)
        else:
            digest.update(f"{name} {argument!r};".encode("utf-8", "surrogatepass"))
    return digest.digest()


def dump_function(function: Callable[..., Any]) -> tuple[bytes, bool]:
    """Pickle a function.

    Returns:
        (the pickle, whether it is only a reference to an importable name).

    Raises:
        TypeError: ``function`` is not callable.
        SerializationError: it can't be pickled, or has a future in its closure.
    """
    if not callable(function):
        raise TypeError(f"{shown(function)} is not callable; the first argument must be a function")
    try:
        with collecting() as inputs:
            try:
                data, by_name = _pickle(function), True
            except Exception:
                by_name = False
            if not by_name or b"__main__" in data:
                data, by_name = _cloudpickle(function), False
    except Exception as error:
        raise SerializationError(f"the function {shown(function)} can't be pickled: {said(error)}") from error
    if inputs:
        raise SerializationError(f"the function {shown(function)} holds a Future in its closure; pass it as an argument")
    return data, by_name
