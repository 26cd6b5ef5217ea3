"""Fetching values from workers: how long a client believes that a value is still there."""

from types import SimpleNamespace

from twisted.internet.defer import fail
from twisted.internet.task import Clock

from twistdist.core.client import Record
from twistdist.net.results import LEAST_FETCHES, PATIENCE, Results
from twistdist.wire import messages as m


def test_a_value_counts_as_lost_only_when_its_holder_had_time_to_be_given_up():
    """A worker that dies refuses connections at once; a busy scheduler may notice ten seconds later, and replays then."""
    clock, asked, tries = Clock(), [], []
    record = Record(1)
    record.place = m.Finished(1, 10, b"", 5, b"digest", [7])
    core = SimpleNamespace(
        peers={7: SimpleNamespace(host="elsewhere", address="tcp:127.0.0.1:1")},
        records={1: record},
        unreachable=asked.append,
        dialer=SimpleNamespace(dead_after=10.0),
    )
    owner = SimpleNamespace(why_closed=lambda: "", flush=lambda: None)

    def fetch(addresses, attempt, sink):
        tries.append(clock.seconds())
        return fail(ConnectionRefusedError("refused"))

    got = []
    Results(core, owner, SimpleNamespace(fetch=fetch), "here", clock.seconds).fetch(record).addCallback(got.append)
    while not got and clock.seconds() < 100:
        clock.advance(0.2)  # as often as the scheduler tells where it is
        callbacks, record.callbacks = record.callbacks, []
        for callback in callbacks:
            callback(record)
    assert got[0].kind == "DataLost" and "tries in 30 s" in got[0].text
    assert len(tries) > LEAST_FETCHES and tries[-1] >= PATIENCE * 10.0
