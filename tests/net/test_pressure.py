"""The scheduler's service with in-memory transports and a clock: who does not read, who floods, who is silent."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from twistdist.core.session import Session
from twistdist.net import scheduler
from twistdist.wire import messages as m
from twistdist.wire.framing import TO_CLIENT, FrameReader, decode_frame, encode_frame
from twistdist.wire.handshake import ClientHandshake

SECRET = b"0123456789abcdef"


class Peer:
    """The other end of a connection to the service, in memory."""

    def __init__(self, service, hello):
        self.session = Session()
        self.transport = StringTransport()
        self.transport.abortConnection = self.transport.loseConnection
        self.connection = service._factory.buildProtocol(None)
        self.connection.makeConnection(self.transport)
        handshake = ClientHandshake(SECRET, b"c" * 32)
        self.connection.dataReceived(handshake.start() + handshake.feed(self.transport.value())[0])
        self.transport.clear()
        self.connection.dataReceived(encode_frame((0, 0, [hello])))
        self.transport.clear()

    def say(self, *messages):
        for message in messages:
            self.session.post(message)
        self.connection.dataReceived(b"".join(map(encode_frame, self.session.take())))

    def heard(self):
        bodies = FrameReader().feed(self.transport.value())
        self.transport.clear()
        frames = [decode_frame(TO_CLIENT, body) for body in bodies]
        return [message for number, _, messages in frames if number for message in messages]

    def beats(self):
        bodies = FrameReader().feed(self.transport.value())
        return [message for body in bodies for message in decode_frame(TO_CLIENT, body)[2] if isinstance(message, m.Beat)]


@pytest.fixture
def service():
    clock = Clock()
    made = scheduler.SchedulerService(clock, [], SECRET)
    made.clock = clock
    made.startService()
    made.listen()
    return made


def test_who_does_not_read_is_not_read_from_and_hears_all_in_the_end(service):
    peer = Peer(service, m.HelloClient(1))
    peer.transport.producer.pauseProducing()  # the buffer is full
    assert peer.transport.producerState == "paused"
    peer.say(*[m.Query(number, "sync", []) for number in range(5)])
    service.clock.advance(5.0)
    assert peer.heard() == [] and not peer.beats()
    peer.transport.producer.resumeProducing()
    service.clock.advance(0)
    assert peer.transport.producerState == "producing"
    assert [one.query for one in peer.heard()] == [0, 1, 2, 3, 4]


def test_who_floods_is_not_read_from_until_work_is_done_but_tasks_own_clients_are(service, monkeypatch):
    monkeypatch.setattr(scheduler, "MAX_UNFINISHED", 10)
    monkeypatch.setattr(scheduler, "RESUME_UNFINISHED", 5)
    flood = Peer(service, m.HelloClient(1))
    flood.say(m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b""] * 20))
    (first, *_) = service.core.tasks.values()
    child = Peer(service, m.HelloClient(2, parent=first.number))
    child.say(m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b""]))
    flood.say(m.Submit(21, 1, [b""]))
    assert flood.transport.producerState == "paused" and child.transport.producerState == "producing"
    late = Peer(service, m.HelloClient(3))
    late.say(m.Query(1, "sync", []))
    assert late.transport.producerState == "producing"  # who only asks is heard
    late.say(m.Function(1, "f", b"f", b"blob"), m.Submit(1, 1, [b""] * 20))
    assert late.transport.producerState == "paused"
    cids = list(range(1, 22))
    for client in list(service.core.clients.values()):
        service._guard(service.core.receive, client, [m.Release(cids)])
    service._flush()
    assert flood.transport.producerState == late.transport.producerState == "producing"


def test_beats_come_though_nothing_else_does(service):
    peer = Peer(service, m.HelloClient(1))
    service.clock.pump([0.25] * 12)
    assert len(peer.beats()) >= 2
