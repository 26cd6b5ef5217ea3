"""What a worker's core wants done; the edge carries it out in order."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from twistdist.wire import messages as m


@attrs.frozen
class StartExecutor:
    """Fork executor ``number``, ``delay`` seconds from now."""

    number: int
    delay: float


@attrs.frozen
class EndExecutor:
    """End an executor that has nothing to do."""

    number: int


@attrs.frozen
class Give:
    """Write these messages to the executor as one packet."""

    number: int
    messages: list[m.WorkerFunction | m.Compute | m.ForgetFunctions]


@attrs.frozen
class TakeBack:
    """Read what the executor has not read yet; the answer is the event ``taken_back``."""

    number: int


@attrs.frozen
class GoOn:
    """The attempt that waited has a slot again."""

    number: int
    attempt: int


@attrs.frozen
class Interrupt:
    """Raise an exception in the task if the executor is running ``attempt`` now; ``why`` is a name in ``executors.packets``."""

    number: int
    attempt: int
    why: str


@attrs.frozen
class Kill:
    """End the executor if it is running ``attempt`` now (0: whatever it is doing, and nobody is charged)."""

    number: int
    attempt: int


@attrs.frozen
class StartFetch:
    """Copy a file to the store from one of ``holders``; the answer is ``fetched`` or ``fetch_failed``."""

    attempt: int
    size: int
    digest: bytes
    holders: list[m.Peer]


@attrs.frozen
class MoreHolders:
    """Further holders of the file, as far as the scheduler knows: for a fetch that found all others busy."""

    attempt: int
    holders: list[m.Peer]


@attrs.frozen
class RescueStore:
    """If no living process has this store, take over its files; the answer is the event ``rescued``."""

    worker: int
    store: str


@attrs.frozen
class DeleteFiles:
    """Remove the result files of these attempts from the store."""

    attempts: list[int]


@attrs.frozen
class Spill:
    """Move these files to the spill folder, oldest first; the answer is ``spilled``."""

    attempts: list[int]


@attrs.frozen
class LookForFiles:
    """Report with the event ``verified`` which of these files are not in the store."""

    attempts: list[int]


@attrs.frozen
class PeerTrouble:
    """A worker is silent or gone: fetch from other holders instead, if there are any; if it is ``gone``, do not fetch from it
    at all."""

    address: str
    gone: bool


@attrs.frozen
class Fence:
    """The scheduler may have given this worker up: serve nothing until that is clear, and begin a new session."""

    on: bool


@attrs.frozen
class InstallFile:
    """Make an uploaded file importable for executors that are started later; the answer is the event ``installed``."""

    install: m.Install


@attrs.frozen
class ReadLines:
    """Report the last ``lines`` of the log with the event ``log_read``; with ``key``, those of the task of that name."""

    number: int
    lines: int
    key: str = ""


@attrs.frozen
class StopWorker:
    """The process should end."""

    text: str


Effect: TypeAlias = (
    StartExecutor
    | EndExecutor
    | Give
    | TakeBack
    | GoOn
    | Interrupt
    | Kill
    | StartFetch
    | MoreHolders
    | RescueStore
    | DeleteFiles
    | Spill
    | LookForFiles
    | PeerTrouble
    | Fence
    | InstallFile
    | ReadLines
    | StopWorker
)
