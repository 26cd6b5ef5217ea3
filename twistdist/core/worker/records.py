"""What the worker remembers: jobs, executors, transfers."""

from __future__ import annotations

import attrs

from twistdist.wire import messages as m

#: Expected work that an executor is given ahead, three times the pause between two looks at its outcomes; beyond it a task
#: can still be recalled without asking the executor.
WINDOW_US = 6_000

#: A task known to be shorter than this may wait behind one that runs.
AHEAD_US = 50_000

#: An attempt that runs when its executor dies of what may have been somebody else's doing (the template's death, threads that
#: an earlier task left) is charged when that happens so often.
MAX_EXPOSED = 3


@attrs.define(eq=False)
class Job:
    """One attempt on this worker; ``doomed`` when nobody wants its outcome any more."""

    compute: m.Compute
    fetching: set[int] = attrs.field(factory=set)
    executor: Executor | None = None
    doomed: bool = False
    exposed: int = 0
    deadline: float = 0.0

    @property
    def attempt(self) -> int:
        return self.compute.attempt

    @property
    def cost(self) -> int:
        """Expected microseconds; one of unknown duration is taken to fill the window."""
        return self.compute.cost if self.compute.cost >= 0 else WINDOW_US

    @property
    def short(self) -> bool:
        return 0 <= self.compute.cost < AHEAD_US and not self.compute.limit

    @property
    def lonely(self) -> bool:
        """Whether it must be the only one that runs, so that it is known whose fault the next death is."""
        return self.exposed >= MAX_EXPOSED - 1


@attrs.frozen
class Ending:
    """Why an attempt's process is being ended, for whoever asks for its outcome."""

    attempt: int
    kind: str
    text: str


@attrs.define(eq=False)
class Executor:
    """One executor process, or the place of one that is being started.  ``up`` while it can be given tasks."""

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

    def is_ending(self, attempt: int) -> bool:
        """Whether it is being ended for the sake of this attempt."""
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
    """A file on its way from another worker, the jobs that wait for it, and whether it was asked for as a ``copy``."""

    source: m.Input
    holders: list[int]
    jobs: list[Job] = attrs.field(factory=list)
    copy: bool = False
