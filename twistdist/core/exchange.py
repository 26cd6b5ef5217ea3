"""The dialing side of a session over successive connections: greetings, frames, acknowledgements, silence.

The edge (``net.dialing``) and the simulator provide connections and time; what is sent over them is decided here, once.
"""

from __future__ import annotations

from typing import Any, Protocol

import attrs

from twistdist.core.session import Dialer, Hearing
from twistdist.wire import messages as m

#: Another connection is tried beside one over which nothing was received for this share of ``dead_after``.
PATIENCE = 1 / 3

#: Seconds after which an acknowledgement is sent by itself, if no other frame has carried it.
ACK_S = 0.05


class Core(Protocol):
    """What an exchange needs from a client's or a worker's core."""

    dialer: Dialer

    def hello(self, now: float) -> Any:
        """The opening message of a new session."""

    def resumed(self) -> None:
        """A session is established, a new one or the old one."""


@attrs.frozen
class Answered:
    """What follows from the scheduler's answer to a greeting: ``frames`` to send; ``ready``: the session is established;
    ``fresh``: it is a new one."""

    frames: list[m.Frame]
    ready: bool
    fresh: bool = False


class Exchange:
    """The dialing side's end.  ``core.dialer`` has the session."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._hearing = Hearing()

    @property
    def dialer(self) -> Dialer:
        return self.core.dialer

    def opened(self, now: float) -> m.Frame:
        """A connection was made.  Return the greeting to send."""
        self._hearing.heard(now)
        return (0, 0, [self.dialer.greeting() or self.core.hello(now)])

    def answered(self, now: float, answer: Any) -> Answered:
        """The scheduler has answered the greeting.  Raises :class:`.Fatal` if it refuses permanently."""
        before = self.dialer.fresh
        again = self.dialer.greeted(answer)
        if again is None:  # it does not know the session
            return Answered([(0, 0, [self.core.hello(now)])], ready=False)
        self.core.resumed()
        return Answered(again, ready=True, fresh=self.dialer.fresh != before)

    def accept(self, frame: m.Frame) -> tuple[list[Any], list[Any]]:
        """A frame arrived.  Return (messages outside the numbered frames, the session's messages).  Raises :class:`.Gap`."""
        messages = self.dialer.session.accept(frame)
        return ([] if frame[0] else frame[2]), messages

    def heard(self, now: float) -> None:
        """Bytes arrived: a sign of life."""
        self._hearing.heard(now)

    def look(self, now: float) -> float:
        """Call once per heartbeat.  Return the seconds of silence, without the time by which the call itself was late."""
        return self._hearing.look(now, self.dialer.beat_every)

    def is_silent(self, now: float) -> bool:
        """Whether the silence has lasted for so long that another connection should be tried."""
        return self._hearing.silence(now) > self.dialer.dead_after * PATIENCE

    def take(self) -> list[m.Frame]:
        """The frames to send now; none while no session is established over a connection."""
        return self.dialer.session.take() if self.dialer.connected else []

    def background(self, message: Any) -> m.Frame:
        """A frame for a heartbeat, outside the numbered frames."""
        return (*self.dialer.session.bare_ack()[:2], [message])

    @property
    def owes_ack(self) -> bool:
        """Whether an acknowledgement must be sent after ``ACK_S`` seconds, unless a frame is sent before."""
        return self.dialer.connected and self.dialer.session.owes_ack

    def ack(self) -> m.Frame:
        """The acknowledgement."""
        return self.dialer.session.bare_ack()

    def lost(self) -> bool:
        """The connection was lost.  Return True if the session had been established."""
        was_there, self.dialer.connected = self.dialer.connected, False
        return was_there
