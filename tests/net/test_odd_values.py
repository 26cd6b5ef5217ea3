"""Whatever a user passes becomes plain, or fails its own call: no message hurts its session."""

import datetime
import decimal
import enum

import numpy as np
import pytest

from twistdist.core.client import Client as Core
from twistdist.core.client import FunctionRef, Record, State
from twistdist.net.options import check_key, check_workers, split_options
from twistdist.wire import messages as m
from twistdist.wire.framing import encode_frame, take_out_unencodable


class Loud(str):
    def __str__(self):
        return "something else"


class Number(int):
    pass


class Name(str, enum.Enum):
    A = "w0"


def plain(options):
    encode_frame((1, 0, [m.Submit(1, 1, [b""], options=options)]))
    return options


@pytest.mark.parametrize("text", [np.str_("w0"), Loud("w0"), Name.A])
def test_text_of_every_kind_is_plain_on_the_wire(text):
    assert type(check_key(text)) is str and check_key(text) == "w0"
    assert check_workers(text) == ["w0"] == check_workers([text]) == check_workers({text: 1})
    options = plain(split_options({"workers": [text], "resources": {text: 1}, "replay": np.str_("verify")}).wire)
    assert options.workers == ("w0",) and options.resources == {"w0": 1_000_000} and options.replay == "verify"


@pytest.mark.parametrize("number", [np.int64(3), Number(3), np.uint8(3), np.array(3)])
def test_numbers_of_every_kind_are_plain_on_the_wire(number):
    options = plain(split_options({"retries": number, "crash_limit": number, "priority": number, "replicas": number,
                                   "time_limit": number, "resources": {"GPU": number}}).wire)  # fmt: skip
    assert {type(one) for one in (options.retries, options.crash_limit, options.priority, options.replicas)} == {int}
    assert options.time_limit == 3.0 and type(options.time_limit) is float and options.resources == {"GPU": 3_000_000}


@pytest.mark.parametrize("limit", [datetime.timedelta(seconds=2), np.timedelta64(2, "s"), decimal.Decimal(2), np.float32(2)])
def test_times_of_every_kind(limit):
    assert plain(split_options({"time_limit": limit}).wire).time_limit == 2.0


@pytest.mark.parametrize("options", [{"retries": True}, {"retries": "1"}, {"priority": 1.5}, {"workers": 8}, {"workers": b"w0"},
                                     {"workers": [8]}, {"resources": ["GPU"]}, {"resources": {1: 1}}, {"time_limit": "1"},
                                     {"time_limit": float("nan")}, {"replicas": 0}, {"crash_limit": 0}])  # fmt: skip
def test_what_is_wrong_is_named(options):
    name = next(iter(options))
    with pytest.raises((TypeError, ValueError), match=name.removesuffix("s")):
        split_options(dict(options))


def test_a_message_that_can_not_be_encoded_fails_alone():
    core = Core(1)
    core.dialer.connected = True
    good, bad = Record(1), Record(3)
    function = FunctionRef("f", b"d", b"blob")
    core.submit(good, function, b"")
    core.submit(bad, function, b"", key=np.str_("k"), recipe=b"r")
    question = core.query("who_has", [np.str_("k")])
    core.close_batch()
    frames = core.dialer.session.take()
    for message, why in take_out_unencodable(frames):
        assert core.unsendable(message, why)
    encoded = [encode_frame(frame) for frame in frames]
    assert encoded == [encode_frame(frame) for frame in core.dialer.session.resume(0)], "nothing bad is said again"
    assert core.changed() == [bad] and bad.state is State.ERROR and good.state is State.PENDING
    assert [one.query for one in core.answers] == [question] and "can't be sent" in core.answers[0].error
