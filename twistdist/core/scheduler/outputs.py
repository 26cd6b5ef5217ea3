"""What one event produces for the edge: frames for peers, and what else it must do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from twistdist.core.scheduler.records import Client, Incident, Statistics, Task, Worker
from twistdist.core.scheduler.settings import Tuning
from twistdist.wire import messages as m

Peer: TypeAlias = Client | Worker


@attrs.frozen
class Probe:
    """Check whether a process listens at the worker's address; :meth:`.Scheduler.probed` takes the answer."""

    worker: Worker


@attrs.frozen
class GiveUp:
    """The worker is no longer part of the cluster: close its connection, if it has one."""

    worker: Worker


@attrs.frozen
class Replaced:
    """Like :class:`GiveUp`, for a worker whose name another one has taken."""

    worker: Worker


@attrs.frozen
class Log:
    """A fault that must be logged, and which ``worker``, task and attempt it is about ("" and 0: several, or none)."""

    incident: Incident
    worker: str = ""
    key: str = ""
    attempt: int = 0


@attrs.frozen
class End:
    """The scheduler must end, for the reason ``text``."""

    text: str


Effect: TypeAlias = Probe | GiveUp | Replaced | Log | End


@attrs.define
class Bundle:
    """``frames`` to send, by peer, and then ``effects`` to carry out, in order."""

    frames: list[tuple[Peer, list[m.Frame]]] = attrs.field(factory=list)
    effects: list[Effect] = attrs.field(factory=list)


@attrs.define(eq=False)
class Outputs:
    """What is collected during an event.  ``dirty`` are the peers for which something is queued."""

    tuning: Tuning
    statistics: Statistics
    dirty: dict[Peer, None] = attrs.field(factory=dict)
    _probes: dict[Worker, None] = attrs.field(factory=dict)
    _given_up: list[GiveUp] = attrs.field(factory=list)
    _replaced: list[Replaced] = attrs.field(factory=list)
    _logs: list[Log] = attrs.field(factory=list)
    _end: str = ""

    def post(self, peer: Peer, message: Any, weight: int = 0) -> None:
        """Send a message to a peer at the end of this event; ``weight`` is its size in bytes if that is large."""
        peer.session.post(message, weight)
        self.dirty[peer] = None

    def look_at(self, peer: Peer) -> None:
        """The peer can be sent to again, after all others: messages posted while it was away have no other chance to leave."""
        self.dirty.pop(peer, None)
        self.dirty[peer] = None

    def drop(self, peer: Peer) -> None:
        """The peer's session has ended: nothing more is sent to it."""
        self.dirty.pop(peer, None)

    def incident(self, incident: Incident, worker: Worker | None = None, task: Task | None = None) -> None:
        """Remember a fault and have it logged, as one of this worker and of the current attempt of this task."""
        self.statistics.incidents.append(incident)
        noticed = self.statistics.noticed
        noticed[incident.kind] = noticed.get(incident.kind, 0) + 1
        name = worker.name if worker is not None else ""
        key, attempt = (task.key, task.attempt) if task is not None else ("", 0)
        self._logs.append(Log(incident, name, key, attempt))
        if len(self._logs) > self.tuning.max_incidents:
            del self._logs[0]

    def probe(self, worker: Worker) -> None:
        """Have the edge check whether the worker's process exists."""
        self._probes[worker] = None

    def give_up(self, worker: Worker) -> None:
        """Have the worker's connection closed."""
        self._given_up.append(GiveUp(worker))

    def replace(self, worker: Worker) -> None:
        """Have the connection of a worker closed whose name another one has taken."""
        self._replaced.append(Replaced(worker))

    def end(self, text: str) -> None:
        """Have the scheduler ended."""
        self._end = text

    def take(self, reads: Callable[[Peer], bool]) -> Bundle:
        """Everything collected, once.  What is for a peer that does not read stays until it does, or has a new connection."""
        bundle = Bundle()
        if self.dirty:
            dirty, self.dirty = self.dirty, {}
            for peer in dirty:
                if reads(peer):
                    frames = peer.session.take()
                    if frames:
                        bundle.frames.append((peer, frames))
                elif peer.connected:
                    self.dirty[peer] = None
        if self._probes or self._given_up or self._replaced or self._logs or self._end:
            end: list[Effect] = [End(self._end)] if self._end else []
            bundle.effects = [*map(Probe, self._probes), *self._given_up, *self._replaced, *self._logs, *end]
            self._probes, self._given_up, self._replaced, self._logs, self._end = {}, [], [], [], ""
        return bundle
