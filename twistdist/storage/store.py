"""Result files: one complete file a result, found again after any crash, mapped without a copy.

A file is named by its attempt (hexadecimal) and holds a header of 64 bytes and then the value's bytes::

    b"TWDFILE1"  task (8)  attempt (8)  size (8)  xxh3-128 digest of the value (16)  16 zero bytes

Under memory pressure files move to a spill folder on disk, and a link takes their place.

It is written under a name that starts with a dot and made visible by rename, so that whatever has a proper name is whole
(up to flipped bits, which the digest shows).  The folder belongs to one living process, which holds a lock on it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import pathlib
import shutil
import struct
import tempfile
import time
from collections.abc import Iterable, Sequence
from typing import Any

import xxhash

from twistdist.errors import ConfigError
from twistdist.wire.messages import Stored

HEADER_BYTES = 64
_HEADER = struct.Struct("<8sQQQ16s16x")
_MAGIC = b"TWDFILE1"

#: Files up to this size are read, larger ones mapped: a map costs some 10 µs and pins a file.
_READ_UP_TO = 64 << 10
_MOST_PARTS = 512

#: How often, and how long apart in seconds, a store's lock is tried.
LOCK_TRIES, LOCK_PAUSE_S = 100, 0.02


def file_path(store: str, attempt: int) -> str:
    """Where the file of ``attempt`` is in a store."""
    return f"{store}/{attempt:x}"


def write_file(
    store: str, task: int, attempt: int, parts: Sequence[bytes | memoryview], spill: str = "", most: int = 0
) -> tuple[int, bytes]:
    """Write a value's bytes as one complete file; (size, digest).  ``OSError`` leaves nothing behind.

    Where the store has no room, or the value is larger than ``most`` (0: no bound), it goes to the folder ``spill``, and the
    store has a link to it.
    """
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    size = sum(len(part) for part in parts)
    header = pack_header(Stored(task, attempt, size, digest.digest()))
    folders = [store] if not spill or not most or size <= most else []
    for folder in (*folders, *([spill] if spill else ())):
        try:
            _write_hidden(folder, attempt, [header, *parts])
        except OSError as error:
            if folder == spill or not spill or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            continue
        if folder == spill:
            _link_spilled(store, spill, attempt)
        break
    return size, digest.digest()


def _write_hidden(folder: str, attempt: int, parts: Sequence[bytes | memoryview]) -> None:
    """A file of these parts, made visible when it is whole."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    hidden = f"{folder}/.{attempt:x}"
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(descriptor, parts)
        os.rename(hidden, file_path(folder, attempt))
    except BaseException:
        os.unlink(hidden)
        raise
    finally:
        os.close(descriptor)


def _link_spilled(store: str, spill: str, attempt: int) -> None:
    """The store's name for a file in the spill folder, in the place of one that was there."""
    link = f"{store}/.{attempt:x}-link"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)
    os.symlink(file_path(spill, attempt), link)
    os.rename(link, file_path(store, attempt))


def _write_all(descriptor: int, parts: Iterable[bytes | memoryview]) -> None:
    left = [memoryview(part).cast("B") for part in parts if len(part)]
    while left:
        written = os.writev(descriptor, left[:_MOST_PARTS])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def pack_header(stored: Stored) -> bytes:
    """The first bytes of a result file."""
    return _HEADER.pack(_MAGIC, stored.task, stored.attempt, stored.size, stored.digest)


