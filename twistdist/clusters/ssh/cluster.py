"""Jobs on hosts that are reached by the system's ``ssh``.

One connection to each host carries orders to a :mod:`.keeper` there, which is the parent of the host's jobs.  The keeper
outlives the connection: after a break the engine connects again and finds the jobs as they are.  If it can't, the keeper ends
the jobs before the engine considers them ended.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from twistdist.clusters.engine import Engine, Job, JobState
from twistdist.clusters.jobs import JobCluster, state_folder
from twistdist.clusters.ssh.command import FIXED, HostError, check_host, is_loopback_name
from twistdist.clusters.ssh.hosts import SILENCE_S, Host, Running, Terms
from twistdist.clusters.ssh.keeper import REACH_S
from twistdist.clusters.ssh.kept import NAME, STOP_S
from twistdist.config import as_path, as_seconds, as_text, as_truth
from twistdist.errors import TwistdistError, shown

#: The file that says where the processes of a cluster are that outlives the program that started it.
DETACHED = "cluster.json"

#: Connections that are being made at a time: sshd refuses some when it sees many that have not proved who they are.
MAX_AT_A_TIME = 8

#: Seconds that jobs go on by default without a connection.
GRACE_S = 30.0

#: Seconds that a scheduler has to be ready, and that jobs have beyond SIGTERM and SIGKILL when the engine is closed.
READY_S, CLOSE_S = 60.0, 5.0


class SSHEngine(Engine):
    """Runs jobs on hosts, with the system's ``ssh``: ``~/.ssh/config``, agents, Kerberos and jump hosts work as ever.

    Each host needs the same version of Python and of twistdist as this machine.  ``ssh HOST`` must work without a question.

    The arguments are those of :class:`SSHCluster`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: There is no host, or one could be taken for an option of ssh.
    """

    name = "SSH"
    poll_s = 1.0
    _log = Logger()

    def __init__(
        self,
        hosts: Iterable[str],
        python: str | os.PathLike[str] | None = None,
        ssh_options: Iterable[str] = (),
        folder: str | os.PathLike[str] | None = None,
        scheduler_host: str | None = None,
        contact: str | None = None,
        grace: float = GRACE_S,
        detach: bool = False,
    ) -> None:
        if isinstance(hosts, str | bytes) or not isinstance(hosts, Iterable):
            raise TypeError(f"hosts must be a list of hosts as for ssh, got {shown(hosts)}")
        if isinstance(ssh_options, str | bytes):
            raise TypeError(f"ssh_options must be a list of words such as ['-F', 'config'], got {shown(ssh_options)}")
        self.hosts = [check_host(host) for host in hosts]
        if not self.hosts:
            raise ValueError("hosts must name at least one host, such as ['node1', 'node2']; got none")
        self._python = "" if python is None else _check_path(python, "python")
        self._folder = "" if folder is None else _check_path(folder, "folder")
        self._options = [*FIXED, *(as_text(word, "ssh_options") for word in ssh_options)]
        home = self.hosts[0] if scheduler_host is None else as_text(scheduler_host, "scheduler_host")
        self.runs_scheduler = home != "local"
        self._scheduler_host = check_host(home) if self.runs_scheduler else ""
        self._contact = "" if contact is None else as_text(contact, "contact")
        if not re.fullmatch(r"[A-Za-z0-9_.:%-]*", self._contact):
            raise ValueError(f"contact must be a host name or an address, got {shown(contact)}")
        self.grace = as_seconds(grace, "grace", 5, 86_400)
        self.detach = as_truth(detach, "detach")
        if self.detach and not self.runs_scheduler:
            raise ValueError('detach=True needs the scheduler on one of the hosts: with scheduler_host="local" it ends here')
        self._hosts: dict[str, Host] = {}
        self._homes: dict[str, str] = {}  # where a job ran last: its store may be there

    async def open(self, reactor: Any, cluster: str) -> None:
        """Connect to the hosts.

        Raises:
            TwistdistError: A host has no Python that fits, the scheduler's host or all hosts can't be reached, or there is no
                ssh.
        """
        if not re.fullmatch(NAME, cluster):
            raise ValueError(f"the name of a cluster must consist of letters, digits, '_', '-' and '.', got {shown(cluster)}")
        await super().open(reactor, cluster)
        terms = Terms(
            reactor,
            cluster,
            self._options,
            self._python,
            self._folder,
            None if self.detach else self.grace,
            self.grace + SILENCE_S + STOP_S,  # their keeper has ended the jobs by then
            DeferredSemaphore(MAX_AT_A_TIME),
        )
        for text in self.hosts:
            self._hosts.setdefault(text, Host(terms, text)).weight += 1
        if self.runs_scheduler:
            self._hosts.setdefault(self._scheduler_host, Host(terms, self._scheduler_host))
        errors = await self._all(host.connect() for host in self._hosts.values())
        warnings: list[str] = []
        texts = [str(error) for error in errors if error is not None]
        fatal = [host.why for host in self._hosts.values() if host.wrong_python]
        home = self._hosts.get(self._scheduler_host)
        if fatal or len(texts) == len(self._hosts):
            texts = fatal or texts
        elif home is not None and not home.connected:
            texts = [f"the scheduler's {home.why}"]
        else:
            texts, warnings = [], texts
        if texts:
            await self.close()
            raise TwistdistError("\n".join(texts))
        for text in warnings:
            self._log.warn("no jobs are started there for now: {why}", why=text)

    async def _all(self, attempts: Iterable[Awaitable[Any]]) -> list[Any]:
        """Wait for all; return the ``TwistdistError`` of each, or None."""

        async def attempt(one: Awaitable[Any]) -> Any:
            try:
                await one
            except TwistdistError as error:
                return error
            return None

        found: list[Any] = await gatherResults([Deferred.fromCoroutine(attempt(one)) for one in attempts], consumeErrors=True)
        return found

    # ---- starting ---------------------------------------------------------------------------

    async def start(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Start jobs where there are the fewest.  Return the id of each.

        Raises:
            TwistdistError: None of them could be started.
        """
        ids: dict[str, str] = {}
        errors = await self._all(self._start(job, ids) for job in jobs)
        texts = dict.fromkeys(str(error) for error in errors if error is not None)
        if texts and not ids:
            raise TwistdistError("\n".join(texts))
        for text in texts:
            self._log.error("a job could not be started: {why}", why=text)
        return ids

    async def _start(self, job: Job, ids: dict[str, str]) -> None:
        tried: list[str] = []
        errors: list[str] = []
        while (host := self._next_host(job, tried)) is not None:
            tried.append(host.text)
            host.starting.add(job.name)
            try:
                await host.connect()
                running = await host.start(job)
            except HostError as error:
                errors.append(str(error))
                continue
            finally:
                host.starting.discard(job.name)
            self._homes[job.name] = host.text
            ids[job.name] = f"{host.text}/{job.name}/{running.pid}"
            return
        raise TwistdistError("\n".join(errors))

    def _next_host(self, job: Job, tried: list[str]) -> Host | None:
        """Return the host to try next: where the job was before, else the one with the fewest jobs.

        Those that failed lately are passed over while others work.
        """
        if job.role == "scheduler":
            return None if tried else self._hosts[self._scheduler_host]
        now = self.reactor.seconds()
        hosts = [host for host in self._hosts.values() if host.weight and host.text not in tried]
        good = [host for host in hosts if host.connected or (host.avoid_until <= now and host.lost_at is None)]
        if not good and any(self._hosts[text].connected for text in tried):
            return None
        home = self._homes.get(job.name)
        return min(good or hosts, key=lambda host: (host.text != home, host.load), default=None)

    # ---- looking ----------------------------------------------------------------------------

    def _find(self, id: str) -> tuple[Host | None, Running | None]:
        text, _, rest = id.partition("/")
        name, _, pid = rest.partition("/")
        host = self._hosts.get(text)
        job = None if host is None else host.jobs.get(name)
        return host, job if job is not None and str(job.pid) == pid else None

    async def look(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return what is known of jobs.  While a host is not connected, its jobs count as running for a while."""
        found = {}
        for id in ids:
            host, job = self._find(id)
            if host is not None and job is not None:
                found[id] = JobState(job.phase, job.why or host.lost(), job.ok)
        return found

    async def end(self, ids: Sequence[str]) -> None:
        """Have jobs end.  Those of a host that is not connected end when it is again, or after ``grace``.

        Raises:
            TwistdistError: ``detach``, and a host can't be reached.
        """
        names: dict[str, list[str]] = {}
        for id in ids:
            host, job = self._find(id)
            if host is not None and job is not None:
                job.ending = True
                names.setdefault(host.text, []).append(job.name)
        errors = await self._all(self._end(self._hosts[text], of_host) for text, of_host in names.items())
        texts = [str(error) for error in errors if error is not None]
        if texts:
            raise TwistdistError("\n".join(texts))

    async def _end(self, host: Host, names: list[str]) -> None:
        live = [name for name in names if host.jobs[name].phase != "ended"]
        if not host.connected and not (self.detach and live):
            return
        if host.lost_at is not None:
            raise HostError(f"{host.why}; {', '.join(live)} will be told to end when it is connected again")
        await host.connect()
        await host.ask("end", names=names)
        for name in [name for name in names if name in host.jobs]:
            if host.jobs[name].phase == "ended":
                del host.jobs[name]

    async def log(self, id: str, n: int) -> list[str]:
        """Return the last ``n`` lines that a job has written."""
        host, job = self._find(id)
        if host is None or job is None:
            return []
        try:
            lines: list[str] = (await host.ask("log", name=job.name, n=n))["lines"]
        except HostError as error:
            return [f"({error})"]
        return lines

    async def jobs(self) -> dict[str, JobState]:
        """Return what runs for this cluster on the hosts, also what another program has left there, by id."""
        await self._all(host.connect() for host in self._hosts.values())
        ids = [f"{host.text}/{job.name}/{job.pid}" for host in self._hosts.values() for job in host.jobs.values()]
        return await self.look(ids)

    def away(self) -> list[str]:
        """Return why hosts can't be reached."""
        return [host.why for host in self._hosts.values() if not host.connected]

    def to_end(self) -> dict[str, Any]:
        """Return what another program needs in order to end the jobs."""
        return {
            "hosts": list(self._hosts),
            "python": self._python or None,
            "ssh_options": self._options[len(FIXED) :],
            "folder": self._folder or None,
            "scheduler_host": self._scheduler_host or "local",
        }

    # ---- the scheduler's address ------------------------------------------------------------

    async def scheduler_address(self, id: str) -> str:
        """Wait until the scheduler is ready; return an address at which this machine and all hosts reach it.

        Raises:
            TwistdistError: It has ended, is not ready after a minute, or somebody can't reach it.
        """
        host, job = self._find(id)
        if host is None or job is None:
            raise TwistdistError(f"there is no job {id}")
        late = self.reactor.callLater(READY_S, job.changed)
        ends_at = self.reactor.seconds() + READY_S
        try:
            while not job.ready:
                if job.phase == "ended":
                    raise TwistdistError(f"the scheduler on host {host.text} did not start: {job.why}")
                if self.reactor.seconds() >= ends_at:
                    raise TwistdistError(f"the scheduler on host {host.text} was not ready within {READY_S:g} s")
                waiter: Deferred[None] = Deferred()
                job.waiting.append(waiter)
                await waiter
        finally:
            if late.active():
                late.cancel()
        return await self._reachable(host, job.ready)

    async def _reachable(self, home: Host, ready: str) -> str:
        match = re.search(r"\b(tcp|tls):(\S+?):(\d+)(?= |$)", ready)
        if match is None:
            raise TwistdistError(f"the scheduler on host {home.text} listens at no TCP port: {ready}")
        kind, listens, port = match[1], match[2].replace("\\:", ":"), int(match[3])
        names = self._names(home, listens)
        if not names:
            raise TwistdistError(f"the scheduler's host {home.text} has no address beyond itself; name one with contact=")
        reached = await self._who_reaches(home, [(name, port) for name in names])
        chosen = [name for i, name in enumerate(names) if all(row[i] for row in reached.values())][:1]
        if not chosen:  # several, which are tried in turn
            chosen = [name for i, name in enumerate(names) if any(row[i] for row in reached.values())]
        for who, row in reached.items():
            if not any(row):
                places = ", ".join(f"{name}:{port}" for name in names)
                raise TwistdistError(
                    f"{who} can't reach the scheduler on host {home.text} at {places}: let it through the firewall, name the "
                    "address with contact=, or have the scheduler elsewhere with scheduler_host="
                )
        return ",".join(f"{kind}:{_escaped(name)}:{port}" for name in chosen)

    def _names(self, home: Host, listens: str) -> list[str]:
        """What the scheduler's host may be called by others, the likeliest first."""
        if self._contact:
            return [self._contact]
        found = [home.name, *([home.around.address, home.around.name] if home.around is not None else [])]
        if not is_loopback_name(listens):  # it listens there only
            found = [listens]
        alone = all(is_loopback_name(host.name) for host in self._hosts.values())
        return list(dict.fromkeys(name for name in found if name and (alone or not is_loopback_name(name))))

    async def _who_reaches(self, home: Host, addresses: list[tuple[str, int]]) -> dict[str, list[bool]]:
        """For this machine and each connected host: which addresses it reaches."""
        reached: dict[str, list[bool]] = {}

        async def ask(host: Host) -> None:
            reached[f"host {host.text}"] = (await host.ask("reach", addresses=addresses))["reached"]

        others = [host for host in self._hosts.values() if host.connected and host is not home]
        here = gatherResults([self._reaches(*address) for address in addresses])
        await self._all(ask(host) for host in others)
        return {"this machine": await here, **reached}

    def _reaches(self, name: str, port: int) -> Deferred[bool]:
        factory: Any = Factory.forProtocol(Protocol)
        connecting: Deferred[Any] = HostnameEndpoint(self.reactor, name, port, timeout=REACH_S).connect(factory)

        def reached(protocol: Any) -> bool:
            protocol.transport.loseConnection()
            return True

        return connecting.addCallbacks(reached, lambda _: False)

    # ---- closing ----------------------------------------------------------------------------

    async def close(self) -> None:
        """Wait for jobs that were told to end, then let go of the hosts."""
        ends_at = self.reactor.seconds() + STOP_S + CLOSE_S
        for host in self._hosts.values():
            for job in host.jobs.values():
                while host.connected and job.ending and job.phase != "ended" and self.reactor.seconds() < ends_at:
                    waiter: Deferred[None] = Deferred()
                    job.waiting.append(waiter)
                    late = self.reactor.callLater(1.0, job.changed)
                    await waiter
                    if late.active():
                        late.cancel()
        if not self.detach:
            await self._all(host.ask("bye") for host in self._hosts.values() if host.connected)
        for host in self._hosts.values():
            host.close()


class SSHCluster(JobCluster):
    """A cluster on hosts that are reached by ``ssh``, as a Twisted service; see :doc:`ssh`.

    Args:
        hosts: The hosts as for ssh: ``host``, ``user@host``, ``host:port``, or an alias of ``~/.ssh/config``.  One that is
            named twice gets twice as many jobs.
        n_workers: The number of workers, 0 to 10,000; by default one for each host that was named.
        python: The interpreter at the other end, such as ``"~/venv/bin/python"``; by default the first that fits of the path
            of the one here, ``python3.X`` and ``python3``.
        ssh_options: More options for ssh, such as ``["-F", "config"]`` or ``["-o", "ProxyJump=gate"]``.
        folder: The folder at the other end in which the folders of clusters are made, with the secret and the certificates; by
            default ``$XDG_CACHE_HOME/twistdist`` or ``~/.cache/twistdist``.
        scheduler_host: Where the scheduler runs: one of the hosts or another one, by default the first; ``"local"``: on this
            machine.
        contact: The host name or address at which everybody reaches the scheduler's host; by default it is found by trying.
        grace: Seconds that jobs go on when nothing is heard of this program, 5 to 86,400: then they end.
        detach: Leave jobs running when this program ends or is cut off, until they are told to end.
        **options: See :class:`twistdist.JobCluster`.

    Raises:
        ConfigError: A size or the secret is invalid, or a package that is needed for encryption is not installed.
        TypeError: An argument is unknown or has the wrong type.
        ValueError: There is no host, one could be taken for an option of ssh, or an option is out of range.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        n_workers: int | None = None,
        *,
        python: str | os.PathLike[str] | None = None,
        ssh_options: Iterable[str] = (),
        folder: str | os.PathLike[str] | None = None,
        scheduler_host: str | None = None,
        contact: str | None = None,
        grace: float = GRACE_S,
        detach: bool = False,
        **options: Any,
    ) -> None:
        engine = SSHEngine(hosts, python, ssh_options, folder, scheduler_host, contact, grace, detach)
        super().__init__(engine, len(engine.hosts) if n_workers is None else n_workers, **options)
        self._ssh = engine

    def startService(self) -> Deferred[Any]:
        """Connect to the hosts, then start the scheduler and the workers; see :meth:`JobCluster.startService`."""
        return super().startService().addCallback(self._started)

    def _started(self, cluster: Any) -> Any:
        if self._ssh.detach:
            pathlib.Path(self._folder, DETACHED).write_text(json.dumps({"address": self.address, **self._ssh.to_end()}))
        return cluster


async def end_detached(reactor: Any, name: str) -> list[str]:
    """End a cluster that was left running; return the ids of the jobs that were told to end.

    Raises:
        TwistdistError: There is no such cluster, or a host can't be reached; then it can be tried again.
    """
    folder = pathlib.Path(state_folder(), name)
    try:
        known = json.loads((folder / DETACHED).read_text())
    except FileNotFoundError:
        names = [path.parent.name for path in sorted(folder.parent.glob(f"*/{DETACHED}"))]
        raise TwistdistError(
            f"this user has left no cluster {shown(name)} running from this machine; there are: {', '.join(names) or 'none'}"
        ) from None
    engine = SSHEngine(known["hosts"], known["python"], known["ssh_options"], known["folder"], known["scheduler_host"])
    await engine.open(reactor, name)
    try:
        jobs = await engine.jobs()
        await engine.end(list(jobs))
        away = engine.away()
    finally:
        await engine.close()
    if away:
        raise TwistdistError("\n".join(["what runs there was not ended:", *away]))
    shutil.rmtree(folder)
    return list(jobs)


def _check_path(path: Any, name: str) -> str:
    plain = as_path(path, name)
    if plain.startswith("-") or not plain.isprintable():
        raise ValueError(f"{name} must be a path, got {shown(plain)}")
    return plain


def _escaped(name: str) -> str:
    return name.replace(":", r"\:")
