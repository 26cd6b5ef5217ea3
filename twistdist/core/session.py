"""A session: messages in order, once, over connections that break and are replaced.

Rules.  Frames are numbered from 1 in each direction.  A frame is kept until the other side has acknowledged it.  A frame
with the number expected next is accepted; one with a smaller number is a repetition and is dropped; one with a larger
number means that something is missing, and :class:`Gap` tells the edge to close the connection, which leads to a resume.
Number 0 is outside the numbered frames: greetings and bare acknowledgements.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import attrs

from twistdist.wire import messages as m

#: Messages and weight (bytes, given for heavy messages only) after which a frame is closed and the next one begun.  A frame is
#: one event of the scheduler, in which nobody else is served: some milliseconds.
FRAME_MESSAGES = 512
FRAME_WEIGHT = 4 << 20

#: Weight of each entry of a message with many: a frame has at most 512 of them.
ENTRY_WEIGHT = FRAME_WEIGHT // FRAME_MESSAGES

#: Number of received frames after which an acknowledgement is owed at once rather than soon.
ACK_AFTER = 32


#: Interval between a worker's heartbeats, as a share of ``suspect_after``: one may be late.
BEATS = 0.4


class Gap(Exception):
    """A frame before the one that arrived is missing."""


@attrs.define(eq=False)
class Session:
    """One side of a session.  ``post`` messages, ``take`` frames to send, ``accept`` frames that arrived.

    ``delivered`` is the last of our frames that the other side has acknowledged.  Received frames are acknowledged up to
    ``safe``, which may lag behind ``received`` if they must be durable first; None if they need not be.
    """

    sent: int = 0
    received: int = 0
    acknowledged: int = 0
    repeated: int = 0
    delivered: int = 0
    safe: int | None = None
    _unacked: deque[m.Frame] = attrs.field(factory=deque)
    _queue: list[list[Any]] = attrs.field(factory=lambda: [[]])
    _weight: int = 0

    def post(self, message: Any, weight: int = 0) -> None:
        """Queue a message; ``weight`` is its size in bytes if that is more than a few KiB."""
        last = self._queue[-1]
        if len(last) >= FRAME_MESSAGES or (last and self._weight + weight > FRAME_WEIGHT):
            last = []
            self._queue.append(last)
            self._weight = 0
        last.append(message)
        self._weight += weight

    @property
    def waiting(self) -> bool:
        """Whether something is queued that is not in a frame yet."""
        return bool(self._queue[0])

    @property
    def owes_ack(self) -> bool:
        """Whether received frames may be acknowledged and have not been."""
        return self.sure > self.acknowledged

    @property
    def sure(self) -> int:
        """The last received frame that may be acknowledged."""
        return self.received if self.safe is None else self.safe

    def _ack(self) -> int:
        self.acknowledged = self.sure
        return self.acknowledged

    def take(self) -> list[m.Frame]:
        """The frames to send now: what was posted, or a bare acknowledgement when many are owed."""
        if self._queue[0]:
            frames, ack = [], self._ack()
            for batch in self._queue:
                self.sent += 1
                frames.append((self.sent, ack, batch))
            self._unacked.extend(frames)
            self._queue, self._weight = [[]], 0
            return frames
        if self.sure - self.acknowledged >= ACK_AFTER:
            return [self.bare_ack()]
        return []

    def bare_ack(self) -> m.Frame:
        """An acknowledgement without messages."""
        return (0, self._ack(), [])

    def accept(self, frame: m.Frame) -> list[Any]:
        """The new messages in a frame that arrived; empty for a repetition.  Raises :class:`Gap`."""
        number, acknowledged, messages = frame
        self._drop_delivered(acknowledged)
        if number == 0:
            return []
        if number <= self.received:
            self.repeated += 1
            return []
        if number != self.received + 1:
            raise Gap(f"frame {number} arrived, but {self.received + 1} is missing")
        self.received = number
        return messages

    def resume(self, received: int) -> list[m.Frame]:
        """The other side has received frames up to ``received``.  Return those to send again, in order."""
        self._drop_delivered(received)
        ack = self._ack()
        return [(number, ack, batch) for number, _, batch in self._unacked]

    def _drop_delivered(self, upto: int) -> None:
        unacked = self._unacked
        while unacked and unacked[0][0] <= upto:
            self.delivered = unacked.popleft()[0]

    def other_side_anew(self) -> None:
        """The other side numbers its frames from 1 again."""
        self.received = self.acknowledged = 0

    def undelivered(self) -> list[Any]:
        """Messages that the other side has not acknowledged, oldest first."""
        kept = [message for _, _, batch in self._unacked for message in batch]
        return kept + [message for batch in self._queue for message in batch]


class Hearing:
    """How long nothing was received from the other side, not counting time by which we were late ourselves.

    ``look`` must be called every ``every`` seconds; a call that is later than twice that was delayed on our side.
    """

    def __init__(self) -> None:
        self._heard_at = self._looked_at = 0.0

    def heard(self, now: float) -> None:
        """A sign of life."""
        self._heard_at = self._looked_at = now

    def look(self, now: float, every: float) -> float:
        """Seconds of silence."""
        late = now - self._looked_at - every
        if late > every:
            self._heard_at += late
        self._looked_at = now
        return self.silence(now)

    def silence(self, now: float) -> float:
        """Seconds of silence, as of the last look."""
        return now - self._heard_at


class Fatal(Exception):
    """The greeting was refused permanently; ``code`` and text say why."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@attrs.define(eq=False)
class Dialer:
    """The dialing side's end of a session: what to send on a new connection, and what the answer means.

    ``number`` identifies the session to the scheduler; ``epoch`` is the scheduler's, 0 before the first Ready.
    ``fresh`` counts the Readys: when it changes, a new session has begun and nothing of the old one will be delivered;
    ``refused``: the old one was refused and no other has begun.  ``restarts`` counts how often a restarted scheduler continued
    the session.
    """

    number: int
    session: Session = attrs.field(factory=Session)
    epoch: int = 0
    fresh: int = 0
    restarts: int = 0
    connected: bool = False
    refused: bool = False
    suspect_after: float = 1.0
    dead_after: float = 10.0
    dashboard: str = ""

    @property
    def beat_every(self) -> float:
        """The pause between heartbeats, in seconds, as the scheduler requests it."""
        return self.suspect_after * BEATS

    def greeting(self) -> m.Resume | None:
        """The first message on a new connection; None: send Hello."""
        self.connected = False
        if not self.epoch:
            return None
        return m.Resume(self.number, self.epoch, self.session.received)

    def greeted(self, answer: Any) -> list[m.Frame] | None:
        """The scheduler's answer: frames to send again, or None if Hello must be sent.  Raises :class:`Fatal`."""
        if isinstance(answer, m.Resumed):
            self.connected = True
            if answer.epoch and answer.epoch != self.epoch:
                self.epoch = answer.epoch
                self.restarts += 1
                self.session.other_side_anew()
            return self.session.resume(answer.received)
        if isinstance(answer, m.Ready):
            self.connected, self.refused, self.epoch = True, False, answer.epoch
            self.suspect_after, self.dead_after = answer.suspect_after, answer.dead_after
            self.dashboard = answer.dashboard
            self.fresh += 1
            return self.session.resume(0)
        if answer.code != "session":
            raise Fatal(answer.code, answer.text)
        self.epoch, self.refused = 0, True
        return None
