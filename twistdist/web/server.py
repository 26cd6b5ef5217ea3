"""The listening side of ``--http``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import serverFromString

from twistdist.net.hosts import check_http, is_loopback
from twistdist.web.site import View, site, token_of


class WebServer(Service):
    """Serves the site of one scheduler on ``endpoints``; ``links`` are what to open in a browser, once it listens."""

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
        self.links = [link_of(*both, self._secret) for both in zip(self._endpoints, numbers, strict=True)]
        return self.links

    def stopService(self) -> Deferred[Any]:
        """Stop listening."""
        super().stopService()  # type: ignore[no-untyped-call]
        return DeferredList([stopped for port in self._ports if (stopped := port.stopListening()) is not None])


def _first(failure: Any) -> Any:
    """The failure inside a FirstError."""
    return failure.value.subFailure


def link_of(endpoint: str, port: int, secret: bytes) -> str:
    """Return what to open in a browser for an ``--http`` endpoint: with the token where it is asked for; "" for a socket file.

    Args:
        endpoint: A listening endpoint, such as ``tcp:8787:interface=127.0.0.1``.
        port: The port that it listens on; 0 if only the endpoint says so.
        secret: The secret of the cluster.
    """
    kind, *parts = endpoint.split(":")
    if kind == "unix":
        return ""
    interface = next((part.removeprefix("interface=") for part in parts if part.startswith("interface=")), "")
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(interface, interface)
    number = port or next((part.removeprefix("port=") for part in parts if part.removeprefix("port=").isdigit()), "0")
    token = "" if is_loopback(endpoint) else f"?token={token_of(secret)}"
    return f"{'https' if kind == 'ssl' else 'http'}://{name}:{number}/{token}"
