"""The stories of an executor process: it is ready, it ends, it is stopped."""

from __future__ import annotations

import attrs

from twistdist.core.worker import effects
from twistdist.core.worker.executors import Executors
from twistdist.core.worker.files import Files
from twistdist.core.worker.intake import Intake
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Death, Executor, Job
from twistdist.core.worker.taking_back import TakingBack
from twistdist.core.worker.tuning import Tuning
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Deaths:
    """What the death of an executor means for the job that it was running, and for the others.

    ``crashed`` counts the jobs that ended their executor, ``stopped`` those that were ended with it on purpose.
    """

    tuning: Tuning
    outputs: Outputs
    files: Files
    jobs: Jobs
    executors: Executors
    intake: Intake
    taking_back: TakingBack
    crashed: int = 0
    stopped: int = 0

    def executor_started(self, now: float, number: int) -> None:
        """The executor has reported that it is ready."""
        self.executors.started(number)
        self.intake.adjust()

    def executor_ended(self, now: float, number: int, death: Death) -> None:
        """The process is gone, and everything that it had sent has been processed."""
        executor, running = self.executors.by_number[number], death.running
        if running and running not in self.files.stored:
            self.outputs.do(effects.DeleteFiles([running]))  # it may have died between file and outcome
        guilty = executor.given.pop(running, None)
        if guilty is not None and (executor.stood_still or not death.blame) and not executor.is_ending(running):
            guilty.exposed += 1
            guilty.lonely = guilty.exposed >= self.tuning.max_exposed - 1
            if guilty.exposed < self.tuning.max_exposed:
                executor.given = {running: guilty, **executor.given}
                guilty = None
        innocent = list(executor.given.values())
        if executor.parked is not None:
            if executor.parked in innocent:
                self.outputs.post(m.Parked(executor.parked.attempt, False))
            self.executors.unpark(executor)
        if guilty is not None:
            self.jobs.forget(guilty)
            if not guilty.doomed:
                self._crashed(guilty, executor, death)
        if self.executors.count_death(executor, bool(executor.outcomes) or guilty is not None, death.exit):
            self.outputs.post(m.WorkerLog("executor does not start", f"{death.exit} {death.detail}".strip()))
        executor.given.clear()
        self.jobs.requeue(innocent)
        self.taking_back.finish(executor)
        self.executors.forget(executor)
        self.intake.adjust()

    def executors_do_not_start(self, now: float, why: str) -> None:
        """What all of them are forked from is not there: take no work until one has started."""
        self.executors.can_not_start(self.tuning.max_failed_starts, why)
        self.intake.adjust()

    def _crashed(self, job: Job, executor: Executor, death: Death) -> None:
        kind, text = "", death.exit
        if executor.ending is not None and executor.is_ending(job.attempt):
            kind, text = executor.ending.kind, executor.ending.text
        if kind:
            self.stopped += 1
        else:
            self.crashed += 1
        message = m.Crashed(job.compute.task, job.attempt, text, death.detail, kind, death.when, death.us)
        self.outputs.post(message, len(death.detail))

    def executors_stopped(self, now: float, stopped: set[int], limit: float) -> None:
        """Executors in ``stopped`` have work and are stopped by a signal; one that has been for ``limit`` seconds is replaced.

        Anybody may have stopped it, so its task is charged only if that happens again.
        """
        for executor in self.executors.by_number.values():
            if executor.stood_still and not executor.given:  # it has continued, or had begun nothing: nobody is to blame
                self.outputs.do(effects.Kill(executor.number, 0))
            if executor.number not in stopped:
                executor.stopped_at = None
            elif executor.stopped_at is None:
                executor.stopped_at = now
            elif now - executor.stopped_at >= limit:
                if not executor.stood_still:
                    executor.stood_still, executor.up = True, False
                    text = f"executor {executor.number} has been stopped by a signal for {limit:g} s and is replaced"
                    self.outputs.post(m.WorkerLog("executor stood still", text))
                self.taking_back.take_back(executor)  # what it has not read can run elsewhere
                for attempt in executor.given:  # whichever is running
                    self.outputs.do(effects.Kill(executor.number, attempt))
