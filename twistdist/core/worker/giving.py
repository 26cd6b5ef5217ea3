"""Gives jobs to executors: slots go to tasks that waited, then to queued ones; short tasks are given ahead of time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.worker import effects
from twistdist.core.worker.ending import Endings
from twistdist.core.worker.executors import Executors
from twistdist.core.worker.following import Following
from twistdist.core.worker.intake import Intake
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Executor, Job
from twistdist.core.worker.taking_back import TakingBack
from twistdist.core.worker.tuning import Tuning
from twistdist.core.worker.waiting import Waiting


@attrs.define(eq=False)
class Giving:
    """``feed`` is called at the end of most events."""

    tuning: Tuning
    alarms: Alarms
    outputs: Outputs
    jobs: Jobs
    following: Following
    executors: Executors
    intake: Intake
    taking_back: TakingBack
    ending: Endings
    waiting: Waiting

    def feed(self, now: float) -> None:
        """Slots go to tasks that waited, then to queued ones; short tasks are given ahead of time."""
        jobs, intake, following = self.jobs, self.intake, self.following
        while lost := following.look():  # what waited for those is lost too
            self.taking_back.give_back([job.attempt for job in lost])
        if self.executors.stale:
            self.executors.replace_stale()
        if jobs.beside or self.executors.beside:
            self._feed_beside(now)
        if not jobs.queue and not self.executors.resuming and not following.fresh:
            if jobs.by_attempt and len(self.executors.active) > 1:
                self._level(now)
            return
        packets: dict[Executor, list[Any]] = {}
        busy = self._resume_waiting(self.executors.busy())
        busy, lonely = self._give_to_idle(now, busy, packets)
        if intake.most == intake.slots and not lonely:
            self._give_ahead(now, packets)
            self._give_behind(now, packets)
        following.fresh.clear()
        for executor, messages in packets.items():
            self.outputs.do(effects.Give(executor.number, messages))
        if jobs.queue and intake.most < intake.slots and (busy or not intake.most):
            self.taking_back.give_back([job.attempt for job in jobs.queue])

    def _feed_beside(self, now: float) -> None:
        """Each task beside the slots gets a process of its own, which ends with it."""
        beside = self.jobs.beside
        self.executors.start_beside(len(beside) if not self.intake.fenced else 0)
        packets: dict[Executor, list[Any]] = {}
        for executor in list(self.executors.beside.values()):
            if not executor.up or executor.given:
                continue
            if executor.outcomes or not beside:
                self.executors.end(executor)
            elif not self.intake.fenced:
                self._give(now, executor, self.jobs.take_beside(), packets)
        for executor, messages in packets.items():
            self.outputs.do(effects.Give(executor.number, messages))

    def _resume_waiting(self, busy: int) -> int:
        """Tasks that waited continue first.  Return how many executors are busy then."""
        while self.executors.resuming and busy < max(1, self.intake.most):
            self.waiting.resume(self.executors.resuming[0])
            busy += 1
        return busy

    def _give_to_idle(self, now: float, busy: int, packets: dict[Executor, list[Any]]) -> tuple[int, bool]:
        """One job for each idle executor.  Return how many are busy then, and whether one of their jobs must stay alone."""
        queue, active = self.jobs.queue, self.executors.active.values()
        idle = [executor for executor in active if executor.up and not executor.given]
        lonely = any(job.lonely for executor in active for job in executor.given.values())
        while idle and queue and busy < self.intake.most and not lonely:
            lonely = queue[0].lonely
            if lonely and busy:
                break
            executor = idle.pop(0)
            if queue[0].exposed and executor.outcomes:
                fresh = self._fresh(executor, idle)
                if fresh is None:
                    break
                executor = fresh
            self._give(now, executor, self.jobs.take_next(), packets)
            busy += 1
        return busy, lonely

    def _give_ahead(self, now: float, packets: dict[Executor, list[Any]]) -> None:
        """Put short jobs into an executor's socket before it asks for them."""
        queue = self.jobs.queue
        for executor in self.executors.active.values():
            while queue and executor.up and self._may_have_more(executor, queue[0]):
                self._give(now, executor, self.jobs.take_next(), packets)

    def _give_behind(self, now: float, packets: dict[Executor, list[Any]]) -> None:
        """Put jobs into an executor's socket behind those that make their inputs, if that executor has them all."""
        for job in self.following.fresh:  # which grows, since others may wait for what is given here
            if job.executor is not None or job.fetching or not job.awaiting or self.jobs.by_attempt.get(job.attempt) is not job:
                continue
            makers = [self.jobs.by_attempt.get(attempt) for attempt in job.awaiting]
            executor = self.executors.has(makers[0]) if makers[0] is not None else None
            if executor is None or not executor.up or executor.parked is not None:
                continue
            together = all(maker is not None and self.executors.has(maker) is executor for maker in makers)
            if together and self._may_have_more(executor, job):
                self._give(now, executor, job, packets)

    def _fresh(self, executor: Executor, idle: list[Executor]) -> Executor | None:
        """A task that was exposed runs where no other has been: on another idle executor, or on a new one instead of this."""
        for other in idle:
            if not other.outcomes:
                idle.remove(other)
                return other
        self.executors.end(executor)
        self.executors.fill()
        return None

    def _may_have_more(self, executor: Executor, job: Job) -> bool:
        if not executor.given or job.exposed or executor.number in self.executors.stale:
            return False
        first = next(iter(executor.given.values()))
        if job.compute.limit or first.compute.limit or first.exposed or executor.ending:
            return False
        if executor.expected_us + job.cost <= self.tuning.window_us:
            return True
        return len(executor.given) == 1 and job.short and first.short

    def _give(self, now: float, executor: Executor, job: Job, packets: dict[Executor, list[Any]]) -> None:
        packet = packets.setdefault(executor, [])
        fn = job.compute.fn
        if fn not in executor.functions:
            executor.functions.add(fn)
            packet.append(self.jobs.functions[fn])
        packet.append(job.compute)
        if not executor.given:
            executor.progress_at = now
            if not executor.watched:
                executor.watched = True
                self.alarms.set(now + self.tuning.stuck_s, self._look_if_begun, executor)
        executor.given[job.attempt] = job
        executor.expected_us += job.cost
        job.executor = executor
        if self.jobs.followers:
            self.following.given(job)
        if job.compute.limit:
            job.deadline = now + job.compute.limit
            self.alarms.set(job.deadline, self.ending.time_over, job.attempt)  # not the job: it may have ended long before

    def _look_if_begun(self, now: float, executor: Executor) -> None:
        """An executor has work: take back what it has not read, which shows whether it has begun anything."""
        executor.watched = False
        if not executor.given or self.executors.by_number.get(executor.number) is not executor or executor.parked is not None:
            return
        if now < executor.progress_at + self.tuning.stuck_s - 1e-6:
            executor.watched = True
            self.alarms.set(executor.progress_at + self.tuning.stuck_s, self._look_if_begun, executor)
        else:
            self.taking_back.take_back(executor)

    def _is_stuck(self, now: float, executor: Executor, running: int) -> bool:
        """Whether it has begun none of its tasks: something that an earlier task left behind holds it up."""
        return (
            bool(executor.given) and running not in executor.given and now >= executor.progress_at + self.tuning.stuck_s - 1e-6
        )

    def _level(self, now: float) -> None:
        """If an executor is idle and another has tasks waiting behind a long one, take those back."""
        if all(executor.given or not executor.up for executor in self.executors.active.values()):
            return
        for executor in self.executors.active.values():
            if len(executor.given) < 2 or self.taking_back.is_asked(executor):
                continue
            if now >= executor.progress_at + self.tuning.stall_s:
                executor.progress_at = now
                self.taking_back.take_back(executor)
            else:
                self.alarms.set(executor.progress_at + self.tuning.stall_s, _nothing, None)

    def taken_back(self, now: float, number: int, attempts: Iterable[int], running: int) -> None:
        """The answer to TakeBack: the executor, whose page names ``running``, had not read these."""
        executor = self.executors.by_number.get(number)
        if executor is None:
            return  # it has ended meanwhile, and its jobs are already queued
        stuck = self._is_stuck(now, executor, running)
        jobs = [job for attempt in attempts if (job := executor.given.pop(attempt, None)) is not None]
        executor.expected_us -= sum(job.cost for job in jobs)
        self.jobs.requeue(jobs)
        if stuck and executor.up:
            executor.up = False
            self.outputs.do(effects.Kill(number, 0))
        self.taking_back.finish(executor)


def _nothing(now: float, subject: None) -> None:
    """For an alarm that only needs the end of its turn, where jobs are given out."""
