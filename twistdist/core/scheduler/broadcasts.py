"""Commands to all workers, or to some, and what they answer: fresh executors, uploaded files, lines of logs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from twistdist.core.scheduler.outputs import Outputs
from twistdist.core.scheduler.records import Worker
from twistdist.core.scheduler.registry import Registry
from twistdist.wire import messages as m

#: Broadcasts whose answers are kept; of more, the oldest are forgotten.
MAX_BROADCASTS = 32


@attrs.define(eq=False)
class Broadcast:
    """``silent`` are the workers that have not answered; the answers of the others by name, and the errors."""

    silent: dict[Worker, None]
    answers: dict[str, Any] = attrs.field(factory=dict)
    errors: dict[str, str] = attrs.field(factory=dict)


@attrs.define(eq=False)
class Broadcasts:
    """A broadcast is not written to the journal: its client asks a scheduler that was restarted again."""

    outputs: Outputs
    registry: Registry
    open: dict[int, Broadcast] = attrs.field(factory=dict)

    def send(self, workers: Iterable[Worker], command: Callable[[int], Any], weight: int = 0) -> int:
        """Send each worker ``command(number)``.  Return the number, by which the answers are found."""
        number, chosen = self.registry.next("broadcast"), dict.fromkeys(workers)
        self.open[number] = Broadcast(chosen)
        if len(self.open) > MAX_BROADCASTS:
            del self.open[next(iter(self.open))]
        for worker in chosen:
            self.outputs.post(worker, command(number), weight)
        return number

    def answered(self, now: float, worker: Worker, message: m.Answered) -> None:
        """A worker has carried it out, or could not."""
        broadcast = self.open.get(message.number)
        if broadcast is None or worker not in broadcast.silent:
            return
        del broadcast.silent[worker]
        if message.error:
            broadcast.errors[worker.name] = message.error
        else:
            broadcast.answers[worker.name] = message.value

    def gone(self, worker: Worker) -> None:
        """The worker is no longer part of the cluster: it will not answer."""
        for broadcast in self.open.values():
            broadcast.silent.pop(worker, None)

    def end(self, number: int) -> None:
        """Nobody will ask for the answers any more."""
        self.open.pop(number, None)

    def state(self, number: int) -> list[Any]:
        """The workers that have not answered, answers by name, errors by name.  ``ValueError`` if it is unknown."""
        broadcast = self.open.get(number)
        if broadcast is None:
            raise ValueError("the scheduler no longer knows this order, because it was restarted; give it again")
        return [sorted(worker.name for worker in broadcast.silent), broadcast.answers, broadcast.errors]
