"""Sessions: in order, once, over cuts."""

import random

import pytest

from twistdist.core.client import Client
from twistdist.core.exchange import Exchange
from twistdist.core.session import ACK_AFTER, FRAME_MESSAGES, Dialer, Fatal, Gap, Session
from twistdist.wire import messages as m


def test_messages_arrive_once_and_in_order_over_random_cuts():
    for seed in range(300):
        rng = random.Random(seed)
        a, b = Session(), Session()
        sent, got, wire = [], [], []
        for step in range(200):
            if rng.random() < 0.5:
                sent.append(step)
                a.post(step)
            wire += a.take()
            if rng.random() < 0.1:  # the connection breaks: what is on the wire is lost, and both resume
                wire = a.resume(b.received)
                b.resume(a.received)
            while wire and rng.random() < 0.7:
                got += b.accept(wire.pop(0))
            if rng.random() < 0.3:
                a.accept(b.bare_ack())
        for frame in wire or a.resume(b.received):
            got += b.accept(frame)
        assert got == sent


def test_repetitions_are_dropped_and_gaps_are_told():
    a, b = Session(), Session()
    a.post("one")
    (first,) = a.take()
    a.post("two")
    (second,) = a.take()
    with pytest.raises(Gap):
        b.accept(second)
    assert b.accept(first) == ["one"] and b.accept(first) == [] and b.repeated == 1
    assert b.accept(second) == ["two"]


def test_frames_are_bounded_in_messages_and_weight():
    session = Session()
    for i in range(FRAME_MESSAGES + 1):
        session.post(i)
    assert [len(batch) for _, _, batch in session.take()] == [FRAME_MESSAGES, 1]
    for _ in range(3):
        session.post("heavy", 3 << 20)
    assert len(session.take()) == 3


def test_acknowledged_frames_are_forgotten_and_acks_are_owed():
    a, b = Session(), Session()
    for i in range(ACK_AFTER):
        a.post(i)
        b.accept(a.take()[0])
    assert a.undelivered() == list(range(ACK_AFTER))
    assert b.owes_ack
    (ack,) = b.take()
    a.accept(ack)
    assert a.undelivered() == [] and not b.owes_ack


def test_the_dialer():
    dialer = Dialer(7)
    assert dialer.greeting() is None
    assert dialer.greeted(m.Ready(3)) == [] and dialer.connected and dialer.fresh == 1
    dialer.session.post("x")
    dialer.session.take()
    assert dialer.greeting() == m.Resume(7, 3, 0) and not dialer.connected
    assert [batch for _, _, batch in dialer.greeted(m.Resumed(0))] == [["x"]]
    dialer.greeting()
    assert dialer.greeted(m.Refused("session", "")) is None and dialer.epoch == 0
    with pytest.raises(Fatal, match="taken"):
        dialer.greeted(m.Refused("replaced", "taken"))


def test_nothing_is_sent_in_a_session_before_the_scheduler_has_answered():
    client = Client(1)
    exchange = Exchange(client)
    exchange.opened(0.0)
    client.query("tasks")
    assert exchange.take() == []
    assert exchange.answered(0.0, m.Ready(1)).frames == []
    assert [frame[0] for frame in exchange.take()] == [1]
    exchange.lost()
    client.query("workers")
    exchange.opened(0.0)
    assert exchange.take() == []


def test_a_connection_over_which_nothing_comes_is_doubted_and_the_next_one_has_its_own_time():
    client = Client(1)
    exchange = Exchange(client)
    exchange.opened(0.0)
    exchange.answered(0.0, m.Ready(1, "", 1.0, 9.0))
    every, now = client.dialer.beat_every, 0.0
    while not exchange.is_silent(now):
        now += every
        assert exchange.look(now) == pytest.approx(now) and now < 4
    assert now > 3  # a third of dead_after
    exchange.opened(now)
    assert exchange.look(now + every) == pytest.approx(every) and not exchange.is_silent(now + every)
