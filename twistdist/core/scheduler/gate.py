"""Nothing leaves the scheduler before the state that it depends on is in the journal.

The rule is that of output commit in rollback recovery (Strom and Yemini, ACM TOCS 3(3), 1985): a message waits until
everything that the scheduler knew when the message was made is durable.  Many turns share one write: while one is under way,
the next one collects.  Received frames are acknowledged by the same rule, so the other side keeps them as long as they might
be forgotten here.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.session import Session
from twistdist.wire import journal_rows as j


class Gate:
    """``begin`` returns rows to write, ``written`` what may leave after that; ``hold`` keeps what may not leave yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writing: dict[j.Key, bytes | None] | None = None
        self._number = 0
        self._held: deque[tuple[int, Any]] = deque()
        self._touched: dict[Session, None] = {}
        self._snapshot: dict[Session, int] = {}

    def __len__(self) -> int:
        """The number of items that wait."""
        return len(self._held)

    def touch(self, session: Session) -> None:
        """Frames of this session were received; their consequences are in the ledger."""
        if self._writing is None and not self._ledger.dirty:
            session.safe = session.received
        else:
            self._touched[session] = None

    def hold(self, item: Any) -> bool:
        """Keep ``item`` until what is known now is written.  False if it is, and nothing waits: it may leave at once."""
        if self._ledger.dirty:
            ticket = self._number + 1
        elif self._writing is not None or self._held:
            ticket = self._number
        else:
            return False
        self._held.append((ticket, item))
        return True

    def begin(self) -> dict[j.Key, bytes | None] | None:
        """The rows to write now; None if a write is under way or nothing has changed."""
        if self._writing is not None or not self._ledger.dirty:
            return None
        self._number += 1
        self._writing = self._ledger.take()
        self._snapshot = {session: session.received for session in self._touched}
        self._touched.clear()
        return self._writing

    def written(self) -> list[Any]:
        """The rows of ``begin`` are durable.  Return what may leave now, in order."""
        self._writing = None
        for session, received in self._snapshot.items():
            session.safe = max(session.safe or 0, received)
        self._snapshot = {}
        clean = not self._ledger.dirty  # even if later changes were reverted: then no other write follows
        if clean:
            for session in self._touched:
                session.safe = session.received
            self._touched.clear()
        free = []
        while self._held and (clean or self._held[0][0] <= self._number):
            free.append(self._held.popleft()[1])
        return free

    def again(self) -> dict[j.Key, bytes | None]:
        """The rows of ``begin`` could not be written.  Return them, with what has changed since, to be tried again."""
        assert self._writing is not None
        if self._ledger.dirty:
            self._writing |= self._ledger.take()
            self._number += 1
            self._snapshot |= {session: session.received for session in self._touched}
            self._touched.clear()
        return self._writing

    @property
    def writing(self) -> bool:
        """Whether a write is under way."""
        return self._writing is not None

    def holds(self, wanted: Any) -> bool:
        """Whether ``wanted(item)`` is true for an item that waits."""
        return any(wanted(item) for _, item in self._held)

    def held(self) -> list[Any]:
        """What waits, in order."""
        return [item for _, item in self._held]

    def take_if(self, wanted: Any) -> list[Any]:
        """Remove and return the held items for which ``wanted(item)`` is true, in order."""
        taken = [item for _, item in self._held if wanted(item)]
        if taken:
            self._held = deque(entry for entry in self._held if not wanted(entry[1]))
        return taken
