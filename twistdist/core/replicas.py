"""Standing targets: how many copies of a value there should be, and on whom.  docs/data.rst.

One mechanism serves replicas, scattered data, broadcasts, workers that leave, and rebalancing: ``_tend`` compares the copies
that a value has with those that it should have, and starts what is missing.  It is called, at the end of an event, for
every value whose holders or target have changed; when a worker comes or goes, for every value with a target.
"""

from __future__ import annotations

import hashlib
from typing import Any

from twistdist.core import transitions
from twistdist.core.records import Care, Client, Retiring, Task, Worker
from twistdist.core.resilience import Resilience
from twistdist.core.transitions import DONE
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: Pause after a copy that failed before another is tried, in seconds; doubled each time.
COPY_PAUSE_S = 0.05

#: The longest such pause.
LONGEST_COPY_PAUSE_S = 60.0

#: A worker may hold this much more than the mean before ``rebalance`` moves something from it.
UNEVEN = 1.1


class Replicas(Resilience):
    """The book of tasks, with values kept at their targets."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.retiring: dict[Worker, None] = {}

    # ---- tending ----------------------------------------------------------------------------

    def _tend_all(self, now: float) -> None:
        """The end of an event: values whose holders or target changed."""
        while self._untended:
            untended, self._untended = self._untended, {}
            for task in untended:
                if task.care is not None and task.number in self.tasks:
                    self._tend(task, task.care)
        for worker in list(self.retiring):
            self._look_at_leaving(now, worker, self.retiring)

    def _workers_changed(self) -> None:
        """A worker has come, gone or changed its mind: all targets are looked at again."""
        for task in list(self.targets):
            if task.care is None or task.number not in self.tasks:
                del self.targets[task]
            else:
                task.care.failures = 0
                task.care.failed.clear()
                self._untended[task] = None

    def _greet_worker(self, now: float, hello: m.HelloWorker) -> Worker:
        """A process that is to leave is to leave, also when it was away for so long that it says Hello again."""
        leaving = next((one.retiring for one in self.workers.values()
                        if one.retiring is not None and one.hello.incarnation == hello.incarnation), None)  # fmt: skip
        worker = super()._greet_worker(now, hello)
        if leaving is not None:
            self.retire(now, worker, max(0.0, leaving.deadline - now), leaving.why)
        return worker

    def _worker_gone(self, now: float, worker: Worker, cause: str, alive: bool = False) -> None:
        for task in self.targets:
            if task.care is not None:
                task.care.copying.pop(worker, None)
        super()._worker_gone(now, worker, cause, alive)
        self._workers_changed()

    def _forget(self, task: Task) -> None:
        self.targets.pop(task, None)
        super()._forget(task)

    def set_target(self, task: Task, copies: int) -> None:
        """``copies`` of the value are to be kept from now on (0: one on every worker)."""
        care = self._care(task)
        care.copies, care.failures = copies, 0
        care.failed.clear()
        self.targets[task] = None
        self._untended[task] = None
        self.ledger.target(task, copies)

    def _staying(self, task: Task, care: Care) -> list[Worker]:
        return [one for one in task.holders or () if one.retiring is None and one is not care.moving]

    def _tend(self, task: Task, care: Care) -> None:
        if task.state is not DONE or task.holders is None:
            if task.state is DONE:  # inline: on the scheduler, which is all the safety there is
                self._announce(task, care)
            return
        staying, free = self._staying(task, care), self._free_for(task, care)
        have = len(staying) + len(care.copying)
        wanted = care.copies or have + len(free)
        while have < wanted and free:
            self._copy(task, care, free, staying)
            have += 1
        if len(staying) >= wanted or not (free or care.copying):
            self._announce(task, care)
        if care.moving is not None and (len(staying) >= wanted or (staying and not (free or care.copying))):
            self._unload(task, care, care.moving)

    def _free_for(self, task: Task, care: Care) -> list[Worker]:
        """The workers that could have one more copy, and have not failed to."""
        names = care.source.workers if care.source is not None else ()
        return [one for one in self.workers.values()
                if one.well and one.retiring is None and one not in (task.holders or ()) and one not in care.copying
                and one not in care.failed and (not names or one.name in names)]  # fmt: skip

    def _copy(self, task: Task, care: Care, free: list[Worker], staying: list[Worker]) -> None:
        """One more copy: on another host if there is one, on the worker that holds least."""
        hosts = {one.hello.host for one in (*staying, *care.copying)}
        chosen = min(free, key=lambda one: (one.hello.host in hosts, one.bytes_held, one.number))
        free.remove(chosen)
        care.copying[chosen] = None
        holders = self._introduce(chosen, task.holders or ())
        self.post(chosen, m.Copy(m.Input(task.number, task.value_attempt, None, task.size, task.digest, holders)))

    def _relay(self, task: Task, peer: Client | Worker) -> bool:
        """``peer`` can't fetch the value from its holders: one more copy, on a worker that both sides can reach; whether
        there is
        one."""
        care, holders = task.care or Care(), task.holders or ()
        free = [one for one in self._free_for(task, care) if one is not peer and (peer.number, one.number) not in self.links
                and any((one.number, holder.number) not in self.links for holder in holders)]  # fmt: skip
        if free and not care.copying:
            task.care = care
            self.targets[task] = None
            self._copy(task, care, free, self._staying(task, care))
        return bool(free or care.copying)

    def _announce(self, task: Task, care: Care) -> None:
        if not care.announced:
            care.announced = True
            self._tell(task, task.watchers)

    def _unload(self, task: Task, care: Care, worker: Worker) -> None:
        """The copy elsewhere is made: the one that was to move goes."""
        care.moving = None
        if task.holders is not None and worker in task.holders:
            del task.holders[worker]
            self._unhold(worker, task)
            self.post(worker, m.Free([task.value_attempt]))

    def _copy_failed(self, now: float, worker: Worker, message: m.CopyFailed) -> None:
        """None of the holders gave it: they are asked whether they have it, and another try follows."""
        for task in self.targets_of(worker, message.attempt):
            care = self._care(task)
            care.copying.pop(worker, None)
            care.failures += 1
            care.failed[worker] = None
            self._untended[task] = None
            if care.moving is not None and not care.copying:
                care.moving = None  # it stays where it is
            for number in message.holders:
                holder = self.workers.get(number)
                if holder is not None:
                    self.post(holder, m.Verify([message.attempt]))
            pause = min(LONGEST_COPY_PAUSE_S, COPY_PAUSE_S * 2 ** min(care.failures, 12))
            self._alarm(now + pause, self._tend_later, task)

    def targets_of(self, worker: Worker, attempt: int) -> list[Task]:
        """The values of ``attempt`` that are being copied to ``worker``: one, or none any more."""
        return [one for one in self.targets if one.care is not None and worker in one.care.copying
                and one.value_attempt == attempt]  # fmt: skip

    def _tend_later(self, now: float, task: Task) -> None:
        if task.care is not None:
            task.care.failed.clear()
            self._untended[task] = None

    def _locate(self, now: float, worker: Worker, message: m.Locate) -> None:
        """All that the worker knew of are busy: who has it by now."""
        task = self.tasks.get(message.task)
        holders = task.holders or () if task is not None and task.value_attempt == message.attempt else ()
        self.post(worker, m.Located(message.attempt, self._introduce(worker, [one for one in holders if one.well])))

    def _comes_otherwise(self, task: Task, care: Care) -> bool:
        if care.source is not None:
            self._await(task)
            return True
        if care.checkpointed:
            self._make_ready(task, transitions.TO_BE_READ)
            return True
        if task.options.replay == "never" and task.value_attempt:
            text = (f"the value of {task.key} is lost with every worker that had it, and replay=\"never\" forbids to compute "
                    "it again; more replicas or a checkpoint would have kept it")  # fmt: skip
            self._fail(task, m.ErrorInfo("DataLost", "", text))
            return True
        return False

    def checkpoint_of(self, task: Task) -> str:
        name = task.key.encode() + task.recipe[:16]  # the function's half: a changed one finds no old result
        return f"{self.settings.checkpoints}/{hashlib.blake2b(name, digest_size=20).hexdigest()}"

    def _await(self, task: Task) -> None:
        raise TypeError("the module above says how scattered data come again")

    # ---- workers that leave -------------------------------------------------------------------

    def retire(self, now: float, worker: Worker, seconds: float, why: str) -> None:
        """``worker`` is to leave: no new work, what has not been started goes elsewhere, sole copies are copied away."""
        if worker.retiring is not None:
            if worker.retiring.told:  # it asks although it was told: once more
                self.post(worker, m.Stop(f"{worker.name} leaves: {why}"))
            return
        worker.retiring = Retiring(now + seconds, why)
        self.retiring[worker] = None
        self.placement.update(worker)
        for task in list(worker.holds):
            self.targets[task] = None
            self._care(task)
            self._untended[task] = None
        self._workers_changed()
        if worker.assigned:
            self.post(worker, m.Recall([task.attempt for task in worker.assigned]))
        self._alarm(now + seconds, self._time_is_up, worker)

    def _leaving(self, now: float, worker: Worker, message: m.Leaving) -> None:
        self.retire(now, worker, max(0.0, min(message.seconds, 3600.0)), "it was told to stop")

    def _time_is_up(self, now: float, worker: Worker) -> None:
        """The end of the event looks at it."""

    def _look_at_leaving(self, now: float, worker: Worker, retiring: dict[Worker, None]) -> None:
        """Say Stop when nothing is left that could be saved, or when the time is up."""
        leaving = worker.retiring
        if leaving is None or worker.number not in self.workers or leaving.told:
            retiring.pop(worker, None)
            return
        over = now >= leaving.deadline - 1e-6
        others = any(one.well and one.retiring is None for one in self.workers.values())
        sole = [task for task in worker.holds if not self._staying(task, self._care(task))]
        hopeful = any(care.copying or self._free_for(task, care) for task in sole if (care := task.care) is not None)
        if not over and ((worker.assigned and others) or hopeful):
            return
        leaving.told = True
        left = f"; {len(sole)} results were held by it alone and could not be handed over" if sole else ""
        self.post(worker, m.Stop(f"{worker.name} leaves: {leaving.why}{left}"))

    # ---- rebalancing ------------------------------------------------------------------------

    def rebalance(self, tasks: list[Task] | None) -> int:
        """Move copies from workers that hold much to those that hold little; how many moves were started."""
        workers = [one for one in self.workers.values() if one.well and one.retiring is None]
        if len(workers) < 2:
            return 0
        held = {one: one.bytes_held for one in workers}
        mean = sum(held.values()) / len(workers)
        moves = 0
        for source in sorted(workers, key=lambda one: -held[one]):
            for task in list(source.holds):
                target = min(workers, key=lambda one: (held[one], one.number))
                if held[source] <= mean * UNEVEN:
                    break
                if (tasks is not None and task not in tasks) or target in (task.holders or ()) or self._is_moving(task):
                    continue
                if held[target] + task.size >= held[source] or not _may_be_at(task, target):
                    continue
                self._move(task, source, target)
                held[source] -= task.size
                held[target] += task.size
                moves += 1
        return moves

    @staticmethod
    def _is_moving(task: Task) -> bool:
        return task.care is not None and (task.care.moving is not None or bool(task.care.copying))

    def _move(self, task: Task, source: Worker, target: Worker) -> None:
        care = self._care(task)
        care.moving = source
        self.targets[task] = None
        self._copy(task, care, [target], self._staying(task, care))

    def moving(self) -> int:
        """How many copies are being made."""
        return sum(len(task.care.copying) for task in self.targets if task.care is not None)


def _may_be_at(task: Task, worker: Worker) -> bool:
    """Whether scattered data were not meant for other workers alone."""
    names = task.care.source.workers if task.care is not None and task.care.source is not None else ()
    return not names or worker.name in names


def check_replicas(replay: str, copies: int) -> None:
    """``ProtocolError`` for options that a client must not send."""
    if replay not in ("always", "verify", "never") or not 1 <= copies <= 10_000:
        raise ProtocolError("a task with an impossible replay policy or number of replicas")
