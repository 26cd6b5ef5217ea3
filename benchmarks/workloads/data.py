"""W5 and W7: moving data, and losing some."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import functions
from benchmarks.figures import HIGHER, LOWER, Figure, Scale
from benchmarks.systems.system import DEPENDENCIES, SCATTER, System, scratch

#: The name of a worker, if tasks can be sent to one.
Worker = str | None

#: Measurements in one run, of which the first one opens connections and is not counted.
ROUNDS = 4


def array(system: System, scale: Scale) -> Iterator[Figure]:
    """W5: from task to task, to the client and from it.  Pools have no other way than through the client."""
    moves = Moves(system, scale(256, 4) << 20)
    names: list[Worker] = [*system.workers()] or [None]
    source, target = names[0], names[-1]
    yield dataclasses.replace(moves.rate("raw socket", lambda: _raw(moves.size)), better="")
    yield moves.rate("task to task on one host", lambda: moves.hand_over(source, target))
    yield Figure("consumer grows by", 100 * moves.growth(source, target) / moves.size, "% of the array", LOWER)
    if SCATTER in system.features:
        data = functions.make_array(moves.log, moves.size // 8)
        yield moves.rate("scatter", lambda: timed(lambda: system.scatter(data)))
        yield moves.rate("gather", lambda: moves.fetch(source))
    far = system.far_worker()
    if far is not None:
        yield moves.rate("task to task over TCP", lambda: moves.hand_over(source, far))


def timed(work: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@dataclasses.dataclass
class Moves:
    """Ways of ``size`` bytes.  Each returns seconds."""

    system: System
    size: int
    log: str = dataclasses.field(default_factory=lambda: scratch("made"))

    def rate(self, name: str, move: Callable[[], float]) -> Figure:
        times = [move() for _ in range(ROUNDS)][1:]
        return Figure(name, self.size / statistics.median(times) / 1e9, "GB/s", HIGHER)

    def _made(self, on: Worker) -> Any:
        made = self.system.submit(functions.make_array, self.log, self.size // 8, on=on)
        self.system.wait([made])
        return made

    def _use(self, function: Any, made: Any, on: Worker) -> Any:
        """What ``function`` returns for a value that was made."""
        value = made if DEPENDENCIES in self.system.features else self.system.result(made)
        return self.system.result(self.system.submit(function, value, on=on))

    def hand_over(self, source: Worker, target: Worker) -> float:
        """From a task that has ended to one that needs its value; if that passes through the client, both ways."""
        began = time.perf_counter()
        made = self._made(source)
        if DEPENDENCIES in self.system.features:
            began = time.perf_counter()
        else:
            began += float(functions.lines(self.log)[-1][0])
        assert self._use(functions.ends, made, target) == self.size // 8 - 1
        return time.perf_counter() - began

    def growth(self, source: Worker, target: Worker) -> int:
        """Bytes by which the process of a task grows that reads the value."""
        before = self.system.result(self.system.submit(functions.memory_with, None, on=target))
        after = self._use(functions.memory_with, self._made(source), target)
        grown: int = after - before
        return grown

    def fetch(self, source: Worker) -> float:
        """From a task that has ended to the client."""
        made = self._made(source)
        return timed(lambda: functions.ends(self.system.fetch(made)))


def _raw(size: int) -> float:
    """Seconds for ``size`` bytes of a file in memory over the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryFile(dir="/dev/shm") as stream:
        stream.write(bytes(size))
        stream.flush()
        with socket.create_connection(server.getsockname()) as sender, server.accept()[0] as receiver:

            def send() -> None:
                at = 0
                while at < size:
                    at += os.sendfile(sender.fileno(), stream.fileno(), at, size - at)

            thread, buffer = threading.Thread(target=send), bytearray(1 << 20)

            def receive() -> None:
                thread.start()
                got = 0
                while got < size:
                    got += receiver.recv_into(buffer)
                thread.join()

            return timed(receive)


def loss(system: System, scale: Scale) -> Iterator[Figure]:
    """W7: gather results, and gather them again after a worker that had made some was killed."""
    count, size = scale(200, 12), 1 << 20
    whole = timed(lambda: _gather_blocks(system, count, size, scratch("whole"), kill=False))
    yield Figure("make and gather", whole, "s", LOWER)
    log = scratch("killed")
    killed = timed(lambda: _gather_blocks(system, count, size, log, kill=True))
    yield Figure("longer with one killed", killed - whole, "s", LOWER)
    yield Figure("executed again", len(functions.lines(log)) - count, "tasks", LOWER)


def _gather_blocks(system: System, count: int, size: int, log: str, kill: bool) -> None:
    made = [system.submit(functions.block, log, size, i) for i in range(count)]
    system.wait(made)
    if kill:
        [(pid, _)] = Counter(int(words[2]) for words in functions.lines(log)).most_common(1)
        os.kill(system.worker_of(pid)[0], signal.SIGKILL)
    values = system.gather(made)
    assert [len(value) for value in values] == [size] * count
