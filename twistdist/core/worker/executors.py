"""The executor processes: those that take part in slots, those that are parked, and how often they fail to start."""

from __future__ import annotations

from collections import deque

import attrs

from twistdist.core.worker import effects
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Executor, Job
from twistdist.core.worker.tuning import Tuning
from twistdist.wire import messages as m

#: Numbers of consecutive failed starts at which they are reported.
REPORTED_STARTS = (3, 10, 100)

#: Executors that may be parked at a time.
MAX_PARKED = 1024

#: Executors beside the slots at a time.
MAX_BESIDE = 16


@attrs.define(eq=False)
class Executors:
    """``by_number`` are all executors; ``active`` ones run tasks, ``parked`` ones have a task that waits for others; those in
    ``resuming`` are parked and want a slot again; those ``beside`` the slots run one task each;
    ``stale`` ones are replaced as soon as they have nothing to do.
    """

    tuning: Tuning
    slots: int
    outputs: Outputs
    most_parked: int
    by_number: dict[int, Executor] = attrs.field(factory=dict)
    active: dict[int, Executor] = attrs.field(factory=dict)
    parked: dict[int, Executor] = attrs.field(factory=dict)
    beside: dict[int, Executor] = attrs.field(factory=dict)
    resuming: deque[Executor] = attrs.field(factory=deque)
    stale: dict[int, Executor] = attrs.field(factory=dict)
    starts_failed: int = 0
    idle_deaths: int = 0
    why_no_start: str = ""

    def fill(self) -> None:
        """Start executors until there are as many active ones as slots."""
        while len(self.active) < self.slots:
            executor = self._start()
            self.active[executor.number] = executor

    def _start(self) -> Executor:
        number = next(n for n in range(most_executors(self.slots)) if n not in self.by_number)
        executor = self.by_number[number] = Executor(number)
        self.outputs.do(effects.StartExecutor(number, self._backoff()))
        return executor

    def start_beside(self, wanted: int) -> None:
        """Start executors beside the slots until ``wanted`` of them have no task yet, or there are too many."""
        free = sum(
            1 for executor in self.beside.values() if not (executor.given or executor.outcomes or executor.number in self.stale)
        )
        while free < wanted and len(self.beside) < MAX_BESIDE:
            executor = self._start()
            executor.beside = True
            self.beside[executor.number] = executor
            free += 1

    def _backoff(self) -> float:
        failures = max(self.starts_failed, self.idle_deaths)
        return min(self.tuning.longest_backoff_s, self.tuning.backoff_s * 2 ** (min(failures, 20) - 1)) if failures else 0.0

    def forget(self, executor: Executor) -> None:
        """The process is gone; another one is started instead of an active one."""
        del self.by_number[executor.number]
        self.beside.pop(executor.number, None)
        self.stale.pop(executor.number, None)
        if self.active.pop(executor.number, None) is not None:
            self.fill()

    def busy(self) -> int:
        """How many active executors have something to do."""
        return sum(1 for executor in self.active.values() if executor.given)

    def make_stale(self) -> None:
        """What tasks find in a process that is forked from now on is different: replace all others when they are idle."""
        self.stale = dict(self.by_number)

    def replace_stale(self) -> None:
        """End stale executors that have nothing to do, and start others instead."""
        for executor in list(self.stale.values()):
            if executor.up and not executor.given:
                self.end(executor)
        self.fill()

    def has(self, job: Job) -> Executor | None:
        """The executor that has the job, if any still does."""
        executor = job.executor
        return executor if executor is not None and executor.given.get(job.attempt) is job else None

    def end(self, idle: Executor) -> None:
        """End an executor that has nothing to do; it is no longer one of the active ones."""
        self.active.pop(idle.number, None)
        idle.up = False
        idle.outcomes += 1  # this end does not count as a failure
        self.outputs.do(effects.EndExecutor(idle.number))

    def started(self, number: int) -> None:
        """The process is ready."""
        executor = self.by_number[number]
        executor.up, executor.outcomes, executor.ending = True, 0, None
        executor.functions.clear()
        self.starts_failed = 0

    def worked(self) -> None:
        """An executor has produced an outcome: starting them is worthwhile."""
        self.idle_deaths = 0

    def count_death(self, executor: Executor, worked: bool, exit: str) -> bool:
        """An end that was not caused by the last task delays the next start.  Return True if it must be reported."""
        if worked:
            self.idle_deaths = 0
        elif executor.up:
            self.idle_deaths += 1
        else:
            self.starts_failed += 1
            self.why_no_start = exit
            return self.starts_failed in REPORTED_STARTS
        return False

    def can_not_start(self, failures: int, why: str) -> None:
        """That counts like so many failed starts in a row, at least."""
        self.starts_failed, self.why_no_start = max(self.starts_failed, failures), why

    def do_not_know(self, fn: int) -> None:
        """The number refers to a different function from now on."""
        for executor in self.by_number.values():
            executor.functions.discard(fn)

    def forget_functions(self, fns: list[int]) -> None:
        """No task will call these."""
        for executor in self.active.values():
            known = [fn for fn in fns if fn in executor.functions]
            if known and executor.up:
                executor.functions.difference_update(known)
                self.outputs.do(effects.Give(executor.number, [m.ForgetFunctions(known)]))

    def park(self, executor: Executor, job: Job) -> None:
        """The job waits for others; another executor takes the slot."""
        executor.parked = job
        self.active.pop(executor.number, None)
        self.parked[executor.number] = executor

    def wants_slot(self, executor: Executor) -> None:
        """The parked task could continue."""
        self.resuming.append(executor)

    def unpark(self, executor: Executor) -> None:
        """Its task no longer waits, or is gone."""
        executor.parked = None
        self.parked.pop(executor.number, None)
        if executor in self.resuming:
            self.resuming.remove(executor)

    def activate(self, executor: Executor) -> None:
        """A parked executor takes part in slots again."""
        self.unpark(executor)
        self.active[executor.number] = executor
        if len(self.active) > 2 * self.slots:  # some stay for the next task that waits
            idle = next((other for other in self.active.values() if other.up and not other.given), None)
            if idle is not None:
                self.end(idle)


def most_executors(slots: int) -> int:
    """How many numbers executors may have at most: active, parked, beside the slots, and some that are ending."""
    return 4 * slots + MAX_PARKED + MAX_BESIDE + 16
