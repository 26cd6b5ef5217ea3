"""``twistd twistdist-worker``."""

from __future__ import annotations

import os
import random
import re
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.python import usage

from twistdist.config import MEMORY_SHARE, as_secret, parse_addresses, resource_units
from twistdist.core.worker.memory import Limits
from twistdist.errors import ConfigError
from twistdist.net.hosts import default_spill_root, default_store_root, memory_limit_of, refuse_open_listening
from twistdist.net.tls import dialing_side
from twistdist.net.worker import NOTICE_S, WorkerService, default_slots, default_worker_name
from twistdist.storage.store import OF_A_CLUSTER, remove_leftovers
from twistdist.tap.lifetime import terms_of
from twistdist.tap.roles import Role, RoleOptions, WithWeb

#: What names of workers and clusters look like.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"


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
        ["cluster", None, None, "Name of its cluster: workers of several clusters may have one name on one machine"],
        ["give-up-after", None, None, "Seconds without an answer of the scheduler after which it ends [default: never]"],
        ["store", None, None, "Folder for results [default: in shared memory if that is large enough]"],
        ["spill", None, None, "Folder on disk for results when memory is short [default: in the temporary folder]"],
        ["memory-limit", None, None, "Memory for tasks and results: 8GiB, or 0.5 of the machine's [default: 0.8; 0: no limit]"],
        ["executor-memory-limit", None, None, "Memory limit of one task's process [default: the worker's limit]"],
        ["resources", None, None, "Resources that tasks may request, as NAME=NUMBER,…"],
        ["notice", None, None, f"Seconds between SIGTERM and SIGKILL, to finish and hand over [default: {NOTICE_S:g}]"],
        ["preemption-url", None, None, "Asked every 5 s whether the machine is taken away: then it leaves"],
        ["lifetime", None, None, "Seconds after which it leaves, or auto: when its allocation (Slurm) ends [default: never]"],
        ["lifetime-stagger", None, "0", "Leave up to this many seconds earlier, at random, so that a fleet does not at once"],
        ["lifetime-margin", None, "60", "Seconds before the end of its lifetime at which it begins to leave"],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["http"] = []
        self["preload"] = []
        self["preemption-header"] = []

    def opt_http(self, endpoint: str) -> None:
        """Where to serve /metrics and /health, such as tcp:8788:interface=127.0.0.1; beyond loopback with a token"""
        self["http"].append(endpoint)

    def opt_preemption_header(self, header: str) -> None:
        """Header of the request, such as 'Metadata-Flavor: Google'; may be given several times"""
        name, colon, value = header.partition(":")
        if not colon or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not (value.isascii() and value.isprintable()):
            raise usage.UsageError(f"--preemption-header must be 'Name: value', got {header!r}")
        self["preemption-header"].append((name, value.strip()))

    def opt_preload(self, module: str) -> None:
        """Module that every executor has imported before its first task; may be given several times"""
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module):
            raise usage.UsageError(f"--preload must be the name of a module, such as package.module, got {module!r}")
        self["preload"].append(module)

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


def _give_up_after(text: str | None) -> float:
    try:
        seconds = 0.0 if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if text is not None and not 1.0 <= seconds <= 1e9:
        raise ConfigError(f"--give-up-after must be a number of seconds, at least 1, got {text!r}")
    return seconds


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


def _preemption(options: Options) -> tuple[str, dict[str, str]] | None:
    url, headers = options["preemption-url"], dict(options["preemption-header"])
    if url is None:
        if headers:
            raise ConfigError("--preemption-header needs --preemption-url")
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigError(f"--preemption-url must be a URL such as http://169.254.169.254/…, got {url!r}")
    return url, headers


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
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"--name must consist of letters, digits, '_', '-' and '.', got {name!r}")
    cluster = options["cluster"] or ""
    if not re.fullmatch(NAME, cluster or "x"):
        raise ConfigError(f"--cluster must consist of letters, digits, '_', '-' and '.', got {cluster!r}")
    own = f"{OF_A_CLUSTER}{cluster}-{name}" if cluster else name if options["name"] else f"unnamed-{name}"
    store = options["store"] or os.path.join(default_store_root(), own)
    if not options["store"]:
        remove_leftovers(default_store_root(), default_spill_root())
    spill = options["spill"] or os.path.join(default_spill_root(), own)
    secret = as_secret(None, options["secret-file"])
    service = WorkerService(
        reactor,
        scheduler,
        secret,
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
        give_up_after=_give_up_after(options["give-up-after"]),
        terms=terms_of(options, os.environ, time.time(), random.Random()),
        preload=options["preload"],
        preemption=_preemption(options),
    )
    _raise_descriptor_limit()
    if not options["http"]:
        service.startService()  # type: ignore[no-untyped-call]
        return service, service.start()
    from twistdist.web.server import WebServer  # twisted.web takes 60 ms to import

    both = WithWeb(service, WebServer.of_worker(reactor, options["http"], service, secret))
    return both, both.listen("health and metrics").addCallback(lambda _: service.start())


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

    return Role(reactor, lambda role: make(options, reactor, role), options)
