"""What people hand us for numbers, times and text."""

import enum
import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from twistdist.config import as_number, as_seconds, as_text, as_whole_number, load_secret, parse_address
from twistdist.errors import ConfigError


class Level(enum.IntEnum):
    HIGH = 7


class Loud(str):
    """Text whose ``str()`` is something else, as that of many enumerations is."""

    def __str__(self):
        return f"Loud({super().__str__()})"

    __repr__ = __format__ = __str__


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_whole_numbers_become_ints(value):
    number = as_whole_number(value, "slots", 1)
    assert number == 3
    assert type(number) is int


def test_a_subclass_of_int_becomes_an_int():
    assert type(as_whole_number(Level.HIGH, "slots")) is int


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        np.array(True),
        3.0,
        np.float64(3),
        "3",
        np.str_("3"),
        None,
        [3],
        np.array([3]),
        Decimal(3),
        3j,
        timedelta(3),
        np.timedelta64(3, "s"),
    ],
)
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match="slots must be an integer, got"):
        as_whole_number(value, "slots")


@pytest.mark.parametrize("value", [0, -1, 1001, np.int64(-3), 10**400])
def test_whole_numbers_have_limits(value):
    with pytest.raises(ValueError, match="slots must be an integer from 1 to 1,000, got"):
        as_whole_number(value, "slots", 1, 1000)


@pytest.mark.parametrize("value", [1.5, np.float32(1.5), np.float64(1.5), np.array(1.5), Decimal("1.5"), Fraction(3, 2)])
def test_numbers_become_floats(value):
    number = as_number(value, "rate")
    assert number == 1.5
    assert type(number) is float


def test_what_has_an_index_is_a_number_too():
    class Indexed:
        def __index__(self):
            return 4

    assert as_number(Indexed(), "rate") == 4.0


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        np.array(False),
        "1.5",
        np.str_("1.5"),
        np.array("1.5"),
        b"1",
        bytearray(b"1"),
        memoryview(b"1"),
        None,
        [1.5],
        np.array([1.5]),
        1j,
        np.complex64(1),
        timedelta(1),
        np.timedelta64(1, "s"),
        np.datetime64("2026-01-01"),
    ],
)
def test_what_is_no_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match="rate must be a number, got"):
        as_number(value, "rate")


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        np.float64("nan"),
        Decimal("nan"),
        Decimal("snan"),
        math.inf,
        -math.inf,
        -0.1,
        1.1,
        10**400,
        Fraction(-(10**400)),
        Decimal("1e400"),
    ],
)
def test_numbers_have_limits(value):
    with pytest.raises(ValueError, match="rate must be a number from 0 to 1, got"):
        as_number(value, "rate", 0, 1)


@pytest.mark.parametrize(
    "value",
    [
        90,
        90.0,
        np.int32(90),
        timedelta(minutes=1.5),
        np.timedelta64(90, "s"),
        np.timedelta64(90_000_000_000, "ns"),
        np.array(np.timedelta64(90_000, "ms")),
    ],
)
def test_times_become_seconds(value):
    seconds = as_seconds(value, "dead_after")
    assert seconds == 90.0
    assert type(seconds) is float


@pytest.mark.parametrize(
    "value", ["90", True, None, np.array([np.timedelta64(90, "s")]), np.datetime64("2026-01-01"), np.timedelta64(1, "M")]
)
def test_what_is_no_time_is_refused_by_name(value):
    with pytest.raises(TypeError, match="dead_after must be a number of seconds or a timedelta, got"):
        as_seconds(value, "dead_after")


@pytest.mark.parametrize("value", [0.05, timedelta(seconds=-1), timedelta(days=2), np.timedelta64("nat", "s"), math.nan])
def test_times_have_limits(value):
    with pytest.raises(ValueError, match=r"dead_after must be a number of seconds or a timedelta, from 0\.1 to 86,400, got"):
        as_seconds(value, "dead_after", 0.1, 86_400)


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize("value", ["red", np.str_("red"), Loud("red"), Colour.RED])
def test_text_becomes_str(value):
    text = as_text(value, "key")
    assert type(text) is str
    assert text.encode() == b"red"


@pytest.mark.parametrize("value", [b"red", None, 3, ["red"]])
def test_what_is_no_text_is_refused_by_name(value):
    with pytest.raises(TypeError, match="key must be a string, got"):
        as_text(value, "key")


@pytest.mark.parametrize(
    ("address", "full"),
    [
        ("h:1", "tcp:h:1"),
        ("[::1]:1", r"tcp:\:\:1:1"),
        ("tcp:h:1", "tcp:h:1"),
        ("tls:h:1:timeout=5", "tls:h:1:timeout=5"),
        ("tcp:host=h:port=1", "tcp:host=h:port=1"),
        (r"tcp:\:\:1:1", r"tcp:\:\:1:1"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_addresses(address, full):
    assert parse_address(address) == full


@pytest.mark.parametrize(
    ("address", "better"),
    [
        ("tcp://h:8786", "tcp:h:8786"),
        ("tls://h:1/", "tls:h:1"),
        ("http://h:8787/status", "tcp:h:8787"),
        ("tcp://h", "tcp:host:8786"),
        ("unix:///run/x", "unix:/run/x"),
        ("tcp:h", "host:port, tcp:host:port"),
        ("tcp:h:x", "host:port"),
        ("tcp:h:99999", "host:port"),
        ("tcp:h:0", "host:port"),
        ("tcp:h:1:2", "host:port"),
        ("tcp::1", "host:port"),
        ("tcp:h:1:wombat=5", "host:port"),
        ("unix:", "host:port"),
        ("h:1:2", "host:port"),
        ("", "host:port"),
    ],
)
def test_what_is_no_address_is_refused_at_once_with_what_was_meant(address, better):
    with pytest.raises(ConfigError, match=f"{address!r} is not an address; write {better}"):
        parse_address(address)


def test_a_secret_file_that_was_named_is_not_made(tmp_path, monkeypatch):
    missing = tmp_path / "missing"
    monkeypatch.setenv("TWISTDIST_SECRET_FILE", str(missing))
    with pytest.raises(ConfigError, match=f"{missing} can't be read .*it is named by TWISTDIST_SECRET_FILE"):
        load_secret()
    with pytest.raises(ConfigError, match=f"{missing} can't be read .*--secret-file"):
        load_secret(missing)
    assert not missing.exists()
    monkeypatch.delenv("TWISTDIST_SECRET_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_secret() == load_secret(tmp_path / "twistdist" / "secret")  # the default file is
