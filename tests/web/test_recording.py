"""Recordings of a scheduler that answers when the test says so."""

from __future__ import annotations

import json
import os
import re

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from tests.web.test_collected import incident, snapshot, span
from twistdist.errors import ClientClosed, TwistdistError
from twistdist.web import recording as recording_module
from twistdist.web.recording import LAST_S, POLL_S, Recording, report

STORY = {"key": "k", "state": "failed", "error": "ValueError: bad", "crashes": [], "ran_on": ["w0"]}
STORY["events"] = [[1.0, "it failed"]]

NOTHING = {"spans": [], "transfers": [], "incidents": []}


class Session:
    """A client whose scheduler tells what is in ``snapshots``, the last one again and again."""

    address = "tcp:scheduler:8786"

    def __init__(self):
        self.reactor = Clock()
        self.reactor.getThreadPool = lambda: None
        self.snapshots = [snapshot(10.0, tasks={"failed": 1}, journal={"state": "ok"}, versions="v", hosts=[])]
        self.asked, self.trouble, self.hangs = [], None, False
        self.answers = {"why": STORY, "lineage": [["k", "f", "failed", [], []]]}
        self.answers |= {"output": 7, "broadcast": [[], {"w0": ["stdout: x"]}, {}]}

    def tell(self, now, **fields):
        self.snapshots.append({**self.snapshots[-1], **NOTHING, "now": now, "since": now, **fields})

    def _query(self, what, *args):
        self.asked.append((what, *args))
        if self.hangs:
            return Deferred()
        if self.trouble is not None:
            return fail(self.trouble)
        if what == "snapshot":
            first = self.asked_for("snapshot") == [list(args)]
            if not first and len(self.snapshots) > 1:
                del self.snapshots[0]
            found = self.snapshots[0]
            return succeed({**found, **NOTHING} if args[0] == found["since"] else found)
        return succeed(self.answers[what])

    def asked_for(self, what):
        return [args for asked, *args in self.asked if asked == what]


@pytest.fixture(autouse=True)
def no_threads(monkeypatch):
    def at_once(reactor, pool, function, *args):
        try:
            return succeed(function(*args))
        except OSError as error:
            return fail(error)

    monkeypatch.setattr(recording_module, "deferToThreadPool", at_once)


@pytest.fixture
def session():
    return Session()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.html")


def data_of(path):
    with open(path) as stream:
        return json.loads(re.search(r'id="data">(.*?)</script>', stream.read())[1])


def result_of(deferred):
    found = []
    deferred.addBoth(found.append)
    assert found, "it has not fired"
    return found[0]


def begun(session, path):
    recording = Recording(session, path)
    assert result_of(recording.start()) is recording
    return recording


def test_a_recording_has_what_happened_between_start_and_stop(session, path):
    recording = begun(session, path)
    assert session.asked_for("snapshot") == [[float("inf"), recording_module.MAX_NAMES, None]]
    session.tell(11.0, spans=[span(10.5)], spans_in_all=1)
    session.reactor.advance(POLL_S)
    session.tell(12.0, spans=[span(11.5, kind="failed")], spans_in_all=2)
    assert result_of(recording.stop()) == path
    data = data_of(path)
    assert len(data["snapshot"]["spans"]) == 2 and data["recorded"] and data["error"] == "" and data["notes"] == []
    assert session.asked_for("snapshot")[1][0] == 10.0 and session.asked_for("snapshot")[2][0] == 11.0
    assert data["stories"]["k"]["output"]["lines"] == {"w0": ["stdout: x"]} and len(data["stories"]["k"]["lineage"]) == 1
    assert data["address"] == session.address and "Python" in data["versions"]
    assert session.reactor.getDelayedCalls() == []


def test_what_failed_is_asked_about_at_once_since_it_may_be_forgotten(session, path):
    recording = begun(session, path)
    session.tell(11.0, spans=[span(10.5, kind="failed")], spans_in_all=1)
    session.reactor.advance(POLL_S)
    assert session.asked_for("why") == [["k"]] and session.asked_for("output") == [["k", recording_module.LINES]]
    session.answers["why"] = session.answers["lineage"] = None
    result_of(recording.stop())
    assert data_of(path)["stories"]["k"]["story"]["error"] == "ValueError: bad"


def test_a_silent_worker_keeps_no_snapshot_waiting(session, path):
    recording = begun(session, path)
    session.answers["broadcast"] = [["w0"], {}, {}]
    session.tell(11.0, spans=[span(10.5, kind="failed")], spans_in_all=1)
    for _ in range(4):
        session.reactor.advance(POLL_S)
    assert len(session.asked_for("snapshot")) == 5 and len(session.asked_for("output")) == 1
    stopped = recording.stop()
    session.reactor.pump([recording_module.LOOK_S] * 200)
    assert result_of(stopped) == path and data_of(path)["stories"]["k"]["output"]["silent"] == ["w0"]
    assert session.reactor.getDelayedCalls() == []


