"""Standing targets: how many copies of a value there should be, and on which workers.  docs/data.rst.

One mechanism serves replicas, scattered data, broadcasts, leaving workers, and rebalancing: ``_tend`` compares the copies
that a value has with those that it should have, and starts the missing ones.  It is called, at the end of an event, for
every value whose holders or target have changed; when a worker joins or leaves, for every value with a target.
"""

from __future__ import annotations

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.holdings import Holdings
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.reach import Reach
from twistdist.core.scheduler.records import (
    Client,
    Retention,
    Task,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.scheduler.supplies import Supplies
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.transitions import (
    DONE,
)
from twistdist.core.scheduler.watchers import Watchers
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Copies:
    """Owns what is in ``Task.retention`` except its source."""

    tuning: Tuning
    alarms: Alarms
    outputs: Outputs
    registry: Registry
    reach: Reach
    ledger: Ledger
    targets: Targets
    holdings: Holdings
    watchers: Watchers
    supplies: Supplies

    def tend(self) -> None:
        """The end of an event: tend the values whose holders or target have changed."""
        while self.targets.to_check:
            for task in self.targets.take_to_check():
                if task.retention is not None and task.number in self.registry.tasks:
                    self._tend(task, task.retention)

    def look_at_all(self) -> None:
        """A worker has joined, left or changed its state: check all targets again."""
        for task in list(self.targets.tasks):
            if task.retention is None or task.number not in self.registry.tasks:
                self.targets.forget(task)
            else:
                task.retention.failures = 0
                task.retention.failed.clear()
                self.targets.look_at(task)

    def not_to(self, worker: Worker) -> None:
        """The worker is gone, and with it the copies that were on their way there."""
        for task in self.targets.tasks:
            if task.retention is not None:
                task.retention.copying.pop(worker, None)

    def may_be_copied(self, task: Task) -> bool:
        """Whether another copy is under way, could be made, or will be tried again."""
        retention = task.retention
        return retention is not None and bool(retention.copying or retention.failed or self.free_for(task, retention))

    def arrived(self, task: Task, worker: Worker) -> None:
        """The worker has the value, whether or not a copy was on its way there."""
        if task.retention is not None:
            task.retention.copying.pop(worker, None)
            self.targets.look_at(task)

    def set_target(self, task: Task, copies: int) -> None:
        """Keep ``copies`` of the value from now on (0: one on every worker)."""
        retention = self.targets.of(task)
        retention.copies, retention.failures = copies, 0
        retention.failed.clear()
        self.targets.keep(task)
        self.ledger.target(task, copies)

    @staticmethod
    def staying(task: Task, retention: Retention) -> list[Worker]:
        """The holders that are not about to lose their copies."""
        return [holder for holder in task.holders or () if holder.retiring is None and holder is not retention.moving]

    def _tend(self, task: Task, retention: Retention) -> None:
        if task.state is not DONE or task.holders is None:
            if task.state is DONE:  # inline: on the scheduler, which is all the safety it gets
                self._announce(task, retention)
            return
        staying, free = self.staying(task, retention), self.free_for(task, retention)
        have = len(staying) + len(retention.copying)
        wanted = retention.copies or have + len(free)
        while have < wanted and free:
            self._copy(task, retention, free, staying)
            have += 1
        if len(staying) >= wanted or not (free or retention.copying):
            self._announce(task, retention)
        if retention.moving is not None and retention.copies and len(staying) >= retention.copies:
            self._unload(task, retention, retention.moving)
        elif not (free or retention.copying):
            retention.moving = None  # it is needed where it is

    def free_for(self, task: Task, retention: Retention) -> list[Worker]:
        """The workers that could take one more copy, and have not failed to."""
        names = retention.source.workers if retention.source is not None else ()
        return [
            worker
            for worker in self.registry.workers.values()
            if worker.reachable
            and worker.retiring is None
            and worker not in (task.holders or ())
            and worker not in retention.copying
            and worker not in retention.failed
            and (not names or worker.name in names)
        ]

    def _copy(self, task: Task, retention: Retention, free: list[Worker], staying: list[Worker]) -> None:
        """Make one more copy: on another host if there is one, on the worker that holds the least."""
        hosts = {one.hello.host for one in (*staying, *retention.copying)}
        chosen = min(free, key=lambda worker: (worker.hello.host in hosts, worker.bytes_held, worker.number))
        free.remove(chosen)
        retention.copying[chosen] = None
        self.holdings.was_called_off(chosen, task.value_attempt)  # and is wanted again
        holders = self.reach.introduce(chosen, task.holders or ())
        self.outputs.post(chosen, m.Copy(m.Input(task.number, task.value_attempt, None, task.size, task.digest, holders)))

    def relay(self, task: Task, peer: Client | Worker) -> bool:
        """``peer`` can't fetch the value from its holders: make one more copy, on a worker that both sides can reach.

        Return False if there is no such worker and no copy is under way.
        """
        retention, holders = task.retention or Retention(), task.holders or ()
        links = self.reach.links
        free = [
            one
            for one in self.free_for(task, retention)
            if one is not peer
            and (peer.number, one.number) not in links
            and any((one.number, holder.number) not in links for holder in holders)
        ]
        if free and not retention.copying:
            task.retention = retention
            self.targets.add(task)
            self._copy(task, retention, free, self.staying(task, retention))
        return bool(free or retention.copying)

    def _announce(self, task: Task, retention: Retention) -> None:
        """There are as many copies as there can be: notify futures, and drop a source that need not supply again."""
        source = retention.source
        if not retention.announced:
            if source is not None:
                self.supplies.record(task)
            retention.announced = True
            self.watchers.tell(task, task.watchers)
        if source is not None and not source.resupply and source.client is not None:
            self.supplies.drop(task, source)

    def _unload(self, task: Task, retention: Retention, worker: Worker) -> None:
        """The copy elsewhere exists: delete the one that was to be moved."""
        retention.moving = None
        if task.holders is not None and worker in task.holders:
            self.holdings.drop(worker, task)
            self.outputs.post(worker, m.Free([task.value_attempt]))

    def copy_failed(self, now: float, worker: Worker, message: m.CopyFailed) -> None:
        """No holder provided the value: ask the holders whether they have it, and try again later."""
        self.holdings.was_called_off(worker, message.attempt)
        for task in self._targets_of(worker, message.attempt):
            retention = self.targets.of(task)
            retention.copying.pop(worker, None)
            retention.failures += 1
            retention.failed[worker] = None
            self.targets.look_at(task)
            if retention.moving is not None and not retention.copying:
                retention.moving = None  # it stays where it is
            for number in message.holders:
                holder = self.registry.workers.get(number)
                if holder is not None:
                    self.outputs.post(holder, m.Verify([message.attempt]))
            pause = min(self.tuning.longest_copy_pause_s, self.tuning.copy_pause_s * 2 ** min(retention.failures, 12))
            self.alarms.set(now + pause, self._tend_later, task)

    def _targets_of(self, worker: Worker, attempt: int) -> list[Task]:
        """The values of ``attempt`` that are being copied to ``worker``: one, or none any more."""
        return [
            task
            for task in self.targets.tasks
            if task.retention is not None and worker in task.retention.copying and task.value_attempt == attempt
        ]

    def _tend_later(self, now: float, task: Task) -> None:
        if task.retention is not None:
            task.retention.failed.clear()
            self.targets.look_at(task)

    def locate(self, now: float, worker: Worker, message: m.Locate) -> None:
        """All holders that the worker knows are busy: tell it who has the value by now."""
        task = self.registry.tasks.get(message.task)
        holders = task.holders or () if task is not None and task.value_attempt == message.attempt else ()
        numbers = self.reach.introduce(worker, [holder for holder in holders if holder.reachable])
        self.outputs.post(worker, m.Located(message.attempt, numbers))

    def rebalance(self, tasks: list[Task] | None) -> int:
        """Move copies from workers that hold much to those that hold little.  Return how many moves were started."""
        workers = [worker for worker in self.registry.workers.values() if worker.reachable and worker.retiring is None]
        if len(workers) < 2:
            return 0
        held = {worker: worker.bytes_held for worker in workers}
        mean = sum(held.values()) / len(workers)
        moves = 0
        for source in sorted(workers, key=lambda worker: -held[worker]):
            for task in list(source.holds):
                target = min(workers, key=lambda worker: (held[worker], worker.number))
                if held[source] <= mean * self.tuning.uneven:
                    break
                if (tasks is not None and task not in tasks) or target in (task.holders or ()) or self._needs_all(task):
                    continue
                if held[target] + task.size >= held[source] or not _may_be_at(task, target):
                    continue
                self.move(task, source, target)
                held[source] -= task.size
                held[target] += task.size
                moves += 1
        return moves

    @staticmethod
    def _needs_all(task: Task) -> bool:
        """Whether each of its copies must stay where it is for now."""
        retention = task.retention
        if retention is None:
            return False
        lacks = not retention.copies or len(task.holders or ()) < retention.copies
        return lacks or retention.moving is not None or bool(retention.copying)

    def move(self, task: Task, source: Worker, target: Worker) -> None:
        """Copy the value to ``target``; the copy at ``source`` is deleted when that is done."""
        retention = self.targets.of(task)
        retention.moving = source
        self.targets.add(task)
        self._copy(task, retention, [target], self.staying(task, retention))

    def count(self) -> int:
        """How many copies are being made."""
        return sum(len(task.retention.copying) for task in self.targets.tasks if task.retention is not None)


def _may_be_at(task: Task, worker: Worker) -> bool:
    """Whether the worker may have a copy: scattered data may be meant for certain workers only."""
    names = task.retention.source.workers if task.retention is not None and task.retention.source is not None else ()
    return not names or worker.name in names
