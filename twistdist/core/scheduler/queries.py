"""Answers about the cluster, read from the records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from twistdist.core.scheduler import lineage, possible
from twistdist.core.scheduler.broadcasts import Broadcasts
from twistdist.core.scheduler.commands import COMMANDS, Commands
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.durable import Durable
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.records import Client, TaskState
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.rejoining import Rejoining
from twistdist.core.scheduler.stories import aged, info_of, story_of
from twistdist.core.scheduler.transitions import Transitions
from twistdist.core.scheduler.watchers import PUBLISHED, UNTIL_ENDED, Watchers
from twistdist.wire import messages as m

#: Names under which tasks are kept that are not sessions of users.
HIDDEN = (PUBLISHED, UNTIL_ENDED)

#: Tasks, and arrows between them, of a lineage at most.
MAX_LINEAGE, MAX_ARROWS = 10_000, 100_000


@attrs.define(eq=False)
class Queries:
    """``query`` answers; each other method is one question.  ``journal`` is what the edge reports about it."""

    outputs: Outputs
    registry: Registry
    transitions: Transitions
    queues: Queues
    watchers: Watchers
    garbage: Garbage
    copies: Copies
    durable: Durable
    rejoining: Rejoining
    broadcasts: Broadcasts
    commands: Commands
    journal: dict[str, Any] = attrs.field(factory=lambda: {"state": "none"})

    def journal_is(self, status: dict[str, Any]) -> None:
        """What the edge reports about the journal."""
        self.journal = status

    def query(self, now: float, client: Client, message: m.Query) -> None:
        """A question arrives, and is answered or refused."""
        try:
            answer = self.answer(now, client, message.what, message.args, message.again)
        except ValueError as error:
            self.outputs.post(client, m.Reply(message.query, str(error)))
        except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
            self.outputs.post(client, m.Reply(message.query, f"the query {message.what!r} can't be answered: {error}"))
        else:
            self.outputs.post(client, m.Reply(message.query, "", answer))

    def answer(self, now: float, client: Client, what: str, args: list[Any], again: bool = False) -> Any:
        """The answer to ``what``, as plain data.  ``LookupError``, ``TypeError`` or ``ValueError`` for an invalid question.

        ``again``: it may have been carried out before, and must not be refused for that reason.
        """
        if what in COMMANDS:
            return self.commands.carry_out(now, client, what, args, again)
        question = _QUESTIONS.get(what)
        if question is None:
            raise LookupError("this scheduler does not know it")
        return question(self, now, client, args)

    def _workers(self, now: float, client: Client, args: list[Any]) -> dict[str, Any]:
        return {worker.name: info_of(worker, now) for worker in self.registry.workers.values()}

    def _incidents(self, now: float, client: Client, args: list[Any]) -> list[dict[str, Any]]:
        """Incidents with their age in seconds, so that clocks need not agree; ``args`` may hold the greatest age wanted."""
        oldest = now - args[0] if args and args[0] is not None else float("-inf")
        found = []
        for incident in self.registry.statistics.incidents:
            if incident.at >= oldest:
                fields = attrs.asdict(incident)
                fields["age"] = now - fields.pop("at")
                found.append(fields)
        return found

    def _who_has(self, now: float, client: Client, args: list[Any]) -> dict[str, list[str]]:
        """``args``: cids and keys; none: every task that has a value."""
        if args:
            tasks = [task for name in args if (task := self.registry.find(client, name)) is not None]
        else:
            tasks = [task for task in self.registry.tasks.values() if task.state is TaskState.DONE]
        return {task.key: [worker.name for worker in task.holders or ()] for task in tasks}

    def _has_what(self, now: float, client: Client, args: list[Any]) -> dict[str, list[str]]:
        """``args``: worker names; none: all."""
        chosen = [worker for worker in self.registry.workers.values() if not args or worker.name in args]
        return {worker.name: [task.key for task in worker.holds] for worker in chosen}

    def _why(self, now: float, client: Client, args: list[Any]) -> dict[str, Any] | None:
        """What is known about the task that ``args`` names by cid or key; None if there is no such task."""
        task = self.registry.find(client, args[0])
        if task is None:
            story = self.garbage.failures.get(args[0])
            return None if story is None else aged(story, now)
        lack = possible.lack_of(task, self.registry.workers.values()) if task.state is TaskState.READY else ""
        return {**aged(story_of(task), now), "lacks": lack}

    def _lineage(self, now: float, client: Client, args: list[Any]) -> list[Any]:
        """``args``: cids and keys.  Everything that a replay of those would use, each task after its inputs."""
        tasks = [task for name in args if (task := self.registry.find(client, name)) is not None]
        found = lineage.ancestry(tasks, lambda task: task.inputs, MAX_LINEAGE)
        if found is None or sum(len(task.inputs) for task in found) > MAX_ARROWS:
            raise ValueError(f"the lineage has more than {MAX_LINEAGE} tasks or {MAX_ARROWS} arrows; ask for fewer futures")
        places = {task: place for place, task in enumerate(found)}
        return [
            [
                task.key,
                task.function.name,
                task.state.value,
                [places[upstream] for upstream in task.inputs],
                [worker.name for worker in task.holders or ()],
            ]
            for task in found
        ]

    def _lacks(self) -> dict[str, int]:
        """What ready tasks lack to be able to run, and how many lack it."""
        found = possible.lacking(self.queues.restricted, self.registry.workers.values(), self.transitions.unfinished)
        return {text: len(tasks) or self.transitions.unfinished for text, tasks in found.items()}

    def _status(self, now: float, client: Client, args: list[Any]) -> dict[str, Any]:
        states: dict[str, int] = {}
        for task in self.registry.tasks.values():
            states[task.state.value] = states.get(task.state.value, 0) + 1
        return {
            "epoch": self.registry.epoch,
            "tasks": states,
            "lacks": self._lacks(),
            "workers": self._workers(now, client, []),
            "sessions": {
                "connected": sum(1 for c in self.registry.clients.values() if c.connected),
                "away": sum(1 for c in self.registry.clients.values() if not c.connected and not c.placeholder),
                "durable": {name: len(c.kept) for name, c in self.watchers.placeholders.items() if name not in HIDDEN},
            },
            "datasets": sorted(self.durable.datasets),
            "suspects": sorted(worker.name for worker in self.registry.workers.values() if worker.suspect),
            "recovering": sorted(self.rejoining.expected) if self.rejoining.active else None,
            "journal": self.journal,
            "functions": len(self.registry.functions),
            **self.registry.statistics.counters(),
            "incidents": len(self.registry.statistics.incidents),
        }

    def _short_of_copies(self, now: float, client: Client, args: list[Any]) -> int:
        """How many copies are being made; ``args``: cids and keys, none: all values."""
        if not args:
            return self.copies.count()
        tasks = [task for name in args if (task := self.registry.find(client, name)) is not None]
        return sum(len(task.retention.copying) if task.retention is not None else 0 for task in tasks)

    def _sync(self, now: float, client: Client, args: list[Any]) -> None:
        """Nothing: the answer follows everything that was sent before."""

    def _broadcast(self, now: float, client: Client, args: list[Any]) -> list[Any]:
        """``args``: the number of a broadcast.  The workers that have not answered, the answers, the errors."""
        return self.broadcasts.state(int(args[0]))

    def _keys(self, now: float, client: Client, args: list[Any]) -> list[str]:
        """The keys of everything that the client's durable session keeps and its process wants."""
        return [task.key for task in self.durable.session_tasks(client)]

    def _datasets(self, now: float, client: Client, args: list[Any]) -> list[str]:
        return sorted(self.durable.datasets)


_QUESTIONS: dict[str, Callable[[Queries, float, Client, list[Any]], Any]] = {
    "workers": Queries._workers,
    "incidents": Queries._incidents,
    "who_has": Queries._who_has,
    "has_what": Queries._has_what,
    "status": Queries._status,
    "why": Queries._why,
    "lineage": Queries._lineage,
    "sync": Queries._sync,
    "copying": Queries._short_of_copies,
    "broadcast": Queries._broadcast,
    "keys": Queries._keys,
    "datasets": Queries._datasets,
}

#: The names of all questions and commands.
QUESTIONS = (*_QUESTIONS, *COMMANDS)
