"""The dialing side of a session over one connection after another: greetings, frames, acknowledgements, silence.

The edge (``net.dialing``) and the simulator have the connections and the time; what is said over them is decided here, once.
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs

from twistdist.core.session import Dialer, Hearing
from twistdist.wire import messages as m

#: A connection is given up, and another one tried, when nothing was heard for this share of ``dead_after``.
PATIENCE = 1 / 3

#: Seconds after which an acknowledgement is sent although nothing else is.
ACK_S = 0.05


class Core(Protocol):
    """What an exchange needs of a client's or a worker's core."""

    dialer: Dialer

    def hello(self, now: float) -> Any:
        """The opening of a new session."""

    def resumed(self) -> None:
        """The session is there, a new one or the old one."""


@attrs.frozen
class Answered:
    """What follows from the scheduler's answer to a greeting: ``frames`` to send; with ``ready`` the session is there, with
    ``fresh`` a new one."""

    frames: list[m.Frame]
    ready: bool
    fresh: bool = False


class Exchange:
    """One dialing party's side.  ``core.dialer`` has the session."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._hearing = Hearing()

    @property
    def dialer(self) -> Dialer:
        return self.core.dialer

    def opened(self, now: float) -> m.Frame:
        """There is a connection: the greeting to send."""
        self._hearing.heard(now)
        return (0, 0, [self.dialer.greeting() or self.core.hello(now)])

    def answered(self, now: float, answer: Any) -> Answered:
        """The scheduler's answer to the greeting.  Raises :class:`.Fatal` when it refuses for good."""
        before = self.dialer.fresh
        again = self.dialer.greeted(answer)
        if again is None:  # it does not know the session
            return Answered([(0, 0, [self.core.hello(now)])], ready=False)
        self.core.resumed()
        return Answered(again, ready=True, fresh=self.dialer.fresh != before)

    def accept(self, frame: m.Frame) -> tuple[list[Any], list[Any]]:
        """A frame came: (what was said outside the session's numbers, the session's messages).  Raises :class:`.Gap`."""
        messages = self.dialer.session.accept(frame)
        return ([] if frame[0] else frame[2]), messages

    def heard(self, now: float) -> None:
        """Bytes came: a sign of life."""
        self._hearing.heard(now)

    def silence(self, now: float) -> float:
        """At the pace of the heartbeats: seconds of a silence for which the connection is to be given up; 0: there is none."""
        silence = self._hearing.look(now, self.dialer.beat_every)
        if silence <= self.dialer.dead_after * PATIENCE:
            return 0.0
        self._hearing.heard(now)  # of the connection that is to follow
        return silence

    def take(self) -> list[m.Frame]:
        """The frames to send now; none while there is no session over a connection."""
        return self.dialer.session.take() if self.dialer.connected else []

    def background(self, message: Any) -> m.Frame:
        """A frame for a heartbeat, outside the session's numbers."""
        return (*self.dialer.session.bare_ack()[:2], [message])

    @property
    def owes_ack(self) -> bool:
        """Whether an acknowledgement is to be sent after ``ACK_S`` seconds, unless a frame leaves before."""
        return self.dialer.connected and self.dialer.session.owes_ack

    def ack(self) -> m.Frame:
        """The acknowledgement."""
        return self.dialer.session.bare_ack()

    def lost(self) -> bool:
        """The connection is gone.  True when the session had been there."""
        was_there, self.dialer.connected = self.dialer.connected, False
        return was_there