def read_file(path: str) -> memoryview:
    """The value's bytes in a result file, mapped when there are many: what is written to them stays with the reader.

    Raises ``FileNotFoundError`` when there is no such file, ``ValueError`` when it is not one of ours.
    """
    with open(path, "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= _READ_UP_TO:
            view = memoryview(bytearray(stream.read()))
        else:  # a private map: a page is copied when it is first written to, and not before
            view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    if size < HEADER_BYTES or _HEADER.unpack_from(view)[0] != _MAGIC:
        raise ValueError(f"{path} is no result file")
    if _HEADER.unpack_from(view)[3] != size - HEADER_BYTES:
        raise ValueError(f"{path} has been cut")
    return view[HEADER_BYTES:]


def digest_of(data: Any) -> bytes:
    """The digest that files carry, of ``data`` (bytes-like)."""
    return bytes(xxhash.xxh3_128(data).digest())


#: Folders with these names belong to one process, and nobody will ever ask for them again when that is gone.
OF_ONE_PROCESS = ("unnamed-", "client-", "cluster-")

#: A folder without a lock, which is made a moment after the folder, is left alone for this many seconds.
YOUNG_S = 3600.0


def remove_leftovers(root: str, spill_root: str = "") -> list[str]:
    """Remove what processes that are dead have left in ``root``, and what belongs to it in ``spill_root``; the names.

    Stores of workers with names stay: such a worker may be started again.
    """
    removed = []
    for entry in list(os.scandir(root)):
        if entry.name.startswith(OF_ONE_PROCESS) and entry.is_dir(follow_symlinks=False) and is_abandoned(entry.path):
            for folder in (entry.path, f"{spill_root}/{entry.name}" if spill_root else ""):
                if folder:
                    shutil.rmtree(folder, ignore_errors=True)
            removed.append(entry.name)
    return removed


def is_abandoned(folder: str) -> bool:
    """Whether no living process holds the lock of a folder."""
    try:
        lock = os.open(f"{folder}/.lock", os.O_RDWR)
    except OSError:
        with contextlib.suppress(OSError):
            return time.time() - os.stat(folder).st_mtime > YOUNG_S
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(lock)


class Store:
    """The folder of one worker, and a folder on disk for what is spilled.  Making it takes the lock; ``close`` gives it up,
    ``destroy`` removes it all.

    Raises ``ConfigError`` when the folder can't be made or written, belongs to another user, or is in use.
    """

    def __init__(self, path: str, spill: str = "") -> None:
        self.path, self.spill_path = path, spill or os.path.join(tempfile.gettempdir(), f"spill-of{path.replace('/', '-')}")
        try:
            pathlib.Path(path).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(f"{path}/.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the store folder {path} can't be used: {error.strerror}; name another with --store") from None
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(LOCK_PAUSE_S)  # a neighbour may be saving what the worker before us has left here
        os.close(self._lock)
        raise ConfigError(f"the store folder {path} is in use by another worker; name another with --store")

    def take_inventory(self) -> tuple[list[Stored], list[str]]:
        """(the complete and right files that are there, what was wrong with others in words).

        Half-written files and those that do not fit their digest are removed; what is not ours is left alone.
        """
        return _inventory(self.path)

    def link(self, folder: str, stored: Stored) -> bool:
        """Have another store's file of this host in ours too, without copying where that is possible; whether it is here."""
        hidden = f"{self.path}/.{stored.attempt:x}-{os.urandom(4).hex()}"
        source = os.path.realpath(file_path(folder, stored.attempt))
        try:
            found = described(source)
            if found is None or found.digest != stored.digest:
                return False
            try:
                os.link(source, hidden)
            except OSError:  # another file system
                shutil.copyfile(source, hidden)
            os.rename(hidden, file_path(self.path, stored.attempt))
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):  # a rename between two names of one file does nothing
                os.unlink(hidden)
        return True

    def take(self, path: str, stored: Stored) -> bool:
        """Have a client's own file of this host in the store, as :meth:`link` does."""
        return self.link(os.path.dirname(path), stored) if os.path.basename(path) == f"{stored.attempt:x}" else False

    def rescue(self, folder: str) -> tuple[bool, list[Stored], list[int], list[str]]:
        """Take over the store of a worker whose process is dead.

        (whether it is dead, what is ours now, which of that is on disk, what was wrong with others in words).  Blocks while
        digests are checked.
        """
        try:
            lock = os.open(f"{folder}/.lock", os.O_RDWR)
        except OSError:
            return False, [], [], []
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False, [], [], []
        taken, spilled = [], []
        try:
            found, wrong = _inventory(folder)
            for stored in found:
                if self._move_from(folder, stored.attempt):
                    taken.append(stored)
                    if os.path.islink(file_path(self.path, stored.attempt)):
                        spilled.append(stored.attempt)
        finally:
            os.close(lock)
        return True, taken, spilled, wrong

    def _move_from(self, folder: str, attempt: int) -> bool:
        source = file_path(folder, attempt)
        try:
            if self.has(attempt):  # a copy of ours, or the same file under two names
                Store._remove(source)
                return True
            if not os.path.islink(source):
                hidden = f"{self.path}/.{attempt:x}-{os.urandom(4).hex()}"
                shutil.move(source, hidden)  # a copy where it is another file system
                os.rename(hidden, file_path(self.path, attempt))
                return True
            os.makedirs(self.spill_path, mode=0o700, exist_ok=True)
            target, hidden = os.readlink(source), f"{self.spill_path}/.{attempt:x}"
            shutil.move(target, hidden)
            self.put_spilled(hidden, attempt)
            os.unlink(source)
        except OSError:
            return False  # it stays where it is, for its own worker
        return True

    def spilled(self) -> list[int]:
        """The attempts whose files lie in the spill folder."""
        return [
            int(name, 16)
            for name in os.listdir(self.path)
            if not name.startswith(".") and os.path.islink(f"{self.path}/{name}")
        ]

    def spill(self, attempt: int) -> None:
        """Move a file to the spill folder; a link takes its place, so that its path is good for everybody as before.

        Blocks for as long as the copying takes.  ``FileNotFoundError`` when there is no such file; after any other ``OSError``
        the file is where it was.
        """
        os.makedirs(self.spill_path, mode=0o700, exist_ok=True)
        here, hidden = file_path(self.path, attempt), f"{self.spill_path}/.{attempt:x}"
        if os.path.islink(here):
            return
        try:
            shutil.copyfile(here, hidden)
            self.put_spilled(hidden, attempt)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(hidden)
            raise

    def put_spilled(self, hidden: str, attempt: int) -> None:
        """A whole file of the spill folder takes its place there, and in the store."""
        there = file_path(self.spill_path, attempt)
        os.rename(hidden, there)
        try:
            _link_spilled(self.path, self.spill_path, attempt)
        except BaseException:
            os.unlink(there)
            raise

    def spill_all(self, attempts: Iterable[int], done: list[int]) -> None:
        """Spill several, in order; ``done`` gets each that is on disk.  Files that are gone are no matter."""
        for attempt in attempts:
            with contextlib.suppress(FileNotFoundError):
                self.spill(attempt)
                done.append(attempt)

    def in_memory(self) -> bool:
        """Whether the store's files use memory rather than a disk."""
        return is_memory(self.path)

    def has(self, attempt: int) -> bool:
        return os.path.exists(file_path(self.path, attempt))

    def delete(self, attempts: Iterable[int]) -> None:
        """Remove files; those that are gone already are no matter."""
        for attempt in attempts:
            for path in (file_path(self.path, attempt), f"{self.path}/.{attempt:x}"):
                self._remove(path)

    @staticmethod
    def _remove(path: str) -> None:
        """Remove a file, and what it stands for where it is a link to the spill folder."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.islink(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.readlink(path))
            os.unlink(path)

    def close(self) -> None:
        """Let the folder go, with all that is in it."""
        os.close(self._lock)

    def destroy(self) -> None:
        """Remove every file and the folder itself (unless something foreign lies in it)."""
        with contextlib.suppress(FileNotFoundError):  # the owner of a cluster may be removing it at the same time
            for entry in list(os.scandir(self.path)):
                if entry.is_file(follow_symlinks=False) or entry.is_symlink():
                    os.unlink(entry.path)
            shutil.rmtree(self.spill_path, ignore_errors=True)
        with contextlib.suppress(OSError):  # something foreign lies in it
            os.rmdir(self.path)
        os.close(self._lock)


def _inventory(folder: str) -> tuple[list[Stored], list[str]]:
    """The complete and right files of a folder; others of ours are removed, and told of in words if they were damaged."""
    found, wrong = [], []
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        if os.path.islink(path) and not os.path.exists(path):
            os.unlink(path)  # what it stood for is gone
        if not os.path.isfile(path):
            continue
        if name.startswith("."):
            if name != ".lock":
                os.unlink(path)
            continue
        stored = described(path)
        if stored is None:
            if _is_ours(path):
                wrong.append(f"{name} has been cut")
                os.unlink(path)
            continue
        if is_right(path, stored):
            found.append(stored)
        else:
            wrong.append(f"{name} does not fit its digest")
            os.unlink(path)
    return found, wrong


def is_right(path: str, stored: Stored) -> bool:
    """Whether a result file's bytes fit the digest in its header."""
    try:
        view = read_file(path)
    except (OSError, ValueError):
        return False
    return digest_of(view) == stored.digest


