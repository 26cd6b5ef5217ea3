"""Answers about the cluster, read from the records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from twistdist.core.scheduler import lineage, possible
from twistdist.core.scheduler.activity import Activity
from twistdist.core.scheduler.backlog import Backlog
from twistdist.core.scheduler.broadcasts import Broadcasts
from twistdist.core.scheduler.commands import COMMANDS, Commands
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.durable import Durable
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.records import Client, Task, TaskState
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.rejoining import Rejoining
from twistdist.core.scheduler.stories import aged, info_of, load_of, story_of
from twistdist.core.scheduler.sums import Sums
from twistdist.core.scheduler.transitions import Transitions
from twistdist.core.scheduler.watchers import PUBLISHED, UNTIL_ENDED, Watchers
from twistdist.core.scheduler.whereabouts import hosts_of, single_copies
from twistdist.wire import messages as m

#: Names under which tasks are kept that are not sessions of users.
HIDDEN = (PUBLISHED, UNTIL_ENDED)

#: Names of functions and groups in a snapshot, and incidents.
MAX_NAMES, MAX_NEW_INCIDENTS = 50, 200

#: Names and incidents of a snapshot that may be asked for.
MAX_ASKED = 2_000

#: Keys that are told of what would run again.
MAX_KEYS = 100

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
    activity: Activity
    backlog: Backlog
    journal: dict[str, Any] = attrs.field(factory=lambda: {"state": "none"})
    longest_events: dict[str, float] = attrs.field(factory=dict)
    versions: str = ""

    def versions_are(self, versions: str) -> None:
        """What the edge says that the scheduler runs on."""
        self.versions = versions

    def longest_events_are(self, longest: dict[str, float]) -> None:
        """The edge keeps the longest time, in seconds, that each kind of event has taken so far in ``longest``."""
        self.longest_events = longest

    def journal_is(self, status: dict[str, Any]) -> None:
        """What the edge reports about the journal."""
        self.journal = status

    def query(self, now: float, client: Client, message: m.Query) -> None:
        """A question arrives, and is answered or refused."""
        at_once = message.what not in _RECORDED
        try:
            answer = self.answer(now, client, message.what, message.args, message.again)
        except ValueError as error:
            self.outputs.post(client, m.Reply(message.query, str(error), at_once=at_once))
        except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
            text = f"the query {message.what!r} can't be answered: {error}"
            self.outputs.post(client, m.Reply(message.query, text, at_once=at_once))
        else:
            self.outputs.post(client, m.Reply(message.query, "", answer, at_once))

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

    def _demand(self, now: float, client: Client, args: list[Any]) -> dict[str, Any]:
        """What decides how many workers there should be: docs/adapting.rst."""
        workers = list(self.registry.workers.values())
        return {
            "recovering": self.rejoining.active,
            "unfinished": self.transitions.unfinished,
            "ended": self.registry.statistics.done + self.registry.statistics.failed,
            "waiting": self.backlog.waiting(workers),
            "workers": [load_of(worker, now) for worker in workers],
        }

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
        return {
            "epoch": self.registry.epoch,
            "tasks": self.transitions.by_state(len(self.registry.tasks)),
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
            "longest_events": dict(self.longest_events),
            "versions": self.versions,
            "functions": len(self.registry.functions),
            "by_function": self._sums(self.activity.functions),
            "by_group": self._sums(self.activity.groups),
            **self.registry.statistics.counters(),
            "incidents": sum(self.registry.statistics.noticed.values()),
            "incidents_by_kind": dict(self.registry.statistics.noticed),
            "copying": self.copies.count(),
        }

    def _sums(self, known: dict[str, Sums], most: int = MAX_NAMES) -> list[list[Any]]:
        """``[name, unfinished, done, failed, again, microseconds]`` of those with the most recent activity."""
        self.activity.add_up()
        return self.activity.latest(known.items(), most)

    def _snapshot(self, now: float, client: Client, args: list[Any]) -> dict[str, Any]:
        """What the live page shows: docs/live-page.rst.

        ``args`` may hold the ``since`` of the last snapshot, how many names of functions and groups, and incidents, are wanted,
        and from when on incidents are told again, since what they cost grows.
        """
        since, most, changed = [*args, None, None, None][:3]
        since = float("-inf") if since is None else float(since)
        most = MAX_NAMES if most is None else min(max(0, int(most)), MAX_ASKED)
        changed = since if changed is None else min(since, float(changed))
        status = self._status(now, client, [])
        workers, all_workers = status["workers"], self.registry.workers.values()
        singles = single_copies(all_workers)
        for worker in all_workers:
            workers[worker.name].update(single=singles[worker.name], host=worker.hello.host, versions=worker.hello.versions)
        statistics, activity = self.registry.statistics, self.activity
        incidents = [attrs.asdict(incident) for incident in statistics.incidents if incident.at > changed]
        return {
            "now": now,
            "epoch": status["epoch"],
            "since": now,
            "tasks": status["tasks"],
            "counters": statistics.counters(),
            "workers": workers,
            "hosts": hosts_of(all_workers),
            "functions": self._sums(activity.functions, most),
            "groups": self._sums(activity.groups, most),
            "spans": activity.since(activity.spans, since),
            "spans_in_all": activity.made,
            "transfers": activity.since(activity.transfers, since),
            "transfers_in_all": activity.moved,
            "incidents": incidents[-max(MAX_NEW_INCIDENTS, most) :],
            "incidents_in_all": status["incidents"],
            "versions": self.versions,
            "journal": self.journal,
            "sessions": status["sessions"],
            "lacks": status["lacks"],
            "recovering": status["recovering"],
        }

    def _what_if(self, now: float, client: Client, args: list[Any]) -> list[Any]:
        """``args``: a worker's name; or "" and the identity of a host.  What its death would cost: docs/live-page.rst."""
        name, host = [*args, ""][:2]
        known = self.registry.workers.values()
        dead = [one for one in known if (one.hello.host == host if host else one.name == name)]
        if not dead:
            raise ValueError(f"no {'host' if host else 'worker'} of this cluster is named {host or name!r}")
        held = dict.fromkeys(task for worker in dead for task in worker.holds)
        lost = {task: None for task in held if all(holder in dead for holder in task.holders or ())}
        needed = [task for task in lost if task.needed]
        again = lineage.recovery_plan(needed, lambda task: task.state is not TaskState.IDLE and task not in lost, _inputs_of)
        again = list(dict.fromkeys([*again, *(task for worker in dead for task in worker.assigned)]))
        us = sum(task.made[2] if task.made is not None else max(0, int(task.function.mean_us)) for task in again)
        return [len(lost), len(needed), len(again), us, [task.key for task in again[:MAX_KEYS]]]

    def _short_of_copies(self, now: float, client: Client, args: list[Any]) -> int:
        """How many copies are being made; ``args``: cids and keys, none: all values."""
        if not args:
            return self.copies.count()
        tasks = [task for name in args if (task := self.registry.find(client, name)) is not None]
        return sum(len(task.retention.copying) if task.retention is not None else 0 for task in tasks)

    def _sync(self, now: float, client: Client, args: list[Any]) -> None:
        """Nothing: the answer follows everything that was sent before."""

    def _broadcast(self, now: float, client: Client, args: list[Any]) -> list[Any]:
        """``args``: the number of a broadcast, and whether nobody will ask for it again.

        Return the workers that have not answered, the answers and the errors.
        """
        number, last = [*args, False][:2]
        state = self.broadcasts.state(int(number))
        if last:
            self.broadcasts.end(int(number))
        return state

    def _keys(self, now: float, client: Client, args: list[Any]) -> list[str]:
        """The keys of everything that the client's durable session keeps and its process wants."""
        return [task.key for task in self.durable.session_tasks(client)]

    def _datasets(self, now: float, client: Client, args: list[Any]) -> list[str]:
        return sorted(self.durable.datasets)


def _inputs_of(task: Task) -> tuple[Task, ...]:
    return task.inputs


_QUESTIONS: dict[str, Callable[[Queries, float, Client, list[Any]], Any]] = {
    "workers": Queries._workers,
    "demand": Queries._demand,
    "incidents": Queries._incidents,
    "who_has": Queries._who_has,
    "has_what": Queries._has_what,
    "status": Queries._status,
    "snapshot": Queries._snapshot,
    "what_if": Queries._what_if,
    "why": Queries._why,
    "lineage": Queries._lineage,
    "sync": Queries._sync,
    "copying": Queries._short_of_copies,
    "broadcast": Queries._broadcast,
    "keys": Queries._keys,
    "datasets": Queries._datasets,
}

#: Those whose answer says that something was done for good, which must be in the journal first: commands, but for those that
#: change nothing that it keeps, and the question whether everything before it was received.
_RECORDED = {"sync", *COMMANDS} - {"shutdown", "logs", "output"}

#: The names of all questions and commands.
QUESTIONS = (*_QUESTIONS, *COMMANDS)
