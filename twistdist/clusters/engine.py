"""What an engine must be able to do: start jobs, tell what became of them, end them."""

from __future__ import annotations

import abc
import shlex
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol

from twistdist.errors import TwistdistError

#: What stands for the job's private folder in the options of a job.
FOLDER = "{folder}"

#: Bytes that are kept of what a command prints.
MAX_OUTPUT = 1 << 20

#: Seconds after which a command is taken for stuck, and killed.
COMMAND_S = 60.0

#: Seconds between polls of a process that has closed its pipes and has not been reaped yet.
REAP_S = 0.01


@attrs.frozen
class Job:
    """One process of a cluster, to be started by an engine.

    Attributes:
        name: The worker's name, or ``"scheduler"``; unique within the cluster.
        role: ``"worker"`` or ``"scheduler"``.
        options: What follows the role on its command line.  ``{folder}`` stands for the folder with ``files``.
        files: The content of each file that the process needs: the secret and the certificates.  Only the user may read them.
    """

    name: str
    role: str
    options: tuple[str, ...]
    files: Mapping[str, bytes]

    def command(self, python: str, folder: str) -> list[str]:
        """Return the words of the command to run.

        Args:
            python: The Python interpreter at the other end.
            folder: Where ``files`` are at the other end.
        """
        return [python, "-m", "twistdist.tap", self.role, *(word.replace(FOLDER, folder) for word in self.options)]

    def shell_command(self, python: str, folder: str) -> str:
        """Return the command for a POSIX shell.  The arguments are those of :meth:`command`."""
        return shlex.join(self.command(python, folder))


@attrs.frozen
class JobState:
    """What an engine knows of a job.

    Attributes:
        phase: ``"waiting"`` (it has not begun), ``"running"`` or ``"ended"``.
        why: Why it waits, or how it ended, in the engine's words.
        ok: Whether its process ended with status 0.
    """

    phase: str
    why: str = ""
    ok: bool = False


