"""The resilience manager: told of every loss and every return, it puts the book right and brings back what is needed.

Losses: a worker given up, files that are not where they should be, inputs that can't be had.  Returns: a worker that comes
back, with its store or with attempts that were taken for lost.  What to execute again is decided in :mod:`.lineage`; it is
started like all other work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from twistdist import config
from twistdist.core import placement, transitions
from twistdist.core.ledger import Ledger
from twistdist.core.outcomes import Outcomes
from twistdist.core.records import Client, Incident, Task, Worker
from twistdist.core.tasks import ATTEMPT_BITS
from twistdist.core.transitions import ASSIGNED, DONE, READY, UNFINISHED, WAITING
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: After a task was given back this often because of inputs that can't be had, their copies are taken for lost; and at once if
#: there is no other way; but never before the link has been bad for ``dead_after``: until then it may be mended.
MOST_LOST_INPUTS = 4

#: After this many times the task fails.
MOST_LOST_INPUTS_IN_ALL = 12

#: No more are counted before, where the value could be made again then.
MOST_LOST_INPUTS_EARLY = 7

#: Seconds (at least twice ``dead_after``) for which a worker that could not fetch from another one is not sent there again if
#: there is another way.
LINK_S = 60.0

#: The kind of incident of a worker that was told to stop and did: no fault.
LEFT = "worker left"

#: How many incarnations of workers are remembered as replaced by a later one.
MOST_OUTLIVED = 10_000


@attrs.frozen
class Settings:
    """Times in seconds; ``checkpoints`` is the URL of the checkpoint store, "" for none.

    A worker that is silent for ``suspect_after`` is suspected, for ``dead_after`` given up; one whose process is known to
    be gone
    has ``worker_grace`` to come back.
    """

    suspect_after: float = config.SUSPECT_AFTER_S
    dead_after: float = config.DEAD_AFTER_S
    worker_grace: float = config.WORKER_GRACE_S
    client_grace: float = config.CLIENT_GRACE_S
    name_grace: float = config.NAME_GRACE_S
    checkpoints: str = ""

    @property
    def look_every(self) -> float:
        """The pause between two looks at who is silent."""
        return self.suspect_after / 4

    @property
    def looks_a_beat(self) -> int:
        """Looks between two heartbeats of the scheduler, which need not come as often as those of the workers."""
        return max(1, int(self.dead_after / 8 / self.look_every))


class Resilience(Outcomes):
    """The book of tasks, and what becomes of it when workers come and go."""

    def __init__(self, epoch: int, settings: Settings | None = None, ledger: Ledger | None = None) -> None:
        super().__init__(epoch, ledger)
        self.settings = settings or Settings()
        self.replaced: list[Worker] = []
        self._outlived: dict[int, None] = {}
        self._outcomes: dict[type, Callable[[float, Worker, Any], None]] = {
            m.Done: self._done,
            m.Failed: self._failed,
            m.Crashed: self._crashed,
        }

    def _input_lost(self, now: float, worker: Worker, message: m.InputLost) -> None:
        """The worker could not get inputs: ask the holders, and try again after a pause that doubles."""
        task = self._current(worker, message.task, message.attempt)
        if task is None:
            return
        trouble = self._trouble(task)
        trouble.lost_inputs += 1
        for _, holder in message.inputs:
            self._mark_link(now, worker, holder)
        self._unassign(task)
        self._let_go(task)
        pause = min(5.0, 0.05 * 2 ** min(trouble.lost_inputs, 10))
        # WAITING, with the pause as one more thing that is missing; the alarm ends it.
        self.transitions.move(task, transitions.PAUSED)
        task.missing, trouble.paused = 1, True
        for one in task.inputs:
            one.pending += 1
            task.missing += one.state is not DONE
        hopeless = not self._goes_another_way(task, worker) or trouble.lost_inputs >= MOST_LOST_INPUTS
        if trouble.lost_inputs > MOST_LOST_INPUTS_EARLY and self._may_be_mended(now, worker, message):
            trouble.lost_inputs = MOST_LOST_INPUTS_EARLY
        for attempt, holder in message.inputs:
            other = self.workers.get(holder)
            if other is None:
                continue
            cut = now - self.links.get((worker.number, holder), now) >= self.settings.dead_after
            made = self._can_be_made_again(other, attempt) if hopeless and cut else None
            if made is not None:
                self.near[made] = worker
                self._missing(now, other, m.Missing([attempt]))
                self.post(other, m.Free([attempt]))
            else:
                self.post(other, m.Verify([attempt]))
        if trouble.lost_inputs >= MOST_LOST_INPUTS_IN_ALL:
            count = trouble.lost_inputs
            text = (f"the inputs of {task.key} could not be had {count} times, last on {worker.name}, though others have them; "
                    "can the workers reach the addresses that the others listen at?")  # fmt: skip
            self._fail(task, m.ErrorInfo("DataLost", "", text, key=task.key))
            return
        self._alarm(now + pause, self._after_pause, (task, task.attempt))

    def _mark_link(self, now: float, peer: Client | Worker, holder: int) -> None:
        """``peer`` could not fetch from a worker that may be well: the link is marked, not the worker."""
        link = (peer.number, holder)
        if link not in self.links:
            self.links[link] = now
            self._alarm(now + max(LINK_S, 2 * self.settings.dead_after), self._link_over, link)
            other = self.workers.get(holder)
            if other is not None and other.well:
                name = peer.name or f"client {peer.number:x}"
                self._incident(Incident(now, "link", f"{name} to {other.name}", "results could not be fetched over it"))

    def _link_over(self, now: float, link: tuple[int, int]) -> None:
        self.links.pop(link, None)
        self._offer_again()

    def _offer_again(self) -> None:
        """Tasks that were kept from workers which could not fetch their inputs: who may run them may have changed."""
        for task in self.restricted:
            if task in self.near or (task.trouble is not None and task.trouble.lost_inputs):
                self._offer_all(task)

    def _goes_another_way(self, task: Task, worker: Worker) -> bool:
        """Whether another worker can run the task; where nobody who may can fetch its inputs, a third worker that can is
        to have a
        copy of them."""
        able = [one for one in self.workers.values() if one.well and placement.allowed(task, one)]
        if any(self._reaches(one, task) for one in able):
            return True
        return any([self._relay(one, worker) for one in task.inputs if one.state is DONE and one.holders is not None])

    def _relay(self, task: Task, peer: Client | Worker) -> bool:
        raise TypeError("the module above makes copies")

    def _may_be_mended(self, now: float, worker: Worker, message: m.InputLost) -> bool:
        """Whether one of the links has not been bad for long enough to have what lies behind it made again, which could be."""
        return any(now - self.links.get((worker.number, holder), now) < self.settings.dead_after
                   and (other := self.workers.get(holder)) is not None and self._can_be_made_again(other, attempt) is not None
                   for attempt, holder in message.inputs)  # fmt: skip

    @staticmethod
    def _can_be_made_again(holder: Worker, attempt: int) -> Task | None:
        """The task whose value can't be had from its holder, if it may be given up there, to be computed where it can be
        had."""
        task = next((one for one in holder.holds if one.value_attempt == attempt), None)
        if task is None or task.options.replay == "never" or (task.care is not None and task.care.source is not None):
            return None
        return task

    def _after_pause(self, now: float, subject: tuple[Task, int]) -> None:
        task, attempt = subject
        if task.trouble is not None and task.trouble.paused and task.attempt == attempt and task.number in self.tasks:
            self._let_go(task)
            self._recover([task])

    def _have(self, now: float, worker: Worker, message: m.Have) -> None:
        unknown = []
        for stored in message.stored:
            task = self.tasks.get(stored.task)
            if task is not None and task.value_attempt == stored.attempt and stored.attempt and self._keep(task):
                for holder in task.holders or ():  # it came over one of these
                    self.links.pop((worker.number, holder.number), None)
                self._take_in(task, worker)
            else:
                unknown.append(stored.attempt)
        if unknown:
            self._refuse(worker, unknown)

    def _missing(self, now: float, worker: Worker, message: m.Missing) -> None:
        gone = set(message.attempts)
        lost = [task for task in worker.holds if task.value_attempt in gone]
        if lost:
            incident = Incident(now, "files lost", f"{len(lost)} results of {worker.name}", "the worker has not got the files")
            for task in lost:
                self._unhold(worker, task)
            self._lose(worker, lost, incident)
            self._incident(incident)

    def _lose(self, worker: Worker, tasks: list[Task], incident: Incident) -> None:
        """``worker`` holds these no more; the ones that nobody else holds are recovered if they are needed."""
        lost = []
        for task in tasks:
            holders = task.holders
            if task.state is not DONE or holders is None:
                continue
            holders.pop(worker, None)
            if task.care is not None:
                self._untended[task] = None
            if not holders:
                self._drop_value(task)
                lost.append(task)
        needed = [task for task in lost if self._needed(task)]
        incident.lost += len(needed)
        self._recover(needed, incident)
        self._garbage.extend(lost)

    def _drop_value(self, task: Task) -> None:
        """DONE no more.  Dependents that have not been given out wait for the value again."""
        self.transitions.move(task, transitions.LOST)
        task.holders = task.value = None
        if task.care is not None:
            task.care.copying.clear()
        for dependent in task.dependents or ():
            if dependent.state is READY:
                self.transitions.move(dependent, transitions.INPUT_LOST)
                self._not_ready(dependent)
                dependent.missing = 1
            elif dependent.state is WAITING:
                dependent.missing += 1

    def _greet_worker(self, now: float, hello: m.HelloWorker) -> Worker:
        """Values first, so that what an earlier incarnation held and this one brings is never taken for lost."""
        if hello.slots < 0 or min(hello.resources.values(), default=0) < 0:
            raise ProtocolError(f"worker {hello.name} has less than nothing: {hello.slots} slots, resources {hello.resources}")
        worker = Worker(self._next("worker"), hello, self._new_session(), resources=dict(hello.resources), progress_at=now,
                        heard_at=now, quiet_at=now)  # fmt: skip
        earlier = [w for w in self.workers.values() if w.name == hello.name]
        self.workers[worker.number] = worker
        self.ledger.worker(worker)
        self.worker_names.add(hello.name)
        self._adopt_values(now, worker, hello.stored, f"incarnation {hello.incarnation:x} brought its store")
        for old in earlier:
            self._replace(now, old, hello)
        self._adopt_attempts(now, worker)
        for task in self.restricted:
            self._offer(task, worker)
        self.placement.update(worker)
        return worker

    def _replace(self, now: float, old: Worker, hello: m.HelloWorker) -> None:
        if old.hello.incarnation == hello.incarnation:
            self._worker_gone(now, old, "it was not heard for so long that it registered anew", alive=True)
        else:
            self._worker_gone(now, old, "a new incarnation took its place")
            self.replaced.append(old)
            self._outlived[old.hello.incarnation] = None
            if len(self._outlived) > MOST_OUTLIVED:
                del self._outlived[next(iter(self._outlived))]

    def _adopt_values(self, now: float, worker: Worker, values: Iterable[m.Stored], cause: str) -> None:
        """Take in the stored values that were accepted and are of use; the others are to be deleted."""
        finished = {outcome.attempt for outcome in worker.hello.finished}
        useless, adopted = [], 0
        for stored in values:
            task = self.tasks.get(stored.task)
            if task is None or not stored.attempt or task.value_attempt != stored.attempt or not self._keep(task):
                if stored.attempt not in finished:
                    useless.append(stored.attempt)
                continue
            adopted += 1
            self._take_in(task, worker)
        if useless:
            self._refuse(worker, useless)
        if adopted:
            self._incident(Incident(now, "worker back", worker.name, cause, adopted=adopted))

    def _take_in(self, task: Task, worker: Worker) -> None:
        """``worker`` has the accepted value: one more copy, or the first one again."""
        if task.care is not None:
            task.care.copying.pop(worker, None)
            self._untended[task] = None
        if task.holders is not None:
            self._hold(worker, task)
            return
        if task.state in UNFINISHED:
            self._stop(task)
        self._hold(worker, task)
        self._has_value(task)

    def _rescue(self, worker: Worker) -> None:
        """Have another worker of the same host look whether the process of ``worker`` is dead, and take over its store."""
        hello = worker.hello
        for other in self.workers.values():
            if other.well and other.hello.host == hello.host and other.retiring is None and hello.store:
                self.post(other, m.Rescue(worker.number, hello.store))
                return

    def _rescued(self, now: float, by: Worker, message: m.Rescued) -> None:
        """Values first, so that what is there again is never taken for lost."""
        worker = self.workers.get(message.worker)
        self._adopt_values(now, by, message.stored, f"{by.name} took over a store of its host")
        if message.dead and worker is not None and not worker.well:
            self._worker_gone(now, worker, "its process died")

    def _adopt_attempts(self, now: float, worker: Worker) -> None:
        """Attempts that were taken for lost, and that no others have replaced, go on; the rest is stopped."""
        hello = worker.hello
        orphans = [attempt for number, attempt in hello.running if not self._readopt(worker, number, attempt)]
        for outcome in hello.finished:
            self._readopt(worker, outcome.task, outcome.attempt)
            self._outcomes[type(outcome)](now, worker, outcome)
        if orphans:
            self.post(worker, m.Abort(orphans, True))

    def _keep(self, task: Task) -> bool:
        """Whether a stored value of this task is of use: it is stored already, or it is needed and being made again."""
        return task.holders is not None or (task.state in UNFINISHED and self._needed(task))

    def _readopt(self, worker: Worker, number: int, attempt: int) -> bool:
        """An attempt that was taken for lost, or is of an earlier life of the scheduler, and that no other has replaced,
        goes on."""
        task = self.tasks.get(number)
        if task is None or not attempt or not placement.allowed(task, worker) or not placement.has_resources(worker, task):
            return False  # it was never given that
        if self._is_of_earlier_life(task, attempt):
            if task.state is ASSIGNED and task.worker is not None:  # of two the later one is the right one
                self.post(task.worker, m.Abort([task.attempt], True))
                self._unassign(task)
                self.transitions.move(task, transitions.OUTRUN)
            task.attempt = attempt
        if task.attempt != attempt or task.state not in (READY, WAITING) or (task.trouble is not None and task.trouble.paused):
            return False
        self.transitions.move(task, transitions.ADOPTED)
        task.worker = worker
        self._not_ready(task)
        if task.options.resources:
            for name, amount in task.options.resources.items():
                worker.resources[name] -= amount
        worker.assigned[task] = None
        worker.load_us += task.cost_us
        worker.functions.add(task.function.number)
        return True

    def _is_of_earlier_life(self, task: Task, attempt: int) -> bool:
        """Whether the attempt was begun before the scheduler was started again, and nothing later is known of the task."""
        known = max(task.attempt, task.trouble.last if task.trouble is not None else 0)
        return attempt >> ATTEMPT_BITS < self.epoch and known < attempt and task.state in (READY, WAITING, ASSIGNED)

    def _worker_gone(self, now: float, worker: Worker, cause: str, alive: bool = False) -> None:
        """Give a worker up: its tasks go elsewhere, its sole copies are recovered.  ``alive``: it is just saying Hello
        again."""
        if self.workers.pop(worker.number, None) is None:
            return
        self.ledger.worker_gone(worker.number)
        worker.connected = False  # its connection may not have been seen to break; nothing is given to it any more
        self.placement.remove(worker)
        self.dirty.pop(worker, None)
        self.links = {link: since for link, since in self.links.items() if worker.number not in link}
        kind = "worker registered anew" if alive else "worker lost"
        if worker.retiring is not None and worker.retiring.told and not alive:
            kind, cause = LEFT, worker.retiring.why
        incident = Incident(now, kind, worker.name, cause, requeued=len(worker.assigned))
        held = list(worker.holds)
        worker.holds.clear()
        worker.bytes_held = 0
        requeued = list(worker.assigned)
        running = [*worker.parked, *[task for task in requeued if task not in worker.parked][: worker.hello.slots]]
        for task in running if not alive else ():
            self._trouble(task).exposed += 1
            self.ledger.trouble(task)
        alone = worker.exclusive if requeued == [worker.exclusive] and not alive else None
        # Values first, so that the plan for the tasks that were running sees what is missing.
        self._lose(worker, held, incident)
        for task in requeued:
            if task is alone:
                died = m.Crashed(task.number, task.attempt, f"the worker was lost while it ran alone there: {cause}", "")
                self._charge(now, task, worker, f"on {worker.name}", died)
                continue
            self.statistics.reruns += 1
            self._again(task, same=True)
        self._offer_again()
        self._incident(incident)

    def _intake(self, now: float, worker: Worker, message: m.Intake) -> None:
        """How much the worker runs at a time has changed."""
        worker.most, worker.why = max(0, min(message.most, worker.hello.slots)), message.why
        if message.why:
            worker.troubles.append(message.why)
            self._incident(Incident(now, "worker takes less work", worker.name, message.why))
        self.placement.update(worker)

    def _parked(self, now: float, worker: Worker, message: m.Parked) -> None:
        """A running task waits for others, or does not any more."""
        task = next((one for one in worker.assigned if one.attempt == message.attempt), None)
        if task is None:
            return
        if message.parked:
            worker.parked[task] = None
            worker.load_us -= task.cost_us
            task.cost_us = 0
            if worker.exclusive is task:  # its children may have nowhere else to run
                worker.exclusive = None
        else:
            worker.parked.pop(task, None)
        self.placement.update(worker)

    def _recalled(self, now: float, worker: Worker, message: m.Recalled) -> None:
        worker.recalling = False
        if not message.attempts:
            worker.recall_after = now + 2 * placement.RECALL_STALL_S
        given = {task.attempt: task for task in worker.assigned}
        for attempt in message.attempts:
            task = given.pop(attempt, None)  # the same one twice would be let go of twice
            if task is not None:
                self._again(task)

    def _worker_log(self, now: float, worker: Worker, message: m.WorkerLog) -> None:
        worker.troubles.append(f"{message.kind}: {message.text}")
        self._incident(Incident(now, message.kind, worker.name, message.text))
