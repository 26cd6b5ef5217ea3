"""What a report has in it, from snapshots that are written by hand."""

from __future__ import annotations

import pytest

from twistdist.web import collected as collected_module
from twistdist.web.collected import OTHERS, Collected


def snapshot(now=10.0, epoch=1, **fields):
    spans, transfers, incidents = (fields.pop(name, []) for name in ("spans", "transfers", "incidents"))
    return {
        "now": now,
        "since": now,
        "epoch": epoch,
        "counters": dict.fromkeys(("submitted", "done", "failed", "replays", "reruns", "stale"), 0),
        "workers": {"w0": {"slots": 1}},
        "functions": [],
        "groups": [],
        "spans": spans,
        "spans_in_all": len(spans),
        "transfers": transfers,
        "transfers_in_all": len(transfers),
        "incidents": incidents,
        "incidents_in_all": len(incidents),
        "tasks": {},
        **fields,
    }


def span(end, us=1000, kind="run", key="k"):
    return [end, us, "w0", "f", 1, kind, key]


def incident(at, **fields):
    return {"at": at, "kind": "worker lost", "what": "w0", "cause": "killed", "replayed": 0, "key": "", **fields}


def counters(done):
    return dict.fromkeys(("submitted", "failed", "replays", "reruns", "stale"), 0) | {"done": done}


def test_a_recording_has_what_came_after_its_beginning():
    all_of = Collected()
    all_of.begin(snapshot(10.0, functions=[["f", 0, 5, 1, 0, 100]], spans_in_all=7, counters=counters(5)), 1010.0)
    functions = [["f", 3, 7, 1, 1, 150], ["g", 0, 1, 0, 0, 9], ["idle", 4, 0, 0, 0, 0]]
    all_of.take(snapshot(12.0, functions=functions, spans=[span(11.5)], spans_in_all=8, counters=counters(8)), 1012.0)
    data = all_of.data()
    assert data["functions"] == [["f", 2, 0, 1, 50], ["g", 1, 0, 0, 9]] and data["counters"]["done"] == 3
    assert data["snapshot"]["spans"] == [span(1011.5)] and data["dropped"]["spans"] == 0
    assert data["snapshot"]["now"] == 1012.0 and all_of.question()[0] == 12.0


def test_spans_that_the_scheduler_forgot_in_between_are_counted():
    all_of = Collected()
    all_of.begin(snapshot(10.0, spans_in_all=7), 10.0)
    all_of.take(snapshot(11.0, spans=[span(10.9)], spans_in_all=28), 11.0)
    all_of.take(snapshot(12.0, transfers=[[11.5, 1, "w0", "w1", 1, 1, "k"]], spans_in_all=28, transfers_in_all=4), 12.0)
    assert all_of.dropped == {"spans": 20, "short": 0, "transfers": 3, "incidents": 0}


def test_a_restarted_scheduler_has_a_clock_and_sums_of_its_own():
    all_of = Collected()
    all_of.begin(snapshot(500.0), 1000.0)
    all_of.take(snapshot(501.0, functions=[["f", 0, 2, 0, 0, 20]], spans=[span(500.5)], counters=counters(2)), 1001.0)
    all_of.take(snapshot(3.0, 2, functions=[["f", 0, 3, 0, 0, 30]], spans=[span(2.5)], counters=counters(3)), 1010.0)
    data = all_of.data()
    assert [row[0] for row in data["snapshot"]["spans"]] == [1000.5, 1009.5]
    assert data["functions"] == [["f", 5, 0, 0, 50]] and data["counters"]["done"] == 5
    assert data["lives"] == [[1, 1001.0], [2, 1010.0]]


def test_sums_that_begin_again_are_added():
    """The scheduler keeps the sums of few names, and may have dropped one and begun again."""
    all_of = Collected()
    all_of.begin(snapshot(functions=[["f", 0, 9, 0, 0, 90]]), 10.0)
    all_of.take(snapshot(11.0, functions=[["f", 0, 2, 0, 0, 20]]), 11.0)
    assert all_of.data()["functions"] == [["f", 2, 0, 0, 20]]


def test_an_incident_has_what_it_cost_in_the_end():
    all_of = Collected()
    all_of.begin(snapshot(10.0, incidents_in_all=5), 10.0)
    all_of.take(snapshot(11.0, incidents=[incident(10.5)], incidents_in_all=6), 11.0)
    assert all_of.question()[2] == 10.0, "those of this recording are told again"
    all_of.take(snapshot(12.0, incidents=[incident(10.5, replayed=7), incident(11.5)], incidents_in_all=9), 12.0)
    told = all_of.data()["snapshot"]["incidents"]
    assert [(one["at"], one["replayed"]) for one in told] == [(10.5, 7), (11.5, 0)]
    assert all_of.dropped["incidents"] == 2
    all_of.take(snapshot(1000.0, incidents_in_all=9), 1000.0)
    assert all_of.question()[2] == 400.0 and all_of.dropped["incidents"] == 2


