"""The pairs of an event and a state that the simulator meets often, and why some others can't happen.

What is neither has been met rarely or never, and nothing is known to forbid it.
``python -m twistdist.testing.coverage_by_state`` compares this with what was met.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import attrs

from twistdist.core.scheduler import transitions
from twistdist.testing import often, swarm

#: (table, row, column)
Pair = tuple[str, str, str]

#: The tables: what their rows and columns are.
TABLES = {
    "task": "messages that reach the scheduler, and the state of the task, or of the input, that they are about",
    "sender": "messages that reach the scheduler, and its condition or that of the sender",
    "greeting": "greetings that reach the scheduler, and what it knows about who greets",
    "worker": "messages that reach a worker, and its condition",
    "job": "messages that reach a worker, and the state there of the attempt that they are about",
    "future": "messages that reach a client, and the state of the future, or of the worker, that they are about",
    "fault": "faults and orders, and the states and conditions in which something is at that moment",
    "transition": "causes of transitions of tasks, and the states from which they lead",
}

_STATES = ("idle", "waiting", "ready", "assigned", "awaited", "done", "failed")
_ATTEMPTS = (
    "forgotten",
    "idle",
    "waiting",
    "ready",
    "assigned",
    "assigned, another attempt",
    "awaited",
    "done",
    "done, another attempt",
    "failed",
)
_NAMED = ("Done", "Failed", "Crashed", "InputLost", "Have", "Rescued", "Locate")
_HELLOS = ("Hello: stored", "Hello: running", "Hello: finished")
_UNNAMED = ("Missing", "Recalled", "Parked", "CopyFailed")
_OF_WORKERS = (*_NAMED, *_UNNAMED, "WorkerLog", "Intake", "Leaving", "Left", "Inventory", "Answered", "Beat")
_ABOUT_FUTURES = ("Release", "Cancel", "Retry", "Unreachable", "NotSupplied", "Keeps")
_ORDERS = (
    *(order for order in swarm.ORDERS if order != "cancel unstarted"),  # which is no query
    *swarm.ATTACHING_ORDERS,
    "snapshot",
    "workers",
    "incidents",
    "datasets",
    "demand",
    "keys",
    "end_session",
)
_OF_CLIENTS = ("Function", "Submit", "Scatter", *_ABOUT_FUTURES, "Bye", *(f"Query {order}" for order in _ORDERS))
_TO_WORKERS = (
    "Compute",
    "WorkerFunction",
    "ForgetFunctions",
    "Peer",
    "Recall",
    "Free",
    "Abort",
    "Verify",
    "Stop",
    "Copy",
    "Rescue",
    "Located",
    "PeerState",
    "Audit",
    "Renew",
    "Install",
    "ReadLog",
    "Park",
)
_PHASES = (
    *(f"a task is {state}" for state in _STATES),
    "recovering",
    "journal fails",
    "writing",
    "a worker is away",
    "a worker is suspect",
    "a worker retires",
    "a client is away",
    "two schedulers",
    "scheduler down",
    "nothing to do",
)
_REACTIONS = ("gap", "replaced", "retry", "fenced", "given up", "stood down")


@cache
def universe() -> tuple[Pair, ...]:
    """Return all pairs of a row and a column of the same table, in order."""
    found: list[Pair] = []

    def add(table: str, rows: tuple[str, ...], columns: tuple[str, ...]) -> None:
        found.extend((table, row, column) for row in rows for column in columns)

    add("task", (*_NAMED, *_HELLOS), _ATTEMPTS)
    add("task", _UNNAMED, _ATTEMPTS)
    add("task", ("Scatter",), ("no future",))
    add("task", _ABOUT_FUTURES, ("no future", "cancelled", *_STATES))
    add("task", ("Submit",), ("cancelled", *_STATES, *(f"key: {state}" for state in _STATES)))
    add("sender", _OF_WORKERS, ("as usual", "recovering", "journal fails", "suspect", "retiring", "told to stop"))
    add("sender", _OF_CLIENTS, ("as usual", "recovering", "journal fails"))
    add("greeting", ("HelloClient",), ("new", "known number"))
    add("greeting", ("HelloWorker",), ("new", "known process", "replaces another process", "awaited after a restart"))
    add("greeting", ("Resume",), ("unknown", "connected", "away", "read from the journal"))
    add("worker", _TO_WORKERS, ("as usual", "fenced", "short of memory", "renewing executors"))
    add(
        "job",
        ("Recall", "Abort", "Free", "Verify", "Park", "Located", "Copy"),
        ("unknown", "stored", "being fetched", "doomed", "parked", "given to an executor", "waits for inputs", "queued"),
    )
    add(
        "future",
        ("Finished", "Erred", "Lacks", "Supply", "DropData"),
        ("released", "pending", "finished", "error", "cancelled", "lost"),
    )
    add("future", ("Peer", "PeerState"), ("known worker", "unknown worker"))
    add("fault", (*swarm.INJECTED, *swarm.ORDERS, *swarm.ATTACHING_ORDERS, *_REACTIONS), _PHASES)
    for source, _, cause, _ in transitions.rows():
        found.append(("transition", cause, source))
    return tuple(found)


@attrs.frozen
class Never:
    """Pairs of a table that can't happen, and why: in these ``rows`` and ``columns``, in all if there are none."""

    table: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    why: str

    def has(self, pair: Pair) -> bool:
        """Whether the pair is one of these."""
        table, row, column = pair
        return table == self.table and (not self.rows or row in self.rows) and (not self.columns or column in self.columns)


