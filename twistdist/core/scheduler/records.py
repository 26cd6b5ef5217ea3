"""What the scheduler remembers: tasks, functions, workers, client sessions, incidents."""

from __future__ import annotations

import enum
from collections import deque
from typing import Any

import attrs

from twistdist.core.scheduler.sums import Sums
from twistdist.core.session import Session
from twistdist.wire import messages as m


class TaskState(enum.Enum):
    """See "Task states on the scheduler" in docs/architecture.rst."""

    __hash__ = object.__hash__  # members are looked up several times for each task, and Enum's own is written in Python

    IDLE = "idle"
    WAITING = "waiting"
    READY = "ready"
    ASSIGNED = "assigned"
    AWAITED = "awaited"
    DONE = "done"
    FAILED = "failed"


@attrs.define(eq=False)
class Function:
    """A function that tasks call.  ``mean_us`` is a moving average of its durations, -1 before the first."""

    number: int
    name: str
    digest: bytes
    blob: bytes
    mean_us: float = -1.0
    users: int = 0
    sums: Sums = attrs.field(factory=Sums)


@attrs.define(eq=False, repr=False)
class Task:
    """One task.

    ``rank`` orders the ready tasks (smallest first); ``chosen`` is a key that the user gave; ``origin`` and ``cid`` name the
    session and the future that first requested the task.  ``pending`` counts the unfinished dependents, ``missing`` the inputs
    without a value while WAITING.  ``positions`` are the inputs as the arguments count them, if one occurs twice.
    ``value_attempt`` is the attempt whose value was accepted last; ``row`` is where the journal has the outcome.  ``since`` is
    when it was submitted (None: in an earlier life of the scheduler), ``given_at`` when a worker was last given an attempt,
    ``made`` when and on which worker its value was computed, and in how many microseconds.
    """

    number: int
    function: Function
    args: bytes
    inputs: tuple[Task, ...]
    options: m.Options
    rank: int
    chosen: str | None
    origin: str
    cid: int
    state: TaskState = TaskState.IDLE
    attempt: int = 0
    worker: Worker | None = None
    cost_us: int = 0
    missing: int = 0
    pending: int = 0
    depth: int = 0
    value: bytes | None = None
    size: int = 0
    digest: bytes = b""
    value_attempt: int = 0
    holders: dict[Worker, None] | None = None
    watchers: dict[tuple[Client, int], None] = attrs.field(factory=dict)
    dependents: dict[Task, None] | None = None
    error: m.ErrorInfo | None = None
    history: History | None = None
    recipe: bytes = b""
    positions: tuple[Task, ...] = ()
    retention: Retention | None = None
    row: int = 0
    since: float | None = None
    given_at: float = 0.0
    made: tuple[float, str, int] | None = None
    events: deque[Event] | None = None

    def __repr__(self) -> str:  # not the tasks that it needs, and those that they need
        return f"<Task {self.key} {self.state.value}>"

    @property
    def key(self) -> str:
        """The task's name for users."""
        return self.chosen or f"{self.function.name}-{self.origin}-{self.cid}"

    @property
    def needed(self) -> bool:
        """Whether a future or an unfinished dependent wants the value."""
        return bool(self.watchers or self.pending)


@attrs.frozen
class Event:
    """Something out of the ordinary that happened to a task."""

    at: float
    text: str


@attrs.define(eq=False)
class Source:
    """Where scattered data come from: the future ``cid`` of ``client``, as long as that session lives and supplies them again.

    ``others`` have scattered the same data.  ``supplying`` is the worker to which the data are being sent, ``failed`` are
    those that could not be reached.
    """

    client: Client | None
    cid: int
    workers: tuple[str, ...] = ()
    resupply: bool = True
    others: list[tuple[Client, int]] = attrs.field(factory=list)
    supplying: Worker | None = None
    failed: dict[Worker, None] = attrs.field(factory=dict)
    tries: int = 0


@attrs.define(eq=False)
class Retention:
    """What a value needs beyond one copy; most values need nothing.

    ``copies`` should be kept (0: one on every worker), made at the workers in ``copying``, not counting the one at ``moving``.
    Futures are notified of the value when it is ``announced``.  ``failures`` copies in a row could not be made, at the workers
    in ``failed``.  ``checkpointed``: the value is in the checkpoint store too.
    """

    copies: int = 1
    announced: bool = True
    copying: dict[Worker, None] = attrs.field(factory=dict)
    moving: Worker | None = None
    source: Source | None = None
    checkpointed: bool = False
    failures: int = 0
    failed: dict[Worker, None] = attrs.field(factory=dict)


@attrs.define(eq=False)
class History:
    """What has gone wrong with a task so far; most tasks have none.  ``last`` is the last attempt known to have ended."""

    last: int = 0
    raised: int = 0
    crashes: list[str] = attrs.field(factory=list)
    exposed: int = 0  # deaths of whole workers while it ran there
    lost_inputs: int = 0
    paused: bool = False


def history_of(task: Task) -> History:
    """The task's history; created if it has none."""
    if task.history is None:
        task.history = History()
    return task.history


@attrs.define(eq=False)
class Audit:
    """What a worker should have when it is asked: tasks with their attempts, and files if ``stored``.

    ``left`` are attempts that it should no longer have since then.
    """

    number: int
    assigned: dict[Task, int]
    stored: dict[Task, int] | None
    left: set[int] = attrs.field(factory=set)


