"""What happened to a task that was out of the ordinary, in order and with times: the material of ``client.why``."""

from __future__ import annotations

from collections import deque

import attrs

from twistdist.core.scheduler.records import Event, Task

#: Events of a task that are kept; of a task with more, the first ones are dropped.
MAX_EVENTS = 100

#: Characters of an event's text.
MAX_TEXT = 500


@attrs.define(eq=False)
class Timeline:
    """Owns ``Task.events`` and ``made``.  ``now`` is the time of the event that is being handled.

    An ordinary task has no events: its times are in ``Task.since``, ``given_at`` and ``made``.
    """

    now: float = 0.0

    def note(self, task: Task, text: str) -> None:
        """Something out of the ordinary happened to the task."""
        if task.events is None:
            task.events = deque(maxlen=MAX_EVENTS)
        if task.made is not None:  # this came before
            task.events.append(computed(task.made))
            task.made = None
        task.events.append(Event(self.now, text[:MAX_TEXT]))

    @staticmethod
    def computed(task: Task, at: float, worker: str, us: int) -> None:
        """The worker has computed the task's value, in ``us`` microseconds."""
        task.made = (at, worker, us)


def computed(made: tuple[float, str, int]) -> Event:
    """The event of a value that was computed."""
    at, worker, us = made
    return Event(at, f"{worker} computed its value in {us / 1e6:.3g} s")