def is_memory(path: str) -> bool:
    """Whether the file system at ``path`` is a tmpfs: the longest mount point that leads to it says so."""
    real, found, kind = os.path.realpath(path), "", ""
    try:
        with open("/proc/mounts") as stream:
            for line in stream:
                _, where, its_kind, *_ = line.split()
                if (real == where or real.startswith(where.rstrip("/") + "/")) and len(where) >= len(found):
                    found, kind = where, its_kind
    except OSError:
        return False
    return kind in ("tmpfs", "ramfs")


def _is_ours(path: str) -> bool:
    """Whether a file begins as result files do."""
    with open(path, "rb", buffering=0) as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def described(path: str) -> Stored | None:
    """What a file's header says; None when it is not a complete result file."""
    with open(path, "rb", buffering=0) as stream:
        head = stream.read(HEADER_BYTES)
        length = os.fstat(stream.fileno()).st_size
    if len(head) < HEADER_BYTES:
        return None
    magic, task, attempt, size, digest = _HEADER.unpack(head)
    if magic != _MAGIC or length != HEADER_BYTES + size:
        return None
    return Stored(task, attempt, size, digest)


def _has_room(folder: str, size: int) -> bool:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize >= size


class IncomingFile:
    """A file on its way to us, written from the start on, visible when it is whole and right.

    Where the store has no room it goes to the spill folder.  ``OSError`` when that has none either.  What can't be written
    later, when others have filled the disk meanwhile, is told by ``finish``: the sender goes on sending, and the connection is
    good for other files.
    """

    def __init__(self, store: Store, stored: Stored) -> None:
        self._store, self.stored, self.received = store, stored, 0
        self._folder = store.path
        if not _has_room(store.path, stored.size + HEADER_BYTES):
            self._folder = store.spill_path
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            if not _has_room(self._folder, stored.size + HEADER_BYTES):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._hidden = f"{self._folder}/.{self.stored.attempt:x}-{os.urandom(4).hex()}"
        self._descriptor = os.open(self._hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._begin()

    def _begin(self) -> None:
        self.received, self._digest = 0, xxhash.xxh3_128()
        self._trouble: OSError | None = None
        os.truncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        _write_all(self._descriptor, [pack_header(self.stored)])

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self.stored.size - self.received

    def write(self, data: bytes | memoryview) -> None:
        self.received += len(data)
        if self._trouble is None:
            self._digest.update(data)
            try:
                _write_all(self._descriptor, [data])
            except OSError as error:
                self._trouble = error

    def start_over(self) -> None:
        """What has come was wrong."""
        self._begin()

    def finish(self) -> bool:
        """Whether size and digest are right; then the file is visible.  Otherwise it can be filled again.

        ``OSError`` when it could not be written.
        """
        if self._trouble is not None:
            raise self._trouble
        if self.left or self._digest.digest() != self.stored.digest:
            return False
        self._close()
        if self._folder == self._store.path:
            os.rename(self._hidden, file_path(self._folder, self.stored.attempt))
        else:
            self._store.put_spilled(self._hidden, self.stored.attempt)
        return True

    def discard(self) -> None:
        """The transfer failed."""
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._hidden)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
