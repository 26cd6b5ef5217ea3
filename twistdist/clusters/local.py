"""A cluster on this machine: one scheduler and several workers, each in a process of its own, owned by this process."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import ipaddress
import os
import pathlib
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from twistdist.clusters.base import Cluster
from twistdist.clusters.options import MAX_SLOTS, MAX_WORKERS, preload_words, scheduler_words, worker_words
from twistdist.config import MEMORY_SHARE, as_path, as_secret, as_text, as_whole_number
from twistdist.display import html_of
from twistdist.errors import TwistdistError, shown
from twistdist.executors import launch
from twistdist.executors.processes import exit_in_words
from twistdist.keywords import unknown_keywords
from twistdist.net.children import Child
from twistdist.net.hosts import default_spill_root, default_store_root, refuse_open_listening
from twistdist.net.options import check_declared
from twistdist.net.tls import load
from twistdist.net.worker import default_slots
from twistdist.storage.store import remove_leftovers
from twistdist.web.links import link_of, with_token

#: Seconds before a process that died is restarted: at first, and at most.  The pause doubles with each death and starts over
#: when the process has lived for ``SETTLED_S`` seconds.
BACKOFF_S, LONGEST_BACKOFF_S, SETTLED_S = 0.05, 10.0, 5.0

#: A worker that dies this many times before it is ready makes the start of the cluster fail.
MAX_FAILED_STARTS = 3

#: Seconds that a worker takes to start, until one has been seen to.
START_S = 1.0

#: Seconds that processes have to end by themselves before they are killed when the cluster stops.
STOP_S = 10.0


class LocalCluster(Cluster):
    """A scheduler and workers on this machine, as a Twisted service.

    A worker process that dies is restarted on the same store; a worker that was retired is not.  A scheduler that dies is
    restarted too, unless it has no journal.  A cluster can be started only once.

    Args:
        reactor: The reactor to run on; by default Twisted's global reactor.
        n_workers: The number of workers, 0 to 10,000; by default the number of CPUs that this process may use.
        slots: How many tasks each worker runs at a time, 1 to 4,096.
        secret: The shared secret, at least 16 bytes; by default it is read from the secret file.
        memory_limit: The memory that each worker may use for its tasks and results: a size such as ``"8GiB"``, a number of
            bytes, or a fraction of the machine's memory (above 0, at most 1).  0: no limit.  None or ``"auto"``: an equal share
            of 80 % of the machine's memory.
        executor_memory_limit: The memory that the process of one task may use, in the same form; by default the worker's limit.
        checkpoint_store: The directory or URL for results with ``checkpoint=True``.
        journal: The file of the scheduler's journal, from which a restarted scheduler continues.  By default, a file that is
            removed with the cluster; ``"none"``: no journal.
        suspect_after: Seconds of silence, or a ``timedelta``, after which a worker gets no new work; 0.1 to 86,400.  By
            default, 1 or half of ``dead_after``, whichever is less.
        dead_after: Seconds of silence, or a ``timedelta``, after which a worker is given up; 0.1 to 86,400.  By default, 10 or
            twice ``suspect_after``, whichever is more.
        http: Where the scheduler serves its status, health and metrics, such as ``"tcp:8787:interface=127.0.0.1"``; see
            :attr:`dashboard_link`.
        resources: What each worker has, such as ``{"GPU": 1}``, for tasks with ``resources=``.
        secret_file: The file with the shared secret, if ``secret`` is not given.
        store: The directory in which the workers' directories for results are made; by default in shared memory if that is
            large enough, else in the temporary directory.
        spill: The same on disk, for results when memory is short; by default in the temporary directory.
        host: The name or address of this machine at which others reach the scheduler and the workers; by default, nobody does.
            An address is listened at; for a name, all interfaces are.
        tls: A directory of certificates made by ``twistdist certs``: connections are encrypted.  Needed with a ``host`` that
            other machines can reach.
        preload: The name of a module, or several, that every executor has imported before its first task.

    Raises:
        ConfigError: A size, the secret or the certificates are invalid, ``suspect_after`` is not less than ``dead_after``, or
            other machines could reach the cluster and nothing would be encrypted.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
    """

    _log = Logger()
    _start_s = START_S

    def __init__(
        self,
        reactor: Any = None,
        n_workers: int | None = None,
        slots: int = 1,
        secret: str | bytes | None = None,
        memory_limit: str | float | None = None,
        executor_memory_limit: str | float | None = None,
        checkpoint_store: str | os.PathLike[str] | None = None,
        journal: str | os.PathLike[str] | None = None,
        suspect_after: float | timedelta | None = None,
        dead_after: float | timedelta | None = None,
        http: str | None = None,
        resources: Mapping[str, float] | None = None,
        secret_file: str | os.PathLike[str] | None = None,
        store: str | os.PathLike[str] | None = None,
        spill: str | os.PathLike[str] | None = None,
        host: str | None = None,
        tls: str | os.PathLike[str] | None = None,
        preload: str | Iterable[str] = (),
        **unknown: Any,
    ) -> None:
        if unknown:
            raise unknown_keywords("LocalCluster", unknown, OPTIONS)
        self._wanted = default_slots() if n_workers is None else as_whole_number(n_workers, "n_workers", 0, MAX_WORKERS)
        self._slots, self._offers = as_whole_number(slots, "slots", 1, MAX_SLOTS), check_declared(resources) or {}
        share = MEMORY_SHARE / max(1, self._wanted)
        self._worker_options = worker_words(slots, memory_limit, executor_memory_limit, resources, share)
        self._scheduler_options = scheduler_words(checkpoint_store, suspect_after, dead_after, http)
        self._journal = None if journal is None else as_path(journal, "journal")
        self._http = http or ""
        self._host = "" if host is None else as_text(host, "host")
        self.tls = None if tls is None else as_path(tls, "tls")
        if self.tls is not None:
            load(self.tls)
            for words in (self._scheduler_options, self._worker_options):
                words += ["--tls", os.path.abspath(self.tls)]
        if self._host:
            interface = f"tcp:0:interface={_interface_of(self._host)}"
            refuse_open_listening([interface], False, self.tls is not None)
            self._worker_options += ["--listen", interface, "--contact", self._host]
        self._worker_options += preload_words(preload)
        self._roots = [
            None if folder is None else as_path(folder, name) for name, folder in (("store", store), ("spill", spill))
        ]
        self.secret = as_secret(secret, None if secret_file is None else as_path(secret_file, "secret_file"))
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self._spill = ""
        self._folder = ""
        self._listener: socket.socket | None = None
        self._scheduler: Child | None = None
        self._children: dict[str, Child] = {}
        self._ready: set[str] = set()
        self._leaving: set[str] = set()  # workers that were told to end and must not be restarted
        self._started_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._restarts: dict[str, Any] = {}
        self._next = 0
        self._scheduler_killed = self._start_again = False
        self._scheduler_at = 0.0
        self._starting: Deferred[LocalCluster] | None = None
        self._stopping = self._gone = False
        self._trigger: Any = None
        self._shut_down = ""  # why, and by which client
        self._waiting_for_end: list[Deferred[None]] = []

    # ---- what a user sees ---------------------------------------------------------------------

    @property
    def workers(self) -> dict[str, int]:
        """A dict of the names of the running workers to the pids of their control processes."""
        return {name: child.pid for name, child in self._children.items()}

    @property
    def scheduler(self) -> int:
        """The scheduler's pid; 0 while it is not running."""
        return self._scheduler.pid if self._scheduler is not None else 0

    @property
    def dashboard_link(self) -> str:
        """What to open in a browser; "" without ``http``."""
        if not self._http:
            return ""
        return with_token(link_of(self._http, 0), self.secret)

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = {"address": self.address, "scheduler": self.scheduler or "not running", "workers": ", ".join(self._children)}
        return html_of("LocalCluster", rows, {"page": self.dashboard_link})

    def kill_worker(self, name: str, wipe: bool = False) -> None:
        """Kill a worker's control process with SIGKILL, for tests and demonstrations.  The worker is restarted.

        Args:
            name: The name of the worker.
            wipe: Also remove its store, as if its machine had been lost.

        Raises:
            KeyError: No running worker has this name.
        """
        if name not in self._children:
            raise KeyError(
                f"no worker of this cluster is named {shown(name)}; its workers: {', '.join(self._children) or 'none'}"
            )
        paths = [f"{folder}/{name}" for folder in (self._folder, self._spill)] if wipe else []
        for path in paths:  # before the worker dies: after that, a neighbour would rescue what is there
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, f"{path}.wiped")
        self._children[name].signal(signal.SIGKILL)
        for path in paths:
            for gone in (f"{path}.wiped", path):
                shutil.rmtree(gone, ignore_errors=True)

    def kill_scheduler(self) -> None:
        """Kill the scheduler with SIGKILL, for tests and demonstrations.

        It is not restarted until :meth:`start_scheduler` is called.
        """
        self._scheduler_killed, self._start_again = True, False
        waiting = self._restarts.pop("", None)
        if waiting is not None:  # it had died by itself and was about to be restarted
            waiting.cancel()
        if self._scheduler is not None:
            self._scheduler.signal(signal.SIGKILL)

    def start_scheduler(self) -> None:
        """Start a scheduler that was killed again, on the same address and journal.

        Nothing happens if it is running.  The method does not wait until the scheduler is ready.

        Raises:
            TwistdistError: The cluster has not been started or has ended.
        """
        self.check_open()
        waiting = self._restarts.pop("", None)
        if waiting is not None:
            waiting.cancel()
        if self._scheduler is None:
            self._start_scheduler()
        else:  # it is running, or its end has not been noticed yet
            self._start_again = self._scheduler_killed
        self._scheduler_killed = False

    def scale(self, n: int) -> None:
        """Change the number of workers.

        New workers are started, or the youngest ones are told to leave; those hand over what only they hold first.  The method
        does not wait for either.  It ends :meth:`adapt`.

        Args:
            n: The number of workers, 0 to 10,000.

        Raises:
            TwistdistError: The cluster has not been started or has ended.
            TypeError: ``n`` is not an integer.
            ValueError: ``n`` is out of range.
        """
        wanted = as_whole_number(n, "n", 0, MAX_WORKERS)
        self.check_open()
        self._end_adapting(keep=True)
        self._wanted = wanted
        names = self._meant()
        for name in names[wanted:]:
            self._failures.pop(name, None)
            if name in self._restarts:
                self._restarts.pop(name).cancel()
            else:
                self._leaving.add(name)
                self._children[name].signal(signal.SIGTERM)
        self._start_more(wanted - len(names))

    def _grow(self, count: int) -> None:
        self._wanted += count
        self._start_more(count)

    def _present(self) -> int:
        return len(self._meant())

    def _start_more(self, count: int) -> None:
        for _ in range(count):
            self._start_worker(f"w{self._next}")
            self._next += 1

    @property
    def ended(self) -> str:
        """Why the cluster has ended; "" while it has not."""
        return self._shut_down or ("it was stopped" if self._stopping else "")

    def check_open(self) -> None:
        """Raise ``TwistdistError`` unless the cluster has been started and has not ended."""
        if not self.address:
            raise TwistdistError("this LocalCluster has not been started; call startService() and wait for its Deferred first")
        if self.ended:
            raise TwistdistError(f"this LocalCluster has ended: {self.ended}; create another one")

    def _meant(self) -> list[str]:
        """Return the names of the workers that should exist: those that run and are not leaving, and those about to restart."""
        return [*(name for name in self._children if name not in self._leaving), *(name for name in self._restarts if name)]

    # ---- life -------------------------------------------------------------------------------

    def startService(self) -> Deferred[LocalCluster]:
        """Start the scheduler and the workers.

        Returns:
            A Deferred that fires with this cluster when all workers are ready.  It fails with ``TwistdistError``, and the
            cluster is stopped, if the scheduler exits or a worker does not start.  Cancelling the Deferred stops the cluster.

        Raises:
            TwistdistError: The cluster has been started before.
        """
        if self._folder:
            raise TwistdistError("a LocalCluster can be started only once; create another one")
        super().startService()  # type: ignore[no-untyped-call]
        stores, spills = self._roots[0] or default_store_root(), self._roots[1] or default_spill_root()
        for root in (stores, spills):
            os.makedirs(root, mode=0o700, exist_ok=True)
        remove_leftovers(stores, spills)
        self._folder = tempfile.mkdtemp(prefix="cluster-", dir=stores)
        self._lock = os.open(f"{self._folder}/.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # shows that the directory is in use; our processes share the lock
        self._spill = os.path.join(spills, os.path.basename(self._folder))
        os.makedirs(self._spill, mode=0o700)
        secret = pathlib.Path(self._folder, "secret")
        secret.touch(mode=0o600)
        secret.write_bytes(self.secret)
        # This process holds the listening socket, so that the address stays ours while the scheduler is dead.
        interface = _interface_of(self._host) if self._host else "127.0.0.1"
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        self._listener = socket.create_server((interface, 0), family=family, backlog=128)
        self._listener.setblocking(False)  # as the scheduler that adopts it expects
        name = (self._host or "127.0.0.1").replace(":", "\\:")
        self.address = f"{'tcp' if self.tls is None else 'tls'}:{name}:{self._listener.getsockname()[1]}"
        starting = self._starting = Deferred(self._start_cancelled)
        self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._reactor_stops)
        self._start_scheduler()
        self.scale(self._wanted)
        self._look_ready()
        return starting

    def _environment(self, name: str) -> dict[str, str]:
        """Return our environment with our module path added, so that workers find the modules beside the user's script.

        ``name`` is the worker's; "" for the scheduler.
        """
        return {**os.environ, launch.PATH: launch.path_here()}

    def _words_of_worker(self, name: str) -> list[str]:
        """Return how the worker reaches the scheduler, and its options."""
        return [self.address, *self._worker_options]

    def _start_scheduler(self) -> None:
        assert self._listener is not None
        listener = self._listener.fileno()
        self._restarts.pop("", None)
        self._start_again = False
        self._scheduler_at = self._reactor.seconds()
        journal = f"{self._folder}/journal.sqlite" if self._journal is None else self._journal
        arguments = [
            "--listen-fd",
            str(listener),
            "scheduler",
            "--secret-file",
            f"{self._folder}/secret",
            "--journal",
            journal,
            *self._scheduler_options,
        ]
        self._scheduler = self._child(
            "", arguments, lambda text: None, self._scheduler_leaves, self._scheduler_ended, [listener]
        )

    def _child(
        self,
        name: str,
        arguments: list[str],
        on_ready: Callable[[str], None],
        on_leaves: Callable[[str], None],
        on_exit: Callable[[int], None],
        descriptors: Sequence[int] = (),
    ) -> Child:
        command = ["--lock-fd", str(self._lock), "--folder", self._folder, "--folder", self._spill, *arguments]
        environment = self._environment(name)
        return Child(self._reactor, command, environment, on_ready, on_leaves, on_exit, [self._lock, *descriptors])

    def _scheduler_leaves(self, why: str) -> None:
        """Handle a shutdown by a client: restart nothing any more, and tell the remaining workers to end."""
        self._shut_down = why
        self._end_adapting()
        for restart in self._restarts.values():
            restart.cancel()
        self._restarts.clear()
        for name, child in self._children.items():
            if name not in self._leaving:
                self._leaving.add(name)
                child.signal(signal.SIGTERM)

    def _scheduler_ended(self, status: int) -> None:
        self._scheduler = None
        if not self._stopping and not self._shut_down:
            self._log.warn("the scheduler exited: {exit}", exit=exit_in_words(status))
        self._look_gone()
        if self._starting is not None:
            self._fail_start(f"the scheduler exited while the cluster was starting: {exit_in_words(status)}")
        elif self._stopping or self._shut_down:
            return
        elif self._start_again:
            self._start_scheduler()
        elif status and self._journal != "none" and not self._scheduler_killed:
            if self._reactor.seconds() - self._scheduler_at > SETTLED_S:
                self._failures[""] = 0
            failures = self._failures[""] = self._failures.get("", 0) + 1
            pause = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (failures - 1))
            self._restarts[""] = self._reactor.callLater(pause, self._start_scheduler)

    def _start_worker(self, name: str) -> None:
        self._restarts.pop(name, None)
        arguments = [
            "worker",
            *self._words_of_worker(name),
            "--name",
            name,
            "--store",
            f"{self._folder}/{name}",
            "--spill",
            f"{self._spill}/{name}",
            "--secret-file",
            f"{self._folder}/secret",
        ]
        self._started_at[name] = self._reactor.seconds()
        self._children[name] = self._child(
            name,
            arguments,
            partial(self._worker_ready, name),
            partial(self._worker_leaves, name),
            partial(self._worker_ended, name),
        )

    def _worker_ready(self, name: str, text: str) -> None:
        self._ready.add(name)
        self._look_ready()

    def _worker_leaves(self, name: str, why: str) -> None:
        """Handle a worker that leaves for good: it was retired, or the cluster was shut down."""
        if name not in self._leaving:
            self._log.info("worker {name} will not be restarted: {why}", name=name, why=why)
            self._leaving.add(name)
            self._wanted -= 1
            self._look_ready()

    def _look_ready(self) -> None:
        if self._starting is not None and len(self._ready) >= self._wanted:
            starting, self._starting = self._starting, None
            starting.callback(self)

    def _worker_ended(self, name: str, status: int) -> None:
        del self._children[name]
        was_ready = name in self._ready
        self._ready.discard(name)
        if self._stopping or name in self._leaving:
            self._leaving.discard(name)
            self._look_gone()
            return
        if self._reactor.seconds() - self._started_at[name] > SETTLED_S:
            self._failures[name] = 0
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        self._log.warn("worker {name} exited ({exit}) and will be restarted", name=name, exit=exit_in_words(status))
        if self._starting is not None and not was_ready and failures >= MAX_FAILED_STARTS:
            self._fail_start(f"worker {name} failed to start: {exit_in_words(status)}; see its message on standard error")
            return
        pause = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** (failures - 1))
        self._restarts[name] = self._reactor.callLater(pause, self._start_worker, name)

    def _start_cancelled(self, starting: Deferred[Any]) -> None:
        self._starting = None
        self.stopService()

    def _fail_start(self, text: str) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            self.stopService().addCallback(lambda _: starting.errback(TwistdistError(text)))

    def stopService(self) -> Deferred[None]:
        """Stop all processes and remove their stores.

        Processes that have not ended after 10 seconds are killed.

        Returns:
            A Deferred that fires with None when all processes are gone; at once if none is running.
        """
        if self._gone or (not self.running and not self._waiting_for_end):
            return succeed(None)
        stopped: Deferred[None] = Deferred(self._waiting_for_end.remove)
        self._waiting_for_end.append(stopped)
        if self._stopping:
            return stopped
        self._stopping = True
        super().stopService()  # type: ignore[no-untyped-call]
        self._end_adapting()
        starting, self._starting = self._starting, None
        if starting is not None and not starting.called:
            starting.errback(TwistdistError("the LocalCluster was stopped while it was starting"))
            starting.addErrback(lambda _: None)  # handled here, in case nobody waits for the start
        for restart in self._restarts.values():
            restart.cancel()
        self._restarts.clear()
        for number in (signal.SIGTERM, signal.SIGINT):  # the second one: nothing has to be handed over
            self._signal_all(number)
        self._killing = self._reactor.callLater(STOP_S, self._signal_all, signal.SIGKILL)
        self._look_gone()
        return stopped

    def _reactor_stops(self) -> Deferred[None]:
        """Stop the cluster before the reactor stops; the reactor waits for the Deferred."""
        self._trigger = None
        return self.stopService()

    def _signal_all(self, number: signal.Signals) -> None:
        for child in [*self._children.values(), *([self._scheduler] if self._scheduler else [])]:
            child.signal(number)

    def _look_gone(self) -> None:
        if not self._stopping or self._gone or self._children or self._scheduler is not None:
            return
        self._gone = True
        if self._killing.active():
            self._killing.cancel()
        if self._listener is not None:
            self._listener.close()
        for folder in (self._folder, self._spill):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(self._lock)
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
        waiting, self._waiting_for_end = self._waiting_for_end, []
        for stopped in waiting:
            stopped.callback(None)


def _interface_of(host: str) -> str:
    """Where to listen to be reached at ``host``: at an address itself, or at all."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1" if host == "localhost" else "0.0.0.0"
    return host


#: The keywords of a LocalCluster, in both APIs.
OPTIONS = [*inspect.signature(LocalCluster.__init__).parameters][2:-1]
