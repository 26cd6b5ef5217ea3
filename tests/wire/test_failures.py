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
    assert len(info.text) < 20_000 and len(info.traceback) < 70_000 and len(info.pickled) < 100_000
    again = failures.load_error(info)
    assert type(again) is ValueError and "cut: 10000000" in str(again)
    assert "in raised" in "".join(traceback.format_exception(again))


class Several(Exception):
    """Something like a group, and none."""

    def __init__(self, data):
        self.exceptions = [ValueError(data)]


class Lying(Exception):
    def __reduce__(self):
        return dict, ()


@pytest.mark.parametrize(
    "error",
    [
        ValueError(bytes(8 << 20), "small"),
        OSError(2, "no such file" + " " * (8 << 20), "/a/name"),
        UnicodeDecodeError("ascii", bytes(8 << 20), 3, 4, "no reason"),
        KeyError(open),
        Speechless("text"),
        Several(bytes(8 << 20)),
        SystemExit("x" * (8 << 20)),
        StopIteration(bytes(8 << 20)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_type_survives_whatever_is_in_it(error):
    again = travel(error)
    assert type(again) is type(error)
    assert "in raised" in "".join(traceback.format_tb(again.__traceback__))


@pytest.mark.parametrize("error", [Stubborn("text"), Lying("text"), RuntimeError(sys._getframe())])
def test_what_can_not_be_pickled_is_a_task_error_with_its_type_s_name(error):
    again = travel(error)
    assert type(again) is errors.TaskError and type(error).__qualname__ in str(again)


def test_small_parts_survive_beside_large_ones():
    again = travel(ValueError(bytes(8 << 20), "small", ["a", "b"]))
    assert again.args[1:] == ("small", ["a", "b"]) and "a bytes that is too large" in again.args[0]
    again = travel(OSError(2, " " * (8 << 20), "/a/name"))
    assert type(again) is FileNotFoundError and (again.errno, again.filename) == (2, "/a/name")


def test_a_chain_of_large_ones_stays_a_chain():
    try:
        try:
            raise KeyError("k" * (8 << 20))
        except KeyError as first:
            raise Stubborn("s" * (8 << 20)) from first
    except Stubborn as error:
        try:
            raise ValueError("v" * (8 << 20)) from None
        except ValueError as last:
            assert last.__context__ is error
            again = failures.load_error(failures.dump_error(last))
    assert [type(one) for one in (again, again.__context__, again.__context__.__cause__)] == [ValueError, Stubborn, KeyError]
    assert again.__suppress_context__ and again.__cause__ is None


def test_a_chain_too_long_for_pickle_keeps_its_type():
    error = None
    for number in range(5_000):
        last, error = error, ValueError(number)
        error.__context__ = last
    again = travel(error)
    assert type(again) is ValueError and again.args == (4_999,) and again.__context__.args == (4_998,)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with 3.11")
def test_notes_are_cut_too():
    error = ValueError("x")
    error.add_note("short")
    error.add_note("long " * 2_000_000)
    again = travel(error)
    assert type(again) is ValueError and again.__notes__[0] == "short" and "cut: 10000000" in again.__notes__[1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_groups_of_any_size():
    small = travel(builtins.ExceptionGroup("many", [raised(ValueError(n)) for n in range(1000)]))
    assert [one.args[0] for one in small.exceptions] == list(range(1000))
    again = travel(builtins.ExceptionGroup("many", [raised(ValueError(n, "x" * 10_000)) for n in range(10_000)]))
    assert type(again) is builtins.ExceptionGroup and again.message == "many"
    assert [one.args[0] for one in again.exceptions[:3]] == [0, 1, 2] and len(again.exceptions) == failures.MAX_COPIED - 1
    assert again.__notes__ == [f"{10_000 - len(again.exceptions)} more exceptions of this group are left out"]


class Local(Exception):
    pass


def test_telling_of_an_exception_changes_nothing_around_it():
    import copyreg

    class Own(Exception):
        pass

    before = dict(copyreg.dispatch_table)
    travel(Own("x"))
    assert copyreg.dispatch_table == before


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
