"""The rows of the journal, format 1: what the scheduler writes, and reads when it starts again.  See docs/journal.rst.

A journal is a table of rows, each with a kind, a number and a body.  The body is msgpack of one of the classes below, with the
fields in the order given here.  A new field is added at the end with a default; any other change requires a new ``FORMAT``.

=========  ==========================  ========================================================
kind       number                      body
=========  ==========================  ========================================================
META       0                           :class:`Meta`
SESSION    the session                 :class:`Session`
FUNCTION   the function                :class:`Function`
BATCH      the first task              :class:`Batch`
MARKS      the first task              :class:`Marks`
OUTCOMES   counted                     :class:`Outcomes`
WATCHES    counted                     :class:`Watches`
DATA       the task                    :class:`Data`
TARGET     the task                    :class:`Target`
NAME       counted                     :class:`Name`
WORKER     the worker                  :class:`Worker`
HISTORY    the task                    :class:`History`
UPLOAD     counted                     :class:`Upload`
=========  ==========================  ========================================================
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from twistdist.errors import JournalError
from twistdist.wire.framing import UNDECODABLE
from twistdist.wire.messages import ErrorInfo, Options

FORMAT = 1

META, SESSION, FUNCTION, BATCH, MARKS, OUTCOMES, WATCHES, DATA, TARGET, NAME, WORKER, HISTORY, UPLOAD = range(1, 14)

#: A row's kind and number.
Key = tuple[int, int]


class Meta(Struct, array_like=True, gc=False):
    """The cluster: the ``epoch`` of the scheduler's last life, and the number of ``lives`` before it."""

    format: int
    epoch: int
    lives: int


class Session(Struct, array_like=True, gc=False):
    """A client session: the last frame ``received``, and its ``functions`` by the numbers that it gave them.

    A ``placeholder`` stands for the durable session called ``name``, or for published names (""); ``next_cid`` is the next
    number for the futures that it keeps.
    """

    name: str
    parent: int
    received: int
    functions: list[tuple[int, int]]
    placeholder: bool = False
    next_cid: int = 0


class Function(Struct, array_like=True, gc=False):
    """A function that tasks call."""

    name: str
    digest: bytes
    blob: bytes


class Batch(Struct, array_like=True, gc=False):
    """The tasks of one submit: their numbers, the futures of ``session`` that requested them first, and what they run.

    ``inputs`` are task numbers in the order of the arguments; ``rank`` is the batch's place in the order of submission.
    """

    session: int
    origin: str
    function: int
    options: Options
    rank: int
    numbers: list[int]
    cids: list[int]
    args: list[bytes]
    inputs: list[list[int]] | None
    keys: list[str | None] | None
    recipes: list[bytes] | None


class Marks(Struct, array_like=True, gc=False):
    """What has changed in a batch: one bit per task, in its order, for tasks that are forgotten (``gone``) and for tasks whose
    first future was ``released``."""

    gone: bytes
    released: bytes


class Outcome(Struct, array_like=True, gc=False):
    """How a task ended: the accepted attempt with its value (None: it is in stores), or an error."""

    task: int
    attempt: int
    value: bytes | None
    size: int
    digest: bytes
    error: ErrorInfo | None = None
    checkpointed: bool = False


class Outcomes(Struct, array_like=True, gc=False):
    """Outcomes that were accepted together."""

    outcomes: list[Outcome]


class Watches(Struct, array_like=True, gc=False):
    """Futures of ``session`` other than those that requested a task first: cids and task numbers (0: cancelled)."""

    session: int
    cids: list[int]
    tasks: list[int]


class Data(Struct, array_like=True, gc=False):
    """Scattered data: the ``value`` if it is small, otherwise the attempt that names the files, and how many copies where.

    ``sources`` are the (session, cid) pairs that can supply the data again, the first source first.
    """

    origin: str
    cid: int
    key: str | None
    size: int
    digest: bytes
    value: bytes | None
    attempt: int
    copies: int
    workers: list[str]
    resupply: bool
    announced: bool
    sources: list[tuple[int, int]]


class Target(Struct, array_like=True, gc=False):
    """A number of copies that a client asked to have maintained."""

    copies: int


class Name(Struct, array_like=True, gc=False):
    """A published name: the pickled shape of what was published, and the tasks of its futures in order."""

    name: str
    shape: bytes
    tasks: list[int]


class Worker(Struct, array_like=True, gc=False):
    """A worker that was part of the cluster.  ``python`` is the version that runs its tasks; "": unknown."""

    name: str
    incarnation: int
    host: str
    address: str
    store: str
    python: str = ""


class History(Struct, array_like=True, gc=False):
    """What went wrong with a task so far, up to the attempt ``last``."""

    last: int
    raised: int
    crashes: list[str]
    exposed: int


class Upload(Struct, array_like=True, gc=False):
    """A file that is importable on all workers, a ``"module"`` or an ``"archive"``, or a pickled ``"plugin"``."""

    name: str
    kind: str
    blob: bytes


KINDS: dict[int, Any] = {
    META: Meta,
    SESSION: Session,
    FUNCTION: Function,
    BATCH: Batch,
    MARKS: Marks,
    OUTCOMES: Outcomes,
    WATCHES: Watches,
    DATA: Data,
    TARGET: Target,
    NAME: Name,
    WORKER: Worker,
    HISTORY: History,
    UPLOAD: Upload,
}
_DECODERS = {kind: msgspec.msgpack.Decoder(type_) for kind, type_ in KINDS.items()}

encode = msgspec.msgpack.Encoder().encode


def decode(kind: int, body: bytes) -> Any:
    """Return the record in the body of a row.

    Raises:
        JournalError: the kind is unknown, or the body can't be decoded.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise JournalError(f"the journal has a row of unknown kind {kind}; was it written by a later version of twistdist?")
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise JournalError(f"a {KINDS[kind].__name__} row of the journal can't be read: {error}") from None


def name_of(kind: int) -> str:
    """Return the name of a kind, for people."""
    return KINDS[kind].__name__.lower() if kind in KINDS else f"kind {kind}"
