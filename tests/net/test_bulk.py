"""Files between workers, over real sockets on loopback."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from functools import partial

import pytest
import pytest_twisted
from twisted.internet import defer, reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater

from twistdist.errors import DataLost, StoreError
from twistdist.net.bulk import BulkFetcher, BulkServer
from twistdist.net.connection import ServerFactory
from twistdist.net.hosts import address_of
from twistdist.net.transfer import MemorySink
from twistdist.storage.files import file_path, read_file, write_file
from twistdist.storage.store import IncomingFile, Store
from twistdist.wire.messages import Put, Stored

SECRET = b"0123456789abcdef"


class Holder:
    """A store with a server."""

    def __init__(self, folder):
        self.store = Store(str(folder))
        self.taken = []
        self.server = BulkServer(reactor, self.store, "here", self.taken.append)

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


@pytest.fixture
def mine(tmp_path):
    store = Store(str(tmp_path / "mine"), str(tmp_path / "spill"))
    yield store
    store.destroy()


@pytest_twisted.inlineCallbacks
def test_many_files_at_once(holder, fetcher, mine):
    """The next file is asked for before the holder's producer knows that the last one has ended; large ones go by threads."""
    contents = {n: os.urandom(size) for n, size in enumerate([0, 1, 100, 70_000, 3_000_000, 5, 0, 400_000] * 5, start=1)}
    stored = {n: holder.put(n, data) for n, data in contents.items()}
    yield defer.gatherResults(
        [fetcher.fetch([holder.address], n, partial(IncomingFile, mine, one)) for n, one in stored.items()], consumeErrors=True
    )
    for n, data in contents.items():
        assert bytes(read_file(file_path(mine.path, n), n)) == data
    assert not [name for name in os.listdir(mine.path) if name.startswith(".") and name != ".lock"]
    while holder.server.served < sum(one.size for one in stored.values()):  # the last file was read before it counts as sent
        yield deferLater(reactor, 0.01)
    assert holder.server.served == sum(one.size for one in stored.values())


@pytest_twisted.inlineCallbacks
def test_a_missing_file_a_wrong_digest_and_a_dead_holder(holder, fetcher):
    good = holder.put(7, b"right" * 1000)
    with pytest.raises(DataLost, match="does not have"):
        yield fetcher.fetch([holder.address], 8, partial(MemorySink, good.size, good.digest))
    with pytest.raises(DataLost, match="digest"):
        yield fetcher.fetch([holder.address], 7, partial(MemorySink, good.size, b"x" * 16))
    sink = yield fetcher.fetch(["tcp:127.0.0.1:1", holder.address], 7, partial(MemorySink, good.size, good.digest))
    assert sink.data == b"right" * 1000
    with pytest.raises(DataLost, match="no worker holds"):
        yield fetcher.fetch([], 7, partial(MemorySink, good.size, good.digest))


@pytest_twisted.inlineCallbacks
def test_a_flipped_byte_is_found_and_the_file_had_elsewhere(holder, fetcher, mine, tmp_path):
    other = Holder(tmp_path / "other")
    yield other.listen()
    data = os.urandom(1_000_000)
    good = holder.put(7, data)
    other.put(7, data)
    with open(file_path(holder.store.path, 7), "r+b") as stream:
        stream.seek(500_000)
        stream.write(b"\0\1\2\3")
    yield fetcher.fetch([holder.address, other.address], 7, partial(IncomingFile, mine, good))
    assert bytes(read_file(file_path(mine.path, 7), 7)) == data
    found, wrong = holder.store.take_inventory()  # and a worker that starts on that store does not offer it
    assert found == [] and "does not match its digest" in wrong[0]
    yield other.close()


@pytest_twisted.inlineCallbacks
def test_no_room_is_an_error_of_the_transfer(holder, fetcher, mine):
    good = holder.put(7, b"right" * 1000)

    def no_room():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        yield fetcher.fetch([holder.address], 7, no_room)
    sink = yield fetcher.fetch([holder.address], 7, partial(MemorySink, good.size, good.digest))
    assert sink.finish()


class Cutting:
    """A proxy that lets ``after`` bytes of each of the first ``times`` connections through, then cuts it."""

    def __init__(self, target, after, times):
        self.target, self.after, self.left = int(target.rsplit(":", 1)[1]), after, times
        self.passed = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            back = threading.Thread(target=self.pump, args=(near, far, None), daemon=True)
            back.start()
            limit, self.left = (self.after if self.left > 0 else None), self.left - 1
            self.pump(far, near, limit)
            back.join()
            near.close()
            far.close()

    def pump(self, source, target, limit):
        count = 0
        try:
            while (limit is None or count < limit) and (data := source.recv(65536)):
                target.sendall(data)
                count += len(data)
        except OSError:
            pass
        if limit is not None:
            self.passed.append(count)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest_twisted.inlineCallbacks
def test_a_cut_transfer_goes_on_at_its_offset(holder, fetcher, mine):
    data = os.urandom(20_000_000)
    good = holder.put(7, data)
    proxy = Cutting(holder.address, 8_000_000, 2)
    sinks = []

    def sink():
        sinks.append(IncomingFile(mine, good))
        return sinks[-1]

    yield fetcher.fetch([proxy.address], 7, sink)
    proxy.listener.shutdown(socket.SHUT_RDWR)
    proxy.listener.close()
    assert bytes(read_file(file_path(mine.path, 7), 7)) == data and len(sinks) == 1
    assert len(proxy.passed) == 2  # two cuts, and the rest over the third connection: 20 of the 20 million bytes, once each


