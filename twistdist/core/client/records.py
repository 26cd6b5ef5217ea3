"""What a client remembers: futures, and functions as they are handed in."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import attrs

from twistdist.wire import messages as m


class State(enum.Enum):
    """What a future's ``status`` says."""

    PENDING = "pending"
    FINISHED = "finished"
    ERROR = "error"
    CANCELLED = "cancelled"
    LOST = "lost"


@attrs.define(eq=False)
class Record:
    """What the client knows of one future.

    ``value`` is the pickled value when it came inline or was fetched; otherwise ``place`` says where it lies.  ``callbacks``
    are called by the edge, each once, when the record has changed from pending, in the order they were added.  An
    ``orphan`` is not known to the session that is there now, or to none.  ``seen`` is the digest of a value that was fetched.
    """

    cid: int
    state: State = State.PENDING
    value: bytes | memoryview | None = None
    place: m.Finished | None = None
    error: m.ErrorInfo | None = None
    orphan: bool = False
    seen: bytes = b""
    callbacks: list[Callable[[Record], Any]] | None = None


@attrs.frozen
class FunctionRef:
    """A pickled function, as the edge hands it in."""

    name: str
    digest: bytes
    blob: bytes
