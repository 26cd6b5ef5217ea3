"""Supplies scattered data: keeps each value in a file while its future lives, and sends it to the workers that are named."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from twistdist.net.bulk import BulkFetcher
from twistdist.net.hosts import default_store_root
from twistdist.net.spare_files import SpareFiles
from twistdist.net.timers import Alarm
from twistdist.storage.files import is_memory, pack_header, write_file
from twistdist.storage.spares import MIN_BYTES, Spares
from twistdist.wire import messages as m

#: Seconds for which a file that is not needed any more waits for workers to remove their links to it, and between two looks.
LEAVE_S, RETRY_S = 0.5, 0.05


@attrs.define(eq=False)
class _Kept:
    """One file: its path (named by its attempt once that is known), size and digest."""

    path: str
    size: int
    digest: bytes
    attempt: int = 0


class Supplier:
    """The files of one client, in a folder of its own that is removed with it.

    ``failed(cid, worker, text)`` is called when a file could not be sent to a worker, or with worker 0 when it is not here.
    """

    def __init__(self, reactor: Any, fetcher: BulkFetcher, host: str, failed: Callable[[int, int, str], None]) -> None:
        self._fetcher, self._host, self._failed = fetcher, host, failed
        self._reactor, self._alarm = reactor, Alarm(reactor, self._clean_up)
        self._leaving: list[tuple[float, str]] = []
        self._spares = Spares("")
        self._spare_files: SpareFiles | None = None
        self._folder = ""
        self._lock = -1
        self._making = threading.Lock()  # several threads may scatter
        self._kept: dict[int, _Kept] = {}

    def keep(self, cid: int, parts: Sequence[bytes | memoryview], digest: bytes = b"") -> tuple[int, bytes]:
        """Write a value's bytes, of which ``digest`` may be known, to a file and return (size, digest).

        Called in the user's thread.
        """
        with self._making:
            if not self._folder:
                made = tempfile.mkdtemp(prefix="client-", dir=default_store_root())
                self._lock = os.open(f"{made}/.lock", os.O_RDWR | os.O_CREAT, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_EX)  # shows others that the folder is in use
                self._spares = Spares(made)
                self._spare_files = SpareFiles(self._reactor, self._spares, is_memory(made))
                self._folder = made
        folder = os.path.join(self._folder, f"{cid}")
        size, digest = write_file(folder, 0, 0, parts, spare=self._folder, digest=digest)
        self._kept[cid] = _Kept(f"{folder}/0", size, digest)
        return size, digest

    def supply(self, supply: m.Supply, worker: m.Peer) -> None:
        """Send a file to ``worker``."""
        kept = self._kept.get(supply.cid)
        if kept is None:
            self._failed(supply.cid, 0, "its session did not keep it")
            return
        stored = m.Stored(supply.task, supply.attempt, kept.size, kept.digest)
        try:
            stream = self._open(kept, stored)
        except OSError as error:
            self._failed(supply.cid, 0, f"its file is gone: {error}")
            return
        bringing = self._fetcher.put(worker.address, m.Put(stored, self._host, kept.path), stream)
        bringing.addErrback(lambda failure: self._failed(supply.cid, worker.worker, str(failure.value)))
        bringing.addBoth(lambda _: stream.close())

    @staticmethod
    def _open(kept: _Kept, stored: m.Stored) -> Any:
        """Open the file, after giving it the name and the header of the attempt that it is now known by."""
        if kept.attempt != stored.attempt:
            if os.stat(kept.path).st_nlink > 1:  # a worker has it under another attempt
                shutil.copyfile(kept.path, f"{kept.path}-copy")
                os.replace(f"{kept.path}-copy", kept.path)
            with open(kept.path, "r+b", buffering=0) as stream:
                stream.write(pack_header(stored))
            named = f"{os.path.dirname(kept.path)}/{stored.attempt:x}"
            os.rename(kept.path, named)
            kept.path, kept.attempt = named, stored.attempt
        return open(kept.path, "rb", buffering=0)

    def forget(self, cids: Iterable[int]) -> None:
        """Remove the files of futures that are gone or need not be supplied again.

        A large one that workers have linked is first left for a moment: when they have removed theirs, it can be a spare file.
        """
        now = self._reactor.seconds()
        for cid in cids:
            kept = self._kept.pop(cid, None)
            if kept is not None:
                large = self._spares.most >= kept.size >= MIN_BYTES
                self._leaving.append((now + LEAVE_S if large else now, kept.path))
        self._clean_up()

    def _clean_up(self) -> None:
        """Set the files aside that no worker has any more, and remove those whose time is over."""
        now, left = self._reactor.seconds(), []
        for until, path in self._leaving:
            if self._spares.set_aside(path) or now >= until - 0.001:
                shutil.rmtree(os.path.dirname(path), ignore_errors=True)
            else:
                left.append((until, path))
        if self._spare_files is not None and len(left) < len(self._leaving):
            self._spare_files.touch()
        self._leaving = left
        if left:
            self._alarm.set(now + RETRY_S)

    def close(self) -> None:
        self._alarm.cancel()
        if self._spare_files is not None:
            self._spare_files.stop()
        self._leaving.clear()
        self._kept.clear()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._folder = ""


def all_of(deferreds: list[Deferred[Any]]) -> Deferred[list[Any]]:
    """Return a Deferred of all values, or of the first failure."""
    if not deferreds:
        return succeed([])
    result: Deferred[list[Any]] = Deferred()
    values: list[Any] = [None] * len(deferreds)
    left = len(deferreds)

    def one(value: Any, index: int) -> None:
        nonlocal left
        values[index] = value
        left -= 1
        if not left and not result.called:
            result.callback(values)

    def failed(failure: Failure) -> None:
        if not result.called:
            result.errback(failure)

    for index, deferred in enumerate(deferreds):
        deferred.addCallbacks(one, failed, callbackArgs=(index,))
    return result
