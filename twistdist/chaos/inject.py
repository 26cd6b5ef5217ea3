"""Carrying out a plan of faults on a running cluster."""

from __future__ import annotations

import concurrent.futures
import heapq
import itertools
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial

import attrs

from twistdist.chaos import memory
from twistdist.chaos.cluster import ChaosCluster
from twistdist.chaos.plan import Fault
from twistdist.chaos.victims import NoVictim, Victim, executor_of, template_of
from twistdist.chaos.watch import Watch
from twistdist.errors import TwistdistError
from twistdist.executors.processes import memory_of

#: How many of the latest faults are remembered in full.
MAX_REMEMBERED = 10_000

#: Seconds that the scheduler may take to tell its counters before it is killed.
LAST_WORDS_S = 0.5

#: Seconds that a process that holds memory may take to start and end.
HOLD_PATIENCE_S = 10.0

#: Undoes a fault.
_Undo = Callable[[], object]


@attrs.frozen
class Injected:
    """A fault of the plan and what became of it: ``done``, or why it hit nothing (``outcome``)."""

    fault: Fault
    done: bool
    outcome: str


class Injector:
    """Injects faults in a thread of its own until :meth:`stop`, which ends those that still last.

    Args:
        cluster: Where to inject them.
        watch: Reads the counters of the scheduler before it is killed; its client is connected to the scheduler directly.
        faults: A plan.
    """

    def __init__(self, cluster: ChaosCluster, watch: Watch, faults: Iterator[Fault]) -> None:
        self._cluster, self._watch, self._faults = cluster, watch, faults
        self._stopped = threading.Event()
        self._lasting: list[tuple[float, int, _Undo]] = []
        self._order = itertools.count()
        self._counts: Counter[str] = Counter()
        self._missed = 0
        self._remembered: deque[Injected] = deque(maxlen=MAX_REMEMBERED)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._holding: threading.Thread | None = None
        self._inject = {
            "kill": self._kill,
            "lose": self._lose,
            "stop": self._stop,
            "cut": self._cut,
            "disk": self._fill,
            "journal": self._fill,
            "memory": self._hold,
        }
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="twistdist-chaos", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """How many faults of each kind hit something."""
        with self._lock:
            return dict(self._counts)

    @property
    def missed(self) -> int:
        """How many faults hit nothing, because their victim did not exist at that moment."""
        with self._lock:
            return self._missed

    @property
    def injected(self) -> list[Injected]:
        """The latest faults, at most 10,000, oldest first."""
        with self._lock:
            return list(self._remembered)

    def stop(self) -> None:
        """Inject no more, and end all faults that still last.  Calling it again does nothing.

        Raises:
            Exception: An error of the injector itself.
        """
        self._stopped.set()
        self._thread.join()
        if self._holding is not None:
            self._holding.join()
            self._holding = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    # ---- in the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            for fault in self._faults:
                if not self._wait_until(self._began + fault.at):
                    break
                self._try(fault)
        except BaseException as error:  # stop() raises it
            self._error = error
        finally:
            self._undo_all()

    def _wait_until(self, due: float) -> bool:
        """Wait, and end faults whose time is over meanwhile.  Return False if there is nothing more to inject."""
        while True:
            now = time.monotonic()
            while self._lasting and self._lasting[0][0] <= now:
                heapq.heappop(self._lasting)[2]()
            if now >= due:
                return not self._stopped.is_set()
            if self._stopped.wait(min([due, *(at for at, _, _ in self._lasting[:1])]) - now):
                return False

    def _undo_all(self) -> None:
        while self._lasting:
            try:
                heapq.heappop(self._lasting)[2]()
            except Exception as error:  # the others must be undone too; stop() raises it
                self._error = self._error or error

    def _try(self, fault: Fault) -> None:
        try:
            outcome = self._inject[fault.kind](fault)
            done = True
        except NoVictim as reason:
            outcome, done = str(reason), False
        with self._lock:
            self._remembered.append(Injected(fault, done, outcome))
            if done:
                self._counts[fault.kind] += 1
            else:
                self._missed += 1

    def _later(self, fault: Fault, undo: _Undo) -> None:
        heapq.heappush(self._lasting, (time.monotonic() + fault.duration, next(self._order), undo))

    # ---- victims ----------------------------------------------------------------------------

    def _worker(self, fault: Fault) -> tuple[str, int]:
        """Return the name and the pid of the worker that a fault hits."""
        workers = self._cluster.workers
        names = sorted(workers, key=lambda name: (len(name), name))  # w2 comes before w10
        if not names:
            raise NoVictim("no worker is running")
        name = f"w{fault.worker}"
        if name not in workers:
            if len(names) > fault.worker:  # the cluster was scaled, and has workers of other names
                name = names[fault.worker]
            else:
                raise NoVictim(f"worker {name} is about to be restarted")
        return name, workers[name]

    def _process(self, fault: Fault) -> Victim:
        """Return the process that a fault hits."""
        if fault.role == "scheduler":
            pid = self._cluster.scheduler
            if not pid:
                raise NoVictim("the scheduler is about to be restarted")
            return Victim(pid, os.getpid())
        _, worker = self._worker(fault)
        if fault.role == "worker":
            return Victim(worker, os.getpid())
        # A control process that is not our child any more has no parts to hit either.
        Victim(worker, os.getpid()).close()
        if fault.role == "template":
            return Victim(template_of(worker), worker)
        executor, template = executor_of(worker, fault.number)
        Victim(template, worker).close()
        return Victim(executor, template)

    # ---- kinds ------------------------------------------------------------------------------

    def _kill(self, fault: Fault) -> str:
        if fault.role == "scheduler":
            self._watch.look(LAST_WORDS_S)
        victim = self._process(fault)
        try:
            victim.signal(signal.SIGKILL)
        finally:
            victim.close()
        return f"process {victim.pid} was killed"

    def _lose(self, fault: Fault) -> str:
        name, pid = self._worker(fault)
        try:
            self._cluster.kill_worker(name, wipe=True)
        except KeyError as error:
            raise NoVictim(f"worker {name} is about to be restarted") from error
        return f"process {pid} was killed, and its results were removed"

    def _stop(self, fault: Fault) -> str:
        victim = self._process(fault)
        try:
            victim.signal(signal.SIGSTOP)
        except NoVictim:
            victim.close()
            raise
        self._later(fault, partial(_go_on, victim))
        return f"process {victim.pid} was stopped"

    def _cut(self, fault: Fault) -> str:
        name = "" if fault.role == "client link" else self._worker(fault)[0]
        link, count = self._cluster.cut(fault.role, name)
        self._later(fault, partial(self._cluster.mend, link))
        return f"{count} connections were aborted"

    def _fill(self, fault: Fault) -> str:
        disk = self._cluster.disks.get(fault.kind)
        if disk is None:
            raise NoVictim("the cluster was started without a disk for this fault")
        size = disk.fill()
        self._later(fault, disk.empty)
        return f"{size} bytes were written"

    def _hold(self, fault: Fault) -> str:
        if self._holding is not None and self._holding.is_alive():
            raise NoVictim("memory is being held already")
        name, pid = self._worker(fault)
        size = memory.size_for(self._cluster.memory_limit, memory_of(pid))
        if size < memory.MIN_BYTES:
            raise NoVictim(f"worker {name} uses most of its memory already, or too little is free")
        self._holding = threading.Thread(target=self._held, args=(name, size, fault.duration), daemon=True)
        self._holding.start()
        return f"{size} bytes are held"

    def _held(self, name: str, size: int, seconds: float) -> None:
        try:
            self._watch.client.run(memory.hold, size, seconds, workers=[name], timeout=seconds + HOLD_PATIENCE_S)
        except (TwistdistError, MemoryError, concurrent.futures.TimeoutError, KeyError, ValueError):
            return  # the worker is away or was lost, or it ended this process because memory was short


def _go_on(victim: Victim) -> None:
    try:
        victim.signal(signal.SIGCONT)
    except NoVictim:
        return  # it was killed while it was stopped
    finally:
        victim.close()
