"""Files between workers, over real sockets on loopback."""

from __future__ import annotations

import os
from functools import partial

import pytest
import pytest_twisted
from twisted.internet import defer, reactor
from twisted.internet.endpoints import serverFromString

from twistdist.errors import DataLost
from twistdist.net.bulk import BulkFetcher, BulkServer, MemorySink
from twistdist.net.connection import ServerFactory
from twistdist.net.hosts import address_of
from twistdist.storage.store import IncomingFile, Store, file_path, read_file, write_file
from twistdist.wire.messages import Stored

SECRET = b"0123456789abcdef"


class Holder:
    """A store with a server."""

    def __init__(self, folder):
        self.store = Store(str(folder))
        self.server = BulkServer(self.store)

    @defer.inlineCallbacks
    def listen(self):
        endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        self.port = yield endpoint.listen(ServerFactory(reactor, self.server, SECRET))
        self.address = address_of(self.port)

    def put(self, attempt, data):
        size, digest = write_file(self.store.path, 1, attempt, [data])
        return Stored(1, attempt, size, digest)

    @defer.inlineCallbacks
    def close(self):
        self.server.close()
        yield self.port.stopListening()
        self.store.destroy()


@pytest.fixture
def holder(tmp_path):
    one = Holder(tmp_path / "holder")
    pytest_twisted.blockon(one.listen())
    yield one
    pytest_twisted.blockon(one.close())


@pytest.fixture
def fetcher():
    one = BulkFetcher(reactor, SECRET)
    yield one
    one.close()
    pytest_twisted.blockon(defer.DeferredList([]))


@pytest_twisted.inlineCallbacks
def test_many_files_at_once_over_one_connection(holder, fetcher, tmp_path):
    """The next file is asked for before the holder's producer knows that the last one has ended."""
    (tmp_path / "mine").mkdir()
    contents = {n: os.urandom(size) for n, size in enumerate([0, 1, 100, 70_000, 3_000_000, 5, 0, 200_000] * 5, start=1)}
    stored = {n: holder.put(n, data) for n, data in contents.items()}
    sinks = [partial(IncomingFile, str(tmp_path / "mine"), one) for one in stored.values()]
    yield defer.gatherResults(
        [fetcher.fetch([holder.address], n, sink) for n, sink in zip(stored, sinks, strict=True)], consumeErrors=True
    )
    for n, data in contents.items():
        assert bytes(read_file(file_path(str(tmp_path / "mine"), n))) == data


@pytest_twisted.inlineCallbacks
def test_a_missing_file_a_wrong_digest_and_a_dead_holder(holder, fetcher):
    good = holder.put(7, b"right" * 1000)
    with pytest.raises(DataLost, match="does not have"):
        yield fetcher.fetch([holder.address], 8, partial(MemorySink, good.digest))
    with pytest.raises(DataLost, match="digest"):
        yield fetcher.fetch([holder.address], 7, partial(MemorySink, b"x" * 16))
    sink = yield fetcher.fetch(["tcp:127.0.0.1:1", holder.address], 7, partial(MemorySink, good.digest))
    assert sink.data == b"right" * 1000
    with pytest.raises(DataLost, match="nobody"):
        yield fetcher.fetch([], 7, partial(MemorySink, good.digest))


@pytest_twisted.inlineCallbacks
def test_a_full_disk_is_an_error_of_the_transfer(holder, fetcher):
    class Full(MemorySink):
        def write(self, data):
            raise OSError(28, "No space left on device")

    good = holder.put(7, b"right" * 1000)
    with pytest.raises(OSError, match="No space"):
        yield fetcher.fetch([holder.address], 7, partial(Full, good.digest))
    with pytest.raises(OSError, match="nowhere"):
        yield fetcher.fetch([holder.address, holder.address], 7, partial(IncomingFile, "/nowhere", good))
    sink = yield fetcher.fetch([holder.address], 7, partial(MemorySink, good.digest))
    assert sink.finish
