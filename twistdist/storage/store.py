"""Result files: one complete file per result, which survives any crash and is mapped without a copy.

A file is named after its attempt (hexadecimal) and holds a header of 64 bytes followed by the value's bytes::

    b"TWDFILE1"  task (8)  attempt (8)  size (8)  xxh3-128 digest of the value (16)  16 zero bytes

Under memory pressure files move to a spill folder on disk, and links take their place.

A file is written under a name that starts with a dot and made visible by renaming it, so a file with a proper name is complete
(except for flipped bits, which the digest reveals).  The folder belongs to one living process, which holds a lock on it.
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

#: Bytes.  Files up to this size are read, larger ones are mapped: a map costs about 10 µs and pins a file.
_READ_UP_TO = 64 << 10
_MOST_PARTS = 512

#: Number of attempts to take a store's lock, and seconds between two of them.
LOCK_TRIES, LOCK_PAUSE_S = 100, 0.02


def file_path(store: str, attempt: int) -> str:
    """Return the path of the file of ``attempt`` in a store."""
    return f"{store}/{attempt:x}"


def write_file(
    store: str, task: int, attempt: int, parts: Sequence[bytes | memoryview], spill: str = "", most: int = 0
) -> tuple[int, bytes]:
    """Write a value's bytes as one complete file.

    If the store has no room, or the value is larger than ``most`` bytes (0: no bound), the file goes to the folder ``spill``
    and the store gets a link to it.

    Returns:
        (size in bytes, digest) of the value.

    Raises:
        OSError: the file could not be written; nothing is left behind.
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
    """Write a file of these parts and make it visible when it is complete."""
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
    """Give a file in the spill folder its name in the store, replacing any file of that name."""
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
    """Return the header of a result file."""
    return _HEADER.pack(_MAGIC, stored.task, stored.attempt, stored.size, stored.digest)


