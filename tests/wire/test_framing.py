"""Frames: cut anywhere, joined again; nothing but frames comes through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistdist.errors import ProtocolError
from twistdist.executors import packets
from twistdist.wire import framing
from twistdist.wire import messages as m


@given(st.lists(st.binary(max_size=200), max_size=20), st.lists(st.integers(1, 50), min_size=1, max_size=50))
def test_frames_survive_any_cutting(bodies, cuts):
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    reader, got, at, turn = framing.FrameReader(), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        got += [bytes(one) for one in reader.feed(stream[at : at + step])]
        at, turn = at + step, turn + 1
    assert got == bodies
    assert reader.rest() == b""


def test_a_length_above_the_limit_is_refused_before_its_bytes_come():
    with pytest.raises(ProtocolError, match="announced"):
        framing.FrameReader().feed((framing.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


def test_a_large_frame_in_small_chunks_costs_linear_work():
    body = bytes(1 << 20)
    stream = len(body).to_bytes(4, "big") + body
    reader, frames = framing.FrameReader(), []
    for at in range(0, len(stream), 1000):
        frames += reader.feed(stream[at : at + 1000])
    assert [len(frame) for frame in frames] == [len(body)]


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error_in_every_decoder(data):
    for decoder in (
        framing.GREETING_TO_SCHEDULER,
        framing.GREETING_FROM_SCHEDULER,
        framing.FROM_CLIENT,
        framing.FROM_WORKER,
        framing.TO_CLIENT,
        framing.TO_WORKER,
        framing.BULK_REQUEST,
        framing.BULK_ANSWER,
    ):
        try:
            number, acknowledged, messages = framing.decode_frame(decoder, data)
        except ProtocolError:
            continue
        assert isinstance(number, int) and isinstance(acknowledged, int) and isinstance(messages, list)


def test_a_side_can_only_say_what_its_role_may():
    frame = framing.encode_frame((1, 0, [m.Done(1, 1, b"x", 1, b"", 1)]))[4:]
    assert framing.decode_frame(framing.FROM_WORKER, frame)[2][0].value == b"x"
    with pytest.raises(ProtocolError):
        framing.decode_frame(framing.FROM_CLIENT, frame)


def test_message_tags_are_unique():
    kinds = [one for one in vars(m).values() if isinstance(one, type) and issubclass(one, m.Message)]
    tags = [one.__struct_config__.tag for one in kinds if one.__struct_config__.tag is not None]
    assert len(tags) == len(set(tags)) > 30


def test_text_that_is_not_utf_8_is_a_protocol_error():
    frame = framing.encode_frame((1, 0, [m.Query(1, "what", [])]))[4:].replace(b"what", b"wh\xff\xfe")
    with pytest.raises(ProtocolError, match="utf-8"):
        framing.decode_frame(framing.FROM_CLIENT, frame)


def test_an_outcome_with_text_that_is_not_utf_8_is_a_protocol_error():
    data = packets.encode_outcome(m.Failed(1, 2, m.ErrorInfo("", "E", "text"), 1))[4:].replace(b"text", b"te\xff\xfe")
    with pytest.raises(ProtocolError, match="utf-8"):
        packets.decode_outcome(data)


@pytest.mark.parametrize("size", [-1, 1 << 60])
def test_impossible_sizes_are_refused(size):
    for decoder, message in (
        (framing.FROM_WORKER, m.Done(1, 1, None, size, b"d", 1)),
        (framing.FROM_WORKER, m.Have([m.Stored(1, 1, size, b"d")])),
        (framing.FROM_CLIENT, m.Scatter(1, "", size, b"d", None, 1, [], True)),
        (framing.BULK_REQUEST, m.Fetch(1, size)),
    ):
        with pytest.raises(ProtocolError):
            framing.decode_frame(decoder, framing.encode_frame((1, 0, [message]))[4:])
