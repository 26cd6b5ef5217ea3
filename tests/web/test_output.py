"""What a task has written, asked of workers while a request waits; and the lines of a worker's log that belong to a task."""

from __future__ import annotations

import json

import pytest
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from twistdist.net.log_lines import MAX_CHARACTERS, OF_TASKS, LogLines
from twistdist.web import output
from twistdist.web.live import Live
from twistdist.web.site import scheduler_pages, site


class View:
    """A scheduler with one worker, which answers when the test says so."""

    def __init__(self):
        self.clock, self.silent, self.lines, self.open, self.numbers = Clock(), ["w0"], {}, {}, 0
        self.asked = []

    def health(self):
        return ""

    def order(self, what, key, lines):
        self.asked.append((what, key, lines))
        if key == "never ran":
            return None
        self.numbers += 1
        self.open[self.numbers] = True
        return self.numbers

    def ask(self, what, number, last=False):
        if number not in self.open:
            raise ValueError("the scheduler no longer knows this order")
        if last:
            del self.open[number]
        return [self.silent, self.lines, {}]


class Asking:
    """A request for the output of a task."""

    def __init__(self, view, key="k", *headers, token=None):
        self.transport = StringTransport()
        factory = view.site = getattr(view, "site", None) or site(
            scheduler_pages(view, Live(view.clock, lambda since: {})), token, None
        )
        factory.timeOut = None
        self.channel = factory.buildProtocol(None)
        self.channel.makeConnection(self.transport)
        self.channel.dataReceived("\r\n".join([f"GET /output?name={key} HTTP/1.0", *headers, "", ""]).encode())

    @property
    def answer(self):
        """(code, body); None while there is none."""
        head, _, body = self.transport.value().partition(b"\r\n\r\n")
        return (int(head.split()[1]), json.loads(body) if body.startswith(b"{") else body) if head else None


@pytest.fixture
def view():
    return View()


def test_the_request_waits_for_the_workers(view):
    asking = Asking(view)
    assert asking.answer is None and view.asked == [("output", "k", output.MAX_LINES)]
    view.silent, view.lines = [], {"w0": ["stdout: hello"]}
    view.clock.advance(output.LOOK_S)
    assert asking.answer == (200, {"lines": {"w0": ["stdout: hello"]}, "silent": []})
    assert view.open == {} and view.clock.getDelayedCalls() == []


def test_a_worker_that_does_not_answer_is_named(view):
    asking = Asking(view)
    view.clock.pump([output.LOOK_S] * int(output.PATIENCE_S / output.LOOK_S + 2))
    assert asking.answer == (200, {"lines": {}, "silent": ["w0"]})
    assert view.open == {} and view.clock.getDelayedCalls() == []


def test_a_task_that_never_ran_has_no_lines(view):
    assert Asking(view, "never%20ran").answer == (200, {"lines": None, "silent": []})


def test_few_wait_at_a_time_and_those_that_leave_make_room(view):
    asking = [Asking(view) for _ in range(output.MAX_WAITING)]
    code, said = Asking(view).answer
    assert code == 503 and "try again" in said["error"]
    asking[0].channel.connectionLost(Failure(ConnectionLost()))
    assert Asking(view).answer is None
    view.silent = []
    view.clock.advance(output.LOOK_S)
    assert [one.answer[0] for one in asking[1:]] == [200] * (output.MAX_WAITING - 1)
    assert Asking(view).answer[0] == 200 and view.clock.getDelayedCalls() == []


def test_answers_that_are_pushed_out_are_told(view):
    asking = Asking(view)
    view.open.clear()
    view.clock.advance(output.LOOK_S)
    code, said = asking.answer
    assert code == 503 and "try again" in said["error"]


def test_the_same_guards_as_for_everything_else(view):
    assert Asking(view, "k", token="secret").answer[0] == 401 and view.asked == []
    assert Asking(view, "k", "Authorization: Bearer secret").answer is None


# ---- the worker's side -----------------------------------------------------------------------------


def written(lines, key, *text, stream="stdout"):
    event = {"key": key, "stream": stream, "output": "\n".join(text), "text": "".join(text), "log_namespace": OF_TASKS}
    lines({**event, "log_format": "{key} {stream}: {text}", "log_level": LogLevel.info, "log_time": 0.0})


def test_the_lines_of_a_task_are_told_apart_whatever_it_is_called():
    lines = LogLines()
    written(lines, "a", "one", "two")
    written(lines, "a stdout: x", "not of a")
    written(lines, "0", "zero", stream="stderr")
    written(lines, "two\nlines", "x")
    lines({"log_format": "a stdout: forged", "log_level": LogLevel.info, "log_time": 0.0, "key": "a", "log_namespace": "other"})
    assert lines.last(10, "a") == ["stdout: one", "stdout: two"] and lines.last(1, "a") == ["stdout: two"]
    assert lines.last(10, "0") == ["stderr: zero"] and lines.last(10, "two\nlines") == ["stdout: x"]
    assert lines.last(10, "unknown") == [] and lines.last(10)[-1].endswith("forged")


def test_long_lines_are_cut_and_debugging_is_left_out():
    lines = LogLines()
    written(lines, "a", "x" * 10_000)
    lines({"log_format": "no", "log_level": LogLevel.debug, "log_time": 0.0})
    assert [len(line) for line in lines.last(5, "a")] == [MAX_CHARACTERS] and len(lines.last(5)) == 1
