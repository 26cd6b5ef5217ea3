"""One host of a cluster: the connection to its keeper, which is made again when it breaks, and what is known of its jobs."""

from __future__ import annotations

import base64
import itertools
import json
import secrets
import shlex
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger

import twistdist
from twistdist.clusters.engine import Job, Reaped, execute
from twistdist.clusters.ssh.command import (
    HostError,
    Refused,
    Surroundings,
    WrongPython,
    explain,
    finding,
    found,
    is_loopback_name,
    ssh_words,
)
from twistdist.clusters.ssh.keeper import MAX_ENDED, MAX_LINE
from twistdist.clusters.ssh.link import LINK_S
from twistdist.errors import TwistdistError, shown

#: Seconds that a connection may take to be made and, once made, to find a keeper; and that a keeper has to answer an order.
CONNECT_S, KEEPER_S, ANSWER_S = 15, LINK_S + 20.0, 60.0

#: Seconds between two beats, and without an answer to one after which the connection counts as broken.
BEAT_S, SILENCE_S = 3.0, 15.0

#: Seconds before a host is tried again, at first and at most: while jobs run there, and after a job could not be placed there.
PAUSE_S, LONGEST_PAUSE_S, AVOID_S, LONGEST_AVOID_S = 0.2, 5.0, 5.0, 300.0

#: Seconds between attempts to reach a host where jobs without a grace were given up.
UNSURE_S = 60.0

#: Bytes that are kept of what ssh writes to standard error.
MAX_ERRORS = 16 << 10


@attrs.frozen
class Terms:
    """What the hosts of an engine have in common.

    Attributes:
        reactor: The reactor.
        cluster: The name of the cluster.
        options: Options of ssh.
        python: The interpreter to use; "" to look for one.
        folder: The folder for the folders of clusters; "" for the default.
        grace: Seconds that jobs go on without a connection; None: for ever.
        give_up: Seconds without a connection after which jobs are considered ended.
        slots: Held by a connection that is being made.
    """

    reactor: Any
    cluster: str
    options: list[str]
    python: str
    folder: str
    grace: float | None
    give_up: float
    slots: DeferredSemaphore


@attrs.define(eq=False)
class Running:
    """What is known of a job at a host."""

    name: str
    pid: int
    ours: bool
    phase: str = "running"
    why: str = ""
    ready: str = ""
    ok: bool = False
    ending: bool = False
    given_up: bool = False  # nobody knows whether it has ended
    waiting: list[Deferred[None]] = attrs.field(factory=list)  # for something to happen

    def update(self, state: dict[str, Any]) -> None:
        self.phase, self.why, self.ready, self.ok = state["phase"], state["why"], state["ready"], state["ok"]
        self.changed()

    def end(self, why: str) -> None:
        if self.phase != "ended":
            self.phase, self.why = "ended", why
            self.changed()

    def changed(self) -> None:
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            waiter.callback(None)


