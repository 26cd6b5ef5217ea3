"""The listening side of ``--http``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource

from twistdist.net.hosts import check_http, is_loopback
from twistdist.web.connections import Bounded
from twistdist.web.links import interface_of, link_of, token_of, with_token
from twistdist.web.live import Live
from twistdist.web.site import View, WorkerView, scheduler_pages, site, worker_pages


class WebServer(Service):
    """Serves what ``pages`` returns on ``endpoints``; ``links`` are what to open, without tokens, once it listens."""

    name = "twistdist http"

    def __init__(self, reactor: Any, endpoints: Sequence[str], pages: Callable[[], Resource], secret: bytes) -> None:
        self._reactor, self._endpoints, self._pages, self._secret = reactor, endpoints, pages, secret
        self._ports: list[Any] = []
        self._live: Live | None = None
        self.links: list[str] = []

    @classmethod
    def of_scheduler(cls, reactor: Any, endpoints: Sequence[str], view: View, secret: bytes) -> WebServer:
        """Return the server of a scheduler."""
        live = Live(reactor, lambda since: {"health": view.health(), **view.ask("snapshot", since)})
        server = cls(reactor, endpoints, lambda: scheduler_pages(view, live), secret)
        server._live = live
        return server

    @classmethod
    def of_worker(cls, reactor: Any, endpoints: Sequence[str], view: WorkerView, secret: bytes) -> WebServer:
        """Return the server of a worker."""
        return cls(reactor, endpoints, lambda: worker_pages(view), secret)

    def listen(self) -> Deferred[list[str]]:
        """Listen everywhere; the Deferred gives the links, or the first failure."""
        listening = [serverFromString(self._reactor, check_http(at)).listen(self._site(at)) for at in self._endpoints]
        return gatherResults(listening, consumeErrors=True).addCallbacks(self._listening, _first)

    def _site(self, endpoint: str) -> Any:
        """The site at one endpoint: with a token where other machines reach it, else for requests to this machine alone."""
        token = None if is_loopback(endpoint) else token_of(self._secret)
        interface = None if endpoint.startswith("unix:") else interface_of(endpoint)  # no browser connects to a socket file
        return Bounded(site(self._pages(), token, interface))  # type: ignore[no-untyped-call]

    def _listening(self, ports: list[Any]) -> list[str]:
        self._ports = ports
        numbers = [getattr(port.getHost(), "port", 0) for port in ports]
        self.links = [link_of(*both) for both in zip(self._endpoints, numbers, strict=True)]
        return [with_token(link, self._secret) for link in self.links]

    def stopService(self) -> Deferred[Any]:
        """Stop listening and end the streams."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._live is not None:
            self._live.stop()
        return DeferredList([stopped for port in self._ports if (stopped := port.stopListening()) is not None])


def _first(failure: Any) -> Any:
    """The failure inside a FirstError."""
    return failure.value.subFailure
