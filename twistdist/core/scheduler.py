"""The scheduler: what is wanted, what is going on, and the next step between them.

Events go in with the time (``greet``, ``receive``, ``connection_lost``, ``tick``); messages come out in the sessions of
the peers in ``dirty``.  ``wake`` says when ``tick`` is wanted next.  States and transitions: docs/architecture.rst.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import attrs

from twistdist import config
from twistdist.core import placement, queries
from twistdist.core.lineage import recovery_plan
from twistdist.core.placement import Placement
from twistdist.core.queue import ReadyQueue, rank
from twistdist.core.records import Client, Function, Incident, Statistics, Task, TaskState, Trouble, Worker
from twistdist.core.session import Session
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

IDLE, WAITING, READY, ASSIGNED, DONE, FAILED = TaskState
_UNFINISHED = frozenset({WAITING, READY, ASSIGNED})

#: Submits of one session within this many seconds form one batch of the priority order.
BATCH_S = 0.1

#: The counter's bits of an attempt; the epoch is above them.
ATTEMPT_BITS = 36

#: Durations are counted up to this many microseconds (eleven days).
LONGEST_US = 10**12

#: A task whose inputs, arguments and values together are longer than this can't be sent in one frame, and fails.
MOST_COMPUTE_BYTES = 128 << 20

#: After a task was given back this often because of inputs that can't be had, their copies are taken for lost.
MOST_LOST_INPUTS = 4

#: How many incarnations of workers are remembered as replaced by a later one.
MOST_OUTLIVED = 10_000

Peer: TypeAlias = Client | Worker


@attrs.frozen
class Settings:
    """Times in seconds."""

    worker_grace: float = config.WORKER_GRACE_S
    client_grace: float = config.CLIENT_GRACE_S


class Scheduler:
    """The pure core.  ``epoch`` is a positive integer below 2**27 that no earlier life of this scheduler had."""

    def __init__(self, epoch: int, settings: Settings | None = None) -> None:
        self.epoch = epoch
        self.settings = settings or Settings()
        self.tasks: dict[int, Task] = {}
        self.keys: dict[str, Task] = {}
        self.functions: dict[bytes, Function] = {}
        self.workers: dict[int, Worker] = {}
        self.worker_names: set[str] = set()
        self.clients: dict[int, Client] = {}
        self.restricted: dict[Task, None] = {}
        self.ready = ReadyQueue()
        self.placement = Placement()
        self.statistics = Statistics()
        self.dirty: dict[Peer, None] = {}
        self.replaced: list[Worker] = []
        self.stopping = ""
        self._alarms: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._numbers = dict.fromkeys(("task", "attempt", "worker", "function", "alarm", "batch"), 0)
        self._garbage: list[Task] = []
        self._recall_alarm = False
        self._outlived: dict[int, None] = {}
        self._handlers: dict[type, Callable[[float, Any, Any], None]] = {
            m.Function: self._function,
            m.Submit: self._submit,
            m.Release: self._release,
            m.Cancel: self._cancel,
            m.Unreachable: self._unreachable,
            m.Query: self._query,
            m.Bye: self._bye,
            m.Done: self._done,
            m.Failed: self._failed,
            m.Crashed: self._crashed,
            m.InputLost: self._input_lost,
            m.Have: self._have,
            m.Missing: self._missing,
            m.Recalled: self._recalled,
            m.WorkerLog: self._worker_log,
        }

    # ---- events ---------------------------------------------------------------------------

    @property
    def wake(self) -> float | None:
        """When ``tick`` is wanted next."""
        return self._alarms[0][0] if self._alarms else None

    def tick(self, now: float) -> None:
        """Do what is due."""
        while self._alarms and self._alarms[0][0] <= now:
            _, _, action, subject = heapq.heappop(self._alarms)
            action(now, subject)
        self._settle(now)

    def receive(self, now: float, peer: Peer, messages: Iterable[Any]) -> None:
        """Messages that ``peer``'s session accepted, in order."""
        handlers = self._handlers
        for message in messages:
            handlers[type(message)](now, peer, message)
        self._settle(now)

    def greet(self, now: float, hello: m.HelloClient | m.HelloWorker) -> Peer:
        """A new session.  The edge answers with Ready, outside the session's numbers."""
        peer: Peer = self._greet_client(hello) if isinstance(hello, m.HelloClient) else self._greet_worker(now, hello)
        self._settle(now)
        return peer

    def refusal(self, hello: m.HelloClient | m.HelloWorker) -> m.Refused | None:
        """Why a Hello must not be taken: another incarnation of that worker has come since."""
        if isinstance(hello, m.HelloWorker) and hello.incarnation in self._outlived:
            return m.Refused("replaced", f"another worker named {hello.name!r} has taken this one's place; "
                             "give each worker a name of its own")  # fmt: skip
        return None

    def find_session(self, resume: m.Resume) -> Peer | None:
        """The peer whose session a Resume names, if it can be resumed."""
        if resume.epoch != self.epoch:
            return None
        client = self.clients.get(resume.session)
        if client is not None:
            return client
        return next((w for w in self.workers.values() if w.hello.session == resume.session), None)

    def connection_lost(self, now: float, peer: Peer) -> None:
        """The connection broke; the session lives on for the grace period."""
        peer.connected, peer.away_since = False, now
        if isinstance(peer, Worker):
            self.placement.remove(peer)
            self._alarm(now + self.settings.worker_grace, self._worker_overdue, peer)
        else:
            self._alarm(now + self.settings.client_grace, self._client_overdue, peer)
        self._settle(now)

    def reconnected(self, now: float, peer: Peer) -> None:
        """The session goes on over a new connection."""
        peer.connected = True
        self.dirty[peer] = None  # what was posted while it was away has no other occasion to leave
        if isinstance(peer, Worker):
            self.placement.update(peer)
        self._settle(now)

    # ---- small tools ----------------------------------------------------------------------

    def _next(self, what: str) -> int:
        self._numbers[what] += 1
        return self._numbers[what]

    def _alarm(self, at: float, action: Callable[[float, Any], None], subject: Any) -> None:
        heapq.heappush(self._alarms, (at, self._next("alarm"), action, subject))

    def post(self, peer: Peer, message: Any, weight: int = 0) -> None:
        """Say something to a peer at the end of this turn."""
        peer.session.post(message, weight)
        self.dirty[peer] = None

    def _settle(self, now: float) -> None:
        """The end of every event: forget what nobody wants, then give out work."""
        if self._garbage:
            self.collect()
        self._schedule(now)

    # ---- clients --------------------------------------------------------------------------

    def _greet_client(self, hello: m.HelloClient) -> Client:
        client = Client(hello.session, hello.name, Session())
        if hello.session in self.clients:  # its Ready never arrived, and so it has asked for nothing yet
            self._end_client(self.clients[hello.session])
        self.clients[hello.session] = client
        return client

    def _client_overdue(self, now: float, client: Client) -> None:
        if not client.connected and now - client.away_since >= self.settings.client_grace - 1e-6:
            self._end_client(client)

    def _bye(self, now: float, client: Client, message: m.Bye) -> None:
        self._end_client(client)

    def _end_client(self, client: Client) -> None:
        if self.clients.pop(client.number, None) is None:
            return
        for cid in list(client.futures):
            self._unwatch(client, cid)
        for function in client.functions.values():
            self._unuse(function)
        self.dirty.pop(client, None)

    def _function(self, now: float, client: Client, message: m.Function) -> None:
        function = self.functions.get(message.digest)
        if function is None:
            function = Function(self._next("function"), message.name, message.digest, message.blob)
            self.functions[message.digest] = function
        function.users += 1
        client.functions[message.fn] = function

    def _unuse(self, function: Function) -> None:
        function.users -= 1
        if function.users == 0:
            del self.functions[function.digest]
            for worker in self.workers.values():
                if function.number in worker.functions:
                    worker.functions.discard(function.number)
                    self.post(worker, m.ForgetFunctions([function.number]))

    def _submit(self, now: float, client: Client, message: m.Submit) -> None:
        if message.fn not in client.functions:
            raise ProtocolError(f"a task of the unknown function {message.fn} was submitted")
        count = len(message.args)
        if any(given is not None and len(given) != count for given in (message.inputs, message.keys)):
            raise ProtocolError("a submit whose lists are not of one length")
        function, options = client.functions[message.fn], message.options or _DEFAULTS
        if options.resources and min(options.resources.values()) <= 0:
            raise ProtocolError("a task asks for nothing, or less, of a resource")
        if now >= client.batch_until:
            client.batch, client.batch_until = self._next("batch"), now + BATCH_S
        self.statistics.submitted += len(message.args)
        stranger = self._stranger(options)
        for i, args in enumerate(message.args):
            cid = message.first + i
            if cid in client.futures:
                raise ProtocolError(f"the future {cid} was submitted twice")
            named = message.inputs[i] if message.inputs is not None else ()
            inputs = tuple([client.futures.get(one) for one in named])
            key = message.keys[i] if message.keys is not None else None
            known, recipe, error = None, b"", stranger
            if key is not None:
                known, recipe = self._known(key), _recipe(function, args, inputs)
            if known is not None and known.recipe == recipe:
                self.watch(known, client, cid)
                continue
            if known is not None:
                error = m.ErrorInfo("KeyConflict", "", f"the key {key!r} is in use with another function or other arguments;"
                                    " choose another key, or release every future of the old one first")  # fmt: skip
            elif None in inputs:
                error = m.ErrorInfo("TaskCancelled", "", "an argument of this task is a future that was cancelled")
            task = self._new_task(client, cid, function, args, inputs if error is None else (), options,
                                  key if known is None else None)  # fmt: skip
            task.recipe = recipe
            client.futures[cid] = task
            task.watchers[(client, cid)] = None
            if error is not None:
                self._fail(task, error)
            else:
                self._admit(task)

    def _known(self, key: str) -> Task | None:
        """The task of that key, unless nobody wants it any more."""
        task = self.keys.get(key)
        if task is not None and not task.watchers and not task.pending:
            self.collect()
            task = self.keys.get(key)
        return task

    def _stranger(self, options: m.Options) -> m.ErrorInfo | None:
        """The error of a task that names only workers which were never here."""
        if not options.workers or options.allow_other_workers or not self.worker_names:
            return None
        if not self.worker_names.isdisjoint(options.workers):
            return None
        return m.ErrorInfo("NoValidWorker", "", f"no worker named {' or '.join(options.workers)} was ever part of this "
                           f"cluster; it has {', '.join(sorted(self.worker_names))}")  # fmt: skip

    def _new_task(self, client: Client, cid: int, function: Function, args: bytes, inputs: tuple[Any, ...],
                  options: m.Options, key: str | None) -> Task:  # fmt: skip
        number = self._next("task")
        depth = 1 + max([one.depth for one in inputs]) if inputs else 0
        order = rank(options.priority, client.batch, depth, number)
        task = Task(number, function, args, inputs, options, order, key, client.name or f"{client.number:x}"[:8], cid)
        if len(inputs) > 1 and len(set(inputs)) < len(inputs):
            task.positions, task.inputs = inputs, tuple(dict.fromkeys(inputs))
        task.depth = depth
        function.users += 1
        self.tasks[number] = task
        if key is not None:
            self.keys[key] = task
        return task

    def watch(self, task: Task, client: Client, cid: int) -> None:
        """One more future for a task that is there already."""
        client.futures[cid] = task
        task.watchers[(client, cid)] = None
        if task.state is DONE or task.state is FAILED:
            self._tell(task, [(client, cid)])
        elif task.state is IDLE:
            self._recover([task])

    def _tell(self, task: Task, watchers: Iterable[tuple[Client, int]]) -> None:
        """Tell futures how their task ended."""
        for client, cid in watchers:
            if task.error is not None:
                self.post(client, m.Erred(cid, task.error), len(task.error.pickled) + len(task.error.traceback))
            elif task.holders is None:
                self.post(client, m.Finished(cid, task.value_attempt, task.value, task.size), task.size)
            else:
                holders = self._introduce(client, task.holders)
                self.post(client, m.Finished(cid, task.value_attempt, None, task.size, task.digest, holders))

    def _introduce(self, peer: Peer, workers: Iterable[Worker]) -> list[int]:
        """The workers' numbers, after ``peer`` was told where they can be reached."""
        numbers = []
        for worker in workers:
            if worker.number not in peer.peers:
                peer.peers.add(worker.number)
                hello = worker.hello
                self.post(peer, m.Peer(worker.number, hello.name, hello.host, hello.store, hello.address))
            numbers.append(worker.number)
        return numbers

    def _release(self, now: float, client: Client, message: m.Release) -> None:
        for cid in message.cids:
            self._unwatch(client, cid)

    def _unwatch(self, client: Client, cid: int) -> None:
        task = client.futures.pop(cid, None)
        if task is not None:
            task.watchers.pop((client, cid), None)
            self._garbage.append(task)

    def _cancel(self, now: float, client: Client, message: m.Cancel) -> None:
        for cid in message.cids:
            task = client.futures.get(cid)
            if task is None or task.state not in _UNFINISHED:
                continue
            task.watchers.pop((client, cid), None)
            client.futures[cid] = None
            self.post(client, m.Erred(cid, m.ErrorInfo("TaskCancelled", "", f"{task.key} was cancelled", key=task.key)))
            if not task.watchers and not task.pending:
                self._stop(task, kill=True)
            self._garbage.append(task)

    def _unreachable(self, now: float, client: Client, message: m.Unreachable) -> None:
        """A client can't get a value: check the holders; the answer comes when the value is placed anew, or again."""
        task = client.futures.get(message.cid)
        if task is None or task.state is not DONE:
            return  # it will be told when the task is done (again)
        if task.holders is None or task.value_attempt != message.attempt:
            self._tell(task, [(client, message.cid)])
            return
        for worker in task.holders:
            self.post(worker, m.Verify([task.value_attempt]))
        self._alarm(now + 0.2, self._tell_again, (client, message.cid, task))

    def _tell_again(self, now: float, subject: tuple[Client, int, Task]) -> None:
        client, cid, task = subject
        if client.futures.get(cid) is task and task.state is DONE and client.number in self.clients:
            self._tell(task, [(client, cid)])

    def _query(self, now: float, client: Client, message: m.Query) -> None:
        try:
            answer = queries.answer(self, now, client, message.what, message.args)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            self.post(client, m.Reply(message.query, f"the question {message.what!r} can't be answered: {error}"))
        else:
            self.post(client, m.Reply(message.query, "", answer))

    def clear(self) -> int:
        """Drop the sessions of clients that are not connected; how many there were."""
        away = [client for client in self.clients.values() if not client.connected]
        for client in away:
            self._end_client(client)
        return len(away)

    def shutdown(self, text: str) -> None:
        """Tell every worker to stop; the edge ends the scheduler when ``stopping`` is set."""
        self.stopping = text
        for worker in self.workers.values():
            self.post(worker, m.Stop(text))

    # ---- tasks: wanted --------------------------------------------------------------------

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
        missing, broken = 0, None
        for one in task.inputs:
            one.pending += 1
            if one.state is FAILED:
                broken = one.error
            elif one.state is not DONE:
                missing += 1
        task.missing = missing
        task.state = WAITING
        if broken is not None:
            self._fail(task, broken)
        elif not missing:
            self._make_ready(task)

    def _make_ready(self, task: Task) -> None:
        task.state = READY
        if task.options.workers or task.options.resources:
            self.restricted[task] = None
            for worker in self.workers.values():
                self._offer(task, worker)
        else:
            self.ready.push(task)

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

    # ---- tasks: given out -----------------------------------------------------------------

    def _schedule(self, now: float) -> None:
        place = self.placement
        if not place:
            return
        # Restricted tasks are never given ahead: they could not be recalled for another worker that may run them.
        for worker in [w for w in place.idle if w.own] if self.restricted else ():
            while worker in place.idle and (task := place.next_restricted(worker)) is not None:
                self._assign(now, task, worker)
        while place:
            task = self.ready.pop()
            if task is None:
                break
            self._assign(now, task, place.choose(task))
        if place.idle and place.ahead:
            self._recall(now)

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
        task.state, task.worker, task.attempt, task.cost_us = ASSIGNED, worker, attempt, cost
        if task.options.resources:
            for name, amount in task.options.resources.items():
                worker.resources[name] -= amount
        self.restricted.pop(task, None)
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
        if task.inputs:
            inputs = []
            for one in task.positions or task.inputs:
                inputs.append(m.Input(one.number, one.value_attempt, one.value, one.size, one.digest,
                                      self._introduce(worker, one.holders or ())))  # fmt: skip
        compute = m.Compute(task.number, attempt, function.number, task.args, inputs, task.options.time_limit, int(mean))
        self.post(worker, compute, weight)

    def _unassign(self, task: Task) -> None:
        """The attempt is over, or given up: the worker's books are put right."""
        worker = task.worker
        if worker is None:
            return
        task.worker = None
        worker.assigned.pop(task, None)
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
        task.state = IDLE
        if task.trouble is not None:
            task.trouble.paused = False
        self.restricted.pop(task, None)
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
            given = [task for task in worker.assigned if not task.options.workers and not task.options.resources]
            ahead = min(len(given), len(worker.assigned) - worker.hello.slots)
            if ahead:
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

    # ---- outcomes -------------------------------------------------------------------------

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
                self.post(worker, m.Free([message.attempt]))
            return
        worker.progress_at = now
        function = task.function
        mean = function.mean_us
        us = min(max(message.us, 0), LONGEST_US)
        function.mean_us = mean + 0.2 * (us - mean) if mean >= 0 else float(us)
        self._unassign(task)
        self.statistics.done += 1
        task.trouble = None
        if message.value is None:
            self._let_go(task)
            task.holders = {worker: None}
            worker.holds[task] = None
        task.value, task.size, task.digest = message.value, message.size, message.digest
        task.value_attempt = message.attempt
        if message.value is not None:
            self._let_go(task)
            self._cut_lineage(task)
        self._has_value(task)

    def _holds(self, worker: Worker, message: m.Done) -> bool:
        """Whether this very file is the accepted value already: the outcome came a second time."""
        task = self.tasks.get(message.task)
        return task is not None and task.value_attempt == message.attempt and worker in (task.holders or ())

    def _has_value(self, task: Task) -> None:
        """The task is DONE: whoever waits for it is told, and dependents come nearer to running."""
        task.state = DONE
        if task.dependents:
            for dependent in list(task.dependents):
                if dependent.state is WAITING:
                    dependent.missing -= 1
                    if not dependent.missing:
                        self._make_ready(dependent)
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

    def _failed(self, now: float, worker: Worker, message: m.Failed) -> None:
        task = self._current(worker, message.task, message.attempt)
        if task is None:
            return
        worker.progress_at = now
        trouble = self._trouble(task)
        trouble.raised += 1
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
        trouble = self._trouble(task)
        trouble.crashes.append(f"attempt {len(trouble.crashes) + 1} on {worker.name}: {message.exit}")
        again = len(trouble.crashes) < task.options.crash_limit and not message.kind
        self._incident(Incident(now, "executor died", f"{task.key} on {worker.name}", message.exit, requeued=int(again)))
        if again:
            self.statistics.reruns += 1
            self._again(task)
            return
        self._unassign(task)
        text = "\n".join(part for part in (*trouble.crashes, message.detail) if part)
        if not message.kind:
            text = f"{task.key} ended its process {len(trouble.crashes)} times (crash_limit); the last: {message.exit}\n{text}"
        error = m.ErrorInfo(message.kind or "TaskCrashed", "", text, exit=message.exit)
        self._fail(task, _about(error, task, worker, message.attempt))

    def _fail(self, task: Task, error: m.ErrorInfo) -> None:
        """The task and everything that waits for its value fail with the same error."""
        failing = [task]
        while failing:
            one = failing.pop()
            if one.state in _UNFINISHED:
                self._let_go(one)
            one.state, one.error = FAILED, error
            self.statistics.failed += 1
            self._cut_lineage(one)
            self._tell(one, one.watchers)
            failing += [dependent for dependent in one.dependents or () if dependent.state in (WAITING, READY)]
            self._garbage.append(one)

    def _trouble(self, task: Task) -> Trouble:
        if task.trouble is None:
            task.trouble = Trouble()
        return task.trouble

    def _input_lost(self, now: float, worker: Worker, message: m.InputLost) -> None:
        """The worker could not get inputs: ask the holders, and try again after a pause that doubles."""
        task = self._current(worker, message.task, message.attempt)
        if task is None:
            return
        trouble = self._trouble(task)
        trouble.lost_inputs += 1
        self._unassign(task)
        self._let_go(task)
        pause = min(5.0, 0.05 * 2 ** min(trouble.lost_inputs, 10))
        # WAITING, with the pause as one more thing that is missing; the alarm ends it.
        task.state, task.missing, trouble.paused = WAITING, 1, True
        for one in task.inputs:
            one.pending += 1
            task.missing += one.state is not DONE
        for attempt, holder in message.inputs:
            other = self.workers.get(holder)
            if other is None:
                continue
            if trouble.lost_inputs >= MOST_LOST_INPUTS:
                self._missing(now, other, m.Missing([attempt]))
                self.post(other, m.Free([attempt]))
            else:
                self.post(other, m.Verify([attempt]))
        self._alarm(now + pause, self._after_pause, (task, task.attempt))

    def _after_pause(self, now: float, subject: tuple[Task, int]) -> None:
        task, attempt = subject
        if task.trouble is not None and task.trouble.paused and task.attempt == attempt and task.number in self.tasks:
            self._let_go(task)
            self._recover([task])

    # ---- stored values --------------------------------------------------------------------

    def _have(self, now: float, worker: Worker, message: m.Have) -> None:
        unknown = []
        for stored in message.stored:
            task = self.tasks.get(stored.task)
            if task is not None and task.state is DONE and task.value_attempt == stored.attempt and task.holders is not None:
                task.holders[worker] = None
                worker.holds[task] = None
            else:
                unknown.append(stored.attempt)
        if unknown:
            self.post(worker, m.Free(unknown))

    def _missing(self, now: float, worker: Worker, message: m.Missing) -> None:
        gone = set(message.attempts)
        lost = [task for task in worker.holds if task.value_attempt in gone]
        if lost:
            incident = Incident(now, "files lost", f"{len(lost)} results of {worker.name}", "the worker has not got the files")
            for task in lost:
                del worker.holds[task]
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
            if not holders:
                self._drop_value(task)
                lost.append(task)
        needed = [task for task in lost if self._needed(task)]
        incident.lost += len(needed)
        self._recover(needed, incident)
        self._garbage.extend(lost)

    def _drop_value(self, task: Task) -> None:
        """DONE no more.  Dependents that have not been given out wait for the value again."""
        task.state, task.holders, task.value = IDLE, None, None
        for dependent in task.dependents or ():
            if dependent.state is READY:
                dependent.state = WAITING
                self.restricted.pop(dependent, None)
                dependent.missing = 1
            elif dependent.state is WAITING:
                dependent.missing += 1

    def _free(self, task: Task) -> None:
        """DONE and not needed: the bytes go, the recipe stays."""
        for worker in task.holders or ():
            worker.holds.pop(task, None)
            self.post(worker, m.Free([task.value_attempt]))
        task.state, task.holders, task.value = IDLE, None, None

    def collect(self) -> None:
        """Let go of what nobody wants: activity, then value, then record, and then look at its inputs."""
        garbage = self._garbage
        while garbage:
            task = garbage.pop()
            if task.watchers or task.pending or task.number not in self.tasks:
                continue
            if task.state in _UNFINISHED:
                self._stop(task)
            if task.dependents:
                if task.state is DONE and task.holders is not None:
                    self._free(task)
                continue
            if task.state is DONE:
                self._free(task)
            self._forget(task)

    def _forget(self, task: Task) -> None:
        del self.tasks[task.number]
        if task.chosen is not None and self.keys.get(task.chosen) is task:
            del self.keys[task.chosen]
        self._cut_lineage(task)
        self._unuse(task.function)

    # ---- workers --------------------------------------------------------------------------

    def _greet_worker(self, now: float, hello: m.HelloWorker) -> Worker:
        """Values first, so that what an earlier incarnation held and this one brings is never taken for lost."""
        worker = Worker(self._next("worker"), hello, Session(), resources=dict(hello.resources), progress_at=now)
        earlier = [w for w in self.workers.values() if w.name == hello.name]
        self.workers[worker.number] = worker
        self.worker_names.add(hello.name)
        self._adopt_values(now, worker)
        for old in earlier:
            self._replace(now, old, hello)
        self._adopt_attempts(now, worker)
        for task in self.restricted:
            self._offer(task, worker)
        self.placement.update(worker)
        return worker

    def _replace(self, now: float, old: Worker, hello: m.HelloWorker) -> None:
        self._worker_gone(now, old, "a new incarnation took its place")
        if old.hello.incarnation != hello.incarnation:
            self.replaced.append(old)
            self._outlived[old.hello.incarnation] = None
            if len(self._outlived) > MOST_OUTLIVED:
                del self._outlived[next(iter(self._outlived))]

    def _adopt_values(self, now: float, worker: Worker) -> None:
        """Take in the stored values that were accepted and are of use; the others are to be deleted."""
        finished = {outcome.attempt for outcome in worker.hello.finished}
        useless, adopted = [], 0
        for stored in worker.hello.stored:
            task = self.tasks.get(stored.task)
            if task is None or task.value_attempt != stored.attempt or not self._keep(task):
                if stored.attempt not in finished:
                    useless.append(stored.attempt)
                continue
            adopted += 1
            worker.holds[task] = None
            if task.holders is not None:
                task.holders[worker] = None
            else:
                if task.state in _UNFINISHED:
                    self._stop(task)
                task.holders = {worker: None}
                self._has_value(task)
        if useless:
            self.post(worker, m.Free(useless))
        if adopted:
            cause = f"incarnation {worker.hello.incarnation:x} brought its store"
            self._incident(Incident(now, "worker back", worker.name, cause, adopted=adopted))

    def _adopt_attempts(self, now: float, worker: Worker) -> None:
        """Attempts that were taken for lost, and that no others have replaced, go on; the rest is stopped."""
        hello = worker.hello
        orphans = [attempt for number, attempt in hello.running if not self._readopt(worker, number, attempt)]
        for outcome in hello.finished:
            self._readopt(worker, outcome.task, outcome.attempt)
            self._handlers[type(outcome)](now, worker, outcome)
        if orphans:
            self.post(worker, m.Abort(orphans, True))

    def _keep(self, task: Task) -> bool:
        """Whether a stored value of this task is of use: it is stored already, or it is needed and being made again."""
        return task.holders is not None or (task.state in _UNFINISHED and self._needed(task))

    def _readopt(self, worker: Worker, number: int, attempt: int) -> bool:
        """An attempt that was taken for lost, and that no other has replaced, goes on."""
        task = self.tasks.get(number)
        if task is None or task.attempt != attempt or task.state is not READY:
            return False
        task.state, task.worker = ASSIGNED, worker
        self.restricted.pop(task, None)
        if task.options.resources:
            for name, amount in task.options.resources.items():
                worker.resources[name] -= amount
        worker.assigned[task] = None
        worker.load_us += task.cost_us
        worker.functions.add(task.function.number)
        return True

    def _worker_overdue(self, now: float, worker: Worker) -> None:
        if not worker.connected and now - worker.away_since >= self.settings.worker_grace - 1e-6:
            self._worker_gone(now, worker, "its connection was lost and did not come back")

    def _worker_gone(self, now: float, worker: Worker, cause: str) -> None:
        """Give a worker up: its tasks go elsewhere, its sole copies are recovered."""
        if self.workers.pop(worker.number, None) is None:
            return
        worker.connected = False  # its connection may not have been seen to break; nothing is given to it any more
        self.placement.remove(worker)
        self.dirty.pop(worker, None)
        incident = Incident(now, "worker lost", worker.name, cause, requeued=len(worker.assigned))
        held = list(worker.holds)
        worker.holds.clear()
        requeued = list(worker.assigned)
        for task in requeued[: worker.hello.slots]:
            self._trouble(task).exposed += 1
        # Values first, so that the plan for the tasks that were running sees what is missing.
        self._lose(worker, held, incident)
        for task in requeued:
            self.statistics.reruns += 1
            self._again(task, same=True)
        self._incident(incident)

    def _recalled(self, now: float, worker: Worker, message: m.Recalled) -> None:
        worker.recalling = False
        if not message.attempts:
            worker.recall_after = now + 2 * placement.RECALL_STALL_S
        given = {task.attempt: task for task in worker.assigned}
        for attempt in message.attempts:
            if attempt in given:
                self._again(given[attempt])

    def _worker_log(self, now: float, worker: Worker, message: m.WorkerLog) -> None:
        worker.troubles.append(f"{message.kind}: {message.text}")
        self._incident(Incident(now, message.kind, worker.name, message.text))

    def _incident(self, incident: Incident) -> None:
        self.statistics.incidents.append(incident)


_DEFAULTS = m.Options()


def _has_or_gets_value(task: Task) -> bool:
    return task.state is not IDLE


def _inputs(task: Task) -> tuple[Task, ...]:
    return task.inputs


def _recipe(function: Function, args: bytes, inputs: tuple[Task | None, ...]) -> bytes:
    """A digest of how a value is made: the same key with another one is refused."""
    digest = hashlib.blake2b(function.digest, digest_size=16)
    digest.update(len(args).to_bytes(8, "big") + args)
    for one in inputs:
        digest.update(repr(one if one is None else one.chosen or one.number).encode() + b",")
    return digest.digest()


def _about(error: m.ErrorInfo, task: Task, worker: Worker, attempt: int) -> m.ErrorInfo:
    """``error`` with the task, attempt and worker filled in."""
    return m.ErrorInfo(error.kind, error.type, error.text, error.traceback, error.pickled, task.key, attempt,
                       worker.name, error.exit)  # fmt: skip
