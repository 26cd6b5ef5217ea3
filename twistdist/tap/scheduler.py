"""``twistd twistdist-scheduler``."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from twistdist.config import DEAD_AFTER_S, DEFAULT_PORT, SUSPECT_AFTER_S, as_secret, silence_limits
from twistdist.core.scheduler import Settings
from twistdist.net.hosts import refuse_open_listening
from twistdist.net.journal_writer import open_journal
from twistdist.net.scheduler import SchedulerService
from twistdist.net.tls import load
from twistdist.tap.roles import Role, RoleOptions, WithWeb, seconds_of


class Options(RoleOptions):
    """Options of the scheduler."""

    command = "twistdist-scheduler"
    synopsis = "[options]"
    longdesc = "The scheduler of a twistdist cluster."

    optParameters: ClassVar[list[Any]] = [
        *RoleOptions.optParameters,
        ["journal", None, "none", "Where its state is kept: a file, postgresql://…, or none; a journal lets it restart"],
        ["suspect-after", None, None, f"Seconds after which a silent worker gets no new work [default: {SUSPECT_AFTER_S:g}]"],
        ["dead-after", None, None, f"Seconds after which a silent worker is given up [default: {DEAD_AFTER_S:g}]"],
        ["checkpoint-store", None, None, "Where checkpoints (checkpoint=True) are kept: a folder, or a URL for fsspec"],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["listen"] = []
        self["listen-fd"] = []
        self["http"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen, as a Twisted endpoint; may be given several times [default: tcp:8786:interface=127.0.0.1]"""
        self["listen"].append(endpoint)

    def opt_http(self, endpoint: str) -> None:
        """Where to serve the live page and /metrics, such as tcp:8787:interface=127.0.0.1; beyond loopback with a token"""
        self["http"].append(endpoint)


def make(options: Options, reactor: Any, role: Role) -> tuple[Service, Deferred[Any]]:
    """Return the service, and a Deferred that fires when it is ready.  Raises ``ConfigError`` for invalid options."""
    endpoints = options["listen"]
    if not endpoints and not options["listen-fd"]:
        endpoints = [f"tcp:{DEFAULT_PORT}:interface=127.0.0.1"]
    refuse_open_listening(endpoints, bool(options["plaintext"]), options["tls"] is not None)
    store = options["checkpoint-store"] or ""
    if store and "://" not in store:
        store = os.path.abspath(store)
    suspect, dead = silence_limits(*(seconds_of(f"--{name}", options[name]) for name in ("suspect-after", "dead-after")))
    settings = Settings(suspect, dead, checkpoints=store.rstrip("/"))
    secret = as_secret(None, options["secret-file"])
    tls = None if options["tls"] is None else load(options["tls"])
    service = SchedulerService(
        reactor,
        endpoints,
        secret,
        settings,
        on_stop=role.stop,
        adopt=options["listen-fd"],
        journal=open_journal(options["journal"]),
        tls=tls,
        on_standby=role.standing_by,
    )
    if not options["http"]:
        service.startService()  # type: ignore[no-untyped-call]
        return service, service.listen().addCallback(_tell, role)
    from twistdist.web.server import WebServer  # twisted.web takes 60 ms to import

    both = WithWeb(service, WebServer.of_scheduler(reactor, options["http"], service, secret))

    def listening(links: list[str]) -> Deferred[Any]:
        service.dashboard_link = next((link for link in links if link), "")
        return service.listen().addCallback(_tell, role)

    return both, both.listen("status, health and metrics").addCallback(listening)


def _tell(addresses: list[str], role: Role) -> None:
    role.ready(f"twistdist scheduler ready at {' '.join(addresses)}")


def makeService(options: Options) -> Service:
    """Return the service, for twistd."""
    from twisted.internet import reactor

    return Role(reactor, lambda role: make(options, reactor, role), options)
