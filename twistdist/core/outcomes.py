"""What came of attempts: values, errors, dead executors.  Each changes something only if its attempt is the current one."""

from __future__ import annotations

from twistdist.core.records import Incident, Task, Trouble, Worker
from twistdist.core.tasks import TaskBook
from twistdist.wire import messages as m

#: Durations are counted up to this many microseconds (eleven days).
LONGEST_US = 10**12


class Outcomes(TaskBook):
    """The book of tasks, and how attempts end."""

    def _current(self, worker: Worker, number: int, attempt: int) -> Task | None:
        """The task whose current attempt this is; None (and counted) when the message is stale."""
        task = self.tasks.get(number)
        if task is None or task.attempt != attempt or task.worker is not worker:
            self.statistics.stale += 1
            return None
        return task

    def _done(self, now: float, worker: Worker, message: m.Done) -> None:
        task = self._current(worker, message.task, message.attempt)
        if task is None:
            if message.value is None and not self._holds(worker, message):
                self._refuse(worker, [message.attempt])
            return
        worker.progress_at = now
        function = task.function
        mean = function.mean_us
        us = min(max(message.us, 0), LONGEST_US)
        function.mean_us = mean + 0.2 * (us - mean) if mean >= 0 else float(us)
        self._unassign(task)
        self.statistics.done += 1
        if task.trouble is not None:
            task.trouble = None
            self.ledger.trouble(task)
        if task.options.replay == "verify" and task.value_attempt and task.digest != message.digest:
            self._differs(task, worker, message)
            return
        self._let_go(task)
        task.value, task.size, task.digest = message.value, message.size, message.digest
        task.value_attempt = message.attempt
        if message.value is None:
            self._hold(worker, task)
        if message.checkpointed:
            self._care(task).checkpointed = True
        self.ledger.ended(task)
        if message.value is not None or message.checkpointed:
            self._cut_lineage(task)
        self._has_value(task)

    def _differs(self, task: Task, worker: Worker, message: m.Done) -> None:
        """A second execution gave another value: that is told, and neither value is passed on."""
        if message.value is None:
            self._refuse(worker, [message.attempt])
        text = (f"{task.key} gave another value when it was run again: attempt {task.value_attempt} had the digest "
                f"{task.digest.hex()}, attempt {message.attempt} on {worker.name} has {message.digest.hex()}; the function "
                "depends on more than its arguments (replay=\"verify\")")  # fmt: skip
        error = m.ErrorInfo("NonDeterministicReplay", "", text)
        self._fail(task, _about(error, task, worker, message.attempt))

    def _holds(self, worker: Worker, message: m.Done) -> bool:
        """Whether this very file is the accepted value already: the outcome came a second time."""
        task = self.tasks.get(message.task)
        return task is not None and task.value_attempt == message.attempt and worker in (task.holders or ())

    def _failed(self, now: float, worker: Worker, message: m.Failed) -> None:
        task = self._current(worker, message.task, message.attempt)
        if task is None:
            return
        worker.progress_at = now
        trouble = self._trouble(task)
        trouble.raised += 1
        self._record_trouble(task, trouble, message.attempt)
        if trouble.raised <= task.options.retries and message.error.kind != "SerializationError":
            self.statistics.reruns += 1
            self._again(task)
        else:
            self._unassign(task)
            self._fail(task, _about(message.error, task, worker, message.attempt))

    def _crashed(self, now: float, worker: Worker, message: m.Crashed) -> None:
        task = self._current(worker, message.task, message.attempt)
        if task is None:
            return
        worker.progress_at = now
        how = " ".join(part for part in (f"on {worker.name}", f"at {message.when}" if message.when else "",
                                         f"after {message.us / 1e6:.3g} s" if message.us else "") if part)  # fmt: skip
        self._charge(now, task, worker, how, message)

    def _record_trouble(self, task: Task, trouble: Trouble, attempt: int) -> None:
        """How often it has failed is remembered by a scheduler that is started again, and a repeated report is known."""
        trouble.last = attempt
        self.ledger.trouble(task)

    def _charge(self, now: float, task: Task, worker: Worker, how: str, message: m.Crashed) -> None:
        """The task has ended a process (or a worker): it is run again, or it fails when that was its last chance."""
        trouble = self._trouble(task)
        trouble.crashes.append(f"attempt {len(trouble.crashes) + 1} {how}: {message.exit}")
        self._record_trouble(task, trouble, message.attempt)
        again = len(trouble.crashes) < task.options.crash_limit and not message.kind
        self._incident(Incident(now, "executor died", f"{task.key} on {worker.name}", message.exit, requeued=int(again)))
        if again:
            self.statistics.reruns += 1
            self._again(task)
            return
        self._unassign(task)
        lines = "\n".join(part for part in (*trouble.crashes, message.detail) if part)
        if message.kind:
            text = f"{task.key}: {message.exit}\n{lines}"
        else:
            count = f"{len(trouble.crashes)} times" if len(trouble.crashes) > 1 else "once"
            text = f"{task.key} ended its process {count} (crash_limit); the last: {message.exit}\n{lines}"
        error = m.ErrorInfo(message.kind or "TaskCrashed", "", text, exit=message.exit)
        self._fail(task, _about(error, task, worker, message.attempt))


def _about(error: m.ErrorInfo, task: Task, worker: Worker, attempt: int) -> m.ErrorInfo:
    """``error`` with the task, attempt and worker filled in."""
    return m.ErrorInfo(error.kind, error.type, error.text, error.traceback, error.pickled, task.key, attempt,
                       worker.name, error.exit)  # fmt: skip
