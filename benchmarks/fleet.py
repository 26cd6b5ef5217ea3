"""A large cluster in simulated time: python -m benchmarks.fleet [--workers N] [--tasks N] [--seconds S]

The scheduler's core is real, and every frame is encoded and decoded as on the wire; workers, clock and network are played: a
worker of one slot runs each task for about ``--seconds`` (log-normal), answers at once, and beats as often as real ones do.
All tasks are submitted at the beginning.  What is told is the scheduler's CPU time by what it was spent on, and its memory.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import os
import random
import time
from collections import Counter, deque
from typing import Any

from benchmarks.meter import resident
from twistdist.core.digests import digest_of
from twistdist.core.scheduler import Scheduler
from twistdist.core.scheduler.records import Client as ClientPeer
from twistdist.core.scheduler.records import Worker
from twistdist.core.session import FRAME_MESSAGES
from twistdist.wire import messages as m
from twistdist.wire.framing import FROM_CLIENT, FROM_WORKER, TO_CLIENT, TO_WORKER, decode_frame, encode_frame

#: Pickled arguments of each task, and its pickled value.
ARGS, VALUE = b"a" * 50, b"v" * 50


#: Bytes before each frame that say how long it is.
LENGTH = 4


class Fleet:
    """``run`` until every task is done; ``cpu`` is in seconds by kind of event, ``events`` how many there were."""

    def __init__(self, workers: int, tasks: int, seconds: float, seed: int) -> None:
        self.core = Scheduler(1)
        self.rng = random.Random(seed)
        self.seconds, self.now = seconds, 0.0
        self.cpu: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.finished = 0
        self._heap: list[tuple[float, int, str, Any]] = []
        self._order = 0
        self._numbers: Counter[int] = Counter()
        self._busy: dict[Worker, m.Compute | None] = {}
        self._waiting: dict[Worker, deque[m.Compute]] = {}
        self.client: Any = self.core.greet(0.0, m.HelloClient(1))
        assert isinstance(self.client, ClientPeer)
        self._tell("greet", self.client, [m.Function(1, "f", b"f", b"blob")])
        for number in range(workers):
            hello = m.HelloWorker(
                100 + number, f"w{number}", 100 + number, 1, 1, "tcp:x:1", f"h{number // 32}", "/s", {}, [], [], []
            )
            worker = self._timed("greet", self.core.greet, self.now, hello)
            self._busy[worker], self._waiting[worker] = None, deque()
            self._later(self.rng.uniform(0, self._beat_every), "beat", worker)
        self._later(0.0, "pulse", None)
        before = resident(os.getpid())
        for first in range(1, tasks + 1, FRAME_MESSAGES):
            count = min(FRAME_MESSAGES, tasks + 1 - first)
            self._tell("submit", self.client, [m.Submit(first, 1, [ARGS] * count)])
        self.pending = resident(os.getpid()) - before

    @property
    def _beat_every(self) -> float:
        return self.core.settings.look_every * self.core.settings.looks_a_beat

    def run(self, tasks: int) -> None:
        while self.finished < tasks:
            self.now, _, kind, what = heapq.heappop(self._heap)
            getattr(self, f"_{kind}")(what)

    def _later(self, seconds: float, kind: str, what: Any) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now + seconds, self._order, kind, what))

    def _timed(self, kind: str, function: Any, *args: Any) -> Any:
        began = time.process_time()
        result = function(*args)
        self.cpu[kind] += time.process_time() - began
        self.events[kind] += 1
        return result

    def _pulse(self, _: None) -> None:
        self._timed("pulse", self.core.pulse, self.now)
        self._deliver("pulse")
        self._later(self.core.settings.look_every, "pulse", None)

    def _beat(self, worker: Worker) -> None:
        waiting, busy = self._waiting[worker], self._busy[worker]
        jobs = digest_of([one.attempt for one in [*waiting, *([busy] if busy else [])]])
        beat = m.Beat(1, 1, worker.session.received, 0, int(busy is not None), len(waiting), 0, jobs)
        body = encode_frame((0, worker.session.sent, [beat]))[LENGTH:]
        self._timed("beat", self._take_beat, worker, body)
        self._deliver("beat")
        self._later(self._beat_every, "beat", worker)

    def _take_beat(self, worker: Worker, body: bytes) -> None:
        _, received, [beat] = decode_frame(FROM_WORKER, body)
        self.core.beat(self.now, worker, beat, received)

    def _done(self, worker: Worker) -> None:
        one = self._busy[worker]
        assert one is not None
        self._busy[worker] = None
        self._begin(worker)
        self._tell("task", worker, [m.Done(one.task, one.attempt, VALUE, len(VALUE), b"", int(self.seconds * 1e6))])

    def _recalled(self, answer: tuple[Worker, list[int]]) -> None:
        worker, attempts = answer
        self._tell("recall", worker, [m.Recalled(attempts)])

    def _begin(self, worker: Worker) -> None:
        if self._busy[worker] is None and self._waiting[worker]:
            self._busy[worker] = self._waiting[worker].popleft()
            self._later(self.seconds * self.rng.lognormvariate(0.0, 0.3), "done", worker)

    def _tell(self, kind: str, peer: Any, messages: list[Any]) -> None:
        """The peer sends a frame, which acknowledges everything that it was sent."""
        self._numbers[id(peer)] += 1
        body = encode_frame((self._numbers[id(peer)], peer.session.sent, messages))[LENGTH:]
        self._timed(kind, self._take, peer, body)
        self._deliver(kind)

    def _take(self, peer: Any, body: bytes) -> None:
        decoder = FROM_WORKER if isinstance(peer, Worker) else FROM_CLIENT
        self.core.receive(self.now, peer, peer.session.accept(decode_frame(decoder, body)))

    def _deliver(self, kind: str) -> None:
        for peer, bodies in self._timed(f"{kind}", self._send):
            for body in bodies:
                decoder = TO_WORKER if isinstance(peer, Worker) else TO_CLIENT
                for message in decode_frame(decoder, body[LENGTH:])[2]:
                    self._heard(peer, message)
        self.events[kind] -= 1  # part of the same event

    def _send(self) -> list[tuple[Any, list[bytes]]]:
        sent = []
        while self.core.dirty:
            for peer, frames in self.core.take(lambda peer: True).frames:
                sent.append((peer, [encode_frame(frame) for frame in frames]))
        return sent

    def _heard(self, peer: Any, message: Any) -> None:
        if isinstance(message, m.Compute):
            self._waiting[peer].append(message)
            self._begin(peer)
        elif isinstance(message, m.Recall):
            back = [one.attempt for one in self._waiting[peer] if one.attempt in message.attempts]
            self._waiting[peer] = deque(one for one in self._waiting[peer] if one.attempt not in back)
            self._later(0.0, "recalled", (peer, back))
        elif isinstance(message, m.Finished):
            self.finished += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a task takes [%(default)s]")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    fleet = Fleet(options.workers, options.tasks, options.seconds, options.seed)
    gc.collect()
    gc.freeze()
    fleet.run(options.tasks)
    cpu = sum(fleet.cpu.values())
    print(
        f"{options.workers:,} workers, {options.tasks:,} tasks of {options.seconds:g} s: {fleet.now:,.0f} s of simulated time"
    )
    for kind, seconds in fleet.cpu.most_common():
        count = fleet.events[kind]
        print(
            f"{kind:8} {count:12,} events  {seconds:8.1f} s  {1e6 * seconds / count:8.1f} µs each  {100 * seconds / cpu:5.1f} %"
        )
    print(f"a task   {1e6 * cpu / options.tasks:.1f} µs of the scheduler's CPU; {100 * cpu / fleet.now:.1f} % of a core")
    print(f"memory   {fleet.pending / options.tasks:,.0f} bytes a pending task")


if __name__ == "__main__":
    main()