@attrs.define(eq=False)
class Retiring:
    """A worker that must leave, because client ``by`` has ordered it, if one has: it gets no work, and until ``deadline`` what
    only it holds is copied to others.  If it is ``patient``, it waits for workers to copy to; if it is ``careful``, it stays
    if it would take running tasks or values that nobody else has with it.  ``told``: Stop was sent."""

    deadline: float
    why: str
    by: str = ""
    patient: bool = False
    told: bool = False
    careful: bool = False


@attrs.define(eq=False, repr=False)
class Worker:
    """One incarnation of one worker.

    ``most`` tasks may run at a time, fewer than its slots for the reason ``why``; ``parked`` tasks don't count, nor do
    ``following`` ones, which were sent ahead and lack inputs.  ``exclusive``
    is a task that runs here alone, or will when the others have ended.  ``bytes_held`` is the size of ``holds``.  The last sign
    of life arrived at ``heard_at``; a ``suspect`` worker has been silent for a while, a ``resting`` one has done nothing with
    its tasks, and neither is given work.  The fields after these, up to ``audit_pause``, belong to :mod:`.audits` and
    :mod:`.watchdog`.
    """

    number: int
    hello: m.HelloWorker
    session: Session
    connected: bool = True
    away_since: float = 0.0
    heard_at: float = 0.0
    suspect: bool = False
    resting: bool = False
    beat: m.Beat | None = None
    quiet_at: float = 0.0
    differs: int = 0
    idle_since: float | None = None
    idle_sent: int = 0
    audit: Audit | None = None
    audit_after: float = 0.0
    audit_pause: float = 0.0
    most: int = attrs.field(default=attrs.Factory(lambda self: self.hello.slots, takes_self=True))
    why: str = ""
    assigned: dict[Task, None] = attrs.field(factory=dict)
    parked: dict[Task, None] = attrs.field(factory=dict)
    following: dict[Task, None] = attrs.field(factory=dict)
    exclusive: Task | None = None
    retiring: Retiring | None = None
    bytes_held: int = 0
    load_us: int = 0
    holds: dict[Task, None] = attrs.field(factory=dict)
    functions: set[int] = attrs.field(factory=set)
    peers: set[int] = attrs.field(factory=set)
    called_off: set[int] = attrs.field(factory=set)  # attempts whose copies, on their way here, were to be deleted
    recalling: bool = False
    recall_after: float = 0.0
    progress_at: float = 0.0
    own: dict[tuple[tuple[str, int], ...], list[tuple[int, Task]]] = attrs.field(factory=dict)
    resources: dict[str, int] = attrs.field(factory=dict)
    troubles: deque[str] = attrs.field(factory=lambda: deque(maxlen=20))

    def __repr__(self) -> str:
        return f"<Worker {self.name} {self.number}>"

    @property
    def name(self) -> str:
        return self.hello.name

    @property
    def reachable(self) -> bool:
        """Whether it can be asked for something now."""
        return self.connected and not self.suspect

    @property
    def given(self) -> int:
        """How many assigned tasks use a slot, or could."""
        return len(self.assigned) - len(self.parked) - len(self.following)


@attrs.define(eq=False, repr=False)
class Client:
    """One client session.

    A ``placeholder`` has no process behind it: it keeps what a durable session of that name wants (``kept``: by which future),
    or what was published.  A ``recorded`` session is in the journal; a ``restored`` one was read from it and has not resumed
    yet.  ``look_after`` is the pause in seconds before checking again whether the tasks of ``parent`` can begin (0: no check).
    """

    number: int
    name: str
    session: Session
    connected: bool = True
    away_since: float = 0.0
    futures: dict[int, Task | None] = attrs.field(factory=dict)
    functions: dict[int, Function] = attrs.field(factory=dict)
    peers: set[int] = attrs.field(factory=set)
    batch_until: float = 0.0
    batch: int = 0
    parent: int = 0
    sources: dict[int, Task] = attrs.field(factory=dict)
    placeholder: bool = False
    kept: dict[Task, int] = attrs.field(factory=dict)
    next_cid: int = 0
    recorded: bool = False
    restored: bool = False
    look_after: float = 0.0
    python: str = ""

    def __repr__(self) -> str:
        return f"<Client {self.name or format(self.number, 'x')}>"


@attrs.define(eq=False)
class Dataset:
    """A published name: the shape of what was published, pickled, and its tasks in order."""

    number: int
    name: str
    shape: bytes
    tasks: list[Task]


@attrs.frozen
class Upload:
    """A file that is importable on all workers, a ``"module"`` or an ``"archive"``, or a pickled ``"plugin"``."""

    number: int
    name: str
    kind: str
    digest: bytes
    blob: bytes


@attrs.define(eq=False)
class Incident:
    """A fault that was noticed, and what recovery from it cost.

    ``requeued`` tasks had been given to what died; ``lost`` values had no other copy and are needed; ``replayed`` tasks are
    executed again to recover those; ``adopted`` values came back with a worker.  ``key`` is that of the task, or of one of the
    tasks, that it is about.
    """

    at: float
    kind: str
    what: str
    cause: str
    requeued: int = 0
    lost: int = 0
    replayed: int = 0
    adopted: int = 0
    key: str = ""


@attrs.define(eq=False)
class Statistics:
    """Counters since the scheduler started."""

    submitted: int = 0
    done: int = 0
    failed: int = 0
    replays: int = 0
    reruns: int = 0
    stale: int = 0
    recalls: int = 0
    incidents: deque[Incident] = attrs.field(factory=lambda: deque(maxlen=10_000))
    noticed: dict[str, int] = attrs.field(factory=dict)  # how many incidents of each kind there were

    def counters(self) -> dict[str, Any]:
        """The counters, by name."""
        return {a.name: getattr(self, a.name) for a in attrs.fields(Statistics) if a.name not in ("incidents", "noticed")}
