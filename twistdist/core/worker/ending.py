"""Attempts that must end: first interrupted, then killed."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.worker import effects, memory
from twistdist.core.worker.executors import Executors
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Ending, Job
from twistdist.core.worker.taking_back import TakingBack
from twistdist.core.worker.tuning import Tuning


@attrs.define(eq=False)
class Endings:
    """Because nobody wants them any more, because their time is over, or because they use too much memory."""

    tuning: Tuning
    alarms: Alarms
    outputs: Outputs
    jobs: Jobs
    executors: Executors
    taking_back: TakingBack

    def abort(self, now: float, attempts: Iterable[int], kill: bool) -> None:
        """Nobody wants these; without ``kill``, most end by themselves sooner than another process would be available."""
        for attempt in attempts:
            job = self.jobs.by_attempt.get(attempt)
            if job is None:
                continue
            if job.executor is None:
                self.taking_back.drop(job)
                continue
            self.jobs.doom(job)
            if kill:
                self._interrupt(now, (job, "cancelled"))
            else:
                self.alarms.set(now + self.tuning.abandoned_s, self._interrupt, (job, "cancelled"))

    def _interrupt(self, now: float, subject: tuple[Job, str]) -> None:
        """First step: take it out of the socket, or raise an exception in the task."""
        job, why = subject
        executor = self.executors.has(job)
        if executor is not None:
            self.taking_back.take_back(executor)
            self.outputs.do(effects.Interrupt(executor.number, job.attempt, why))
            self.alarms.set(now + self.tuning.grace_s, self._kill, job)

    def _kill(self, now: float, job: Job) -> None:
        """Second step: kill the process; check again if the attempt is between socket and function."""
        executor = self.executors.has(job)
        if executor is not None:
            self.taking_back.take_back(executor)
            self.outputs.do(effects.Kill(executor.number, job.attempt))
            self.alarms.set(now + self.tuning.kill_s, self._kill, job)

    def time_over(self, now: float, attempt: int) -> None:
        """The time limit of an attempt is over."""
        job = self.jobs.by_attempt.get(attempt)
        executor = self.executors.has(job) if job is not None else None
        if job is not None and executor is not None and now >= job.deadline - 1e-6:  # else it was given again
            text = f"it ran longer than its time_limit of {job.compute.limit:g} s and was ended"
            executor.ending = Ending(job.attempt, "TimeLimitExceeded", text)
            self._interrupt(now, (job, "time limit"))

    def stop(self, stop: memory.Overuse, attempt: int) -> None:
        """An executor that runs this attempt uses too much memory."""
        executor = self.executors.by_number.get(stop.number)
        if executor is None or attempt not in executor.given or executor.ending is not None:
            return
        whose = "this worker with all its tasks and results" if stop.of_worker else "one executor of this worker"
        size, limit = memory.in_words(stop.size), memory.in_words(stop.limit)
        text = (
            f"its process used {size} of memory and was ended; {whose} may use {limit}; work on smaller pieces, or give "
            "the worker more with --memory-limit"
        )
        executor.ending = Ending(attempt, "MemoryLimitExceeded", text)
        self.outputs.do(effects.Kill(stop.number, attempt))
