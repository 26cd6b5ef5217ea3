"""Whatever a user passes becomes plain, or fails its own call: no message hurts its session."""

import datetime
import decimal
import enum
import itertools

import numpy as np
import pytest

from twistdist.config import as_secret, as_text, as_timeout
from twistdist.core.client import Client as Core
from twistdist.core.client import FunctionRef, Record, State
from twistdist.errors import said, shown
from twistdist.net.options import check_key, check_keys, check_workers, split_options
from twistdist.net.shapes import flatten
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
    options = plain(
        split_options(
            {
                "retries": number,
                "crash_limit": number,
                "priority": number,
                "replicas": number,
                "time_limit": number,
                "resources": {"GPU": number},
            }
        ).wire
    )
    assert {type(one) for one in (options.retries, options.crash_limit, options.priority, options.replicas)} == {int}
    assert options.time_limit == 3.0 and type(options.time_limit) is float and options.resources == {"GPU": 3_000_000}


@pytest.mark.parametrize("limit", [datetime.timedelta(seconds=2), np.timedelta64(2, "s"), decimal.Decimal(2), np.float32(2)])
def test_times_of_every_kind(limit):
    assert plain(split_options({"time_limit": limit}).wire).time_limit == 2.0


@pytest.mark.parametrize(
    "options",
    [
        {"retries": True},
        {"retries": "1"},
        {"priority": 1.5},
        {"workers": 8},
        {"workers": b"w0"},
        {"workers": [8]},
        {"resources": ["GPU"]},
        {"resources": {1: 1}},
        {"time_limit": "1"},
        {"time_limit": float("nan")},
        {"replicas": 0},
        {"crash_limit": 0},
    ],
)
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
    (answer,) = core.take()
    assert answer.reply.query == question and "can't be sent" in answer.reply.error


class Refusing:
    """Neither shown, nor compared, nor true or false."""

    def _refuse(self, *_):
        raise ZeroDivisionError

    __repr__ = __str__ = __eq__ = __bool__ = _refuse
    __hash__ = object.__hash__


HUGE = 10**5_000  # has more digits than Python shows


@pytest.mark.parametrize("value", [Refusing(), [Refusing()], HUGE, ["x" * 1_000_000]], ids=["alone", "inside", "huge", "long"])
@pytest.mark.parametrize(
    "check",
    [
        lambda one: check_workers([one]),
        check_key,
        lambda one: split_options({"retries": one}),
        lambda one: flatten(iter([one])),
        lambda one: as_text(one, "name"),
    ],
)
def test_an_error_says_what_it_is_about_whatever_the_object_is(value, check):
    with pytest.raises((TypeError, ValueError)) as raised:
        check(value)
    assert len(str(raised.value)) < 500 and "4300" not in str(raised.value)


def test_what_can_not_be_shown_is_named_by_its_type():
    assert shown(Refusing()) == "a Refusing object whose repr() failed" and len(shown("x" * 1_000_000)) <= 200


def test_said_tells_the_type_of_what_has_no_text():
    class Mute(Exception):
        def __str__(self):
            raise ZeroDivisionError

    assert said(Mute()) == f"{Mute.__qualname__} (its str() failed)" and said(KeyError("a")) == "KeyError: 'a'"


@pytest.mark.parametrize("name", ["pure", "replace", "allow_other_workers", "checkpoint"])
def test_what_is_neither_true_nor_false_is_named(name):
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        split_options({"key": "k", name: np.arange(3)} if name != "pure" else {name: np.arange(3)})


def test_one_of_several_words_is_asked_for():
    for value in (np.array(["always", "x"]), "sometimes", None):
        with pytest.raises(ValueError, match="replay must be 'always', 'verify' or 'never'"):
            split_options({"replay": value})
        with pytest.raises(ValueError, match="errors must be 'raise' or 'skip'"):
            flatten([], value)


def test_a_nesting_that_contains_itself_is_refused():
    endless: list = []
    endless += [endless, endless]
    named = {}
    named["me"] = named
    for shape in (endless, named, (endless,)):
        with pytest.raises(ValueError, match="contains itself"):
            flatten(shape)


def test_keys_of_a_map_come_from_any_iterable():
    assert check_keys((f"k{n}" for n in itertools.count()), 2) == ["k0", "k1"] == check_keys({"k0": 1, "k1": 2}.keys(), 2)
    for keys in (["k0"], ["k0", "k1", "k2"], iter(["k0"])):
        with pytest.raises(ValueError, match="keys were given for 2 tasks"):
            check_keys(keys, 2)
    for keys in (5, b"ab"):
        with pytest.raises(TypeError, match=r"key must be a string, or for map\(\) a list of keys"):
            check_keys(keys, 2)


@pytest.mark.parametrize("secret", [5, ["a" * 20], object()])
def test_a_secret_is_text_or_bytes_and_never_shown(secret):
    with pytest.raises(TypeError, match="secret must be a string or bytes") as raised:
        as_secret(secret)
    assert "aaa" not in str(raised.value)


def test_timeouts_are_times():
    assert as_timeout(None) is None is as_timeout(float("inf")) and as_timeout(np.float32(0.5)) == 0.5 and as_timeout(-1) == -1
    assert as_timeout(datetime.timedelta(seconds=2)) == 2.0
    for wrong in ("1", float("nan"), [1], True):
        with pytest.raises((TypeError, ValueError), match="timeout"):
            as_timeout(wrong)
