"""The scheduler: events from its peers in, messages for them out.

Events go in with the time (``greet``, ``receive``, ``connection_lost``, ``tick``); messages come out in the sessions of
the peers in ``dirty``.  ``wake`` says when ``tick`` is wanted next.  Below it lie the book of tasks (:mod:`.tasks`), what came
of attempts (:mod:`.outcomes`), the resilience manager (:mod:`.resilience`) and the storeys above that; states and
transitions: docs/architecture.rst.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from twistdist.core import nesting, possible, queries, refusals
from twistdist.core.ledger import Ledger
from twistdist.core.queue import rank
from twistdist.core.records import Care, Client, Function, Incident, Task, Worker
from twistdist.core.refusals import MOST_CIDS
from twistdist.core.replicas import check_replicas
from twistdist.core.resilience import Settings
from twistdist.core.restart import Restarting
from twistdist.core.sessions import UNTIL_ENDED
from twistdist.core.tasks import Peer
from twistdist.core.transitions import ASSIGNED, DONE, FAILED, IDLE, UNFINISHED
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: Failed tasks that nobody wants any more of which it is known why they failed.
MOST_FAILURES = 1_000

#: Submits of one session within this many seconds form one batch of the priority order.
BATCH_S = 0.1

#: A recipe as clients make it: the digest of the function and that of the arguments.
RECIPE_BYTES = 32


class Scheduler(Restarting):
    """The pure core.  ``epoch`` is a positive integer below 2**27 that no earlier life of this scheduler had; with a journal
    ``ledger`` knows what is to be written."""

    def __init__(self, epoch: int, settings: Settings | None = None, ledger: Ledger | None = None) -> None:
        super().__init__(epoch, settings, ledger)
        self.stopping = ""
        self._fatherless: dict[Client, None] = {}  # sessions of tasks that are away
        self.failures: dict[str, dict[str, Any]] = {}  # of tasks that are forgotten, by key
        self.lacks = possible.Lacks()
        self._looks_for_lacks = False
        self._handlers: dict[type, Callable[[float, Any, Any], None]] = {
            m.Function: self._function,
            m.Submit: self._submit,
            m.Release: self._release,
            m.Cancel: self._cancel,
            m.Unreachable: self._unreachable,
            m.Query: self._query,
            m.Bye: self._bye,
            m.DropFunctions: self._drop_functions,
            m.Scatter: self._scatter,
            m.NotSupplied: self._not_supplied,
            m.Keeps: self._keeps,
            m.Done: self._done,
            m.Failed: self._failed,
            m.Crashed: self._crashed,
            m.InputLost: self._input_lost,
            m.Have: self._have,
            m.Missing: self._missing,
            m.Recalled: self._recalled,
            m.WorkerLog: self._worker_log,
            m.Intake: self._intake,
            m.Parked: self._parked,
            m.CopyFailed: self._copy_failed,
            m.Rescued: self._rescued,
            m.Locate: self._locate,
            m.Leaving: self._leaving,
            m.Inventory: self._inventory,
            m.Beat: lambda now, peer, message: None,  # it has a meaning only outside the numbers
            m.Undecodable: lambda now, client, message: self._refuse_message(now, client, message, message.text),
        }

    @property
    def wake(self) -> float | None:
        """When ``tick`` is wanted next."""
        return self._alarms.next

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._alarms.ring(now)
        self._settle(now)

    def receive(self, now: float, peer: Peer, messages: Iterable[Any]) -> None:
        """Messages that ``peer``'s session accepted, in order; those of who is no part of the cluster any more are refused."""
        handlers = self._handlers
        known: Peer | None
        known = self.clients.get(peer.number) if isinstance(peer, Client) else self.workers.get(peer.number)
        if known is not peer:
            raise ProtocolError(f"the session of {peer.name or 'a client'} has ended, or was replaced, and goes on speaking")
        if isinstance(peer, Worker):
            self._heard(now, peer)
        for message in messages:
            kind = type(message)
            try:
                handlers[kind](now, peer, message)
            except ProtocolError as error:
                if not isinstance(peer, Client):
                    raise
                self._refuse_message(now, peer, message, str(error))
            if kind is m.Bye:
                break  # nothing comes behind it
        if isinstance(peer, Client) and peer.number in self.clients:
            self.ledger.session(peer)  # which frames were received: the next ones may be waiting on its side already
        self._settle(now)

    def _refuse_message(self, now: float, client: Client, message: Any, text: str) -> None:
        """A client's message is not carried out: its futures fail, its question is answered, and the session goes on."""
        cids, query = refusals.concerned(message)
        for cid in cids:
            if cid not in client.futures and cid not in client.sources:
                client.futures[cid] = None
                self.ledger.watch(None, client, cid)
                self.post(client, m.Erred(cid, m.ErrorInfo("ProtocolError", "", f"the scheduler refused it: {text}")))
        if query is not None:
            self.post(client, m.Reply(query, f"the scheduler refused the question: {text}"))
        kind = "message" if isinstance(message, m.Undecodable) else type(message).__name__
        self._incident(Incident(now, "message refused", client.name or f"{client.number:x}", f"{kind}: {text}"))

    def greet(self, now: float, hello: m.HelloClient | m.HelloWorker) -> Peer:
        """A new session.  The edge answers with Ready, outside the session's numbers."""
        peer: Peer
        if isinstance(hello, m.HelloClient):
            self.check_name(hello)
            peer = self._greet_client(hello)
        else:
            peer = self._greet_worker(now, hello)
            self._worker_came(peer)
            self._came_back(now, peer)
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
        client = self.clients.get(resume.session)
        if client is not None and not client.held and (resume.epoch == self.epoch or client.recorded):
            return client
        if resume.epoch != self.epoch:
            return None
        return next((w for w in self.workers.values() if w.hello.session == resume.session), None)

    def connection_lost(self, now: float, peer: Peer) -> None:
        """The connection broke; the session lives on for the grace period."""
        peer.connected, peer.away_since = False, now
        if isinstance(peer, Worker):
            self.placement.remove(peer)
            self._rescue(peer)
            self.probes.append(peer)
        elif peer.parent:
            self._fatherless[peer] = None
        else:
            self._alarm(now + self.settings.client_grace, self._client_overdue, peer)
        self._settle(now)

    def reconnected(self, now: float, peer: Peer) -> None:
        """The session goes on over a new connection."""
        peer.connected = True
        if isinstance(peer, Client):
            if peer.restored:
                self.returned(peer)
            self._look_after_children(now, peer)
        self.dirty[peer] = None  # what was posted while it was away has no other occasion to leave
        if isinstance(peer, Worker):
            self._heard(now, peer)
            self.placement.update(peer)
            self._worker_came(peer)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """The end of every event: forget what nobody wants, then give out work."""
        if self._fatherless:
            self._end_with_parents()
        if self._garbage:
            self.collect()
        if self.recovering:
            return
        if self._untended or self.retiring:
            self._tend_all(now)
        self._schedule(now)
        if not self._looks_for_lacks and (self.restricted or (self.unfinished and not self.workers)):
            self._looks_for_lacks = True
            self._alarm(now + possible.LOOK_S, self._look_for_lacks, None)

    def _forget(self, task: Task) -> None:
        """Of one that failed it is kept why, for a while."""
        if task.state is FAILED and task.error is not None and task.error.kind != "TaskCancelled":
            self.failures.pop(task.key, None)
            self.failures[task.key] = queries.story_of(task)
            if len(self.failures) > MOST_FAILURES:
                del self.failures[next(iter(self.failures))]
        super()._forget(task)

    def _look_for_lacks(self, now: float, _: None) -> None:
        """Tell of tasks that nobody who is here may ever run, and of those that somebody may run again."""
        for news in self.lacks.look(self.restricted, self.workers.values(), self.unfinished):
            self._tell_lack(news)
            if news.new:
                some = f"{len(news.tasks)} tasks, {news.tasks[0].key} among them" if news.tasks else f"{self.unfinished} tasks"
                self._incident(Incident(now, "tasks wait", some, news.text))
        self._looks_for_lacks = bool(self.lacks.any or self.restricted)
        if self._looks_for_lacks:
            self._alarm(now + possible.LOOK_S, self._look_for_lacks, None)

    def _tell_lack(self, news: possible.News) -> None:
        cids: dict[Client, list[int]] = {}
        for task in news.tasks:
            for client, cid in task.watchers:
                cids.setdefault(client, []).append(cid)
        if news.all:
            cids = {client: [] for client in self.clients.values()}
        for client, of_client in cids.items():
            if not client.held:
                self.post(client, m.Lacks(of_client, news.text))

    def _end_with_parents(self) -> None:
        """A task's session that is away ends with the task; until then the task may be run again and find its children."""
        for client in list(self._fatherless):
            parent = self.tasks.get(client.parent)
            if client.connected or parent is None or parent.state not in UNFINISHED:
                del self._fatherless[client]
                if not client.connected:
                    self._end_client(client)

    def _fatherless_session(self, client: Client) -> None:
        self._fatherless[client] = None

    def _greet_client(self, hello: m.HelloClient) -> Client:
        parent = hello.parent if hello.parent in self.tasks else 0  # one that came later would be a child of its own
        client = Client(hello.session, hello.name, self._new_session(), parent=parent)
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
        if self.clients.get(client.number) is not client:
            return  # ended before; the number may be that of a later session
        if client.name and not client.held:
            self._keep_wishes(client)
        del self.clients[client.number]
        self.ledger.session_gone(client)
        for cid in list(client.futures):
            self._unwatch(client, cid)
        self._sources_gone(client)
        for function in client.functions.values():
            self._unuse(function)
        self.dirty.pop(client, None)

    def _function(self, now: float, client: Client, message: m.Function) -> None:
        if message.fn in client.functions:
            raise ProtocolError(f"the function {message.fn} was sent twice")
        function = self.functions.get(message.digest)
        if function is None:
            function = Function(self._next("function"), message.name, message.digest, message.blob)
            self.functions[message.digest] = function
            self.ledger.function(function)
        function.users += 1
        client.functions[message.fn] = function
        self.ledger.session(client)

    def _drop_functions(self, now: float, client: Client, message: m.DropFunctions) -> None:
        for fn in message.fns:
            function = client.functions.pop(fn, None)
            if function is not None:
                self._unuse(function)

    def _submit(self, now: float, client: Client, message: m.Submit) -> None:
        if message.fn not in client.functions:
            raise ProtocolError(f"a task of the unknown function {message.fn} was submitted")
        count = len(message.args)
        if any(given is not None and len(given) != count for given in (message.inputs, message.keys, message.recipes)):
            raise ProtocolError("a submit whose lists are not of one length")
        function, options = client.functions[message.fn], message.options or _DEFAULTS
        if options.resources and min(options.resources.values()) <= 0:
            raise ProtocolError("a task asks for nothing, or less, of a resource")
        if not 0 <= options.time_limit < float("inf"):  # NaN too
            raise ProtocolError("a task with an impossible time limit")
        check_replicas(options.replay, options.replicas)
        cids = range(message.first, message.first + count)
        if cids.start < 0 or cids.stop > MOST_CIDS or not client.futures.keys().isdisjoint(cids):
            raise ProtocolError(f"futures from {message.first} on were submitted twice, or have impossible numbers")
        if now >= client.batch_until:
            client.batch, client.batch_until = self._next("batch"), now + BATCH_S
        self.statistics.submitted += len(message.args)
        strange: list[Task] | None = [] if self._is_strange(options) else None
        made: list[Task] = []
        for i, args in enumerate(message.args):
            cid = message.first + i
            named = message.inputs[i] if message.inputs is not None else ()
            inputs = tuple([client.futures.get(one) for one in named])
            key = message.keys[i] if message.keys is not None else None
            known, recipe, error = None, b"", None
            if key is not None:
                known = self._known(key)
                recipe = message.recipes[i] if message.recipes is not None else _recipe(function, args, inputs)
            if known is not None and known.recipe == recipe:
                self.watch(known, client, cid)
                if client.name:
                    self._hold_task(client.name, known)
                continue
            if known is not None and message.replace:
                self._give_up_key(client, known)
                known = None
            if known is not None:
                error = m.ErrorInfo("KeyConflict", "", _conflict(str(key), known.recipe, recipe))
            elif None in inputs:
                error = m.ErrorInfo("TaskCancelled", "", "an argument of this task is a future that was cancelled")
            task = self._new_task(client, cid, function, args, inputs if error is None else (), options,
                                  key if known is None else None)  # fmt: skip
            task.recipe = recipe
            made.append(task)
            if options.replicas > 1 or options.replay == "never":
                self._give_target(task, options)
            client.futures[cid] = task
            task.watchers[(client, cid)] = None
            if error is None and options.checkpoint and not self.settings.checkpoints:
                text = f"{task.key} is to be checkpointed; start the scheduler with --checkpoint-store to say where"
                error = m.ErrorInfo("ConfigError", "", text, key=task.key)
            if error is not None:
                self._fail(task, error)
            else:
                self._admit(task)
                if key is not None and client.name:
                    self._hold_task(client.name, task)
                if strange is not None:
                    strange.append(task)
        self.ledger.batch(client, [task for task in made if task.number in self.tasks])
        if strange:
            self._alarm(now + self.settings.name_grace, self._still_strange, strange)
        self._look_after_children(now, client)

    def _look_after_children(self, now: float, client: Client) -> None:
        """The client of a task has submitted something: see that it can begin although the task has a slot."""
        if client.parent and not client.look_after:
            client.look_after = nesting.LOOK_S
            self._alarm(now + client.look_after, self._look_at_children, client)

    def _look_at_children(self, now: float, client: Client) -> None:
        parent = self.tasks.get(client.parent)
        wanted = [task for task in client.futures.values() if task is not None and task.state in UNFINISHED]
        if not client.connected or parent is None or parent.state is not ASSIGNED or not wanted:
            client.look_after = 0.0
            return
        client.look_after = min(nesting.LONGEST_LOOK_S, 2 * client.look_after)
        self._alarm(now + client.look_after, self._look_at_children, client)
        parents = {self.tasks[one.parent] for one in self.clients.values() if one.connected and one.parent in self.tasks}
        found = nesting.slot_to_free(parent, wanted, list(self.workers.values()), parents)
        if found is not None:
            worker, task = found
            text = f"{len(wanted)} tasks of {parent.key} can't begin: tasks that have tasks of their own hold every slot"
            self._incident(Incident(now, "slot lent", worker.name, f"{text}; {task.key} goes on beside its slot"))
            self.post(worker, m.Park(task.attempt))

    def _give_target(self, task: Task, options: m.Options) -> None:
        """Copies beyond the first; what must never be computed twice is on two workers, or checkpointed, before it is told."""
        never = options.replay == "never"
        task.care = Care(max(options.replicas, 2 if never and not options.checkpoint else 1), announced=not never)
        self.targets[task] = None

    def _known(self, key: str) -> Task | None:
        """The task of that key, unless nobody wants it any more."""
        task = self.keys.get(key)
        if task is not None and not task.watchers and not task.pending:
            self.collect()
            task = self.keys.get(key)
        return task

    def _give_up_key(self, client: Client, task: Task) -> None:
        """The key goes to another task, on purpose.  The durable session wants the new one instead of this; whoever else
        wants this one keeps it."""
        if self.keys.get(task.chosen or "") is task:
            del self.keys[task.chosen or ""]
        holder = self.held.get(client.name) if client.name else None
        if holder is not None:
            self._unhold_task(holder, task)
        self._garbage.append(task)

    def _is_strange(self, options: m.Options) -> bool:
        """Whether a task names only workers that were never here."""
        return bool(options.workers) and not options.allow_other_workers and self.worker_names.isdisjoint(options.workers)

    def _still_strange(self, now: float, subject: list[Task]) -> None:
        """Tasks named workers that had never been here; they have had time to come."""
        for task in subject:
            if task.state in UNFINISHED and task.number in self.tasks and self._is_strange(task.options):
                here = ", ".join(sorted(self.worker_names)) or "no workers so far"
                names = " or ".join(task.options.workers)
                text = f"no worker named {names} was ever part of this cluster, which has had {here}"
                self._fail(task, m.ErrorInfo("NoValidWorker", "", text, key=task.key))

    def _new_task(self, client: Client, cid: int, function: Function, args: bytes, inputs: tuple[Any, ...],
                  options: m.Options, key: str | None) -> Task:  # fmt: skip
        number = self._next("task")
        depth = 1 + max([one.depth for one in inputs]) if inputs else 0
        order = rank(options.priority, client.batch, depth, number)
        task = Task(number, function, args, inputs, options, order, key, f"{client.number:x}"[:8], cid)
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
        self.ledger.session(client)
        self.ledger.watch(task, client, cid)
        if task.state is DONE or task.state is FAILED:
            self._tell(task, [(client, cid)])
        elif task.state is IDLE:
            self._recover([task])

    def _release(self, now: float, client: Client, message: m.Release) -> None:
        if message.durable:
            self.let_go(client, message.cids)
        for cid in message.cids:
            self._unwatch(client, cid)

    def _unwatch(self, client: Client, cid: int) -> None:
        task = client.futures.pop(cid, None)
        self.ledger.unwatch(task, client, cid)
        if task is not None:
            task.watchers.pop((client, cid), None)
            self._garbage.append(task)

    def _cancel(self, now: float, client: Client, message: m.Cancel) -> None:
        for cid in message.cids:
            task = client.futures.get(cid)
            if task is None or task.state not in UNFINISHED or (message.unstarted and task.state is ASSIGNED):
                continue
            for dependent in self._unfinished_dependents(task):
                text = f"{dependent.key} was cancelled with its input {task.key}"
                cids = [one for owner, one in dependent.watchers if owner is client]
                self._cancel_futures(client, dependent, cids, m.ErrorInfo("TaskCancelled", "", text, key=dependent.key))
            error = m.ErrorInfo("TaskCancelled", "", f"{task.key} was cancelled", key=task.key)
            self._cancel_futures(client, task, [cid], error)

    @staticmethod
    def _unfinished_dependents(task: Task) -> list[Task]:
        """What can't be computed without ``task``, at any depth, the deepest first."""
        found: dict[Task, None] = {}
        todo = [task]
        while todo:
            for one in todo.pop().dependents or ():
                if one.state in UNFINISHED and one not in found:
                    found[one] = None
                    todo.append(one)
        return sorted(found, key=lambda one: -one.depth)

    def _cancel_futures(self, client: Client, task: Task, cids: list[int], error: m.ErrorInfo) -> None:
        """These futures of ``client`` are cancelled; the task is stopped when nobody else wants it."""
        for cid in cids:
            task.watchers.pop((client, cid), None)
            client.futures[cid] = None
            self.ledger.unwatch(task, client, cid)
            self.ledger.watch(None, client, cid)
            self.post(client, m.Erred(cid, error))
        for name in (client.name, UNTIL_ENDED):
            if name and (holder := self.held.get(name)) is not None:
                self._unhold_task(holder, task)
        if not task.watchers and not task.pending and task.state in UNFINISHED:
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
        for number in message.holders:
            if number in self.workers:
                self._mark_link(now, client, number)
        self._relay(task, client)
        self._alarm(now + 0.2, self._tell_again, (client, message.cid, task))

    def _tell_again(self, now: float, subject: tuple[Client, int, Task]) -> None:
        client, cid, task = subject
        if client.futures.get(cid) is task and task.state is DONE and client.number in self.clients:
            self._tell(task, [(client, cid)])

    def _query(self, now: float, client: Client, message: m.Query) -> None:
        try:
            answer = queries.answer(self, now, client, message.what, message.args, message.again)
        except ValueError as error:
            self.post(client, m.Reply(message.query, str(error)))
        except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
            self.post(client, m.Reply(message.query, f"the question {message.what!r} can't be answered: {error}"))
        else:
            self.post(client, m.Reply(message.query, "", answer))

    def clear(self) -> int:
        """Drop the sessions of clients that are not connected, and are not meant to outlive them; how many there were."""
        away = [client for client in self.clients.values() if not client.connected and not client.held and not client.name]
        for client in away:
            self._end_client(client)
        return len(away)

    def shutdown(self, text: str) -> None:
        """Tell every worker to stop; the edge ends the scheduler when ``stopping`` is set."""
        self.stopping = text
        for worker in self.workers.values():
            self.post(worker, m.Stop(text))


_DEFAULTS = m.Options()


def _conflict(key: str, known: bytes, recipe: bytes) -> str:
    """What differs.  The first half of a recipe is the function's, the second that of the arguments."""
    half = RECIPE_BYTES // 2
    if len(known) == len(recipe) == RECIPE_BYTES:
        changed = [name for name, differs in (("another function", known[:half] != recipe[:half]),
                                              ("other arguments", known[half:] != recipe[half:])) if differs]  # fmt: skip
        what = " and ".join(changed)
    else:
        what = "another function or other arguments"
    return (f"the key {key!r} is in use with {what}; choose another key, release every future of the old one first, or, when "
            "it was changed on purpose, submit it with replace=True")  # fmt: skip


def _recipe(function: Function, args: bytes, inputs: tuple[Task | None, ...]) -> bytes:
    """A digest of how a value is made: the same key with another one is refused."""
    digest = hashlib.blake2b(function.digest, digest_size=16)
    digest.update(len(args).to_bytes(8, "big") + args)
    for one in inputs:
        digest.update(repr(one if one is None else one.chosen or one.number).encode() + b",")
    return digest.digest()
