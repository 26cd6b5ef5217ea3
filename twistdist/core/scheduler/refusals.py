"""Client messages that can't be carried out: whatever waits for an answer gets one, and the session continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twistdist.wire import messages as m

#: Numbers of futures are >= 0 and below this: they can always be sent back.
MAX_CIDS = 1 << 63

#: Futures that one refused message may fail, at most.
MAX_REFUSED = 1 << 20


def concerned(message: Any) -> tuple[Sequence[int], int | None]:
    """(the futures, the question) that a message is about, as far as that can be determined."""
    if isinstance(message, m.Submit):
        return _range(message.first, len(message.args)), None
    if isinstance(message, m.Scatter):
        return _range(message.cid, 1), None
    if isinstance(message, m.Query):
        return (), message.query
    if isinstance(message, m.Undecodable):
        return _concerned_by_parts(message.parts)
    return (), None


def _concerned_by_parts(parts: list[Any]) -> tuple[Sequence[int], int | None]:
    match parts:
        case [tag, int(first), _, [*args], *_] if tag == _tag(m.Submit):
            return _range(first, len(args)), None
        case [tag, int(cid), *_] if tag == _tag(m.Scatter):
            return _range(cid, 1), None
        case [tag, int(query), *_] if tag == _tag(m.Query):
            return (), query
    return (), None


def _tag(kind: Any) -> int:
    tag: int = kind.__struct_config__.tag
    return tag


def _range(first: int, count: int) -> Sequence[int]:
    return range(first, first + count) if 0 <= first <= MAX_CIDS - count and count <= MAX_REFUSED else ()
