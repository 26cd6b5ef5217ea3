"""The facade: it creates the parts, knows which message goes to which part, and ends events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twistdist.core.alarms import Alarms
from twistdist.core.session import Dialer
from twistdist.core.worker import effects, memory
from twistdist.core.worker.deaths import Deaths
from twistdist.core.worker.ending import Endings
from twistdist.core.worker.executors import MAX_PARKED, Executors
from twistdist.core.worker.files import Files
from twistdist.core.worker.following import Following
from twistdist.core.worker.giving import Giving
from twistdist.core.worker.inputs import Inputs
from twistdist.core.worker.intake import Intake
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.lease import Lease
from twistdist.core.worker.membership import Membership
from twistdist.core.worker.outcomes import Outcomes
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Death
from twistdist.core.worker.renewal import Renewal
from twistdist.core.worker.taking_back import TakingBack
from twistdist.core.worker.tuning import Tuning
from twistdist.core.worker.usage import Usage
from twistdist.core.worker.waiting import Waiting
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m


class Worker:
    """The pure core of a worker's control process.

    Events are passed in with the time; messages for the scheduler are queued in the dialer's session, and everything else to be
    done is fetched with ``take``.  ``wake`` says when ``tick`` must be called next.

    ``identity`` is the Hello without inventory; ``stored`` is what the store held at the start, of which the attempts in
    ``spilled`` are on disk; at most ``most_parked`` tasks give up their slots at a time.
    """

    def __init__(
        self,
        identity: m.HelloWorker,
        stored: Iterable[m.Stored] = (),
        spilled: Iterable[int] = (),
        limits: memory.Limits | None = None,
        most_parked: int = MAX_PARKED,
        tuning: Tuning | None = None,
    ) -> None:
        limits, slots, tuning = limits or memory.Limits(), identity.slots, tuning or Tuning()
        self.identity = identity
        self.dialer = dialer = Dialer(identity.session)
        self._alarms = alarms = Alarms()
        # The parts, in order: each is given those before it that it needs.
        self.outputs = outputs = Outputs(dialer)
        self.files = files = Files(tuning, outputs, identity.store)
        self.work = jobs = Jobs(tuning)
        self.following = following = Following(files, jobs)
        self.inputs = inputs = Inputs(identity, outputs, files, jobs, following)
        self.processes = executors = Executors(tuning, slots, outputs, min(most_parked, MAX_PARKED))
        self.intake = intake = Intake(tuning, slots, limits, outputs, executors)
        self.taking_back = taking_back = TakingBack(outputs, jobs, inputs)
        self.ending = ending = Endings(tuning, alarms, outputs, jobs, executors, taking_back)
        self.waiting = waiting = Waiting(outputs, jobs, executors, intake, taking_back)
        self.giving = giving = Giving(tuning, alarms, outputs, jobs, following, executors, intake, taking_back, ending, waiting)
        self.usage = Usage(tuning, limits, files, intake, ending, giving)
        self.outcomes = Outcomes(outputs, files, jobs, following, inputs, executors, waiting)
        self.deaths = Deaths(tuning, outputs, files, jobs, executors, intake, taking_back)
        self.renewal = Renewal(outputs, jobs, executors, taking_back)
        self.membership = Membership(tuning, identity, dialer, outputs, files, jobs, executors, intake)
        # Read-only from outside.
        self.jobs, self.queue, self.executors, self.transfers = (
            jobs.by_attempt,
            jobs.queue,
            executors.by_number,
            inputs.transfers,
        )
        self.stored, self.spilled = files.stored, files.spilled
        self._handlers = self._table()
        for found in stored:
            files.keep(found)
        files.spilled_files(0.0, spilled)

    def _table(self) -> dict[type, Callable[[float, Any], None]]:
        """Which part each message goes to."""
        return {
            m.Compute: self._compute,
            m.WorkerFunction: self._function,
            m.ForgetFunctions: self._forget_functions,
            m.Peer: self.inputs.peer,
            m.Recall: lambda now, message: self.taking_back.recall(now, message.attempts),
            m.Free: self.files.free,
            m.Abort: lambda now, message: self.ending.abort(now, message.attempts, message.kill),
            m.Verify: self.files.verify,
            m.Stop: lambda now, message: self.outputs.do(effects.StopWorker(message.text)),
            m.Copy: self.inputs.copy,
            m.Rescue: lambda now, message: self.outputs.do(effects.RescueStore(message.worker, message.store)),
            m.Located: self.inputs.located,
            m.PeerState: self.inputs.peer_state,
            m.Audit: self.membership.audit,
            m.Renew: self.renewal.renew,
            m.Install: self.renewal.install,
            m.ReadLog: lambda now, message: self.outputs.do(effects.ReadLines(message.number, message.lines, message.key)),
            m.Park: lambda now, message: self.waiting.park(message.attempt),
            m.Beat: lambda now, message: None,  # it only matters outside the numbered frames
        }

    # ---- what the edge asks -----------------------------------------------------------------------

    @property
    def wake(self) -> float | None:
        """When ``tick`` must be called next."""
        return self._alarms.next

    @property
    def lease(self) -> Lease:
        """How long it is sure that the scheduler has not given this worker up."""
        return self.membership.lease

    @property
    def in_memory(self) -> int:
        """Bytes of stored results that are not on disk."""
        return self.files.in_memory

    def outcomes_so_far(self) -> dict[str, int]:
        """How many attempts have ended here, and how."""
        return {
            "value": self.outcomes.values,
            "failed": self.outcomes.failed,
            "crashed": self.deaths.crashed,
            "stopped": self.deaths.stopped + self.outcomes.stopped,
        }

    def take(self) -> list[effects.Effect]:
        """The effects of the events since the last call, in order."""
        return self.outputs.take()

    # ---- events of the worker itself --------------------------------------------------------------

    def start(self, now: float) -> None:
        """Start an executor for each slot."""
        self.processes.fill()

    def tick(self, now: float) -> None:
        """Perform every action that is due."""
        self._alarms.ring(now)
        self.giving.feed(now)

    def leave(self, now: float, seconds: float, why: str = "", patient: bool = False) -> None:
        """The process must end in ``seconds``; see :class:`~twistdist.wire.messages.Leaving`."""
        self.membership.leave(now, seconds, why, patient)

    def left(self, now: float) -> None:
        """The executors have ended, and the process is about to."""
        self.membership.left()

    def memory_used(self, now: float, executors: dict[int, int], running: dict[int, int], stored: int) -> float:
        """Check memory; see :meth:`.Usage.look`."""
        return self.usage.look(now, executors, running, stored)

    # ---- events of the scheduler ------------------------------------------------------------------

    def hello(self, now: float) -> m.HelloWorker:
        """The registration with the whole inventory, for a new session."""
        return self.membership.hello(now)

    def welcomed(self, now: float) -> None:
        """The scheduler has answered Hello: what it knows about this worker is right again."""
        self.membership.welcomed(now)
        self.giving.feed(now)

    def resumed(self) -> None:
        """The session continues."""

    def receive(self, now: float, messages: Iterable[Any]) -> None:
        """Messages from the scheduler that the session accepted, in order."""
        handlers = self._handlers
        try:
            for message in messages:
                handlers[type(message)](now, message)
        finally:  # what arrived before a message that breaks the protocol counts
            self.giving.feed(now)

    def heard_beat(self, now: float, beat: m.Beat) -> None:
        """A heartbeat from the scheduler."""
        self.lease.echoed(beat)

    def pulse(self, now: float) -> m.Beat:
        """Called every ``dialer.beat_every`` seconds while the session is or was connected.  Return the beat to send."""
        return self.membership.pulse(now)

    def look_at_lease(self, now: float) -> None:
        """Fence this worker before the scheduler gives it up."""
        self.membership.look_at_lease(now)

    def _compute(self, now: float, message: m.Compute) -> None:
        if message.attempt <= 0 or message.attempt in self.jobs or message.attempt in self.stored:
            raise ProtocolError(f"attempt {message.attempt} was assigned twice, or has an invalid number")
        if message.fn not in self.work.functions:
            raise ProtocolError(f"a task of the unknown function {message.fn} was assigned")
        if message.inputs and any(source.awaited and source.attempt == message.attempt for source in message.inputs):
            raise ProtocolError(f"attempt {message.attempt} was assigned to follow itself")
        if not 0 <= message.limit < float("inf"):  # NaN too
            raise ProtocolError("a task with an invalid time limit was assigned")
        self.inputs.take_up(now, message)

    def _function(self, now: float, message: m.WorkerFunction) -> None:
        if not self.work.know(message):  # a scheduler that has lost its memory reuses numbers
            self.processes.do_not_know(message.fn)

    def _forget_functions(self, now: float, message: m.ForgetFunctions) -> None:
        self.work.forget_functions(message.fns)
        self.processes.forget_functions(message.fns)

    # ---- events of executors ----------------------------------------------------------------------

    def executor_started(self, now: float, number: int) -> None:
        """The executor has reported that it is ready."""
        self.deaths.executor_started(now, number)
        self.giving.feed(now)
        self.renewal.look()

    def executor_outcomes(self, now: float, number: int, outcomes: Iterable[Any]) -> None:
        """What an executor sent, in order."""
        self.outcomes.executor_outcomes(now, number, outcomes)
        self.giving.feed(now)

    def taken_back(self, now: float, number: int, attempts: Iterable[int], running: int) -> None:
        """The answer to TakeBack: the executor, whose page names ``running``, had not read these."""
        if number in self.executors:  # else it has ended, and its jobs are already queued
            self.giving.taken_back(now, number, attempts, running)
            self.giving.feed(now)

    def executor_ended(self, now: float, number: int, death: Death) -> None:
        """The process is gone, and everything that it had sent has been processed."""
        self.deaths.executor_ended(now, number, death)
        self.giving.feed(now)
        self.renewal.look()

    def executors_do_not_start(self, now: float, why: str) -> None:
        """No executor can be started for the time being, because of ``why``."""
        self.deaths.executors_do_not_start(now, why)
        self.giving.feed(now)

    def executors_stopped(self, now: float, stopped: set[int], limit: float) -> None:
        """These executors have work and are stopped by a signal."""
        self.deaths.executors_stopped(now, stopped, limit)

    # ---- events of uploads and logs ---------------------------------------------------------------

    def installed(self, now: float, number: int, error: str) -> None:
        """The answer to InstallFile; ``error``: why it could not be installed."""
        self.renewal.installed(now, number, error)

    def log_read(self, now: float, number: int, lines: list[str]) -> None:
        """The answer to ReadLines."""
        self.renewal.log_read(now, number, lines)

    # ---- events of the store and of transfers -----------------------------------------------------

    def received(self, now: float, stored: m.Stored) -> None:
        """A client has put a file into the store."""
        self.files.received(now, stored)

    def verified(self, now: float, attempts: list[int], absent: list[int]) -> None:
        """The answer to LookForFiles."""
        self.files.verified(now, attempts, absent)

    def spilled_files(self, now: float, attempts: Iterable[int], trouble: str = "") -> None:
        """The answer to Spill: these are on disk now; ``trouble`` says why others are not."""
        self.files.spilled_files(now, attempts, trouble)

    def damaged(self, now: float, attempts: list[int], text: str) -> None:
        """Files that do not match their digest were found and removed."""
        self.membership.damaged(now, attempts, text)

    def rescued(self, now: float, worker: int, dead: bool, stored: list[m.Stored], spilled: list[int]) -> None:
        """The answer to RescueStore."""
        self.membership.rescued(now, worker, dead, stored, spilled)

    def fetched(self, now: float, attempt: int, address: str = "") -> None:
        """The file of ``attempt`` is in our store, verified; it came from ``address``, "" if not over the network."""
        self.inputs.fetched(now, attempt, address)
        self.giving.feed(now)

    def fetch_failed(self, now: float, attempt: int, own: str = "") -> None:
        """No holder provided it; ``own``: why it can't be stored here."""
        self.inputs.fetch_failed(now, attempt, own)
        self.giving.feed(now)  # what waits for the jobs that are lost goes back too

    def all_busy(self, now: float, attempt: int) -> None:
        """All known holders of the file are busy."""
        self.inputs.all_busy(now, attempt)
