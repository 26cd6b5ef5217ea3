"""The worker's control process: what its executors run next, and where inputs come from.

Events go in with the time; messages for the scheduler come out in the dialer's session, and everything else to be done in
``effects``, which the edge carries out in order.  No value is ever unpickled here.

A job is one attempt given by the scheduler.  It is *fetching* while inputs are on their way from other hosts, *queued* when
it can run, *given* when it lies in an executor's socket or is being run.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from twistdist.core.session import Dialer, Session
from twistdist.wire import messages as m

#: Expected work that an executor is given ahead, three times the pause between two looks at its outcomes; beyond it a task
#: can still be recalled without asking the executor.
WINDOW_US = 6_000

#: A task known to be shorter than this may wait behind one that runs.
AHEAD_US = 50_000

#: Seconds without an outcome after which tasks behind the running one are taken back for an idle executor.
STALL_S = 0.02

#: Seconds between looks at an attempt that is to be ended and is not running yet.
INTERRUPT_S = 0.05

#: An attempt that runs while all executors of the worker die together is taken to be the cause when that happens so often.
MOST_EXPOSED = 3

#: Seconds that a running task may go on when nobody wants its outcome any more.
ABANDONED_S = 0.25

#: Pauses before an executor that ended without any outcome is started again: doubled each time, in seconds.
BACKOFF_S, LONGEST_BACKOFF_S = 0.05, 10.0


@attrs.define(eq=False)
class Job:
    """One attempt on this worker; ``doomed`` when nobody wants its outcome any more."""

    compute: m.Compute
    fetching: set[int] = attrs.field(factory=set)
    slot: Slot | None = None
    doomed: bool = False
    exposed: int = 0

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


@attrs.define(eq=False)
class Slot:
    """One executor's place.  ``up`` while its process can be given tasks."""

    number: int
    up: bool = False
    given: dict[int, Job] = attrs.field(factory=dict)
    expected_us: int = 0
    functions: set[int] = attrs.field(factory=set)
    outcomes: int = 0
    starts_failed: int = 0
    progress_at: float = 0.0
    ending: tuple[int, str, str] | None = None


@attrs.define(eq=False)
class Transfer:
    """An input on its way from another host, and the jobs that wait for it."""

    source: m.Input
    holders: list[int]
    jobs: list[Job] = attrs.field(factory=list)


# ---- effects --------------------------------------------------------------------------------


@attrs.frozen
class StartExecutor:
    """Fork an executor for the slot, ``delay`` seconds from now."""

    slot: int
    delay: float


@attrs.frozen
class Give:
    """Write these messages to the executor as one packet."""

    slot: int
    messages: list[m.WorkerFunction | m.Compute | m.ForgetFunctions]


@attrs.frozen
class TakeBack:
    """Read what the executor has not read yet; the answer is the event ``taken_back``."""

    slot: int


@attrs.frozen
class Interrupt:
    """End the executor if it is running ``attempt`` now (any attempt when 0)."""

    slot: int
    attempt: int


@attrs.frozen
class StartFetch:
    """Copy a file to the store from one of ``holders``; the answer is ``fetched`` or ``fetch_failed``."""

    attempt: int
    size: int
    digest: bytes
    holders: list[m.Peer]


@attrs.frozen
class DeleteFiles:
    """Remove result files of these attempts from the store."""

    attempts: list[int]


@attrs.frozen
class LookForFiles:
    """Say with the event ``verified`` which of these files are not in the store."""

    attempts: list[int]


@attrs.frozen
class StopWorker:
    """The process should end."""

    text: str


