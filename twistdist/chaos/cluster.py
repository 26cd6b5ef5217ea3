"""A local cluster whose connections go through links, and whose processes behave as if each had a machine of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from twistdist import blocking
from twistdist.chaos.disks import SmallDisk
from twistdist.chaos.links import LOOPBACK, Link
from twistdist.chaos.memory import worker_limit
from twistdist.chaos.plan import DEAD_AFTER_S, SUSPECT_AFTER_S
from twistdist.chaos.victims import NoVictim
from twistdist.clusters.local import LocalCluster
from twistdist.executors import launch
from twistdist.net.hosts import memory_limit_of

#: Processes with different values do not open one another's files.
HOST = "TWISTDIST_HOST"

#: Where workers listen for their peers: links have the same ports at :data:`LOOPBACK`.  Only Linux has this address by itself.
_BEHIND = "127.0.0.2"

#: The options of a LocalCluster that make no sense here.
_REFUSED = ("host", "tls")


class LinkedCluster(LocalCluster):
    """A ``LocalCluster`` whose connections can be cut; see :class:`ChaosCluster`.

    ``folders`` are more folders in which workers look for modules.
    """

    def __init__(
        self, reactor: Any, n_workers: int, slots: int, secret: str | bytes | None, folders: Sequence[str], **options: Any
    ) -> None:
        super().__init__(reactor, n_workers, slots, secret, **options)
        self._folders = folders
        self._client_link: Link | None = None
        self._scheduler_links: dict[str, Link] = {}
        self._peer_links: dict[str, Link] = {}
        #: The scheduler's own address; ``address`` is that of the clients' link.
        self.direct_address = ""

    def startService(self) -> Deferred[LocalCluster]:
        starting = super().startService()
        self.direct_address = self.address
        self._client_link = Link(self._reactor, LOOPBACK, self._port())
        self.address = self._client_link.address
        return starting

    def _port(self) -> int:
        assert self._listener is not None
        port: int = self._listener.getsockname()[1]
        return port

    def _environment(self, name: str) -> dict[str, str]:
        path = "\n".join(dict.fromkeys([*self._folders, *launch.path_here().split("\n")]))
        return {**super()._environment(name), launch.PATH: path, HOST: f"chaos-{os.getpid()}-{name or 'scheduler'}"}

    def _words_of_worker(self, name: str) -> list[str]:
        if name not in self._scheduler_links:
            self._scheduler_links[name] = Link(self._reactor, LOOPBACK, self._port())
            if sys.platform == "linux":
                self._peer_links[name] = Link(self._reactor, _BEHIND, 0)
        words = [self._scheduler_links[name].address, *self._worker_options]
        if name in self._peer_links:
            words += ["--listen", f"tcp:{self._peer_links[name].port}:interface={_BEHIND}", "--contact", LOOPBACK]
        return words

    def _scheduler_ended(self, status: int) -> None:
        self._forgive("", status)
        super()._scheduler_ended(status)

    def _worker_ended(self, name: str, status: int) -> None:
        self._forgive(name, status)
        super()._worker_ended(name, status)

    def _forgive(self, name: str, status: int) -> None:
        """Do not take a process that a fault killed for one that crashes by itself: the pause before its restart would double
        each time, up to 10 s, until nothing is left that could be hit."""
        if self._starting is None and status == -signal.SIGKILL:
            self._failures.pop(name, None)

    def link(self, role: str, name: str) -> Link:
        """Return the link of a role of :data:`~twistdist.chaos.plan.ROLES`.

        Raises:
            NoVictim: There is no such link.
        """
        links = {"scheduler link": self._scheduler_links, "peer link": self._peer_links}.get(role)
        found = self._client_link if links is None else links.get(name)
        if found is None:
            raise NoVictim("there is no such connection")
        return found

    def stopService(self) -> Deferred[None]:
        return super().stopService().addCallback(lambda _: self._close_links())

    def _close_links(self) -> Deferred[None]:
        links = [*self._scheduler_links.values(), *self._peer_links.values()]
        if self._client_link is not None:
            links.append(self._client_link)
        self._client_link = None
        self._scheduler_links, self._peer_links = {}, {}
        closed: Deferred[Any] = gatherResults([link.close() for link in links])
        return closed.addCallback(lambda _: None)


class ChaosCluster(blocking.LocalCluster):
    """A ``LocalCluster`` in which faults can be injected.

    Each worker, and the scheduler, behaves as if it had a machine of its own: results travel through connections, and those of
    a worker that died are out of reach until it is back.  All connections go through forwarders on loopback.

    Args:
        n_workers: The number of workers, at least 1.
        slots: How many tasks each worker runs at a time.
        secret: The shared secret; see :class:`twistdist.LocalCluster`.
        folders: More folders in which workers look for modules.
        **options: Others of :class:`twistdist.LocalCluster`, except ``host`` and ``tls``.  The defaults of ``suspect_after``,
            ``dead_after`` and ``memory_limit`` are 0.5 s, 3 s and a fifth of the free memory.

    Raises:
        ValueError: An option is out of range, or can't be used together with faults.
    """

    _service: LinkedCluster

    #: Its small disks, by the kind of fault.
    disks: Mapping[str, SmallDisk] = MappingProxyType({})

    def __init__(
        self,
        n_workers: int = 3,
        slots: int = 1,
        secret: str | bytes | None = None,
        folders: Sequence[str] = (),
        **options: Any,
    ) -> None:
        if not isinstance(n_workers, int) or n_workers < 1:
            raise ValueError(f"a cluster with faults needs at least one worker, got n_workers={n_workers!r}")
        for name in _REFUSED:
            if options.get(name) is not None:
                raise ValueError(f"a cluster with faults is on loopback and unencrypted; omit {name}=")
        if options.get("journal") == "none":
            raise ValueError("a cluster with faults needs a journal: without one, its scheduler is not restarted")
        given = {
            "suspect_after": SUSPECT_AFTER_S,
            "dead_after": DEAD_AFTER_S,
            "memory_limit": worker_limit(),
            **{name: value for name, value in options.items() if value is not None},
        }
        self.memory_limit = memory_limit_of(given["memory_limit"], "memory_limit", 1.0)
        self._start(lambda reactor: LinkedCluster(reactor, n_workers, slots, secret, folders, **given))

    @property
    def direct_address(self) -> str:
        """The scheduler's address without the clients' link."""
        return self._service.direct_address

    @property
    def secret(self) -> bytes:
        """The shared secret."""
        return self._service.secret

    def cut(self, role: str, name: str) -> tuple[Link, int]:
        """Cut a link of a worker, or that of the clients; return it, and how many connections were aborted.

        Raises:
            NoVictim: There is no such link.
        """

        def cut() -> tuple[Link, int]:
            link = self._service.link(role, name)
            return link, link.cut()

        return self._thread.call(cut)  # type: ignore[no-any-return]

    def mend(self, link: Link) -> None:
        """End a cut."""
        self._thread.call(partial(link.mend))
