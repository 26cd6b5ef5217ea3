"""What the worker remembers: jobs, executors, transfers."""

from __future__ import annotations

import attrs

from twistdist.wire import messages as m


@attrs.define(eq=False)
class Job:
    """One attempt on this worker.

    ``cost`` is its expected duration in microseconds; a ``short`` one may wait behind another that runs; ``doomed``: nobody
    wants its outcome any more; ``lonely``: it must be the only one that runs, so that the next death has one suspect.  It is
    ``fetching`` the files of these attempts and ``awaiting`` the values of those, which are being made here; if one of them
    ended without a value, the job ``is_lost``.
    """

    compute: m.Compute
    cost: int
    short: bool
    fetching: set[int] = attrs.field(factory=set)
    awaiting: set[int] = attrs.field(factory=set)
    is_lost: bool = False
    executor: Executor | None = None
    doomed: bool = False
    exposed: int = 0
    lonely: bool = False
    deadline: float = 0.0

    @property
    def attempt(self) -> int:
        return self.compute.attempt

    @property
    def waits(self) -> bool:
        """Whether inputs are missing here."""
        return bool(self.fetching or self.awaiting)


@attrs.frozen
class Ending:
    """Why an attempt's process is being ended; reported as the attempt's outcome."""

    attempt: int
    kind: str
    text: str


@attrs.define(eq=False)
class Executor:
    """One executor process, or the entry for one that is being started.  ``up`` while it can be given tasks.  One ``beside``
    the slots runs a single task."""

    number: int
    up: bool = False
    given: dict[int, Job] = attrs.field(factory=dict)
    expected_us: int = 0
    functions: set[int] = attrs.field(factory=set)
    outcomes: int = 0
    progress_at: float = 0.0
    parked: Job | None = None
    ending: Ending | None = None
    watched: bool = False
    stopped_at: float | None = None
    stood_still: bool = False
    beside: bool = False

    def is_ending(self, attempt: int) -> bool:
        """Whether it is being ended because of this attempt."""
        return self.ending is not None and self.ending.attempt == attempt


@attrs.define
class Death:
    """How an executor ended.  ``running`` is the attempt that its page names (0: none), for ``us`` microseconds; without
    ``blame`` something else may have been the cause."""

    exit: str
    detail: str = ""
    running: int = 0
    blame: bool = True
    when: str = ""
    us: int = 0


@attrs.define(eq=False)
class Transfer:
    """A file on its way from another worker ``since`` a time, the jobs that wait for it, and whether it was asked for as a
    ``copy``."""

    source: m.Input
    holders: list[int]
    since: float
    jobs: list[Job] = attrs.field(factory=list)
    copy: bool = False
