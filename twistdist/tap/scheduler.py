"""``twistd twistdist-scheduler``."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from twistdist.config import DEAD_AFTER_S, DEFAULT_PORT, SUSPECT_AFTER_S, as_secret, silence_limits
from twistdist.core.scheduler import Settings
from twistdist.errors import ConfigError
from twistdist.net.hosts import refuse_open_listening
from twistdist.net.journal_writer import open_journal
from twistdist.net.scheduler import SchedulerService
from twistdist.net.tls import load
from twistdist.tap.roles import Role, RoleOptions


class Options(RoleOptions):
    """Options of the scheduler."""

    command = "twistdist-scheduler"
    synopsis = "[options]"
    longdesc = "The scheduler of a twistdist cluster."

    optParameters: ClassVar[list[Any]] = [
        *RoleOptions.optParameters,
        ["journal", None, "none", "Where its state is kept: a file, postgresql://…, or none; with one it can be started again"],
        ["suspect-after", None, None, f"Seconds of silence until a worker gets no new work [default: {SUSPECT_AFTER_S:g}]"],
        ["dead-after", None, None, f"Seconds of silence until a worker is given up [default: {DEAD_AFTER_S:g}]"],
        ["checkpoint-store", None, None, "Where results with checkpoint=True are kept: a folder, or a URL that fsspec knows"],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["listen"] = []
        self["listen-fd"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen, as a Twisted endpoint; may be given several times [default: tcp:8786:interface=127.0.0.1]"""
        self["listen"].append(endpoint)


def _seconds(name: str, text: str | None) -> float | None:
    try:
        seconds = None if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if seconds is not None and not 0.1 <= seconds <= 86_400:
        raise ConfigError(f"{name} is a number of seconds from 0.1 to 86400, not {text!r}")
    return seconds


def make(options: Options, reactor: Any, role: Role) -> tuple[Service, Deferred[Any]]:
    """The service, and a Deferred of its being ready.  ``ConfigError`` for impossible options."""
    endpoints = options["listen"]
    if not endpoints and not options["listen-fd"]:
        endpoints = [f"tcp:{DEFAULT_PORT}:interface=127.0.0.1"]
    refuse_open_listening(endpoints, bool(options["plaintext"]), options["tls"] is not None)
    store = options["checkpoint-store"] or ""
    if store and "://" not in store:
        store = os.path.abspath(store)
    suspect, dead = silence_limits(*(_seconds(f"--{name}", options[name]) for name in ("suspect-after", "dead-after")))
    settings = Settings(suspect, dead, checkpoints=store.rstrip("/"))
    tls = None if options["tls"] is None else load(options["tls"])
    service = SchedulerService(
        reactor,
        endpoints,
        as_secret(None, options["secret-file"]),
        settings,
        on_stop=role.stop,
        adopt=options["listen-fd"],
        journal=open_journal(options["journal"]),
        tls=tls,
        on_standby=role.standing_by,
    )
    service.startService()  # type: ignore[no-untyped-call]

    def ready(addresses: list[str]) -> None:
        role.ready(f"twistdist scheduler ready at {' '.join(addresses)}")

    return service, service.listen().addCallback(ready)


def makeService(options: Options) -> Service:
    """For twistd."""
    from twisted.internet import reactor

    return Role(reactor, lambda role: make(options, reactor, role))