def read_file(path: str) -> memoryview:
    """Return the value's bytes in a result file.  Large ones are mapped; what is written to them stays private to the reader.

    Raises:
        OSError: the file can't be opened or read; ``FileNotFoundError`` if it does not exist.
        ValueError: it is not a result file, or is truncated.
    """
    with open(path, "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= _READ_UP_TO:
            view = memoryview(bytearray(stream.read()))
        else:  # a private map: a page is copied only when it is first written to
            view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    if size < HEADER_BYTES or _HEADER.unpack_from(view)[0] != _MAGIC:
        raise ValueError(f"{path} is not a result file")
    if _HEADER.unpack_from(view)[3] != size - HEADER_BYTES:
        raise ValueError(f"{path} is truncated")
    return view[HEADER_BYTES:]


def digest_of(data: Any) -> bytes:
    """Return the digest of ``data`` (bytes-like) as result files carry it."""
    return bytes(xxhash.xxh3_128(data).digest())


#: Folders with these prefixes belong to one process; once that is gone, nothing will ask for them again.
OF_ONE_PROCESS = ("unnamed-", "client-", "cluster-")

#: Seconds for which a folder without a lock is left alone: the lock is created a moment after the folder.
YOUNG_S = 3600.0


def remove_leftovers(root: str, spill_root: str = "") -> list[str]:
    """Remove the folders that dead processes left in ``root``, and those of the same names in ``spill_root``.

    Stores of named workers stay: such a worker may be started again.

    Returns:
        The names of the folders removed.
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
    """Return whether no living process holds the lock of a folder."""
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
    """The folder of one worker, and a folder on disk for spilled files.  The constructor takes the folder's lock; ``close``
    releases it, and ``destroy`` removes everything.

    Raises:
        ConfigError: the folder can't be created or written, belongs to another user, or is in use.
    """

    def __init__(self, path: str, spill: str = "") -> None:
        self.path, self.spill_path = path, spill or os.path.join(tempfile.gettempdir(), f"spill-of{path.replace('/', '-')}")
        try:
            pathlib.Path(path).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(f"{path}/.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"the store folder {path} can't be used: {error.strerror}; choose another with --store") from None
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                time.sleep(LOCK_PAUSE_S)  # a neighbour may be rescuing what the previous worker left here
        os.close(self._lock)
        raise ConfigError(
            f"the store folder {path} is in use: another worker on this machine has the same name; choose another --name"
        )

    def take_inventory(self) -> tuple[list[Stored], list[str]]:
        """Check all files of the store.

        Half-written, truncated and damaged files are removed; files that are not ours are left alone.

        Returns:
            (the complete and correct files, what was wrong with others in words).
        """
        return _inventory(self.path)

    def link(self, folder: str, stored: Stored) -> bool:
        """Add a file of another store on this host to ours, without copying if possible.  Return whether it is here now."""
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
        """Add a client's own file on this host to the store, as :meth:`link` does.  Return whether it is here now."""
        return self.link(os.path.dirname(path), stored) if os.path.basename(path) == f"{stored.attempt:x}" else False

    def rescue(self, folder: str) -> tuple[bool, list[Stored], list[int], list[str]]:
        """Take over the store of a worker whose process is dead.  Blocks while digests are checked.

        Returns:
            (whether the process is dead, the files that are ours now, the attempts of those on disk, what was wrong with
            others in words).
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
            if self.has(attempt):  # we have a copy, or the same file under two names
                Store._remove(source)
                return True
            if not os.path.islink(source):
                hidden = f"{self.path}/.{attempt:x}-{os.urandom(4).hex()}"
                shutil.move(source, hidden)  # copies if it is another file system
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
        """Return the attempts whose files are in the spill folder."""
        return [
            int(name, 16)
            for name in os.listdir(self.path)
            if not name.startswith(".") and os.path.islink(f"{self.path}/{name}")
        ]

    def spill(self, attempt: int) -> None:
        """Move a file to the spill folder.  A link takes its place, so its path stays valid for everybody.

        Blocks while the file is copied.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: the file could not be moved and is where it was.
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
        """Give a complete file of the spill folder its name there and in the store."""
        there = file_path(self.spill_path, attempt)
        os.rename(hidden, there)
        try:
            _link_spilled(self.path, self.spill_path, attempt)
        except BaseException:
            os.unlink(there)
            raise

    def spill_all(self, attempts: Iterable[int], done: list[int]) -> None:
        """Spill several files in order; add each attempt whose file is on disk to ``done``.  Missing files are ignored."""
        for attempt in attempts:
            with contextlib.suppress(FileNotFoundError):
                self.spill(attempt)
                done.append(attempt)

    def in_memory(self) -> bool:
        """Return whether the store's files use memory rather than a disk."""
        return is_memory(self.path)

    def has(self, attempt: int) -> bool:
        return os.path.exists(file_path(self.path, attempt))

    def delete(self, attempts: Iterable[int]) -> None:
        """Remove files; missing ones are ignored."""
        for attempt in attempts:
            for path in (file_path(self.path, attempt), f"{self.path}/.{attempt:x}"):
                self._remove(path)

    @staticmethod
    def _remove(path: str) -> None:
        """Remove a file and, if it is a link to the spill folder, its target."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.islink(path):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.readlink(path))
            os.unlink(path)

    def close(self) -> None:
        """Release the folder; its files stay."""
        os.close(self._lock)

    def destroy(self) -> None:
        """Remove every file, and the folder itself unless it contains something foreign."""
        with contextlib.suppress(FileNotFoundError):  # the owner of a cluster may be removing it at the same time
            for entry in list(os.scandir(self.path)):
                if entry.is_file(follow_symlinks=False) or entry.is_symlink():
                    os.unlink(entry.path)
            shutil.rmtree(self.spill_path, ignore_errors=True)
        with contextlib.suppress(OSError):  # it contains something foreign
            os.rmdir(self.path)
        os.close(self._lock)


def _inventory(folder: str) -> tuple[list[Stored], list[str]]:
    """Return the complete and correct files of a folder, and a description of each damaged one.

    All other files of ours are removed.
    """
    found, wrong = [], []
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        if os.path.islink(path) and not os.path.exists(path):
            os.unlink(path)  # its target is gone
        if not os.path.isfile(path):
            continue
        if name.startswith("."):
            if name != ".lock":
                os.unlink(path)
            continue
        stored = described(path)
        if stored is None:
            if _is_ours(path):
                wrong.append(f"{name} is truncated")
                os.unlink(path)
            continue
        if is_right(path, stored):
            found.append(stored)
        else:
            wrong.append(f"{name} does not match its digest")
            os.unlink(path)
    return found, wrong


def is_right(path: str, stored: Stored) -> bool:
    """Return whether a result file's bytes match the digest in its header."""
    try:
        view = read_file(path)
    except (OSError, ValueError):
        return False
    return digest_of(view) == stored.digest


def is_memory(path: str) -> bool:
    """Return whether the file system at ``path`` is a tmpfs, according to the longest mount point that leads to it."""
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
    """Return whether a file starts like a result file."""
    with open(path, "rb", buffering=0) as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def described(path: str) -> Stored | None:
    """Return what a file's header says, or None if it is not a complete result file.  ``OSError`` if it can't be read."""
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
    """A file being received: written as it arrives, visible when it is complete and correct.

    If the store has no room, the file goes to the spill folder; ``OSError`` if that has none either.  ``finish`` reports what
    could not be written later because the disk filled up in the meantime: the sender continues to send, and the connection
    stays usable for other files.
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
        """The number of bytes still to be received."""
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
        """Receive the file again from the start: what arrived was wrong."""
        self._begin()

    def finish(self) -> bool:
        """Make the file visible if its size and digest are correct.  Otherwise it can be received again.

        Returns:
            Whether the file was correct.

        Raises:
            OSError: the file could not be written.
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
        """Remove the file: the transfer failed."""
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._hidden)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
