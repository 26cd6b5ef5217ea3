"""Connections that a dialing side makes on a reactor in memory, from the scheduler's end."""

from __future__ import annotations

from twisted.internet.error import ConnectionAborted, ConnectionRefusedError
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from twistdist.wire import messages as m
from twistdist.wire.framing import FROM_CLIENT, GREETING_TO_SCHEDULER, FrameReader, decode_frame, encode_frame
from twistdist.wire.handshake import NONCE_BYTES, ServerHandshake

SECRET = b"0123456789abcdef"


class Line:
    """The attempt to connect of that number."""

    def __init__(self, reactor, number=-1):
        _, self.port, self._factory, _, _ = reactor.tcpClients[number]
        self.transport, self.aborted = StringTransport(), False
        self.transport.abortConnection = self.transport.loseConnection = self._abort
        self._reader = FrameReader()

    def _abort(self):
        self.aborted = True
        self.breaks(ConnectionAborted())

    def refuses(self):
        self._factory.clientConnectionFailed(None, ConnectionRefusedError())

    def connects(self):
        """TCP's handshake is done."""
        self.protocol = self._factory.buildProtocol(None)
        self.protocol.makeConnection(self.transport)
        return self

    def opens(self):
        """Both sides have proved that they know the secret."""
        self.connects()
        server = ServerHandshake(SECRET, b"s" * NONCE_BYTES)
        self.protocol.dataReceived(server.start())
        answer, self._rest = server.feed(self._value())
        self.protocol.dataReceived(answer)
        return self

    def _value(self):
        data = self.transport.value()
        self.transport.clear()
        return data

    def heard(self, decoder=FROM_CLIENT):
        """Messages that have come over it since the last call."""
        data, self._rest = self._rest + self._value(), b""
        return [message for body in self._reader.feed(data) for message in decode_frame(decoder, body)[2]]

    def greeting(self):
        return self.heard(GREETING_TO_SCHEDULER)

    def says(self, *messages, number=0):
        self.protocol.dataReceived(encode_frame((number, 0, list(messages))))
        return self

    def answers(self, answer=None):
        return self.says(m.Ready(7) if answer is None else answer)

    def breaks(self, error):
        self.protocol.connectionLost(Failure(error))
