"""The message catalogue: every message between client, scheduler and worker, version 1.

Messages are arrays on the wire: a tag, then the fields in the order written here.  A new field is added at the end
with a default; a change of meaning is a new tag; anything else is a new ``PROTOCOL_VERSION``, which the handshake
compares before a single message is read.

========  ====================================================================================
tags      between
========  ====================================================================================
1 - 9     greetings: the first frames on a connection, outside the session's numbers
10 - 29   client and scheduler
30 - 59   scheduler and worker (32 to 37 also worker and executor)
60 - 69   bulk connections between holders of stored results and those who want them
70 - 79   a worker's control process and its executors
========  ====================================================================================

Integers that name things: ``cid`` a future's number within its client session, ``task`` a task's number on the scheduler,
``attempt`` one execution (epoch in the high bits), ``fn`` a function's number (within a client session in client messages,
on the scheduler in worker messages), ``worker`` a worker's number on the scheduler.  Sizes are bytes, resources
millionths (so that they add up), durations
microseconds, limits seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

PROTOCOL_VERSION = 1

#: Bytes of one value: thousands of them add up to what can still be sent.
Size = Annotated[int, Meta(ge=0, le=1 << 50)]


class Message(Struct, array_like=True, gc=False):
    """Base of all messages.  Never changed after it was posted."""


# ---- parts of messages ----------------------------------------------------------------------


class Options(Struct, array_like=True, gc=False, frozen=True):
    """What a user asked of a task beside its function and arguments (``docs/api``)."""

    retries: int = 0
    crash_limit: int = 3
    time_limit: float = 0.0
    priority: int = 0
    workers: tuple[str, ...] = ()
    allow_other_workers: bool = False
    resources: dict[str, int] | None = None
    replay: str = "always"
    replicas: int = 1
    checkpoint: bool = False


class ErrorInfo(Struct, array_like=True, gc=False, frozen=True):
    """An exception in transit.  ``kind`` names a class of ``twistdist.errors``, or is "" for the user's own type.

    ``pickled`` is the exception with its traceback, cause and context (b"" when it can't be pickled); ``type``, ``text``
    and ``traceback`` describe it in words for everybody who does not unpickle.
    """

    kind: str
    type: str
    text: str
    traceback: str = ""
    pickled: bytes = b""
    key: str = ""
    attempt: int = 0
    worker: str = ""
    exit: str = ""


class Input(Struct, array_like=True, gc=False):
    """One input of a task: its value inline, or the attempt that names its file, and the workers that hold it.

    ``path`` is filled in by the worker's control process for its executors; nobody else sends it.
    """

    task: int
    attempt: int
    value: bytes | None
    size: Size = 0
    digest: bytes = b""
    holders: list[int] = []
    path: str = ""


class Stored(Struct, array_like=True, gc=False):
    """A result file in a worker's inventory."""

    task: int
    attempt: int
    size: Size
    digest: bytes


# ---- greetings ------------------------------------------------------------------------------


class HelloClient(Message, tag=1):
    """A client opens a session; ``name`` is the durable session that it is part of, "" for none.  ``parent`` is the task in
    which it was made, 0 for one of a user's own: such a session is kept while that task is unfinished, and ends with it."""

    session: int
    name: str = ""
    parent: int = 0


class HelloWorker(Message, tag=2):
    """A worker registers, with everything it has, in one message."""

    session: int
    name: str
    incarnation: int
    pid: int
    slots: int
    address: str
    host: str
    store: str
    resources: dict[str, int]
    stored: list[Stored]
    running: list[tuple[int, int]]
    finished: list[Done | Failed | Crashed]


class Resume(Message, tag=3):
    """The dialing side wants to go on with a session; ``received`` is the last frame number it got."""

    session: int
    epoch: int
    received: int


class Ready(Message, tag=4):
    """A Hello is accepted; numbers start at 1.  Who is silent for ``suspect_after`` seconds is suspected, for ``dead_after``
    given up."""

    epoch: int
    name: str = ""
    suspect_after: float = 1.0
    dead_after: float = 10.0


class Resumed(Message, tag=5):
    """A Resume is accepted; ``received`` is the last frame number the scheduler got.

    ``epoch`` (0: as before) is that of a scheduler that was started again since and knows the session from its journal: its own
    frames are numbered from 1 again, it tells anew how all futures are, and questions that it has not answered are asked again.
    """

    received: int
    epoch: int = 0


class Refused(Message, tag=6):
    """A greeting is refused.  ``code``: "session" (say Hello instead), "replaced" or "role" (give up)."""

    code: str
    text: str


class Beat(Message, tag=7):
    """A heartbeat, outside the session's numbers: nothing is repeated when it is lost.

    ``number`` counts the sender's beats, ``echo`` is the last one that it got from the other side, ``sent`` its last
    frame, ``lag``
    by how many microseconds its event loop was late at this beat.  A worker tells its load too: tasks ``running`` in
    executors, ``queued`` for one, and ``fetching`` inputs.  ``jobs`` and ``stored`` are the digests of the attempts that it
    works on and of the files that it holds (``core.digests.digest_of``); ``stored`` is left out (-1) of most beats.
    """

    number: int
    echo: int
    sent: int
    lag: int = 0
    running: int = 0
    queued: int = 0
    fetching: int = 0
    jobs: int = 0
    stored: int = -1


class Trouble(Message, tag=8):
    """To clients, outside the session's numbers: the scheduler can't write its journal, and acknowledges nothing; "": it can
    again."""

    text: str


# ---- client and scheduler -------------------------------------------------------------------


class Function(Message, tag=10):
    """A function, once for a session: ``blob`` is its pickle, ``name`` what people read."""

    fn: int
    name: str
    digest: bytes
    blob: bytes


class Submit(Message, tag=11):
    """Tasks of one function and one set of options, numbered ``first``, ``first + 1``, …

    ``inputs`` (None: no task has any) lists for each task the cids that its arguments name; ``keys`` (None: generated)
    a name for each, and ``recipes`` a digest of function, arguments and inputs' keys for each that has a name.  With
    ``replace`` a key that is in use with another recipe goes to the new task.
    """

    first: int
    fn: int
    args: list[bytes]
    inputs: list[list[int]] | None = None
    keys: list[str] | None = None
    options: Options | None = None
    recipes: list[bytes] | None = None
    replace: bool = False


class Release(Message, tag=12):
    """The session does not want these any more; with ``durable`` the durable session that it is part of does not either."""

    cids: list[int]
    durable: bool = False


class Cancel(Message, tag=13):
    """Stop these, unless somebody else wants them too; with ``unstarted`` only those that no worker was given."""

    cids: list[int]
    unstarted: bool = False


class Unreachable(Message, tag=14):
    """The client could not get the value of ``attempt`` from these workers; an answer is another Finished or Erred."""

    cid: int
    attempt: int
    holders: list[int]


class Query(Message, tag=15):
    """A question about the cluster, or an order; answered by Reply with the same ``query``.

    ``again``: it was asked of an earlier life of the scheduler, which may have carried it out.
    """

    query: int
    what: str
    args: list[Any]
    again: bool = False


class Bye(Message, tag=16):
    """The session ends; what only it wanted is released."""


class DropFunctions(Message, tag=17):
    """The session will not submit these functions any more under these numbers."""

    fns: list[int]


class Scatter(Message, tag=18):
    """Data of the session's own, under the future ``cid``: inline, or to be supplied when Supply asks for it.

    ``replicas`` copies are to be kept (0: one on every worker), on ``workers`` alone if there are any; ``key`` "" is generated.
    With ``resupply`` the session can supply it again as long as it holds the future.
    """

    cid: int
    key: str
    size: Size
    digest: bytes
    value: bytes | None
    replicas: int
    workers: list[str]
    resupply: bool


class NotSupplied(Message, tag=19):
    """The session could not bring the data of ``cid`` to ``worker`` (0: it does not have them any more)."""

    cid: int
    worker: int
    text: str


class Keeps(Message, tag=27):
    """To a scheduler that was started again: the session keeps the data of these futures, to bring them again."""

    cids: list[int]


class Finished(Message, tag=20):
    """A future has a value: inline, or in the stores of ``holders`` under ``attempt``."""

    cid: int
    attempt: int
    value: bytes | None
    size: Size = 0
    digest: bytes = b""
    holders: list[int] = []


class Erred(Message, tag=21):
    """A future has failed or was cancelled."""

    cid: int
    error: ErrorInfo


class Reply(Message, tag=22):
    """The answer to a Query; ``error`` is "" when it went well."""

    query: int
    error: str
    value: Any = None


class Peer(Message, tag=23):
    """Where a worker's stored results can be had, sent before the first message that names it."""

    worker: int
    name: str
    host: str
    store: str
    address: str


class Supply(Message, tag=24):
    """Bring the data of ``cid`` to the store of one of ``workers``, as ``attempt`` of ``task``."""

    cid: int
    task: int
    attempt: int
    workers: list[int]


class Lacks(Message, tag=28):
    """What these futures' tasks lack to be run at all (no ``cids``: all that are pending); "": nothing any more."""

    cids: list[int]
    text: str


class DropData(Message, tag=25):
    """Nobody needs the data of these futures any more: they will not be asked for again."""

    cids: list[int]


class PeerState(Message, tag=26):
    """How a worker that was introduced is doing: "" reachable, "suspect" not heard of just now, "gone" given up."""

    worker: int
    state: str


# ---- scheduler and worker -------------------------------------------------------------------


class WorkerFunction(Message, tag=32):
    """A function, once for a worker, and once for an executor."""

    fn: int
    name: str
    blob: bytes


class Compute(Message, tag=33):
    """Run a task.  ``limit`` is its time limit (0: none), ``cost`` how long the scheduler expects it to run (-1: unknown),
    ``key`` what people call it.  ``checkpoint`` is a place in the checkpoint store, which is looked at first; with
    ``restore`` nothing else is done."""

    task: int
    attempt: int
    fn: int
    args: bytes
    inputs: list[Input] | None = None
    limit: float = 0.0
    cost: int = 0
    key: str = ""
    checkpoint: str = ""
    restore: bool = False


class Done(Message, tag=34):
    """An attempt has a value: inline, or (None) in the worker's store."""

    task: int
    attempt: int
    value: bytes | None
    size: Size
    digest: bytes
    us: int
    checkpointed: bool = False


class Failed(Message, tag=35):
    """An attempt raised."""

    task: int
    attempt: int
    error: ErrorInfo
    us: int


class Crashed(Message, tag=36):
    """An attempt's executor died; ``exit`` says how in words, ``kind`` names the error class when it was our doing.

    ``when`` it died, as people write times, after the attempt had run for ``us`` microseconds.
    """

    task: int
    attempt: int
    exit: str
    detail: str
    kind: str = ""
    when: str = ""
    us: int = 0


class InputLost(Message, tag=37):
    """The worker gives the attempt back: ``inputs`` are (attempt, worker) pairs that it could not get."""

    task: int
    attempt: int
    inputs: list[tuple[int, int]]


class Have(Message, tag=38):
    """The worker has copied these results to its own store."""

    stored: list[Stored]


class Missing(Message, tag=39):
    """The worker does not have these files (any more)."""

    attempts: list[int]


class Recalled(Message, tag=40):
    """The answer to a Recall: the attempts that had not been started and now won't be."""

    attempts: list[int]


class WorkerLog(Message, tag=41):
    """Something a person should know: an executor that can't start, a template that died."""

    kind: str
    text: str
    attempt: int = 0


class Intake(Message, tag=42):
    """The worker runs no more than ``most`` tasks at a time from now on; ``why``, if that is fewer than its slots."""

    most: int
    why: str


class Parked(Message, tag=43):
    """The attempt waits for other tasks and does not use a slot; with ``parked`` False it does again."""

    attempt: int
    parked: bool


class CopyFailed(Message, tag=44):
    """The answer to a Copy that could not be made from any of ``holders``."""

    attempt: int
    holders: list[int]


class Rescued(Message, tag=45):
    """The answer to Rescue: whether that worker's process is ``dead``, and what is in our store now that was in its."""

    worker: int
    dead: bool
    stored: list[Stored]


class Locate(Message, tag=46):
    """All known holders of this file are busy: who else has it?"""

    task: int
    attempt: int


class Leaving(Message, tag=47):
    """The worker was told to stop: hand over what only it has, for at most ``seconds``, and say Stop."""

    seconds: float


class Inventory(Message, tag=48):
    """The answer to Audit: the attempts that the worker works on, and those whose files it holds (None: not asked for)."""

    number: int
    jobs: list[int]
    stored: list[Stored] | None


class Recall(Message, tag=50):
    """Give these back unless they have been started."""

    attempts: list[int]


class Free(Message, tag=51):
    """Delete these result files."""

    attempts: list[int]


class Abort(Message, tag=52):
    """Nobody wants these attempts; with ``kill`` a running one is ended."""

    attempts: list[int]
    kill: bool


class Verify(Message, tag=53):
    """Look whether you have these files; what you have not is told with Missing."""

    attempts: list[int]


class ForgetFunctions(Message, tag=54):
    """No task uses these functions any more."""

    fns: list[int]


class Stop(Message, tag=55):
    """Finish: the worker process ends."""

    text: str


class Copy(Message, tag=56):
    """Have a copy of this file in your store."""

    source: Input


class Rescue(Message, tag=57):
    """Look whether the process of ``worker`` on this host is dead, and if so take over what its ``store`` holds."""

    worker: int
    store: str


class Park(Message, tag=49):
    """The attempt has a client whose tasks find no slot: it goes on beside its slot, which is for others now."""

    attempt: int


class Located(Message, tag=58):
    """The answer to Locate."""

    attempt: int
    holders: list[int]


class Audit(Message, tag=59):
    """Say what you work on, and with ``stored`` what you hold: the digests have differed for a while."""

    number: int
    stored: bool


# ---- bulk -----------------------------------------------------------------------------------


class Fetch(Message, tag=60):
    """Send the file of ``attempt`` from ``offset`` on."""

    attempt: int
    offset: Size


class Data(Message, tag=61):
    """The answer: this many raw bytes follow the frame."""

    attempt: int
    length: Size


class Busy(Message, tag=63):
    """The answer: later, or from somebody else."""

    attempt: int


class Put(Message, tag=64):
    """Take this file into the store: it lies at ``path`` on our host, or its bytes can be sent."""

    stored: Stored
    host: str
    path: str


class Send(Message, tag=65):
    """The answer to Put: send the bytes, raw."""

    attempt: int


class Kept(Message, tag=66):
    """The answer to Put, or to the bytes: whether the file is in the store, and why not."""

    attempt: int
    kept: bool
    text: str = ""


class Absent(Message, tag=62):
    """The answer: no such file."""

    attempt: int


# ---- control process and executors --------------------------------------------------------


class Started(Message, tag=71):
    """The executor is ready for tasks."""


class Waits(Message, tag=72):
    """The running task waits for others.  ``unstarted`` attempts, given behind it, go back."""

    attempt: int
    unstarted: list[int]


class Resumes(Message, tag=73):
    """What the task waited for is there; it goes on when GoOn comes."""

    attempt: int


class UsesClient(Message, tag=74):
    """A task uses a client: executors forked from now on should have it loaded."""


class GoOn(Message, tag=75):
    """The attempt has a slot again."""

    attempt: int


class Undecodable(NamedTuple):
    """In the place of a message that must not be sent: what it consists of, its tag first, and what is wrong with it."""

    parts: list[Any]
    text: str


Greeting = HelloClient | HelloWorker | Resume | Ready | Resumed | Refused
FromClient = Function | Submit | Release | Cancel | Unreachable | Query | Bye | DropFunctions | Scatter | NotSupplied | Keeps
ToClient = Finished | Erred | Reply | Peer | Supply | DropData | Lacks | PeerState | Beat | Trouble
FromWorker = (
    Done
    | Failed
    | Crashed
    | InputLost
    | Have
    | Missing
    | Recalled
    | WorkerLog
    | Intake
    | Parked
    | CopyFailed
    | Rescued
    | Locate
    | Leaving
    | Inventory
    | Beat
)
ToWorker = (
    WorkerFunction
    | Compute
    | Recall
    | Free
    | Abort
    | Verify
    | ForgetFunctions
    | Stop
    | Peer
    | Copy
    | Rescue
    | Located
    | PeerState
    | Audit
    | Park
    | Beat
)
Bulk = Fetch | Data | Absent | Busy | Put | Send | Kept

#: One frame of a session: its number (0: outside the numbers), the last number received, messages.
Frame = tuple[int, int, list[Any]]
