"""The listening side of ``--http``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import serverFromString

from twistdist.net.hosts import check_http, is_loopback
from twistdist.web.links import link_of, token_of, with_token
from twistdist.web.site import View, site


class WebServer(Service):
    """Serves the site of one scheduler on ``endpoints``; ``links`` are what to open, without tokens, once it listens."""

    name = "twistdist http"

    def __init__(self, reactor: Any, endpoints: Sequence[str], view: View, secret: bytes) -> None:
        self._reactor, self._endpoints, self._view, self._secret = reactor, endpoints, view, secret
        self._ports: list[Any] = []
        self.links: list[str] = []

    def listen(self) -> Deferred[list[str]]:
        """Listen everywhere; the Deferred gives the links, or the first failure."""
        token = token_of(self._secret)
        listening = []
        for endpoint in self._endpoints:
            made = site(self._view, None if is_loopback(endpoint) else token)
            listening.append(serverFromString(self._reactor, check_http(endpoint)).listen(made))
        return gatherResults(listening, consumeErrors=True).addCallbacks(self._listening, _first)

    def _listening(self, ports: list[Any]) -> list[str]:
        self._ports = ports
        numbers = [getattr(port.getHost(), "port", 0) for port in ports]
        self.links = [link_of(*both) for both in zip(self._endpoints, numbers, strict=True)]
        return [with_token(link, self._secret) for link in self.links]

    def stopService(self) -> Deferred[Any]:
        """Stop listening."""
        super().stopService()  # type: ignore[no-untyped-call]
        return DeferredList([stopped for port in self._ports if (stopped := port.stopListening()) is not None])


def _first(failure: Any) -> Any:
    """The failure inside a FirstError."""
    return failure.value.subFailure
