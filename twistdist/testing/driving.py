"""Each pure core alone, driven through no-op tasks: what the bookkeeping of a task costs, without sockets and processes.

A drive is prepared by its constructor; ``run`` takes a number of tasks through the core from submit to release, in the frames
that a busy cluster would send.  ``benchmarks`` measures its time, ``tests/cost.py`` counts its bytecodes.
"""

from __future__ import annotations

from typing import Any

from twistdist.core.client import Client, FunctionRef, Record
from twistdist.core.scheduler import Scheduler
from twistdist.core.scheduler.outputs import Peer
from twistdist.core.scheduler.records import Client as ClientPeer
from twistdist.core.session import FRAME_MESSAGES
from twistdist.core.worker import Worker, effects
from twistdist.wire import messages as m

#: Microseconds that each task is said to have run.
TASK_US = 5

#: The arguments of each task.
ARGS = b"arguments"


class SchedulerDrive:
    """The scheduler's core with ``workers`` workers of one slot and one client.  Workers finish what they are given at once."""

    def __init__(self, workers: int) -> None:
        self.core = Scheduler(1)
        self._now = 0.0
        self._cid = 1
        self._numbers: dict[Peer, int] = {}
        self._client = self.core.greet(0.0, m.HelloClient(1))
        assert isinstance(self._client, ClientPeer)
        self._receive(self._client, [m.Function(1, "f", b"f", b"blob")])
        for number in range(workers):
            hello = m.HelloWorker(100 + number, f"w{number}", 100 + number, 1, 1, "tcp:x:1", "h", "/s", {}, [], [], [])
            self.core.greet(0.0, hello)
        self.run(workers)  # from now on it is known how long a task takes

    def run(self, tasks: int) -> None:
        """Submit ``tasks`` tasks, finish each of them, tell the client, and release their futures."""
        first, self._cid = self._cid, self._cid + tasks
        self._receive(self._client, [m.Submit(first, 1, [ARGS] * tasks)])
        while self.core.unfinished or self.core.dirty:
            for peer, frames in self.core.take(lambda peer: True).frames:
                computes = [message for frame in frames for message in frame[2] if type(message) is m.Compute]
                if computes:
                    self._receive(peer, [m.Done(one.task, one.attempt, b"value", 5, b"", TASK_US) for one in computes])
        self._receive(self._client, [m.Release(list(range(first, self._cid)))])

    def _receive(self, peer: Peer, messages: list[Any]) -> None:
        """The peer sends a frame, which acknowledges everything that it was sent."""
        self._now += 0.001
        number = self._numbers[peer] = self._numbers.get(peer, 0) + 1
        self.core.receive(self._now, peer, peer.session.accept((number, peer.session.sent, messages)))


class WorkerDrive:
    """The core of a worker with one slot.  Its executor finishes each packet of tasks at once."""

    def __init__(self) -> None:
        self.core = Worker(m.HelloWorker(1, "w", 1, 1, 1, "tcp:x:1", "h", "/s", {}, [], [], []))
        self._now = 0.0
        self._frame = 0
        self._task = 0
        self.core.dialer.greeted(m.Ready(1))
        self.core.start(0.0)
        self.core.executor_started(0.0, 0)
        self.core.take()
        self._receive([m.WorkerFunction(1, "f", b"blob")])

    def run(self, tasks: int) -> None:
        """Have ``tasks`` tasks assigned, give them to the executor, and report their outcomes."""
        first, self._task = self._task + 1, self._task + tasks
        for begin in range(first, self._task + 1, FRAME_MESSAGES):
            numbers = range(begin, min(begin + FRAME_MESSAGES, self._task + 1))
            self._receive([m.Compute(number, number, 1, ARGS, cost=TASK_US) for number in numbers])
        reported = 0
        while reported < tasks:
            for effect in self.core.take():
                if isinstance(effect, effects.Give):
                    self._finish([one for one in effect.messages if isinstance(one, m.Compute)])
            for _, _, messages in self.core.dialer.session.take():
                reported += sum(type(message) is m.Done for message in messages)

    def _finish(self, computes: list[m.Compute]) -> None:
        self._now += 0.001
        outcomes = [m.Done(one.task, one.attempt, b"value", 5, b"", TASK_US) for one in computes]
        self.core.executor_outcomes(self._now, 0, outcomes)

    def _receive(self, messages: list[Any]) -> None:
        """The scheduler sends a frame, which acknowledges everything that it was sent."""
        self._now += 0.001
        self._frame += 1
        session = self.core.dialer.session
        self.core.receive(self._now, session.accept((self._frame, session.sent, messages)))


class ClientDrive:
    """The core of a client's session.  The scheduler answers each task with its value."""

    def __init__(self) -> None:
        self.core = Client(1)
        self._frame = 0
        self._cid = 0
        self._function = FunctionRef("f", b"f", b"blob")
        self.core.hello(0.0)
        self.core.dialer.greeted(m.Ready(1))

    def run(self, tasks: int) -> None:
        """Submit ``tasks`` tasks, receive their values, and release their futures."""
        cids = range(self._cid + 1, self._cid + tasks + 1)
        self._cid += tasks
        for cid in cids:
            self.core.submit(Record(cid), self._function, ARGS)
        self._send()
        for begin in range(0, tasks, FRAME_MESSAGES):
            self._receive([m.Finished(cid, cid, b"value") for cid in cids[begin : begin + FRAME_MESSAGES]])
        self.core.release(cids)
        self._send()

    def _send(self) -> None:
        self.core.close_batch()
        self.core.dialer.session.take()

    def _receive(self, messages: list[Any]) -> None:
        self._frame += 1
        session = self.core.dialer.session
        self.core.receive(session.accept((self._frame, session.sent, messages)))
