"""Several addresses of one scheduler."""

from __future__ import annotations

import random

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

from tests.net.lines import SECRET, Line
from twistdist.config import parse_addresses
from twistdist.core import client as core
from twistdist.errors import ConfigError
from twistdist.net.dialing import Dialing
from twistdist.net.tls import dialing_side
from twistdist.tap.worker import Options
from twistdist.wire.framing import TO_CLIENT

TWO = "tcp:h1:1,tcp:h2:2"


def test_lists_are_parsed():
    assert parse_addresses("h1:1, tcp:h2:2,unix:/run/x,h1:1") == ["tcp:h1:1", "tcp:h2:2", "unix:/run/x"]
    for wrong in ("h1:1,", ",", "h1:1,h2", "tcp:h1:1,nonsense", "", 5):
        with pytest.raises(ConfigError):
            parse_addresses(wrong)


def test_each_address_of_a_list_is_encrypted_or_refused(monkeypatch, tmp_path):
    monkeypatch.delenv("TWISTDIST_TLS", raising=False)
    assert dialing_side("h1:1,h2:2", None) == (TWO, None)
    with pytest.raises(ConfigError, match="'tls:h2:2' needs certificates"):
        dialing_side("h1:1,tls:h2:2", None)
    with pytest.raises(ConfigError, match="'tcp:h2:2' would not be encrypted"):
        dialing_side("h1:1,tcp:h2:2", tmp_path)
    monkeypatch.setenv("TWISTDIST_TLS", str(tmp_path))
    assert dialing_side(TWO, None) == (TWO, None)
    with pytest.raises(ConfigError, match=str(tmp_path)):  # there are no certificates: they were looked for
        dialing_side("tcp:h1:1,h2:2", None)


def test_a_worker_takes_a_list():
    options = Options()
    options.parseOptions([TWO, "--slots", "1"])
    assert options["scheduler"] == TWO


@pytest.fixture
def dialing(monkeypatch):
    reactor = MemoryReactorClock()
    monkeypatch.setattr(random.Random, "uniform", lambda self, low, high: 1.0)
    one = Dialing(reactor, "127.0.0.1:1,127.0.0.1:2", SECRET, core.Client(5), TO_CLIENT, list, bool, str)
    one.reactor = reactor
    yield one
    one.stop()


def fails(dialing):
    """The attempt that is under way is refused; its port."""
    line = Line(dialing.reactor)
    line.refuses()
    return line.port


def test_one_after_the_other_is_tried_and_each_as_often_as_one_alone(dialing):
    assert isinstance(dialing.reactor, Clock)
    dialing.start()
    ports, times = [], []
    for _ in range(12):
        times.append(dialing.reactor.seconds())
        ports.append(fails(dialing))
        dialing.reactor.advance(dialing.reactor.getDelayedCalls()[0].getTime() - dialing.reactor.seconds())
        while len(dialing.reactor.tcpClients) == len(ports):
            dialing.reactor.advance(0.001)
    assert ports == [1, 2] * 6
    assert times[1] == 0 and 0.2 < times[-1] < 0.4
    assert dialing.why().startswith("tcp:127.0.0.1:1: ") and "; tcp:127.0.0.1:2: " in dialing.why()


def test_the_one_that_worked_is_tried_again_first(dialing):
    dialing.start()
    assert fails(dialing) == 1
    dialing.reactor.advance(0)
    for answered, expected in ((True, 2), (True, 2), (False, 1)):
        line = Line(dialing.reactor).opens()
        if answered:
            line.answers()
        dialing._failures = 0
        assert line.port == 2
        line.breaks(ConnectionLost())
        dialing.reactor.advance(0)
        assert dialing.reactor.tcpClients[-1][1] == expected
