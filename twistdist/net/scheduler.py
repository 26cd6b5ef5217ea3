"""The scheduler's service: passes what connections receive to the core, and sends the core's messages."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from twistdist.core.exchange import ACK_S
from twistdist.core.scheduler import LEFT, RETIRED, Scheduler, Settings
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.outputs import Effect, End, GiveUp, Log, Peer, Probe, Replaced
from twistdist.core.scheduler.records import Client, Worker
from twistdist.core.session import Gap, Session
from twistdist.errors import ProtocolError
from twistdist.net.connection import Connection, ServerFactory
from twistdist.net.hosts import address_of, host_identity, is_local
from twistdist.net.journal_writer import JournalThread
from twistdist.net.outbox import Outbox
from twistdist.net.timers import Alarm
from twistdist.net.tls import listen, server_factory
from twistdist.net.versions import versions
from twistdist.storage.sqlite import Journal
from twistdist.wire import journal_rows as j
from twistdist.wire import messages as m
from twistdist.wire.framing import FROM_WORKER, GREETING_TO_SCHEDULER, decode_frame, decode_frame_of_client

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: Seconds after which others are served before the next frame of the same connection is processed.
TURN_S = 0.01

#: Seconds that a probe whether a process listens may take.
PROBE_S = 2.0

#: Unfinished tasks above which a client that submits more is not read, and below which all clients are read again.
MAX_UNFINISHED, RESUME_UNFINISHED = 1_000_000, 900_000


class _Valve:
    """Back-pressure for one peer, as its transport's producer.

    What the peer does not read stays in its session, which holds references instead of bytes.  A client that does not read is
    not read either.
    """

    def __init__(self, service: SchedulerService, connection: Connection) -> None:
        self._service, self._connection = service, connection
        self.closed = False
        self._flooding = False
        self._reading = True
        self._came = 0
        connection.transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        self.closed = True
        self._adjust()

    def resumeProducing(self) -> None:
        self.closed = False
        self._adjust()
        self._service.unblocked(self._connection.peer)

    def stopProducing(self) -> None:
        """The connection is closed."""

    def more_came(self) -> bool:
        """Whether bytes have arrived since the last call."""
        came, self._came = self._came, self._connection.came
        return came != self._came

    def flooding(self, flooding: bool) -> None:
        """Set whether there is so much to do that no more must be read."""
        self._flooding = flooding
        self._adjust()

    def _adjust(self) -> None:
        peer = self._connection.peer
        reading = not isinstance(peer, Client) or not (self.closed or (self._flooding and not peer.parent))
        if reading is not self._reading:
            self._reading = reading
            self._connection.read(reading, "back-pressure")


class _Silent(Factory):
    """Makes protocols that send nothing, and does not log."""

    noisy = False
    protocol = Protocol


class SchedulerService(Service):
    """Listens on ``endpoints`` (Twisted server descriptions) and on ``adopt`` (descriptors of listening TCP sockets).

    ``addresses`` are the addresses that clients connect to, known once the service listens.

    ``on_stop(text, failed)`` is called when the scheduler ends by itself, shut down by a client or by an error, and
    ``on_standby(holder)`` when it waits for a journal that another scheduler holds.
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
        tls: Tls | None = None,
        journal: Journal | None = None,
        on_standby: Callable[[str], None] = lambda holder: None,
    ) -> None:
        self._reactor, self._endpoints, self._adopt = reactor, endpoints, adopt
        self._tls, self._settings = tls, settings
        self._journal = JournalThread(reactor, journal) if journal is not None else None
        # Without a journal the earlier epochs are unknown: a random one collides with one of them with probability 1e-8.
        self.core = Scheduler(secrets.randbelow((1 << 27) - 1) + 1 if epoch is None else epoch, settings)
        self._longest: dict[str, float] = {}  # seconds, by kind of event
        self.core.longest_events_are(self._longest)
        self.core.versions_are(versions())
        self._factory = ServerFactory(reactor, self, secret)
        self._on_standby = on_standby
        self.dashboard_link = ""  # without a token
        self._on_stop = on_stop or (lambda text, failed: None)
        self._connections: dict[Client | Worker, Connection] = {}
        self._out = Outbox(reactor, self._connections, self._flush, self._trouble, lambda text: self._on_stop(text, True))
        self._strangers: set[Connection] = set()
        self._ports: list[Any] = []
        self._alarm = Alarm(reactor, self._tick)
        self._ack = Alarm(reactor, self._send_acks)
        self._owing: dict[Client | Worker, None] = {}
        self._valves: dict[Connection, _Valve] = {}
        self._flooded = False
        self._pulse = Alarm(reactor, self._beat)
        self._pulse_due = 0.0
        self._beats = self._looks = 0
        self._host = host_identity()
        self.addresses: list[str] = []

    # ---- life -------------------------------------------------------------------------------

    def listen(self) -> Deferred[list[str]]:
        """Read the journal, if any, then listen on all endpoints; the Deferred gives the addresses, or the first failure."""
        if self._journal is None:
            return self._listen()
        return self._journal.start(self._on_standby).addCallback(self._restore).addCallback(lambda _: self._listen())

    def _restore(self, found: tuple[j.Meta, list[tuple[j.Key, Any]]]) -> None:
        """Continue where the previous scheduler stopped."""
        meta, rows = found
        assert self._journal is not None
        self.core = Scheduler(meta.epoch, self._settings, Ledger())
        self.core.longest_events_are(self._longest)
        self.core.versions_are(versions())
        self.core.restore(self._reactor.seconds(), meta.lives, rows)
        self._out.use(self._journal, self.core.ledger)
        self.core.journal_is(self._out.status())
        for name, worker in self.core.expected.items():
            self._probe(worker.address, worker.host, partial(self._not_there, name))
        self._flush()

    def _not_there(self, name: str, refused: bool) -> None:
        if refused:
            self._guard(self.core.not_there, name)

    def _listen(self) -> Deferred[list[str]]:
        listening = [listen(self._reactor, endpoint, self._tls, self._factory) for endpoint in self._endpoints]
        return gatherResults(listening, consumeErrors=True).addCallbacks(self._listening, self._not_listening)

    def _listening(self, ports: list[Any]) -> list[str]:
        factory = server_factory(self._reactor, self._tls, self._factory)
        adopted = [self._reactor.adoptStreamPort(fd, socket.AF_INET, factory) for fd in self._adopt]
        self._ports = [*ports, *adopted]
        self.addresses = [address_of(port, self._tls is not None) for port in self._ports]
        self._set_pulse()
        return self.addresses

    @staticmethod
    def _not_listening(failure: Any) -> Any:
        return failure.value.subFailure

    def stopService(self) -> Deferred[Any]:
        """Stop listening and close every connection; workers and clients will try to reconnect."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._alarm.cancel()
        self._ack.cancel()
        self._pulse.cancel()
        for connection in [*self._connections.values(), *self._strangers]:
            connection.close()
        self._out.stop()
        if self._journal is not None:
            self._journal.stop()
        return DeferredList([d for port in self._ports if (d := port.stopListening()) is not None])

    # ---- what others may look at --------------------------------------------------------------

    def health(self) -> str:
        """Return why no work is accepted at the moment; "" while it is."""
        if not self.addresses:
            return "waiting for the journal, which another scheduler may have"
        if self._out.trouble:
            return f"the journal can't be written: {self._out.trouble}"
        return "" if self.running else "stopping"

    def ask(self, what: str, *args: Any) -> Any:
        """Return the answer to a question of clients, from nobody in particular.  Only for questions that change nothing."""
        return self.core.parts.queries.answer(
            self._reactor.seconds(), Client(0, "", Session(), connected=False), what, list(args)
        )

    def order(self, what: str, *args: Any) -> Any:
        """Like :meth:`ask`, for a question that the scheduler passes on to workers."""
        answer = self.ask(what, *args)
        self._flush()
        return answer

    def _guard(self, what: Callable[..., Any], *args: Any) -> Any:
        """Run a step of the core.  An error in it is a bug: this process ends loudly instead of continuing in a wrong state."""
        began = time.perf_counter()
        try:
            return what(self._reactor.seconds(), *args)
        except ProtocolError:
            raise
        except Exception:
            self._log.failure("an error in the scheduler's core; this process ends")
            self._on_stop("an error in the scheduler's core; see the log", True)
            raise
        finally:
            took = time.perf_counter() - began
            kind = type(args[1][0]).__name__ if what == self.core.receive else what.__name__
            if took > self._longest.get(kind, 0.0):
                self._longest[kind] = took

    # ---- the connections' owner -----------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        self._strangers.add(connection)
        connection.expect_greeting()

    def frames(self, connection: Connection, bodies: list[memoryview]) -> None:
        if not self.running:
            return  # what still arrives is not acknowledged, so it will be sent to the next scheduler
        changed = left = False
        turn_ends = self._reactor.seconds() + TURN_S
        for at, body in enumerate(bodies):
            if self._reactor.seconds() > turn_ends:
                connection.later(bodies[at:])
                break
            peer = connection.peer
            if peer is None:
                self._greet(connection, body)
                changed = True
                continue
            if self._connections.get(peer) is not connection:
                return  # a newer connection of this session has taken over
            frame = decode_frame_of_client(body) if isinstance(peer, Client) else decode_frame(FROM_WORKER, body)
            try:
                messages = peer.session.accept(frame)
            except Gap as gap:
                raise ProtocolError(str(gap)) from None
            if messages:
                self._guard(self.core.receive, peer, messages)
                self._out.touch(peer.session)
                changed = True
                left = left or any(isinstance(message, m.Bye) for message in messages)
                if self._flooded and any(isinstance(message, m.Submit) for message in messages):
                    self._valves[connection].flooding(True)  # a client that only asks, cancels or leaves is read
            elif not frame[0] and isinstance(peer, Worker):
                for beat in frame[2]:
                    if isinstance(beat, m.Beat):
                        self._guard(self.core.beat, peer, beat, frame[1])
            if peer.session.received > peer.session.acknowledged:
                self._owing[peer] = None
        if changed or self.core.dirty:
            self._flush()
        if left:
            self._send_acks()  # a client that leaves waits for nothing else

    def _greet(self, connection: Connection, body: memoryview) -> None:
        for greeting in decode_frame(GREETING_TO_SCHEDULER, body)[2][:1]:
            if self._journal is not None and self.core.is_outdated_by(greeting):
                self._out.look()  # the check will find that the journal is not ours any more
                connection.close()
            elif isinstance(greeting, m.Resume):
                self._resume(connection, greeting)
            elif (refused := self.core.refusal(greeting)) is not None:
                connection.send([(0, 0, [refused])])
                connection.close()
            else:
                peer = self._guard(self.core.greet, greeting)
                self._bind(connection, peer)
                settings = self.core.settings
                limits = settings.suspect_after, settings.dead_after
                ready = m.Ready(self.core.epoch, greeting.name, *limits, self.dashboard_link)
                kind = "worker" if isinstance(peer, Worker) else "client"
                if kind == "worker":  # what it reported must be durable first: it will not be reported again
                    self._out.say(connection, peer, [(0, 0, [ready])])
                else:
                    self._out.send(connection, [(0, 0, [ready])])
                    self._tell_trouble(connection)
                name = peer.name or f"{peer.number:x}"
                self._log.info("{role} {name} connected", role=kind, name=name, worker=name if kind == "worker" else "")

    def _resume(self, connection: Connection, resume: m.Resume) -> None:
        peer = self.core.find_session(resume)
        if peer is None:
            connection.send([(0, 0, [m.Refused("session", "this scheduler does not know the session")])])
            return
        if peer in self._connections:  # the break of the old connection has not been noticed here yet
            old = self._connections.pop(peer)
            self._guard(self.core.connection_lost, peer)
            old.close()
        self._bind(connection, peer)
        known = resume.received if resume.epoch == self.core.epoch else 0
        self._out.send(connection, [(0, 0, [m.Resumed(peer.session.sure, self.core.epoch)])])
        again = peer.session.resume(known)
        if again:
            self._out.say(connection, peer, again)
        if isinstance(peer, Client):
            self._tell_trouble(connection)
        self._guard(self.core.reconnected, peer)

    def _trouble(self, text: str) -> None:
        """Notify clients that the journal can't be written or, with "", that it can be written again."""
        self.core.journal_is(self._out.status())
        for peer, connection in list(self._connections.items()):
            if isinstance(peer, Client) and connection.told:
                self._out.send(connection, [(*peer.session.bare_ack()[:2], [m.Trouble(text)])])

    def _tell_trouble(self, connection: Connection) -> None:
        if self._out.trouble:
            self._out.send(connection, [(0, 0, [m.Trouble(self._out.trouble)])])

    def _bind(self, connection: Connection, peer: Client | Worker) -> None:
        self._strangers.discard(connection)
        connection.peer = peer
        connection.greeted()
        self._connections[peer] = connection
        self._valves[connection] = _Valve(self, connection)

    def closed(self, connection: Connection, error: Exception) -> None:
        self._strangers.discard(connection)
        self._valves.pop(connection, None)
        peer = connection.peer
        if self._connections.get(peer) is connection:
            del self._connections[peer]
            if connection.error is not None:
                worker = peer.name if isinstance(peer, Worker) else ""
                self._log.warn("the connection of {name} was closed: {error}", name=peer.name, error=error, worker=worker)
            if self.running:
                self._guard(self.core.connection_lost, peer)
                self._flush()

    # ---- heartbeats and back-pressure -----------------------------------------------------------

    def _set_pulse(self) -> None:
        self._pulse_due = self._reactor.seconds() + self.core.settings.look_every
        self._pulse.set(self._pulse_due)

    def _beat(self) -> None:
        """Send a beat to every peer, and check which peers are alive."""
        lag = max(0, int(1e6 * (self._reactor.seconds() - self._pulse_due)))
        self._set_pulse()
        self._out.look()
        self.core.journal_is(self._out.status())
        for connection, valve in self._valves.items():
            if valve.more_came() and isinstance(connection.peer, Worker):
                self._guard(self.core.bytes_came, connection.peer)
        self._guard(self.core.pulse)
        self._looks += 1
        if self._looks % self.core.settings.looks_a_beat:
            self._flush()
            return
        self._beats += 1
        for peer, connection in self._connections.items():
            if self._valves[connection].closed or not connection.told:
                continue  # it does not read, so one more byte would not help, or it was not greeted yet
            heard = peer.beat.number if isinstance(peer, Worker) and peer.beat is not None else 0
            connection.send([(*peer.session.bare_ack()[:2], [m.Beat(self._beats, heard, peer.session.sent, lag)])])
        self._flush()

    def _probe(self, address: str, host: str, answer: Callable[[bool], None]) -> None:
        """Probe whether a process listens at a worker's address; a refused connection shows that none does."""
        if is_local(address) and host != self._host:
            return  # it would be our own port with that number
        endpoint = clientFromString(self._reactor, address.replace("tls:", "tcp:", 1))
        probing = endpoint.connect(_Silent())
        limit = self._reactor.callLater(PROBE_S, probing.cancel)

        def answered(result: Any) -> None:
            if limit.active():
                limit.cancel()
            if isinstance(result, Protocol):
                result.transport.abortConnection()  # type: ignore[union-attr]
            elif self.running:
                answer(bool(result.check(ConnectionRefusedError, FileNotFoundError)))
                self._flush()

        probing.addBoth(answered)

    def unblocked(self, peer: Client | Worker | None) -> None:
        """The peer reads again: send what waited for it."""
        if peer is not None:
            self._reactor.callLater(0, self._flush)

    def _look_at_flood(self) -> None:
        unfinished = self.core.unfinished
        if unfinished > MAX_UNFINISHED or (self._flooded and unfinished < RESUME_UNFINISHED):
            flooded = unfinished > MAX_UNFINISHED
            if flooded is not self._flooded:
                self._flooded = flooded
                self._log.info(
                    "{n} tasks are unfinished: {what}",
                    n=unfinished,
                    what="clients that submit more are not read" if flooded else "all clients are read again",
                )
                if not flooded:
                    for valve in list(self._valves.values()):
                        valve.flooding(False)

    # ---- out --------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._guard(self.core.tick)
        self._flush()

    def _flush(self) -> None:
        """Send what the core has to send, with one write per peer; then carry out its effects."""
        bundle = self.core.take(self._reads)
        for peer, frames in bundle.frames:
            self._out.say(self._connections[peer], peer, frames)
        self._out.write()
        self._alarm.set(self.core.wake)
        for effect in bundle.effects:
            self._carry_out(effect)
        self._look_at_flood()
        if self._owing:
            self._ack.set(self._reactor.seconds() + ACK_S)

    def _reads(self, peer: Peer) -> bool:
        """Whether frames can be sent to the peer."""
        connection = self._connections.get(peer)
        return connection is not None and not self._valves[connection].closed

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Log(incident, worker, key, attempt):
                say = self._log.info if incident.kind in (LEFT, RETIRED) else self._log.warn
                fields = attrs.asdict(incident)
                del fields["at"]
                say("{kind}: {what}: {cause}", **{**fields, "key": key or fields["key"]}, worker=worker, attempt=attempt)
            case Probe(worker):
                self._probe(worker.hello.address, worker.hello.host, partial(self._guard, self.core.probed, worker))
            case GiveUp(worker):
                connection = self._connections.pop(worker, None)
                if connection is not None:
                    connection.transport.abortConnection()
            case Replaced(worker):  # it must learn to give up, or the two would reconnect in turn for ever
                connection = self._connections.pop(worker, None)
                if connection is not None:
                    self._log.warn("worker {worker} was replaced by another worker of that name", worker=worker.name)
                    connection.close()
            case End(text):
                self._reactor.callLater(0.1, self._on_stop, text, False)

    def _send_acks(self) -> None:
        owing, self._owing = self._owing, {}
        for peer in owing:
            connection = self._connections.get(peer)
            if connection is None or not connection.told:
                continue
            if peer.session.owes_ack:
                connection.send([peer.session.bare_ack()])
            if peer.session.received > peer.session.acknowledged:
                self._owing[peer] = None  # it is not durable yet
