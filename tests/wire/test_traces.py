"""Trace contexts as text, and the ids of spans."""

from __future__ import annotations

import pytest

from twistdist.wire.traces import NO_SPAN, parse, span_of, traceparent


def test_ids_come_back():
    assert parse(traceparent(5, 7)) == (5, 7)
    assert parse(traceparent((1 << 128) - 1, NO_SPAN)) == ((1 << 128) - 1, NO_SPAN)
    assert parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03") is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-00",  # not recorded
        f"01-{'1' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01\n",
        f"00-{'A' * 32}-{'1' * 16}-01",
        "00-" + "1" * 10_000,
    ],
)
def test_what_is_no_recorded_trace(text):
    assert parse(text) is None


def test_each_attempt_has_its_own_span():
    found = {span_of(attempt) for attempt in [*range(1000), 1 << 62, (1 << 62) + 1, -5]}
    assert len(found) == 1003 and all(0 < one < 1 << 64 for one in found)
    assert span_of(1) == 0xA5ECBE50E5D033FE, "executors and clients of different versions would not fit together"
