"""Result files: one complete file a result, found again after any crash, mapped without a copy.

A file is named by its attempt (hexadecimal) and holds a header of 64 bytes and then the value's bytes::

    b"TWDFILE1"  task (8)  attempt (8)  size (8)  xxh3-128 digest of the value (16)  16 zero bytes

Under memory pressure files move to a spill folder on disk, and a link takes their place.

It is written under a name that starts with a dot and made visible by rename, so that whatever has a proper name is whole
(up to flipped bits, which the digest shows).  The folder belongs to one living process, which holds a lock on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import pathlib
import shutil
import struct
import tempfile
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


def file_path(store: str, attempt: int) -> str:
    """Where the file of ``attempt`` is in a store."""
    return f"{store}/{attempt:x}"


def write_file(store: str, task: int, attempt: int, parts: Sequence[bytes | memoryview]) -> tuple[int, bytes]:
    """Write a value's bytes as one complete file; (size, digest).  ``OSError`` leaves nothing behind."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    size = sum(len(part) for part in parts)
    header = _HEADER.pack(_MAGIC, task, attempt, size, digest.digest())
    hidden = f"{store}/.{attempt:x}"
    descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write_all(descriptor, [header, *parts])
        os.rename(hidden, file_path(store, attempt))
    except BaseException:
        os.unlink(hidden)
        raise
    finally:
        os.close(descriptor)
    return size, digest.digest()


def _write_all(descriptor: int, parts: Iterable[bytes | memoryview]) -> None:
    left = [memoryview(part).cast("B") for part in parts if len(part)]
    while left:
        written = os.writev(descriptor, left[:_MOST_PARTS])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if written:
            left[0] = left[0][written:]


def read_file(path: str) -> memoryview:
    """The value's bytes in a result file, mapped read-only when there are many.

    Raises ``FileNotFoundError`` when there is no such file, ``ValueError`` when it is not one of ours.
    """
    with open(path, "rb", buffering=0) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= _READ_UP_TO:
            view = memoryview(stream.read())
        else:
            view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    if size < HEADER_BYTES or _HEADER.unpack_from(view)[0] != _MAGIC:
        raise ValueError(f"{path} is no result file")
    return view[HEADER_BYTES:]


def digest_of(data: Any) -> bytes:
    """The digest that files carry, of ``data`` (bytes-like)."""
    return bytes(xxhash.xxh3_128(data).digest())


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
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigError(f"the store folder {path} is in use by another worker; name another with --store") from None

    def inventory(self) -> list[Stored]:
        """The complete files that are there; half-written ones are removed, and what is not ours is left alone."""
        found = []
        for name in sorted(os.listdir(self.path)):
            path = f"{self.path}/{name}"
            if os.path.islink(path) and not os.path.exists(path):
                os.unlink(path)  # what it stood for is gone
            if not os.path.isfile(path):
                continue
            if name.startswith(".") and name != ".lock":
                os.unlink(path)
            elif not name.startswith("."):
                stored = _described(path)
                if stored is not None:
                    found.append(stored)
        return found

    def spilled(self) -> list[int]:
        """The attempts whose files lie in the spill folder."""
        return [int(name, 16) for name in os.listdir(self.path)
                if not name.startswith(".") and os.path.islink(f"{self.path}/{name}")]  # fmt: skip

    def spill(self, attempt: int) -> None:
        """Move a file to the spill folder; a link takes its place, so that its path is good for everybody as before.

        Blocks for as long as the copying takes.  ``FileNotFoundError`` when there is no such file; after any other ``OSError``
        the file is where it was.
        """
        pathlib.Path(self.spill_path).mkdir(parents=True, exist_ok=True, mode=0o700)
        here, there = file_path(self.path, attempt), file_path(self.spill_path, attempt)
        hidden, link = f"{self.spill_path}/.{attempt:x}", f"{self.path}/.{attempt:x}-link"
        try:
            shutil.copyfile(here, hidden)
            os.rename(hidden, there)
            os.symlink(there, link)
            os.rename(link, here)
        except BaseException:
            for path in (hidden, there, link):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            raise

    def spill_all(self, attempts: Iterable[int], done: list[int]) -> None:
        """Spill several, in order; ``done`` gets each that is on disk.  Files that are gone are no matter."""
        for attempt in attempts:
            with contextlib.suppress(FileNotFoundError):
                self.spill(attempt)
                done.append(attempt)

    def in_memory(self) -> bool:
        """Whether the store's files use memory rather than a disk."""
        return _is_memory(self.path)

    def has(self, attempt: int) -> bool:
        return os.path.exists(file_path(self.path, attempt))

    def delete(self, attempts: Iterable[int]) -> None:
        """Remove files; those that are gone already are no matter."""
        for attempt in attempts:
            for path in (file_path(self.path, attempt), f"{self.path}/.{attempt:x}"):
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


def _is_memory(path: str) -> bool:
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


def _described(path: str) -> Stored | None:
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


class IncomingFile:
    """A file that another worker sends us, written piece by piece and made visible when whole and right."""

    def __init__(self, store: str, stored: Stored) -> None:
        self.stored, self.received = stored, 0
        self._hidden = f"{store}/.{stored.attempt:x}"
        self._path = file_path(store, stored.attempt)
        self._digest = xxhash.xxh3_128()
        self._descriptor = os.open(self._hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(self._descriptor, _HEADER.pack(_MAGIC, stored.task, stored.attempt, stored.size, stored.digest))

    def write(self, data: bytes) -> None:
        self.received += len(data)
        self._digest.update(data)
        _write_all(self._descriptor, [data])

    def finish(self) -> bool:
        """Whether size and digest are right; then the file is visible, otherwise it is gone."""
        self._close()
        if self.received == self.stored.size and self._digest.digest() == self.stored.digest:
            os.rename(self._hidden, self._path)
            return True
        os.unlink(self._hidden)
        return False

    def discard(self) -> None:
        """The transfer failed."""
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._hidden)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
