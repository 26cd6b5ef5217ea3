"""A worker's executors: what they run next, how they are made to stop, what their deaths mean.  docs/executors.rst.

A job is one attempt given by the scheduler.  It is *fetching* while inputs are on their way from other hosts, *queued* when
it can run, *given* when it lies in an executor's socket or is being run, *parked* when it waits for other tasks.  At most
``most`` executors are busy at a time; parked ones are not.  Effects come out in ``effects``, messages for the scheduler in the
dialer's session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import attrs

from twistdist.core import effects, memory
from twistdist.core.alarms import Alarms
from twistdist.core.session import Dialer
from twistdist.wire import messages as m

#: Expected work that an executor is given ahead, three times the pause between two looks at its outcomes; beyond it a task
#: can still be recalled without asking the executor.
WINDOW_US = 6_000

#: A task known to be shorter than this may wait behind one that runs.
AHEAD_US = 50_000

#: Seconds without an outcome after which tasks behind the running one are taken back for an idle executor.
STALL_S = 0.02

#: Seconds that a task has to clean up after it was interrupted; then its process is killed.
GRACE_S = 0.5

#: Seconds between looks at an attempt that is to be killed and is not running yet.
KILL_S = 0.05

#: An attempt that runs when its executor dies of what may have been somebody else's doing (the template's death, threads that
#: an earlier task left) is charged when that happens so often.
MOST_EXPOSED = 3

#: Seconds that a running task may go on when nobody wants its outcome any more.
ABANDONED_S = 0.25

#: Pauses before an executor that ended without any outcome is started again: doubled each time, in seconds.
BACKOFF_S, LONGEST_BACKOFF_S = 0.05, 10.0

#: After this many starts in a row that failed, the worker takes no work until one succeeds.
MOST_FAILED_STARTS = 3

#: An executor that has not begun a task which was given to it after this many seconds is replaced.
STUCK_S = 2.0

#: Executors that may be parked at a time.
MOST_PARKED = 1024

#: Seconds between two looks at memory: while little is used, and while much is.
LOOK_S, LOOK_CLOSELY_S = 0.2, 0.05

#: Seconds after a spill that failed before another is tried.
SPILL_PAUSE_S = 5.0


def most_executors(slots: int) -> int:
    """How many numbers executors may have at most: active ones, parked ones, and some that are ending."""
    return 4 * slots + MOST_PARKED + 16


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


class Pool:
    """The executors of one worker and the jobs for them."""

    identity: m.HelloWorker
    dialer: Dialer

    def __init__(self, slots: int, limits: memory.Limits | None = None, most_parked: int = MOST_PARKED) -> None:
        self.slots = self.most = slots
        self.most_parked = min(most_parked, MOST_PARKED)
        self.limits = limits or memory.Limits()
        self.effects: list[Any] = []
        self.jobs: dict[int, Job] = {}
        self.queue: deque[Job] = deque()
        self.stored: dict[int, m.Stored] = {}
        self.spilled: set[int] = set()
        self.in_memory = 0  # bytes of stored results that are not on disk
        self.functions: dict[int, m.WorkerFunction] = {}
        self.executors: dict[int, Executor] = {}
        self.active: dict[int, Executor] = {}
        self.parked: dict[int, Executor] = {}
        self._resuming: deque[Executor] = deque()
        self._starts_failed = self._idle_deaths = 0
        self._why_no_start = ""
        self._paused = self._spilling = False
        self.fenced = False
        self._spill_after = 0.0
        self._told_intake: tuple[int, str] = (slots, "")
        self._recalling: set[int] | None = None
        self._taking_back: set[int] = set()
        self._alarms = Alarms()
        self._alarm = self._alarms.set

    # ---- time -------------------------------------------------------------------------------

    @property
    def wake(self) -> float | None:
        """When ``tick`` is wanted next."""
        return self._alarms.next

    def tick(self, now: float) -> None:
        self._alarms.ring(now)
        self._feed(now)

    def start(self, now: float) -> None:
        """Begin: an executor for each slot."""
        self._fill()

    def _post(self, message: Any, weight: int = 0) -> None:
        self.dialer.session.post(message, weight)

    # ---- the processes ----------------------------------------------------------------------

    def _fill(self) -> None:
        """As many active executors as slots."""
        while len(self.active) < self.slots:
            number = next(n for n in range(most_executors(self.slots)) if n not in self.executors)
            self.executors[number] = self.active[number] = Executor(number)
            self.effects.append(effects.StartExecutor(number, self._backoff()))

    def _backoff(self) -> float:
        failures = max(self._starts_failed, self._idle_deaths)
        return min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (min(failures, 20) - 1)) if failures else 0.0

    def executor_started(self, now: float, number: int) -> None:
        """The executor has said that it is ready."""
        executor = self.executors[number]
        executor.up, executor.outcomes, executor.ending = True, 0, None
        executor.functions.clear()
        self._starts_failed = 0
        self._adjust_intake()
        self._feed(now)

    def executor_ended(self, now: float, number: int, death: Death) -> None:
        """The process is gone, and all that it had sent was seen."""
        executor, running = self.executors[number], death.running
        was_up = executor.up
        if running and running not in self.stored:
            self.effects.append(effects.DeleteFiles([running]))  # it may have died between file and outcome
        guilty = executor.given.pop(running, None)
        if guilty is not None and (executor.stood_still or not death.blame) and not self._is_ending(executor, running):
            guilty.exposed += 1
            if guilty.exposed < MOST_EXPOSED:
                executor.given = {running: guilty, **executor.given}
                guilty = None
        innocent = list(executor.given.values())
        if executor.parked is not None:
            if executor.parked in innocent:
                self._post(m.Parked(executor.parked.attempt, False))
            self._unpark(executor)
        if guilty is not None:
            del self.jobs[guilty.attempt]
            if not guilty.doomed:
                self._crashed(guilty, executor, death)
        if executor.outcomes or guilty is not None:
            self._idle_deaths = 0
        elif was_up:
            self._idle_deaths += 1
        else:
            self._starts_failed += 1
            self._why_no_start = death.exit
            if self._starts_failed in (MOST_FAILED_STARTS, 10, 100):
                self._post(m.WorkerLog("executor does not start", f"{death.exit} {death.detail}".strip()))
        del self.executors[number]
        executor.given.clear()
        self._requeue(innocent)
        self._finish_take_back(executor)
        if self.active.pop(number, None) is not None:
            self._fill()
        self._adjust_intake()
        self._feed(now)

    @staticmethod
    def _is_ending(executor: Executor, attempt: int) -> bool:
        return executor.ending is not None and executor.ending.attempt == attempt

    def _crashed(self, job: Job, executor: Executor, death: Death) -> None:
        kind, text = "", death.exit
        if executor.ending is not None and executor.ending.attempt == job.attempt:
            kind, text = executor.ending.kind, executor.ending.text
        message = m.Crashed(job.compute.task, job.attempt, text, death.detail, kind, death.when, death.us)
        self._post(message, len(death.detail))

    def executors_stopped(self, now: float, stopped: set[int], limit: float) -> None:
        """A look: these executors have work and are stopped by a signal; one that has been for ``limit`` seconds is
        replaced.  It may
        have been anybody's doing, so its task is charged only when that repeats itself."""
        for executor in self.executors.values():
            if executor.number not in stopped:
                executor.stopped_at = None
            elif executor.stopped_at is None:
                executor.stopped_at = now
            elif now - executor.stopped_at >= limit:
                if not executor.stood_still:
                    executor.stood_still, executor.up = True, False
                    text = f"executor {executor.number} has been stopped by a signal for {limit:g} s and is replaced"
                    self._post(m.WorkerLog("executor stood still", text))
                self.effects += [effects.Kill(executor.number, attempt) for attempt in executor.given]  # whichever runs

    # ---- intake -----------------------------------------------------------------------------

    def _adjust_intake(self) -> None:
        """Tell the scheduler how much may run here, when that has changed."""
        up = sum(1 for executor in self.active.values() if executor.up)
        if self.fenced:
            self.most = 0  # the tasks that wait here may have been given to others
            return
        if self._starts_failed >= MOST_FAILED_STARTS and up < self.slots:
            intake = (up, f"its executors do not start: {self._why_no_start}")
        elif self._paused:
            intake = (1, f"it uses more than {memory.PAUSE_ABOVE:.0%} of its {memory.in_words(self.limits.worker)} of memory")
        else:
            intake = (self.slots, "")
        self.most = intake[0]
        if intake[0] != self._told_intake[0]:
            self._told_intake = intake
            self._post(m.Intake(*intake))

    def _give_back(self, attempts: Iterable[int]) -> None:
        """The scheduler may give these to others: those among them that no executor has."""
        given_back = []
        for attempt in attempts:
            job = self.jobs.get(attempt)
            if job is not None and job.executor is None and not job.doomed:
                self._drop(job)
                given_back.append(attempt)
        self._post(m.Recalled(given_back))

    def _drop(self, job: Job) -> None:
        """A job that no executor has: forget it."""
        del self.jobs[job.attempt]
        if not job.fetching:
            self.queue.remove(job)
        self._stop_fetching(job)

    def _stop_fetching(self, job: Job) -> None:
        """Nothing is fetched for it any more."""
        raise TypeError("the worker says what becomes of transfers")

    # ---- outcomes ---------------------------------------------------------------------------

    def executor_outcomes(self, now: float, number: int, outcomes: Iterable[Any]) -> None:
        """What an executor sent, in order."""
        executor = self.executors[number]
        executor.progress_at = now
        for outcome in outcomes:
            kind = type(outcome)
            if kind is m.Waits:
                self._waits(now, executor, outcome)
                continue
            if kind is m.Resumes:
                self._resumes(executor, outcome)
                continue
            job = executor.given.pop(outcome.attempt, None)
            if job is None:
                continue  # cannot be: an executor answers each task once
            executor.expected_us -= job.cost
            executor.outcomes += 1
            del self.jobs[job.attempt]
            if executor.parked is job:  # it was interrupted while it waited, or did not ask for its slot
                self._back_among_active(executor)
            if self._is_ending(executor, job.attempt):
                self._ended_politely(executor, job, outcome)
            else:
                self._outcome(now, job, outcome)
        self._idle_deaths = 0
        self._feed(now)

    def _ended_politely(self, executor: Executor, job: Job, outcome: Any) -> None:
        """The interrupted function came to an end within its grace: it has failed as announced all the same."""
        if isinstance(outcome, m.Done) and outcome.value is None:
            self.effects.append(effects.DeleteFiles([outcome.attempt]))
        if not job.doomed and executor.ending is not None:
            ending, detail = executor.ending, outcome.error.traceback if isinstance(outcome, m.Failed) else ""
            self._post(m.Crashed(job.compute.task, job.attempt, ending.text, detail, ending.kind, "", 0), len(detail))
        executor.ending = None

    def _outcome(self, now: float, job: Job, outcome: Any) -> None:
        raise TypeError("the worker says what becomes of outcomes")

    # ---- tasks that wait for tasks ------------------------------------------------------------

    def _waits(self, now: float, executor: Executor, message: m.Waits) -> None:
        """The running task waits: its slot is free for others, and so is what the executor had been given behind it."""
        back = [job for attempt in message.unstarted if (job := executor.given.pop(attempt, None)) is not None]
        executor.expected_us -= sum(job.cost for job in back)
        executor.functions.clear()  # some may have been among what it gives back
        self._requeue(back)
        job = executor.given.get(message.attempt)
        if job is not None:
            self._park(executor, job)

    def park(self, attempt: int) -> None:
        """The scheduler has seen that the task waits, in whatever way: it is parked if it runs."""
        job = self.jobs.get(attempt)
        executor = self._has(job) if job is not None else None
        if job is not None and executor is not None and next(iter(executor.given.values())) is job:
            self._park(executor, job)

    def _park(self, executor: Executor, job: Job) -> None:
        if executor.parked is not None or len(self.parked) >= self.most_parked:
            return
        executor.parked = job
        self.active.pop(executor.number, None)
        self.parked[executor.number] = executor
        self._post(m.Parked(job.attempt, True))
        self._take_back(executor)
        self._fill()

    def _resumes(self, executor: Executor, message: m.Resumes) -> None:
        if executor.parked is None:
            self.effects.append(effects.GoOn(executor.number, message.attempt))
        else:
            self._resuming.append(executor)

    def _unpark(self, executor: Executor) -> None:
        executor.parked = None
        self.parked.pop(executor.number, None)
        if executor in self._resuming:
            self._resuming.remove(executor)

    def _resume(self, executor: Executor) -> None:
        """The task has a slot again."""
        job = executor.parked
        assert job is not None
        self._back_among_active(executor)
        self._post(m.Parked(job.attempt, False))
        self.effects.append(effects.GoOn(executor.number, job.attempt))
        self._adjust_intake()

    def _back_among_active(self, executor: Executor) -> None:
        self._unpark(executor)
        self.active[executor.number] = executor
        if len(self.active) > 2 * self.slots:  # some stay for the next one that waits
            idle = next((one for one in self.active.values() if one.up and not one.given), None)
            if idle is not None:
                self._end(idle)

    def _end(self, idle: Executor) -> None:
        """End an executor that has nothing to do; it is no longer one of the active ones."""
        del self.active[idle.number]
        idle.up = False
        idle.outcomes += 1  # it does not fail
        self.effects.append(effects.EndExecutor(idle.number))

    # ---- ending attempts --------------------------------------------------------------------

    def abort(self, now: float, attempts: Iterable[int], kill: bool) -> None:
        """Nobody wants these; without ``kill`` most end by themselves sooner than another process is there."""
        for attempt in attempts:
            job = self.jobs.get(attempt)
            if job is None:
                continue
            if job.executor is None:
                self._drop(job)
                continue
            job.doomed = True
            if kill:
                self._interrupt(now, (job, "cancelled"))
            else:
                self._alarm(now + ABANDONED_S, self._interrupt, (job, "cancelled"))

    def _has(self, job: Job) -> Executor | None:
        """The executor that the job is given to, if it still is."""
        executor = job.executor
        return executor if executor is not None and executor.given.get(job.attempt) is job else None

    def _interrupt(self, now: float, subject: tuple[Job, str]) -> None:
        """First step: out of the socket, or an exception in the task."""
        job, why = subject
        executor = self._has(job)
        if executor is not None:
            self._take_back(executor)
            self.effects.append(effects.Interrupt(executor.number, job.attempt, why))
            self._alarm(now + GRACE_S, self._kill, job)

    def _kill(self, now: float, job: Job) -> None:
        """Second step: the process; looked at again when the attempt is between socket and function."""
        executor = self._has(job)
        if executor is not None:
            self._take_back(executor)
            self.effects.append(effects.Kill(executor.number, job.attempt))
            self._alarm(now + KILL_S, self._kill, job)

    def _time_over(self, now: float, attempt: int) -> None:
        job = self.jobs.get(attempt)
        executor = self._has(job) if job is not None else None
        if job is not None and executor is not None and now >= job.deadline - 1e-6:  # else it was given again since
            text = f"it ran longer than its time_limit of {job.compute.limit:g} s and was ended"
            executor.ending = Ending(job.attempt, "TimeLimitExceeded", text)
            self._interrupt(now, (job, "time limit"))

    # ---- giving and taking back ---------------------------------------------------------------

    def _requeue(self, jobs: list[Job]) -> None:
        """Jobs that an executor had and did not start go to the head of the queue, in order; doomed ones end here."""
        for job in reversed(jobs):
            job.executor = None
            if job.doomed:
                self.jobs.pop(job.attempt, None)
            else:
                self.queue.appendleft(job)

    def _take_back(self, executor: Executor) -> None:
        """Have what the executor has not read taken back; functions may be among it, so they are sent again from now on."""
        executor.functions.clear()
        self.effects.append(effects.TakeBack(executor.number))

    def taken_back(self, now: float, number: int, attempts: Iterable[int], running: int) -> None:
        """The answer to TakeBack: these had not been read by the executor, whose page names ``running``."""
        executor = self.executors.get(number)
        if executor is None:
            return  # ended meanwhile, and its jobs are queued already
        stuck = self._is_stuck(now, executor, running)
        jobs = [job for attempt in attempts if (job := executor.given.pop(attempt, None)) is not None]
        executor.expected_us -= sum(job.cost for job in jobs)
        self._requeue(jobs)
        if stuck and executor.up:
            executor.up = False
            self.effects.append(effects.Kill(number, 0))
        self._finish_take_back(executor)
        self._feed(now)

    def recall(self, now: float, attempts: Iterable[int]) -> None:
        """Give back what has not been started; what lies in an executor's socket is taken out of it first."""
        self._recalling = set(attempts)
        for attempt in attempts:
            job = self.jobs.get(attempt)
            if job is not None and job.executor is not None and job.executor.number not in self._taking_back:
                self._taking_back.add(job.executor.number)
                self._take_back(job.executor)
        if not self._taking_back:
            self._answer_recall()

    def _answer_recall(self) -> None:
        wanted, self._recalling = self._recalling, None
        self._give_back(sorted(wanted or ()))

    def _finish_take_back(self, executor: Executor) -> None:
        if executor.number in self._taking_back:
            self._taking_back.discard(executor.number)
            if not self._taking_back and self._recalling is not None:
                self._answer_recall()

    def _busy(self) -> int:
        return sum(1 for executor in self.active.values() if executor.given)

    def _feed(self, now: float) -> None:
        """Slots go to tasks that waited, then to queued ones; short tasks are given ahead of time."""
        if not self.queue and not self._resuming:
            if self.jobs and len(self.active) > 1:
                self._level(now)
            return
        busy = self._busy()
        while self._resuming and busy < max(1, self.most):
            self._resume(self._resuming[0])
            busy += 1
        packets: dict[Executor, list[Any]] = {}
        idle = [executor for executor in self.active.values() if executor.up and not executor.given]
        lonely = any(_is_lonely(job) for one in self.active.values() for job in one.given.values())
        while idle and self.queue and busy < self.most and not lonely:
            if _is_lonely(self.queue[0]):
                if busy:
                    lonely = True
                    break
                lonely = True
            executor = idle.pop(0)
            if self.queue[0].exposed and executor.outcomes:
                fresh = self._fresh(executor, idle)
                if fresh is None:
                    break
                executor = fresh
            self._give(now, executor, self.queue.popleft(), packets)
            busy += 1
        if self.most == self.slots and not lonely:
            for executor in self.active.values():
                while self.queue and executor.up and self._may_have_more(executor, self.queue[0]):
                    self._give(now, executor, self.queue.popleft(), packets)
        for executor, messages in packets.items():
            self.effects.append(effects.Give(executor.number, messages))
        if self.queue and self.most < self.slots and (busy or not self.most):
            self._give_back([job.attempt for job in self.queue])

    def _fresh(self, executor: Executor, idle: list[Executor]) -> Executor | None:
        """A task that was exposed runs where no other has been: another idle executor, or a new one in the place of this."""
        for other in idle:
            if not other.outcomes:
                idle.remove(other)
                return other
        self._end(executor)
        self._fill()
        return None

    @staticmethod
    def _may_have_more(executor: Executor, job: Job) -> bool:
        if not executor.given or job.exposed:
            return False
        first = next(iter(executor.given.values()))
        if job.compute.limit or first.compute.limit or first.exposed or executor.ending:
            return False
        if executor.expected_us + job.cost <= WINDOW_US:
            return True
        return len(executor.given) == 1 and job.short and first.short

    def _give(self, now: float, executor: Executor, job: Job, packets: dict[Executor, list[Any]]) -> None:
        packet = packets.setdefault(executor, [])
        fn = job.compute.fn
        if fn not in executor.functions:
            executor.functions.add(fn)
            packet.append(self.functions[fn])
        packet.append(job.compute)
        if not executor.given:
            executor.progress_at = now
            if not executor.watched:
                executor.watched = True
                self._alarm(now + STUCK_S, self._look_if_begun, executor)
        executor.given[job.attempt] = job
        executor.expected_us += job.cost
        job.executor = executor
        if job.compute.limit:
            job.deadline = now + job.compute.limit
            self._alarm(job.deadline, self._time_over, job.attempt)  # not the job: it may have ended long before

    def _look_if_begun(self, now: float, executor: Executor) -> None:
        """An executor has work: what it has not read is taken back, which shows whether it has begun anything."""
        executor.watched = False
        if not executor.given or self.executors.get(executor.number) is not executor or executor.parked is not None:
            return
        if now < executor.progress_at + STUCK_S - 1e-6:
            executor.watched = True
            self._alarm(executor.progress_at + STUCK_S, self._look_if_begun, executor)
        else:
            self._take_back(executor)

    @staticmethod
    def _is_stuck(now: float, executor: Executor, running: int) -> bool:
        """Whether it has begun none of its tasks: something that an earlier one has left holds it up."""
        return bool(executor.given) and running not in executor.given and now >= executor.progress_at + STUCK_S - 1e-6

    def _level(self, now: float) -> None:
        """An executor is idle and another has tasks waiting behind one that takes long: take those back."""
        if all(executor.given or not executor.up for executor in self.active.values()):
            return
        for executor in self.active.values():
            if len(executor.given) < 2 or executor.number in self._taking_back:
                continue
            if now >= executor.progress_at + STALL_S:
                executor.progress_at = now
                self._take_back(executor)
            else:
                self._alarm(executor.progress_at + STALL_S, _nothing, None)

    # ---- memory -----------------------------------------------------------------------------

    def _keep_stored(self, one: m.Stored) -> None:
        """The store has this file, in memory, and it was used last."""
        self._forget_stored(one.attempt)
        self.stored[one.attempt] = one
        self.in_memory += one.size

    def _forget_stored(self, attempt: int) -> m.Stored | None:
        """The store does not have it (any more)."""
        one = self.stored.pop(attempt, None)
        if one is not None and attempt not in self.spilled:
            self.in_memory -= one.size
        self.spilled.discard(attempt)
        return one

    def memory_used(self, now: float, executors: dict[int, int], running: dict[int, int], stored: int) -> float:
        """A look at memory: bytes of each executor that runs something, which attempt that is, and bytes of stored results
        that count as memory.  Seconds until the next look.
        """
        verdict = memory.judge(self.limits, executors, stored, self._paused)
        if verdict.spill and not self._spilling and now >= self._spill_after:
            self._spill(verdict.spill)
        if verdict.pause != self._paused:
            self._paused = verdict.pause
            self._adjust_intake()
            self._feed(now)
        if verdict.stop is not None:
            self._stop_executor(verdict.stop, running[verdict.stop.number])
        limit = self.limits.executor or self.limits.worker
        return LOOK_CLOSELY_S if 2 * (sum(executors.values()) + stored) > limit else LOOK_S

    def _spill(self, wanted: int) -> None:
        chosen = []
        for attempt, one in self.stored.items():  # the least recently used come first
            if wanted > 0 and attempt not in self.spilled:
                chosen.append(attempt)
                wanted -= one.size
        if chosen:
            self._spilling = True
            self.effects.append(effects.Spill(chosen))

    def spilled_files(self, now: float, attempts: Iterable[int], trouble: str = "") -> None:
        """The answer to Spill: these are on disk now; ``trouble``: why others are not."""
        self._spilling = False
        unknown = []
        for attempt in attempts:
            if attempt not in self.stored:
                unknown.append(attempt)  # deleted while it was copied, and so there again
            elif attempt not in self.spilled:
                self.spilled.add(attempt)
                self.in_memory -= self.stored[attempt].size
        if unknown:
            self.effects.append(effects.DeleteFiles(unknown))
        if trouble:
            self._spill_after = now + SPILL_PAUSE_S
            self._post(m.WorkerLog("results can't be moved to disk", trouble))

    def _stop_executor(self, stop: memory.Stop, attempt: int) -> None:
        executor = self.executors.get(stop.number)
        if executor is None or attempt not in executor.given or executor.ending is not None:
            return
        whose = "this worker with all its tasks and results" if stop.of_worker else "one executor of this worker"
        size, limit = memory.in_words(stop.size), memory.in_words(stop.limit)
        text = (f"its process used {size} of memory and was ended; {whose} may use {limit}; work on smaller pieces, or give "
                "the worker more with --memory-limit")  # fmt: skip
        executor.ending = Ending(attempt, "MemoryLimitExceeded", text)
        self.effects.append(effects.Kill(stop.number, attempt))


def _is_lonely(job: Job) -> bool:
    """Whether it must be the only one that runs, so that it is known whose fault the next death is."""
    return job.exposed >= MOST_EXPOSED - 1


def _nothing(now: float, subject: None) -> None:
    """An alarm that only wants the end of its turn, where jobs are given out."""
