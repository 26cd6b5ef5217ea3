"""Inputs that could not be fetched although their holders exist: alternative ways, pauses, and values computed again."""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler import placement
from twistdist.core.scheduler.attempts import Attempts
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs, Peer
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import (
    Client,
    Incident,
    Task,
    Worker,
    history_of,
)
from twistdist.core.scheduler.recovery import Recovery
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Settings, Tuning
from twistdist.core.scheduler.timeline import Timeline
from twistdist.core.scheduler.transitions import (
    DONE,
)
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Detours:
    """Marks the links of :class:`Reach`."""

    tuning: Tuning
    alarms: Alarms
    settings: Settings
    outputs: Outputs
    registry: Registry
    timeline: Timeline
    reach: Reach
    queues: Queues
    lifecycle: Lifecycle
    attempts: Attempts
    copies: Copies
    recovery: Recovery

    def input_lost(self, now: float, worker: Worker, message: m.InputLost) -> None:
        """The worker could not fetch inputs: ask the holders, and try again after a pause that doubles each time."""
        task = self.attempts.current(worker, message.task, message.attempt)
        if task is None:
            return
        history = history_of(task)
        history.lost_inputs += 1
        self.timeline.note(task, f"{worker.name} could not fetch its inputs; it is tried again after a pause")
        for _, holder in message.inputs:
            self.mark_link(now, worker, holder)
        pause = min(self.tuning.longest_input_pause_s, self.tuning.input_pause_s * 2 ** min(history.lost_inputs, 10))
        self.lifecycle.pause(task)
        hopeless = not self._goes_another_way(task, worker) or history.lost_inputs >= self.tuning.max_lost_inputs
        if history.lost_inputs > self.tuning.max_lost_inputs_early and self._may_be_mended(now, worker, message):
            history.lost_inputs = self.tuning.max_lost_inputs_early
        for attempt, holder in message.inputs:
            other = self.registry.workers.get(holder)
            if other is None:
                continue
            cut = self.reach.cut_for(now, worker, holder) >= self.settings.dead_after
            made = self._can_be_made_again(other, attempt) if hopeless and cut else None
            if made is not None:
                self.queues.pin(made, worker)
                self.recovery.missing(now, other, m.Missing([attempt]))
                self.outputs.post(other, m.Free([attempt]))
            else:
                self.outputs.post(other, m.Verify([attempt]))
        if history.lost_inputs >= self.tuning.max_lost_inputs_in_all:
            count = history.lost_inputs
            text = (
                f"the inputs of {task.key} could not be fetched {count} times, last on {worker.name}, though other workers "
                "have them; check that the workers can reach the addresses that the others listen at"
            )
            self.lifecycle.fail(task, m.ErrorInfo("DataLost", "", text, key=task.key))
            return
        self.alarms.set(now + pause, self._after_pause, (task, task.attempt))

    def mark_link(self, now: float, peer: Client | Worker, holder: int) -> None:
        """``peer`` could not fetch from a worker that is reachable otherwise: mark the link, not the worker."""
        if self.reach.mark(now, peer, holder):
            self.alarms.set(now + max(self.tuning.link_s, 2 * self.settings.dead_after), self._link_over, (peer, holder))
            other = self.registry.workers.get(holder)
            if other is not None and other.reachable:
                name = peer.name or f"client {peer.number:x}"
                text = "results could not be fetched over it"
                self.outputs.incident(Incident(now, "link", f"{name} to {other.name}", text), other)

    def _link_over(self, now: float, link: tuple[Peer, int]) -> None:
        self.reach.unmark(*link)
        self.queues.offer_again()

    def _goes_another_way(self, task: Task, worker: Worker) -> bool:
        """Whether another worker can run the task.  If no worker that may run it can fetch its inputs, they are copied to a
        third worker that can."""
        able = [other for other in self.registry.workers.values() if other.reachable and placement.allowed(task, other)]
        if any(self.reach.can_fetch(other, task) for other in able):
            return True
        stored = [upstream for upstream in task.inputs if upstream.state is DONE and upstream.holders is not None]
        return any([self.copies.relay(upstream, worker) for upstream in stored])

    def _may_be_mended(self, now: float, worker: Worker, message: m.InputLost) -> bool:
        """Whether one of the links has been bad too briefly for computing what is behind it again, which would be possible."""
        workers = self.registry.workers
        return any(
            self.reach.cut_for(now, worker, holder) < self.settings.dead_after
            and (other := workers.get(holder)) is not None
            and self._can_be_made_again(other, attempt) is not None
            for attempt, holder in message.inputs
        )

    @staticmethod
    def _can_be_made_again(holder: Worker, attempt: int) -> Task | None:
        """The task whose value can't be fetched from its holder, if it may be given up there and computed where it can be
        fetched."""
        task = next((one for one in holder.holds if one.value_attempt == attempt), None)
        if task is None or task.options.replay == "never" or (task.retention is not None and task.retention.source is not None):
            return None
        return task

    def _after_pause(self, now: float, subject: tuple[Task, int]) -> None:
        task, attempt = subject
        if task.history is not None and task.history.paused and task.attempt == attempt and task.number in self.registry.tasks:
            self.lifecycle.resume(task)
