"""What a client remembers: futures, and functions as they are passed in."""

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


#: ``Record.of`` of what was not submitted by this client.
NOT_SUBMITTED = ("", "")


@attrs.define(eq=False)
class Record:
    """What the client knows about one future.

    ``value`` is the pickled value if it arrived inline or was fetched; otherwise ``place`` says where it is stored.  The edge
    calls each of the ``callbacks`` once, in the order they were added, when the record is no longer pending.  An ``orphan``
    is unknown to the current session, or there is no session.  ``seen`` is the digest of a fetched value, ``forgiven`` the
    error that it had before it was tried again.  ``of`` is (the name of its task's function, that of its group), for people.
    """

    cid: int
    state: State = State.PENDING
    value: bytes | memoryview | None = None
    place: m.Finished | None = None
    error: m.ErrorInfo | None = None
    orphan: bool = False
    seen: bytes = b""
    forgiven: m.ErrorInfo | None = None
    callbacks: list[Callable[[Record], Any]] | None = None
    of: tuple[str, str] = NOT_SUBMITTED


@attrs.frozen
class FunctionRef:
    """A pickled function, as the edge passes it in."""

    name: str
    digest: bytes
    blob: bytes
