"""The book of tasks: what is wanted, what is going on, and the transitions between the states of docs/architecture.rst.

Nothing here knows messages from outside: outcomes, losses and wishes come from the modules above (outcomes, resilience,
scheduler), which call these methods.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any, TypeAlias

from twistdist.core import placement, transitions
from twistdist.core.alarms import Alarms
from twistdist.core.ledger import Ledger, NoLedger
from twistdist.core.lineage import recovery_plan
from twistdist.core.placement import Placement
from twistdist.core.queue import ReadyQueue
from twistdist.core.records import Care, Client, Function, Incident, Statistics, Task, Trouble, Worker
from twistdist.core.session import Session
from twistdist.core.transitions import ASSIGNED, AWAITED, DONE, FAILED, IDLE, READY, UNFINISHED, WAITING, Cause, Transitions
from twistdist.wire import messages as m

#: The counter's bits of an attempt; the epoch is above them.
ATTEMPT_BITS = 36

#: A task that was running when whole workers died runs alone on its worker after that many such deaths.
ALONE_AFTER = 2

#: A task whose inputs, arguments and values together are longer than this can't be sent in one frame, and fails.
MOST_COMPUTE_BYTES = 128 << 20

#: Incidents that are kept for the edge to log.
MOST_NEWS = 1000

Peer: TypeAlias = Client | Worker


class TaskBook:
    """Tasks, their functions, and the workers that they are given to."""

    def __init__(self, epoch: int, ledger: Ledger | None = None) -> None:
        self.epoch = epoch
        self.ledger = ledger or NoLedger()
        self.journal: dict[str, Any] = {"state": "none"}  # what the edge says of it
        self.tasks: dict[int, Task] = {}
        self.keys: dict[str, Task] = {}
        self.functions: dict[bytes, Function] = {}
        self.workers: dict[int, Worker] = {}
        self.worker_names: set[str] = set()
        self.restricted: dict[Task, None] = {}
        self.alone: dict[Task, None] = {}
        self.ready = ReadyQueue()
        self.placement = Placement()
        self.statistics = Statistics()
        self.dirty: dict[Peer, None] = {}
        self._alarms = Alarms()
        self._alarm = self._alarms.set
        self._numbers = dict.fromkeys(("task", "attempt", "worker", "function", "batch", "audit"), 0)
        self._garbage: list[Task] = []
        self._untended: dict[Task, None] = {}
        self.targets: dict[Task, None] = {}
        self._recall_alarm = False
        self.transitions = Transitions()
        self.news: list[Incident] = []
        #: (Who could not fetch, from which worker), by number, and since when: for a while.
        self.links: dict[tuple[int, int], float] = {}
        self.near: dict[Task, Worker] = {}  # values made again where the one that wants them can have them

    def _next(self, what: str) -> int:
        self._numbers[what] += 1
        return self._numbers[what]

    def _new_session(self) -> Session:
        return Session(safe=0 if self.ledger.kept else None)

    def post(self, peer: Peer, message: Any, weight: int = 0) -> None:
        """Say something to a peer at the end of this turn."""
        peer.session.post(message, weight)
        self.dirty[peer] = None

    def _refuse(self, worker: Worker, attempts: list[int]) -> None:
        """``worker`` told of files that are of no use: it is to delete them, and an answer of before that may name them."""
        if worker.audit is not None:
            worker.audit.left.update(attempts)
        self.post(worker, m.Free(attempts))

    def _introduce(self, peer: Peer, workers: Iterable[Worker]) -> list[int]:
        """The workers' numbers, the silent ones last, after ``peer`` was told where they can be reached."""
        numbers = []
        for worker in sorted(workers, key=lambda one: (peer.number, one.number) in self.links or not one.well):
            if worker.number not in peer.peers:
                peer.peers.add(worker.number)
                hello = worker.hello
                self.post(peer, m.Peer(worker.number, hello.name, hello.host, hello.store, hello.address))
                if worker.suspect:
                    self.post(peer, m.PeerState(worker.number, "suspect"))
            numbers.append(worker.number)
        return numbers

    def _tell(self, task: Task, watchers: Iterable[tuple[Client, int]]) -> None:
        """Tell futures how their task ended, unless its value is not to be announced yet."""
        if task.care is not None and not task.care.announced and task.error is None:
            return
        for client, cid in list(watchers):
            if client.held:
                continue  # nobody is there to be told
            if task.error is not None:
                self.post(client, m.Erred(cid, task.error), len(task.error.pickled) + len(task.error.traceback))
            elif task.holders is None:
                self.post(client, m.Finished(cid, task.value_attempt, task.value, task.size), task.size)
            else:
                holders = self._introduce(client, task.holders)
                self.post(client, m.Finished(cid, task.value_attempt, None, task.size, task.digest, holders))

    def _unuse(self, function: Function) -> None:
        function.users -= 1
        if function.users == 0:
            del self.functions[function.digest]
            self.ledger.function_gone(function)
            for worker in self.workers.values():
                if function.number in worker.functions:
                    worker.functions.discard(function.number)
                    self.post(worker, m.ForgetFunctions([function.number]))

    def _admit(self, task: Task) -> None:
        """A new task: it holds its inputs' records, and is started; inputs without a value are brought back first."""
        for one in task.inputs:
            if one.dependents is None:
                one.dependents = {}
            one.dependents[task] = None
        idle = [one for one in task.inputs if one.state is IDLE]
        if idle:
            self._recover(idle)
        self._start(task)

    def _start(self, task: Task) -> None:
        """From no activity to WAITING or READY; fails at once with an input that has failed."""
        care = task.care
        if care is not None and self._comes_otherwise(task, care):
            return
        missing, broken = 0, None
        for one in task.inputs:
            one.pending += 1
            if one.state is FAILED:
                broken = one.error
            elif one.state is not DONE:
                missing += 1
        task.missing = missing
        self.transitions.move(task, transitions.WANTED)
        if broken is not None:
            self._fail(task, broken)
        elif not missing:
            self._make_ready(task, transitions.INPUTS_THERE)

    def _comes_otherwise(self, task: Task, care: Care) -> bool:
        """Whether the value is not to be computed: it was scattered, or must not be computed twice."""
        raise TypeError("the modules above say what becomes of such values")

    def checkpoint_of(self, task: Task) -> str:
        """The place of the task's value in the checkpoint store."""
        raise TypeError("the modules above know the checkpoint store")

    def _hold(self, worker: Worker, task: Task) -> None:
        """``worker`` has a copy of the value."""
        if task.holders is None:
            task.holders = {}
        task.holders[worker] = None
        if task not in worker.holds:
            worker.holds[task] = None
            worker.bytes_held += task.size
        if worker.retiring is not None:  # it has to go elsewhere at once
            self._care(task)
            self.targets[task] = self._untended[task] = None

    @staticmethod
    def _unhold(worker: Worker, task: Task) -> None:
        """``worker`` has no copy (any more); the task's own list is the caller's."""
        if task in worker.holds:
            if worker.audit is not None:
                worker.audit.left.add(task.value_attempt)
            del worker.holds[task]
            worker.bytes_held -= task.size

    @property
    def unfinished(self) -> int:
        """How many tasks there are for whose value something goes on."""
        return self.transitions.unfinished

    def _make_ready(self, task: Task, cause: Cause) -> None:
        self.transitions.move(task, cause)
        if task.trouble is not None and task.trouble.exposed >= ALONE_AFTER:
            self.alone[task] = None
        elif task.options.workers or task.options.resources or task in self.near or self._is_cut_off(task):
            self.restricted[task] = None
            self._offer_all(task)
        else:
            self.ready.push(task)

    def _not_ready(self, task: Task) -> None:
        """READY no more, for whatever reason: it leaves the queues that it can leave."""
        self.restricted.pop(task, None)
        if self.alone and task in self.alone:
            del self.alone[task]
            for worker in self.workers.values():
                if worker.exclusive is task:
                    self._release_worker(worker)

    def _release_worker(self, worker: Worker) -> None:
        worker.exclusive = None
        self.placement.update(worker)

    def _is_cut_off(self, task: Task) -> bool:
        """Whether some workers can't fetch the inputs, though their holders are there."""
        return bool(self.links and task.trouble is not None and task.trouble.lost_inputs)

    def _reaches(self, worker: Worker, task: Task) -> bool:
        """Whether, as far as is known, ``worker`` can fetch each of the task's inputs from somebody."""
        return all(one.holders is None or worker in one.holders
                   or any((worker.number, holder.number) not in self.links for holder in one.holders)
                   for one in task.inputs)  # fmt: skip

    def _offer_all(self, task: Task) -> None:
        """To all workers that may run it; those that can't fetch its inputs are left out if there are others."""
        wanted = self.near.get(task)
        if wanted is not None and self.workers.get(wanted.number) is wanted and placement.allowed(task, wanted):
            self._offer(task, wanted)
            return
        near = [one for one in self.workers.values() if self._reaches(one, task)] if self.links else []
        if not any(one.well and placement.allowed(task, one) for one in near):
            near = list(self.workers.values())
        for worker in near:
            self._offer(task, worker)

    def _offer(self, task: Task, worker: Worker) -> None:
        if placement.allowed(task, worker):
            kind = tuple(sorted((task.options.resources or {}).items()))
            heapq.heappush(worker.own.setdefault(kind, []), (task.rank, task))

    def _recover(self, lost: list[Task], incident: Incident | None = None) -> None:
        """The resilience manager's one way to bring values back: make the plan, start what it names."""
        plan = recovery_plan(lost, _has_or_gets_value, _inputs)
        for task in plan:
            self._start(task)
        again = sum(1 for task in plan if task.value_attempt)
        self.statistics.replays += again
        if incident is not None:
            incident.replayed += again

    def _needed(self, task: Task) -> bool:
        return bool(task.watchers or task.pending)

    def _schedule(self, now: float) -> None:
        place = self.placement
        if self.alone:
            self._place_alone(now)
        if not place:
            return
        # Restricted tasks are never given ahead: they could not be recalled for another worker that may run them.
        for worker in [w for w in place.idle if w.own] if self.restricted else ():
            while worker in place.idle and (task := place.next_restricted(worker)) is not None:
                if task in self.restricted:  # else it waits elsewhere by now: to run alone, or for whoever is idle
                    bound = task in self.near or self._is_cut_off(task)  # it was offered where its inputs can be fetched
                    self._assign(now, task, worker if bound else place.wished_for(task, worker))
        while place:
            task = self.ready.pop()
            if task is None:
                break
            if task not in self.alone and task not in self.restricted:  # else the entry is an old one
                self._assign(now, task, place.choose(task))
        if place.idle and place.ahead:
            self._recall(now)

    def _place_alone(self, now: float) -> None:
        """Tasks that must run alone: each reserves a worker, and starts when that has nothing else to run."""
        for task in list(self.alone):
            reserved = next((one for one in self.workers.values() if one.exclusive is task), None)
            if reserved is None or not reserved.well or reserved.resting or not reserved.most:
                if reserved is not None:
                    self._release_worker(reserved)
                free = [one for one in self.workers.values()
                        if one.well and not one.resting and one.most and one.exclusive is None
                        and placement.allowed(task, one)]  # fmt: skip
                if not free:
                    continue
                reserved = min(free, key=lambda one: (one.given, one.number))
                reserved.exclusive = task
                self.placement.update(reserved)
            if not reserved.given and placement.has_resources(reserved, task):
                del self.alone[task]
                self._assign(now, task, reserved)
                if task.worker is not reserved:  # it can't be run at all
                    self._release_worker(reserved)

    def _assign(self, now: float, task: Task, worker: Worker) -> None:
        weight = len(task.args) + sum([len(one.value) for one in task.inputs if one.value is not None])
        if weight > MOST_COMPUTE_BYTES:
            text = (f"the arguments and small inputs of {task.key} are {weight} bytes together, more than "
                    f"{MOST_COMPUTE_BYTES}; combine the inputs in a tree of tasks")  # fmt: skip
            self._fail(task, m.ErrorInfo("SerializationError", "", text, key=task.key))
            return
        mean = task.function.mean_us
        cost = int(mean) + placement.OVERHEAD_US if mean >= 0 else placement.UNKNOWN_US
        attempt = self.epoch << ATTEMPT_BITS | self._next("attempt")
        self.transitions.move(task, transitions.PLACED)
        task.worker, task.attempt, task.cost_us = worker, attempt, cost
        if task.options.resources:
            for name, amount in task.options.resources.items():
                worker.resources[name] -= amount
        self.restricted.pop(task, None)
        if self.near:
            self.near.pop(task, None)
        if not worker.assigned:
            worker.progress_at = now
        worker.assigned[task] = None
        worker.load_us += cost
        self.placement.update(worker)
        function = task.function
        if function.number not in worker.functions:
            worker.functions.add(function.number)
            self.post(worker, m.WorkerFunction(function.number, function.name, function.blob), len(function.blob))
        inputs = None
        restore = task.care is not None and task.care.checkpointed
        if task.inputs and not restore:
            inputs = []
            for one in task.positions or task.inputs:
                inputs.append(m.Input(one.number, one.value_attempt, one.value, one.size, one.digest,
                                      self._introduce(worker, one.holders or ())))  # fmt: skip
        name = self.checkpoint_of(task) if task.options.checkpoint else ""
        compute = m.Compute(task.number, attempt, function.number, task.args, inputs, task.options.time_limit, int(mean),
                            task.key, name, restore)  # fmt: skip
        self.post(worker, compute, weight)

    def _unassign(self, task: Task) -> None:
        """The attempt is over, or given up: the worker's books are put right."""
        worker = task.worker
        if worker is None:
            return
        task.worker = None
        worker.assigned.pop(task, None)
        if worker.audit is not None:
            worker.audit.left.add(task.attempt)
        if worker.parked:
            worker.parked.pop(task, None)
        if worker.exclusive is task:
            worker.exclusive = None
        worker.load_us -= task.cost_us
        if task.options.resources:
            for name, amount in task.options.resources.items():
                worker.resources[name] += amount
        if worker.connected:
            self.placement.update(worker)

    def _again(self, task: Task, same: bool = False) -> None:
        """ASSIGNED no more, and still wanted: back to the queue, or to waiting when an input was lost meanwhile.

        ``same``: the attempt may still be going on somewhere, and is taken up again if its worker comes back in time.
        """
        self._unassign(task)
        if not same:
            task.attempt = 0
        self._let_go(task)
        self._recover([task])

    def _let_go(self, task: Task) -> None:
        """From WAITING, READY or ASSIGNED to no activity: the inputs are not needed for this any more."""
        came_otherwise = task.state is AWAITED
        self.transitions.move(task, transitions.ENDED)
        if task.trouble is not None:
            task.trouble.paused = False
        if came_otherwise:
            return
        self._not_ready(task)
        for one in task.inputs:
            one.pending -= 1
            if not one.pending and not one.watchers:
                self._garbage.append(one)

    def _stop(self, task: Task, kill: bool = False) -> None:
        """Nobody wants the task: take back what was going on for it."""
        if task.state is ASSIGNED and task.worker is not None:
            self.post(task.worker, m.Abort([task.attempt], kill))
        self._unassign(task)
        self._let_go(task)

    def _recall(self, now: float) -> None:
        """Idle workers, and others with tasks ahead: ask the most loaded one for half of those."""
        for worker in self.placement.overloaded(now):
            given = [task for task in worker.assigned
                     if not task.options.workers and not task.options.resources and task not in worker.parked]  # fmt: skip
            ahead = min(len(given), worker.given - worker.hello.slots)
            if ahead > 0:
                worker.recalling = True
                self.statistics.recalls += 1
                self.post(worker, m.Recall([task.attempt for task in given[len(given) - (ahead + 1) // 2 :]]))
                return
        if not self._recall_alarm:
            self._recall_alarm = True
            self._alarm(now + placement.RECALL_STALL_S, self._look_again, None)

    def _look_again(self, now: float, subject: None) -> None:
        """The end of this turn will see whether somebody is overloaded now."""
        self._recall_alarm = False

    def _has_value(self, task: Task) -> None:
        """The task is DONE: whoever waits for it is told, and dependents come nearer to running."""
        self.transitions.move(task, transitions.ACCEPTED)
        if task.care is not None:
            self._untended[task] = None
        if task.dependents:
            for dependent in list(task.dependents):
                if dependent.state is WAITING:
                    dependent.missing -= 1
                    if not dependent.missing:
                        self._make_ready(dependent, transitions.INPUTS_THERE)
        if task.watchers:
            self._tell(task, task.watchers)
        elif not task.pending:
            self._garbage.append(task)

    def _cut_lineage(self, task: Task) -> None:
        """The value can't be lost, or never will be: the inputs' records are not held for it."""
        for one in task.inputs:
            if one.dependents is not None:
                one.dependents.pop(task, None)
                if not one.dependents:
                    self._garbage.append(one)
        task.inputs = ()

    def _fail(self, task: Task, error: m.ErrorInfo) -> None:
        """The task and everything that waits for its value fail with the same error."""
        failing = [task]
        while failing:
            one = failing.pop()
            if one.state is FAILED:
                continue  # reached by two ways
            if one.state in UNFINISHED:
                self._let_go(one)
            self.transitions.move(one, transitions.BROKEN)
            one.error = error
            self.statistics.failed += 1
            self.ledger.ended(one)
            self._cut_lineage(one)
            self._tell(one, one.watchers)
            failing += [dependent for dependent in one.dependents or () if dependent.state in (WAITING, READY)]
            self._garbage.append(one)

    def _care(self, task: Task) -> Care:
        if task.care is None:
            task.care = Care()
        return task.care

    def _trouble(self, task: Task) -> Trouble:
        if task.trouble is None:
            task.trouble = Trouble()
        return task.trouble

    def _free(self, task: Task) -> None:
        """DONE and not needed: the bytes go, the recipe stays."""
        for worker in (*(task.holders or ()), *(task.care.copying if task.care is not None else ())):
            self._unhold(worker, task)
            self.post(worker, m.Free([task.value_attempt]))
        if task.care is not None:
            task.care.copying.clear()
        self.transitions.move(task, transitions.FREED)
        task.holders = task.value = None

    def collect(self) -> None:
        """Let go of what nobody wants: activity, then value, then record, and then look at its inputs."""
        garbage = self._garbage
        while garbage:
            task = garbage.pop()
            if task.watchers or task.pending or task.number not in self.tasks:
                continue
            if task.state in UNFINISHED:
                self._stop(task)
            if task.dependents:
                if task.state is DONE and task.holders is not None and not _is_irreplaceable(task):
                    self._free(task)
                continue
            if task.state is DONE:
                self._free(task)
            self._forget(task)

    def _forget(self, task: Task) -> None:
        self.ledger.forget(task)
        self.near.pop(task, None)
        del self.tasks[task.number]
        if task.chosen is not None and self.keys.get(task.chosen) is task:
            del self.keys[task.chosen]
        self._cut_lineage(task)
        self._unuse(task.function)

    def _incident(self, incident: Incident) -> None:
        self.statistics.incidents.append(incident)
        self.news.append(incident)
        if len(self.news) > MOST_NEWS:
            del self.news[0]


def _has_or_gets_value(task: Task) -> bool:
    return task.state is not IDLE


def _is_irreplaceable(task: Task) -> bool:
    """Whether a value that is given up can't be had again, though a replay of what depends on it might want it."""
    care = task.care
    if care is not None and (care.checkpointed or care.source is not None):
        return care.source is not None and care.source.client is None
    return task.options.replay == "never"


def _inputs(task: Task) -> tuple[Task, ...]:
    return task.inputs
