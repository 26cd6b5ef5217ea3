"""Tasks that wait for tasks of their own: their executors are parked, and others take the slots."""

from __future__ import annotations

import attrs

from twistdist.core.worker import effects
from twistdist.core.worker.executors import Executors
from twistdist.core.worker.intake import Intake
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Executor, Job
from twistdist.core.worker.taking_back import TakingBack
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Waiting:
    """A parked task gets a slot again before anything that is queued."""

    outputs: Outputs
    jobs: Jobs
    executors: Executors
    intake: Intake
    taking_back: TakingBack

    def waits(self, now: float, executor: Executor, message: m.Waits) -> None:
        """The running task waits: its slot is free for others, and so are the jobs that its executor was given behind it."""
        back = [job for attempt in message.unstarted if (job := executor.given.pop(attempt, None)) is not None]
        executor.expected_us -= sum(job.cost for job in back)
        executor.functions.clear()  # some may be among what it returns
        self.jobs.requeue(back)
        job = executor.given.get(message.attempt)
        if job is not None:
            self._park(executor, job)

    def park(self, attempt: int) -> None:
        """The scheduler has noticed that the task waits, in whatever way: park it if it is running."""
        job = self.jobs.by_attempt.get(attempt)
        executor = self.executors.has(job) if job is not None else None
        if job is not None and executor is not None and next(iter(executor.given.values())) is job:
            self._park(executor, job)

    def _park(self, executor: Executor, job: Job) -> None:
        if executor.beside or executor.parked is not None or len(self.executors.parked) >= self.executors.most_parked:
            return
        self.executors.park(executor, job)
        self.outputs.post(m.Parked(job.attempt, True))
        self.taking_back.take_back(executor)
        self.executors.fill()

    def resumes(self, executor: Executor, message: m.Resumes) -> None:
        """What the task waited for is available."""
        if executor.parked is None:
            self.outputs.do(effects.GoOn(executor.number, message.attempt))
        else:
            self.executors.wants_slot(executor)

    def resume(self, executor: Executor) -> None:
        """The task has a slot again."""
        job = executor.parked
        assert job is not None
        self.executors.activate(executor)
        self.outputs.post(m.Parked(job.attempt, False))
        self.outputs.do(effects.GoOn(executor.number, job.attempt))
        self.intake.adjust()
