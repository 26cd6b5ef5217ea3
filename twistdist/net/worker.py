"""The worker's service: the core, its executors, its store and its connections."""

from __future__ import annotations

import os
import resource
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from twistdist.config import python_here
from twistdist.core import worker as core
from twistdist.core.exchange import PATIENCE
from twistdist.core.worker import Death, effects, most_executors
from twistdist.core.worker.memory import Limits
from twistdist.core.worker.tuning import Tuning
from twistdist.errors import ProtocolError, TwistdistError
from twistdist.executors.supervisor import Supervisor, TaskService
from twistdist.net.bulk import BulkFetcher, BulkServer
from twistdist.net.connection import ServerFactory
from twistdist.net.dialing import Dialing
from twistdist.net.hosts import address_of, host_identity
from twistdist.net.log_lines import LogLines
from twistdist.net.spare_files import SpareFiles
from twistdist.net.timers import Alarm
from twistdist.net.tls import listen
from twistdist.net.versions import versions
from twistdist.storage.store import IncomingFile, Store
from twistdist.storage.uploads import Uploads
from twistdist.wire import messages as m
from twistdist.wire.framing import TO_WORKER

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: Descriptors that the control process uses for each executor.
DESCRIPTORS = 5

#: Seconds that a worker has between SIGTERM and its end, unless it is told otherwise.
NOTICE_S = 10.0

#: The share of the time that a worker has to leave, and the seconds at most, that are kept for its own end.
RESERVE, MOST_RESERVE_S = 0.1, 5.0

#: Seconds that a worker that was told to stop waits for a scheduler that can't be reached, if it has something to hand over.
RECONNECT_S = 3.0

#: Seconds before each log line that says that the scheduler can't be reached; the last pause repeats.
WAITING_S = (1.0, 4.0, 10.0, 45.0, 300.0)

#: Seconds between two checks of memory while nothing runs.
IDLE_LOOK_S = 1.0


@attrs.frozen
class Terms:
    """When a worker must end: ``notice`` seconds after it is told to stop (None: ``NOTICE_S``), and ``lifetime`` seconds after
    its start (0: never), for which it prepares ``margin`` seconds before."""

    notice: float | None = None
    lifetime: float = 0.0
    margin: float = 60.0
    why: str = "its lifetime is over"


