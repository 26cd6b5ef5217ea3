"""Frames of ``twistdist top``: what is known, what fits, and what never reaches the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from twistdist.display import printable
from twistdist.top.model import Model
from twistdist.top.view import frame, share

EVIL = "evil\x1b]0;title\x07\x1b[2J\r\n\x9b31m\u202e[red]"


def snapshot(now=100.0, epoch=7, done=0, **more):
    worker = {"state": "connected", "slots": 2, "running": 1, "queued": 3, "memory": 5 << 20, "last_seen": 0.2, "troubles": []}
    return {
        "now": now,
        "epoch": epoch,
        "since": now,
        "tasks": {"ready": 3, "done": done, "failed": 1},
        "counters": {"submitted": 9, "done": done, "failed": 1, "replays": 2, "reruns": 0, "recalls": 0, "stale": 0},
        "workers": {"a": worker, EVIL: {**worker, "state": "suspect", "troubles": [EVIL]}},
        "functions": [[EVIL, 3, done, 1, 2, 5_000_000], ["load", 0, 4, 0, 0, 1000]],
        "groups": [[f"group {EVIL}", 3, 1, 0, 0, 5]],
        "spans": [[now, 5, "a", "load", 1, "crashed", f"key {EVIL}"]],
        "incidents": [{"at": now - 1, "kind": "executor died", "what": EVIL, "cause": EVIL, "requeued": 0}],
        "journal": {"state": "failing", "error": EVIL},
        "sessions": {"connected": 2, "away": 1, "durable": {EVIL: 4}},
        "lacks": {EVIL: 2},
        "recovering": None,
        **more,
    }


def drawn(model, width=120, height=40, **more):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor", legacy_windows=False)
    console.print(frame(model, EVIL, 1000.0, width, height, **more))
    return console.file.getvalue()


@pytest.fixture
def model():
    model = Model()
    model.take(snapshot(), 1000.0)
    return model


def test_the_throughput_is_what_was_done_between_two_snapshots(model):
    assert not model.rates and "not measured yet" in drawn(model)
    model.take(snapshot(102.0, done=50), 1002.0)
    assert list(model.rates) == [25.0] and "25 a second" in drawn(model)


def test_a_restarted_scheduler_begins_again_and_what_was_seen_is_kept(model):
    model.take(snapshot(102.0, done=50), 1002.0)
    other = snapshot(3.0, epoch=8, done=1)
    assert model.is_of_another_life(other)
    model.take(other, 1003.0)
    assert not model.rates and model.restarted == 1003.0 and [at for at, _ in model.incidents] == [1002.0, 1001.0, 999.0]
    model.take(snapshot(4.0, epoch=8, done=3), 1004.0)
    assert list(model.rates) == [2.0]
    assert "restarted" in drawn(model)


@pytest.mark.parametrize("width", [20, 40, 63, 64, 99, 100, 300])
@pytest.mark.parametrize("height", [1, 8, 12, 24, 60])
def test_a_frame_fits_and_holds_nothing_that_a_terminal_obeys(model, width, height):
    model.take(snapshot(102.0, done=50), 1002.0)
    text = drawn(model, width, height, trouble="no answer")
    lines = text.splitlines()
    assert len(lines) <= max(height, 12)  # what is not a table is always made; the terminal cuts it
    bare = text
    for code in set(re.findall(r"\x1b\[[0-9;]*m", text)):  # rich's own colours
        bare = bare.replace(code, "")
    assert all(c.isprintable() for c in bare.replace("\n", ""))
    assert all(len(line) <= width for line in bare.splitlines())


def test_what_needs_attention_comes_first(model):
    found = model.attention(1000.0)
    assert "journal" in found[0] and "suspect" in found[1] and "can run nowhere" in found[2]
    assert found[3].startswith("1 task failed, the last one is key evil") and found[4] == "1 incident in the last 5 minutes"
    calm = snapshot(now=101.0, workers={}, tasks={}, lacks={}, journal={"state": "none"}, incidents=[], recovering=[])
    model.take(calm, 9000.0)
    assert model.attention(9000.0) == ["the scheduler waits for workers to come back: none", "no worker is connected"]


def test_lines_are_shared_fairly():
    assert share(20, [3, 0, 2, 1]) == [3, 0, 2, 1]
    assert share(8, [100, 100]) == [3, 3]
    assert share(9, [1, 100]) == [1, 6]
    assert share(3, [5, 5]) == [2, 0] and share(1, [5]) == [0] and share(-5, [5]) == [0]


def test_printable_shows_what_it_does_not_let_through():
    assert printable("größe-1 ✓") == "größe-1 ✓"
    assert printable("\x1b[2J\x07\u202e\udc80") == "\\x1b[2J\\x07\\u202e\\udc80"
