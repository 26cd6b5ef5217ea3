"""``twistd twistdist-scheduler``."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from twistdist.config import DEFAULT_PORT, as_secret
from twistdist.core.resilience import Settings
from twistdist.net.hosts import refuse_open_listening
from twistdist.net.scheduler import SchedulerService
from twistdist.tap.roles import Role, RoleOptions


class Options(RoleOptions):
    """Options of the scheduler."""

    synopsis = "[options]"
    longdesc = "The scheduler of a twistdist cluster."

    optParameters: ClassVar[list[Any]] = [
        *RoleOptions.optParameters,
        ["checkpoint-store", None, None, "Where results with checkpoint=True are kept: a folder, or a URL that fsspec knows"],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["listen"] = []
        self["listen-fd"] = []

    def opt_listen(self, endpoint: str) -> None:
        """Where to listen, as a Twisted endpoint; may be given several times [default: tcp:8786:interface=127.0.0.1]"""
        self["listen"].append(endpoint)


def make(options: Options, reactor: Any, role: Role) -> tuple[Service, Deferred[Any]]:
    """The service, and a Deferred of its being ready.  ``ConfigError`` for impossible options."""
    endpoints = options["listen"]
    if not endpoints and not options["listen-fd"]:
        endpoints = [f"tcp:{DEFAULT_PORT}:interface=127.0.0.1"]
    refuse_open_listening(endpoints, bool(options["plaintext"]))
    store = options["checkpoint-store"] or ""
    if store and "://" not in store:
        store = os.path.abspath(store)
    settings = Settings(checkpoints=store.rstrip("/"))
    service = SchedulerService(reactor, endpoints, as_secret(None, options["secret-file"]), settings, on_stop=role.stop,
                               adopt=options["listen-fd"])  # fmt: skip
    service.startService()  # type: ignore[no-untyped-call]

    def ready(addresses: list[str]) -> None:
        role.ready(f"twistdist scheduler ready at {' '.join(addresses)}")

    return service, service.listen().addCallback(ready)


def makeService(options: Options) -> Service:
    """For twistd."""
    from twisted.internet import reactor

    return Role(reactor, lambda role: make(options, reactor, role))
