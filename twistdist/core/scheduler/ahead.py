"""Tasks that were sent ahead: to the worker where their last inputs are being made, before those are there.

docs/sent-ahead.rst has the rules.  Here is what the scheduler must remember about such a task: the attempts that it was sent
behind.  Its own outcome counts only if the values of those very attempts were accepted before.
"""

from __future__ import annotations

import attrs

from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.records import Task, Worker
from twistdist.core.scheduler.transitions import ASSIGNED, DONE

#: Inputs that a task which is sent ahead has at most.  They are looked at each time that a worker is given one of them, which
#: would take minutes for a task that needs 100,000; and a trip to the scheduler is little beside the time of so many.
MOST_INPUTS = 64


@attrs.define(eq=False)
class Ahead:
    """``behind`` has, for each task that was sent ahead, the attempts whose values have not been accepted yet, by input.

    Owns ``Worker.following``.
    """

    placement: Placement
    behind: dict[Task, dict[Task, int]] = attrs.field(factory=dict)
    _followers: dict[Task, dict[Task, None]] = attrs.field(factory=dict)

    def sent(self, task: Task, worker: Worker) -> None:
        """The task is given to the worker that makes those of its inputs that have no value."""
        self._follows(task, worker, [one for one in task.inputs if one.state is not DONE])

    def adopted(self, task: Task, worker: Worker) -> None:
        """The worker had been given the task by an earlier scheduler, perhaps behind inputs that it is making."""
        makes = [one for one in task.inputs if one.state is ASSIGNED and one.worker is worker and one.attempt < task.attempt]
        if makes:
            self._follows(task, worker, makes)

    def _follows(self, task: Task, worker: Worker, missing: list[Task]) -> None:
        self.behind[task] = {one: one.attempt for one in missing}
        for one in missing:
            self._followers.setdefault(one, {})[task] = None
        worker.following[task] = None

    def made(self, task: Task) -> None:
        """The value of the attempt ``task.value_attempt`` was accepted."""
        for follower in self._followers.pop(task, ()):
            missing = self.behind[follower]
            if missing[task] == task.value_attempt:
                del missing[task]
                if not missing:
                    del self.behind[follower]
                    self._may_run(follower)
            else:
                self._followers.setdefault(task, {})[follower] = None  # its outcome can't count any more

    def _may_run(self, task: Task) -> None:
        if task.worker is not None:
            task.worker.following.pop(task, None)
            self.placement.update(task.worker)

    def followers(self, tasks: list[Task]) -> list[Task]:
        """The tasks that were sent behind attempts of these, or behind one another."""
        given, found, waiting = dict.fromkeys(tasks), dict.fromkeys(tasks), list(tasks)
        while waiting:
            for follower in self._followers.get(waiting.pop(), ()):
                if follower not in found:
                    found[follower] = None
                    waiting.append(follower)
        return [task for task in found if task not in given]

    def ended(self, task: Task, worker: Worker) -> None:
        """The worker's attempt of a task is over, or given up."""
        worker.following.pop(task, None)
        for one in self.behind.pop(task, ()):
            followers = self._followers.get(one)
            if followers is not None:
                followers.pop(task, None)
                if not followers:
                    del self._followers[one]


def makers(task: Task) -> Worker | None:
    """The worker that is making all inputs that ``task`` lacks, if it can be sent there: each is the input of no other task."""
    if len(task.inputs) > MOST_INPUTS:
        return None
    where = None
    for one in task.inputs:
        if one.state is DONE:
            continue
        worker = one.worker
        if one.state is not ASSIGNED or worker is None or (where is not None and worker is not where) or worker.parked:
            return None
        if len(one.dependents or ()) != 1 or (one.options.replay == "verify" and one.value_attempt):
            return None
        where = worker
    return where
