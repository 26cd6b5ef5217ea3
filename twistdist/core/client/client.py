"""One client session: takes requests and messages, produces messages for the scheduler, changed records and effects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twistdist.core.client.effects import Answer, AttemptEnded, DropData, Effect, PeerTrouble, Supply
from twistdist.core.client.records import FunctionRef, Record, State
from twistdist.core.client.submits import Submits
from twistdist.core.session import Dialer, Session
from twistdist.errors import ProtocolError
from twistdist.wire import messages as m


class Client:
    """The pure core of one session; ``parent`` is the task in which it was created, 0 outside of tasks.  ``python`` is the
    version that pickles.

    Values stay bytes here; the edge unpickles them on demand.  Messages for the scheduler are queued in the dialer's session.
    """

    def __init__(self, session: int, name: str = "", parent: int = 0, python: str = "") -> None:
        self.name, self.parent, self.python = name, parent, python
        self.dialer = Dialer(session)
        self.records: dict[int, Record] = {}
        self.peers: dict[int, m.Peer] = {}
        self._effects: list[Effect] = []
        self.lacks: dict[int, str] = {}
        self.all_lack = ""
        self._submits = Submits(self.dialer)
        self._queries = 0
        self._open: dict[int, m.Query] = {}
        self._kept: set[int] = set()
        self._restarts = 0
        #: Why the scheduler acknowledges nothing at the moment; "" if it does.
        self.trouble = ""
        #: The last question that was asked before the current session began.
        self.questions_before = 0
        self._changed: list[Record] = []
        self._lost: list[Record] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            m.Finished: self._finished,
            m.Erred: self._erred,
            m.Peer: self._peer,
            m.PeerState: self._peer_state,
            m.Beat: lambda message: None,  # these two only matter outside the numbered frames
            m.Trouble: lambda message: None,
            m.Reply: self._reply,
            m.Supply: self._supply,
            m.DropData: self._drop_data,
            m.Lacks: self._lacks,
            m.Traced: lambda message: self._effects.append(AttemptEnded(message)),
        }

    # ---- requests ---------------------------------------------------------------------------

    def submit(
        self,
        record: Record,
        function: FunctionRef,
        args: bytes,
        inputs: Sequence[int] = (),
        key: str | None = None,
        options: m.Options | None = None,
        recipe: bytes = b"",
        replace: bool = False,
    ) -> None:
        """Add one task.  Consecutive tasks with the same function and options are sent as one message."""
        self._submits.add(record, function, args, inputs, key, options, recipe, replace)
        self.records[record.cid] = record

    def close_batch(self) -> None:
        """Post the submits collected so far; called before frames are taken."""
        self._submits.close_batch()

    def let_go(self, cid: int) -> None:
        """Tell the durable session that this one belongs to not to keep this task; ``release`` must follow."""
        if self.name and cid in self.records:
            self._submits.post(m.Release([cid], True))

    def release(self, cids: Sequence[int]) -> None:
        """These futures are no longer wanted."""
        known = []
        for cid in cids:
            record = self.records.pop(cid, None)
            if record is not None:
                record.orphan = True
                known.append(cid)
        self._submits.post_about(known, m.Release)

    def cancel(self, cids: Sequence[int], unstarted: bool = False) -> None:
        """Stop these tasks if nobody else wants them; pending futures are cancelled once the scheduler says so."""
        pending = [cid for cid in cids if cid in self.records and self.records[cid].state is State.PENDING]
        self._submits.post_about(pending, lambda some: m.Cancel(some, unstarted))

    def retry(self, cids: Sequence[int]) -> list[Record]:
        """Run these tasks again if they have failed; their futures are pending again.  Return the changed records."""
        known = [record for cid in cids if (record := self.records.get(cid)) is not None and not record.orphan]
        failed = [record for record in known if record.state is State.ERROR]
        for record in failed:
            record.state, record.forgiven, record.error = State.PENDING, record.error, None
        self._submits.post_about([record.cid for record in failed], m.Retry)
        return failed

    def unreachable(self, record: Record) -> None:
        """Report that the value could not be fetched from its holders; the scheduler then sends its place again."""
        place = record.place
        if place is not None and record.cid in self.records:
            self._submits.post(m.Unreachable(record.cid, place.attempt, place.holders))

    def query(self, what: str, args: Iterable[Any] = ()) -> int:
        """Ask about the cluster.  Return the number of the Reply to expect."""
        self._queries += 1
        question = self._open[self._queries] = m.Query(self._queries, what, list(args))
        self._submits.post(question)
        return self._queries

    def watch(self, records: Sequence[tuple[Record, str]], what: str = "watch") -> int:
        """Attach to tasks by key: to any task ("watch"), or to those of the durable session ("take_up").  The Reply lists the
        cids that were found."""
        for record, _ in records:
            self.records[record.cid] = record
        return self.query(what, [[record.cid, key] for record, key in records])

    def scatter(
        self,
        record: Record,
        key: str,
        size: int,
        digest: bytes,
        value: bytes | None,
        replicas: int,
        workers: Sequence[str] = (),
        resupply: bool = True,
    ) -> None:
        """Scatter data.  A small ``value`` is sent inline; otherwise :class:`.Supply` says where to send the data."""
        self.records[record.cid] = record
        if value is None:
            self._kept.add(record.cid)
        scatter = m.Scatter(record.cid, key, size, digest, value, replicas, list(workers), resupply)
        self._submits.post(scatter, len(value or b""))

    def not_supplied(self, cid: int, worker: int, text: str) -> None:
        """The data of ``cid`` could not be sent to ``worker`` (0: this client no longer has them)."""
        self._submits.post(m.NotSupplied(cid, worker, text))

    def bye(self) -> None:
        """Leave; whatever only this session wants is released."""
        self._submits.post(m.Bye())

    # ---- events -----------------------------------------------------------------------------

    def hello(self, now: float) -> m.HelloClient:
        """The opening message of a new session.  What an earlier session requested was lost with the scheduler's memory."""
        session = self.dialer.session
        if self.dialer.refused:
            self.dialer.refused = False  # once: what is requested from now on belongs to the new session
            if session.delivered or session.received:
                self._start_over()
            else:  # nothing of it was ever acknowledged or answered, so nothing is lost: everything is sent again
                session.other_side_anew()
        return m.HelloClient(self.dialer.number, self.name, self.parent, self.python)

    def _start_over(self) -> None:
        self.questions_before = self._queries
        self._submits.start_over()
        self._open.clear()
        if self._kept:  # nobody knows these futures any more
            self._effects.append(DropData(sorted(self._kept)))
            self._kept.clear()
        self.peers.clear()
        self.dialer.session, self.dialer.number = Session(), _next_number(self.dialer.number)
        lost = m.ErrorInfo(
            "DataLost",
            "",
            "the scheduler no longer knows this session: it was restarted, or the "
            "connection was away for too long; submit again",
        )
        for record in self.records.values():
            record.orphan = True
            if record.state is State.PENDING or (record.value is None and record.place is not None):
                record.state, record.place, record.error = State.LOST, None, lost
                self._lost.append(record)

    def take(self) -> list[Effect]:
        """The effects since the last call, in order."""
        effects, self._effects = self._effects, []
        return effects

    def receive(self, messages: Iterable[Any]) -> list[Record]:
        """Process messages that the session accepted.  Return the changed records in order; one may occur more than once."""
        handlers = self._handlers
        for message in messages:
            handlers[type(message)](message)
        return self.changed()

    def changed(self) -> list[Record]:
        """The records changed since the last call."""
        lost, self._lost = self._lost, []
        changed, self._changed = lost + self._changed, []
        return changed

    def _finished(self, message: m.Finished) -> None:
        if message.holders:
            self._check_peers(message.holders)
        record = self.records.get(message.cid)
        if record is None:
            return
        if message.value is not None:
            record.value, record.place = message.value, None
        elif record.value is None:
            record.place = message
        record.state, record.error = State.FINISHED, None
        self._changed.append(record)

    def _erred(self, message: m.Erred) -> None:
        record = self.records.get(message.cid)
        if record is None or record.value is not None:
            return  # a client that has seen a value keeps it
        if record.forgiven is not None and message.error.attempt and message.error.attempt == record.forgiven.attempt:
            return  # a restarted scheduler says again what it said before the retry
        record.error, record.place = message.error, None
        record.state = State.CANCELLED if message.error.kind == "TaskCancelled" else State.ERROR
        self._changed.append(record)

    def _check_peers(self, numbers: Iterable[int]) -> None:
        if not self.peers.keys() >= set(numbers):
            raise ProtocolError(f"workers {list(numbers)} were named before their addresses were sent")

    def _supply(self, message: m.Supply) -> None:
        self._check_peers(message.workers)
        if not message.workers:
            raise ProtocolError("data must be supplied, but no worker is named")
        self._effects.append(Supply(message, self.peers[message.workers[0]]))

    def _peer(self, message: m.Peer) -> None:
        self.peers[message.worker] = message

    def _peer_state(self, message: m.PeerState) -> None:
        peer = self.peers.get(message.worker)
        if peer is not None and message.state:
            self._effects.append(PeerTrouble(peer.address, message.state == "gone"))

    def notice(self, message: Any) -> list[Record]:
        """A message outside the numbered frames: the scheduler can't write its journal, or can again."""
        if isinstance(message, m.Trouble):
            self.trouble = message.text
        return self.fail_unsure()

    def fail_unsure(self) -> list[Record]:
        """In trouble: fail and release what was submitted and never acknowledged.  Return the changed records."""
        if not self.trouble or not self.dialer.connected:
            return []
        self.close_batch()
        cids: list[int] = []
        for message in self.dialer.session.undelivered():
            if isinstance(message, m.Submit):
                cids.extend(range(message.first, message.first + len(message.args)))
            elif isinstance(message, m.Scatter):
                cids.append(message.cid)
        failed = [one for cid in cids if (one := self.records.get(cid)) is not None and one.state is State.PENDING]
        text = f"it was not accepted, because the scheduler can't write its journal: {self.trouble}; submit it again later"
        error = m.ErrorInfo("JournalError", "", text)
        for record in failed:
            record.state, record.error = State.ERROR, error
        self.release([record.cid for record in failed])
        return failed

    def unsendable(self, message: Any, why: str) -> bool:
        """A message could not be encoded and was taken out: fail what it requested.  Return False if it requested nothing."""
        cids: Iterable[int] = ()
        if isinstance(message, m.Submit):
            cids = range(message.first, message.first + len(message.args))
        elif isinstance(message, m.Scatter):
            cids = [message.cid]
        elif isinstance(message, m.Query):
            self._reply(m.Reply(message.query, f"the query {message.what!r} can't be sent: {why}"))
        else:
            return False
        error = m.ErrorInfo("SerializationError", "", f"it can't be sent to the scheduler: {why}")
        for cid in cids:
            record = self.records.get(cid)
            if record is not None:
                record.state, record.error, record.place = State.ERROR, error, None
                self._changed.append(record)
        return True

    def _lacks(self, message: m.Lacks) -> None:
        """Shown to users who look at a pending future."""
        if not message.cids:
            self.lacks, self.all_lack = {}, message.text
            return
        told = self.lacks | dict.fromkeys(message.cids, message.text)
        self.lacks = {cid: text for cid, text in told.items() if text and cid in self.records}

    def lack_of(self, record: Record) -> str:
        """What a pending record's task lacks to be able to run, as far as the scheduler has reported it."""
        return self.lacks.get(record.cid) or self.all_lack if record.state is State.PENDING else ""

    def _drop_data(self, message: m.DropData) -> None:
        gone = [cid for cid in message.cids if cid in self._kept]  # after a restart this may be sent twice
        self._kept.difference_update(gone)
        if gone:
            self._effects.append(DropData(gone))

    def resumed(self) -> None:
        """The session continues; a scheduler that was restarted meanwhile is sent again what it has forgotten."""
        self.trouble = ""  # the scheduler reports a current one immediately
        if self._restarts == self.dialer.restarts:
            return
        self._restarts = self.dialer.restarts
        said = {message.query for message in self.dialer.session.undelivered() if isinstance(message, m.Query)}
        for number, question in self._open.items():
            if number not in said:
                self._submits.post(m.Query(number, question.what, question.args, True))
        if self._kept:
            self._submits.post(m.Keeps(sorted(self._kept)))

    def _reply(self, message: m.Reply) -> None:
        self._open.pop(message.query, None)
        self._effects.append(Answer(message))


def _next_number(number: int) -> int:
    """The number of the session after a lost one, of 62 bits.

    It is another one, since a scheduler that takes over may know the lost session from an older state of the journal: it would
    take the first frames of the new session for repetitions.
    """
    digest = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2
