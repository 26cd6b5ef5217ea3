"""Lines of --log-json: flat, and valid whatever an event holds."""

from __future__ import annotations

import datetime
import json

import pytest
from twisted.logger import Logger, LogLevel
from twisted.python import log as old_log
from twisted.python.failure import Failure

from twistdist.tap import json_log


class Unprintable:
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.fixture
def logged():
    """A logger, and the lines of what is logged with it."""
    lines = []

    def observe(event):
        text = json_log.json_line(event)
        assert text.endswith("\n") and text.count("\n") == 1 and text.isascii()
        lines.append(json.loads(text, parse_constant=pytest.fail))

    return Logger(namespace="twistdist.net.worker", observer=observe), lines


def test_an_event_is_one_flat_object(logged):
    log, lines = logged
    log.warn("{key} took {seconds} s", key="load-1", attempt=(1 << 60) + 1, worker="a", seconds=1.5, count=3, ok=True)
    (line,) = lines
    moment = datetime.datetime.strptime(line.pop("time"), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc)
    assert abs((moment - datetime.datetime.now(datetime.timezone.utc)).total_seconds()) < 60
    assert line == {
        "level": "warn",
        "logger": "twistdist.net.worker",
        "message": "load-1 took 1.5 s",
        "key": "load-1",
        "attempt": str((1 << 60) + 1),  # a number of that size would be rounded by half the readers
        "worker": "a",
        "seconds": 1.5,
        "count": 3,
        "ok": True,
    }


def test_no_value_breaks_a_line(logged):
    log, lines = logged
    log.info(
        "{text}",
        text='a "b"\nc\r\x1b[2J\u2028\ud800',
        nan=float("nan"),
        infinite=float("inf"),
        large=1 << 70,
        raw=b"\xff\x00",
        object=Unprintable(),
        nested={"a": Unprintable},
        long="x" * (2 * json_log.MAX_CHARACTERS),
        time="not the event's",
        nothing=None,
        function=print,
        **{"a\nname": 1, "": 2},
    )
    (line,) = lines
    assert line["message"] == 'a "b"\nc\r\x1b[2J\u2028\\ud800'
    assert line["nan"] == "nan" and line["infinite"] == "inf" and line["large"] == str(1 << 70) and line["raw"] == "\\xff\x00"
    assert "RuntimeError" in line["object"] and line["nested"].startswith("{'a'") and line["a\nname"] == 1
    assert len(line["long"]) == json_log.MAX_CHARACTERS and line["time"].endswith("Z")
    assert not {"nothing", "function"} & line.keys()
    log.info("{missing} {", other=1)  # a format that fails
    log.info("{thing}", thing=Unprintable())
    assert len(lines) == 3 and lines[1]["other"] == 1
    log.info("many", **{f"field{number}": number for number in range(1000)})
    assert len(lines[3]) <= json_log.MAX_FIELDS


def test_a_traceback_is_one_field(logged):
    log, lines = logged
    try:
        raise KeyError("gone\nforever")
    except KeyError:
        log.failure("it failed")
    (line,) = lines
    assert line["message"] == "it failed" and line["level"] == "critical" and line["exception"] == "KeyError"
    assert line["traceback"].startswith("Traceback") and "test_json_log.py" in line["traceback"]

    class Odd(Exception):
        __str__ = Unprintable.__str__

    log.failure("odd", Failure(Odd()))
    assert "traceback" in lines[1]


def test_events_of_the_old_log_and_broken_ones(logged):
    events = []
    old_log.addObserver(lambda event: events.append(json.loads(json_log.json_line(event))))
    try:
        old_log.msg("hello", "world", system="old", count=2)
    finally:
        old_log.theLogPublisher.removeObserver(old_log.theLogPublisher.observers[-1])
    assert events[-1]["message"] == "hello world" and events[-1]["count"] == 2 and "format" not in events[-1]
    for time in (None, "x", float("nan"), 1e300):
        line = json.loads(json_log.json_line({"log_time": time, "log_level": LogLevel.error, "log_format": "x"}))
        assert line["time"].endswith("Z") and line["level"] == "error" and line["message"] == "x"