class WorkerService(Service):
    """A worker named ``name`` with ``slots`` executors and ``resources`` (in millionths), which ends according to ``terms``.
    Its executors start with the modules ``preload``.  ``preemption`` is a URL, and headers, at which to ask for the notice that
    the machine is taken away.

    Its results are in the folder ``store``, and are moved to the folder ``spill`` when memory is short according to ``limits``.
    ``contact`` is the host name or address that peers use (default: that of ``listen``, or this machine's name if that is all
    interfaces).

    It ends if it can't reach the scheduler for ``give_up_after`` seconds; 0: never.

    ``on_ready(text)`` is called when the scheduler has accepted the worker, ``on_stop(text, failed)`` when it ends by itself.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        scheduler: str,
        secret: bytes,
        name: str,
        slots: int,
        store: str,
        listen: str = "tcp:0:interface=127.0.0.1",
        resources: dict[str, int] | None = None,
        on_ready: Callable[[str], None] | None = None,
        on_stop: Callable[[str, bool], None] | None = None,
        limits: Limits | None = None,
        spill: str = "",
        tls: Tls | None = None,
        contact: str = "",
        give_up_after: float = 0.0,
        terms: Terms | None = None,
        preload: Sequence[str] = (),
        preemption: tuple[str, dict[str, str]] | None = None,
    ) -> None:
        self.setName(f"twistdist worker {name}")  # type: ignore[no-untyped-call]
        self._reactor, self._scheduler, self._secret, self._listen = reactor, scheduler, secret, listen
        self._tls, self._contact = tls, contact
        self._worker_name, self._slots, self._resources = name, slots, resources or {}
        self._on_ready, self._on_stop = on_ready or (lambda text: None), on_stop or (lambda text, failed: None)
        self._store = Store(store, spill)
        self._store_in_memory = self._store.in_memory()
        self._limits = limits or Limits()
        self._spares = SpareFiles(reactor, self._store.spares, self._store_in_memory, self._limits.worker)
        self._memory_alarm = Alarm(reactor, self._look_at_memory)
        self._memory_pause = Tuning().look_s
        self._uploads = Uploads(f"{self._store.path}/.uploads")
        self._uploads.remove()  # those of an earlier life; the scheduler sends them again
        self._lines = LogLines()
        self._lines.start()
        self._bulk_server = BulkServer(reactor, self._store, host_identity(), self._taken)
        self._fetcher = BulkFetcher(reactor, secret, tls)
        self._supervisor: Supervisor | None = None
        self._core: core.Worker | None = None
        self._dialing: Dialing | None = None
        self._port: Any = None
        self._alarm = Alarm(reactor, lambda: self._event(self._the_core.tick))
        self._waiting = Alarm(reactor, self._say_waiting)
        self._waits = 0  # log lines that said so
        self._give_up_after = give_up_after
        self._giving_up = Alarm(reactor, self._give_up)
        self._busy = False
        self._broken = False
        self._terms, self._preload = terms or Terms(), preload
        self._preemption: Any = None
        if preemption is not None:
            from twistdist.net.preemption import Preemption  # twisted.web takes 60 ms to import

            notice = self._terms.notice
            usual = NOTICE_S if notice is None else notice
            self._preemption = Preemption(
                reactor, *preemption, usual, lambda left: self.retire(left, "its machine is taken away")
            )
        self._left: Deferred[None] | None = None
        self._calls: dict[str, Any] = {}  # what is set for a later time: the end of its lifetime, and of its time to leave
        self._may_go = False  # the scheduler has sent Stop, or the time to leave is over
        self._heard_at: float | None = None  # when the scheduler was last heard
        self._fetched_bytes = 0

    # ---- what others may look at --------------------------------------------------------------

    def health(self) -> str:
        """Return why this worker runs no tasks of a scheduler at the moment; "" if it does."""
        if self._core is None or self._dialing is None:
            return "starting"
        if not self.running:
            return "stopping"
        if not self._core.dialer.connected:
            return f"waiting for its scheduler at {self._scheduler}: {self._dialing.why() or 'no answer so far'}"
        return "it has been out of contact with its scheduler for too long" if self._bulk_server.fenced else ""

    def numbers(self) -> dict[str, Any]:
        """Return what this worker is and does, as plain data for metrics."""
        the_core, supervisor = self._core, self._supervisor
        if the_core is None or supervisor is None:
            return {}
        alive, starting, memory = supervisor.alive()
        stored = sum(file.size for file in the_core.stored.values())
        heard = self._heard_at
        return {
            "name": self._worker_name,
            "slots": self._slots,
            "executors": {"alive": alive, "starting": starting},
            "executors_bytes": memory,
            "attempts": the_core.outcomes_so_far(),
            "deaths": dict(supervisor.deaths),
            "stored_bytes": {"memory": the_core.in_memory, "spilled": stored - the_core.in_memory},
            "stored_results": len(the_core.stored),
            "fetched_bytes": self._fetched_bytes,
            "served_bytes": self._bulk_server.served,
            "lag": self._dialing.lag if self._dialing is not None else 0.0,
            "silence": None if heard is None else self._reactor.seconds() - heard,
            "connected": the_core.dialer.connected,
        }

    # ---- life -------------------------------------------------------------------------------

    @property
    def _the_core(self) -> core.Worker:
        assert self._core is not None  # made by start()
        return self._core

    def start(self) -> Deferred[None]:
        """Listen for peers, start the executors and dial the scheduler; the Deferred fires when the worker listens."""
        factory = ServerFactory(self._reactor, self._bulk_server, self._secret)
        return listen(self._reactor, self._listen, self._tls, factory).addCallback(self._start)

    def _start(self, port: Any) -> None:
        self._port = port
        identity = m.HelloWorker(
            session=secrets.randbits(62),
            name=self._worker_name,
            incarnation=secrets.randbits(62),
            pid=os.getpid(),
            slots=self._slots,
            host=host_identity(),
            store=self._store.path,
            address=address_of(port, self._tls is not None, self._contact, socket.gethostname()),
            resources=self._resources,
            stored=[],
            running=[],
            finished=[],
            python=python_here(),
            versions=versions(),
        )
        found, wrong = self._store.take_inventory()
        most_parked = max(0, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // DESCRIPTORS - self._slots)
        self._core = core.Worker(identity, found, self._store.spilled(), self._limits, most_parked)
        service = TaskService(
            self._worker_name,
            self._scheduler,
            self._secret,
            self._store.spill_path,
            self._limits.worker,
            self._limits.executor // 4,
            self._tls.directory if self._tls else "",
        )
        self._supervisor = Supervisor(
            self._reactor, self._store.path, most_executors(self._slots), self, service, self._preload
        )
        self._supervisor.start()
        if self._terms.lifetime:
            margin = self._terms.margin
            self._call("lifetime", self._terms.lifetime - margin, self.retire, margin, self._terms.why)
        if wrong:
            self._event(self._core.damaged, [], "; ".join(wrong))
        if self._preemption is not None:
            self._preemption.start()
        if not self._preload:
            self._join()

    def preloaded(self, error: str, first: bool) -> None:
        """The modules are imported in the executors' template, or can't be.

        If that is the ``first`` one, this worker does not start.  Later ones are tried again and again: this worker has
        results, and other workers can do its tasks.
        """
        if first:
            if error:
                self._on_stop(f"worker {self._worker_name} can't start: --preload: {error}", True)
            else:
                self._join()
        elif error:
            self._log.error(
                "worker {worker} takes no tasks, but keeps its results: --preload: {error}; trying again",
                worker=self._worker_name,
                error=error,
            )
            self._event(self._the_core.executors_do_not_start, f"--preload: {error}")

    def _join(self) -> None:
        """Start the executors, and dial the scheduler."""
        self._dialing = Dialing(
            self._reactor,
            self._scheduler,
            self._secret,
            self._the_core,
            TO_WORKER,
            self._messages,
            self._ready,
            self._fatal,
            self._lost,
            self._pulse,
            self._notice,
            self._tls,
        )
        self._dialing.start()
        self._wait()
        self._event(self._the_core.start)

    def leave(self) -> Deferred[None]:
        """The process was told to stop: tell the scheduler, which then has this worker hand over what only it holds.

        The Deferred fires when running tasks have ended and nothing is left that could be handed over, or when the time is up.
        What could not be handed over is logged.
        """
        left: Deferred[None] = Deferred()
        self._left = left
        the_core = self._core
        if the_core is None or self._may_go:
            self._leaves("")
        elif the_core.dialer.connected or self._has_something:
            notice = self._terms.notice
            self._depart(NOTICE_S if notice is None else notice, "it was told to stop", notice is not None)
            if not the_core.dialer.connected:
                self._call("reconnect", RECONNECT_S, self._leaves, "its scheduler can't be reached")
        else:
            self._leaves("")
        return left

    def hurry(self) -> None:
        """The process was told to stop a second time: wait no longer."""
        self._leaves("it was told to stop a second time")

    def retire(self, seconds: float, why: str) -> None:
        """Leave by itself, and end the process within ``seconds``."""
        if self.running:
            self._log.info(
                "worker {name} leaves within {seconds:.0f} s: {why}", name=self._worker_name, seconds=seconds, why=why
            )
            self._depart(seconds, why, patient=True)

    def _depart(self, seconds: float, why: str, patient: bool) -> None:
        """Tell the scheduler, and be ready to end when the time is up; of several ends, the earliest counts."""
        reserve = min(MOST_RESERVE_S, RESERVE * seconds)
        self._event(self._the_core.leave, seconds - reserve, why, patient)
        if self._left is None or not self._left.called:  # it may have left meanwhile
            self._call("over", seconds - reserve / 2, self._time_is_up, why)

    def _time_is_up(self, why: str) -> None:
        self._may_go = True
        if self._left is not None:
            self._leaves("its time to hand over results is up")
        else:
            self._on_stop(f"{self._worker_name} is leaving: {why}; its time is up", False)

    def _call(self, name: str, seconds: float, what: Callable[..., None], *args: Any) -> None:
        """Set a call, unless one of that name is to come earlier."""
        call = self._calls.get(name)
        if call is not None and call.active():
            if call.getTime() <= self._reactor.seconds() + seconds:
                return
            call.cancel()
        self._calls[name] = self._reactor.callLater(max(0.0, seconds), what, *args)

    def _cancel(self, *names: str) -> None:
        for name in names:
            call = self._calls.pop(name, None)
            if call is not None and call.active():
                call.cancel()

    @property
    def _has_something(self) -> bool:
        return self._core is not None and bool(self._core.stored or self._core.jobs)

    def _leaves(self, text: str) -> None:
        left, self._left = self._left, None
        if left is not None:
            if text:
                self._log.info("worker {worker} is leaving: {text}", worker=self._worker_name, text=text)
            self._cancel("over", "reconnect")
            left.callback(None)

    def stopService(self) -> Deferred[None]:
        """End the executors, close the connections and remove the store."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._lines.stop()
        self._alarm.cancel()
        self._waiting.cancel()
        self._giving_up.cancel()
        self._memory_alarm.cancel()
        self._spares.stop()
        self._cancel(*self._calls)
        if self._preemption is not None:
            self._preemption.stop()
        if self._supervisor is not None:
            self._supervisor.stop()
        if self._dialing is not None:
            if not self._broken:
                self._the_core.left(self._reactor.seconds())
                self._dialing.flush()
            self._dialing.stop()
        self._fetcher.close()
        self._bulk_server.close()
        closing: Deferred[Any] = maybeDeferred(self._port.stopListening) if self._port is not None else succeed(None)
        self._uploads.remove()
        return closing.addCallback(lambda _: self._store.close() if self._broken else self._store.destroy())

    def _pulse(self) -> m.Beat | None:
        if not self.running:
            return None
        self._event(self._the_core.look_at_lease)
        limit = self._the_core.dialer.dead_after
        if self._dialing is not None and self._the_core.lease.over(self._reactor.seconds(), limit * PATIENCE):
            self._dialing.renew(limit / 4)
        self._event(self._the_core.executors_stopped, self._the_supervisor.stopped(), limit)
        return self._the_core.pulse(self._reactor.seconds())

    def _notice(self, message: Any) -> None:
        if isinstance(message, m.Beat):
            self._heard_at = self._reactor.seconds()
            self._event(self._the_core.heard_beat, message)

    def _lost(self) -> None:
        if self._left is not None:
            self._call("reconnect", RECONNECT_S if self._has_something else 0.0, self._leaves, "its scheduler can't be reached")
        self._wait()

    def _wait(self) -> None:
        """There is no connection: log that if it lasts, and end the worker if it lasts too long."""
        if self._give_up_after:
            self._giving_up.set(self._reactor.seconds() + self._give_up_after)
        self._waiting.set(self._reactor.seconds() + WAITING_S[min(self._waits, len(WAITING_S) - 1)])

    def _give_up(self) -> None:
        seconds = f"{self._give_up_after:g} s (--give-up-after)"
        self._on_stop(f"worker {self._worker_name} ends: its scheduler did not answer at {self._scheduler} for {seconds}", True)

    def _say_waiting(self) -> None:
        assert self._dialing is not None
        self._log.warn(
            "worker {worker} is waiting for its scheduler at {address}: {why}",
            worker=self._worker_name,
            address=self._scheduler,
            why=self._dialing.why() or "no answer so far",
        )
        self._waits += 1
        self._wait()

    def _ready(self, fresh: bool) -> None:
        self._heard_at = self._reactor.seconds()
        self._waiting.cancel()
        self._giving_up.cancel()
        self._cancel("reconnect")
        if self._waits:
            self._log.info(
                "worker {worker} is connected to its scheduler at {address}", worker=self._worker_name, address=self._scheduler
            )
            self._waits = 0
        if fresh:
            self._event(self._the_core.welcomed)
            self._on_ready(
                f"twistdist worker {self._worker_name} ready at {self._the_core.identity.address}, scheduler {self._scheduler}"
            )

    def _fatal(self, error: Exception) -> None:
        self._on_stop(f"worker {self._worker_name} can't continue: {error}", True)

    # ---- events -----------------------------------------------------------------------------

    def _messages(self, messages: list[Any]) -> None:
        wrong: list[ProtocolError] = []

        def receive(now: float) -> None:
            try:
                self._the_core.receive(now, messages)
            except ProtocolError as error:
                wrong.append(error)

        self._event(receive)
        if wrong:
            raise wrong[0]  # the connection is closed, and another one is made

    def _event(self, what: Callable[..., None], *args: Any) -> None:
        """Pass one event to the core, then carry out its effects and send its messages.  Effects may cause nested events."""
        if not self.running:
            return
        try:
            what(self._reactor.seconds(), *args)
            if self._busy:
                return
            self._busy = True
            try:
                self._carry_out()
            finally:
                self._busy = False
        except Exception:
            self._log.failure("an error in the worker's core; this process ends", worker=self._worker_name)
            self._broken = True  # the results are kept for the next worker on this store
            self._on_stop("an error in the worker's core; see the log", True)
            return
        if self._dialing is not None:  # else it has not been started
            self._dialing.flush()
        self._alarm.set(self._the_core.wake)
        if (self._limits.worker or self._limits.executor) and (self._the_core.jobs or self._the_core.in_memory):
            self._memory_alarm.set(self._reactor.seconds() + self._memory_pause)

    def _carry_out(self) -> None:
        while found := self._the_core.take():  # an effect may cause an event, which has effects
            for effect in found:
                _EFFECTS[type(effect)](self, effect)

    def executor_started(self, number: int) -> None:
        self._event(self._the_core.executor_started, number)

    def executor_outcomes(self, number: int, outcomes: list[Any]) -> None:
        self._event(self._the_core.executor_outcomes, number, outcomes)

    def executor_ended(
        self, number: int, exit: str, detail: str = "", running: int = 0, blame: bool = True, when: str = "", us: int = 0
    ) -> None:
        job = self._the_core.jobs.get(running)
        self._log.info(
            "executor {number} of {worker} ended{while_running}: {exit}",
            number=number,
            worker=self._worker_name,
            exit=exit,
            key=job.compute.key if job is not None else "",
            attempt=running,
            while_running=f" while it ran {job.compute.key}" if job is not None else "",
        )
        self._event(self._the_core.executor_ended, number, Death(exit, detail, running, blame, when, us))

    def taken_back(self, number: int, attempts: list[int], running: int) -> None:
        self._event(self._the_core.taken_back, number, attempts, running)

    def _look_at_memory(self) -> None:
        used, running = self._the_supervisor.memory()
        stored = self._the_core.in_memory if self._store_in_memory else 0
        self._spares.look(sum(used.values()) + stored)

        def look(now: float) -> None:
            pause = self._the_core.memory_used(now, used, running, stored)
            self._memory_pause = pause if self._the_core.jobs else IDLE_LOOK_S

        self._event(look)

    # ---- effects ----------------------------------------------------------------------------

    @property
    def _the_supervisor(self) -> Supervisor:
        assert self._supervisor is not None  # made by start()
        return self._supervisor

    def _start_executor(self, effect: effects.StartExecutor) -> None:
        self._the_supervisor.start_executor(effect.number, effect.delay)

    def _end_executor(self, effect: effects.EndExecutor) -> None:
        self._the_supervisor.end_executor(effect.number)

    def _give(self, effect: effects.Give) -> None:
        self._the_supervisor.give(effect.number, effect.messages)

    def _take_back(self, effect: effects.TakeBack) -> None:
        self._the_supervisor.take_back(effect.number)

    def _go_on(self, effect: effects.GoOn) -> None:
        self._the_supervisor.go_on(effect.number, effect.attempt)

    def _interrupt(self, effect: effects.Interrupt) -> None:
        self._the_supervisor.interrupt(effect.number, effect.attempt, effect.why)

    def _kill(self, effect: effects.Kill) -> None:
        self._the_supervisor.kill(effect.number, effect.attempt)

    def _spill(self, effect: effects.Spill) -> None:
        """Copy files in a thread, one after the other."""
        done: list[int] = []
        moving = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._store.spill_all, effect.attempts, done)
        moving.addCallbacks(lambda _: "", lambda failure: str(failure.value))
        moving.addCallback(lambda trouble: self._event(self._the_core.spilled_files, done, trouble))

    def _taken(self, stored: m.Stored) -> None:
        self._event(self._the_core.received, stored)

    def _start_fetch(self, effect: effects.StartFetch) -> None:
        task, host = self._the_core.transfers[effect.attempt].source.task, self._the_core.identity.host
        stored = m.Stored(task, effect.attempt, effect.size, effect.digest)
        if any(peer.host == host and self._store.link(peer.store, stored) for peer in effect.holders):
            self._event(self._the_core.fetched, effect.attempt)
            return
        addresses = [peer.address for peer in effect.holders]
        fetching = self._fetcher.fetch(
            addresses,
            effect.attempt,
            partial(IncomingFile, self._store, stored),
            lambda: self._event(self._the_core.all_busy, effect.attempt),
            partial(self._fetched, effect),
        )
        fetching.addErrback(self._not_fetched, effect.attempt)

    def _fetched(self, effect: effects.StartFetch, address: str) -> None:
        self._fetched_bytes += effect.size
        self._event(self._the_core.fetched, effect.attempt, address)

    def _not_fetched(self, failure: Failure, attempt: int) -> None:
        jobs = self._the_core.transfers[attempt].jobs
        first = jobs[0] if jobs else None
        self._log.warn(
            "an input of {who} could not be fetched: {error}",
            who=first.compute.key if len(jobs) == 1 and first is not None else f"{len(jobs)} tasks",
            error=failure.value,
            key=first.compute.key if first is not None else "",
            attempt=first.attempt if first is not None else 0,
            worker=self._worker_name,
            input_attempt=str(attempt),
        )
        error = failure.value
        local = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError | TwistdistError)
        self._event(self._the_core.fetch_failed, attempt, str(error) if local else "")

    def _more_holders(self, effect: effects.MoreHolders) -> None:
        self._fetcher.more_holders(effect.attempt, [peer.address for peer in effect.holders])

    def _peer_trouble(self, effect: effects.PeerTrouble) -> None:
        self._fetcher.avoid(effect.address, effect.gone)

    def _fence(self, effect: effects.Fence) -> None:
        self._bulk_server.fenced = effect.on
        if effect.on:
            self._log.warn(
                "worker {worker} has been out of contact with its scheduler for too long and may have been given up; "
                "it starts nothing new until it has registered again",
                worker=self._worker_name,
            )
            assert self._dialing is not None
            self._dialing.reconnect()

    def _rescue_store(self, effect: effects.RescueStore) -> None:
        """Take over the store of a dead worker on this host; the digests are checked in a thread."""
        saving = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._store.rescue, effect.store)
        saving.addCallbacks(self._rescued, self._not_rescued, callbackArgs=(effect.worker,), errbackArgs=(effect.worker,))

    def _rescued(self, found: tuple[bool, list[m.Stored], list[int], list[str]], worker: int) -> None:
        dead, stored, spilled, wrong = found
        if wrong:
            self._event(self._the_core.damaged, [], "; ".join(wrong))
        self._event(self._the_core.rescued, worker, dead, stored, spilled)

    def _not_rescued(self, failure: Failure, worker: int) -> None:
        self._log.warn(
            "the store of a dead worker on this host could not be taken over: {error}",
            error=failure.value,
            worker=self._worker_name,
        )
        self._event(self._the_core.rescued, worker, False, [], [])

    def _delete_files(self, effect: effects.DeleteFiles) -> None:
        self._store.delete(effect.attempts)
        self._spares.touch()

    def _look_for_files(self, effect: effects.LookForFiles) -> None:
        """Check files in a thread: somebody could not fetch them, perhaps because they are damaged."""
        looking = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._store.look_for, effect.attempts)
        looking.addCallback(self._looked, effect.attempts)

    def _looked(self, found: tuple[list[int], list[str]], attempts: list[int]) -> None:
        absent, wrong = found
        if wrong:
            self._event(self._the_core.damaged, [], "; ".join(wrong))
        # What has arrived since then is here.
        self._event(self._the_core.verified, attempts, [attempt for attempt in absent if not self._store.has(attempt)])

    def _install_file(self, effect: effects.InstallFile) -> None:
        file, error = effect.install, ""
        try:
            if file.kind == m.PLUGIN:
                self._the_supervisor.use_plugins(self._uploads.plug(file.name, file.digest, file.blob))
            else:
                self._the_supervisor.import_from(self._uploads.install(file.name, file.kind, file.digest, file.blob))
        except (OSError, ValueError) as problem:
            error = str(problem)
            self._log.warn(
                "{name}, which was uploaded, can't be installed: {error}", name=file.name, error=error, worker=self._worker_name
            )
        self._event(self._the_core.installed, file.number, error)

    def _read_lines(self, effect: effects.ReadLines) -> None:
        self._event(self._the_core.log_read, effect.number, self._lines.last(effect.lines, effect.key))

    def _stop_worker(self, effect: effects.StopWorker) -> None:
        self._may_go = True
        if self._left is not None:
            self._leaves(effect.text)
            return
        self._reactor.callLater(0, self._on_stop, effect.text, False)


_EFFECTS: dict[type, Callable[[WorkerService, Any], None]] = {
    effects.StartExecutor: WorkerService._start_executor,
    effects.EndExecutor: WorkerService._end_executor,
    effects.Give: WorkerService._give,
    effects.TakeBack: WorkerService._take_back,
    effects.GoOn: WorkerService._go_on,
    effects.Interrupt: WorkerService._interrupt,
    effects.Kill: WorkerService._kill,
    effects.StartFetch: WorkerService._start_fetch,
    effects.MoreHolders: WorkerService._more_holders,
    effects.RescueStore: WorkerService._rescue_store,
    effects.DeleteFiles: WorkerService._delete_files,
    effects.Spill: WorkerService._spill,
    effects.LookForFiles: WorkerService._look_for_files,
    effects.PeerTrouble: WorkerService._peer_trouble,
    effects.Fence: WorkerService._fence,
    effects.InstallFile: WorkerService._install_file,
    effects.ReadLines: WorkerService._read_lines,
    effects.StopWorker: WorkerService._stop_worker,
}


def default_worker_name() -> str:
    """Return the host's name and this process's number."""
    return f"{os.uname().nodename.split('.')[0]}-{os.getpid()}"


def default_slots() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
