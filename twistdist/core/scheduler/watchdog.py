"""Work that makes no progress although it could: workers that do nothing with their tasks, and tasks that nobody runs."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler import placement
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.records import (
    Incident,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.transitions import (
    DONE,
    READY,
    WAITING,
    Transitions,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Watchdog:
    """Only reports, except for stuck workers, whose tasks are taken back."""

    tuning: Tuning
    alarms: Alarms
    outputs: Outputs
    registry: Registry
    transitions: Transitions
    placement: Placement
    queues: Queues
    lifecycle: Lifecycle
    _progress: tuple[int, ...] = ()
    _progress_at: float = 0.0
    _watch_pause: float = attrs.field(default=attrs.Factory(lambda self: self.tuning.watch_s, takes_self=True))

    def look_if_stuck(self, now: float, worker: Worker, beat: m.Beat, received: int) -> None:
        """A worker that beats and has tasks, but does nothing with them: they are taken back, and it rests."""
        if beat.running or beat.fetching or not worker.given or worker.session.waiting:
            worker.idle_since = None
            return
        if worker.idle_since is None:
            worker.idle_since, worker.idle_sent = now, worker.session.sent
        elif received < worker.idle_sent:
            worker.idle_since = now  # its tasks are still on their way
        if now - max(worker.idle_since, worker.progress_at) < self.tuning.stuck_s:
            return
        worker.idle_since, worker.resting = None, True
        tasks = [task for task in worker.assigned if task not in worker.parked]
        self.placement.update(worker)
        text = f"it sends heartbeats but has done nothing for {self.tuning.stuck_s:g} s with its {len(tasks)} tasks"
        self.outputs.incident(Incident(now, "worker stuck", worker.name, text, requeued=len(tasks)), worker)
        self.outputs.post(worker, m.Abort([task.attempt for task in tasks], True))
        for task in tasks:
            self.lifecycle.requeue(task)
        self.alarms.set(now + self.tuning.rest_s, self._rested, worker)

    def _rested(self, now: float, worker: Worker) -> None:
        worker.resting = False
        if self.registry.is_here(worker):
            self.placement.update(worker)

    def watch(self, now: float) -> None:
        """Report, once in a while, work that is wanted and makes no progress although it could."""
        counts = self.registry.statistics
        progress = (counts.done, counts.failed, counts.submitted, counts.reruns)
        if progress != self._progress or not self.transitions.unfinished:
            self._progress, self._progress_at, self._watch_pause = progress, now, self.tuning.watch_s
            return
        if now - self._progress_at < self._watch_pause:
            return
        self._progress_at = now
        self._watch_pause = min(self.tuning.longest_watch_s, 2 * self._watch_pause)
        found = self._why_no_progress()
        if found:
            text = f"nothing has ended for a while, and {found}; this is a bug in twistdist, please report it"
            self.outputs.incident(Incident(now, "no progress", f"{self.transitions.unfinished} unfinished tasks", text))

    def _why_no_progress(self) -> str:
        """What should not happen: a task that could run, or waits for nothing; "" if there is none."""
        nobody: set[int] = set()  # options that fit no idle worker, by identity: the tasks of a map share theirs
        for task in self.registry.tasks.values():
            if task.state is READY and task not in self.queues.isolated and id(task.options) not in nobody:
                fit = [
                    worker
                    for worker in self.placement.idle
                    if placement.allowed(task, worker) and placement.has_resources(worker, task)
                ]
                if not fit:
                    nobody.add(id(task.options))
                for able in fit:  # some may be left out, if they can't fetch its inputs and others can
                    if task not in self.queues.restricted or placement.offered(task, able):
                        return f"{task.key} is ready and {able.name} is free"
            if (
                task.state is WAITING
                and not (task.history is not None and task.history.paused)
                and (all(upstream.state is DONE for upstream in task.inputs))
            ):
                return f"{task.key} waits although all its inputs have values"
        return ""
