"""Connections that can be cut: each goes through a forwarder on loopback, which Twisted brings."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.protocols import portforward

LOOPBACK = "127.0.0.1"


class _Client(portforward.ProxyClient):
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)  # type: ignore[union-attr]
        super().connectionMade()


class _ClientFactory(portforward.ProxyClientFactory):
    protocol = _Client
    noisy = False


class _Server(portforward.ProxyServer):
    clientProtocolFactory = _ClientFactory
    transport: Any
    factory: Any

    def connectionMade(self) -> None:
        self.reactor = self.factory.link.reactor
        if self.factory.link.is_cut:
            self.transport.abortConnection()
            return
        self.transport.setTcpNoDelay(True)
        self.factory.link.connections.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.link.connections.discard(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


class Link:
    """Forwards connections from a port of its own on loopback to ``host``, ``port``; for the reactor's thread.

    ``port`` 0: to the same port number as its own.
    """

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        self.reactor = reactor
        self.is_cut = 0  # how many cuts last
        self.connections: set[_Server] = set()
        factory: Any = portforward.ProxyFactory(host, port)
        factory.protocol, factory.link, factory.noisy = _Server, self, False
        self._listening = reactor.listenTCP(0, factory, interface=LOOPBACK)
        self.port: int = self._listening.getHost().port
        factory.port = port or self.port

    @property
    def address(self) -> str:
        return f"tcp:{LOOPBACK}:{self.port}"

    def cut(self) -> int:
        """Abort all connections, and refuse new ones until :meth:`mend`.  Return how many connections there were."""
        self.is_cut += 1
        return self._abort()

    def mend(self) -> None:
        """End one cut.  Connections are accepted when all cuts have ended."""
        self.is_cut -= 1

    def _abort(self) -> int:
        connections = list(self.connections)
        for server in connections:
            if server.peer is not None:
                server.peer.transport.abortConnection()  # type: ignore[union-attr]
            server.transport.abortConnection()
        return len(connections)

    def close(self) -> Deferred[None]:
        """Stop listening and abort all connections."""
        self._abort()
        closed: Deferred[None] = self._listening.stopListening()
        return closed
