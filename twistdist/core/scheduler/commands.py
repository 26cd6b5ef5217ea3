"""Commands that arrive as questions: each is carried out once, and answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from twistdist.core.scheduler.broadcasts import Broadcasts
from twistdist.core.scheduler.client_sessions import ClientSessions
from twistdist.core.scheduler.copies import Copies
from twistdist.core.scheduler.durable import Durable
from twistdist.core.scheduler.fleet import Fleet
from twistdist.core.scheduler.garbage import Garbage
from twistdist.core.scheduler.leaving import Leaving
from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.core.scheduler.records import Client
from twistdist.core.scheduler.refusals import MAX_CIDS
from twistdist.core.scheduler.registry import Registry
from twistdist.core.scheduler.restarts import Restarts
from twistdist.core.scheduler.stories import story_of
from twistdist.core.scheduler.uploads import Uploads
from twistdist.core.scheduler.watchers import Watchers
from twistdist.wire import messages as m

#: Workers that are asked for the output of a task of which it is not known where it ran, if there are no more.
MAX_ASKED = 20


@attrs.define(eq=False)
class Commands:
    """``carry_out`` is called; each other method is one command."""

    registry: Registry
    watchers: Watchers
    lifecycle: Lifecycle
    garbage: Garbage
    copies: Copies
    leaving: Leaving
    fleet: Fleet
    client_sessions: ClientSessions
    durable: Durable
    broadcasts: Broadcasts
    uploads: Uploads
    restarts: Restarts

    def carry_out(self, now: float, client: Client, what: str, args: list[Any], again: bool = False) -> Any:
        """Carry out one of ``COMMANDS``, and return the answer.  ``TypeError``, ``ValueError`` or ``LookupError`` if wrong.

        ``again``: it may have been carried out before, and must not be refused for that reason.
        """
        return ((_AGAIN.get(what) if again else None) or COMMANDS[what])(self, now, client, args)

    def _watch(self, now: float, client: Client, args: list[Any]) -> list[int]:
        """Watch tasks by key: ``args`` are pairs of a new cid and a key; the answer lists the cids whose key is known."""
        known = []
        if any(type(cid) is not int or not 0 <= cid < MAX_CIDS or cid in client.futures for cid, _ in args):
            raise ValueError("the number of a new future is out of range or in use")
        for cid, key in args:
            task = self.registry.find(client, str(key))
            if task is not None:
                if cid in client.futures:
                    raise ValueError(f"the future {cid} is listed twice")
                self.lifecycle.watch(task, client, cid)
                known.append(cid)
        return known

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
        self.client_sessions.forget_all_ended()
        self.garbage.collect_all()
        return {"sessions": sessions, "tasks": before - len(self.registry.tasks)}

    def _replicate(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: the number of copies to keep, then cids and keys.  Return how many of those are known."""
        copies, names = max(0, int(args[0])), args[1:]
        tasks = [task for name in names if (task := self.registry.find(client, name)) is not None]
        for task in tasks:
            self.copies.set_target(task, copies)
        return len(tasks)

    def _until_ended(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: cids.  Return how many are known."""
        tasks = [task for cid in args if (task := client.futures.get(cid)) is not None]
        self.durable.keep_until_ended(tasks)
        return len(tasks)

    def _rebalance(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: cids and keys that may be moved, none: all.  Return how many moves were started."""
        tasks = [task for name in args if (task := self.registry.find(client, name)) is not None]
        return self.copies.rebalance(tasks if args else None)

    def _retire(self, now: float, client: Client, args: list[Any]) -> list[str]:
        """``args``: seconds, then names of workers that must leave.  Return those that are part of the cluster."""
        seconds, *names = args
        if not 0 <= float(seconds) < float("inf"):
            raise ValueError(f"{seconds} is not a number of seconds >= 0")
        chosen = [worker for worker in self.registry.workers.values() if worker.name in names]
        for worker in chosen:
            name = _name_of(client)
            self.leaving.retire(now, worker, float(seconds), f"retired by client {name}", name)
        return [worker.name for worker in chosen]

    def _dismiss(self, now: float, client: Client, args: list[Any]) -> list[str]:
        """``args``: seconds, then names of workers that leave unless something is lost by it; all others stay, also those that
        were named before.  Return those that are part of the cluster."""
        seconds, *names = args
        if not 0 <= float(seconds) < float("inf"):
            raise ValueError(f"{seconds} is not a number of seconds >= 0")
        chosen = [worker for worker in self.registry.workers.values() if worker.name in names]
        name = _name_of(client)
        self.leaving.dismiss(now, chosen, float(seconds), f"there is no work for it, says client {name}", name)
        return [worker.name for worker in chosen]

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
        self.durable.publish(str(name), _as_bytes(shape), [task for task in tasks if task is not None])

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

    def _unpublish(self, now: float, client: Client, args: list[Any]) -> None:
        self.durable.unpublish(str(args[0]))

    def _shutdown(self, now: float, client: Client, args: list[Any]) -> bool:
        self.fleet.shut_down(f"shutdown requested by client {_name_of(client)}")
        return True

    def _restart(self, now: float, client: Client, args: list[Any]) -> int:
        """Drop all tasks and data.  Return the number of the broadcast that gives every worker fresh executors."""
        return self.restarts.restart(now, client, _name_of(client))

    def _upload(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: a name, a kind and the bytes.  Return the number of the broadcast."""
        name, kind, blob = args
        return self.uploads.add(str(name), str(kind), _as_bytes(blob))

    def _unplug(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: the name of a plugin.  Return the number of the broadcast."""
        return self.uploads.remove_plugin(str(args[0]))

    def _unplug_again(self, now: float, client: Client, args: list[Any]) -> int:
        """Nobody needs to be told if it was removed the first time; the answer is that of an empty broadcast."""
        if str(args[0]) in self.uploads.plugins:
            return self._unplug(now, client, args)
        return self.broadcasts.send((), lambda number: None)

    def _logs(self, now: float, client: Client, args: list[Any]) -> int:
        """``args``: a number of lines, then names of workers, none: all.  Return the number of the broadcast."""
        lines, *names = args
        if type(lines) is not int or lines < 1:
            raise ValueError("the number of lines must be an integer >= 1")
        unknown = sorted(set(names) - {worker.name for worker in self.registry.workers.values()})
        if unknown:
            here = ", ".join(sorted(worker.name for worker in self.registry.workers.values())) or "none"
            raise ValueError(f"no worker of this cluster is named {', '.join(map(str, unknown))}; its workers: {here}")
        chosen = [worker for worker in self.registry.workers.values() if not names or worker.name in names]
        return self.broadcasts.send(chosen, lambda number: m.ReadLog(number, lines))

    def _output(self, now: float, client: Client, args: list[Any]) -> int | None:
        """``args``: a task's cid or key, and a number of lines.  Return the number of the broadcast that asks the workers that
        ran it for what it has written; None if there is no such task, or none of them can be asked."""
        name, lines = args
        if type(lines) is not int or lines < 1:
            raise ValueError("the number of lines must be an integer >= 1")
        task = self.registry.find(client, name)
        story = story_of(task) if task is not None else self.garbage.failures.get(name)
        if story is None:
            return None
        key, names, workers = story["key"], story["ran_on"], [one for one in self.registry.workers.values() if one.reachable]
        chosen = [worker for worker in workers if worker.name in names]
        if not names and len(workers) <= MAX_ASKED:  # for example after a restart of this scheduler
            chosen = workers
        return self.broadcasts.send(chosen, lambda number: m.ReadLog(number, lines, key)) if chosen else None

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


#: The commands, by name.
COMMANDS: dict[str, Callable[[Commands, float, Client, list[Any]], Any]] = {
    "watch": Commands._watch,
    "clear": Commands._clear,
    "replicate": Commands._replicate,
    "until_ended": Commands._until_ended,
    "rebalance": Commands._rebalance,
    "retire": Commands._retire,
    "dismiss": Commands._dismiss,
    "take_up": Commands._take_up,
    "end_session": Commands._end_session,
    "publish": Commands._publish,
    "dataset": Commands._dataset,
    "unpublish": Commands._unpublish,
    "shutdown": Commands._shutdown,
    "restart": Commands._restart,
    "upload": Commands._upload,
    "unplug": Commands._unplug,
    "logs": Commands._logs,
    "output": Commands._output,
}

#: Commands that could not be carried out a second time as they are.
_AGAIN: dict[str, Callable[[Commands, float, Client, list[Any]], Any]] = {
    "clear": Commands._clear_again,
    "watch": Commands._watch_again,
    "take_up": Commands._take_up_again,
    "publish": Commands._publish_again,
    "unpublish": Commands._unpublish_again,
    "unplug": Commands._unplug_again,
}


def _as_bytes(value: Any) -> bytes:
    """``TypeError`` for anything else: ``bytes(10**12)`` would allocate as many."""
    if not isinstance(value, bytes):
        raise TypeError(f"bytes are needed, not {type(value).__name__}")
    return value
