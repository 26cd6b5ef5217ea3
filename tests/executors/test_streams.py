"""The output of tasks, line by line, told apart by attempt."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from twistdist.executors import streams
from twistdist.executors.streams import Lines, Output, text_stream


class Pipe:
    """A pipe with the executor's side, whose attempt the test sets, and the control process's."""

    def __init__(self):
        self.read_end, write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.private = os.dup(write_end)
        self.attempt = 0
        self.output = Output(write_end, self.private, lambda: self.attempt)
        self.lines = Lines()

    def read(self, running=0):
        found = []
        try:
            while data := os.read(self.read_end, 1 << 16):
                found += self.lines.feed(data, running)
        except BlockingIOError:
            pass
        return found

    def close(self):
        for descriptor in (self.read_end, self.private, self.output.fileno()):
            os.close(descriptor)


def test_lines_belong_to_the_attempt_that_wrote_them():
    pipe = Pipe()
    stream = text_stream(pipe.output)
    pipe.attempt = 5
    stream.write("one\ntwo\n")
    pipe.output.end_task()
    pipe.attempt = 6
    stream.write("three\n")
    stream.flush()
    assert pipe.read() == [(5, "one"), (5, "two"), (6, "three")]
    pipe.close()


def test_what_is_not_marked_belongs_to_the_attempt_that_runs():
    pipe = Pipe()
    os.write(pipe.private, b"from C\n")
    assert pipe.read(running=8) == [(8, "from C")]
    pipe.close()


def test_an_unfinished_line_is_told_at_the_end():
    lines = Lines()
    assert list(lines.feed(b"no newline", 3)) == [] and list(lines.end(3)) == [(3, "no newline")]


def test_a_task_that_writes_too_much_is_cut_and_its_last_lines_are_kept():
    lines = Lines()
    line = b"x" * 99 + b"\n"
    told = list(lines.feed(line * (streams.MAX_LOGGED // 100 + 50), 1)) + list(lines.feed(b"last\n", 1))
    assert sum(len(text) + 1 for _, text in told) <= streams.MAX_LOGGED + 100
    assert lines.tail[-1] == "last" and len(lines.tail) == streams.TAIL_LINES
    (note,) = lines.feed(b"next task\n", 2)[:1] if isinstance(lines.feed(b"", 2), list) else list(lines.feed(b"next\n", 2))[:1]
    assert "not logged" in note[1]


def test_bytes_that_are_no_text_are_shown():
    assert list(Lines().feed(b"\xff\xfe\n", 1)) == [(1, "\\xff\\xfe")]


@given(st.lists(st.tuples(st.integers(1, 3), st.text(alphabet="ab \u00e9", max_size=20)), max_size=30), st.integers(1, 40))
def test_lines_come_whole_however_the_pipe_cuts_them(written, size):
    """Marks and lines in pieces of any size."""
    data, expected, last = b"", [], 0
    for attempt, text in written:
        if attempt != last:
            data += b"\0\x1e%016x\n" % attempt
            last = attempt
        data += text.encode() + b"\n"
        expected.append((attempt, text))
    lines, told = Lines(), []
    for at in range(0, len(data), size):
        told += lines.feed(data[at : at + size], 99)
    assert told + list(lines.end(99)) == expected
