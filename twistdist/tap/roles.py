"""What the twistd commands and the embedded cluster's processes have in common: start, report ready, end with a status."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.python import usage
from twisted.python.failure import Failure

from twistdist.errors import TwistdistError
from twistdist.net.timers import use_monotonic_time

#: Thresholds of the garbage collector: cores make many objects that live long, and Python's low default costs a third.
GC_THRESHOLD = (50_000, 20, 50)


class RoleOptions(usage.Options):
    """Options that the scheduler and the worker share."""

    optParameters: ClassVar[list[Any]] = [
        ["secret-file", None, None, "File with the shared secret [default: created in the user's configuration]"],
        ["tls", None, None, "Folder of certificates made by twistdist certs: every TCP connection is encrypted"],
    ]
    optFlags: ClassVar[list[Any]] = [["plaintext", None, "Allow listening beyond this machine without encryption"]]

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


class Role(Service):
    """Runs one scheduler or worker service, and ends the process when the service can't continue.

    ``make(role)`` makes and starts the service and returns (service, Deferred).  If the options are invalid it raises an
    exception, which ends the process with one line on standard error and status 1.
    """

    def __init__(self, reactor: Any, make: Callable[[Role], tuple[Service, Deferred[Any]]]) -> None:
        self._reactor, self._make = reactor, make
        self._service: Service | None = None
        self.status = 0
        self._ending = False
        # twistd redirects sys.stdout and sys.stderr to its log; these lines are for whoever started the process.
        self.on_ready: Callable[[str], None] = lambda line: print(line, file=sys.__stdout__, flush=True)
        self.on_leaves: Callable[[str], None] = self._complain

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        use_monotonic_time(self._reactor)
        self._reactor.addSystemEventTrigger("after", "shutdown", self._exit)
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
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
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)

    def standing_by(self, holder: str) -> None:
        """Report that the service is waiting for its journal."""
        print(f"twistdist scheduler standing by: the journal is held by {holder}", file=sys.__stdout__, flush=True)

    def stop(self, text: str, failed: bool) -> None:
        """End the process, with status 1 if ``failed``; otherwise it was told to end."""
        (self._complain if failed else self.on_leaves)(text)
        self.status = self.status or int(failed)
        self.end()

    @staticmethod
    def _complain(text: str) -> None:
        print(f"twistdist: {text}", file=sys.__stderr__, flush=True)

    def end(self) -> None:
        """Stop the reactor, and with it the service, unless that has begun already."""
        if not self._ending:
            self._ending = True
            with contextlib.suppress(ReactorNotRunning):  # it is already stopping for another reason
                self._reactor.stop()

    def stopService(self) -> Deferred[Any]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._ending = True
        service = self._service
        if service is None:
            return succeed(None)
        leave = getattr(service, "leave", None)
        left = maybeDeferred(leave) if leave is not None and not self.status else succeed(None)
        return left.addBoth(lambda _: service.stopService())

    def _exit(self) -> None:
        """End the process as the reactor's last action, since twistd offers no way to set its exit status."""
        if self.status:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.status)