class Link(Reaped):
    """An ssh process whose remote command carries lines to and from a keeper.

    ``on_line(message)`` is called for each message, ``on_end(why)`` when the connection has ended.
    """

    def __init__(
        self, reactor: Any, host: str, on_line: Callable[[dict[str, Any]], None], on_end: Callable[[str], None]
    ) -> None:
        super().__init__(reactor)
        self._host, self._on_line, self._on_end = host, on_line, on_end
        self._received = b""
        self._noise = b""  # what the user's shell writes before the first line
        self._greeted = False
        self._errors = b""
        self._killed = ""
        self.heard_at = reactor.seconds()

    def send(self, message: dict[str, Any]) -> None:
        self.transport.write(json.dumps(message).encode() + b"\n")

    def outReceived(self, data: bytes) -> None:
        *lines, self._received = (self._received + data).split(b"\n")
        self.heard_at = self._reactor.seconds()
        if len(self._received) > MAX_LINE:
            self.end("it writes what is no answer of a keeper")
        for line in lines:
            self._greeted = self._greeted or line.startswith(b'{"said": "keeper"')
            if not self._greeted:
                self._noise = (self._noise + line + b"\n")[-MAX_ERRORS:]
            elif line and not self._killed:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            self._on_line(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.end(f"it writes what is no answer of a keeper: {shown(line)}")

    def errReceived(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-MAX_ERRORS:]

    def end(self, why: str) -> None:
        """End the connection because of ``why``."""
        self._killed = self._killed or why
        self.kill()

    def processEnded(self, reason: Any) -> None:
        errors = self._errors.decode(errors="replace")
        if self._killed:
            why = f"host {self._host}: {self._killed}"
        elif reason.value.exitCode == 255 or reason.value.signal is not None:
            how = f"was ended by signal {reason.value.signal}" if reason.value.signal else "ended with status 255"
            why = explain(self._host, errors, how)
        else:
            said = " ".join((errors or self._noise.decode(errors="replace")).split())[-300:]
            why = f"host {self._host}: the keeper there ended" + (f": {said}" if said else "")
        self._on_end(why)


class Host:
    """One host: its connection, which is made again while jobs run there, and its jobs."""

    _log = Logger()

    def __init__(self, terms: Terms, text: str) -> None:
        self._terms, self.text = terms, text
        self._owner = secrets.token_hex(8)  # two names may be those of one machine, which has one keeper
        self.weight = 0  # how many times it was named
        self.jobs: dict[str, Running] = {}
        self.starting: set[str] = set()
        self.name = ""  # what ssh connects to
        self.around: Surroundings | None = None  # what it says of itself
        self._options: list[str] = []
        self._link: Link | None = None
        self._connecting: Deferred[Any] | None = None
        self._waiters: list[Deferred[None]] = []
        self._welcome: Deferred[None] | None = None
        self._answers: dict[int, Deferred[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._timer: Any = None  # the next beat, or the next attempt to connect
        self._pause = PAUSE_S
        self.lost_at: float | None = None  # since when there has been no connection, if there are jobs
        self.why = ""  # the last attempt failed
        self.wrong_python = False
        self.avoid_until = 0.0
        self._avoid = AVOID_S
        self._closed = False

    @property
    def load(self) -> float:
        live = sum(job.ours and job.phase != "ended" and job.name != "scheduler" for job in self.jobs.values())
        return (live + len(self.starting)) / max(1, self.weight)

    @property
    def contact(self) -> str:
        """Where others reach it."""
        address = self.around.address if self.around is not None else ""
        return self.name if is_loopback_name(address) else address

    @property
    def connected(self) -> bool:
        return self._link is not None and self._welcome is None

    # ---- connecting -------------------------------------------------------------------------

    async def connect(self) -> None:
        """Wait for a connection; make one if there is none.  ``HostError`` if that fails."""
        if self.connected:
            return
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        if self._connecting is None:
            self._connecting = Deferred.fromCoroutine(self._connect())
            self._connecting.addBoth(self._attempted)
        await waiter

    def _attempted(self, result: Any) -> None:
        self._connecting = None
        waiters, self._waiters = self._waiters, []
        error = getattr(result, "value", None)
        if error is None:
            self.why, self._avoid, self.avoid_until, self._pause = "", AVOID_S, 0.0, PAUSE_S
            self.lost_at = None
            self._beat()
        else:
            self._stop_link("the connection could not be made")
            self.why = str(error) if isinstance(error, TwistdistError) else f"host {self.text}: {error!r}"
            self.wrong_python = isinstance(error, WrongPython)
            if not self._closed:
                if not isinstance(error, TwistdistError | CancelledError):
                    self._log.failure("an error while connecting to {host}", result, host=self.text)
                self._again()
        for waiter in waiters:
            if error is None:
                waiter.callback(None)
            else:
                waiter.errback(HostError(self.why))

    async def _connect(self) -> None:
        slot = self._terms.slots
        await slot.acquire()
        try:
            if self.around is None:
                await self._look_at_configuration()
                self.around = await self._look_around()
            await self._open_link()
        finally:
            slot.release()

    async def _look_at_configuration(self) -> None:
        """Ask ssh what it will do, and set limits where the user has set none."""
        asked = await execute(self._terms.reactor, "ssh", *self._terms.options, "-G", *ssh_words(self.text))
        if asked.how:
            raise HostError(explain(self.text, asked.errors, asked.how))
        settings = dict(line.lower().partition(" ")[::2] for line in asked.output.splitlines())
        self.name = settings.get("hostname", "")
        defaults = {
            "ConnectTimeout": CONNECT_S,
            "ServerAliveInterval": 5,
        }
        self._options = list(self._terms.options)
        for name, value in defaults.items():
            if settings.get(name.lower(), "none") in ("none", "0"):
                self._options += ["-o", f"{name}={value}"]

    async def _look_around(self) -> Surroundings:
        """Find the interpreter at the other end."""
        command = ["ssh", *self._options, *ssh_words(self.text), "exec sh -s"]
        asked = await execute(self._terms.reactor, *command, input=finding(self._terms.python))
        if asked.how and "twistdist-" not in asked.output:
            raise HostError(explain(self.text, asked.errors, asked.how))
        return found(self.text, asked.output, asked.errors)

    async def _open_link(self) -> None:
        terms = self._terms
        assert self.around is not None  # it was asked first
        remote = ["-m", "twistdist.clusters.ssh.link", terms.cluster, *([terms.folder] if terms.folder else [])]
        command = f"cd / && exec {shlex.join([self.around.python, *remote])}"
        words = ["ssh", *self._options, *ssh_words(self.text), command]
        self._welcome = Deferred()
        welcome = self._welcome
        self._link = link = Link(terms.reactor, self.text, self._message, lambda why: self._ended(link, why))
        # Ctrl-C in a terminal goes to all its processes, and the jobs must be told to end by these.
        guarded = ["sh", "-c", 'trap "" INT QUIT; exec "$@"', "sh", *words]
        terms.reactor.spawnProcess(link, "sh", guarded, env=None)
        late = terms.reactor.callLater(KEEPER_S, link.end, f"no keeper answered within {KEEPER_S:g} s")
        try:
            await welcome
        finally:
            if late.active():
                late.cancel()

    def _stop_link(self, why: str) -> None:
        link, self._link = self._link, None
        welcome, self._welcome = self._welcome, None
        if link is not None:
            link.end(why)
        if welcome is not None and not welcome.called:
            welcome.errback(HostError(f"host {self.text}: {why}"))
            welcome.addErrback(lambda _: None)  # whoever waits for it has been told

    # ---- messages ---------------------------------------------------------------------------

    def _message(self, message: dict[str, Any]) -> None:
        if "answer" in message:
            answer = self._answers.pop(message["answer"], None)
            if answer is not None:
                answer.callback(message)
            return
        said = message.get("said")
        if said == "keeper":
            self._greet(message["version"])
        elif said == "welcome":
            self._welcomed(message["jobs"])
        elif said == "state":
            self._state(message["job"])

    def _greet(self, version: str) -> None:
        assert self._link is not None
        if version != twistdist.__version__:
            self._stop_link(
                f"a keeper of twistdist {version} runs there for cluster {self._terms.cluster}; end that cluster first"
            )
            return
        keep = [job.pid for job in self.jobs.values() if job.ours and job.phase != "ended" and not job.ending]
        self._link.send({"order": "hello", "owner": self._owner, "grace": self._terms.grace, "keep": keep})

    def _welcomed(self, states: list[dict[str, Any]]) -> None:
        there = {state["name"]: state for state in states}
        for name, job in self.jobs.items():
            job.given_up = False  # the keeper has ended what was not to be kept
            if there.get(name, {}).get("pid") != job.pid:
                job.end(f"it was not there any more when host {self.text} was connected again")
        for state in states:
            self._state(state)
        welcome, self._welcome = self._welcome, None
        if welcome is not None:
            welcome.callback(None)

    def _state(self, state: dict[str, Any]) -> Running:
        job = self.jobs.get(state["name"])
        if job is None or job.pid != state["pid"]:
            job = self.jobs[state["name"]] = Running(state["name"], state["pid"], state["owner"] == self._owner)
        job.update(state)
        ended = [name for name, one in self.jobs.items() if one.phase == "ended" and one is not job and not one.given_up]
        for name in ended[:-MAX_ENDED]:  # the keeper has forgotten them too
            del self.jobs[name]
        return job

    async def ask(self, order: str, **details: Any) -> dict[str, Any]:
        """Give the keeper an order and return its answer.  ``HostError`` if there is no connection (any more)."""
        if not self.connected or self._link is None:
            raise HostError(self.why or f"host {self.text} is not connected")
        number = next(self._numbers)
        answer = self._answers[number] = Deferred()
        self._link.send({"order": order, "number": number, **details})
        late = self._terms.reactor.callLater(ANSWER_S, self._late, number)
        try:
            answered: dict[str, Any] = await answer
        finally:
            self._answers.pop(number, None)
            if late.active():
                late.cancel()
        if answered.get("error"):
            raise Refused(f"host {self.text}: {answered['error']}")
        return answered

    def _late(self, number: int) -> None:
        self._answers.pop(number).errback(HostError(f"host {self.text}: its keeper did not answer within {ANSWER_S:g} s"))

    # ---- breaks -----------------------------------------------------------------------------

    def _beat(self) -> None:
        self._cancel_timer()
        link = self._link
        if link is None:
            return
        if self._terms.reactor.seconds() - link.heard_at > SILENCE_S:
            link.end(f"nothing was heard from it for {SILENCE_S:g} s")
        else:
            link.send({"order": "beat"})
        self._timer = self._terms.reactor.callLater(BEAT_S, self._beat)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _ended(self, link: Link, why: str) -> None:
        """The ssh process is gone."""
        if link is not self._link:
            return
        self._cancel_timer()
        self.why = why
        welcome, self._welcome, self._link = self._welcome, None, None
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.errback(HostError(f"{why}; the connection ended before an answer came"))
        if welcome is not None:
            welcome.errback(HostError(why))  # the attempt has failed
        elif not self._closed:
            self._log.warn("the connection is lost and will be made again: {why}", why=why)
            self._again()

    def _again(self) -> None:
        """Connect again in a moment if jobs run here; until then, or until they are given up, they go on."""
        now = self._terms.reactor.seconds()
        running = [job for job in self.jobs.values() if job.phase != "ended"]
        self._cancel_timer()
        if not running:
            if self._terms.grace is None and any(job.given_up for job in self.jobs.values()):
                self._timer = self._terms.reactor.callLater(UNSURE_S, self._reconnect)  # to end what nobody else ends
            self.lost_at, self.avoid_until = None, now + self._avoid
            self._avoid = min(LONGEST_AVOID_S, 2 * self._avoid)
            return
        if self.lost_at is None:
            self.lost_at = now
        if now - self.lost_at > self._terms.give_up:
            limit = f"{self._terms.give_up:g} s"
            for job in running:
                job.given_up = job.ours
                job.end(f"the connection to host {self.text} broke and could not be made again within {limit}: {self.why}")
            self._again()
            return
        self._timer = self._terms.reactor.callLater(self._pause, self._reconnect)
        self._pause = min(LONGEST_PAUSE_S, 2 * self._pause)

    def _reconnect(self) -> None:
        Deferred.fromCoroutine(self.connect()).addErrback(lambda failure: failure.trap(HostError, CancelledError) and None)

    def close(self) -> None:
        self._closed = True
        self._cancel_timer()
        if self._connecting is not None:
            self._connecting.cancel()
        link = self._link
        if link is not None:
            link.transport.closeStdin()
            link.end("the engine was closed")
            self._ended(link, f"host {self.text}: the engine was closed")

    # ---- jobs -------------------------------------------------------------------------------

    async def start(self, job: Job) -> Running:
        files = {name: base64.b64encode(content).decode() for name, content in job.files.items()}
        options = list(job.options)
        if job.role == "worker" and not any(word.partition("=")[0] == "--contact" for word in options):
            options += ["--contact", self.contact] if self.contact else []
        answer = await self.ask("start", name=job.name, role=job.role, options=options, files=files)
        return self._state(answer["job"])

    def lost(self) -> str:
        """Why what is said of the jobs is not news; "" while there is a connection."""
        return "" if self.connected else f"not connected, trying again: {self.why}"
