"""What the twistd commands and the embedded cluster's processes have in common: start, report ready, end with a status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python import usage
from twisted.python.failure import Failure

from twistdist.errors import ConfigError, TwistdistError
from twistdist.net.timers import use_monotonic_time
from twistdist.tap import json_log
from twistdist.tap.collector import Collector


class RoleOptions(usage.Options):
    """Options that the scheduler and the worker share."""

    optParameters: ClassVar[list[Any]] = [
        ["secret-file", None, None, "File with the shared secret [default: created in the user's configuration]"],
        ["tls", None, None, "Folder of certificates made by twistdist certs: every TCP connection is encrypted"],
    ]
    optFlags: ClassVar[list[Any]] = [
        ["plaintext", None, "Allow listening beyond this machine without encryption"],
        ["log-json", None, "Log each event as one line of JSON"],
    ]

    command = ""

    def parseOptions(self, options: Any = None) -> None:
        """Raise ``SystemExit`` with one line for an invalid option: twistd would first print all options."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            raise SystemExit(f"twistd {self.command}: {error}; twistd {self.command} --help lists the options") from None

    def postOptions(self) -> None:
        # Several roles may run from one folder, each in its own shell; twistd's default pid file allows only one.
        parent = getattr(self, "parent", None)
        if parent is not None and parent.get("nodaemon") and os.path.basename(parent.get("pidfile") or "") == "twistd.pid":
            parent["pidfile"] = ""
        if self["log-json"] and parent is not None:
            for other in ("syslog", "logger"):
                if parent.get(other):
                    raise usage.UsageError(f"--log-json can't be used together with twistd's --{other}; leave out one of them")


def seconds_of(name: str, text: str | None, least: float = 0.1, most: float = 86_400.0) -> float | None:
    """Return the value of an option that is a number of seconds.  Raises ``ConfigError`` unless it is in the range."""
    try:
        seconds = None if text is None else float(text)
    except ValueError:
        seconds = float("nan")
    if seconds is not None and not least <= seconds <= most:
        raise ConfigError(f"{name} must be a number of seconds from {least:g} to {most:.12g}, got {text!r}")
    return seconds


class Role(Service):
    """Runs one scheduler or worker service, and ends the process when the service can't continue.

    ``make(role)`` makes and starts the service and returns (service, Deferred).  If the options are invalid it raises an
    exception, which ends the process with one line on standard error and status 1.

    With ``options`` that have the log written as JSON to standard output, what it prints is logged instead.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        make: Callable[[Role], tuple[Service, Deferred[Any]]],
        options: RoleOptions | None = None,
    ) -> None:
        self._reactor, self._make = reactor, make
        parent = getattr(options, "parent", None)
        self._twistd = parent if options is not None and options["log-json"] else None
        self._prints = self._twistd is None or not json_log.logs_to_stdout(self._twistd)
        self._collector = Collector(reactor)
        self._service: Service | None = None
        self.status = 0
        self._ending = self._told = self._hurried = False
        # twistd redirects sys.stdout and sys.stderr to its log; these lines are for whoever started the process.
        self.on_ready: Callable[[str], None] = self._say
        self.on_leaves: Callable[[str], None] = partial(self._complain, level=LogLevel.info)

    def setServiceParent(self, parent: Any) -> None:
        """Called by twistd, with the application that it takes its log observer from."""
        if self._twistd is not None:
            parent.setComponent(ILogObserver, json_log.observer(self._twistd))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        use_monotonic_time(self._reactor)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._exit)
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
        self._reactor.callLater(0, self._watch_signals)  # after the reactor has installed its own handlers
        try:
            self._service, started = self._make(self)
        except Exception as error:
            self._failed(Failure(error))
        else:
            started.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if self._ending:
            return  # it was stopped while it was starting
        known = (TwistdistError, OSError, ValueError, OverflowError)
        if failure.check(*known) or type(failure.value).__module__.startswith("twisted.internet"):
            self.stop(str(failure.value), True)
        else:
            self.stop(failure.getTraceback(), True)

    def ready(self, line: str) -> None:
        """Report that the service is ready."""
        self.on_ready(line)
        self._collector.start()

    def standing_by(self, holder: str) -> None:
        """Report that the service is waiting for its journal."""
        self._say(f"twistdist scheduler standing by: the journal is held by {holder}")

    def stop(self, text: str, failed: bool) -> None:
        """End the process, with status 1 if ``failed``; otherwise it was told to end."""
        (self._complain if failed else self.on_leaves)(text)
        self.status = self.status or int(failed)
        self.end()

    def _say(self, text: str) -> None:
        if self._twistd is not None:
            self._log.info("{text}", text=text)
        if self._prints:
            print(text, file=sys.__stdout__, flush=True)

    def _complain(self, text: str, level: Any = LogLevel.critical) -> None:
        if self._twistd is not None:
            self._log.emit(level, "{text}", text=text)
        if self._prints:
            print(f"twistdist: {text}", file=sys.__stderr__, flush=True)

    def end(self) -> None:
        """Stop the reactor, and with it the service, unless that has begun already."""
        if not self._ending:
            self._ending = True
            with contextlib.suppress(ReactorNotRunning):  # it is already stopping for another reason
                self._reactor.stop()

    def _watch_signals(self) -> None:
        """Let the first SIGTERM or SIGINT do what it does, and have any further one end the process without further waiting."""
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.getsignal(number)
            if callable(before):
                signal.signal(number, partial(self._on_signal, before))

    def _on_signal(self, before: Callable[..., Any], number: int, frame: Any) -> None:
        if self._told:
            self._reactor.callFromThread(self._hurry)
        else:
            self._told = True
            before(number, frame)

    def _hurry(self) -> None:
        self._hurried = True
        hurry = getattr(self._service, "hurry", None)
        if hurry is not None:
            hurry()

    def stopService(self) -> Deferred[Any]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._ending = True
        self._collector.stop()
        service = self._service
        if service is None:
            return succeed(None)
        leave = getattr(service, "leave", None)
        left = succeed(None) if leave is None or self.status or self._hurried else maybeDeferred(leave)
        return left.addBoth(lambda _: service.stopService())

    def _exit(self) -> None:
        """End the process as the reactor's last action, since twistd offers no way to set its exit status."""
        if self.status:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.status)


class WithWeb(MultiService):
    """A role's service, and the server that shows it over HTTP."""

    _log = Logger()

    def __init__(self, service: Any, web: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._service, self._web = service, web
        for part in (service, web):
            part.setServiceParent(self)

    def listen(self, what: str) -> Deferred[list[str]]:
        """Start, and listen for HTTP; the Deferred gives the links without tokens.  ``what`` is served, for the log."""
        self.startService()  # type: ignore[no-untyped-call]
        return self._web.listen().addCallback(self._listening, what)  # type: ignore[no-any-return]

    def _listening(self, links: list[str], what: str) -> list[str]:
        for link in links:
            self._log.info("{what} are at {link}", what=what, link=link)
        found: list[str] = self._web.links
        return found

    def leave(self) -> Any:
        """Have a worker hand over what only it holds."""
        leave = getattr(self._service, "leave", None)
        return leave() if leave is not None else succeed(None)

    def hurry(self) -> None:
        """Have it end at once."""
        hurry = getattr(self._service, "hurry", None)
        if hurry is not None:
            hurry()
