"""Turns a submit into tasks, or finds existing tasks by their key."""

from __future__ import annotations

import hashlib
from typing import Any

import attrs

from twistdist.core.alarms import Alarms
from twistdist.core.scheduler.dispatch import Dispatch
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.nested import Nested
from twistdist.core.scheduler.records import (
    Client,
    Function,
    Task,
)
from twistdist.core.scheduler.refusals import MAX_CIDS
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.settings import Settings, Tuning
from twistdist.core.scheduler.targets import Targets
from twistdist.core.scheduler.transitions import (
    UNFINISHED,
)
from twistdist.core.scheduler.watchers import Watchers
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: Size of a recipe as clients make it: the digests of the function and of the arguments.
RECIPE_BYTES = 32

#: Copies of a value that a task may request at most.
MAX_COPIES = 10_000

_DEFAULTS = m.Options()


@attrs.define(eq=False)
class Submits:
    """Owns the batches of the priority order, ``Client.batch``."""

    tuning: Tuning
    alarms: Alarms
    settings: Settings
    registry: Registry
    ledger: Ledger
    targets: Targets
    watchers: Watchers
    lifecycle: Lifecycle
    garbage: Garbage
    nested: Nested
    dispatch: Dispatch

    def submit(self, now: float, client: Client, message: m.Submit) -> None:
        """Tasks of one function with the same options, or further futures for such tasks."""
        options = message.options or _DEFAULTS
        function = self._check(client, message, options)
        if now >= client.batch_until:
            client.batch, client.batch_until = self.registry.next("batch"), now + self.tuning.batch_s
        self.registry.statistics.submitted += len(message.args)
        made: list[Task] = []
        for at, args in enumerate(message.args):
            cid = message.first + at
            inputs = tuple([client.futures.get(number) for number in message.inputs[at]]) if message.inputs is not None else ()
            key = message.keys[at] if message.keys is not None else None
            recipe, error = b"", None
            if key is not None:
                if message.recipes is not None:
                    recipe = self._with_inputs(message.recipes[at], inputs)
                else:
                    recipe = _recipe(function, args, inputs)
                if any(one is not None and _was_refused(one) for one in inputs):
                    key = None  # an old value must not look as if the refused input had been used: this fails as its input did
            if key is not None:
                known = self.garbage.find(key)
                if known is not None and known.error is not None and not any(other.connected for other, _ in known.watchers):
                    self.registry.drop_key(known)  # it failed for processes that have died: compute it again
                    known = None
                useless = known is not None and (known.error is not None or known.recipe != recipe)
                if known is not None and useless and not self.garbage.is_wanted(known):
                    self.registry.drop_key(known)  # its turn to be dropped has not come yet
                    known = None
                if known is not None and known.recipe == recipe:
                    self.lifecycle.watch(known, client, cid)
                    if client.name:
                        self.watchers.keep(client.name, known)
                    continue
                if known is not None and message.replace:
                    self._give_up_key(client, known)
                elif known is not None:
                    error, key = m.ErrorInfo("KeyConflict", "", _conflict(key, known.recipe, recipe)), None
            if error is None and None in inputs:
                error = m.ErrorInfo("TaskCancelled", "", "an argument of this task is a future that was cancelled")
            made.append(self._add(client, cid, function, args, inputs, options, key, recipe, error))
        self.ledger.batch(client, [task for task in made if task.number in self.registry.tasks])
        if self._names_unknown_workers(options):
            unknown = [task for task in made if task.state in UNFINISHED]
            if unknown:
                self.alarms.set(now + self.settings.name_grace, self._still_unknown, unknown)
        self.nested.look_after(now, client)

    @staticmethod
    def _check(client: Client, message: m.Submit, options: m.Options) -> Function:
        """The function; ``ProtocolError`` for anything that our clients never send."""
        if message.fn not in client.functions:
            raise ProtocolError(f"a task of the unknown function {message.fn} was submitted")
        count = len(message.args)
        if any(given is not None and len(given) != count for given in (message.inputs, message.keys, message.recipes)):
            raise ProtocolError("the lists of a submit differ in length")
        if options.resources and min(options.resources.values()) <= 0:
            raise ProtocolError("a task requests zero or less of a resource")
        if options.beside and (len(options.workers) != 1 or options.allow_other_workers or options.resources):
            raise ProtocolError("a task beside the slots must name one worker and no resources")
        if not 0 <= options.time_limit < float("inf"):  # NaN too
            raise ProtocolError("a task has an invalid time limit")
        if options.replay not in ("always", "verify", "never") or not 1 <= options.replicas <= MAX_COPIES:
            raise ProtocolError("a task has an invalid replay policy or number of replicas")
        cids = range(message.first, message.first + count)
        if cids.start < 0 or cids.stop > MAX_CIDS or not client.futures.keys().isdisjoint(cids):
            raise ProtocolError(f"futures from {message.first} on were submitted twice, or have invalid numbers")
        return client.functions[message.fn]

    def _add(
        self,
        client: Client,
        cid: int,
        function: Function,
        args: bytes,
        inputs: tuple[Any, ...],
        options: m.Options,
        key: str | None,
        recipe: bytes,
        error: m.ErrorInfo | None,
    ) -> Task:
        """A new task; with an ``error``, it fails at once."""
        if error is None and options.checkpoint and not self.settings.checkpoints:
            text = "it requests a checkpoint, but no store is set; start the scheduler with --checkpoint-store"
            error = m.ErrorInfo("ConfigError", "", text)
        task = self.registry.new_task(client, cid, function, args, inputs if error is None else (), options, key)
        task.recipe = recipe
        if options.replicas > 1 or options.replay == "never":
            self.targets.give(task, options)
        self.watchers.link(task, client, cid)
        if error is not None:
            self.lifecycle.fail(task, error)
            return task
        self.lifecycle.admit(task)
        if inputs:
            self.dispatch.admitted(task)
        if key is not None and client.name:
            self.watchers.keep(client.name, task)
        return task

    def _with_inputs(self, recipe: bytes, inputs: tuple[Task | None, ...]) -> bytes:
        """The recipe of a client, which knows its inputs' keys, with their recipes: a key may have gone to another task.

        Data are left out: what they hold is in the client's recipe, and their bytes may differ from run to run.
        """
        data = self.registry.data_function
        recipes = [one.recipe for one in inputs if one is not None and one.recipe and one.function is not data]
        if not recipes:
            return recipe
        half = RECIPE_BYTES // 2
        return recipe[:half] + hashlib.blake2b(recipe[half:] + b"".join(recipes), digest_size=half).digest()

    def _give_up_key(self, client: Client, task: Task) -> None:
        """Another task takes over the key, on purpose.  The durable session wants that one instead of this; whoever else wants
        this one keeps it."""
        self.registry.drop_key(task)
        placeholder = self.watchers.placeholders.get(client.name) if client.name else None
        if placeholder is not None:
            self.watchers.let_go(placeholder, task)
        self.registry.reconsider(task)

    def _names_unknown_workers(self, options: m.Options) -> bool:
        """Whether a task names only workers that never joined."""
        names = options.workers
        return bool(names) and not options.allow_other_workers and self.registry.worker_names.isdisjoint(names)

    def _still_unknown(self, now: float, subject: list[Task]) -> None:
        """Tasks named workers that had never joined; they have had time to."""
        for task in subject:
            if task.state in UNFINISHED and task.number in self.registry.tasks and self._names_unknown_workers(task.options):
                here = ", ".join(sorted(self.registry.worker_names)) or "none"
                names = " or ".join(task.options.workers)
                text = f"no worker named {names} has ever joined this cluster; workers so far: {here}"
                self.lifecycle.fail(task, m.ErrorInfo("NoValidWorker", "", text, key=task.key))


