"""Converts exceptions to :class:`~twistdist.wire.messages.ErrorInfo` and back.

Both pickling and unpickling are checked in the process where the exception occurred.  An exception that is too large travels as
a copy of the same class without its large parts.  One that can't be pickled, or would not load, travels as its type's name, its
text and its traceback.  tblib carries tracebacks.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import pickle
import traceback
import types
from collections import deque
from typing import Any

from twistdist import errors
from twistdist.wire.messages import ErrorInfo

#: Longest text and traceback (characters) and largest pickle (bytes) of an error on the wire; a note says what was cut.
MAX_TEXT = 16 << 10
MAX_TRACEBACK = 64 << 10
MAX_PICKLE = 4 << 20

#: Linked exceptions that are followed from one exception, linked exceptions in its copy, and arguments in its copy.
MAX_CHAINED = 100
MAX_COPIED, _FEW_COPIED = 50, 3
_MOST_VALUES = 50

#: Frames to keep at a traceback's outer and inner end.
_OUTER, _INNER = 20, 60


def cut(text: str, limit: int) -> str:
    """Return ``text``, or its start and end with a note in between if it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n[… cut: {len(text)} characters in all …]\n{text[-limit // 2 :]}"


def _clean(text: str) -> str:
    """Return ``text`` without what UTF-8 can't express (lone surrogates, as in the names of odd files)."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text_of(error: BaseException) -> str:
    try:
        return cut(_clean(str(error)), MAX_TEXT)
    except BaseException as own:  # the user's __str__ may do anything
        return f"<{type(error).__qualname__}.__str__ raised {type(own).__qualname__}>"


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _trim(tb: types.TracebackType | None) -> types.TracebackType | None:
    """Return only the outer and inner ends of a long traceback: pickling recurses once per frame."""
    frames = []
    while tb is not None:
        frames.append(tb)
        tb = tb.tb_next
    if len(frames) > _OUTER + _INNER:
        frames = frames[:_OUTER] + frames[-_INNER:]
    trimmed: types.TracebackType | None = None
    for entry in reversed(frames):
        trimmed = types.TracebackType(trimmed, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return trimmed


def chain(error: BaseException, most: int = MAX_CHAINED) -> list[BaseException]:
    """Return ``error`` and all that it is linked to (causes, contexts, groups' members): nearest first, each once, at most
    ``most``."""
    found = {id(error): error}
    todo = deque([error])
    while todo:
        error = todo.popleft()
        for linked in (error.__cause__, error.__context__, *_members(error)):
            if linked is not None and id(linked) not in found and len(found) < most:
                found[id(linked)] = linked
                todo.append(linked)
    return list(found.values())


def _members(error: BaseException) -> list[BaseException]:
    """Return the members of an exception group, or [] for another exception."""
    members = getattr(error, "exceptions", ())
    return [member for member in members if isinstance(member, BaseException)] if isinstance(members, tuple | list) else []


#: The class of exception groups, for ``isinstance``; () before Python 3.11.
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())


# ---- unchanged -------------------------------------------------------------------------------------


class _TooLarge(Exception):
    """The pickle exceeds its limit."""


class _Bounded:
    """A file in memory that accepts up to ``limit`` bytes and does not even copy anything larger."""

    def __init__(self, limit: int) -> None:
        self._left, self.parts = limit, list[bytes]()

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise _TooLarge
        self.parts.append(bytes(data))
        return size


@functools.cache
def _pickler_class(base: type[Any]) -> type[Any]:
    """Return a pickler for complete exceptions that does not change the process's own dispatch tables."""
    from tblib import pickling_support

    class Pickler(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, types.TracebackType):
                return pickling_support.pickle_traceback(_trim(obj))
            if isinstance(obj, BaseException):
                return pickling_support.pickle_exception(obj)
            inherited = getattr(super(), "reducer_override", None)
            return NotImplemented if inherited is None else inherited(obj)

    return Pickler


def _dumps(obj: Any, limit: int, becomes: type[Any] | None = None) -> bytes:
    """Return a pickle after checking that it loads as an object of class ``becomes`` (default: the same).  Raises any error."""
    try:
        stream = _Bounded(limit)
        _pickler_class(pickle.Pickler)(stream, 5).dump(obj)
    except _TooLarge:
        raise
    except Exception:
        import cloudpickle

        stream = _Bounded(limit)
        _pickler_class(cloudpickle.Pickler)(stream, 5).dump(obj)
    data = b"".join(stream.parts)
    if type(pickle.loads(data)) is not (becomes or type(obj)):
        raise pickle.PicklingError("unpickling returns another type")
    return data


def _pickle(error: BaseException) -> bytes:
    """Pickle ``error`` unchanged or, if it is too large, a copy without its large parts; b"" if it can't be pickled at all."""
    try:
        return _dumps(error, MAX_PICKLE, type(error))
    except BaseException as trouble:  # the user's __reduce__ may do anything
        if not isinstance(trouble, _TooLarge | RecursionError) and not isinstance(trouble.__cause__, RecursionError):
            return b""
    for most, longest in ((MAX_COPIED, MAX_TEXT), (_FEW_COPIED, MAX_TEXT // 16)):
        try:
            return _dumps(_Copies(error, most, longest), MAX_PICKLE, type(error))
        except BaseException:  # a linked exception's class may be impossible to pickle, or the copy may still be too large
            continue
    return b""


# ---- as a copy -------------------------------------------------------------------------------------


class _Copies:
    """Copies of ``error`` and its linked exceptions, the nearest ``most`` in all: class, traceback and links, and those
    arguments and attributes that are shorter than ``limit``.  Becomes the exception when it is unpickled."""

    def __init__(self, error: BaseException, most: int, limit: int) -> None:
        nearest = chain(error, most)
        self._numbers = {id(error): number for number, error in enumerate(nearest)}
        self._limit = limit
        self._records = [self._record(error) for error in nearest]

    def __reduce__(self) -> Any:
        return _rebuild, (self._records,)

    def _record(self, error: BaseException) -> _Record:
        tb = _trim(error.__traceback__)
        members = _members(error) if isinstance(error, _GROUP) else []
        numbers = [self._numbers[id(member)] for member in members if id(member) in self._numbers]
        state = {name: self._short(value) for name, value in _attributes(error).items()}
        notes = state.get("__notes__")
        if len(numbers) < len(members):
            left_out = f"{len(members) - len(numbers)} more exceptions of this group are left out"
            state["__notes__"] = [*(notes if isinstance(notes, list) else ()), left_out]
        return (
            _dumps_class(type(error), must=not self._numbers[id(error)]),
            _dumps(tuple(self._short(arg) for arg in (error.args[:1] if members else error.args)[:_MOST_VALUES]), MAX_PICKLE),
            _dumps(state, MAX_PICKLE),
            None if tb is None else _tblib_traceback(tb).to_dict(),
            self._numbers.get(id(error.__cause__)),
            self._numbers.get(id(error.__context__)),
            error.__suppress_context__,
            numbers,
        )

    def _short(self, value: Any) -> Any:
        """Return ``value``, or a short replacement that can be pickled."""
        if type(value) is str:
            return cut(value, self._limit)
        if type(value) in (list, tuple) and len(value) <= _MOST_VALUES and all(type(item) is str for item in value):
            return type(value)(map(self._short, value))
        try:
            _dumps(value, self._limit)
        except BaseException:  # too large, or the user's __reduce__ fails
            return f"<a {type(value).__qualname__} that is too large or can't be pickled>"
        return value


#: Class, arguments and attributes (a pickle each), traceback as tblib's dictionary, numbers of cause and context,
#: ``__suppress_context__``, numbers of a group's members.
_Record = tuple[bytes, bytes, bytes, "dict[str, Any] | None", "int | None", "int | None", bool, "list[int]"]


def _tblib_traceback(tb: types.TracebackType) -> Any:
    import tblib

    return tblib.Traceback(tb)


def _attributes(error: BaseException) -> dict[str, Any]:
    """Return what an exception holds besides ``args``: slots, including those of built-in classes, and ``__dict__``."""
    found: dict[str, Any] = {}
    for kind in type(error).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType) and not name.startswith("__") and name not in found:
                with contextlib.suppress(AttributeError):  # an empty slot
                    found[name] = member.__get__(error)
    if isinstance(error, _GROUP):
        del found["exceptions"]  # represented by their numbers
    return {**found, **getattr(error, "__dict__", {})}


def _dumps_class(kind: type[BaseException], must: bool) -> bytes:
    """Pickle a class.  Unless ``must``, one that can't be pickled is replaced by another."""
    try:
        return _dumps(kind, MAX_PICKLE // 4)
    except BaseException:
        if must:
            raise
        return _dumps(errors.TaskError, MAX_PICKLE)


def _rebuild(records: list[_Record]) -> BaseException:
    """Return the first of the exceptions recorded by :class:`_Copies`, linked with the others."""
    made: dict[int, BaseException] = {}
    for number in reversed(range(len(records))):  # members come after their group
        kind, args, state, _, _, _, _, members = records[number]
        made[number] = _rebuild_one(
            pickle.loads(kind), pickle.loads(args), pickle.loads(state), [made[member] for member in members if member in made]
        )
    for number, error in made.items():
        _, _, _, tb, cause, context, suppress, _ = records[number]
        error.__cause__ = None if cause is None else made[cause]
        error.__context__ = None if context is None else made[context]
        error.__suppress_context__ = suppress
        if tb is not None:
            BaseException.with_traceback(error, _traceback_from(tb))
    return made[0]


def _traceback_from(described: dict[str, Any]) -> types.TracebackType:
    import tblib

    tb: types.TracebackType = tblib.Traceback.from_dict(described).as_traceback()
    return tb


def _rebuild_one(
    kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any], members: list[BaseException]
) -> BaseException:
    """Make an exception of class ``kind`` without its own ``__new__`` and ``__init__``, which may require other arguments."""
    builtin: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    if issubclass(kind, _GROUP):
        made: BaseException = builtin.__new__(kind, str(args[0]), members or [errors.TaskError("left out")])
    else:
        made = builtin.__new__(kind, *args)
        made.args = args
    for name, value in state.items():
        with contextlib.suppress(AttributeError, TypeError):  # it can't be set, or not to this value
            BaseException.__setattr__(made, name, value)
    return made


def dump_error(error: BaseException, kind: str = "", key: str = "", attempt: int = 0, worker: str = "") -> ErrorInfo:
    """Return ``error`` for the wire.  ``kind`` names the class of ``twistdist.errors`` that it becomes at the client.

    With ``kind`` "" it keeps its own type; an exception that can't be pickled is described only in words.
    """
    try:
        remote = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException as own:
        remote = f"<the traceback can't be formatted: {type(own).__qualname__}>"
    return ErrorInfo(
        kind=kind,
        type=_clean(_type_name(error)),
        text=_text_of(error),
        traceback=cut(_clean(remote), MAX_TRACEBACK),
        pickled=b"" if kind else _pickle(error),
        key=key,
        attempt=attempt,
        worker=worker,
    )


class RemoteTraceback(Exception):
    """Carries the text of a remote traceback, as the cause of an error that could not be sent as itself."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def load_error(info: ErrorInfo) -> BaseException:
    """Return the exception that ``info`` describes, with ``__twistdist__`` set.

    If it can't be unpickled here, an error of ``twistdist.errors`` with its type and text is returned.  Only clients may call
    this, since it unpickles.
    """
    error: BaseException | None = None
    if info.pickled:
        try:
            error = pickle.loads(info.pickled)
        except KeyboardInterrupt:
            raise
        except BaseException:
            error = None  # its class is not available here: it is described in words below
    if error is None:
        error = _in_words(info)
    error.__twistdist__ = errors.TaskInfo(  # type: ignore[attr-defined]
        key=info.key, attempt=info.attempt, worker=info.worker, exit=info.exit, traceback=info.traceback
    )
    return error


def _in_words(info: ErrorInfo) -> BaseException:
    kind = getattr(errors, info.kind or "TaskError", errors.TaskError)
    text = info.text if info.kind else f"{info.type}: {info.text}"
    error: BaseException = kind(text)
    if info.traceback:
        error.__cause__ = RemoteTraceback(info.traceback)
    return error
