"""``twistd twistdist-worker``."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.python import usage

from twistdist.config import MEMORY_SHARE, as_secret, parse_addresses, resource_units
from twistdist.core.worker.memory import Limits
from twistdist.errors import ConfigError
from twistdist.net.hosts import default_spill_root, default_store_root, memory_limit_of, refuse_open_listening
from twistdist.net.tls import dialing_side
from twistdist.net.worker import WorkerService, default_slots, default_worker_name
from twistdist.storage.store import remove_leftovers
from twistdist.tap.roles import Role, RoleOptions


class Options(RoleOptions):
    """Options of a worker."""

    command = "twistdist-worker"
    synopsis = "[options] SCHEDULER"
    longdesc = "A worker of a twistdist cluster; SCHEDULER is host:port or a Twisted endpoint, or several of them: A,B."
    optParameters: ClassVar[list[Any]] = [
        ["scheduler", None, None, "The scheduler's address, as an alternative to the argument"],
        ["listen", None, "tcp:0:interface=127.0.0.1", "Where to listen for peers that fetch results, as a Twisted endpoint"],
        ["contact", None, None, "Host name or address at which peers reach it [default: that of --listen, or the host's name]"],
        ["slots", None, None, "How many tasks run at a time [default: the number of processors]"],
        ["name", None, None, "The worker's name [default: host and process number]"],
        ["store", None, None, "Folder for results [default: in shared memory if that is large enough]"],
        ["spill", None, None, "Folder on disk for results when memory is short [default: in the temporary folder]"],
        ["memory-limit", None, None, "Memory for tasks and results: 8GiB, or 0.5 of the machine's [default: 0.8; 0: no limit]"],
        ["executor-memory-limit", None, None, "Memory limit of one task's process [default: the worker's limit]"],
        ["resources", None, None, "Resources that tasks may request, as NAME=NUMBER,…"],
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        # Twisted's parser expects arguments after the options, but people write the address first.
        words = list(sys.argv[1:] if options is None else options)
        if words and not words[0].startswith("-"):
            words = [*words[1:], words[0]]
        super().parseOptions(words)

    def parseArgs(self, scheduler: str | None = None) -> None:
        if scheduler is not None:
            self["scheduler"] = scheduler

    def postOptions(self) -> None:
        super().postOptions()
        if not self["scheduler"]:
            raise usage.UsageError("give the scheduler's address, such as tcp:127.0.0.1:8786")


def _slots(text: str | None) -> int:
    if text is None:
        return default_slots()
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= 4096:
        raise ConfigError(f"--slots must be an integer from 1 to 4096, got {text!r}")
    return int(text)


def _resources(text: str | None) -> dict[str, int]:
    found = {}
    for part in (text or "").split(","):
        name, _, number = part.partition("=")
        if part:
            try:
                found[name] = resource_units(float(number))
            except ValueError:
                raise ConfigError(f"--resources must be NAME=NUMBER,… such as GPU=1, got {text!r}") from None
    return found


def _limits(options: Options) -> Limits:
    limit = memory_limit_of(options["memory-limit"], "--memory-limit", MEMORY_SHARE)
    own = options["executor-memory-limit"]
    return Limits(limit, limit if own is None else memory_limit_of(own, "--executor-memory-limit", MEMORY_SHARE))


def make(options: Options, reactor: Any, role: Role) -> tuple[Service, Deferred[Any]]:
    """Return the service, and a Deferred that fires when it has started.  Raises ``ConfigError`` for invalid options."""
    refuse_open_listening([options["listen"]], bool(options["plaintext"]), options["tls"] is not None)
    addresses, tls = parse_addresses(options["scheduler"]), None
    scheduler = ",".join(addresses)
    if options["tls"] is not None:
        scheduler, tls = dialing_side(options["scheduler"], options["tls"])
    elif any(address.startswith("tls:") for address in addresses):
        raise ConfigError(f"{scheduler!r} needs certificates; name their folder with --tls DIR")
    contact = options["contact"] or ""
    if not re.fullmatch(r"[A-Za-z0-9_.:%-]*", contact):
        raise ConfigError(f"--contact must be a host name or an address, got {contact!r}")
    name = options["name"] or default_worker_name()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise ConfigError(f"--name must consist of letters, digits, '_', '-' and '.', got {name!r}")
    own = name if options["name"] else f"unnamed-{name}"
    store = options["store"] or os.path.join(default_store_root(), own)
    if not options["store"]:
        remove_leftovers(default_store_root(), default_spill_root())
    spill = options["spill"] or os.path.join(default_spill_root(), own)
    service = WorkerService(
        reactor,
        scheduler,
        as_secret(None, options["secret-file"]),
        name,
        _slots(options["slots"]),
        os.path.abspath(store),
        options["listen"],
        _resources(options["resources"]),
        on_ready=role.ready,
        on_stop=role.stop,
        limits=_limits(options),
        spill=os.path.abspath(spill),
        tls=tls,
        contact=contact,
    )
    _raise_descriptor_limit()
    service.startService()  # type: ignore[no-untyped-call]
    return service, service.start()


def _raise_descriptor_limit() -> None:
    """Raise this process's limit: each executor needs descriptors, even one whose task waits.  The limit of tasks is kept."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        os.environ.setdefault("TWISTDIST_NOFILE", str(soft))
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def makeService(options: Options) -> Service:
    """Return the service, for twistd."""
    from twisted.internet import reactor

    return Role(reactor, lambda role: make(options, reactor, role))