def _was_refused(task: Task) -> bool:
    """Whether the task failed because its key is in use."""
    return task.error is not None and task.error.kind == "KeyConflict"


def _conflict(key: str, known: bytes, recipe: bytes) -> str:
    """What differs.  The first half of a recipe belongs to the function, the second to the arguments."""
    half = RECIPE_BYTES // 2
    if len(known) == len(recipe) == RECIPE_BYTES:
        changed = [
            name
            for name, differs in (
                ("another function", known[:half] != recipe[:half]),
                ("other arguments or inputs", known[half:] != recipe[half:]),
            )
            if differs
        ]
        what = " and ".join(changed)
    else:
        what = "another function, or other arguments or inputs"
    return (
        f"the key {key!r} is in use with {what}; choose another key, release every future of the old one first, or, if "
        "it was changed on purpose, submit it with replace=True"
    )


def _recipe(function: Function, args: bytes, inputs: tuple[Task | None, ...]) -> bytes:
    """A digest of how a value is computed: the same key with another recipe is refused."""
    digest = hashlib.blake2b(function.digest, digest_size=16)
    digest.update(len(args).to_bytes(8, "big") + args)
    for upstream in inputs:
        digest.update(repr(upstream if upstream is None else upstream.chosen or upstream.number).encode() + b",")
    return digest.digest()
