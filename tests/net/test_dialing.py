"""The dialing side of a session, with a clock and connections that are not there."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock

from tests.net.lines import SECRET, Line
from twistdist.core.client import Client
from twistdist.net.connecting import CONNECT_S, MAX_UNDER_WAY
from twistdist.net.dialing import Dialing
from twistdist.wire import messages as m
from twistdist.wire.framing import FROM_WORKER, TO_CLIENT, encode_frame

RESUMED = m.Resumed(0, 7)


class Side:
    """A dialing side whose session is established over ``self.line``."""

    def __init__(self):
        self.reactor, self.lost, self.errors, self.beats, self.unheard = MemoryReactorClock(), 0, [], False, False
        self.dialing = Dialing(
            self.reactor, "tcp:127.0.0.1:1", SECRET, Client(1), TO_CLIENT, list, lambda fresh: None, self.errors.append,
            on_lost=self._lose, on_pulse=self._pulse,
        )  # fmt: skip
        self.dialing.start()
        self.line = Line(self.reactor).opens()
        assert isinstance(self.line.greeting()[0], m.HelloClient)
        self.line.answers()

    def _lose(self):
        self.lost += 1

    def _pulse(self):
        if self.unheard:
            self.dialing.renew(2.5)
        return m.Beat(1, 0, 0) if self.beats else None

    @property
    def dialed(self):
        return len(self.reactor.tcpClients)

    def waits(self, seconds, line=None):
        """Time passes; meanwhile something arrives over ``line``."""
        for _ in range(round(seconds * 64)):
            if line is not None:
                line.says(m.Beat(1, 0, 0))
            self.reactor.advance(1 / 64)

    def another(self):
        """The line that was dialed beside the silent one."""
        while self.dialed < 2:
            self.waits(1 / 64)
        return Line(self.reactor, 1)


@pytest.fixture
def side():
    one = Side()
    yield one
    one.dialing.stop()
    assert not one.reactor.getDelayedCalls()


def test_a_silent_connection_is_kept_until_another_one_has_resumed_the_session(side):
    side.beats = True
    another = side.another().opens()
    assert isinstance(another.greeting()[0], m.Resume) and not side.line.aborted
    side.line.heard(FROM_WORKER)
    side.waits(0.5)
    assert side.line.heard(FROM_WORKER) and not another.heard(FROM_WORKER)  # the heartbeats: the way there may still work
    another.answers(RESUMED)
    assert side.line.aborted and not another.aborted and not side.lost
    side.waits(0.5)
    assert another.heard(FROM_WORKER)


def test_a_connection_that_delivers_again_stays(side):
    another = side.another().connects()
    side.line.says(m.Beat(1, 0, 0))
    side.waits(0.5, side.line)
    assert another.aborted and not side.line.aborted
    side.waits(30, side.line)
    assert side.dialed == 2


def test_so_it_does_if_that_happens_in_the_last_moment(side):
    another = side.another()
    side.line.says(m.Beat(1, 0, 0))
    another.opens()
    assert another.aborted and not another.greeting() and not side.line.aborted


def test_attempts_are_few_and_some_time_apart(side):
    side.another()
    side.waits(0.8)
    assert side.dialed == 2
    side.waits(2.1)
    assert side.dialed == 1 + MAX_UNDER_WAY
    side.waits(CONNECT_S)
    assert side.dialed <= 2 + MAX_UNDER_WAY + CONNECT_S


def test_after_long_silence_the_connection_is_closed(side):
    side.waits(11.5)
    assert side.line.aborted and side.lost == 1 and "nothing was received for 10." in side.dialing.why()


def test_a_greeting_that_is_not_answered_is_repeated_over_another_connection(side):
    first = side.another().opens()
    side.waits(2)
    second = Line(side.reactor, 2).opens()
    assert isinstance(first.greeting()[0], m.Resume)
    side.waits(0.5)
    assert isinstance(second.greeting()[0], m.Resume) and first.aborted and not side.line.aborted
    side.waits(1.4)
    assert side.dialed == 3  # not as soon as before: the scheduler may be slow
    side.waits(1)
    third = Line(side.reactor, 3).opens()
    side.waits(0.5)
    assert third.greeting() and second.aborted
    third.answers(RESUMED)
    assert side.line.aborted and not third.aborted and not side.lost


def test_a_connection_that_delivers_nothing_of_ours_is_replaced(side):
    side.unheard = True
    side.waits(5, side.line)
    another = Line(side.reactor, 1).opens()
    side.unheard = False
    another.answers(RESUMED)
    assert side.line.aborted and not another.aborted


def test_if_both_break_a_third_one_is_tried(side):
    another = side.another().opens()
    another.breaks(ConnectionLost())
    assert side.line.aborted and side.lost == 1
    side.waits(0.5)
    Line(side.reactor).opens().answers(RESUMED)
    assert side.dialing._dialer.connected and not side.errors


def test_the_silent_one_breaks_while_another_one_is_tried(side):
    another = side.another().connects()
    side.line.breaks(ConnectionLost())
    dialed = side.dialed
    side.waits(0.5)
    assert side.lost == 1 and side.dialed == dialed and not another.aborted


def test_the_first_connection_is_tried_twice_if_it_takes_long(side):
    side.line.breaks(ConnectionLost())
    side.waits(0.1)
    assert side.dialed == 2
    side.waits(1.5)
    assert side.dialed == 3
    Line(side.reactor, 2).opens().answers(RESUMED)
    assert side.dialing._dialer.connected and not side.dialing._attempts.under_way


def test_a_large_frame_on_a_slow_line_is_no_silence(side):
    frame = encode_frame((1, 0, [m.Finished(1, 1, bytes(8000), 8000)]))
    for i in range(0, len(frame), 100):
        side.line.protocol.dataReceived(frame[i : i + 100])
        side.reactor.advance(0.25)
    assert side.dialed == 1 and side.dialing._dialer.session.received == 1


def test_nothing_is_left_after_the_end(side):
    another = side.another().opens()
    side.waits(2)
    waiting = Line(side.reactor, 2).opens()
    side.dialing.stop()
    assert side.line.aborted and another.aborted and waiting.aborted
