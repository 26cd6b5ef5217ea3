"""What happens to a task: its changes of state, and what follows for its inputs and dependents."""

from __future__ import annotations

import attrs

from twistdist.core.scheduler import transitions
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.lineage import recovery_plan
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.records import (
    Client,
    History,
    Incident,
    Retention,
    Task,
    history_of,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.slots import Slots
from twistdist.core.scheduler.supplies import Supplies
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.timeline import Timeline
from twistdist.core.scheduler.transitions import (
    ASSIGNED,
    AWAITED,
    DONE,
    FAILED,
    IDLE,
    READY,
    UNFINISHED,
    WAITING,
    Cause,
    Transitions,
)
from twistdist.core.scheduler.watchers import Watchers
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Lifecycle:
    """Makes every change of a task's state except placement; the table of states is in :mod:`.transitions`.

    Owns ``Task.missing``, ``pending``, ``dependents`` and ``error``.  ``recover`` is the only way to bring values back.
    """

    outputs: Outputs
    registry: Registry
    ledger: Ledger
    timeline: Timeline
    transitions: Transitions
    targets: Targets
    slots: Slots
    queues: Queues
    watchers: Watchers
    supplies: Supplies

    def admit(self, task: Task) -> None:
        """A new task: it holds its inputs' records, and is started; inputs without a value are recovered first."""
        for upstream in task.inputs:
            if upstream.dependents is None:
                upstream.dependents = {}
            upstream.dependents[task] = None
        idle = [upstream for upstream in task.inputs if upstream.state is IDLE]
        if idle:
            self.recover(idle)
        self._start(task)

    def _start(self, task: Task) -> None:
        """From no activity to WAITING or READY; fails at once if an input has failed."""
        retention = task.retention
        if retention is not None and self._comes_otherwise(task, retention):
            return
        missing, broken = 0, None
        for upstream in task.inputs:
            upstream.pending += 1
            if upstream.state is FAILED:
                broken = upstream.error
            elif upstream.state is not DONE:
                missing += 1
        task.missing = missing
        self.transitions.move(task, transitions.WANTED)
        if broken is not None:
            self.fail(task, broken)
        elif not missing:
            self.make_ready(task, transitions.INPUTS_THERE)

    def _comes_otherwise(self, task: Task, retention: Retention) -> bool:
        """Whether the value must not be computed: it was scattered, is checkpointed, or must not be computed twice."""
        if retention.source is not None:
            self.await_data(task)
            return True
        if retention.checkpointed:
            self.make_ready(task, transitions.TO_BE_READ)
            return True
        if task.options.replay == "never" and task.value_attempt:
            text = (
                f'the value of {task.key} is lost with every worker that had it, and replay="never" forbids computing '
                "it again; more replicas or a checkpoint would have kept it"
            )
            self.fail(task, m.ErrorInfo("DataLost", "", text))
            return True
        return False

    def make_ready(self, task: Task, cause: Cause) -> None:
        """The task may be given to a worker from now on."""
        self.transitions.move(task, cause)
        self.queues.add(task)

    def recover(self, lost: list[Task], incident: Incident | None = None) -> None:
        """The resilience manager's only way to bring values back: make the plan and start the tasks that it names."""
        plan = recovery_plan(lost, _has_or_gets_value, _inputs)
        for task in plan:
            if task.value_attempt:
                self.timeline.note(task, "its value is needed again")
            self._start(task)
        again = sum(1 for task in plan if task.value_attempt)
        self.registry.statistics.replays += again
        if incident is not None:
            incident.replayed += again

    def requeue(self, task: Task, same: bool = False) -> None:
        """No longer ASSIGNED, and still wanted: back to the queue, or to waiting if an input was lost meanwhile.

        ``same``: the attempt may still be running somewhere, and is continued if its worker comes back in time.
        """
        self.slots.give_back(task)
        if not same:
            task.attempt = 0
        self.end(task)
        self.recover([task])

    def end(self, task: Task) -> None:
        """From any unfinished state to no activity: the inputs are no longer needed for it."""
        came_otherwise = task.state is AWAITED
        self.transitions.move(task, transitions.ENDED)
        if task.history is not None:
            task.history.paused = False
        if came_otherwise:
            return
        self.queues.remove(task)
        for upstream in task.inputs:
            upstream.pending -= 1
            if not upstream.pending and not upstream.watchers:
                self.registry.reconsider(upstream)

    def pause(self, task: Task) -> None:
        """The attempt is over, and the next one follows later: WAITING, with the pause as one more thing that is missing."""
        self.slots.give_back(task)
        self.end(task)
        self.transitions.move(task, transitions.PAUSED)
        task.missing, history_of(task).paused = 1, True
        for upstream in task.inputs:
            upstream.pending += 1
            task.missing += upstream.state is not DONE

    def resume(self, task: Task) -> None:
        """The pause is over."""
        self.end(task)
        self.recover([task])

    def stop(self, task: Task, kill: bool = False) -> None:
        """Nobody wants the task: stop what is being done for it."""
        if task.state is ASSIGNED and task.worker is not None:
            self.outputs.post(task.worker, m.Abort([task.attempt], kill))
        self.slots.give_back(task)
        self.end(task)

    def accept(self, task: Task) -> None:
        """The task is DONE: notify whoever waits for it; dependents come closer to running."""
        self.transitions.move(task, transitions.ACCEPTED)
        if task.retention is not None:
            self.targets.look_at(task)
        if task.dependents:
            for dependent in list(task.dependents):
                if dependent.state is WAITING:
                    dependent.missing -= 1
                    if not dependent.missing:
                        self.make_ready(dependent, transitions.INPUTS_THERE)
        if task.watchers:
            self.watchers.tell(task, task.watchers)
        elif not task.pending:
            self.registry.reconsider(task)

    def lose_value(self, task: Task) -> None:
        """No longer DONE.  Dependents that have not been assigned wait for the value again."""
        self._drop_value(task, transitions.LOST)
        for dependent in task.dependents or ():
            if dependent.state is READY:
                self.transitions.move(dependent, transitions.INPUT_LOST)
                self.queues.remove(dependent)
                dependent.missing = 1
            elif dependent.state is WAITING:
                dependent.missing += 1

    def free_value(self, task: Task) -> None:
        """DONE and not needed: drop the value, keep the recipe."""
        self._drop_value(task, transitions.FREED)

    def _drop_value(self, task: Task, cause: Cause) -> None:
        self.transitions.move(task, cause)
        task.holders = task.value = None
        if task.retention is not None:
            task.retention.copying.clear()

    def cut_lineage(self, task: Task) -> None:
        """The value can't be lost, or nobody wants it: the records of the inputs are no longer held for it."""
        for upstream in task.inputs:
            if upstream.dependents is not None:
                upstream.dependents.pop(task, None)
                if not upstream.dependents:
                    self.registry.reconsider(upstream)
        task.inputs = ()

    def fail(self, task: Task, error: m.ErrorInfo) -> None:
        """Fail the task, and everything that waits for its value, with the same error."""
        failing = [task]
        while failing:
            one = failing.pop()
            if one.state is FAILED:
                continue  # reached in two ways
            if one.state in UNFINISHED:
                self.end(one)
            self.transitions.move(one, transitions.BROKEN)
            one.error = error
            if one is not task:
                self.timeline.note(one, f"it failed because {task.key}, which it needs, failed")
            self.registry.statistics.failed += 1
            self.ledger.ended(one)
            self.watchers.tell(one, one.watchers)
            failing += [dependent for dependent in one.dependents or () if dependent.state in (WAITING, READY)]
            self.registry.reconsider(one)

    def retry(self, tasks: list[Task]) -> None:
        """Run failed tasks again, after the failed tasks among their inputs, at any depth."""
        failed, todo = dict.fromkeys(tasks), list(tasks)
        while todo:
            for upstream in todo.pop().inputs:
                if upstream.state is FAILED and upstream not in failed:
                    failed[upstream] = None
                    todo.append(upstream)
        for task in failed:
            self.transitions.move(task, transitions.RETRIED)
            # All is forgiven but not forgotten: a worker may report the attempt that failed once more.
            last = max(task.attempt, task.history.last if task.history is not None else 0)
            task.error, task.history, task.attempt = None, History(last) if last else None, 0
            self.ledger.history(task)
            self.timeline.note(task, "a client wants it to be run again")
            self.ledger.retried(task)
        self.recover(list(tasks))

    def await_data(self, task: Task) -> None:
        """The data must be supplied (again) by their session; without one they are lost."""
        source = task.retention.source if task.retention is not None else None
        if source is None or source.client is None:
            self.data_lost(task, "the session that scattered them is gone, or can't supply them again")
            return
        self.transitions.move(task, transitions.TO_BE_SUPPLIED)
        self.supplies.begin(task, source)

    def data_lost(self, task: Task, why: str) -> None:
        """Nobody can supply the scattered data again."""
        self.supplies.stop_asking(task)
        text = f"the scattered data {task.key} are lost with every worker that had them, and {why}; scatter them again"
        self.fail(task, m.ErrorInfo("DataLost", "", text, key=task.key))

    def watch(self, task: Task, client: Client, cid: int) -> None:
        """One more future for an existing task."""
        self.watchers.add(task, client, cid)
        if task.state is DONE or task.state is FAILED:
            self.watchers.tell(task, [(client, cid)])
        elif task.state is IDLE:
            self.recover([task])


def _has_or_gets_value(task: Task) -> bool:
    return task.state is not IDLE


def _inputs(task: Task) -> tuple[Task, ...]:
    return task.inputs
