"""The way out of all that the scheduler sends: a message leaves once the journal has what it depends on
(:mod:`twistdist.core.scheduler.gate`).

While the journal can't be written the scheduler is in *trouble*: clients are notified, and nothing that they send is
acknowledged; workers continue with what was acknowledged before; the write is tried again until it succeeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from twistdist.core.scheduler.gate import Gate
from twistdist.core.scheduler.ledger import Ledger
from twistdist.core.scheduler.records import Client, Worker
from twistdist.core.session import Session
from twistdist.errors import JournalError, ProtocolError
from twistdist.net.connection import Connection
from twistdist.net.journal_writer import CHECK_S, RETRY_S, JournalThread
from twistdist.wire import messages as m
from twistdist.wire.framing import UNENCODABLE

Peer = Client | Worker


class Outbox:
    """The way out to all ``connections``.

    ``on_written()`` is called after each write, ``on_trouble(text)`` when a write fails and with "" when writing works again,
    and ``on_fatal(text)`` when another scheduler has the journal.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        connections: dict[Peer, Connection],
        on_written: Callable[[], None],
        on_trouble: Callable[[str], None],
        on_fatal: Callable[[str], None],
    ) -> None:
        self._reactor, self._connections = reactor, connections
        self._on_written, self._on_trouble, self._on_fatal = on_written, on_trouble, on_fatal
        self._gate: Gate | None = None
        self._journal: JournalThread | None = None
        self._retry: Any = None
        self._began = 0.0
        self._took = 0.0
        self._checked_at = 0.0
        self._checking = False
        self.trouble = ""

    def use(self, journal: JournalThread, ledger: Ledger) -> None:
        """Use ``journal`` from now on."""
        self._journal, self._gate = journal, Gate(ledger)

    def stop(self) -> None:
        """Write nothing any more."""
        if self._retry is not None:
            self._retry.cancel()
        self._gate = None

    # ---- out --------------------------------------------------------------------------------

    def say(self, connection: Connection, peer: Peer, frames: list[m.Frame]) -> None:
        """Send frames of ``peer``'s session, now or when they may leave."""
        gate = self._gate
        if gate is not None:
            if self.trouble and self._goes_on(peer, frames):
                pass
            elif gate.hold((connection, peer, frames)):
                if self.trouble:
                    self._answer(connection, frames)
                return
        self.send(connection, frames)

    def _answer(self, connection: Connection, frames: list[m.Frame]) -> None:
        """Send what may leave at once of frames that wait for the journal, outside the session's numbers."""
        answers = _answers(frames)
        if answers and connection.told:  # the first message is the greeting
            self.send(connection, [(0, 0, answers)])

    @staticmethod
    def send(connection: Connection, frames: list[m.Frame]) -> None:
        """Send frames.  A message that can't be encoded ends this connection alone; the others are not affected."""
        connection.told = True
        try:
            connection.send(frames)
        except UNENCODABLE as error:
            connection.fail(ProtocolError(f"a message can't be encoded: {error}"))

    def _goes_on(self, peer: Peer, frames: list[m.Frame]) -> bool:
        """In trouble: accepted work continues and questions are answered; received frames are not acknowledged (``safe``)."""
        assert self._gate is not None
        if isinstance(peer, Worker):
            return True
        answers = sum(len(messages) for _, _, messages in frames) == len(_answers(frames))
        return answers and not self._gate.holds(lambda item: item[1] is peer)

    def touch(self, session: Session) -> None:
        """Frames of a session were received."""
        if self._gate is not None:
            self._gate.touch(session)

    # ---- the journal ------------------------------------------------------------------------

    def write(self) -> None:
        """At the end of a turn, start to write what has changed, unless a write is in progress."""
        rows = self._gate.begin() if self._gate is not None else None
        if rows is None:
            return
        self._began = self._reactor.seconds()
        self._write(rows)

    def _write(self, rows: dict[Any, bytes | None]) -> None:
        assert self._journal is not None
        self._retry = None
        if rows:
            self._journal.write(rows).addCallbacks(self._written, self._not_written)
        else:  # the changes cancelled each other out
            self._reactor.callLater(0, self._written, None)

    def _written(self, _: None) -> None:
        if self._gate is None:
            return
        self._took = self._reactor.seconds() - self._began
        if self.trouble:
            self._log.info("the journal can be written again")
            self.trouble = ""
            self._on_trouble("")
        for item in self._gate.written():
            self._release(*item)
        self._on_written()

    def _release(self, connection: Connection, peer: Peer, frames: list[m.Frame]) -> None:
        if self._connections.get(peer) is connection:  # otherwise they were sent again when the peer reconnected
            self.send(connection, frames)

    def _not_written(self, failure: Failure) -> None:
        if self._gate is None:
            return
        text = str(failure.value)
        if getattr(failure.value, "fatal", False):
            self._on_fatal(text)
            return
        if text != self.trouble:
            self._log.error("{text}; nothing is acknowledged until the journal can be written", text=text)
            self.trouble = text
            self._on_trouble(text)
            waiting: list[tuple[Connection, Peer, list[m.Frame]]] = self._gate.held()
            for connection, peer, frames in waiting:
                if self._connections.get(peer) is connection:
                    self._answer(connection, frames)
        for item in self._gate.take_if(lambda item: isinstance(item[1], Worker)):
            self._release(*item)
        self._retry = self._reactor.callLater(RETRY_S, self._write_again)

    def _write_again(self) -> None:
        if self._gate is not None:  # explicitly: an empty gate is falsy
            self._write(self._gate.again())

    def look(self) -> None:
        """Called regularly: check that the journal is still ours, even while there is nothing to write."""
        now = self._reactor.seconds()
        if self._gate is None or self._journal is None or self._checking or self._gate.writing:
            return
        if now < self._checked_at + CHECK_S:
            return
        self._checking, self._checked_at = True, now
        self._journal.check().addCallbacks(self._looked, self._not_ours)

    def _looked(self, _: None) -> None:
        self._checking = False

    def _not_ours(self, failure: Failure) -> None:
        self._checking = False
        if self._gate is None:
            return
        if getattr(failure.value, "fatal", False):
            self._on_fatal(str(failure.value))
        elif not failure.check(JournalError):
            self._log.failure("an error while the journal was checked", failure)

    def status(self) -> dict[str, Any]:
        """Return what ``twistdist status`` reports about the journal.

        That is its state ("none", "ok" or "failing"), its size in bytes, how many seconds the last write took and how many the
        write in progress has taken so far, and how many items wait for it.
        """
        if self._gate is None or self._journal is None:
            return {"state": "none"}
        waiting = self._reactor.seconds() - self._began if self._gate.writing else 0.0
        return {
            "state": "failing" if self.trouble else "ok",
            "error": self.trouble,
            "bytes": self._journal.bytes,
            "write": self._took,
            "lag": waiting,
            "waiting": len(self._gate),
        }


def _answers(frames: list[m.Frame]) -> list[m.Reply]:
    """The answers among messages on which nothing depends that the journal keeps."""
    return [message for _, _, messages in frames for message in messages if isinstance(message, m.Reply) and message.at_once]
