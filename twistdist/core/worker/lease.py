"""The worker's side of heartbeats: what it sends, and how long it can be sure that it has not been given up.

A lease in the sense of Gray and Cheriton (SOSP 1989): the scheduler gives a worker up ``dead_after`` seconds after it last
heard from it, and whatever it heard was sent earlier.  So a worker that counts from the moment at which it *sent* the last
beat that the scheduler has echoed knows of its end before the scheduler does, however late messages are, and without
comparing clocks.
"""

from __future__ import annotations

from collections import deque

from twistdist.core.session import Dialer
from twistdist.wire import messages as m

#: Beats that may be in transit; older ones no longer extend the lease.
MAX_BEATS = 1000


class Lease:
    """Numbers our beats, and knows when the last one that was heard had been sent."""

    def __init__(self) -> None:
        self.number = self.heard = 0
        self.since = 0.0
        self._sent: deque[tuple[int, float]] = deque(maxlen=MAX_BEATS)

    def begin(self, now: float) -> None:
        """A new session begins with a lease, since the scheduler has just heard from us."""
        self.since = now
        self._sent.clear()

    def next_beat(self, now: float, dialer: Dialer) -> m.Beat:
        """The beat to send now, without the worker's own fields."""
        self.number += 1
        self._sent.append((self.number, now))
        return m.Beat(self.number, self.heard, dialer.session.sent)

    def echoed(self, beat: m.Beat) -> None:
        """A beat from the scheduler: our beats up to its echo have arrived."""
        self.heard = beat.number
        while self._sent and self._sent[0][0] <= beat.echo:
            self.since = self._sent.popleft()[1]

    def over(self, now: float, seconds: float) -> bool:
        """Whether the scheduler may have given us up."""
        return now - self.since >= seconds
