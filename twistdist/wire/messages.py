"""The message catalogue, version 1: every message between client, scheduler and worker.

Messages are arrays on the wire: a tag, then the fields in the order given here.  The handshake tells each side the other's
``PROTOCOL_VERSION``, before any message is read.  A scheduler, a worker and a client whose versions differ by one must work
together (docs/wire.rst), so a release changes messages only in these ways:

* A new field is added at the end, with a default that means what was meant before; older sides ignore it.
* A change of meaning is a new tag.  Older sides do not know it: it is sent only over a connection whose ``version`` has it.
* Anything else, and what was kept for a release that is two versions old, moves ``OLDEST_VERSION``.

========  ====================================================================================
tags      between
========  ====================================================================================
1 - 9     greetings: the first frames on a connection, outside the session's numbers
10 - 29   client and scheduler
30 - 59   scheduler and worker (32 to 37 also worker and executor)
60 - 69   bulk connections, for stored results, between their holders and consumers
70 - 79   a worker's control process and its executors
80 - 89   client and scheduler, too
========  ====================================================================================

Integers that name things: ``cid`` is a future's number within its client session, ``task`` a task's number on the scheduler,
``attempt`` one execution (epoch in the high bits), ``fn`` a function's number (within a client session in client messages, on
the scheduler in worker messages), and ``worker`` a worker's number on the scheduler.  Sizes are in bytes, resources in
millionths (so that they add up exactly), durations in microseconds, and limits in seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

#: The version of this side, and the oldest one of another side with which it works.
PROTOCOL_VERSION, OLDEST_VERSION = 1, 1

#: Bytes of one value; bounded so that the sum of thousands of sizes can still be encoded.
Size = Annotated[int, Meta(ge=0, le=1 << 50)]


class Message(Struct, array_like=True, gc=False):
    """Base of all messages.  A message is never changed after it has been posted."""


# ---- parts of messages ----------------------------------------------------------------------


class Options(Struct, array_like=True, gc=False, frozen=True):
    """What a user requested for a task besides its function and arguments (``docs/api``).

    A task ``beside`` the slots is one of ``client.run``: it starts at once on the one worker that ``workers`` names, in a
    process of its own, and is never run again.  ``trace`` is the span that submitted a traced task (:mod:`.traces`).
    """

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
    beside: bool = False
    group: str = ""
    trace: str = ""


class ErrorInfo(Struct, array_like=True, gc=False, frozen=True):
    """An exception in transit.  ``kind`` names a class of ``twistdist.errors``, or is "" for the user's own type.

    ``pickled`` is the exception with its traceback, cause and context (b"" if it can't be pickled); ``type``, ``text`` and
    ``traceback`` describe it in words for processes that do not unpickle.
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
    """One input of a task: its value inline, or the attempt that names its file and the workers that hold it.

    A worker's control process fills in ``path`` for its executors; nobody else sends it.  ``awaited``: that attempt is running
    on the same worker, or waits to.
    """

    task: int
    attempt: int
    value: bytes | None
    size: Size = 0
    digest: bytes = b""
    holders: list[int] = []
    path: str = ""
    awaited: bool = False


class Stored(Struct, array_like=True, gc=False):
    """A result file in a worker's inventory."""

    task: int
    attempt: int
    size: Size
    digest: bytes


# ---- greetings ------------------------------------------------------------------------------


class HelloClient(Message, tag=1):
    """A client opens a session.  ``name`` is the durable session that it is part of, "" for none.  ``parent`` is the task that
    created the client, 0 for a user's own client.  A session with a parent is kept while that task is unfinished, and ends
    with it.  ``python`` is the version that pickles what the client sends, such as "3.11"; "": unknown."""

    session: int
    name: str = ""
    parent: int = 0
    python: str = ""


class HelloWorker(Message, tag=2):
    """A worker registers, and reports everything it has, in one message.

    ``python`` is the version that runs its tasks, and ``versions`` says what it runs on, for people.
    """

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
    python: str = ""
    versions: str = ""


class Resume(Message, tag=3):
    """The dialing side asks to resume a session; ``received`` is the last frame number that it received."""

    session: int
    epoch: int
    received: int


class Ready(Message, tag=4):
    """A Hello is accepted; frame numbers start at 1.  A peer is suspected after ``suspect_after`` seconds of silence, and given
    up after ``dead_after``.  ``dashboard`` is the link of the scheduler's page, without a token."""

    epoch: int
    name: str = ""
    suspect_after: float = 1.0
    dead_after: float = 10.0
    dashboard: str = ""


class Resumed(Message, tag=5):
    """A Resume is accepted; ``received`` is the last frame number that the scheduler received.

    ``epoch`` (0: unchanged) is that of a scheduler that has been restarted in the meantime and knows the session from its
    journal.  Its frames are numbered from 1 again, it reports the state of all futures again, and the other side repeats the
    queries that it has not answered.
    """

    received: int
    epoch: int = 0


class Refused(Message, tag=6):
    """A greeting is refused.  ``code``: "session" (say Hello instead), "replaced", "python" or "role" (give up)."""

    code: str
    text: str


class Beat(Message, tag=7):
    """A heartbeat, outside the session's numbers: it is not repeated if it is lost.

    ``number`` counts the sender's beats, ``echo`` is the last beat that it received from the other side, ``sent`` its last
    frame, and ``lag`` by how many microseconds its event loop was late for this beat.  A worker also reports its load: tasks
    ``running`` in executors, ``queued`` for one, and ``fetching`` inputs.  ``jobs`` and ``stored`` are the digests of the
    attempts that it works on and of the files that it holds (``core.digests.digest_of``); most beats omit ``stored`` (-1).
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
    """To clients, outside the session's numbers: the scheduler can't write its journal and acknowledges nothing; "": it can
    write again."""

    text: str


# ---- client and scheduler -------------------------------------------------------------------


class Function(Message, tag=10):
    """A function, sent once per session: ``blob`` is its pickle, ``name`` is for people."""

    fn: int
    name: str
    digest: bytes
    blob: bytes


class Submit(Message, tag=11):
    """Tasks with one function and one set of options; their futures are numbered ``first``, ``first + 1``, …

    For each task, ``inputs`` (None: no task has any) lists the cids that its arguments refer to, and ``keys`` (None: generated)
    has its name.  ``recipes`` has a digest of function, arguments and inputs' keys for each task with a name.  With ``replace``
    a key that is in use with another recipe goes to the new task.
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
    """The session no longer needs these futures; with ``durable``, the durable session that it is part of does not either."""

    cids: list[int]
    durable: bool = False


class Cancel(Message, tag=13):
    """Cancel these futures' tasks unless somebody else needs them; with ``unstarted``, only those not yet given to a worker."""

    cids: list[int]
    unstarted: bool = False


class Retry(Message, tag=29):
    """Run these futures' tasks again if they have failed, and the failed tasks among their inputs, at any depth."""

    cids: list[int]


class Unreachable(Message, tag=14):
    """The client could not fetch the value of ``attempt`` from these workers; the answer is another Finished or Erred."""

    cid: int
    attempt: int
    holders: list[int]


class Query(Message, tag=15):
    """A question about the cluster, or a command; answered by a Reply with the same ``query``.

    ``again``: it was already sent to an earlier life of the scheduler, which may have carried it out.
    """

    query: int
    what: str
    args: list[Any]
    again: bool = False


class Bye(Message, tag=16):
    """The session ends; whatever only it needed is released."""


class DropFunctions(Message, tag=17):
    """The session will no longer submit these functions under these numbers."""

    fns: list[int]


class Scatter(Message, tag=18):
    """The session's own data, as the future ``cid``: inline, or to be supplied when Supply asks for it.

    ``replicas`` copies must be kept (0: one on every worker), only on ``workers`` if any are given; ``key`` "" is generated.
    With ``resupply`` the session can supply the data again as long as it holds the future.
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
    """The session could not bring the data of ``cid`` to ``worker`` (0: it no longer has the data)."""

    cid: int
    worker: int
    text: str


class Keeps(Message, tag=27):
    """To a restarted scheduler: the session keeps the data of these futures and can supply them again."""

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
    """A future failed or was cancelled."""

    cid: int
    error: ErrorInfo


class Reply(Message, tag=22):
    """The answer to a Query; ``error`` is "" on success.

    ``at_once``: nothing that the journal keeps depends on it.  While the journal can't be written it leaves before what was
    sent earlier, outside the session's numbers, and arrives again in its place later.
    """

    query: int
    error: str
    value: Any = None
    at_once: bool = False


class Peer(Message, tag=23):
    """Where a worker's stored results can be fetched; sent before the first message that names the worker."""

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
    """What these futures' tasks lack in order to run at all (no ``cids``: all pending futures); "": no longer anything."""

    cids: list[int]
    text: str


class DropData(Message, tag=25):
    """The data of these futures are no longer needed: they will not be requested again."""

    cids: list[int]


class PeerState(Message, tag=26):
    """The state of a worker that was announced by Peer: "" reachable, "suspect" silent at the moment, "gone" given up."""

    worker: int
    state: str


class Traced(Message, tag=80):
    """An attempt of a traced task has ended, at ``at`` by the scheduler's clock, after ``us`` microseconds.

    ``trace`` is that of the task's options.  ``outcome``: "value", "failed", "crashed" (it ended its process, or was ended with
    it) or "lost" (with its worker).  ``again``: the task had a value before.  ``error``, ``text`` and ``traceback`` say what it
    failed with.  ``links`` are the traces and attempts of those inputs that are traced.
    """

    trace: str
    key: str
    function: str
    group: str
    attempt: int
    worker: str
    at: float
    us: int
    outcome: str
    again: bool = False
    error: str = ""
    text: str = ""
    traceback: str = ""
    links: list[tuple[str, int]] = []


# ---- scheduler and worker -------------------------------------------------------------------


class WorkerFunction(Message, tag=32):
    """A function, sent once per worker and once per executor."""

    fn: int
    name: str
    blob: bytes


class Compute(Message, tag=33):
    """Run a task.  ``limit`` is its time limit (0: none), ``cost`` is how long the scheduler expects it to run (-1: unknown),
    and ``key`` is its name.  ``checkpoint`` is a place in the checkpoint store that is checked first; with ``restore`` nothing
    else is done.  ``beside``: at once, in a process of its own that takes no slot.  ``trace`` is that of its options."""

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
    beside: bool = False
    trace: str = ""


class Done(Message, tag=34):
    """An attempt has a value: inline, or (None) in the worker's store.  It ran for ``us`` microseconds."""

    task: int
    attempt: int
    value: bytes | None
    size: Size
    digest: bytes
    us: int
    checkpointed: bool = False


class Failed(Message, tag=35):
    """An attempt raised an exception."""

    task: int
    attempt: int
    error: ErrorInfo
    us: int


class Crashed(Message, tag=36):
    """An attempt's executor died; ``exit`` says how in words, and ``kind`` names the error class if we ended it.

    ``when`` is the time of death, formatted for people; the attempt had run for ``us`` microseconds.
    """

    task: int
    attempt: int
    exit: str
    detail: str
    kind: str = ""
    when: str = ""
    us: int = 0


class InputLost(Message, tag=37):
    """The worker returns the attempt: ``inputs`` are the (attempt, worker) pairs that it could not fetch."""

    task: int
    attempt: int
    inputs: list[tuple[int, int]]


class Have(Message, tag=38):
    """The worker has copied these results to its own store: from ``holder``, in ``us`` microseconds (0: not over a network)."""

    stored: list[Stored]
    holder: int = 0
    us: int = 0


class Missing(Message, tag=39):
    """The worker does not have these files, or no longer has them."""

    attempts: list[int]


class Recalled(Message, tag=40):
    """The answer to Recall: the attempts that had not started and now will not."""

    attempts: list[int]


class WorkerLog(Message, tag=41):
    """Something that people should know: an executor can't start, a template died."""

    kind: str
    text: str
    attempt: int = 0


class Intake(Message, tag=42):
    """The worker runs at most ``most`` tasks at a time from now on; ``why`` is the reason if that is fewer than its slots."""

    most: int
    why: str


class Parked(Message, tag=43):
    """The attempt waits for other tasks and uses no slot; with ``parked`` False it uses one again."""

    attempt: int
    parked: bool


class CopyFailed(Message, tag=44):
    """The answer to a Copy: none could be made from any of ``holders``."""

    attempt: int
    holders: list[int]


class Rescued(Message, tag=45):
    """The answer to Rescue: whether that worker's process is ``dead``, and what moved from its store to ours."""

    worker: int
    dead: bool
    stored: list[Stored]


class Locate(Message, tag=46):
    """All known holders of this file are busy: which other workers have it?"""

    task: int
    attempt: int


class Leaving(Message, tag=47):
    """The worker must end, because of ``why``: move what only it has, within ``seconds``, and then send Stop.

    A ``patient`` worker uses all its time for what nobody can take now: another worker may join.
    """

    seconds: float
    why: str = ""
    patient: bool = False


class Left(Message, tag=31):
    """The worker has ended its executors, and its process ends now."""


class Inventory(Message, tag=48):
    """The answer to Audit: the attempts that the worker works on, and those whose files it holds (None: not requested)."""

    number: int
    jobs: list[int]
    stored: list[Stored] | None


class Recall(Message, tag=50):
    """Return these attempts unless they have started."""

    attempts: list[int]


class Free(Message, tag=51):
    """Delete these result files."""

    attempts: list[int]


class Abort(Message, tag=52):
    """Nobody needs these attempts; with ``kill``, end those that are running."""

    attempts: list[int]
    kill: bool


class Verify(Message, tag=53):
    """Check whether you have these files, and report the absent ones with Missing."""

    attempts: list[int]


class ForgetFunctions(Message, tag=54):
    """No task uses these functions any more."""

    fns: list[int]


class Stop(Message, tag=55):
    """Stop: the worker process ends.  ``text`` says why."""

    text: str


class Copy(Message, tag=56):
    """Copy this file to your store."""

    source: Input


class Rescue(Message, tag=57):
    """Check whether the process of ``worker`` on this host is dead and, if so, take over what its ``store`` holds."""

    worker: int
    store: str


class Renew(Message, tag=67):
    """Kill all executors, whatever they are doing, and start others; answered when those are ready."""

    number: int


class Install(Message, tag=68):
    """Make a file importable for tasks that start later: a ``"module"``, or an ``"archive"`` that is unpacked.  Or have
    executors that start later set up a pickled ``"plugin"``; without a ``blob``: no longer the one of that name.

    Answered when it is there, unless ``number`` is 0.
    """

    number: int
    name: str
    kind: str
    digest: bytes
    blob: bytes


#: The kind of an Install that is a plugin.
PLUGIN = "plugin"


class ReadLog(Message, tag=69):
    """Answer with the last ``lines`` that the worker has logged; with ``key``, with those that the task of this name has
    written, each after the name of its stream."""

    number: int
    lines: int
    key: str = ""


class Answered(Message, tag=70):
    """The answer to Renew, Install or ReadLog of that number."""

    number: int
    error: str = ""
    value: list[str] | None = None


class Park(Message, tag=49):
    """The attempt has a client whose tasks find no slot: it continues without its slot, which is free for others now."""

    attempt: int


class Located(Message, tag=58):
    """The answer to Locate: the workers that have the file."""

    attempt: int
    holders: list[int]


class Audit(Message, tag=59):
    """Report what you work on and, with ``stored``, what you hold: the digests have differed for a while."""

    number: int
    stored: bool


# ---- bulk -----------------------------------------------------------------------------------


class Fetch(Message, tag=60):
    """Send the file of ``attempt``, starting at ``offset``."""

    attempt: int
    offset: Size


class Data(Message, tag=61):
    """The answer to Fetch: ``length`` raw bytes follow the frame."""

    attempt: int
    length: Size


class Busy(Message, tag=63):
    """The answer to Fetch: try later, or another holder."""

    attempt: int


class Put(Message, tag=64):
    """Take this file into your store: it is at ``path`` on our ``host``, or its bytes can be sent."""

    stored: Stored
    host: str
    path: str


class Send(Message, tag=65):
    """The answer to Put: send the bytes, raw."""

    attempt: int


class Kept(Message, tag=66):
    """The answer to Put, or to the bytes: whether the file is in the store and, if not, why."""

    attempt: int
    kept: bool
    text: str = ""


class Absent(Message, tag=62):
    """The answer to Fetch: there is no such file."""

    attempt: int


# ---- control process and executors --------------------------------------------------------


class Started(Message, tag=71):
    """The executor is ready for tasks."""


class Waits(Message, tag=72):
    """The running task waits for other tasks.  The ``unstarted`` attempts that were queued behind it are returned."""

    attempt: int
    unstarted: list[int]


class Resumes(Message, tag=73):
    """What the task waited for is available; it continues when GoOn arrives."""

    attempt: int


class UsesClient(Message, tag=74):
    """A task uses a client: executors forked from now on should have it loaded."""


class GoOn(Message, tag=75):
    """The attempt has a slot again."""

    attempt: int


class Undecodable(NamedTuple):
    """Replaces a message that must not be sent: its parts, the tag first, and what is wrong with it."""

    parts: list[Any]
    text: str


Greeting = HelloClient | HelloWorker | Resume | Ready | Resumed | Refused
FromClient = (
    Function | Submit | Release | Cancel | Retry | Unreachable | Query | Bye | DropFunctions | Scatter | NotSupplied | Keeps
)
ToClient = Finished | Erred | Reply | Peer | Supply | DropData | Lacks | PeerState | Beat | Trouble | Traced
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
    | Left
    | Inventory
    | Answered
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
    | Renew
    | Install
    | ReadLog
    | Beat
)
Bulk = Fetch | Data | Absent | Busy | Put | Send | Kept

#: One frame of a session: its number (0: outside the numbers), the last number received, messages.
Frame = tuple[int, int, list[Any]]
