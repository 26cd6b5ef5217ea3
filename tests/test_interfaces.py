"""Records that queries return."""

from __future__ import annotations

from twistdist.interfaces import Story, StoryEvent


def test_a_story_reads_as_a_text():
    story = Story(
        "load-1",
        "waiting",
        inputs={"a": "done", "b": "assigned", **{f"c{number}": "ready" for number in range(12)}},
        events=[StoryEvent(12.5, "it was submitted"), StoryEvent(0.25, "its only copy was lost with w1: killed")],
    )
    assert str(story).splitlines() == [
        "load-1: waiting",
        "    12.500 s ago  it was submitted",
        "     0.250 s ago  its only copy was lost with w1: killed",
        f"it waits for b (assigned), {', '.join(f'c{number} (ready)' for number in range(9))} and 3 more",
    ]
    assert str(Story("k", "assigned", "w1")) == "k: assigned to w1"
    assert str(Story("k", "done", holders=["a", "b"])) == "k: done, its value is on a, b"
    assert str(Story("k", "failed", error="ValueError: odd")) == "k: failed\nValueError: odd"
    assert str(Story("k", "ready", lacks="it needs GPU=1")).endswith("\nno connected worker may run it: it needs GPU=1")


def test_a_story_of_a_later_version_is_understood():
    story = Story.of({"key": "k", "state": "done", "new": 1, "events": [[1.0, "it was submitted"]]})
    assert story == Story("k", "done", events=[StoryEvent(1.0, "it was submitted")])