def test_of_too_many_spans_short_ones_that_went_well_are_left_out(monkeypatch):
    monkeypatch.setattr(collected_module, "MAX_SPANS", 40)
    all_of = Collected()
    for number in range(100):
        kind = "failed" if number % 10 == 0 else "run"
        all_of.take(
            snapshot(
                number + 1.0, spans=[span(float(number), us=number if kind == "run" else 0, kind=kind)], spans_in_all=number + 1
            ),
            1.0,
        )
    spans = all_of.data()["snapshot"]["spans"]
    assert len(spans) <= 40 and len(spans) + all_of.dropped["short"] == 100
    assert sum(row[5] == "failed" for row in spans) == 10 and [row[0] for row in spans] == sorted(row[0] for row in spans)
    assert min(row[1] for row in spans if row[5] == "run") > 50


def test_everything_is_bounded(monkeypatch):
    for name in ("MAX_NAMES", "MAX_WORKERS", "MAX_TRANSFERS", "MAX_INCIDENTS", "MAX_STORIES"):
        monkeypatch.setattr(collected_module, name, 5)
    all_of = Collected()
    for number in range(20):
        fields = {
            "workers": {f"w{number}": {"slots": 1}},
            "functions": [[f"f{number}", 0, 1, 0, 0, 10]],
            "transfers": [[float(number), 1, "w0", "w1", 1, 1, "k"]],
            "transfers_in_all": number + 1,
            "incidents": [incident(float(number), key=f"i{number}")],
            "incidents_in_all": number + 1,
        }
        all_of.take(snapshot(number + 1.0, **fields), 1.0)
    data = all_of.data()
    assert len(data["workers"]) == len(data["snapshot"]["transfers"]) == len(data["snapshot"]["incidents"]) == 5
    assert len(data["functions"]) == 6 and [OTHERS, 15, 0, 0, 150] in data["functions"]
    assert len(all_of.to_tell) == 5 and data["dropped"]["transfers"] == data["dropped"]["incidents"] == 15


def test_failures_are_told_rather_than_replays(monkeypatch):
    monkeypatch.setattr(collected_module, "MAX_STORIES", 3)
    all_of = Collected()
    all_of.take(
        snapshot(spans=[span(1.0, kind="again", key=f"a{n}") for n in range(3)] + [span(1.0, kind="failed", key="bad")]), 10.0
    )
    assert "bad" in all_of.to_tell and len(all_of.to_tell) == 3
    all_of.take(snapshot(11.0, incidents=[incident(11.0, key="crashed")]), 11.0)
    assert {"bad", "crashed"} < set(all_of.to_tell) and len(all_of.to_tell) == 3
    all_of.take(snapshot(12.0, spans=[span(11.5, kind="again", key="a9")], spans_in_all=5), 12.0)
    assert "a9" not in all_of.to_tell


def test_a_story_goes_on_over_a_restart():
    all_of = Collected()
    story = {
        "error": "ValueError",
        "traceback": "File …",
        "crashes": [],
        "ran_on": ["w0"],
        "events": [[2.0, "it was submitted"]],
    }
    all_of.begin(snapshot(), 10.0)
    all_of.tell("k", story, 100.0)
    all_of.tell("k", story, 101.0)
    all_of.take(snapshot(1.0, 2), 200.0)
    later = {"error": "ValueError", "traceback": "", "crashes": [], "ran_on": [], "events": [[1.0, "it was read"]]}
    for wall in (201.0, 202.0):
        all_of.tell("k", later, wall)
    told = all_of.data()["stories"]["k"]["story"]
    assert told["events"] == [[99.0, "it was submitted"], [201.0, "it was read"]]
    assert told["traceback"] == "File …" and told["ran_on"] == ["w0"]


@pytest.mark.parametrize("now", [0.0, 1e9])
def test_a_report_has_everything_that_is_remembered(now):
    all_of = Collected()
    assert all_of.question() == [None, collected_module.MAX_NAMES, None]
    all_of.take(snapshot(now, spans=[span(now)], spans_in_all=11, functions=[["f", 0, 5, 1, 0, 100]]), 5.0)
    assert all_of.dropped["spans"] == 10 and all_of.data()["functions"] == [["f", 5, 1, 0, 100]]
