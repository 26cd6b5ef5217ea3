"""A cluster whose workers are jobs of an engine.  :mod:`.roster` decides, this module asks and carries out."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twistdist.clusters.base import Cluster
from twistdist.clusters.engine import FOLDER, Engine, Job
from twistdist.clusters.home import Home, JobScheduler, OwnScheduler
from twistdist.clusters.local import MAX_FAILED_STARTS
from twistdist.clusters.options import MAX_WORKERS, scheduler_words, worker_words
from twistdist.clusters.roster import Roster
from twistdist.config import as_path, as_secret, as_text, as_whole_number
from twistdist.core.scheduler import RETIRED
from twistdist.display import html_of
from twistdist.errors import ClientClosed, SchedulerUnreachable, TwistdistError
from twistdist.interfaces import Incident, WorkerInfo
from twistdist.net.certs import make_certificates
from twistdist.net.client import Client
from twistdist.net.options import check_declared
from twistdist.net.tls import load

#: Seconds that the scheduler has to answer a question before the jobs are looked at without its answer.
ANSWER_S = 5.0

#: Seconds that workers have to leave when the cluster stops.
STOP_S = 10.0

#: Seconds that a cluster that stops waits for what it is just doing, and for each step of its end.
ROUND_S, STEP_S = 30.0, 60.0

#: Seconds that a worker which is not wanted any more has to finish its tasks.
RETIRE_S = 3600.0

#: Seconds between two looks at the jobs while the cluster starts.
STARTING_POLL_S = 0.5

#: Seconds without an answer of the scheduler after which a worker ends: the program that owns the cluster has died.
GIVE_UP_S = 600.0

#: Seconds for which an engine may fail at each look, or the scheduler not answer, before a cluster that starts gives up.
TROUBLE_S = 30.0

#: Seconds that a worker takes to start, until that has been seen.
START_S = 30.0

_CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")
_SECURE = ("--secret-file", f"{FOLDER}/secret", "--tls", FOLDER)


class JobCluster(Cluster):
    """A cluster whose workers are jobs of an engine, as a Twisted service.

    The scheduler runs on this machine, in a process of its own, or is a job of the engine too.  Connections are encrypted with
    certificates that are made for this cluster.  A job that ends unasked is started again; a worker that leaves because its
    allocation or its machine comes to an end is replaced at once; a worker that a client retires is not.

    Args:
        engine: What starts and ends the jobs.
        n_workers: The number of workers, 0 to 10,000.
        reactor: The reactor to run on; by default Twisted's global reactor.
        name: What the names of the cluster's jobs begin with: letters, digits, ``-``, ``_`` and ``.``, at most 50.
        slots: How many tasks each worker runs at a time; by default as many as its job has processors.
        host: The host name or address at which jobs reach the scheduler when it runs on this machine; by default this
            machine's name.
        worker_options: More options of ``twistd twistdist-worker`` for every worker, such as ``["--lifetime", "auto"]``.
        secret: The shared secret, at least 16 bytes; by default a new one.
        journal: The file of the scheduler's journal, from which a restarted scheduler continues.  By default, a file that is
            removed with the cluster; ``"none"``: no journal.
        **options: ``memory_limit``, ``executor_memory_limit`` and ``resources`` of each worker, ``checkpoint_store``,
            ``suspect_after``, ``dead_after`` and ``http`` of the scheduler; see :class:`twistdist.LocalCluster`.

    Raises:
        ConfigError: A size or the secret is invalid, or a package that is needed for encryption is not installed.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
    """

    _log = Logger()
    _start_s = START_S
    stop_s = 60.0

    def __init__(
        self,
        engine: Engine,
        n_workers: int = 0,
        *,
        reactor: Any = None,
        name: str | None = None,
        slots: int | None = None,
        host: str | None = None,
        worker_options: Iterable[str] = (),
        secret: str | bytes | None = None,
        journal: str | os.PathLike[str] | None = None,
        memory_limit: str | float | None = None,
        executor_memory_limit: str | float | None = None,
        resources: Mapping[str, float] | None = None,
        checkpoint_store: str | os.PathLike[str] | None = None,
        suspect_after: float | timedelta | None = None,
        dead_after: float | timedelta | None = None,
        http: str | None = None,
    ) -> None:
        self._engine = engine
        self._roster = Roster(as_whole_number(n_workers, "n_workers", 0, MAX_WORKERS))
        self._name: str = "twistdist" if name is None else as_text(name, "name")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,49}", self._name):
            raise ValueError(f"name must consist of letters, digits, '_', '-' and '.', got {self._name!r}")
        self._name += f"-{secrets.token_hex(4)}"  # several clusters may have one name
        self._slots, self._offers = slots or 1, check_declared(resources) if resources else None
        self._worker_words = worker_words(slots, memory_limit, executor_memory_limit, resources)
        self._worker_words += [as_text(word, "worker_options") for word in worker_options]
        self._scheduler_words = scheduler_words(checkpoint_store, suspect_after, dead_after, http)
        self._scheduler_options: dict[str, Any] = {
            "journal": None if journal is None else as_path(journal, "journal"),
            "http": http,
            "checkpoint_store": checkpoint_store,
            "suspect_after": suspect_after,
            "dead_after": dead_after,
        }
        self._host = _this_host() if host is None else as_text(host, "host")
        self.secret = as_secret(secrets.token_hex(32) if secret is None else secret)
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        #: Called with a line of text for each job that ends unasked, and for what an engine can't do; by default, it is logged.
        self.on_news: Callable[[str], None] = self._log_news
        self._folder = ""
        self._scheduler: Home | None = None
        self._client: Client | None = None
        self._trigger: Any = None
        self._waking: Deferred[None] | None = None  # while nothing happens between two rounds
        self._woken = False
        self._rounds: Deferred[None] | None = None
        self._starting: Deferred[JobCluster] | None = None
        self._stopping: Deferred[None] | None = None
        self._asked_at = 0.0  # when the scheduler answered last
        self._trouble = ""  # of the engine, as it was logged last
        self._trouble_since: float | None = None
        self._ended = ""
        self._stays = False  # when this object stops

    # ---- what a user sees ---------------------------------------------------------------------

    @property
    def workers(self) -> dict[str, str]:
        """A dict of the names of the workers that have joined to the engine's ids of their jobs."""
        return {entry.name: entry.id for entry in self._roster.jobs.values() if entry.joined}

    @property
    def ended(self) -> str:
        """Why the cluster has ended, such as which client has shut it down; "" while it has not."""
        return self._ended or ("it was stopped" if self._stopping is not None else "")

    @property
    def cluster_name(self) -> str:
        """The cluster's full name."""
        return self._name

    @property
    def secret_file(self) -> str:
        """The file with the shared secret, for other programs; it exists while the cluster does."""
        return os.path.join(self._folder, "secret")

    @property
    def jobs(self) -> dict[str, str]:
        """A dict of the engine's ids of all jobs of workers to what is known of each, in words."""
        return {
            entry.id: f"{entry.phase}: {entry.why}" if entry.why else entry.phase
            for entry in self._roster.jobs.values()
            if entry.id
        }

    @property
    def dashboard_link(self) -> str:
        """What to open in a browser; "" without ``http``."""
        return "" if self._client is None else self._client.dashboard_link

    def _repr_html_(self) -> str:
        """For notebooks."""
        jobs = ", ".join(f"{id} ({state})" for id, state in self.jobs.items())
        rows = {"address": self.address, "workers": ", ".join(self.workers), "jobs": jobs}
        return html_of(type(self).__name__, rows, {"page": self.dashboard_link})

    def check_open(self) -> None:
        """Raise ``TwistdistError`` unless the cluster has been started and has not ended."""
        kind = type(self).__name__
        if not self.address:
            raise TwistdistError(f"this {kind} has not been started; call startService() and wait for its Deferred first")
        if self.ended:
            raise TwistdistError(f"this {kind} has ended: {self.ended}; create another one")

    def scale(self, n: int) -> None:
        """Change the number of workers.

        New jobs are asked for; or jobs that wait are withdrawn, and the youngest workers retired, which hand over what only
        they hold.  The method does not wait for either.

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
        self._roster.wanted = wanted
        self._wake()

    @staticmethod
    def _default_maximum() -> int:
        raise TypeError("adapt() needs the greatest number of workers: adapt(minimum, maximum)")

    def _grow(self, count: int) -> None:
        self._roster.wanted += count
        self._wake()

    def _present(self) -> int:
        return len(self._roster.meant)

    def logs(self, n: int = 100) -> Deferred[dict[str, list[str]]]:
        """Return the last lines that the jobs have written: those of the processes themselves, such as why one did not start.

        What tasks print is given by :meth:`Client.logs`.

        Args:
            n: The number of lines of each job.

        Returns:
            A Deferred that fires with a dict of the names of the workers to lists of lines.
        """
        return Deferred.fromCoroutine(self._logs(as_whole_number(n, "n", 1, 100_000)))

    async def _logs(self, n: int) -> dict[str, list[str]]:
        ids = {entry.name: entry.id for entry in self._roster.jobs.values() if entry.id}
        if self._scheduler is not None and self._scheduler.id:
            ids["scheduler"] = self._scheduler.id
        return {name: await self._engine.log(id, n) for name, id in ids.items()}

    # ---- start and end ------------------------------------------------------------------------

    def startService(self) -> Deferred[JobCluster]:
        """Start the scheduler, and ask the engine for the workers' jobs.

        Returns:
            A Deferred that fires with this cluster when all workers have joined; with an engine whose jobs wait in a queue, as
            soon as it has taken the jobs (see :meth:`Client.wait_for_workers`).  It fails with ``TwistdistError``, and the
            cluster is stopped, if the engine refuses, or the scheduler or a worker does not start.  Cancelling the Deferred
            stops the cluster.

        Raises:
            TwistdistError: The cluster has been started before.
        """
        if self._folder:
            raise TwistdistError(f"a {type(self).__name__} can be started only once; create another one")
        super().startService()  # type: ignore[no-untyped-call]
        self._folder = _kept_folder(self._name) if self._engine.detach else tempfile.mkdtemp(prefix=f"{self._name}-")
        self._starting = Deferred(self._start_cancelled)
        self._rounds = Deferred.fromCoroutine(self._run())
        # Not within the errback: what follows waits for the rounds to have ended.
        self._rounds.addErrback(lambda failure: self._reactor.callLater(0, self._broken, failure) and None)
        self._trigger = self._reactor.addSystemEventTrigger("before", "shutdown", self._reactor_stops)
        return self._starting

    def _start_cancelled(self, starting: Deferred[Any]) -> None:
        self._starting = None
        self.stopService()

    async def _run(self) -> None:
        self.tls = os.path.join(self._folder, "tls")
        make_certificates(self.tls, [self._host])
        secret = pathlib.Path(self.secret_file)
        secret.touch(mode=0o600)
        secret.write_bytes(self.secret)
        await self._engine.open(self._reactor, self._name)
        if self._engine.runs_scheduler:
            self._scheduler = JobScheduler(self._reactor, self._engine, self._scheduler_job, lambda line: self.on_news(line))
        else:
            self._scheduler = OwnScheduler(self._reactor, self._host, self.tls, self.secret, self._scheduler_options)
        self.address = await self._scheduler.start()
        self._asked_at = self._reactor.seconds()
        while self._stopping is None and not self._ended:
            await self._round()
            await self._pause(STARTING_POLL_S if self._starting is not None else self._engine.poll_s)

    async def _pause(self, seconds: float) -> None:
        """Wait for so long, or until something has changed since the last round began."""
        if self._woken:
            self._woken = False
            return
        self._waking = Deferred()
        pause = self._reactor.callLater(seconds, self._wake)
        await self._waking
        if pause.active():
            pause.cancel()

    def _wake(self) -> None:
        """Look at everything now."""
        waking, self._waking = self._waking, None
        if waking is not None:
            waking.callback(None)
        else:  # in a round, which may have looked before
            self._woken = True

    def _broken(self, failure: Failure) -> None:
        """Handle an error before the first round."""
        if self._stopping is None:
            self._fail_start(failure)

    async def _look_started(self) -> None:
        roster = self._roster
        if roster.failures >= MAX_FAILED_STARTS:
            said = " ".join(await self._engine.log(roster.failed, 3)) if roster.failed else ""
            self._fail_start(Failure(TwistdistError(f"{roster.failure}; it wrote: {said}" if said else roster.failure)))
            return
        taken = all(entry.id for entry in roster.meant)
        if roster.all_joined or (self._engine.queues and taken and len(roster.meant) == roster.wanted):
            starting, self._starting = self._starting, None
            if starting is not None:
                self._stays = self._engine.detach
                starting.callback(self)

    def _fail_start(self, failure: Failure) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            self.stopService().addBoth(lambda _: starting.errback(failure))

    def stopService(self) -> Deferred[None]:
        """End all jobs and the scheduler.

        Workers have 10 seconds to leave.

        Returns:
            A Deferred that fires with None when the engine has been told to end every job and the scheduler has ended.
        """
        if not self._folder:
            return succeed(None)
        if self._stopping is None:
            self._stopping = Deferred()
            super().stopService()  # type: ignore[no-untyped-call]
            Deferred.fromCoroutine(self._stop()).addErrback(self._not_stopped).addBoth(self._stopping.callback)
        stopped: Deferred[None] = Deferred()
        self._stopping.addCallback(lambda _: stopped.callback(None))
        return stopped

    def _reactor_stops(self) -> Deferred[None]:
        """Stop the cluster before the reactor stops, which waits for the Deferred."""
        self._trigger = None
        return self.stopService()

    def _not_stopped(self, failure: Failure) -> None:
        self._log.failure("cluster {name} could not be stopped in order", failure, name=self._name)

    async def _stop(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None and not starting.called:
            starting.errback(TwistdistError(f"the {type(self).__name__} was stopped while it was starting"))
            starting.addErrback(lambda _: None)  # handled here, in case nobody waits for the start
        self._end_adapting()
        self._wake()
        if self._rounds is not None:
            if not self.address:
                self._rounds.cancel()  # whatever it waits for: there are no jobs yet
            # A round is not interrupted if it can be helped: the engine may be starting a job.
            await self._rounds.addTimeout(ROUND_S, self._reactor).addErrback(self._not_stopped)
        client, self._client = self._client, None
        if self._stays and not self._ended:
            await self._leave(client)
        else:
            await self._end(client)
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)

    async def _leave(self, client: Client | None) -> None:
        """Leave everything as it is."""
        if client is not None:
            await client.close()
        await self._engine.close()

    async def _end(self, client: Client | None) -> None:
        """End everything; what can't be done is logged, and the rest is done all the same."""
        steps: list[Callable[[], Awaitable[Any]]] = []
        if client is not None and not self._ended:
            # Workers end at once, and know that it is meant.
            steps.append(lambda: self._within(client.shutdown(), STOP_S))
        if self._ids():
            steps.append(lambda: self._engine.end(self._ids()))
        if client is not None:
            steps.append(client.close)
        steps.append(self._engine.close)
        if self._scheduler is not None:
            steps.append(self._scheduler.stop)
        for step in steps:
            try:
                await Deferred.fromCoroutine(_awaited(step)).addTimeout(STEP_S, self._reactor)
            except Exception:
                self._not_stopped(Failure())
        shutil.rmtree(self._folder, ignore_errors=True)

    def _log_news(self, line: str) -> None:
        self._log.warn("cluster {name}: {line}", name=self._name, line=line)

    # ---- a round ------------------------------------------------------------------------------

    async def _round(self) -> None:
        """Look at everything, and do what follows.

        An engine's errors are logged, once, and the next round tries again; but a start fails with them: at once if the engine
        has a queue, which would wait for hours, and otherwise if they last.
        """
        try:
            await self._look()
        except defer.CancelledError:
            raise
        except Exception as error:
            now = self._reactor.seconds()
            if self._trouble_since is None:
                self._trouble_since = now
            if self._starting is not None and (self._engine.queues or now - self._trouble_since >= TROUBLE_S):
                self._fail_start(Failure())
            elif not isinstance(error, TwistdistError):
                self._log.failure("cluster {name}: an error in the engine", name=self._name)
            elif str(error) != self._trouble:
                self.on_news(str(error))
            self._trouble = str(error)
        else:
            self._trouble, self._trouble_since = "", None

    def _ids(self) -> list[str]:
        ids = [entry.id for entry in self._roster.jobs.values() if entry.id]
        return [*ids, self._scheduler.id] if self._scheduler is not None and self._scheduler.id else ids

    async def _look(self) -> None:
        assert self._scheduler is not None  # made before the first round
        ids = self._ids()
        states = await self._engine.look(ids) if ids else {}
        self._ended = await self._scheduler.look(states)
        if self._ended:
            if ids:
                await self._engine.end(ids)  # those that wait in a queue would wait for a scheduler
            self._log.info("cluster {name} has ended: {why}", name=self._name, why=self._ended)
            return
        workers, retired = await self._ask_scheduler()
        silent_s = self._reactor.seconds() - self._asked_at
        if workers is None and self._starting is not None and silent_s >= TROUBLE_S:
            self._fail_start(Failure(TwistdistError(f"the scheduler at {self.address} has not answered for {silent_s:.0f} s")))
            return
        steps = self._roster.look(self._reactor.seconds(), states, workers, retired)
        for line in steps.news:
            self.on_news(line)
        if steps.retire and self._client is not None:
            self._client._query("retire", RETIRE_S, *steps.retire).addErrback(self._not_retired, steps.retire)
        if steps.end:
            await self._engine.end(steps.end)
        if steps.start:
            await self._start_jobs(steps.start)
        for id in steps.failed:
            said = await self._engine.log(id, 3)
            if said:
                self.on_news(f"job {id} wrote: {' '.join(said)}")
        if self._starting is not None:
            await self._look_started()

    async def _start_jobs(self, names: list[str]) -> None:
        ids: dict[str, str] = {}
        why = ""
        try:
            ids = await self._engine.start([self._job_of(name) for name in names])
        except Exception as error:
            why = str(error)
            raise
        finally:
            self._roster.started(self._reactor.seconds(), ids, names, why)

    def _job_of(self, name: str) -> Job:
        place = ["--name", name, "--cluster", self._name, "--listen", "tcp:0:interface=0.0.0.0"]
        words = [self.address, *place, *_SECURE, f"--give-up-after={GIVE_UP_S:g}", *self._worker_words]
        return Job(name, "worker", tuple(words), self._files())

    def _scheduler_job(self, port: str) -> Job:
        journal = self._scheduler_options["journal"] or f"{FOLDER}/journal.sqlite"
        words = ["--listen", f"tcp:{port}:interface=0.0.0.0", "--journal", journal, *_SECURE, *self._scheduler_words]
        return Job("scheduler", "scheduler", tuple(words), self._files())

    def _files(self) -> dict[str, bytes]:
        """What a process of this cluster needs to know."""
        folder = pathlib.Path(self.tls or "")
        return {"secret": self.secret, **{name: (folder / name).read_bytes() for name in _CERTIFICATES}}

    def _not_retired(self, failure: Failure, names: list[str]) -> None:
        self._log.info("cluster {name}: {names}: {why}", name=self._name, names=", ".join(names), why=failure.getErrorMessage())

    # ---- what the scheduler knows -------------------------------------------------------------

    async def _ask_scheduler(self) -> tuple[dict[str, WorkerInfo] | None, list[str]]:
        """Return the workers, None without an answer, and the names of those that clients have retired lately."""
        try:
            if self._client is None:
                session = Client.for_session(self._reactor, self.address, self.secret, tls=load(self.tls or ""))
                self._client = await session.open(ANSWER_S)
            workers: dict[str, WorkerInfo] = await self._within(self._client.workers(), ANSWER_S)
            # In this order: a worker that is retired and leaves in between is found among the incidents.
            lately = self._reactor.seconds() - self._asked_at + ANSWER_S
            incidents: list[Incident] = await self._within(self._client.incidents(lately), ANSWER_S)
        except TwistdistError as error:
            self._log.info("cluster {name}: the scheduler does not answer: {why}", name=self._name, why=str(error))
            if isinstance(error, ClientClosed | SchedulerUnreachable):
                self._client = None  # it has restarted without a journal, or was shut down
            return None, []
        self._asked_at = self._reactor.seconds()
        return workers, [incident.what for incident in incidents if incident.kind == RETIRED]

    async def _within(self, deferred: Deferred[Any], seconds: float) -> Any:
        """Wait for a Deferred at most so long.  ``TwistdistError`` if that is not enough."""
        try:
            return await deferred.addTimeout(seconds, self._reactor)
        except defer.TimeoutError:
            raise TwistdistError(f"the scheduler did not answer within {seconds:g} s") from None


def _kept_folder(name: str) -> str:
    """Make a folder for the secret and the certificates of a cluster that outlives this program."""
    folder = os.path.join(state_folder(), name)
    os.makedirs(folder, mode=0o700)
    return folder


def state_folder() -> str:
    """Return this user's folder for what clusters of jobs need to keep, in files."""
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "twistdist")


def _this_host() -> str:
    """This machine's name, or an address of it if nobody knows the name."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, contextlib.suppress(OSError):
            asking.connect(("192.0.2.1", 9))  # RFC 5737: nobody's address; nothing is sent
            return str(asking.getsockname()[0])
        return "127.0.0.1"
    return name


async def _awaited(step: Callable[[], Awaitable[Any]]) -> Any:
    return await step()
