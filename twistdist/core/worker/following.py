"""Jobs whose inputs are being made on this worker: they start as soon as those are there, without a trip to the scheduler.

docs/sent-ahead.rst has the rules.  This worker answers for such a job: if an attempt that it waits for ends without a value,
for whatever reason, the job goes back to the scheduler.
"""

from __future__ import annotations

from collections import deque

import attrs

from twistdist.core.worker.files import Files
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.records import Job
from twistdist.wire import messages as m

#: Outcomes that are remembered for jobs which have not arrived yet: their small values are 4 MiB at most.
MOST_VALUES = 1_000


@attrs.define(eq=False)
class Following:
    """``fresh`` jobs may be given to an executor behind the jobs that they wait for, and
    ``lost`` ones can never start here."""

    files: Files
    jobs: Jobs
    fresh: list[Job] = attrs.field(factory=list)
    lost: list[Job] = attrs.field(factory=list)
    _made: deque[m.Done] = attrs.field(factory=lambda: deque(maxlen=MOST_VALUES))

    def made(self, outcome: m.Done) -> None:
        """An attempt has a value, which is remembered for a while: jobs that need it may be on their way."""
        self._made.append(outcome)

    def take_up(self, job: Job) -> None:
        """Fill in the inputs that have been made; for the others the job waits."""
        for source in job.compute.inputs or ():
            if source.awaited:
                self._look_for(job, source)
        if job.is_lost:
            self.lost.append(job)
        elif job.awaiting:
            self.fresh.append(job)

    def _look_for(self, job: Job, source: m.Input) -> None:
        maker = self.jobs.by_attempt.get(source.attempt)
        made = next((one for one in self._made if one.attempt == source.attempt), None) if maker is None else None
        if made is not None and made.value is not None:
            source.value, source.awaited = made.value, False
        elif self.files.use(source.attempt):
            source.path, source.awaited = self.files.path(source.attempt), False
        else:
            job.awaiting.add(source.attempt)
            if maker is None or maker.doomed:
                job.is_lost = True
            else:
                self.jobs.follow(job, source.attempt)

    def given(self, job: Job) -> None:
        """An executor has the job: those that wait for it may follow."""
        self.fresh += self.jobs.followers.get(job.attempt, ())

    def look(self) -> list[Job]:
        """Attempts have ended, or jobs have come back from executors.  Return the jobs that must go back to the scheduler."""
        jobs = self.jobs
        if not (jobs.ended or jobs.unready or self.lost):
            return []
        if jobs.ended:
            ended, jobs.ended = jobs.ended, []
            for attempt in ended:
                for job in jobs.take_followers(attempt):
                    if attempt in job.awaiting:
                        self._settle(job, attempt)
        if jobs.unready:
            unready, jobs.unready = jobs.unready, []
            self.lost += [job for job in unready if job.is_lost]
        lost, self.lost = self.lost, []
        return [job for job in lost if jobs.by_attempt.get(job.attempt) is job]

    def _settle(self, job: Job, attempt: int) -> None:
        job.awaiting.discard(attempt)
        for source in job.compute.inputs or ():
            if source.awaited and source.attempt == attempt:
                self._look_for(job, source)
        if job.executor is not None:
            return  # it has the value itself, or will say that it has not
        if job.is_lost:
            self.lost.append(job)
        elif not job.waits:
            self.jobs.ready_first(job)