class Engine(abc.ABC):
    """Starts and ends jobs.

    The methods are coroutines, in which Deferreds can be awaited; :meth:`run` runs a command.  They raise ``TwistdistError``
    for what the user must know: the cluster logs it and tries again, or fails to start with that text.
    """

    #: What it is called in messages, such as "Slurm".
    name: str

    #: Seconds between two looks at the jobs.
    poll_s = 5.0

    #: Whether jobs wait in a queue, maybe for hours: the start of a cluster does not wait for its workers.
    queues = False

    #: Whether the scheduler is a job too; otherwise it runs on the machine of the program that makes the cluster.
    runs_scheduler = False

    #: Whether jobs stay when the program that started them ends.
    detach = False

    async def open(self, reactor: Any, cluster: str) -> None:
        """Prepare.  ``cluster`` is the cluster's name, by which its jobs can be found."""
        self.reactor = reactor
        self.cluster = cluster

    @abc.abstractmethod
    async def start(self, jobs: Sequence[Job]) -> dict[str, str]:
        """Start jobs.  Return the engine's id of each by the job's name; a job that could not be started is left out."""

    @abc.abstractmethod
    async def look(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return what is known of these jobs, by id.  One that is left out has ended."""

    @abc.abstractmethod
    async def end(self, ids: Sequence[str]) -> None:
        """Have jobs end: with SIGTERM, and with SIGKILL some time later.  Those that have ended already are no error."""

    async def log(self, id: str, n: int) -> list[str]:
        """Return the last ``n`` lines that a job has written."""
        return []

    async def scheduler_address(self, id: str) -> str:
        """Wait until the scheduler's job is ready, and return its address; only with ``runs_scheduler``."""
        raise NotImplementedError(f"{self.name} does not run schedulers")

    async def close(self) -> None:
        """Let go of everything except jobs that are running."""
        return

    async def run(
        self, *command: str, input: bytes = b"", timeout: float = COMMAND_S, environment: Mapping[str, str] | None = None
    ) -> str:
        """Run a command on this machine and return what it printed.

        Args:
            *command: The program and its arguments.
            input: What it reads.
            timeout: Seconds after which it is killed.
            environment: Its environment; by default that of this process.

        Raises:
            TwistdistError: It does not exist, exits with another status than 0, or takes too long.
        """
        return await run(self.reactor, *command, input=input, timeout=timeout, environment=environment)


async def run(
    reactor: Any,
    *command: str,
    input: bytes = b"",
    timeout: float = COMMAND_S,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command on this machine and return what it printed; see :meth:`Engine.run`."""
    ended = await execute(reactor, *command, input=input, timeout=timeout, environment=environment)
    if ended.how:
        said = " ".join(ended.errors.split()) or " ".join(ended.output.split()) or "no message"
        raise TwistdistError(f"{command[0]} {ended.how}: {said[-500:]}")
    return ended.output


@attrs.frozen
class Ended:
    """How a command ended: ``how`` it failed ("" if it did not), its exit ``code`` (None for a signal), and what it wrote."""

    how: str
    code: int | None
    output: str
    errors: str


async def execute(
    reactor: Any,
    *command: str,
    input: bytes = b"",
    timeout: float = COMMAND_S,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command on this machine and return how it ended.  Raises ``TwistdistError`` if it does not exist."""
    if shutil.which(command[0]) is None:
        raise TwistdistError(f"there is no program {command[0]} on this machine")
    running = _Running(reactor, input)
    reactor.spawnProcess(running, command[0], command, env=environment)
    late = reactor.callLater(timeout, running.kill, f"took more than {timeout:g} s")
    try:
        return await running.ended
    finally:
        if late.active():
            late.cancel()


class Reaped(ProcessProtocol):
    """A process whose end is noticed in any thread.

    Twisted learns of the end of a process by SIGCHLD, but a reactor that does not run in the main thread, like that of
    :mod:`twistdist.blocking`, gets no signals.  So when its pipes are closed, the process is asked for until it has ended.
    """

    transport: Any

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._open = 3

    def childConnectionLost(self, childFD: int) -> None:
        super().childConnectionLost(childFD)
        self._open -= 1
        if not self._open:
            self._reactor.callLater(REAP_S, self._reap)

    def _reap(self) -> None:
        if self.transport.pid is not None:
            self.transport.reapProcess()
        if self.transport.pid is not None:
            self._reactor.callLater(REAP_S, self._reap)

    def kill(self) -> None:
        """End the process, and do not wait for others that have its pipes."""
        if self.transport.pid is not None:
            self.transport.signalProcess("KILL")
        self.transport.loseConnection()


class _Running(Reaped):
    """``ended`` fires with how the command ended."""

    def __init__(self, reactor: Any, input: bytes) -> None:
        super().__init__(reactor)
        self._input = input
        self._killed = ""
        self.output = self.errors = b""
        self.ended: Deferred[Ended] = Deferred(lambda _: self.kill("was cancelled"))

    def connectionMade(self) -> None:
        self.transport.write(self._input)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        self.output = (self.output + data)[-MAX_OUTPUT:]

    def errReceived(self, data: bytes) -> None:
        self.errors = (self.errors + data)[-MAX_OUTPUT:]

    def kill(self, why: str = "was killed") -> None:
        """End it, because of ``why``."""
        self._killed = why
        super().kill()

    def processEnded(self, reason: Any) -> None:
        if self.ended.called:
            return  # it was cancelled
        how = "" if reason.check(ProcessDone) else f"failed with status {reason.value.exitCode}"
        if how and reason.value.signal is not None:
            how = f"was ended by signal {reason.value.signal}"
        output, errors = self.output.decode(errors="replace"), self.errors.decode(errors="replace")
        self.ended.callback(Ended(self._killed or how, reason.value.exitCode, output, errors))
