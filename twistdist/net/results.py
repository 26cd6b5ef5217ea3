"""Values of finished futures: sent inline, mapped from a store on this host, or fetched from a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from twistdist.core.client import Client, Record, State
from twistdist.net.bulk import BulkFetcher
from twistdist.net.futures import Raw, unpack
from twistdist.net.transfer import MemorySink
from twistdist.storage.files import file_path, read_file
from twistdist.wire import messages as m

#: How often a value is fetched at least, each time from where the scheduler now says that it is, before it counts as lost; and
#: for how many times ``dead_after``: the scheduler may not have noticed yet that its holder has died.
LEAST_FETCHES, PATIENCE = 8, 3.0

RELEASED = m.ErrorInfo("DataLost", "", "the future was released")

ANOTHER_VALUE = m.ErrorInfo(
    "NonDeterministicReplay",
    "",
    "the value was lost and computed again, and it differs from the one that "
    "this client has seen; the function depends on more than its arguments (see replay=)",
)


class Owner(Protocol):
    """What ``Results`` needs from the session that it belongs to."""

    def why_closed(self) -> str:
        """Return why nothing can be fetched any more; "" while it can."""

    def call_when_ended(self, record: Record, function: Callable[[Record], Any]) -> None:
        """Call ``function(record)`` once the record is not pending; immediately if it is not."""

    def lose(self, records: list[Record], why: m.ErrorInfo) -> None:
        """Mark records as lost because of ``why``: nothing more will arrive about them."""

    def flush(self) -> None:
        """Send what the core has to send."""


@attrs.define(eq=False)
class Results:
    """Fetches values, one or many at a time.  ``host`` is this host's identity, ``seconds`` tells the time."""

    core: Client
    owner: Owner
    fetcher: BulkFetcher
    host: str
    seconds: Callable[[], float]

    def fetch(self, record: Record, tries: int = 0, since: float | None = None) -> Deferred[Raw]:
        """Return a Deferred of the bytes of a finished record's value, or of the error that it has instead.

        If no holder delivers the value, the scheduler is notified, and the value is fetched from where it says next.
        """
        if record.value is not None:
            return succeed(record.value)
        place = record.place
        if place is not None and record.seen not in (b"", place.digest):
            return succeed(ANOTHER_VALUE)
        if place is None:
            return succeed(record.error or RELEASED)
        peers = [self.core.peers[number] for number in place.holders]
        for peer in peers:
            if peer.host == self.host:
                try:
                    return succeed(_saw(record, place, read_file(file_path(peer.store, place.attempt), place.attempt)))
                except (OSError, ValueError):
                    continue
        sink = partial(MemorySink, place.size, place.digest)
        fetching = self.fetcher.fetch([peer.address for peer in peers], place.attempt, sink)
        since = self.seconds() if since is None else since
        return fetching.addCallbacks(
            lambda sink: _saw(record, place, sink.data),
            lambda failure: self._elsewhere(record, place, failure, tries + 1, since),
        )

    def _elsewhere(self, record: Record, place: m.Finished, failure: Failure, tries: int, since: float) -> Deferred[Raw]:
        """No holder has delivered the value: ask the scheduler where else it is."""
        again: Deferred[Raw] = Deferred()
        closed = self.owner.why_closed()
        if closed:
            return succeed(m.ErrorInfo("ClientClosed", "", closed))
        if record.cid not in self.core.records:
            return succeed(RELEASED)
        if record.place is not place:  # news of it has arrived in the meantime
            return self.fetch(record, tries, since)
        waited = self.seconds() - since
        if tries >= LEAST_FETCHES and waited >= PATIENCE * self.core.dialer.dead_after:
            text = (
                f"the value can't be fetched from the workers that hold it, after {tries} tries in {waited:.0f} s: "
                f"{failure.value}; "
                "check that this machine can reach the addresses that they listen at"
            )
            return succeed(m.ErrorInfo("DataLost", "", text))

        def retry(_: Record) -> None:
            self.fetch(record, tries, since).chainDeferred(again)

        self.core.unreachable(record)
        record.callbacks = [*(record.callbacks or ()), retry]
        self.owner.flush()
        return again

    def collect(self, records: Sequence[Record], fail_fast: bool, result: Deferred[list[Raw]]) -> None:
        """Fire ``result`` with the final outcome of each record, in order; with ``fail_fast`` on the first error, with that
        error in all places."""
        _Collection(self, records, fail_fast, result).start()


def _saw(record: Record, place: m.Finished, data: Raw) -> Raw:
    """Note which value this client has seen: it must never see a different one for the same record."""
    record.seen = place.digest
    return data


class _Collection:
    """Waits for records, then fetches the values that are elsewhere, then delivers everything together."""

    def __init__(self, results: Results, records: Sequence[Record], fail_fast: bool, result: Deferred[list[Raw]]) -> None:
        self._results, self._records, self._fail_fast, self._result = results, records, fail_fast, result
        self._left = 0
        self._raws: dict[int, Raw] = {}

    def start(self) -> None:
        owner, known = self._results.owner, self._results.core.records
        owner.lose([record for record in self._records if record.state is State.PENDING and record.cid not in known], RELEASED)
        waiting = [record for record in self._records if record.state is State.PENDING]
        self._left = 1 + len(waiting)
        for record in waiting:
            owner.call_when_ended(record, self._ended)
        if self._fail_fast:
            bad = next((r for r in self._records if r.error is not None and r.state is not State.PENDING), None)
            if bad is not None:
                self._ended_badly(bad)
        self._one_less()

    def _ended(self, record: Record) -> None:
        if self._fail_fast and record.error is not None:
            self._ended_badly(record)
        self._one_less()

    def _ended_badly(self, record: Record) -> None:
        """Deliver the error still pickled: the caller loads it in its own thread, since that may take long and do anything."""
        if not self._result.called:
            self._result.callback([record.error or RELEASED] * len(self._records))

    def _one_less(self) -> None:
        self._left -= 1
        if self._left or self._result.called:
            return
        elsewhere = [record for record in self._records if record.value is None and record.error is None]
        self._left = 1
        for record in elsewhere:
            self._left += 1
            self._results.fetch(record).addBoth(self._fetched, record)
        self._fetched(b"", None)

    def _fetched(self, raw: Any, record: Record | None) -> None:
        if record is not None:
            self._raws[record.cid] = raw
        self._left -= 1
        if self._left or self._result.called:
            return
        self._result.callback([self._raw(record) for record in self._records])

    def _raw(self, record: Record) -> Raw:
        if record.cid in self._raws:
            return self._raws[record.cid]
        raw = record.value if record.value is not None else record.error
        return RELEASED if raw is None else raw


def load_one(record: Record) -> BaseException:
    """Return the exception of a record that did not finish."""
    try:
        unpack(record.error or RELEASED)
    except BaseException as error:
        return error
    raise AssertionError("an ErrorInfo must unpack to an exception")
