"""Broken bytes for everything that reads bytes, and whole messages there and back."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
import types
import typing

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twistdist.errors import ProtocolError
from twistdist.executors import packets
from twistdist.testing import fuzz
from twistdist.testing.nonsense import KINDS
from twistdist.wire import framing
from twistdist.wire import messages as m
from twistdist.wire.handshake import ClientHandshake, ServerHandshake

CORPUS = fuzz.corpus(1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1)
ANYTHING = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False) | TEXT | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=20)


def structures(hint):
    """A strategy for a type as it is written in the message catalogue."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        (meta,) = hint.__metadata__
        return st.integers(meta.ge, meta.le)
    if origin in (typing.Union, types.UnionType):
        return st.one_of([structures(one) for one in inner])
    if origin is list:
        return st.lists(structures(inner[0]), max_size=3)
    if origin is tuple and inner[-1] is Ellipsis:
        return st.lists(structures(inner[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(structures, inner))
    if origin is dict:
        return st.dictionaries(structures(inner[0]), structures(inner[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        hints = typing.get_type_hints(hint, include_extras=True)
        return st.builds(hint, **{name: structures(one) for name, one in hints.items()})
    atoms = {
        int: INTEGERS,
        float: st.floats(allow_nan=False),
        str: TEXT,
        bool: st.booleans(),
        bytes: st.binary(max_size=20),
        type(None): st.none(),
        typing.Any: ANYTHING,
    }
    return atoms[hint]


STRUCTURES = {kind: structures(kind) for kind in KINDS}


def cut(data, cuts):
    at, turn = 0, 0
    while at < len(data):
        yield data[at : at + cuts[turn % len(cuts)]]
        at, turn = at + cuts[turn % len(cuts)], turn + 1


def test_the_fuzzer_knows_every_decoder():
    assert {"FROM_CLIENT", "FROM_WORKER", "TO_CLIENT", "TO_WORKER", "BULK_REQUEST", "BULK_ANSWER"} < set(fuzz.decoders())
    assert len(fuzz.readers()) == len(fuzz.decoders()) + 6


# No parametrize beside given: pytest-twisted wraps what hypothesis calls once for each.
@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_garbage(data):
    for read in fuzz.readers().values():
        with_expected(read, data)


def with_expected(read, data):
    with contextlib.suppress(*fuzz.EXPECTED):
        read(data)


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 16), st.integers(0, 1 << 16))
@settings(max_examples=300)
def test_broken_frames_and_handshakes(seed, which, other):
    for name, read in fuzz.readers().items():
        valid = CORPUS[name]
        with_expected(read, fuzz.mutate(random.Random(seed), valid[which % len(valid)], valid[other % len(valid)]))


@pytest.mark.parametrize("piece", fuzz.PIECES, ids=lambda piece: piece[:6].hex())
def test_every_odd_piece_at_every_place(piece):
    for name, decoder in fuzz.decoders().items():
        for data in CORPUS[name][:40]:
            for at in range(0, len(data), 1 if len(piece) < 100 else 29):
                with_expected(lambda one: framing.decode_frame(decoder, one), data[:at] + piece + data[at + 1 :])  # noqa: B023


@pytest.mark.parametrize("header", [*fuzz.PIECES[:5], b"\xdd\x04\x00\x00\x00"])
def test_what_announces_much_and_brings_nothing_costs_nothing(header):
    tracemalloc.start()
    try:
        for name, decoder in fuzz.decoders().items():
            for data in CORPUS[name][:10]:
                for at in range(len(data)):
                    with contextlib.suppress(ProtocolError):  # it may be the end of a number
                        framing.decode_frame(decoder, data[:at] + header)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.lists(st.binary(max_size=80), max_size=8), CUTS, st.integers(0, 100), st.integers(0, 1 << 32), st.booleans())
@example([b"x" * 80], [1], 79, 0, False)
def test_chunks_do_not_change_what_a_frame_reader_says(bodies, cuts, limit, seed, broken):
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    if broken and stream:
        stream = fuzz.mutate(random.Random(seed), stream, stream)[:2000]

    def read(chunks):
        reader, got = framing.FrameReader(), []
        for chunk in chunks:
            try:
                got += [bytes(one) for one in reader.feed(chunk, limit)]
            except ProtocolError:
                return got, "refused"
            kept = sum(map(len, reader._chunks))
            assert kept == reader._have < 4 + limit + len(chunk), "no more than a frame and a chunk is kept"
        return got, reader.rest()

    whole, parts = read([stream]), read(cut(stream, cuts))
    if whole[1] == parts[1] == "refused":  # then frames of the same chunk are dropped with it
        assert parts[0][: len(whole[0])] == whole[0]
    else:
        assert whole == parts


def handshake(side, chunks):
    """(bytes that it sends, bytes behind it, whether it is done, the error that came out)."""
    sent, left = side.start(), b""
    for chunk in chunks:
        if side.done:
            left += chunk
            continue
        try:
            more, behind = side.feed(chunk)
        except fuzz.EXPECTED as error:
            return sent, left, side.done, (type(error), str(error))
        sent, left = sent + more, left + behind
    return sent, left, side.done, None


@given(st.integers(0, 1 << 32), CUTS, st.booleans())
def test_chunks_do_not_change_what_a_handshake_says(seed, cuts, broken):
    rng = random.Random(seed)
    for name, make in (
        ("ServerHandshake", lambda: ServerHandshake(fuzz._SECRET, fuzz._SERVER)),
        ("ClientHandshake", lambda: ClientHandshake(fuzz._SECRET, fuzz._CLIENT)),
    ):
        data = rng.choice(CORPUS[name])
        data = fuzz.mutate(rng, data, data) if broken else data
        whole, parts = handshake(make(), [data]), handshake(make(), cut(data, cuts))
        assert whole[2:] == parts[2:] and whole[1] == parts[1]
        assert len(whole[0]) <= len(parts[0])


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_messages_there_and_back(data):
    for kind in KINDS:
        there_and_back(kind, data.draw(STRUCTURES[kind]))


def there_and_back(kind, message):
    for name, decoder in fuzz.decoders().items():
        frame = framing.encode_frame((1, 2, [message, message]))
        try:
            number, acknowledged, messages = framing.decode_frame(decoder, memoryview(frame)[4:])
        except ProtocolError:
            continue
        assert (number, acknowledged, messages) == (1, 2, [message, message]), name
        return
    outcome = typing.get_args(packets.Outcome)
    if kind in outcome:
        assert packets.decode_outcome(packets.encode_outcome(message)[4:]) == message
        return
    assert kind is m.GoOn and packets.decode_packet(packets.encode_packet([message])) == [message]


def test_a_long_run_lets_nothing_out_and_keeps_nothing():
    report = fuzz.run(2_000_000, seed=1, seconds=8)
    assert report.inputs > 3 * fuzz.WARM_UP and not report.escaped, report.escaped[:3]
    assert set(report.accepted) == set(report.refused) | {"packet"} == set(fuzz.readers())
    assert report.growth < 4 << 20
