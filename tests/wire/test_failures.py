"""Exceptions in transit."""

import builtins
import sys
import traceback

import pytest

from twistdist import errors
from twistdist.wire import failures


class OwnInit(Exception):
    def __init__(self, code, *, text):
        super().__init__(f"{code}: {text}")
        self.code, self.text = code, text


class Stubborn(Exception):
    def __reduce__(self):
        raise RuntimeError("no")


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no")


def raised(error):
    try:
        raise error
    except BaseException as caught:
        return caught


def travel(error):
    return failures.load_error(failures.dump_error(raised(error), key="k", attempt=7, worker="w"))


def test_the_type_and_the_frames_survive():
    again = travel(ZeroDivisionError("division by zero"))
    assert type(again) is ZeroDivisionError
    assert "raise error" in "".join(traceback.format_exception(again))
    assert again.__twistdist__.key == "k" and again.__twistdist__.attempt == 7 and again.__twistdist__.worker == "w"
    assert "in raised" in again.__twistdist__.traceback


def test_an_own_init_does_not_matter():
    again = travel(OwnInit(5, text="five"))
    assert type(again) is OwnInit and (again.code, again.text) == (5, "five") and str(again) == "5: five"


def test_cause_and_context():
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError as error:
        again = failures.load_error(failures.dump_error(error))
    assert isinstance(again.__cause__, KeyError)
    assert isinstance(again.__context__, KeyError)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_exception_groups():
    again = travel(builtins.ExceptionGroup("several", [ValueError(1), OwnInit(2, text="two")]))
    assert [type(one) for one in again.exceptions] == [ValueError, OwnInit]


@pytest.mark.parametrize("kind", [Stubborn, Speechless])
def test_what_can_not_travel_is_told_in_words(kind):
    info = failures.dump_error(raised(kind("text")))
    again = failures.load_error(info)
    assert kind.__qualname__ in info.type
    assert isinstance(again, kind | errors.TaskError)


def test_a_local_class_travels_by_value():
    class Local(Exception):
        pass

    assert type(travel(Local("x"))).__name__ == "Local"


def test_long_texts_are_cut_and_that_is_said():
    info = failures.dump_error(raised(ValueError("x" * 10_000_000)))
    assert len(info.text) < 20_000 and len(info.traceback) < 70_000 and not info.pickled
    again = failures.load_error(info)
    assert isinstance(again, errors.TaskError) and "cut: 10000000" in str(again)


def test_a_deep_traceback_keeps_its_ends():
    def down(n):
        if n:
            down(n - 1)
        raise ValueError("bottom")

    try:
        down(900)
    except ValueError as error:
        again = failures.load_error(failures.dump_error(error))
    assert type(again) is ValueError
    assert 20 < len(traceback.extract_tb(again.__traceback__)) < 200


def test_our_own_kinds():
    from twistdist.wire.messages import ErrorInfo

    for name in ("TaskCrashed", "TimeLimitExceeded", "TaskCancelled", "DataLost", "SerializationError", "NoValidWorker"):
        again = failures.load_error(ErrorInfo(name, "", "what happened"))
        assert type(again) is getattr(errors, name) and str(again) == "what happened"
