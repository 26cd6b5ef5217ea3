"""What ``progress`` counts: functions and groups, where there are several."""

from __future__ import annotations

import io

from twistdist.core.client import Record, State
from twistdist.net import tally
from twistdist.net.tally import Tally


class Terminal(io.StringIO):
    def isatty(self):
        return True


class One:
    def __init__(self, function, group=""):
        self._record = Record(1, of=(function, group))

    def done(self):
        return self._record.state is not State.PENDING


def rows(counted):
    return [(row.label.strip(), row.total, row.done, row.failed) for row in counted._rows]


def test_one_function_and_one_group_have_a_single_bar():
    futures = [One("load", "a"), One("load", "a")]
    counted = Tally([*futures, futures[0]], "tasks ", Terminal())
    futures[1]._record.state = State.ERROR
    counted.look()
    counted.look()
    assert rows(counted) == [("tasks", 2, 1, 1)] and list(counted.pending) == [futures[0]]


def test_several_have_a_bar_each_the_largest_first():
    futures = [One("load", "a"), One("clean", "b"), One("clean", "b"), One("clean"), object.__new__(One)]
    futures[4]._record = Record(2)  # submitted by another client: nothing is known
    counted = Tally(futures, "", Terminal())
    futures[1]._record.state = futures[4]._record.state = State.FINISHED
    futures[2]._record.state = State.LOST
    counted.look()
    assert rows(counted) == [("all", 5, 3, 1), ("clean", 3, 2, 1), ("load", 1, 0, 0), ("b", 2, 2, 1), ("a", 1, 0, 0)]


def test_the_number_of_bars_is_bounded():
    futures = [One(f"function{number}") for number in range(100)] + [One("x" * 100)] * 2
    counted = Tally(futures, "", Terminal())
    assert len(counted._rows) == 1 + tally.MAX_BARS
    for future in futures:
        future._record.state = State.FINISHED
    counted.look()
    assert rows(counted)[-1] == ("94 other functions", 94, 94, 0)
    assert all(len(row.label) <= tally.MAX_NAME + 1 for row in counted._rows)


def test_nothing_to_wait_for():
    counted = Tally([], "", Terminal())
    counted.look()
    counted.end()
    assert rows(counted) == [("", 0, 0, 0)]
