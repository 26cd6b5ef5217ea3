"""Answers about the cluster, read from the records, and commands that arrive as questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from twistdist.core.scheduler import lineage, possible
from twistdist.core.scheduler.client_sessions import ClientSessions
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.durable import Durable
from twistdist.core.scheduler.fleet import Fleet
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.leaving import Leaving
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.queues import Queues
from twistdist.core.scheduler.records import Client, Task, TaskState
from twistdist.core.scheduler.refusals import MAX_CIDS
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
    lifecycle: Lifecycle
    garbage: Garbage
    copies: Copies
    leaving: Leaving
    fleet: Fleet
    client_sessions: ClientSessions
    durable: Durable
    rejoining: Rejoining
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
        query = (_AGAIN.get(what) if again else None) or _QUERIES.get(what)
        if query is None:
            raise LookupError("this scheduler does not know it")
        return query(self, now, client, args)

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

    def _find(self, client: Client, name: int | str) -> Task | None:
        """A task by this client's cid, or by any client's key."""
        if isinstance(name, int):
            return client.futures.get(name)
        task = self.registry.keys.get(name)
        if task is None and isinstance(name, str):
            task = next((other for other in self.registry.tasks.values() if other.key == name), None)
        return task

    def _who_has(self, now: float, client: Client, args: list[Any]) -> dict[str, list[str]]:
        """``args``: cids and keys; none: every task that has a value."""
        if args:
            tasks = [task for name in args if (task := self._find(client, name)) is not None]
        else:
            tasks = [task for task in self.registry.tasks.values() if task.state is TaskState.DONE]
        return {task.key: [worker.name for worker in task.holders or ()] for task in tasks}

    def _has_what(self, now: float, client: Client, args: list[Any]) -> dict[str, list[str]]:
        """``args``: worker names; none: all."""
        chosen = [worker for worker in self.registry.workers.values() if not args or worker.name in args]
        return {worker.name: [task.key for task in worker.holds] for worker in chosen}

    def _watch(self, now: float, client: Client, args: list[Any]) -> list[int]:
        """Watch tasks by key: ``args`` are pairs of a new cid and a key; the answer lists the cids whose key is known."""
        known = []
        if any(type(cid) is not int or not 0 <= cid < MAX_CIDS or cid in client.futures for cid, _ in args):
            raise ValueError("the number of a new future is out of range or in use")
        for cid, key in args:
            task = self._find(client, str(key))
            if task is not None:
                if cid in client.futures:
                    raise ValueError(f"the future {cid} is listed twice")
                self.lifecycle.watch(task, client, cid)
                known.append(cid)
        return known

    def _why(self, now: float, client: Client, args: list[Any]) -> dict[str, Any] | None:
        """What is known about the task that ``args`` names by cid or key; None if there is no such task."""
        task = self._find(client, args[0])
        if task is None:
            story = self.garbage.failures.get(args[0])
            return None if story is None else aged(story, now)
        lack = possible.lack_of(task, self.registry.workers.values()) if task.state is TaskState.READY else ""
        return {**aged(story_of(task), now), "lacks": lack}

    def _lineage(self, now: float, client: Client, args: list[Any]) -> list[Any]:
        """``args``: cids and keys.  Everything that a replay of those would use, each task after its inputs."""
        tasks = [task for name in args if (task := self._find(client, name)) is not None]
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

    def _clear(self, now: float, client: Client, args: list[Any]) -> dict[str, int]:
        """``args``: names of durable sessions to end too."""
        names = list(dict.fromkeys(str(name) for name in args))
        self.durable.check_sessions(names)
        return self._clear_again(now, client, names)

    def _clear_again(self, now: float, client: Client, args: list[Any]) -> dict[str, int]:
        """Like ``_clear``, but sessions that are gone are not refused: they ended the first time."""
        before = len(self.registry.tasks)
        for name in args:
            self.durable.end_named_session(name)
        sessions = self.client_sessions.clear() + len(args)
        self.garbage.collect()
        return {"sessions": sessions, "tasks": before - len(self.registry.tasks)}

    def _replicate(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: the number of copies to keep, then cids and keys.  Return how many of those are known."""
        copies, names = max(0, int(args[0])), args[1:]
        tasks = [task for name in names if (task := self._find(client, name)) is not None]
        for task in tasks:
            self.copies.set_target(task, copies)
        return len(tasks)

    def _until_ended(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: cids.  Return how many are known."""
        tasks = [task for cid in args if (task := client.futures.get(cid)) is not None]
        self.durable.keep_until_ended(tasks)
        return len(tasks)

    def _short_of_copies(self, now: float, client: Client, args: list[Any]) -> int:
        """How many copies are being made; ``args``: cids and keys, none: all values."""
        if not args:
            return self.copies.count()
        tasks = [task for name in args if (task := self._find(client, name)) is not None]
        return sum(len(task.retention.copying) if task.retention is not None else 0 for task in tasks)

    def _rebalance(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: cids and keys that may be moved, none: all.  Return how many moves were started."""
        tasks = [task for name in args if (task := self._find(client, name)) is not None]
        return self.copies.rebalance(tasks if args else None)

    def _retire(self, now: float, client: Client, args: list[Any]) -> list[str]:
        """``args``: seconds, then names of workers that must leave.  Return those that are part of the cluster."""
        seconds, *names = args
        if not 0 <= float(seconds) < float("inf"):
            raise ValueError(f"{seconds} is not a number of seconds >= 0")
        chosen = [worker for worker in self.registry.workers.values() if worker.name in names]
        for worker in chosen:
            self.leaving.retire(now, worker, float(seconds), f"retired by client {_name_of(client)}")
        return [worker.name for worker in chosen]

    def _sync(self, now: float, client: Client, args: list[Any]) -> None:
        """Nothing: the answer follows everything that was sent before."""

    def _keys(self, now: float, client: Client, args: list[Any]) -> list[str]:
        """The keys of everything that the client's durable session keeps and its process wants."""
        return [task.key for task in self.durable.session_tasks(client)]

    def _take_up(self, now: float, client: Client, args: list[Any]) -> list[int]:
        """Watch what the session keeps; ``args`` are pairs of a new cid and a key; the answer lists the cids of known keys."""
        tasks, known = {task.key: task for task in self.durable.session_tasks(client)}, []
        for cid, key in args:
            if not 0 <= int(cid) < MAX_CIDS or cid in client.futures:
                raise ValueError(f"the number of a future, {cid}, is out of range or in use")
            if key in tasks:
                self.lifecycle.watch(tasks[key], client, int(cid))
                known.append(int(cid))
        return known

    def _end_session(self, now: float, client: Client, args: list[Any]) -> int:
        """End the durable session.  Return how many tasks it had."""
        return self.durable.end_session(client)

    def _publish(self, now: float, client: Client, args: list[Any]) -> None:
        """``args``: a name, the pickled shape, and the cids of its contents."""
        name, shape, cids = args
        tasks = [client.futures.get(cid) for cid in cids]
        if any(task is None for task in tasks):
            raise ValueError("a future that was cancelled or released can't be published")
        self.durable.publish(str(name), bytes(shape), [task for task in tasks if task is not None])

    def _dataset(self, now: float, client: Client, args: list[Any]) -> list[Any]:
        """``args``: a name, then new cids or none.  The shape, and the keys in order, which the cids watch from now on."""
        name, *cids = args
        dataset = self.durable.datasets.get(name)
        if dataset is None:
            there = ", ".join(sorted(self.durable.datasets)) or "none"
            raise ValueError(f"nothing is published as {name!r}; published names: {there}")
        if cids and len(cids) == len(dataset.tasks):
            for cid, task in zip(cids, dataset.tasks, strict=True):
                self.lifecycle.watch(task, client, int(cid))
        return [dataset.shape, [task.key for task in dataset.tasks]]

    def _datasets(self, now: float, client: Client, args: list[Any]) -> list[str]:
        return sorted(self.durable.datasets)

    def _unpublish(self, now: float, client: Client, args: list[Any]) -> None:
        self.durable.unpublish(str(args[0]))

    def _shutdown(self, now: float, client: Client, args: list[Any]) -> bool:
        self.fleet.shut_down(f"shutdown requested by client {_name_of(client)}")
        return True

    def _take_up_again(self, now: float, client: Client, args: list[Any]) -> list[int]:
        return [cid for cid, _ in args if cid in client.futures] or self._take_up(now, client, args)

    def _watch_again(self, now: float, client: Client, args: list[Any]) -> list[int]:
        return [cid for cid, _ in args if cid in client.futures] or self._watch(now, client, args)

    def _publish_again(self, now: float, client: Client, args: list[Any]) -> None:
        name, shape, cids = args
        dataset = self.durable.datasets.get(str(name))
        if dataset is None or dataset.shape != shape or dataset.tasks != [client.futures.get(cid) for cid in cids]:
            self._publish(now, client, args)

    def _unpublish_again(self, now: float, client: Client, args: list[Any]) -> None:
        if str(args[0]) in self.durable.datasets:
            self._unpublish(now, client, args)


def _name_of(client: Client) -> str:
    return client.name or format(client.number, "x")[:8]


_QUERIES: dict[str, Callable[[Queries, float, Client, list[Any]], Any]] = {
    "workers": Queries._workers,
    "incidents": Queries._incidents,
    "who_has": Queries._who_has,
    "has_what": Queries._has_what,
    "watch": Queries._watch,
    "status": Queries._status,
    "why": Queries._why,
    "lineage": Queries._lineage,
    "clear": Queries._clear,
    "sync": Queries._sync,
    "replicate": Queries._replicate,
    "until_ended": Queries._until_ended,
    "copying": Queries._short_of_copies,
    "rebalance": Queries._rebalance,
    "retire": Queries._retire,
    "keys": Queries._keys,
    "take_up": Queries._take_up,
    "end_session": Queries._end_session,
    "publish": Queries._publish,
    "dataset": Queries._dataset,
    "datasets": Queries._datasets,
    "unpublish": Queries._unpublish,
    "shutdown": Queries._shutdown,
}

#: The names of all questions and commands.
QUESTIONS = tuple(_QUERIES)


#: Commands that could not be carried out a second time as they are.
_AGAIN: dict[str, Callable[[Queries, float, Client, list[Any]], Any]] = {
    "clear": Queries._clear_again,
    "watch": Queries._watch_again,
    "take_up": Queries._take_up_again,
    "publish": Queries._publish_again,
    "unpublish": Queries._unpublish_again,
}
