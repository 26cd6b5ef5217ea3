"""The attempts assigned to this worker, those that can run in order, and the functions that they call."""

from __future__ import annotations

from collections import deque

import attrs

from twistdist.core.worker.records import Job
from twistdist.core.worker.tuning import Tuning
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Jobs:
    """A job is *fetching* while inputs are on their way from other hosts, in the ``queue`` when it can run, *given* when it is
    in an executor's socket or running, *parked* when it waits for other tasks.  Those ``beside`` the slots have a queue
    of their own.  ``followers`` wait for the value of an attempt; since :class:`.Following` last looked, attempts that had some
    have ``ended``, and ``unready`` jobs have come back from executors without their inputs.
    """

    tuning: Tuning
    by_attempt: dict[int, Job] = attrs.field(factory=dict)
    queue: deque[Job] = attrs.field(factory=deque)
    beside: deque[Job] = attrs.field(factory=deque)
    functions: dict[int, m.WorkerFunction] = attrs.field(factory=dict)
    followers: dict[int, list[Job]] = attrs.field(factory=dict)
    ended: list[int] = attrs.field(factory=list)
    unready: list[Job] = attrs.field(factory=list)

    def add(self, compute: m.Compute) -> Job:
        """The attempt is assigned to this worker, or begins again; one of unknown duration is assumed to fill the window."""
        cost = compute.cost if compute.cost >= 0 else self.tuning.window_us
        short = 0 <= compute.cost < self.tuning.ahead_us and not compute.limit
        job = self.by_attempt[compute.attempt] = Job(compute, cost, short)
        return job

    def ready(self, job: Job) -> None:
        """The job can run."""
        (self.beside if job.compute.beside else self.queue).append(job)

    def ready_first(self, job: Job) -> None:
        """The job can run, before the others."""
        (self.beside if job.compute.beside else self.queue).appendleft(job)

    def take_next(self) -> Job:
        """Remove and return the job that runs next."""
        return self.queue.popleft()

    def take_beside(self) -> Job:
        """Remove and return the job that runs next beside the slots."""
        return self.beside.popleft()

    def drop(self, job: Job) -> None:
        """Forget a job that no executor has."""
        self.forget(job)
        if not job.waits:
            (self.beside if job.compute.beside else self.queue).remove(job)

    def forget(self, job: Job) -> None:
        """The attempt has ended, or belongs to another worker now."""
        attempt = job.compute.attempt
        self.by_attempt.pop(attempt, None)
        if self.followers and attempt in self.followers:
            self.ended.append(attempt)

    def follow(self, job: Job, attempt: int) -> None:
        """The job waits for the value of an attempt that is here."""
        self.followers.setdefault(attempt, []).append(job)

    def take_followers(self, attempt: int) -> list[Job]:
        """The jobs that waited for an attempt, which has ended."""
        return [job for job in self.followers.pop(attempt, ()) if self.by_attempt.get(job.attempt) is job]

    def doom(self, job: Job) -> None:
        """Nobody wants the outcome of a job that an executor has."""
        job.doomed = True
        if job.attempt in self.followers:
            self.ended.append(job.attempt)

    def wanted(self) -> list[Job]:
        """The jobs whose outcome somebody wants."""
        return [job for job in self.by_attempt.values() if not job.doomed]

    def know(self, message: m.WorkerFunction) -> bool:
        """Remember a function that tasks will call.  Return False if its number referred to another one before."""
        old = self.functions.get(message.fn)
        self.functions[message.fn] = message
        return old is None or old.blob == message.blob

    def forget_functions(self, fns: list[int]) -> None:
        """No task will call these; ``ProtocolError`` if one that is here does."""
        if not {job.compute.fn for job in self.wanted()}.isdisjoint(fns):
            raise ProtocolError(f"functions {fns} must be forgotten, but tasks on this worker use them")
        for fn in fns:
            self.functions.pop(fn, None)

    def requeue(self, jobs: list[Job]) -> None:
        """Jobs that an executor had and did not start go to the head of the queue, in order; doomed ones end here."""
        for job in reversed(jobs):
            job.executor = None
            if job.doomed:
                self.forget(job)
            elif job.awaiting:
                self.unready.append(job)
            else:
                (self.beside if job.compute.beside else self.queue).appendleft(job)
