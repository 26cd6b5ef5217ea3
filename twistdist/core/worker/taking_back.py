"""Takes jobs that executors have not begun out of their sockets, and returns them to the scheduler."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from twistdist.core.worker import effects
from twistdist.core.worker.inputs import Inputs
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Executor, Job
from twistdist.wire import messages as m


@attrs.define(eq=False)
class TakingBack:
    """One recall at a time: it is answered when every executor that has some of its jobs has answered."""

    outputs: Outputs
    jobs: Jobs
    inputs: Inputs
    _recalling: set[int] | None = None
    _asked: set[int] = attrs.field(factory=set)

    def take_back(self, executor: Executor) -> None:
        """Have what the executor has not read taken back; that may include functions, so they are sent again from now on."""
        executor.functions.clear()
        self.outputs.do(effects.TakeBack(executor.number))

    def recall(self, now: float, attempts: Iterable[int]) -> None:
        """Return what has not been started; what is in an executor's socket is taken out of it first."""
        self._recalling = set(attempts)
        for attempt in attempts:
            job = self.jobs.by_attempt.get(attempt)
            if job is not None and job.executor is not None and job.executor.number not in self._asked:
                self._asked.add(job.executor.number)
                self.take_back(job.executor)
        if not self._asked:
            self._answer_recall()

    def _answer_recall(self) -> None:
        wanted, self._recalling = self._recalling, None
        self.give_back(sorted(wanted or ()))

    def finish(self, executor: Executor) -> None:
        """The executor has returned what it had not read, or is gone."""
        if executor.number in self._asked:
            self._asked.discard(executor.number)
            if not self._asked and self._recalling is not None:
                self._answer_recall()

    def give_back(self, attempts: Iterable[int]) -> None:
        """Let the scheduler give these to other workers: those among them that no executor has."""
        given_back = []
        for attempt in attempts:
            job = self.jobs.by_attempt.get(attempt)
            if job is not None and job.executor is None and not job.doomed:
                self.drop(job)
                given_back.append(attempt)
        self.outputs.post(m.Recalled(given_back))

    def drop(self, job: Job) -> None:
        """Forget a job that no executor has."""
        self.jobs.drop(job)
        self.inputs.stop_fetching(job)

    def is_asked(self, executor: Executor) -> bool:
        """Whether a recall waits for what this executor has not read."""
        return executor.number in self._asked
