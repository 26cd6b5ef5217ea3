"""The edge of a connection, with an in-memory transport and a clock, and once over a real socket."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.unix import Server as UnixServer

from twistdist import errors
from twistdist.blocking import Client
from twistdist.net.connection import (
    HANDSHAKE_S,
    MAX_LINES,
    MAX_UNPROVEN,
    REFUSAL_S,
    Connection,
    ServerFactory,
    _watch_by_kernel,
)
from twistdist.net.scheduler import SchedulerService
from twistdist.wire import messages as m
from twistdist.wire.framing import encode_frame
from twistdist.wire.handshake import ClientHandshake, ServerHandshake

SECRET = b"0123456789abcdef"


class Owner:
    def __init__(self):
        self.events, self.bodies = [], []

    def opened(self, connection):
        self.events.append("opened")

    def frames(self, connection, bodies):
        self.bodies += [bytes(body) for body in bodies]

    def closed(self, connection, error):
        self.events.append(type(error).__name__)


@pytest.fixture
def server():
    """(connection, its transport, its owner, a clock)"""
    clock, owner = Clock(), Owner()
    connection = Connection(clock, owner, ServerHandshake(SECRET, b"s" * 32))
    transport = StringTransport()
    transport.abortConnection = transport.loseConnection
    connection.makeConnection(transport)
    return connection, transport, owner, clock


def proof(transport, secret=SECRET):
    client = ClientHandshake(secret, b"c" * 32)
    return client.start() + client.feed(transport.value())[0]


def test_frames_after_the_handshake_even_in_the_same_chunk(server):
    connection, transport, owner, _ = server
    frame = encode_frame((1, 0, [m.Bye()]))
    connection.dataReceived(proof(transport) + frame + frame)
    assert owner.events == ["opened"] and owner.bodies == [frame[4:], frame[4:]]


def test_who_does_not_finish_the_handshake_is_closed(server):
    _, transport, _, clock = server
    clock.advance(HANDSHAKE_S - 0.1)
    assert not transport.disconnecting
    clock.advance(0.2)
    assert transport.disconnecting


def test_a_wrong_secret_gets_one_byte_after_a_while_and_nothing_it_says_is_read(server):
    connection, transport, owner, clock = server
    attempt = proof(transport, b"another secret ..")
    transport.clear()
    connection.dataReceived(attempt + encode_frame((1, 0, [m.Bye()])))
    assert transport.value() == b"" and not transport.disconnecting
    clock.advance(REFUSAL_S - 0.1)
    assert transport.value() == b""
    clock.advance(0.2)
    assert transport.value() == b"-" and transport.disconnecting
    connection.dataReceived(encode_frame((1, 0, [m.Bye()])))
    assert owner.events == [] and owner.bodies == []
    assert isinstance(connection.error, errors.AuthenticationError)


def test_garbage_is_refused(server):
    connection, transport, _, _ = server
    connection.dataReceived(b"GET / HTTP/1.1\r\n")
    assert transport.disconnecting and isinstance(connection.error, errors.ProtocolError)


def test_a_frame_that_announces_too_much_closes_the_connection(server):
    connection, transport, owner, _ = server
    connection.dataReceived(proof(transport) + b"\xff\xff\xff\xff")
    assert transport.disconnecting and owner.bodies == []


def test_no_timer_is_left_when_the_connection_goes(server):
    connection, _, owner, clock = server
    connection.connectionLost()
    assert clock.getDelayedCalls() == [] and owner.events == ["ConnectionDone"]


def test_the_refusal_of_a_wrong_secret_goes_with_its_connection(server):
    connection, transport, _, clock = server
    connection.dataReceived(proof(transport, b"another secret .."))
    connection.connectionLost()
    assert clock.getDelayedCalls() == []


def test_who_does_not_take_the_refusal_is_closed_all_the_same(server):
    connection, transport, _, clock = server
    aborted = []
    transport.abortConnection = lambda: aborted.append(clock.seconds())
    connection.dataReceived(proof(transport, b"another secret .."))
    clock.pump([0.5] * 12)
    assert aborted == [HANDSHAKE_S]


def test_what_a_good_client_said_is_no_use_to_another(server):
    connection, transport, _, _ = server
    recorded = proof(transport)
    connection.dataReceived(recorded)
    assert connection.accepted
    other, owner = Connection(Clock(), Owner(), ServerHandshake(SECRET, b"t" * 32)), Owner()
    other._owner = owner
    other.makeConnection(StringTransport())
    other.dataReceived(recorded)
    assert isinstance(other.error, errors.AuthenticationError) and owner.events == []


def test_who_proves_itself_and_says_no_more_is_closed(server):
    connection, transport, owner, clock = server
    owner.opened = Connection.expect_greeting
    connection.dataReceived(proof(transport))
    clock.advance(HANDSHAKE_S - 0.1)
    assert not transport.disconnecting
    connection.dataReceived(b"\x00")  # the beginning of a large one
    clock.advance(HANDSHAKE_S - 0.1)
    assert not transport.disconnecting
    clock.advance(0.2)
    assert transport.disconnecting and "greeting" in str(connection.error)


def test_who_has_greeted_may_be_silent(server):
    connection, transport, owner, clock = server
    owner.opened = Connection.expect_greeting
    connection.dataReceived(proof(transport))
    connection.greeted()
    assert clock.getDelayedCalls() == [] and connection.accepted


@pytest.mark.parametrize("greets", [False, True])
def test_the_scheduler_waits_for_a_greeting_for_a_while(greets):
    clock = Clock()
    service = SchedulerService(clock, [], SECRET)
    service.startService()
    connection, transport = service._factory.buildProtocol(None), StringTransport()
    transport.abortConnection = transport.loseConnection
    connection.makeConnection(transport)
    connection.dataReceived(proof(transport))
    if greets:
        connection.dataReceived(encode_frame((0, 0, [m.HelloClient(7)])))
    clock.advance(HANDSHAKE_S + 0.1)
    assert transport.disconnecting is not greets
    assert (connection.peer is not None) is greets


def test_an_error_of_ours_closes_the_connection_and_is_raised_to_nobody(server, caplog):
    connection, transport, owner, _ = server
    owner.frames = lambda connection, bodies: 1 / 0
    connection.dataReceived(proof(transport) + encode_frame((1, 0, [m.Bye()])))
    assert transport.disconnecting and "see its log" in str(connection.error)


@given(st.lists(st.binary(max_size=300), max_size=20), st.booleans())
def test_no_bytes_make_it_raise(chunks, proved):
    connection, transport = Connection(Clock(), Owner(), ServerHandshake(SECRET, b"s" * 32)), StringTransport()
    transport.abortConnection = transport.loseConnection
    connection.makeConnection(transport)
    if proved:
        connection.dataReceived(proof(transport))
    for chunk in chunks:
        connection.dataReceived(chunk)
    assert len(connection._handshake._got) < 200  # what it keeps of a stranger


# ---- many at once ------------------------------------------------------------------------------------


class Door:
    """A factory, and the connections that it made with their transports."""

    def __init__(self):
        self.clock, self.owner, self.made = Clock(), Owner(), []
        self.factory = ServerFactory(self.clock, self.owner, SECRET)
        self.lines = []
        self.factory._log = self

    def warn(self, text, **fields):
        self.lines.append(text.format(**fields))

    def connect(self, host):
        address = IPv4Address("TCP", host, 1)
        connection, transport = self.factory.buildProtocol(address), StringTransport(peerAddress=address)
        connection.makeConnection(transport)

        def abort():
            transport.disconnecting = True
            connection.connectionLost()

        transport.abortConnection = abort
        self.made.append((connection, transport))
        return connection, transport

    def open(self):
        return [not transport.disconnecting for _, transport in self.made]


def test_strangers_of_one_host_shut_out_themselves_alone():
    door = Door()
    honest, its_transport = door.connect("10.0.0.1")
    for _ in range(MAX_UNPROVEN + 50):
        door.connect("10.0.0.66")
    assert door.open() == [True] + [False] * 51 + [True] * (MAX_UNPROVEN - 1)
    late, late_transport = door.connect("10.0.0.2")
    for connection, transport in ((honest, its_transport), (late, late_transport)):
        connection.dataReceived(proof(transport))
    assert honest.accepted and late.accepted and door.open().count(True) == MAX_UNPROVEN
    for connection, transport in door.made:
        if not transport.disconnecting:
            connection.connectionLost()
    assert door.factory._unproven == {} and door.factory._hosts == {} and door.owner.events.count("opened") == 2


def test_who_has_proved_itself_is_not_counted():
    door = Door()
    for _ in range(2 * MAX_UNPROVEN):
        connection, transport = door.connect("10.0.0.1")
        connection.dataReceived(proof(transport))
    assert all(door.open())


def test_one_with_a_wrong_secret_counts_until_it_is_closed():
    door = Door()
    for _ in range(MAX_UNPROVEN):
        connection, transport = door.connect("10.0.0.1")
        connection.dataReceived(proof(transport, b"another secret .."))
    door.connect("10.0.0.1")
    assert door.open().count(False) == 1


def test_refusals_do_not_fill_the_log():
    door = Door()
    for _ in range(50):
        door.connect("10.0.0.1")[0].fail(errors.ProtocolError("no"))
    assert len(door.lines) == MAX_LINES and "10.0.0.1 was refused: no" in door.lines[0]
    door.clock.advance(1.1)
    assert door.lines[MAX_LINES:] == ["40 more connections were refused within the last second"]
    door.connect("10.0.0.1")[0].fail(errors.ProtocolError("again"))
    assert "again" in door.lines[-1]
    door.connect("10.0.0.1")[0].connectionLost()
    assert len(door.lines) == MAX_LINES + 2  # who just goes is not worth a line


def test_a_scheduler_of_another_version_is_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            peer, _ = listener.accept()
            with peer:
                peer.sendall(ServerHandshake(os.urandom(16), os.urandom(32), version=0).start())
                while peer.recv(1000):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(errors.VersionMismatch, match="speaks version 0"):
            Client(f"127.0.0.1:{listener.getsockname()[1]}", timeout=20)
        thread.join(20)


def test_what_one_peer_can_not_be_told_does_not_keep_the_others_from_hearing():
    service = SchedulerService(Clock(), [], b"secret")
    sent, failed = [], []

    class Valve:
        closed = False

    class Fake:
        def send(self, frames):
            sent.extend(encode_frame(frame) for frame in frames)

        def fail(self, error):
            failed.append(str(error))

    for number in (1, 2):
        peer = service.core.greet(0.0, m.HelloClient(number))
        service._connections[peer] = fake = Fake()
        service._valves[fake] = Valve()
        service.core.parts.outputs.post(peer, m.Reply(1, "", 1 << 64 if number == 1 else "fine"))
    service._flush()
    assert len(sent) == 1 and "encoded" in failed[0]


# ---- a flood -----------------------------------------------------------------------------------------


class Halting(StringTransport):
    def abortConnection(self):
        self.loseConnection()


def test_in_a_flood_who_submits_more_is_not_read_and_who_cancels_is_heard(monkeypatch):
    monkeypatch.setattr("twistdist.net.scheduler.MAX_UNFINISHED", 10)
    monkeypatch.setattr("twistdist.net.scheduler.RESUME_UNFINISHED", 5)
    clock = Clock()
    service = SchedulerService(clock, [], SECRET)
    service.startService()

    def greet(number):
        connection, transport = service._factory.buildProtocol(None), Halting()
        connection.makeConnection(transport)
        connection.dataReceived(proof(transport))
        connection.dataReceived(encode_frame((0, 0, [m.HelloClient(number)])))
        connection.dataReceived(encode_frame((1, 0, [m.Function(1, "f", b"f", b"blob")])))
        return connection, transport

    (first, its), (second, others) = greet(7), greet(8)
    first.dataReceived(encode_frame((2, 0, [m.Submit(1, 1, [b""] * 20)])))
    assert its.producerState == others.producerState == "producing"
    second.dataReceived(encode_frame((2, 0, [m.Submit(1, 1, [b""])])))
    third, new = greet(9)
    third.dataReceived(encode_frame((2, 0, [m.Submit(1, 1, [b""])])))
    assert others.producerState == new.producerState == "paused"
    first.dataReceived(encode_frame((3, 0, [m.Cancel(list(range(1, 21)))])))
    assert service.core.unfinished == 2 and others.producerState == new.producerState == "producing"


class Through(Connection):
    """A connection that has authenticated itself already."""

    def connectionMade(self):
        super().connectionMade()
        self._deadline.cancel()
        self.accepted = True
        self._handshake.done = True


def test_what_the_socket_does_not_take_at_once_keeps_its_order():
    reactor = SelectReactor()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport = UnixServer(ours, Through(reactor, Owner(), ServerHandshake(SECRET, b"s" * 32)), None, None, 0, reactor)
    connection = transport.protocol
    connection.makeConnection(transport)
    frames = [(n, 0, [m.Bye()] * size) for n, size in enumerate((1, 200_000, 1, 200_000, 1, 1))]
    written = b"".join(encode_frame(frame) for frame in frames)
    reactor.iterate(0)  # the handshake leaves
    theirs.recv(1000)
    connection.send([frames[0]])
    received = theirs.recv(1000)
    assert received == encode_frame(frames[0]), "it left without the reactor"
    for frame in frames[1:]:
        connection.send([frame])
    assert transport.dataBuffer or transport._tempDataBuffer, "the socket took everything"
    for _ in range(1000):
        reactor.iterate(0)
        with contextlib.suppress(BlockingIOError):
            received += theirs.recv(1 << 20, socket.MSG_DONTWAIT)
    assert received == written and not (transport.dataBuffer or transport._tempDataBuffer)
    theirs.close()
    for _ in range(2):
        connection.send([frames[0]])  # the other side is gone: no error here, the connection ends
        reactor.iterate(0)
    assert not transport.connected


class SlowOwner(Owner):
    """Works on one frame in each turn."""

    error = None

    def frames(self, connection, bodies):
        super().frames(connection, bodies[:1])
        if self.error is not None:
            raise self.error
        if bodies[1:]:
            connection.later(bodies[1:])


@pytest.fixture
def slow(server):
    connection, transport, _, clock = server
    owner = connection._owner = SlowOwner()
    connection.dataReceived(proof(transport))
    return connection, transport, owner, clock


def numbered(number):
    return encode_frame((number, 0, [m.Bye()]))


def test_frames_that_are_put_off_come_in_order_and_nothing_is_read_meanwhile(slow):
    connection, transport, owner, clock = slow
    connection.dataReceived(numbered(1) + numbered(2))
    assert len(owner.bodies) == 1 and transport.producerState == "paused"
    connection.dataReceived(numbered(3))  # what the transport had taken already
    assert len(owner.bodies) == 1
    clock.advance(0)
    assert owner.bodies == [numbered(n)[4:] for n in (1, 2, 3)] and transport.producerState == "producing"


def test_frames_that_are_put_off_come_before_the_end_of_their_connection(slow):
    connection, _, owner, clock = slow
    connection.dataReceived(numbered(1) + numbered(2))
    connection.connectionLost()
    assert owner.events == ["opened"]
    clock.advance(0)
    assert len(owner.bodies) == 2 and owner.events == ["opened", "ConnectionDone"]


def test_an_error_in_a_frame_that_was_put_off_closes_the_connection(slow):
    connection, transport, owner, clock = slow
    connection.dataReceived(numbered(1) + numbered(2) + numbered(3))
    owner.error = errors.ProtocolError("nonsense")
    clock.advance(0)
    assert transport.disconnecting and connection.error is owner.error and len(owner.bodies) == 2
    connection.connectionLost()
    clock.advance(0)
    assert owner.events == ["opened", "ProtocolError"] and len(owner.bodies) == 2


def test_two_reasons_not_to_read(slow):
    connection, transport, _, _ = slow
    connection.read(False, "one")
    connection.read(False, "two")
    connection.read(True, "one")
    assert transport.producerState == "paused"
    connection.read(True, "two")
    assert transport.producerState == "producing"


class Handle:
    """A transport with a real socket."""

    def __init__(self, handle):
        self.getHandle = lambda: handle


@pytest.mark.skipif(sys.platform != "linux", reason="the option is Linux's")
def test_the_kernel_insists_where_packets_are_lost():
    """With pauses that double, four losses in a row are ten seconds of silence."""
    with socket.socket() as handle:
        _watch_by_kernel(Handle(handle))
        assert (
            handle.getsockopt(socket.IPPROTO_TCP, 16) == 1 and handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        )
    with socket.socket(socket.AF_UNIX) as handle:
        _watch_by_kernel(Handle(handle))  # which has no packets to lose
