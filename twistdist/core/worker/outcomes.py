"""What executors send: values, errors, and tasks that wait."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from twistdist.core.worker import effects
from twistdist.core.worker.executors import Executors
from twistdist.core.worker.files import Files
from twistdist.core.worker.following import Following
from twistdist.core.worker.inputs import Inputs
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Executor, Job
from twistdist.core.worker.waiting import Waiting
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Outcomes:
    """Each job has one outcome.  ``values``, ``failed`` and ``stopped`` count those that are passed on."""

    outputs: Outputs
    files: Files
    jobs: Jobs
    following: Following
    inputs: Inputs
    executors: Executors
    waiting: Waiting
    values: int = 0
    failed: int = 0
    stopped: int = 0

    def executor_outcomes(self, now: float, number: int, outcomes: Iterable[Any]) -> None:
        """What an executor sent, in order."""
        executor = self.executors.by_number[number]
        executor.progress_at = now
        for outcome in outcomes:
            kind = type(outcome)
            if kind is m.Waits:
                self.waiting.waits(now, executor, outcome)
                continue
            if kind is m.Resumes:
                self.waiting.resumes(executor, outcome)
                continue
            job = executor.given.pop(outcome.attempt, None)
            if job is None:
                continue  # can't happen: an executor answers each task once
            executor.expected_us -= job.cost
            executor.outcomes += 1
            self.jobs.forget(job)
            if executor.parked is job:  # it was interrupted while it waited, or did not ask for its slot
                self.executors.activate(executor)
            if executor.is_ending(job.attempt):
                self._ended_politely(executor, job, outcome)
            else:
                self._outcome(now, job, outcome)
        self.executors.worked()

    def _ended_politely(self, executor: Executor, job: Job, outcome: Any) -> None:
        """The interrupted function ended within its grace period: it has failed as announced all the same."""
        if isinstance(outcome, m.Done) and outcome.value is None:
            self.outputs.do(effects.DeleteFiles([outcome.attempt]))
        if not job.doomed and executor.ending is not None:
            self.stopped += 1
            ending, detail = executor.ending, outcome.error.traceback if isinstance(outcome, m.Failed) else ""
            self.outputs.post(m.Crashed(job.compute.task, job.attempt, ending.text, detail, ending.kind, "", 0), len(detail))
        executor.ending = None

    def _outcome(self, now: float, job: Job, outcome: Any) -> None:
        if isinstance(outcome, m.InputLost):
            self.inputs.unmapped(now, job, outcome)
            return
        stored = isinstance(outcome, m.Done) and outcome.value is None
        if job.doomed:
            if stored:
                self.outputs.do(effects.DeleteFiles([outcome.attempt]))
            return
        if isinstance(outcome, m.Done):
            if stored:
                self.files.keep(m.Stored(outcome.task, outcome.attempt, outcome.size, outcome.digest))
            self.following.made(outcome)
            self.values += 1
            self.outputs.post(outcome)
        else:
            self.failed += 1
            self.outputs.post(outcome, len(outcome.error.pickled) + len(outcome.error.traceback))