def test_a_restarted_scheduler_is_asked_for_everything_it_remembers(session, path):
    recording = begun(session, path)
    session.tell(2.0, epoch=2, spans=[], incidents=[incident(1.0)], incidents_in_all=1, spans_in_all=1)
    session.tell(2.1, epoch=2, spans=[span(1.5)], incidents=[incident(1.0)])
    session.reactor.advance(POLL_S)
    assert session.asked_for("snapshot")[1:] == [[10.0, 2000, 10.0], [None, 2000, None]]
    result_of(recording.stop())
    data = data_of(path)
    assert len(data["lives"]) == 2 and len(data["snapshot"]["spans"]) == 1 and len(data["snapshot"]["incidents"]) == 1


def test_a_question_that_a_restart_has_swallowed_is_asked_again(session, path):
    recording = begun(session, path)
    session.trouble = TwistdistError("the scheduler was restarted before it answered; ask again")
    session.reactor.advance(POLL_S)
    session.trouble = None
    session.tell(12.0, spans=[span(11.5)], spans_in_all=1)
    session.reactor.advance(POLL_S)
    result_of(recording.stop())
    assert len(data_of(path)["snapshot"]["spans"]) == 1 and data_of(path)["notes"] == []


@pytest.mark.parametrize("in_poll", [False, True])
def test_a_scheduler_that_does_not_answer_at_the_end_is_not_waited_for_forever(session, path, in_poll):
    recording = begun(session, path)
    session.hangs = True
    if in_poll:
        session.reactor.advance(POLL_S)
    stopped = recording.stop()
    session.reactor.advance(LAST_S)
    assert result_of(stopped) == path and "did not answer" in data_of(path)["notes"][0]
    assert session.reactor.getDelayedCalls() == []


def test_a_client_that_is_closed_in_the_block_leaves_what_is_known(session, path):
    recording = begun(session, path)
    session.trouble = ClientClosed("this client was closed")
    session.reactor.advance(POLL_S)
    assert result_of(recording.stop()) == path and data_of(path)["notes"] == ["this client was closed"]


def test_stories_that_take_too_long_are_left_out(session, path):
    session.snapshots[0]["spans"] = [span(9.0, kind="failed")]
    session.answers["why"] = None
    hanging = Session()
    hanging.snapshots, hanging.reactor = session.snapshots, session.reactor
    answer = hanging._query
    hanging._query = lambda what, *args: Deferred() if what == "why" else answer(what, *args)
    written = report(hanging, path)
    session.reactor.advance(recording_module.DETAILS_S)
    assert (
        result_of(written) == path and "too long" in data_of(path)["notes"][0] and len(data_of(path)["snapshot"]["spans"]) == 1
    )


def test_a_slow_scheduler_is_asked_less_often(session, path):
    recording = begun(session, path)
    waiting = []
    answer = session._query
    session._query = lambda what, *args: waiting.append(Deferred()) or waiting[-1]
    session.reactor.advance(POLL_S)
    session.reactor.advance(0.05)
    session._query = answer
    waiting[0].callback(session.snapshots[0])
    [call] = session.reactor.getDelayedCalls()
    assert call.getTime() - session.reactor.seconds() == pytest.approx(1.0)
    result_of(recording.stop())


def test_the_error_that_ended_the_block_is_in_the_report(session, path):
    recording = begun(session, path)
    result_of(recording.stop(KeyError("\ud800</script>")))
    assert data_of(path)["error"] == "KeyError: '\\ud800</script>'"


def test_a_recording_is_used_once_and_in_order(session, path):
    with pytest.raises(TwistdistError, match="not begun"):
        Recording(session, path).stop()
    recording = begun(session, path)
    with pytest.raises(TwistdistError, match="once"):
        recording.start()
    result_of(recording.stop())
    with pytest.raises(TwistdistError, match="has ended"):
        recording.stop()


def test_a_path_that_can_not_be_written_is_refused_before_anything_is_asked(session, tmp_path):
    for make in (lambda where: Recording(session, where), lambda where: report(session, where)):
        with pytest.raises(FileNotFoundError, match="create it first"):
            make(tmp_path / "nowhere" / "run.html")
    assert session.asked == []


def test_a_folder_that_disappears_in_the_block_hides_no_error_of_the_block(session, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()

    async def work():
        async with Recording(session, folder / "run.html"):
            os.rmdir(folder)
            raise KeyError("the error of the block")

    with pytest.warns(RuntimeWarning, match="no report was written: .*run.html"):
        failure = result_of(Deferred.fromCoroutine(work()))
    assert failure.check(KeyError)