@pytest_twisted.inlineCallbacks
def test_who_sends_enough_says_so_and_others_are_asked(holder, fetcher, mine, tmp_path):
    data = os.urandom(1_000_000)
    good = holder.put(7, data)
    other = Holder(tmp_path / "other")
    yield other.listen()
    other.put(7, data)
    holder.server._sending = 1000  # as if
    asked = []

    def all_busy():
        asked.append(1)
        fetcher.more_holders(7, [other.address])

    yield fetcher.fetch([holder.address], 7, partial(IncomingFile, mine, good), all_busy)
    assert asked and bytes(read_file(file_path(mine.path, 7), 7)) == data
    yield other.close()


@pytest.mark.parametrize("size", [0, 10_000, 5_000_000])
@pytest.mark.parametrize("host", ["here", "elsewhere"])
@pytest_twisted.inlineCallbacks
def test_a_file_is_put_by_link_or_by_its_bytes(holder, fetcher, tmp_path, size, host):
    data = os.urandom(size)
    folder = tmp_path / "client"
    size, digest = write_file(str(folder), 3, 9, [data])
    stored = Stored(3, 9, size, digest)
    with open(folder / "9", "rb", buffering=0) as stream:
        yield fetcher.put(holder.address, Put(stored, host, str(folder / "9")), stream)
    assert holder.taken == [stored] and bytes(read_file(file_path(holder.store.path, 9), 9)) == data
    same = os.stat(folder / "9").st_ino == os.stat(file_path(holder.store.path, 9)).st_ino
    assert same == (host == "here")


@contextlib.contextmanager
def files_up_to(size):
    """Whoever writes more into a file meets an error, in this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [200_000, 5_000_000])
@pytest_twisted.inlineCallbacks
def test_a_disk_that_gets_full_under_a_put_is_told_over_the_same_connection(holder, fetcher, tmp_path, size):
    for attempt, length in ((9, size), (10, 10_000)):
        length, digest = write_file(str(tmp_path), 3, attempt, [os.urandom(length)])
        put = Put(Stored(3, attempt, length, digest), "elsewhere", "")
        with open(tmp_path / f"{attempt:x}", "rb", buffering=0) as stream, files_up_to(100_000):
            if length > 100_000:
                with pytest.raises(StoreError, match="bytes could not be written: File too large"):
                    yield fetcher.put(holder.address, put, stream)
                connections = set(holder.server._connections)
            else:
                yield fetcher.put(holder.address, put, stream)
    assert [one.attempt for one in holder.taken] == [10] and set(holder.server._connections) == connections


@pytest_twisted.inlineCallbacks
def test_a_disk_that_gets_full_under_a_fetch_ends_it_once(holder, fetcher, mine):
    good = holder.put(7, os.urandom(5_000_000))
    sinks = []

    def sink():
        sinks.append(IncomingFile(mine, good))
        return sinks[-1]

    with files_up_to(100_000), pytest.raises(StoreError, match="5000000 bytes could not be written: File too large"):
        yield fetcher.fetch([holder.address, "tcp:127.0.0.1:1"], 7, sink)
    assert len(sinks) == 1 and os.listdir(mine.path) == [".lock"]


@pytest_twisted.inlineCallbacks
def test_bytes_that_do_not_fit_their_digest_are_not_kept(holder, fetcher, tmp_path):
    write_file(str(tmp_path), 3, 9, [b"x" * 1_000_000])
    stored = Stored(3, 9, 1_000_000, b"y" * 16)
    with open(tmp_path / "9", "rb", buffering=0) as stream, pytest.raises(StoreError, match="digest"):
        yield fetcher.put(holder.address, Put(stored, "elsewhere", ""), stream)
    assert holder.taken == [] and not holder.store.has(9)


@pytest_twisted.inlineCallbacks
def test_a_file_that_was_written_over_is_not_sent_as_the_old_one(holder, fetcher):
    stored = holder.put(5, os.urandom(10_000))
    os.rename(file_path(holder.store.path, 5), file_path(holder.store.path, 6))
    with pytest.raises(DataLost):
        yield fetcher.fetch([holder.address], 6, partial(MemorySink, stored.size, stored.digest))


@pytest.mark.parametrize("size", [1_000, 1 << 20, (5 << 20) + 3, 20 << 20])
@pytest_twisted.inlineCallbacks
def test_a_value_in_memory_can_be_written_to(holder, fetcher, size):
    data = os.urandom(size)
    stored = holder.put(5, data)
    sink = yield fetcher.fetch([holder.address], 5, partial(MemorySink, stored.size, stored.digest))
    assert sink.data == data and not sink.data.readonly


@pytest_twisted.inlineCallbacks
def test_a_cut_transfer_into_memory_goes_on_at_its_offset(holder, fetcher):
    data = os.urandom(8_000_000)
    stored = holder.put(5, data)
    proxy = Cutting(holder.address, 3_000_000, 2)
    sink = yield fetcher.fetch([proxy.address], 5, partial(MemorySink, stored.size, stored.digest))
    proxy.listener.shutdown(socket.SHUT_RDWR)
    proxy.listener.close()
    assert sink.data == data and len(proxy.passed) == 2
