"""How many tasks are ready, by what they need and by function: sums, so that nobody has to look at each task."""

from __future__ import annotations

from itertools import islice
from typing import Any, TypeAlias

import attrs

from twistdist.core.scheduler.records import Function, Task, Worker
from twistdist.wire import messages as m

#: What a task needs of a worker: amounts of resources, and the names of the workers that may run it (none: any).
Kind: TypeAlias = tuple[tuple[tuple[str, int], ...], tuple[str, ...]]

ANY: Kind = ((), ())

#: Kinds that an answer lists; functions of one kind that are looked at, tasks of one worker that are.
MAX_KINDS, MAX_FUNCTIONS, MAX_AHEAD = 200, 5_000, 8


@attrs.define(eq=False)
class Backlog:
    """Counts the tasks that are READY.  Those that take no slot don't count."""

    any: dict[Function, int] = attrs.field(factory=dict)
    others: dict[Kind, dict[Function, int]] = attrs.field(factory=dict)

    def add(self, task: Task) -> None:
        """The task is READY."""
        options, counts = task.options, self.any
        if options.resources or options.workers:
            if options.beside:
                return
            kind = kind_of(options)
            if kind != ANY:
                counts = self.others.setdefault(kind, {})
        function = task.function
        counts[function] = counts.get(function, 0) + 1

    def drop(self, task: Task) -> None:
        """The task is no longer READY."""
        options, counts, kind = task.options, self.any, ANY
        if options.resources or options.workers:
            if options.beside:  # which names its worker
                return
            kind = kind_of(options)
            if kind != ANY:
                counts = self.others[kind]
        function = task.function
        left = counts[function] = counts[function] - 1
        if not left:
            del counts[function]
            if not counts and kind != ANY:
                del self.others[kind]

    def waiting(self, workers: list[Worker]) -> list[list[Any]]:
        """``[resources, names of workers, tasks, microseconds, unknown]`` of each kind of task that waits for a slot.

        Tasks that were given to a worker ahead of time wait too.  Of a kind with very many functions, the first ones stand for
        all.
        """
        counted = islice([(ANY, self.any), *self.others.items()], MAX_KINDS)
        found = {kind: _sum(counts) for kind, counts in counted}
        for worker in workers:
            if worker.given > worker.hello.slots:
                _add_ahead(found, worker)
        rows = [(kind, one) for kind, one in found.items() if one.tasks][:MAX_KINDS]
        return [[dict(kind[0]), list(kind[1]), one.tasks, int(one.us), one.unknown] for kind, one in rows]


@attrs.define(eq=False)
class Waiting:
    """Tasks of one kind that wait: how many, the ``us`` that those are expected to take whose function has run before, and how
    many ``unknown`` others there are."""

    tasks: int = 0
    us: float = 0.0
    unknown: int = 0

    def add(self, function: Function, count: int) -> None:
        self.tasks += count
        if function.mean_us >= 0:
            self.us += count * function.mean_us
        else:
            self.unknown += count


def _sum(counts: dict[Function, int]) -> Waiting:
    found = Waiting()
    for function, count in islice(counts.items(), MAX_FUNCTIONS):
        found.add(function, count)
    if len(counts) > MAX_FUNCTIONS:
        share = len(counts) / MAX_FUNCTIONS
        found = Waiting(int(found.tasks * share), found.us * share, int(found.unknown * share))
    return found


def _add_ahead(found: dict[Kind, Waiting], worker: Worker) -> None:
    """The tasks behind those that can run; of many, the first ones stand for all."""
    slots = worker.hello.slots
    ahead = [task for task in islice(worker.assigned, slots, slots + MAX_AHEAD) if task not in worker.following]
    rest = worker.given - slots
    for place, task in enumerate(ahead):
        count = rest // len(ahead) + (place < rest % len(ahead))
        found.setdefault(kind_of(task.options), Waiting()).add(task.function, count)


def kind_of(options: m.Options) -> Kind:
    """What a task with these options needs.  Workers that it merely prefers don't count."""
    names = () if options.allow_other_workers else tuple(sorted(options.workers))
    return tuple(sorted((options.resources or {}).items())), names
