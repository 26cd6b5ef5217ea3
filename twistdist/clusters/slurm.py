"""Jobs of Slurm: each worker is a batch job, or one task of an array job.  docs/slurm.rst."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import pathlib
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from twisted.internet.task import deferLater
from twisted.logger import Logger

from twistdist.clusters.engine import Engine, Job, JobState
from twistdist.clusters.jobs import JobCluster, state_folder
from twistdist.config import as_number, as_path, as_seconds, as_text, as_whole_number, parse_bytes
from twistdist.errors import ConfigError, TwistdistError, shown
from twistdist.keywords import unknown_keywords

#: Seconds between two looks.  Slurm's manual asks programs to poll seldom, since each ``squeue`` is work for the controller.
POLL_S = 15.0

#: Seconds between two looks, at most, in the first so many seconds after jobs were submitted.
FRESH_POLL_S, FRESH_S = 3.0, 60.0

#: Jobs in one array job, unless the controller allows fewer (``MaxArraySize``).  Each is one line of the batch script.
MAX_ARRAY = 200

#: Ids in one call of a command.
MAX_IDS = 2_000

#: Bytes at the end of a job's output that ``log`` reads.
MAX_LOG_BYTES = 256 << 10

#: Outcomes that are remembered after Slurm has forgotten the job.
MAX_OUTCOMES = 10_000

#: Seconds that ``close`` waits for jobs that it was told to end.
PATIENCE_S = 8.0

#: The file that shows that a folder is of a cluster: the user may have named a folder with other things in it.
MARK = ".twistdist-cluster"

#: Seconds after which the folder of a cluster whose jobs are gone is taken for left behind, and how many are looked at.
LEFT_S, MAX_LEFT = 7 * 86_400.0, 100

#: Seconds before the end of a job's time at which its worker begins to leave, unless the time is shorter than six times that.
MARGIN_S = 60.0

#: Seconds of Slurm's ``KillWait`` on which a worker does not count.
RESERVE_S = 2

#: States before a job's process exists, and while it may exist.  All others are ends.
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "RECONFIG_FAIL",
    "REVOKED",
    "TIMEOUT",
}

#: What Slurm's reasons mean for whoever waits: a part of the reason, and the words.
REASONS = (
    ("PartitionConfig", "the partition does not allow what the job asks for; it will never start"),
    ("PartitionTimeLimit", "more time than the partition allows; it will never start"),
    ("PartitionNodeLimit", "more nodes than the partition allows or has; it will never start"),
    ("PartitionDown", "the partition is down"),
    ("PartitionInactive", "the partition is inactive"),
    ("BadConstraints", "no node has what the job asks for; it will never start"),
    ("DependencyNeverSatisfied", "it will never start"),
    ("JobHeld", "scontrol release lets it go"),
    ("ReqNodeNotAvail", "the nodes it needs are down, drained or reserved"),
    ("Reservation", "its reservation has not begun"),
    ("Limit", "a limit of your account, user or QOS; it starts when others of your jobs have ended"),
    ("Licenses", "waits for licences"),
    ("Resources", "waits for nodes to become free"),
    ("Priority", "others are before it in the queue"),
)

#: Options of sbatch that the engine sets.
OURS = (
    ("a", "array"),
    ("J", "job-name"),
    ("o", "output"),
    ("e", "error"),
    ("M", "clusters"),
    ("W", "wait"),
    ("", "wrap"),
    ("", "parsable"),
    ("", "test-only"),
    ("", "requeue"),
    ("", "no-requeue"),
)

#: The columns of squeue.  The suffix ``|`` also says that nothing is cut to a width.
_COLUMNS = ("JobArrayID", "State", "exit_code", "StartTime", "NodeList", "Reason")
_FORMAT = ",".join(f"{column}:|" for column in _COLUMNS)

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_MEMORY = re.compile(r"\d+[KMGT]")

#: Variables that steer the commands, and those of a job around this process, which a new job would inherit.
_STEERING = ("SLURM_", "SQUEUE_", "SCANCEL_", "SACCT_")
_KEPT = ("SLURM_CONF",)
_TAKEN = ("SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_CLUSTERS")


class SlurmEngine(Engine):
    """Starts workers as batch jobs of Slurm.

    Args:
        partition: The partition, or several as ``"a,b"``.
        account: The account that is charged.
        time: The limit of a job's time: text as for Slurm, such as ``"1:30:00"``, ``"90"`` (minutes) or ``"2-12"`` (days
            and hours), a number of seconds, or a ``timedelta``.  Slurm rounds it up to minutes.
        cpus: CPUs of each job (``--cpus-per-task``).
        memory: Memory of each job (``--mem``): text such as ``"8G"`` as Slurm reads it, ``"8GiB"`` or ``"500MB"``, or a
            number of bytes.
        gres: Generic resources of each job, such as ``"gpu:1"``.
        signal: Seconds before the limit of its time at which Slurm also sends a job SIGTERM (``--signal=B:TERM@…``); it may do
            so up to 60 seconds earlier.  A worker then leaves within ``KillWait``, as after ``scancel``, which it can't tell
            from this.  By default 0: a worker knows its limit and leaves in time, and Slurm's SIGTERM comes at the limit,
            ``KillWait`` seconds before SIGKILL.
        directives: More lines for the head of the batch script, such as ``"--constraint=ib"``, each as after ``#SBATCH``.
        prologue: Lines of bash to run before Python, such as ``"module load python"``.
        python: The interpreter, at a path that exists on the nodes.
        folder: The folder for secrets, certificates and the output of jobs, on a file system that the nodes share with this
            machine; by default ``~/.local/state/twistdist/slurm`` (under ``$XDG_STATE_HOME`` if that is set).
        poll: Seconds between two calls of ``squeue``, 1 to 3,600; in the minute after jobs were submitted at most 3.

    Raises:
        ConfigError: An option is not what Slurm can take.
        TypeError: An option has the wrong type.
        ValueError: An option is out of range.
    """

    name = "Slurm"
    queues = True
    _log = Logger()

    def __init__(
        self,
        partition: str | None = None,
        account: str | None = None,
        time: str | float | timedelta | None = None,
        cpus: int | None = None,
        memory: str | float | None = None,
        gres: str | None = None,
        signal: float = 0,
        directives: Sequence[str] = (),
        prologue: Sequence[str] = (),
        python: str | os.PathLike[str] = sys.executable,
        folder: str | os.PathLike[str] | None = None,
        poll: float = POLL_S,
    ) -> None:
        self._limit_s = None if time is None else seconds_of(time)
        notice = math.ceil(as_number(signal, "signal", 0, 65_535))
        words = {
            "partition": None if partition is None else _word(partition, "partition"),
            "account": None if account is None else _word(account, "account"),
            "time": None if self._limit_s is None else time_text(self._limit_s),
            "cpus-per-task": None if cpus is None else str(as_whole_number(cpus, "cpus", 1, 100_000)),
            "mem": None if memory is None else memory_text(memory),
            "gres": None if gres is None else _word(gres, "gres"),
            "signal": f"B:TERM@{notice}" if notice else None,
        }
        self._options = [f"--{option}={word}" for option, word in words.items() if word is not None]
        self._directives = [_directive(line) for line in _lines(directives, "directives")]
        self._prologue = _lines(prologue, "prologue")
        self._python = os.path.abspath(as_path(python, "python"))
        self._root = default_folder() if folder is None else os.path.abspath(os.path.expanduser(as_path(folder, "folder")))
        self.poll_s = self._poll_s = as_seconds(poll, "poll", 1, 3600)
        self.job_name = ""
        self._folder = ""
        self._most = MAX_ARRAY
        self._notice_s = 30
        self._known: set[str] = set()  # ids that ``start`` has returned or is about to
        self._told: set[str] = set()  # ids that ``end`` has been called for
        self._past: dict[str, JobState] = {}
        self._submissions = self._submitting = 0
        self._submitted_at = float("-inf")
        self._accounting = True

    async def open(self, reactor: Any, cluster: str) -> None:
        await super().open(reactor, cluster)
        config = await self._slurm("scontrol", "show", "config")
        self.job_name = re.sub("[^A-Za-z0-9_.-]", "_", cluster)
        # The largest index is one less.
        self._most = max(1, min(MAX_ARRAY, _number(config, "MaxArraySize", MAX_ARRAY)))
        self._notice_s = max(1, _number(config, "KillWait", 30) - RESERVE_S)
        self._folder = os.path.join(self._root, self.job_name)
        await self._remove_leftovers()
        self._make_folder()

    def _make_folder(self) -> None:
        try:
            for folder in (self._root, self._folder, os.path.join(self._folder, "log")):
                os.makedirs(folder, mode=0o700, exist_ok=True)
            pathlib.Path(self._folder, MARK).touch(mode=0o600)
        except OSError as error:
            raise ConfigError(
                f"the folder {self._folder} can't be made ({error.strerror}); name another one (folder)"
            ) from None

    async def _remove_leftovers(self) -> None:
        """Remove the folders of clusters whose program was killed, once their jobs are gone."""
        try:
            with os.scandir(self._root) as entries:
                ours = [entry for entry in entries if os.path.lexists(os.path.join(entry.path, MARK))]
                old = [entry.name for entry in ours if time.time() - entry.stat().st_mtime > LEFT_S]
        except OSError:
            return  # there is none yet
        old = [name for name in old if re.fullmatch("[A-Za-z0-9_.-]+", name)][:MAX_LEFT]
        if old:
            names = f"--name={','.join(old)}"
            said = await self._slurm("squeue", f"--user={os.getuid()}", names, "--all", "--noheader", "--Format=Name:|")
            for name in set(old) - {line.strip("| ") for line in said.splitlines()}:
                shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)

    # ---- jobs begin -----------------------------------------------------------------------------

    async def start(self, jobs: Sequence[Job]) -> dict[str, str]:
        started: dict[str, str] = {}
        for at in range(0, len(jobs), self._most):
            try:
                started.update(await self._submit(jobs[at : at + self._most]))
            except TwistdistError as error:
                if not started:
                    raise
                self._log.warn("Slurm took {some} of {all} jobs: {why}", some=len(started), all=len(jobs), why=str(error))
                break
        return started

    async def _submit(self, jobs: Sequence[Job]) -> dict[str, str]:
        self._make_folder()
        several = len(jobs) > 1
        output = os.path.join(self._folder.replace("%", "%%"), "log", "%A_%a" if several else "%j")
        array = [f"--array=0-{len(jobs) - 1}"] if several else []
        command = ["sbatch", "--parsable", f"--job-name={self.job_name}", "--no-requeue", f"--output={output}", *array]
        self._submissions += 1
        self._submitting += 1
        try:
            said = await self._slurm(*command, *self._options, input=self.script(jobs).encode())
            number = next((line for line in reversed(said.split()) if re.fullmatch(r"\d+(;.*)?", line)), None)
            if number is None:
                raise TwistdistError(f"sbatch did not print the job's id: {shown(said)}")
            base = number.partition(";")[0]
            ids = {job.name: f"{base}_{at}" if several else base for at, job in enumerate(jobs)}
            self._known.update(ids.values())
        finally:
            self._submitting -= 1
            self._submitted_at = self.reactor.seconds()
            self.poll_s = min(self._poll_s, FRESH_POLL_S)
        return ids

    def script(self, jobs: Sequence[Job]) -> str:
        """Return the batch script of these jobs, which become one array job if there are several."""
        lines = [
            "#!/bin/bash",
            *(f"#SBATCH {directive}" for directive in self._directives),
            "",
            *self._prologue,
            *self._terms(),
        ]
        commands = [f"exec {self._command(job)}" for job in jobs]
        if len(jobs) == 1:
            return "\n".join([*lines, *commands, ""])
        cases = [f"{at}) {command} ;;" for at, command in enumerate(commands)]
        return "\n".join([*lines, 'case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac", ""])

    def _command(self, job: Job) -> str:
        """Return the command of a job, with what only the job itself can know."""
        words = job.shell_command(self._python, self._hand_over(job.files))
        given = {word.partition("=")[0] for word in job.options}
        if job.role != "worker":
            return words
        if "--lifetime" not in given:
            words += " ${SLURM_JOB_END_TIME:+--lifetime auto}"
            if self._limit_s is not None and self._limit_s < 6 * MARGIN_S and "--lifetime-margin" not in given:
                words += f" ${{SLURM_JOB_END_TIME:+--lifetime-margin {max(1, round(self._limit_s / 6))}}}"
        if "--notice" not in given:
            words += f" --notice {self._notice_s}"
        if "--slots" not in given:
            words += ' --slots "$SLURM_CPUS_ON_NODE"'
        if "--memory-limit" not in given:
            words += " ${SLURM_MEM_PER_NODE:+--memory-limit $(( SLURM_MEM_PER_NODE * 4 / 5 ))MiB}"
        return words

    def _terms(self) -> list[str]:
        """Return lines that find out when the job's time is over, since older versions of Slurm do not say."""
        ask = 'SLURM_TIME_FORMAT=standard squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e'
        line = f'end=$(date --date="$({ask})" +%s) && export SLURM_JOB_END_TIME="$end"'
        if self._limit_s is not None:
            line += f" || export SLURM_JOB_END_TIME=$(( $(date +%s) + {60 * math.ceil(self._limit_s / 60)} ))"
        return ['if [ -z "$SLURM_JOB_END_TIME" ]; then', f"    {line}", "fi"]

    def _hand_over(self, files: Mapping[str, bytes]) -> str:
        """Write a job's files, unless another job has the same ones; return their folder."""
        content = repr(sorted(files.items())).encode()
        folder = os.path.join(self._folder, hashlib.sha256(content).hexdigest()[:16])
        if os.path.isdir(folder):
            return folder
        unfinished = f"{folder}.new"
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            os.mkdir(unfinished, 0o700)
            for name, data in files.items():
                descriptor = os.open(os.path.join(unfinished, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(descriptor, "wb") as stream:
                    stream.write(data)
            os.rename(unfinished, folder)
        except OSError as error:
            raise TwistdistError(f"the files of a job can't be written to {folder} ({error.strerror})") from None
        return folder

    # ---- what became of them --------------------------------------------------------------------

    async def look(self, ids: Sequence[str]) -> dict[str, JobState]:
        fresh = self.reactor.seconds() - self._submitted_at < FRESH_S
        self.poll_s = min(self._poll_s, FRESH_POLL_S) if fresh else self._poll_s
        listed = await self._listed()
        ended = [id for id in ids if id not in self._past and (id not in listed or listed[id].phase == "ended")]
        why = await self._accounts(ended)
        for id in ended:
            state = listed.get(id, JobState("ended"))
            self._past[id] = why.get(id) or (state if state.why else JobState("ended", "Slurm does not know it any more"))
        while len(self._past) > MAX_OUTCOMES:
            gone = next(iter(self._past))
            del self._past[gone]
            self._known.discard(gone)
            self._told.discard(gone)
        return {id: self._past.get(id) or listed[id] for id in ids if id in self._past or id in listed}

    async def _listed(self) -> dict[str, JobState]:
        """Return all jobs of this cluster that the controller knows; one call for all.

        A job that a busy controller took without an answer is cancelled here, since nobody counts on it.
        """
        before, quiet = self._submissions, not self._submitting
        user, name = f"--user={os.getuid()}", f"--name={self.job_name}"
        said = await self._slurm("squeue", user, name, "--all", "--array", "--states=all", f"--Format={_FORMAT}")
        head, *lines = said.splitlines() or [""]
        if head.count("|") != len(_COLUMNS) or not head.startswith("JOBID"):
            raise TwistdistError(f"squeue printed something unexpected, or too much: {shown(head)}")
        listed = dict(filter(None, (_state(line) for line in lines)))
        strangers = [id for id, state in listed.items() if id not in self._known and state.phase != "ended"]
        if strangers and quiet and before == self._submissions:
            self._log.warn("jobs that Slurm took without an answer are cancelled: {ids}", ids=", ".join(strangers))
            await self._cancel(strangers)
        return listed

    async def _accounts(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return how jobs ended by the accounting, which knows more and remembers longer; {} where there is none."""
        found: dict[str, JobState] = {}
        for at in range(0, len(ids) if self._accounting else 0, MAX_IDS):
            asked = f"--jobs={','.join(ids[at : at + MAX_IDS])}"
            try:
                said = await self._slurm(
                    "sacct", asked, "--allocations", "--noheader", "--parsable2", "--format=JobID,State,ExitCode"
                )
            except TwistdistError as error:
                self._log.info("no accounting: {why}", why=str(error))
                self._accounting = False
                break
            for line in said.splitlines():
                id, state, code = [*line.split("|"), "", ""][:3]
                if state and state.split()[0] in ENDED:
                    found[id] = _outcome(state, code, "")
        return found

    async def end(self, ids: Sequence[str]) -> None:
        await self._cancel([id for id in ids if id not in self._past])

    async def _cancel(self, ids: Sequence[str]) -> None:
        self._told.update(ids)
        tasks: dict[str, list[str]] = {}
        for id in ids:
            base, _, index = id.partition("_")
            tasks.setdefault(base, []).append(index)
        words = [base if indices == [""] else f"{base}_[{','.join(indices)}]" for base, indices in tasks.items()]
        for at in range(0, len(words), MAX_IDS):
            await self._slurm("scancel", "--quiet", *words[at : at + MAX_IDS])

    async def log(self, id: str, n: int) -> list[str]:
        try:
            with open(os.path.join(self._folder, "log", id), "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                stream.seek(max(0, size - MAX_LOG_BYTES))
                text = stream.read(MAX_LOG_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return []  # it has not begun, or the node's writes have not arrived
        return text.splitlines()[-n:] if n > 0 else []

    async def close(self) -> None:
        """Remove the folder, unless jobs are left that need it; those that were told to end have time for it."""
        if not self._folder:
            return
        deadline = self.reactor.seconds() + PATIENCE_S
        while True:
            try:
                left = {id for id, state in (await self._listed()).items() if state.phase != "ended"}
            except TwistdistError as error:
                self._log.warn("{folder} is not removed, since jobs may be left: {why}", folder=self._folder, why=str(error))
                return
            if not left:
                shutil.rmtree(self._folder, ignore_errors=True)
                return
            if left - self._told or self.reactor.seconds() > deadline:
                self._log.info("jobs are left, and with them {folder}", folder=self._folder)
                return
            await deferLater(self.reactor, 1.0)

    async def _slurm(self, command: str, *words: str, input: bytes = b"") -> str:
        environment = {
            name: value
            for name, value in os.environ.items()
            if (not name.startswith(_STEERING) or name in _KEPT) and name not in _TAKEN
        }
        try:
            return await self.run(command, *words, input=input, environment=environment)
        except TwistdistError as error:
            if shutil.which(command) is None:
                raise TwistdistError(f"{error}; run this where Slurm's commands are, such as a login node") from None
            raise


class SlurmCluster(JobCluster):
    """A cluster whose workers are batch jobs of Slurm, as a Twisted service.

    The scheduler runs on this machine, such as a login node.  See :class:`JobCluster` for what all clusters of jobs do.

    Args:
        n_workers: The number of workers, each of which is one job; 0 to 10,000.
        **options: Those of the jobs, ``partition``, ``account``, ``time``, ``cpus``, ``memory``, ``gres``, ``signal``,
            ``directives``, ``prologue``, ``python``, ``folder`` and ``poll``; see :class:`SlurmEngine`.  All others are those
            of :class:`JobCluster`.  By default, a worker has as many slots as its job has CPUs, and may use 80 % of its memory.

    Raises:
        ConfigError: An option is not what Slurm can take.
        TypeError: An option is unknown or has the wrong type.
        ValueError: An option is out of range.
    """

    def __init__(self, n_workers: int = 0, **options: Any) -> None:
        engine, others = engine_of(options)
        super().__init__(engine, n_workers, **others)


def engine_of(options: Mapping[str, Any]) -> tuple[SlurmEngine, dict[str, Any]]:
    """Return the engine that the options of a SlurmCluster describe, and the others, which are JobCluster's."""
    own = [*inspect.signature(SlurmEngine.__init__).parameters][1:]
    known = [*own, *[*inspect.signature(JobCluster.__init__).parameters][3:]]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise unknown_keywords("SlurmCluster", unknown, ["n_workers", *known])
    engine = SlurmEngine(**{name: value for name, value in options.items() if name in own})
    return engine, {name: value for name, value in options.items() if name not in own}


def default_folder() -> str:
    """Return the folder for what jobs need: a home is on all nodes at most sites."""
    return os.path.join(state_folder(), "slurm")


def seconds_of(time: str | float | timedelta) -> float:
    """Return a limit of time in seconds.

    Text is read as Slurm reads it: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M`` or ``D-H:M:S``.
    """
    if not isinstance(time, str):
        return as_seconds(time, "time", 1, 1e9)
    match = _TIME.fullmatch(as_text(time, "time").strip())
    if match is None:
        raise ConfigError(f"time must be such as '1:30:00', '90' (minutes) or '2-12:00:00', got {shown(time)}")
    days, *parts = (None if part is None else int(part) for part in match.groups())
    given = [part for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = [*given, 0, 0][:3]
    elif len(given) == 3:
        hours, minutes, seconds = given
    else:
        hours, minutes, seconds = 0, *[*given, 0][:2]
    return as_seconds(60 * (60 * (24 * (days or 0) + hours) + minutes) + seconds, "time", 1, 1e9)


def time_text(seconds: float) -> str:
    """Return seconds as ``D-HH:MM:SS``."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02}:{minutes:02}:{seconds:02}"


def memory_text(memory: str | float) -> str:
    """Return an amount of memory for ``--mem``; Slurm's K, M, G and T are powers of 1024."""
    if isinstance(memory, str) and _MEMORY.fullmatch(as_text(memory, "memory")):
        return memory
    if isinstance(memory, str) and re.fullmatch(r"\s*[\d.]+\s*", memory):
        raise ConfigError(f"memory needs a unit, such as '8G', or a number of bytes, got {shown(memory)}")
    return f"{math.ceil(parse_bytes(memory, 'memory') / 1024)}K"


def _word(value: Any, name: str) -> str:
    text = as_text(value, name)
    if not text or not text.isprintable() or " " in text:
        raise ConfigError(f"{name} must be a word that sbatch takes, got {shown(value)}")
    return text


def _lines(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        raise TypeError(f"{name} must be a list of strings, got the string {shown(value)}")
    lines = [as_text(line, f"each of {name}") for line in value]
    for line in lines:
        if "\0" in line:
            raise ConfigError(f"{name} must not have zero bytes, got {shown(line)}")
    return lines


def _directive(line: str) -> str:
    """Return a directive; ``ConfigError`` unless it is one that the user may give."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if not words or not words[0].startswith("-") or not line.isprintable():
        raise ConfigError(f"a directive must be one line as after #SBATCH, such as '--constraint=ib', got {shown(line)}")
    for word in words:
        for short, long in OURS:
            if word.partition("=")[0] == f"--{long}" or (short and re.match(f"-{short}(?!-)", word)):
                raise ConfigError(f"the directive {shown(line)} is not possible: a cluster sets --{long} itself")
    return line


def _number(config: str, name: str, otherwise: int) -> int:
    match = re.search(rf"^{name}\s*=\s*(\d+)", config, re.MULTILINE)
    return int(match[1]) if match else otherwise


def _state(line: str) -> tuple[str, JobState] | None:
    """Return the id and state in one line of squeue."""
    id, state, code, begins, nodes, reason = (part.strip() for part in [*line.split("|", 5), *[""] * 6][:6])
    reason = reason.rstrip("|").strip()
    if not re.fullmatch(r"\d+(_\d+)?", id):
        return None
    if state in WAITING:
        why = _explained(reason) if state == "PENDING" else state
        expected = f"; expected to start at {begins}" if begins[:1].isdigit() else ""
        return id, JobState("waiting", why + expected)
    if state in ENDED:
        return id, _outcome(state, code, reason)
    return id, JobState("running", f"on {nodes}" if state == "RUNNING" else state)


def _explained(reason: str) -> str:
    words = next((words for part, words in REASONS if part in reason), "")
    return f"{reason} ({words})" if words else reason or "no reason is given"


def _outcome(state: str, code: str, reason: str) -> JobState:
    """Return how a job ended: its state, its exit status or signal (``code`` as Slurm prints it), and the reason."""
    status, _, signal = code.partition(":")
    if not signal and status.isdigit():  # squeue prints what wait() returned
        status, signal = str(int(status) >> 8), str(int(status) & 127)
    how = (
        f", ended by signal {signal}"
        if signal not in ("", "0")
        else f", exit status {status}"
        if status not in ("", "0")
        else ""
    )
    known = reason not in ("", "None", "NonZeroExitCode") and not (state == "TIMEOUT" and reason == "TimeLimit")
    return JobState("ended", f"{state}{how}{f' ({reason})' if known else ''}", state == "COMPLETED")