class Worker:
    """The pure core.  ``identity`` is the Hello without inventory; ``stored`` what the store held at the start."""

    def __init__(self, identity: m.HelloWorker, stored: Iterable[m.Stored] = ()) -> None:
        self.identity = identity
        self.dialer = Dialer(identity.session)
        self.effects: list[Any] = []
        self.slots = [Slot(number) for number in range(identity.slots)]
        self.jobs: dict[int, Job] = {}
        self.queue: deque[Job] = deque()
        self.stored: dict[int, m.Stored] = {one.attempt: one for one in stored}
        self.functions: dict[int, m.WorkerFunction] = {}
        self.peers: dict[int, m.Peer] = {}
        self.transfers: dict[int, Transfer] = {}
        self.unmappable: set[str] = set()
        self._finished: list[m.Done | m.Failed | m.Crashed] = []
        self._told_at = 0
        self._recalling: set[int] | None = None
        self._taking_back: set[int] = set()
        self._alarms: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._alarm_count = 0
        self._handlers: dict[type, Callable[[float, Any], None]] = {
            m.Compute: self._compute,
            m.WorkerFunction: self._function,
            m.ForgetFunctions: self._forget_functions,
            m.Peer: self._peer,
            m.Recall: self._recall,
            m.Free: self._free,
            m.Abort: self._abort,
            m.Verify: self._verify,
            m.Stop: self._stop,
        }

    # ---- events: time and scheduler ---------------------------------------------------------

    @property
    def wake(self) -> float | None:
        """When ``tick`` is wanted next."""
        return self._alarms[0][0] if self._alarms else None

    def tick(self, now: float) -> None:
        while self._alarms and self._alarms[0][0] <= now:
            _, _, action, subject = heapq.heappop(self._alarms)
            action(now, subject)
        self._feed(now)

    def start(self, now: float) -> None:
        """Begin: executors for all slots."""
        for slot in self.slots:
            self.effects.append(StartExecutor(slot.number, 0.0))

    def hello(self) -> m.HelloWorker:
        """The registration with the whole inventory, for a new session."""
        if self._told_at != self.dialer.fresh:
            self._told_at, self._finished = self.dialer.fresh, []  # the Hello before this one was accepted
        undelivered = self.dialer.session.undelivered()
        finished = self._finished
        finished += [one for one in undelivered if isinstance(one, m.Done | m.Failed | m.Crashed)]
        self.dialer.session = Session()
        who = self.identity
        running = [(job.compute.task, job.attempt) for job in self.jobs.values() if not job.doomed]
        return m.HelloWorker(who.session, who.name, who.incarnation, who.pid, who.slots, who.address, who.host, who.store,
                             who.resources, list(self.stored.values()), running, list(finished))  # fmt: skip

    def receive(self, now: float, messages: Iterable[Any]) -> None:
        """Messages from the scheduler that the session accepted, in order."""
        handlers = self._handlers
        for message in messages:
            handlers[type(message)](now, message)
        self._feed(now)

    def _post(self, message: Any, weight: int = 0) -> None:
        self.dialer.session.post(message, weight)

    def _alarm(self, at: float, action: Callable[[float, Any], None], subject: Any) -> None:
        self._alarm_count += 1
        heapq.heappush(self._alarms, (at, self._alarm_count, action, subject))

    # ---- messages ---------------------------------------------------------------------------

    def _function(self, now: float, message: m.WorkerFunction) -> None:
        old = self.functions.get(message.fn)
        if old is not None and old.blob != message.blob:  # a scheduler without memory numbers anew
            for slot in self.slots:
                slot.functions.discard(message.fn)
        self.functions[message.fn] = message

    def _forget_functions(self, now: float, message: m.ForgetFunctions) -> None:
        for fn in message.fns:
            self.functions.pop(fn, None)
        for slot in self.slots:
            known = [fn for fn in message.fns if fn in slot.functions]
            if known and slot.up:
                slot.functions.difference_update(known)
                self.effects.append(Give(slot.number, [m.ForgetFunctions(known)]))

    def _peer(self, now: float, message: m.Peer) -> None:
        self.peers[message.worker] = message
        self.unmappable.discard(message.store)

    def _compute(self, now: float, message: m.Compute) -> None:
        job = Job(message)
        self.jobs[message.attempt] = job
        if message.inputs is not None:
            for one in message.inputs:
                if one.value is None:
                    self._locate(job, one)
        if not job.fetching:
            self.queue.append(job)

    def _locate(self, job: Job, source: m.Input) -> None:
        """A path for a stored input: our own file, one of a worker on this host, or one that must be fetched."""
        if source.attempt in self.stored:
            source.path = self._path(self.identity.store, source.attempt)
            return
        for number in source.holders:
            peer = self.peers.get(number)
            if peer is not None and peer.host == self.identity.host and peer.store not in self.unmappable:
                source.path = self._path(peer.store, source.attempt)
                return
        self._fetch(job, source)

    @staticmethod
    def _path(store: str, attempt: int) -> str:
        return f"{store}/{attempt:x}"

    def _fetch(self, job: Job, source: m.Input) -> None:
        if source.attempt in job.fetching:
            return  # the same input a second time
        job.fetching.add(source.attempt)
        transfer = self.transfers.get(source.attempt)
        if transfer is None:
            transfer = self.transfers[source.attempt] = Transfer(source, list(source.holders))
            peers = [self.peers[number] for number in source.holders if number in self.peers]
            self.effects.append(StartFetch(source.attempt, source.size, source.digest, peers))
        transfer.jobs.append(job)

    def _recall(self, now: float, message: m.Recall) -> None:
        """Give back what has not been started; what lies in an executor's socket is taken out of it first."""
        self._recalling = set(message.attempts)
        for attempt in message.attempts:
            job = self.jobs.get(attempt)
            if job is not None and job.slot is not None and job.slot.number not in self._taking_back:
                self._taking_back.add(job.slot.number)
                self._take_back(job.slot)
        if not self._taking_back:
            self._answer_recall()

    def _answer_recall(self) -> None:
        given_back = []
        for attempt in sorted(self._recalling or ()):
            job = self.jobs.get(attempt)
            if job is not None and job.slot is None and not job.doomed:
                self._drop(job)
                given_back.append(attempt)
        self._recalling = None
        self._post(m.Recalled(given_back))

    def _drop(self, job: Job) -> None:
        """A job that no executor has: forget it."""
        del self.jobs[job.attempt]
        if not job.fetching:
            self.queue.remove(job)
        for attempt in job.fetching:
            self.transfers[attempt].jobs.remove(job)

    def _free(self, now: float, message: m.Free) -> None:
        for attempt in message.attempts:
            self.stored.pop(attempt, None)
        self.effects.append(DeleteFiles(list(message.attempts)))

    def _abort(self, now: float, message: m.Abort) -> None:
        for attempt in message.attempts:
            job = self.jobs.get(attempt)
            if job is None:
                continue
            if job.slot is None:
                self._drop(job)
                continue
            job.doomed = True
            if message.kill:
                self._interrupt(now, job)
            else:  # most end by themselves sooner than another process is there; none may keep the slot for ever
                self._alarm(now + ABANDONED_S, self._interrupt, job)

    def _interrupt(self, now: float, job: Job) -> None:
        """End a given attempt: out of the socket, or with its process; look again when it is between the two."""
        slot = job.slot
        if slot is None or slot.given.get(job.attempt) is not job:
            return
        self._take_back(slot)
        self.effects.append(Interrupt(slot.number, job.attempt))
        self._alarm(now + INTERRUPT_S, self._interrupt, job)

    def _verify(self, now: float, message: m.Verify) -> None:
        self.effects.append(LookForFiles(list(message.attempts)))

    def _stop(self, now: float, message: m.Stop) -> None:
        self.effects.append(StopWorker(message.text))

    # ---- events: executors ------------------------------------------------------------------

    def executor_started(self, now: float, number: int) -> None:
        """The slot's process is there."""
        slot = self.slots[number]
        slot.up, slot.outcomes, slot.ending = True, 0, None
        slot.functions.clear()
        self._feed(now)

    def executor_outcomes(self, now: float, number: int, outcomes: Iterable[m.Done | m.Failed | m.InputLost]) -> None:
        """What an executor sent, in order."""
        slot = self.slots[number]
        slot.progress_at = now
        for outcome in outcomes:
            job = slot.given.pop(outcome.attempt, None)
            if job is None:
                continue  # cannot be: an executor answers each task once
            slot.expected_us -= job.cost
            slot.outcomes += 1
            del self.jobs[job.attempt]
            self._outcome(now, job, outcome)
        slot.starts_failed = 0
        self._feed(now)

    def _outcome(self, now: float, job: Job, outcome: m.Done | m.Failed | m.InputLost) -> None:
        if isinstance(outcome, m.InputLost):
            self._unmapped(job, outcome)
            return
        stored = isinstance(outcome, m.Done) and outcome.value is None
        if job.doomed:
            if stored:
                self.effects.append(DeleteFiles([outcome.attempt]))
            return
        if isinstance(outcome, m.Done):
            if stored:
                self.stored[outcome.attempt] = m.Stored(outcome.task, outcome.attempt, outcome.size, outcome.digest)
            self._post(outcome)
        else:
            self._post(outcome, len(outcome.error.pickled) + len(outcome.error.traceback))

    def _unmapped(self, job: Job, outcome: m.InputLost) -> None:
        """An executor could not open inputs: ours are gone, another worker's are fetched instead of mapped."""
        if job.doomed:
            return
        gone, compute = [], job.compute
        failed = {attempt for attempt, _ in outcome.inputs}
        for source in compute.inputs or ():
            if source.attempt not in failed:
                continue
            if self.stored.pop(source.attempt, None) is not None:
                gone.append(source.attempt)
            for number in source.holders:
                peer = self.peers.get(number)
                if peer is not None and source.path.startswith(peer.store + "/"):
                    self.unmappable.add(peer.store)
            source.path = ""
        if gone:
            self._post(m.Missing(gone))
            self._post(m.InputLost(compute.task, compute.attempt, []))
            return
        job.slot = None
        self._compute(0.0, compute)

    def executor_ended(self, now: float, number: int, exit: str, detail: str, running: int, blame: bool = True) -> None:
        """The slot's process is gone, and all that it had sent was seen.  ``running``: the attempt its page names, or 0.

        Without ``blame`` all executors died together, and what was running is charged only when that repeats itself.
        """
        slot = self.slots[number]
        if running and running not in self.stored:
            self.effects.append(DeleteFiles([running]))  # it may have died between file and outcome
        guilty = slot.given.pop(running, None)
        if guilty is not None and not blame:
            guilty.exposed += 1
            if guilty.exposed < MOST_EXPOSED:
                slot.given = {running: guilty, **slot.given}
                guilty = None
        innocent = list(slot.given.values())
        ending, slot.ending = slot.ending, None
        slot.up, slot.expected_us = False, 0
        slot.given.clear()
        if guilty is not None:
            del self.jobs[guilty.attempt]
            if not guilty.doomed:
                kind, text = ending[1:] if ending and ending[0] == guilty.attempt else ("", exit)
                self._post(m.Crashed(guilty.compute.task, guilty.attempt, text, detail, kind), len(detail))
        self._requeue(innocent)
        if slot.outcomes or guilty is not None:
            slot.starts_failed = 0
            delay = 0.0
        else:
            slot.starts_failed += 1
            delay = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (slot.starts_failed - 1))
            if slot.starts_failed in (3, 10, 100):
                self._post(m.WorkerLog("executor does not start", f"{exit} {detail}".strip()))
        self._finish_take_back(slot)
        self.effects.append(StartExecutor(number, delay))
        self._feed(now)

    def _requeue(self, jobs: list[Job]) -> None:
        """Jobs that an executor had and did not start go to the head of the queue, in order; doomed ones end here."""
        for job in reversed(jobs):
            job.slot = None
            if job.doomed:
                self.jobs.pop(job.attempt, None)
            else:
                self.queue.appendleft(job)

    def _take_back(self, slot: Slot) -> None:
        """Have what the executor has not read taken back; functions may be among it, so they are sent again from now on."""
        slot.functions.clear()
        self.effects.append(TakeBack(slot.number))

    def taken_back(self, now: float, number: int, attempts: Iterable[int]) -> None:
        """The answer to TakeBack: these had not been read by the executor."""
        slot = self.slots[number]
        jobs = [job for attempt in attempts if (job := slot.given.pop(attempt, None)) is not None]
        slot.expected_us -= sum(job.cost for job in jobs)
        self._requeue(jobs)
        self._finish_take_back(slot)
        self._feed(now)

    def _finish_take_back(self, slot: Slot) -> None:
        if slot.number in self._taking_back:
            self._taking_back.discard(slot.number)
            if not self._taking_back and self._recalling is not None:
                self._answer_recall()

    def _time_over(self, now: float, subject: tuple[Slot, int]) -> None:
        slot, attempt = subject
        job = slot.given.get(attempt)
        if job is None:
            return
        limit = job.compute.limit
        slot.ending = (job.attempt, "TimeLimitExceeded", f"it ran longer than its time_limit of {limit:g} s and was ended")
        self.effects.append(Interrupt(slot.number, job.attempt))
        self._alarm(now + INTERRUPT_S, self._time_over, subject)

    def _feed(self, now: float) -> None:
        """Give queued jobs to executors: the idle ones first, then ahead of time to those with short tasks."""
        if not self.queue:
            if self.jobs and len(self.slots) > 1:
                self._level(now)
            return
        packets: dict[Slot, list[Any]] = {}
        for slot in self.slots:
            if self.queue and slot.up and not slot.given:
                self._give(now, slot, self.queue.popleft(), packets)
        for slot in self.slots:
            while self.queue and slot.up and self._may_have_more(slot, self.queue[0]):
                self._give(now, slot, self.queue.popleft(), packets)
        for slot, messages in packets.items():
            self.effects.append(Give(slot.number, messages))

    @staticmethod
    def _may_have_more(slot: Slot, job: Job) -> bool:
        if not slot.given:
            return False
        first = next(iter(slot.given.values()))
        if job.compute.limit or first.compute.limit or slot.ending:
            return False
        if slot.expected_us + job.cost <= WINDOW_US:
            return True
        return len(slot.given) == 1 and job.short and first.short

    def _give(self, now: float, slot: Slot, job: Job, packets: dict[Slot, list[Any]]) -> None:
        packet = packets.setdefault(slot, [])
        fn = job.compute.fn
        if fn not in slot.functions:
            slot.functions.add(fn)
            packet.append(self.functions[fn])
        packet.append(job.compute)
        if not slot.given:
            slot.progress_at = now
        slot.given[job.attempt] = job
        slot.expected_us += job.cost
        job.slot = slot
        if job.compute.limit:
            self._alarm(now + job.compute.limit, self._time_over, (slot, job.attempt))

    def _level(self, now: float) -> None:
        """An executor is idle and another has tasks waiting behind one that takes long: take those back."""
        if all(slot.given or not slot.up for slot in self.slots):
            return
        for slot in self.slots:
            if len(slot.given) < 2 or slot.number in self._taking_back:
                continue
            if now >= slot.progress_at + STALL_S:
                slot.progress_at = now
                self._take_back(slot)
            else:
                self._alarm(slot.progress_at + STALL_S, _nothing, None)

    # ---- events: data -----------------------------------------------------------------------

    def fetched(self, now: float, attempt: int) -> None:
        """The file of ``attempt`` is in our store, checked."""
        transfer = self.transfers.pop(attempt)
        source = transfer.source
        stored = m.Stored(source.task, attempt, source.size, source.digest)
        self.stored[attempt] = stored
        self._post(m.Have([stored]))
        for job in transfer.jobs:
            job.fetching.discard(attempt)
            for one in job.compute.inputs or ():
                if one.attempt == attempt:
                    one.path = self._path(self.identity.store, attempt)
            if not job.fetching:
                self.queue.append(job)
        self._feed(now)

    def fetch_failed(self, now: float, attempt: int) -> None:
        """None of the holders gave it: the jobs that need it go back to the scheduler."""
        transfer = self.transfers.pop(attempt)
        tried = [(attempt, holder) for holder in transfer.holders]
        for job in transfer.jobs:
            job.fetching.discard(attempt)
            del self.jobs[job.attempt]
            for other in job.fetching:
                self.transfers[other].jobs.remove(job)
            self._post(m.InputLost(job.compute.task, job.attempt, tried))

    def verified(self, now: float, attempts: list[int], absent: list[int]) -> None:
        """The answer to LookForFiles."""
        for attempt in absent:
            self.stored.pop(attempt, None)
        unknown = [attempt for attempt in attempts if attempt not in self.stored]
        if unknown:
            self._post(m.Missing(unknown))


def _nothing(now: float, subject: None) -> None:
    """An alarm that only wants the end of its turn, where jobs are given out."""
