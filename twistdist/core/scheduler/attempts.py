"""Outcomes of attempts: values, errors, dead executors.  Each takes effect only if its attempt is the current one."""

from __future__ import annotations

import attrs

from twistdist.core.scheduler import placement, tracing, transitions
from twistdist.core.scheduler.activity import AGAIN, CRASHED, FAILED, RUN, Activity
from twistdist.core.scheduler.ahead import Ahead
from twistdist.core.scheduler.holdings import Holdings
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.records import (
    History,
    Incident,
    Task,
    Worker,
    history_of,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.slots import Slots
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.timeline import Timeline
from twistdist.core.scheduler.transitions import (
    ASSIGNED,
    READY,
    WAITING,
    Transitions,
)
from twistdist.wire import messages as m

#: Durations count up to this many microseconds (eleven days).
LONGEST_US = 10**12


@attrs.define(eq=False)
class Attempts:
    """Owns ``Task.value``, ``Task.history`` and what is known about a function's durations."""

    outputs: Outputs
    registry: Registry
    ledger: Ledger
    timeline: Timeline
    transitions: Transitions
    targets: Targets
    holdings: Holdings
    slots: Slots
    queues: Queues
    lifecycle: Lifecycle
    ahead: Ahead
    activity: Activity

    def current(self, worker: Worker, number: int, attempt: int) -> Task | None:
        """The task whose current attempt this is; None (and counted) if the message is stale."""
        task = self.registry.tasks.get(number)
        if task is None or task.attempt != attempt or task.worker is not worker:
            self.registry.statistics.stale += 1
            return None
        return task

    def done(self, now: float, worker: Worker, message: m.Done) -> None:
        """An attempt produced a value."""
        task = self.current(worker, message.task, message.attempt)
        if task is None:
            if message.value is None and not self._is_accepted(worker, message):
                self.holdings.refuse(worker, [message.attempt])
            return
        worker.progress_at = now
        if task in self.ahead.behind:
            if message.value is None:
                self.holdings.refuse(worker, [message.attempt])
            self._is_unsound(task, worker)
            return
        function = task.function
        mean = function.mean_us
        us = min(max(message.us, 0), LONGEST_US)
        function.mean_us = mean + 0.2 * (us - mean) if mean >= 0 else float(us)
        if task.options.trace:
            tracing.tell(self.outputs, self.registry, now, task, worker, us, "value")
        self.slots.give_back(task)
        self.registry.statistics.done += 1
        if task.history is not None:
            task.history = None
            self.ledger.history(task)
        if task.options.replay == "verify" and task.value_attempt and task.digest != message.digest:
            self._differs(task, worker, message)
            return
        self.lifecycle.end(task)
        again = bool(task.value_attempt)
        task.value, task.size, task.digest = message.value, message.size, message.digest
        task.value_attempt = message.attempt
        self.timeline.computed(task, now, worker.name, us)
        self.activity.ran(now, worker, task, us, AGAIN if again else RUN)
        if message.value is None:
            self.holdings.add(worker, task)
        if message.checkpointed:
            self.targets.of(task).checkpointed = True
        if self.ahead.behind:
            self.ahead.made(task)
        self.ledger.ended(task)
        if message.value is not None or message.checkpointed:
            self.lifecycle.cut_lineage(task)
        self.lifecycle.accept(task)

    def _is_unsound(self, task: Task, worker: Worker) -> None:
        """The task ran behind an attempt whose value was never accepted: its own outcome can't be either."""
        self.registry.statistics.reruns += 1
        self.timeline.note(task, f"{worker.name} computed it from an input that was given up meanwhile; it is run again")
        self.lifecycle.requeue(task)

    def _differs(self, task: Task, worker: Worker, message: m.Done) -> None:
        """A second execution produced a different value: report that, and pass on neither value."""
        if message.value is None:
            self.holdings.refuse(worker, [message.attempt])
        text = (
            f"{task.key} returned a different value when it was run again: attempt {task.value_attempt} had the digest "
            f"{task.digest.hex()}, attempt {message.attempt} on {worker.name} has {message.digest.hex()}; the function "
            'depends on more than its arguments (replay="verify")'
        )
        self.timeline.note(task, f"it was run again on {worker.name} and returned a different value")
        error = m.ErrorInfo("NonDeterministicReplay", "", text)
        self.lifecycle.fail(task, _about(error, task, worker, message.attempt))

    def _is_accepted(self, worker: Worker, message: m.Done) -> bool:
        """Whether this very file is already the accepted value: the outcome arrived a second time."""
        task = self.registry.tasks.get(message.task)
        return task is not None and task.value_attempt == message.attempt and worker in (task.holders or ())

    def failed(self, now: float, worker: Worker, message: m.Failed) -> None:
        """An attempt raised an exception: run the task again, or fail it if that was its last retry."""
        task = self.current(worker, message.task, message.attempt)
        if task is None:
            return
        worker.progress_at = now
        if task in self.ahead.behind:
            self._is_unsound(task, worker)
            return
        us = min(max(message.us, 0), LONGEST_US)
        self.activity.ran(now, worker, task, us, FAILED)
        if task.options.trace:
            tracing.tell(self.outputs, self.registry, now, task, worker, us, "failed", message.error)
        history = history_of(task)
        history.raised += 1
        self._record_history(task, history, message.attempt)
        again = history.raised <= task.options.retries and message.error.kind != "SerializationError"
        rest = f"; it is run again (retry {history.raised} of {task.options.retries})" if again else ""
        first = message.error.text.partition("\n")[0]
        self.timeline.note(task, f"it raised {message.error.kind or message.error.type} on {worker.name}: {first[:300]}{rest}")
        if again:
            self.registry.statistics.reruns += 1
            self.lifecycle.requeue(task)
        else:
            self.slots.give_back(task)
            self.lifecycle.fail(task, _about(message.error, task, worker, message.attempt))

    def crashed(self, now: float, worker: Worker, message: m.Crashed) -> None:
        """An attempt ended its process, or was ended together with it."""
        task = self.current(worker, message.task, message.attempt)
        if task is None:
            return
        worker.progress_at = now
        if task in self.ahead.behind:
            self._is_unsound(task, worker)
            return
        us = min(max(message.us, 0), LONGEST_US)
        self.activity.ran(now, worker, task, us, CRASHED)
        if task.options.trace:
            error = m.ErrorInfo(message.kind or "TaskCrashed", "", message.exit, message.detail)
            tracing.tell(self.outputs, self.registry, now, task, worker, us, "crashed", error)
        how = " ".join(
            part
            for part in (
                f"on {worker.name}",
                f"at {message.when}" if message.when else "",
                f"after {message.us / 1e6:.3g} s" if message.us else "",
            )
            if part
        )
        self._charge(now, task, worker, how, message)

    def _record_history(self, task: Task, history: History, attempt: int) -> None:
        """Record the failures, so that a restarted scheduler remembers them and recognizes a repeated report."""
        history.last = attempt
        self.ledger.history(task)

    def _charge(self, now: float, task: Task, worker: Worker, how: str, message: m.Crashed) -> None:
        """The task has ended a process (or a worker): run it again, or fail it if that was its last chance."""
        history = history_of(task)
        history.crashes.append(f"attempt {len(history.crashes) + 1} {how}: {message.exit}")
        self._record_history(task, history, message.attempt)
        again = len(history.crashes) < task.options.crash_limit and not message.kind
        rest = f"; it is run again (crash {len(history.crashes)} of {task.options.crash_limit})" if again else ""
        self.timeline.note(task, f"its process ended {how}: {message.exit}{rest}")
        what = f"{task.key} on {worker.name}"
        incident = Incident(now, "executor died", what, message.exit, requeued=int(again), key=task.key)
        self.outputs.incident(incident, worker, task)
        if again:
            self.registry.statistics.reruns += 1
            self.lifecycle.requeue(task)
            return
        self.slots.give_back(task)
        lines = "\n".join(part for part in (*history.crashes, message.detail) if part)
        if message.kind:
            text = f"{task.key}: {message.exit}\n{lines}"
        else:
            count = f"{len(history.crashes)} times" if len(history.crashes) > 1 else "once"
            text = f"{task.key} ended its process {count} (crash_limit); the last: {message.exit}\n{lines}"
        error = m.ErrorInfo(message.kind or "TaskCrashed", "", text, exit=message.exit)
        self.lifecycle.fail(task, _about(error, task, worker, message.attempt))

    def expose(self, worker: Worker) -> Task | None:
        """The worker has died: each task running there may be the cause.  Return the one that ran alone there, if any."""
        assigned = list(worker.assigned)
        begun = [task for task in assigned if task not in worker.parked and task not in worker.following]
        running = [*worker.parked, *begun[: worker.hello.slots]]
        for task in running:
            history_of(task).exposed += 1
            self.ledger.history(task)
        return worker.exclusive if assigned == [worker.exclusive] else None

    def lost(self, now: float, task: Task, worker: Worker, cause: str, ran_alone: bool) -> None:
        """The attempt was lost with its worker.  A task that ran alone there is charged; any other is run again."""
        if task.options.trace:
            us, error = int(1e6 * max(0.0, now - task.given_at)), m.ErrorInfo("", "", f"{worker.name} was lost: {cause}")
            tracing.tell(self.outputs, self.registry, now, task, worker, us, "lost", error)
        if task.options.beside:
            self.slots.give_back(task)
            text = f"{worker.name} was lost while it ran {task.function.name}: {cause}"
            self.lifecycle.fail(task, _about(m.ErrorInfo("NoValidWorker", "", text), task, worker, task.attempt))
        elif ran_alone:
            died = m.Crashed(task.number, task.attempt, f"the worker was lost while the task ran alone on it: {cause}", "")
            self._charge(now, task, worker, f"on {worker.name}", died)
        else:
            self.registry.statistics.reruns += 1
            self.timeline.note(task, f"{worker.name}, which had been given it, was lost: {cause}")
            self.lifecycle.requeue(task, same=task not in self.ahead.behind)

    def adopt(self, now: float, worker: Worker) -> None:
        """Continue attempts that were considered lost and have not been replaced; stop the others."""
        hello = worker.hello
        orphans = []
        for number, attempt in hello.running:
            if self._readopt(worker, number, attempt):
                worker.functions.add(self.registry.tasks[number].function.number)  # since it calls it
            else:
                orphans.append(attempt)
        for outcome in hello.finished:
            self._readopt(worker, outcome.task, outcome.attempt)
            self._outcome(now, worker, outcome)
        if orphans:
            self.outputs.post(worker, m.Abort(orphans, True))

    def _outcome(self, now: float, worker: Worker, outcome: m.Done | m.Failed | m.Crashed) -> None:
        if isinstance(outcome, m.Done):
            self.done(now, worker, outcome)
        elif isinstance(outcome, m.Failed):
            self.failed(now, worker, outcome)
        else:
            self.crashed(now, worker, outcome)

    def _readopt(self, worker: Worker, number: int, attempt: int) -> bool:
        """Continue an attempt that was considered lost, or is of an earlier life of the scheduler, unless another one has
        replaced it."""
        task = self.registry.tasks.get(number)
        if task is None or not attempt or not placement.allowed(task, worker) or not placement.has_resources(worker, task):
            return False  # it was never given this attempt
        if self._is_of_earlier_life(task, attempt):
            if task.state is ASSIGNED and task.worker is not None:  # of two attempts, the later one counts
                self.outputs.post(task.worker, m.Abort([task.attempt], True))
                self.slots.give_back(task)
                self.transitions.move(task, transitions.OUTRUN)
            task.attempt = attempt
        if task.attempt != attempt or task.state not in (READY, WAITING) or (task.history is not None and task.history.paused):
            return False
        self.timeline.note(task, f"{worker.name} came back and continues it")
        self.transitions.move(task, transitions.ADOPTED)
        self.queues.remove(task)
        self.ahead.adopted(task, worker)
        self.slots.take(worker, task)
        return True

    def _is_of_earlier_life(self, task: Task, attempt: int) -> bool:
        """Whether the attempt began before the scheduler was restarted, and nothing later is known about the task."""
        known = max(task.attempt, task.history.last if task.history is not None else 0)
        earlier = self.registry.is_of_earlier_life(attempt)
        if not earlier or known >= attempt or task.state not in (READY, WAITING, ASSIGNED):
            return False
        # It may have been sent ahead: a value of an input that was made by a later attempt is not the one that it was given.
        return all(max(one.attempt, one.value_attempt) < attempt for one in task.inputs)


def _about(error: m.ErrorInfo, task: Task, worker: Worker, attempt: int) -> m.ErrorInfo:
    """``error`` with the task, attempt and worker filled in."""
    return m.ErrorInfo(
        error.kind, error.type, error.text, error.traceback, error.pickled, task.key, attempt, worker.name, error.exit
    )
