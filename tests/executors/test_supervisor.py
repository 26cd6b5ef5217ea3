"""The supervisor's edges, with a clock."""

from __future__ import annotations

import os
import signal
import socket

import msgspec
import pytest
from twisted.internet.task import Clock

from twistdist.executors.supervisor import (
    PRELOAD_S,
    TEMPLATE_PATIENCE_S,
    TEMPLATE_PAUSE_S,
    THREAD_COUNTS,
    TURN_S,
    Supervisor,
    TaskService,
    thread_counts,
)


class Template:
    killed, pid = False, 0

    def kill(self):
        self.killed = True


def test_a_template_is_given_its_time_for_each_answer(tmp_path):
    """Once the patience for one answer was counted on for the next, and a busy template was replaced."""
    clock = Clock()
    supervisor = Supervisor(clock, str(tmp_path), 4, None, TaskService("w", "tcp:x:1", b""))
    template = supervisor._template = Template()
    supervisor._expect_template()
    clock.advance(TEMPLATE_PATIENCE_S - 0.1)
    supervisor._template_owes = False  # it has answered
    supervisor._expect_template()
    clock.advance(0.2)
    assert not template.killed
    clock.advance(TEMPLATE_PATIENCE_S)
    assert template.killed
    supervisor._stopped = True
    assert not [call for call in clock.getDelayedCalls() if call.active()]


def test_a_template_that_waits_for_its_turn_is_not_stuck(tmp_path, monkeypatch):
    """With 200 workers on two processors none had answered within the patience, and all were replaced, again and again."""
    states = ["R"]
    monkeypatch.setattr("twistdist.executors.supervisor.state_of", lambda pid: states[-1])
    for states[-1], patience in (("R", TURN_S), ("T", TEMPLATE_PATIENCE_S), ("S", TEMPLATE_PATIENCE_S)):
        clock = Clock()
        supervisor = Supervisor(clock, str(tmp_path), 4, None, TaskService("w", "tcp:x:1", b""))
        template = supervisor._template = Template()
        supervisor._expect_template()
        clock.pump([0.5] * int(2 * patience - 1))
        assert not template.killed
        clock.pump([0.5] * 4)
        assert template.killed


class Importing:
    """A template in whose place the test speaks."""

    def __init__(self, command, *, pass_fds, **_):
        self.control = socket.socket(fileno=os.dup(pass_fds[0]))
        self.pid = 0

    def dies(self):
        self.control.close()

    def wait(self, timeout=None):
        assert self.control.fileno() < 0  # it would block
        return -signal.SIGKILL


class Preloads:
    """A supervisor that preloads, with a clock, and the ``templates`` that it has started; ``told`` what its listener heard."""

    def __init__(self, path, monkeypatch):
        self.clock, self.templates, self.told = Clock(), [], []
        self.clock.addReader = self.clock.removeReader = lambda reader: None
        monkeypatch.setattr("twistdist.executors.supervisor.subprocess.Popen", self.popen)
        monkeypatch.setattr("twistdist.executors.supervisor.kill_all", lambda pid: self.templates[-1].dies())
        self.supervisor = Supervisor(self.clock, str(path), 4, self, TaskService("w", "tcp:x:1", b""), ["a", "b"])
        self.supervisor.start()

    def popen(self, *args, **options):
        self.templates.append(Importing(*args, **options))
        return self.templates[-1]

    def preloaded(self, error, first):
        self.told.append((error, first))

    def says(self, error):
        self.templates[-1].control.send(msgspec.msgpack.encode(("preloaded", 0, 0, error)))
        self.reads()

    def reads(self):
        """The supervisor reads what there is, and in its next turn perhaps that the template is gone."""
        self.supervisor._template_says()
        if self.supervisor._control is not None and self.templates[-1].control.fileno() < 0:
            self.supervisor._template_says()

    def ends(self):
        self.templates[-1].dies()
        self.supervisor.stop()
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def preloads(tmp_path, monkeypatch):
    made = Preloads(tmp_path, monkeypatch)
    yield made
    made.ends()


def test_a_first_template_that_can_not_import_is_the_last(preloads):
    preloads.says("a can't be imported")
    preloads.clock.advance(PRELOAD_S)
    assert preloads.told == [("a can't be imported", True)] and len(preloads.templates) == 1


def test_a_first_template_that_hangs_in_the_import_is_the_last(preloads):
    preloads.clock.advance(PRELOAD_S)
    preloads.reads()
    preloads.clock.advance(PRELOAD_S)
    assert preloads.told == [(f"a, b took longer than {PRELOAD_S:g} s", True)] and len(preloads.templates) == 1


def test_a_later_template_that_can_not_import_is_replaced_ever_later(preloads):
    """Once that ended a worker that had joined and held results."""
    preloads.says("")
    preloads.templates[-1].dies()
    preloads.reads()
    assert preloads.told == [("", True)]
    for pause in (1, 2, 4):  # each is lost once more
        preloads.clock.advance(pause * TEMPLATE_PAUSE_S - 0.01)
        begun = len(preloads.templates)
        preloads.clock.advance(0.02)
        assert len(preloads.templates) == begun + 1
        preloads.says("b can't be imported")
        assert preloads.told.pop() == ("b can't be imported", False)
    preloads.clock.advance(10.0)
    preloads.says("")
    assert preloads.told == [("", True), ("", False)]


def test_a_later_template_that_hangs_in_the_import_is_replaced(preloads):
    """Once nobody watched it, and the worker's tasks waited for good."""
    preloads.says("")
    preloads.templates[-1].dies()
    preloads.reads()
    preloads.clock.advance(1.0)
    preloads.clock.advance(PRELOAD_S)
    preloads.reads()
    assert preloads.told[1:] == [(f"a, b took longer than {PRELOAD_S:g} s", False)]
    preloads.clock.advance(1.0)
    preloads.templates[-1].dies()  # in the import
    preloads.reads()
    ((text, first),) = preloads.told[2:]
    assert text == "the process that imports a, b died: SIGKILL (Killed)" and not first
    preloads.clock.advance(1.0)
    assert len(preloads.templates) == 4


def test_libraries_use_one_thread_where_the_user_says_nothing():
    assert thread_counts({}) == dict.fromkeys(THREAD_COUNTS, "1")


def test_a_count_that_the_user_has_set_is_not_overruled_by_a_more_special_one():
    """Once OPENBLAS_NUM_THREADS=1 stood beside the user's OMP_NUM_THREADS=2, and won."""
    assert set(thread_counts({"OMP_NUM_THREADS": "2"})) == {"NUMBA_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"}
    assert set(thread_counts({"GOTO_NUM_THREADS": "2"})) == set(THREAD_COUNTS) - {"OPENBLAS_NUM_THREADS"}
    assert set(thread_counts({"MKL_NUM_THREADS": "2"})) == set(THREAD_COUNTS) - {"MKL_NUM_THREADS"}
