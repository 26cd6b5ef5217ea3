"""Exceptions to :class:`~twistdist.wire.messages.ErrorInfo` and back.

Pickling is checked both ways where the exception is born: one that would not load is carried as its type's name,
text and traceback instead.  tblib carries traceback, cause and context.
"""

from __future__ import annotations

import pickle
import traceback
import types

from twistdist import errors
from twistdist.wire.messages import ErrorInfo

#: Longest text, traceback and pickle that an error may have on the wire; the rest is cut, and that is said.
MAX_TEXT = 16 << 10
MAX_TRACEBACK = 64 << 10
MAX_PICKLE = 4 << 20

#: Frames kept of a traceback's outer and inner end.
_OUTER, _INNER = 20, 60


def cut(text: str, limit: int) -> str:
    """``text``, or its start and end with a note in between when it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n[… cut: {len(text)} characters in all …]\n{text[-limit // 2 :]}"


def _clean(text: str) -> str:
    """``text`` without what UTF-8 can't express (lone surrogates, as in the names of odd files)."""
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
    """The outer and inner ends of a long traceback: pickling recurses once for each frame."""
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


def _chain(error: BaseException) -> list[BaseException]:
    """``error`` and every exception that it leads to, each once, at most 100."""
    found: dict[int, BaseException] = {}
    todo = [error]
    while todo and len(found) < 100:
        one = todo.pop()
        if id(one) not in found:
            found[id(one)] = one
            nested = getattr(one, "exceptions", ())
            more = [one.__cause__, one.__context__, *(nested if isinstance(nested, tuple | list) else ())]
            todo += [e for e in more if isinstance(e, BaseException)]
    return list(found.values())


def _pickle(error: BaseException) -> bytes:
    from tblib import pickling_support

    try:
        for one in _chain(error):
            BaseException.with_traceback(one, _trim(one.__traceback__))
            pickling_support.install(one)
        try:
            data = pickle.dumps(error, 5)
        except Exception:
            import cloudpickle

            data = cloudpickle.dumps(error, 5)
        again = pickle.loads(data)
    except BaseException:  # the user's __reduce__ may do anything
        return b""  # carried in words: the caller keeps type, text and traceback
    return data if type(again) is type(error) and len(data) <= MAX_PICKLE else b""


def dump_error(error: BaseException, kind: str = "", key: str = "", attempt: int = 0, worker: str = "") -> ErrorInfo:
    """``error`` for the wire.  ``kind`` names the class of ``twistdist.errors`` it is to become at the client."""
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
    """Carries a remote traceback's text as the cause of an error that could not travel as itself."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def load_error(info: ErrorInfo) -> BaseException:
    """The exception that ``info`` describes, with ``__twistdist__`` set.  Unpickles: for clients only."""
    error: BaseException | None = None
    if info.pickled:
        try:
            error = pickle.loads(info.pickled)
        except Exception:
            error = None  # its class is not to be had here: told in words below
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
