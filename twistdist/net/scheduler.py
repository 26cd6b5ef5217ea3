"""The scheduler's service: connections in, the core's messages out."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.logger import Logger

from twistdist.core.records import Client, Worker
from twistdist.core.resilience import Settings
from twistdist.core.scheduler import Scheduler
from twistdist.core.session import Gap
from twistdist.errors import ProtocolError
from twistdist.net.connection import Connection, ServerFactory
from twistdist.net.dialing import ACK_S
from twistdist.net.hosts import address_of
from twistdist.net.timers import Alarm
from twistdist.wire import messages as m
from twistdist.wire.framing import FROM_CLIENT, FROM_WORKER, GREETING_TO_SCHEDULER, decode_frame


class SchedulerService(Service):
    """Listens on ``endpoints`` (Twisted server descriptions) and on ``adopt`` (descriptors of listening TCP sockets).

    ``addresses`` are what clients connect to, once ready.

    ``on_stop(text, failed)`` is called when the scheduler ends by itself: shut down by a client, or by an error.
    """

    _log = Logger()
    name = "twistdist scheduler"

    def __init__(
        self,
        reactor: Any,
        endpoints: Sequence[str],
        secret: bytes,
        settings: Settings | None = None,
        epoch: int | None = None,
        on_stop: Callable[[str, bool], None] | None = None,
        adopt: Sequence[int] = (),
    ) -> None:
        self._reactor, self._endpoints, self._adopt = reactor, endpoints, adopt
        # Without a journal nobody knows the epochs before: a random one is none of them, but for one chance in 10**8.
        self.core = Scheduler(secrets.randbelow((1 << 27) - 1) + 1 if epoch is None else epoch, settings)
        self._factory = ServerFactory(reactor, self, secret)
        self._on_stop = on_stop or (lambda text, failed: None)
        self._connections: dict[Client | Worker, Connection] = {}
        self._strangers: set[Connection] = set()
        self._ports: list[Any] = []
        self._alarm = Alarm(reactor, self._tick)
        self._ack = Alarm(reactor, self._send_acks)
        self._owing: dict[Client | Worker, None] = {}
        self.addresses: list[str] = []

    # ---- life -------------------------------------------------------------------------------

    def listen(self) -> Deferred[list[str]]:
        """Listen everywhere; the Deferred gives the addresses, or the first failure."""
        listening = [serverFromString(self._reactor, one).listen(self._factory) for one in self._endpoints]
        return gatherResults(listening, consumeErrors=True).addCallbacks(self._listening, self._not_listening)

    def _listening(self, ports: list[Any]) -> list[str]:
        adopted = [self._reactor.adoptStreamPort(fd, socket.AF_INET, self._factory) for fd in self._adopt]
        self._ports = [*ports, *adopted]
        self.addresses = [address_of(port) for port in self._ports]
        return self.addresses

    @staticmethod
    def _not_listening(failure: Any) -> Any:
        return failure.value.subFailure

    def stopService(self) -> Deferred[Any]:
        """Stop listening and close every connection; workers and clients will try to come back."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._alarm.cancel()
        self._ack.cancel()
        for connection in [*self._connections.values(), *self._strangers]:
            connection.close()
        return DeferredList([d for port in self._ports if (d := port.stopListening()) is not None])

    def _guard(self, what: Callable[..., Any], *args: Any) -> Any:
        """Run a step of the core.  An error in it is a bug: this process ends loudly rather than go on with a wrong state."""
        try:
            return what(self._reactor.seconds(), *args)
        except ProtocolError:
            raise
        except Exception:
            self._log.failure("an error in the scheduler's core; this process ends")
            self._on_stop("an error in the scheduler's core, see the log", True)
            raise

    # ---- the connections' owner -----------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._strangers.add(connection)

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        for body in bodies:
            peer = connection.peer
            if peer is None:
                self._greet(connection, body)
                continue
            if self._connections.get(peer) is not connection:
                return  # a newer connection of this session has taken over
            decoder = FROM_CLIENT if isinstance(peer, Client) else FROM_WORKER
            try:
                messages = peer.session.accept(decode_frame(decoder, body))
            except Gap as gap:
                raise ProtocolError(str(gap)) from None
            if messages:
                self._guard(self.core.receive, peer, messages)
            if peer.session.owes_ack:
                self._owing[peer] = None
        self._flush()

    def _greet(self, connection: Connection, body: memoryview) -> None:
        for greeting in decode_frame(GREETING_TO_SCHEDULER, body)[2][:1]:
            if isinstance(greeting, m.Resume):
                self._resume(connection, greeting)
            elif (refused := self.core.refusal(greeting)) is not None:
                connection.send([(0, 0, [refused])])
                connection.close()
            else:
                peer = self._guard(self.core.greet, greeting)
                self._bind(connection, peer)
                connection.send([(0, 0, [m.Ready(self.core.epoch, greeting.name)])])
                self._close_replaced()
                kind = "worker" if isinstance(peer, Worker) else "client"
                self._log.info("{kind} {name} is here", kind=kind, name=peer.name or f"{peer.number:x}")

    def _resume(self, connection: Connection, resume: m.Resume) -> None:
        peer = self.core.find_session(resume)
        if peer is None:
            connection.send([(0, 0, [m.Refused("session", "this scheduler does not know the session")])])
            return
        if peer in self._connections:  # the break of the old connection has not been seen here yet
            old = self._connections.pop(peer)
            self._guard(self.core.connection_lost, peer)
            old.close()
        self._bind(connection, peer)
        connection.send([(0, 0, [m.Resumed(peer.session.received)]), *peer.session.resume(resume.received)])
        self._guard(self.core.reconnected, peer)

    def _bind(self, connection: Connection, peer: Client | Worker) -> None:
        self._strangers.discard(connection)
        connection.peer = peer
        self._connections[peer] = connection

    def _close_replaced(self) -> None:
        """Older incarnations of a worker's name are told to give up, or they would come back in turn for ever."""
        replaced, self.core.replaced = self.core.replaced, []
        for worker in replaced:
            connection = self._connections.pop(worker, None)
            if connection is not None:
                self._log.warn("worker {name} was replaced by another one of that name", name=worker.name)
                connection.close()

    def closed(self, connection: Connection, error: Exception) -> None:
        self._strangers.discard(connection)
        peer = connection.peer
        if peer is None:
            if connection.error is not None:
                where = getattr(connection.transport.getPeer(), "host", "a local socket")
                self._log.warn("a connection from {host} was refused: {error}", host=where, error=error)
        elif self._connections.get(peer) is connection:
            del self._connections[peer]
            if connection.error is not None:
                self._log.warn("the connection of {name} was closed: {error}", name=peer.name, error=error)
            if self.running:
                self._guard(self.core.connection_lost, peer)
                self._flush()

    # ---- out --------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._guard(self.core.tick)
        self._flush()

    def _flush(self) -> None:
        """What the core has to say leaves: one write a peer."""
        core = self.core
        if core.dirty:
            dirty, core.dirty = core.dirty, {}
            for peer in dirty:
                connection = self._connections.get(peer)
                if connection is not None:
                    frames = peer.session.take()
                    if frames:
                        self._send(connection, frames)
        self._alarm.set(core.wake)
        if self._owing:
            self._ack.set(self._reactor.seconds() + ACK_S)
        if core.stopping:
            text, core.stopping = core.stopping, ""
            self._reactor.callLater(0.1, self._on_stop, text, False)

    @staticmethod
    def _send(connection: Connection, frames: list[m.Frame]) -> None:
        """What can't be encoded ends this one connection; the others are told what they are to be told."""
        try:
            connection.send(frames)
        except (ProtocolError, UnicodeError, OverflowError) as error:
            connection.fail(ProtocolError(f"a message can't be encoded: {error}"))

    def _send_acks(self) -> None:
        owing, self._owing = self._owing, {}
        for peer in owing:
            connection = self._connections.get(peer)
            if connection is not None and peer.session.owes_ack:
                connection.send([peer.session.bare_ack()])
