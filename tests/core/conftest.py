"""Every story of the scheduler ends with a look at what was said and not looked at."""

from __future__ import annotations

import pytest

from twistdist.testing.stories import Story


@pytest.fixture(autouse=True)
def no_surprises(request, monkeypatch):
    """Fails a test in whose stories something was said that the test neither looked at nor announced.

    ``@pytest.mark.says.with_args(m.Rescue, …)`` announces kinds of messages that are left at the end.
    """
    stories = []
    made = Story.__init__

    def remember(self, *args, **kwargs):
        made(self, *args, **kwargs)
        stories.append(self)

    monkeypatch.setattr(Story, "__init__", remember)
    yield
    announced = [kind for mark in request.node.iter_markers("says") for kind in mark.args]
    for story in stories:
        story.end(*announced)
