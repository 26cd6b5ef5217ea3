"""The dialing side of a session, with a clock and connections that are not there."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from twistdist.core.client import Client
from twistdist.net.dialing import Dialing
from twistdist.wire import messages as m
from twistdist.wire.framing import TO_CLIENT, encode_frame
from twistdist.wire.handshake import NONCE_BYTES, ServerHandshake

SECRET = b"0123456789abcdef"


@pytest.fixture
def dialed():
    """(a session that is there, its connection, its transport, a clock)"""
    clock, transport = Clock(), StringTransport()
    transport.abortConnection = transport.loseConnection
    dialing = Dialing(clock, "tcp:127.0.0.1:1", SECRET, Client(1), TO_CLIENT, list, lambda fresh: None, lambda error: None)
    connection = dialing._factory.buildProtocol(None)
    connection.makeConnection(transport)
    server = ServerHandshake(SECRET, b"s" * NONCE_BYTES)
    connection.dataReceived(server.start())
    connection.dataReceived(server.feed(transport.value())[0])
    connection.dataReceived(encode_frame((0, 0, [m.Ready(1)])))
    dialing._set_pulse()
    return dialing, connection, transport, clock


def test_a_silent_connection_is_given_up(dialed):
    _, _, transport, clock = dialed
    clock.pump([0.25] * 20)
    assert transport.disconnecting


def test_a_large_frame_on_a_slow_line_is_no_silence(dialed):
    dialing, connection, transport, clock = dialed
    frame = encode_frame((1, 0, [m.Finished(1, 1, bytes(8000), 8000)]))
    for i in range(0, len(frame), 100):
        connection.dataReceived(frame[i : i + 100])
        clock.advance(0.25)
    assert not transport.disconnecting and dialing._dialer.session.received == 1