#: Why pairs can't happen.
NEVER: tuple[Never, ...] = (
    Never(
        "task",
        ("Release", "Cancel", "Retry", "Unreachable", "Submit"),
        ("idle",),
        "a task that a future wants has a value, an error, or is being worked on (core/scheduler/invariants.py)",
    ),
    Never(
        "task",
        ("NotSupplied", "Keeps"),
        ("waiting", "ready", "assigned"),
        "scattered data are not computed, so no worker is given a task for them",
    ),
    Never(
        "task", ("NotSupplied", "Keeps"), ("cancelled",), "a session that scattered data can supply them until they are dropped"
    ),
    Never(
        "task",
        ("Missing", "CopyFailed", "Have", "Locate"),
        ("assigned",),
        "these are about the file of an attempt, which has ended with a value",
    ),
    Never(
        "task",
        ("Missing", "CopyFailed"),
        ("done, another attempt",),
        "these name the attempt of a value that was accepted",
    ),
    Never(
        "task",
        ("Recalled", "Parked"),
        ("awaited", "assigned, another attempt"),
        "these name an attempt that has not ended, while one with a value has",
    ),
    Never(
        "task",
        ("Crashed", "InputLost"),
        ("awaited",),
        "a task that is computed is awaited only by a restarted scheduler, which hears of earlier attempts in greetings",
    ),
    Never(
        "task",
        ("Cancel", "Retry", "Unreachable"),
        ("no future",),
        "a client names only futures that it has not released, and its frames are in order",
    ),
    Never("sender", ("Left",), ("as usual",), "a worker has asked to leave, or was told to stop, before it says so"),
    Never(
        "sender",
        ("Query end_session",),
        ("recovering", "journal fails"),
        "the simulated clients end durable sessions at the end of a run, when everything is at rest",
    ),
    Never(
        "worker",
        (),
        ("fenced",),
        "a fenced worker has given its session up, and the next one begins with the welcome that ends the fence",
    ),
    Never(
        "job",
        ("Recall", "Abort", "Park"),
        ("doomed",),
        "these name an attempt that is assigned, which one that was aborted is not any more",
    ),
    Never(
        "job",
        ("Recall", "Abort", "Park"),
        ("being fetched",),
        "these name an attempt that is being worked on, which has no value yet that could be fetched",
    ),
    Never(
        "job",
        ("Copy", "Located", "Verify"),
        ("doomed", "parked", "given to an executor", "waits for inputs", "queued"),
        "these name an attempt that has ended with a value",
    ),
    Never(
        "future",
        (),
        ("lost",),
        "the scheduler knows nothing of the futures of a session that it has lost, and their numbers are not used again",
    ),
    Never(
        "future",
        ("Finished", "Lacks"),
        ("cancelled",),
        "a future is cancelled when the scheduler says so, which then knows nothing of it any more",
    ),
    Never(
        "future",
        ("DropData",),
        ("pending", "error"),
        "the simulated clients scatter with resupply: their data are needed as long as their futures, but for a restart",
    ),
    Never("future", ("PeerState",), ("unknown worker",), "it is sent about workers whose addresses were sent"),
    Never(
        "fault",
        ("failed write",),
        ("nothing to do",),
        "the write is in progress, that of the scheduler or of one that it has replaced",
    ),
    Never("fault", ("stood down",), ("nothing to do",), "there is another scheduler, which may be down by now"),
    Never(
        "transition",
        ("outrun",),
        (),
        "the journal would have to miss the start of an attempt that a worker has; ``tests/core`` covers it",
    ),
)


def why_not(pair: Pair) -> str:
    """Return why the pair can't happen, "" if it can as far as is known."""
    return next((never.why for never in NEVER if never.has(pair)), "")


@cache
def expected(rare: bool) -> tuple[Pair, ...]:
    """Return the pairs that some thousand runs must meet; if ``rare``, all others that are not known to be impossible, too."""
    return tuple(pair for pair in universe() if not why_not(pair) and (rare or pair in OFTEN))


def _often() -> Iterator[Pair]:
    for line in often.PAIRS.strip().splitlines():
        table, row, columns = line.split(" | ", 2)
        for column in columns.split("; "):
            yield table, row, column


#: Pairs that so many runs meet that their absence is a fault of the simulator, or a change of the cores.
OFTEN: frozenset[Pair] = frozenset(_often())
