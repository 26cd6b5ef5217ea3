"""Which jobs a cluster should have: a pure part, which is told what the engine and the scheduler know and answers with steps.

A job begins as *asked for*, waits in the engine's queue, runs, and has *joined* when its worker was seen in the cluster.  One
that ends unasked is started again under its own name, on the store that it left if it comes to the same machine.  One whose
worker is leaving (its allocation ends, its machine is taken away) is replaced at once by another one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attrs

from twistdist.clusters.engine import JobState
from twistdist.interfaces import WorkerInfo

#: Seconds before a job that ended without having joined is started again: at first, and at most; doubled each time.
BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0

#: Seconds that a job may run before its worker joins, and that a worker may be unknown to the scheduler while its job runs.
JOIN_S, LOST_S = 300.0, 60.0

#: Seconds before a job that ended in order, which means that it was told to, is started again.  By then it is known whether the
#: whole cluster was.
TOLD_S = 2.0

#: Seconds after which the engine is told again to end a job.
AGAIN_S = 60.0

#: Seconds that a job may run on when its worker has left the cluster.
LEAVE_S = 30.0

#: Seconds between two complaints about a job that waits in the engine's queue.
QUEUE_S = 300.0

_ENDED = JobState("ended", "")


@attrs.define(eq=False)
class Entry:
    """A job of the cluster.

    Attributes:
        name: The name of its worker.
        at: When it was asked for last; for a job that is to be started again, when that may happen.
        id: The engine's id; "" if it has not been started yet.
        phase: What the engine said last.
        why: Why, in the engine's words.
        joined: Whether its worker was seen in the cluster.
        unknown_since: Since when its worker has been unknown to the scheduler; None if it is known.
        leaving: Whether it should end, or is about to.
        failures: How many times in a row it has ended without having joined.
        told: When the engine was told to end it last; None if it was not.
    """

    name: str
    at: float
    id: str = ""
    phase: str = "waiting"
    why: str = ""
    joined: bool = False
    unknown_since: float | None = None
    leaving: bool = False
    failures: int = 0
    told: float | None = None
    running_since: float | None = None
    complained_at: float = 0.0


@attrs.define(eq=False)
class Steps:
    """What to do: names of jobs to ``start``, ids of jobs to ``end``, names of workers to ``retire``, ``news`` for the log, and
    ids of jobs that ``failed``, whose last words say why."""

    start: list[str] = attrs.field(factory=list)
    end: list[str] = attrs.field(factory=list)
    retire: list[str] = attrs.field(factory=list)
    news: list[str] = attrs.field(factory=list)
    failed: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class Roster:
    """The jobs of one cluster, of which there should be ``wanted``."""

    wanted: int = 0
    jobs: dict[str, Entry] = attrs.field(factory=dict)
    failure: str = ""  # how the last job ended that ended without having joined, and its id
    failed: str = ""
    _next: int = 0

    @property
    def meant(self) -> list[Entry]:
        """The jobs that are not leaving, the oldest first."""
        return [entry for entry in self.jobs.values() if not entry.leaving]

    @property
    def failures(self) -> int:
        """How many times in a row the least lucky job has ended without having joined."""
        return max((entry.failures for entry in self.meant), default=0)

    @property
    def all_joined(self) -> bool:
        """Whether there are as many workers as there should be."""
        return len(self.meant) == self.wanted and all(entry.joined for entry in self.meant)

    def started(self, now: float, ids: Mapping[str, str], asked: Sequence[str], why: str = "") -> None:
        """The engine has started jobs: ``ids`` by name; those of ``asked`` that are missing could not be started (``why``)."""
        for name in asked:
            entry = self.jobs.get(name)
            if entry is None:
                continue
            entry.running_since = None
            entry.complained_at = now
            entry.id, entry.phase, entry.why = ids.get(name, ""), "waiting", ""
            if not entry.id:
                self._failed(now, entry, why or "the engine did not start it")

    def look(
        self,
        now: float,
        states: Mapping[str, JobState],
        workers: Mapping[str, WorkerInfo] | None,
        retired: Collection[str] = (),
    ) -> Steps:
        """Compare what there should be with what there is.

        Args:
            now: Seconds of a monotonic clock.
            states: What the engine knows, by id.
            workers: Each worker that the scheduler knows, by name; None if the scheduler does not answer.
            retired: The names of workers that a client has retired, and that have left since the last look.
        """
        steps = Steps()
        for name in retired:
            if name in self.jobs and name not in (workers or {}):  # otherwise that was an earlier process of this name
                self._retired(self.jobs[name], steps)
        for entry in list(self.jobs.values()):
            self._look_at(now, entry, states, workers, steps)
        if workers is not None:
            self._shrink(now, steps)
        self._grow(now)
        if workers is not None:  # otherwise nobody could join now, and the whole cluster may be ending
            due = (entry for entry in self.jobs.values() if not entry.id and not entry.leaving and now >= entry.at)
            steps.start += [entry.name for entry in due]
        return steps

    def _look_at(
        self, now: float, entry: Entry, states: Mapping[str, JobState], workers: Mapping[str, WorkerInfo] | None, steps: Steps
    ) -> None:
        if not entry.id:
            if entry.leaving:
                del self.jobs[entry.name]
            return
        state = states.get(entry.id, _ENDED)
        entry.phase = state.phase
        if entry.told is None:
            entry.why = state.why
        if state.phase == "ended":
            if workers is not None:  # otherwise the whole cluster may be ending; nobody could join now anyway
                self._ended(now, entry, state.ok, steps)
            return
        if entry.told is not None:
            self._tell_end(now, entry, steps)
        if state.phase == "running" and entry.running_since is None:
            entry.running_since = now
        if state.phase == "waiting" and now - entry.complained_at >= QUEUE_S:
            entry.complained_at = now
            steps.news.append(f"job {entry.id} for worker {entry.name} is still waiting: {state.why or 'no reason is known'}")
        if workers is not None:
            self._look_at_worker(now, entry, workers.get(entry.name), steps)

    def _look_at_worker(self, now: float, entry: Entry, worker: WorkerInfo | None, steps: Steps) -> None:
        if worker is not None and worker.state != "away":
            entry.joined, entry.failures, entry.unknown_since = True, 0, None
            if worker.state == "retiring" and not worker.retired_by and not entry.leaving:
                entry.leaving = True
                steps.news.append(f"worker {entry.name} is leaving and will be replaced")
            elif worker.state != "retiring" and entry.leaving and entry.told is None:
                steps.retire.append(entry.name)  # the scheduler has not heard it, or has forgotten it
            return
        if entry.unknown_since is None:
            entry.unknown_since = now
        unknown = now - entry.unknown_since
        if entry.joined and entry.leaving and unknown >= LEAVE_S:
            self._tell_end(now, entry, steps)
        elif entry.joined and not entry.leaving and unknown >= LOST_S:
            steps.news.append(f"worker {entry.name} is lost, although its job {entry.id} runs: it will be replaced")
            entry.leaving = True
            self._tell_end(now, entry, steps)
        elif (
            not entry.joined and entry.running_since is not None and now - entry.running_since >= JOIN_S and entry.told is None
        ):
            entry.why = f"it ran for {JOIN_S:g} s without joining the cluster"
            self._tell_end(now, entry, steps)

    def _retired(self, entry: Entry, steps: Steps) -> None:
        """A client has retired its worker, which is not wanted any more."""
        if not entry.leaving:
            entry.leaving = entry.joined = True
            self.wanted = max(0, self.wanted - 1)
            steps.news.append(f"worker {entry.name} was retired")

    def _ended(self, now: float, entry: Entry, in_order: bool, steps: Steps) -> None:
        how = f": {entry.why}" if entry.why else ""
        if entry.leaving:
            del self.jobs[entry.name]
            return
        if entry.joined:
            steps.news.append(f"worker {entry.name} ended (job {entry.id}{how}) and will be started again")
            entry.joined, entry.id, entry.at = False, "", now + (TOLD_S if in_order else 0.0)
        else:
            steps.failed.append(entry.id)
            steps.news.append(f"job {entry.id} ended before its worker {entry.name} had joined the cluster{how}")
            self._failed(now, entry, f"job {entry.id} ended before its worker had joined the cluster{how}")
        entry.unknown_since, entry.told = None, None

    def _failed(self, now: float, entry: Entry, why: str) -> None:
        entry.failures += 1
        self.failure, self.failed = f"worker {entry.name} failed to start: {why}", entry.id
        entry.id = ""
        entry.at = now + min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** min(entry.failures - 1, 10))

    def _shrink(self, now: float, steps: Steps) -> None:
        """Those that have not joined go first, then the youngest."""
        surplus = max(0, len(self.meant) - self.wanted)
        for entry in sorted(reversed(self.meant), key=lambda entry: entry.joined)[:surplus]:
            entry.leaving = True
            if entry.joined:
                steps.retire.append(entry.name)
            elif entry.id:
                self._tell_end(now, entry, steps)
            else:
                del self.jobs[entry.name]

    def _grow(self, now: float) -> None:
        for _ in range(self.wanted - len(self.meant)):
            while f"w{self._next}" in self.jobs:
                self._next += 1
            name = f"w{self._next}"
            self._next += 1
            self.jobs[name] = Entry(name, now)

    @staticmethod
    def _tell_end(now: float, entry: Entry, steps: Steps) -> None:
        """Have the engine end it, again now and then: it may not have heard."""
        if entry.told is None or now - entry.told >= AGAIN_S:
            entry.told = now
            steps.end.append(entry.id)
