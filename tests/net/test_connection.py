"""The edge of a connection, with an in-memory transport and a clock, and once over a real socket."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from twistdist import errors
from twistdist.blocking import Client
from twistdist.net.connection import HANDSHAKE_S, Connection
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
    return client.feed(transport.value())[0]


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


def test_a_wrong_secret_gets_one_byte_and_nothing_it_says_is_read(server):
    connection, transport, owner, _ = server
    attempt = proof(transport, b"another secret ..")
    transport.clear()
    connection.dataReceived(attempt + encode_frame((1, 0, [m.Bye()])))
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


def test_a_scheduler_of_another_version_is_told_apart():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            peer, _ = listener.accept()
            with peer:
                peer.sendall(ServerHandshake(os.urandom(16), os.urandom(32), version=99).start())
                peer.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(errors.VersionMismatch, match="speaks version 99"):
            Client(f"127.0.0.1:{listener.getsockname()[1]}", timeout=20)
        thread.join(20)


def test_what_one_peer_can_not_be_told_does_not_keep_the_others_from_hearing():
    service = SchedulerService(Clock(), [], b"secret")
    sent, failed = [], []

    class Fake:
        def send(self, frames):
            sent.extend(encode_frame(frame) for frame in frames)

        def fail(self, error):
            failed.append(str(error))

    for number in (1, 2):
        peer = service.core.greet(0.0, m.HelloClient(number))
        service._connections[peer] = Fake()
        service.core.post(peer, m.Reply(1, "", 1 << 64 if number == 1 else "fine"))
    service._flush()
    assert len(sent) == 1 and "encoded" in failed[0]
