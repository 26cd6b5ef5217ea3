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
import mmap
import os
import struct
from collections.abc import Iterable, Sequence
from threading import Thread
from typing import Any

import xxhash

from twistdist.storage import spares
from twistdist.wire.messages import Stored

HEADER_BYTES = 64
_HEADER = struct.Struct("<8sQQQ16s16x")
_MAGIC = b"TWDFILE1"

#: Bytes.  Files up to this size are read, larger ones are mapped: a map costs about 10 µs and pins a file.
_READ_UP_TO = 64 << 10
_MOST_PARTS = 512


def file_path(store: str, attempt: int) -> str:
    """Return the path of the file of ``attempt`` in a store."""
    return f"{store}/{attempt:x}"


#: Bytes.  The digest of a larger value is computed in a thread while the value is written.
_THREAD_FROM_BYTES = 4 << 20

Parts = Sequence[bytes | memoryview]


def write_file(
    store: str, task: int, attempt: int, parts: Parts, spill: str = "", most: int = 0, spare: str = "", digest: bytes = b""
) -> tuple[int, bytes]:
    """Write a value's bytes as one complete file.

    If the store has no room, or the value is larger than ``most`` bytes (0: no bound), the file goes to the folder ``spill``
    and the store gets a link to it.  A spare file of the folder ``spare`` (default: the store) is used if there is one.
    ``digest`` is the value's digest if that is known.

    Returns:
        (size in bytes, digest) of the value.

    Raises:
        OSError: the file could not be written; nothing is left behind.
    """
    size = sum(map(len, parts))
    fits = not spill or not most or size <= most
    with _Digest(parts, size, digest) as computed:
        spilled = False
        try:
            if not fits:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            descriptor, hidden = _write_hidden(store, attempt, parts, size, spare or store)
        except OSError as error:
            if not spill or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            spilled = True
            descriptor, hidden = _write_hidden(spill, attempt, parts, size, "")
        stored = Stored(task, attempt, size, computed.value())
        _show(descriptor, hidden, stored, spill if spilled else store)
    if spilled:
        link_spilled(store, spill, attempt)
    return size, stored.digest


class _Digest:
    """The digest of a value.  That of a large one is computed in a thread during the block, unless it is ``known``."""

    def __init__(self, parts: Parts, size: int, known: bytes) -> None:
        self._parts, self._digest, self._known = parts, xxhash.xxh3_128(), known
        beside = size > _THREAD_FROM_BYTES and not known
        self._thread = Thread(target=self._compute, name="twistdist digest", daemon=True) if beside else None

    def __enter__(self) -> _Digest:
        try:
            if self._thread is not None:
                self._thread.start()
        except RuntimeError:  # no more threads are allowed
            self._thread = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()

    def _compute(self) -> None:
        for part in self._parts:
            self._digest.update(part)

    def value(self) -> bytes:
        if self._known:
            return self._known
        if self._thread is not None:
            self._thread.join()
        else:
            self._compute()
        return self._digest.digest()


def _write_hidden(folder: str, attempt: int, parts: Parts, size: int, spare: str) -> tuple[int, str]:
    """Write a file of these parts under a hidden name, its header still blank.  Return its descriptor and that name."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    hidden = f"{folder}/.{attempt:x}"
    descriptor = -1
    try:
        if spare and size >= spares.MIN_BYTES:
            descriptor = spares.claim(spare, HEADER_BYTES + size, hidden)
        if descriptor < 0:
            descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(descriptor, [bytes(HEADER_BYTES), *parts])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not spare or not spares.drop(spare):
                raise
            os.lseek(descriptor, 0, os.SEEK_SET)
            write_all(descriptor, [bytes(HEADER_BYTES), *parts])
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)
        raise
    return descriptor, hidden


def _show(descriptor: int, hidden: str, stored: Stored, folder: str) -> None:
    """Write the header of a file that is otherwise complete, and make it visible."""
    try:
        os.pwrite(descriptor, pack_header(stored), 0)
        os.rename(hidden, file_path(folder, stored.attempt))
    except BaseException:
        os.unlink(hidden)
        raise
    finally:
        os.close(descriptor)


def link_spilled(store: str, spill: str, attempt: int) -> None:
    """Give a file in the spill folder its name in the store, replacing any file of that name."""
    link = f"{store}/.{attempt:x}-link"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)
    os.symlink(file_path(spill, attempt), link)
    os.rename(link, file_path(store, attempt))


def write_all(descriptor: int, parts: Iterable[bytes | memoryview]) -> None:
    """Write all parts, one after the other."""
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


def read_file(path: str, attempt: int) -> memoryview:
    """Return the value's bytes in the result file of ``attempt``.  Large ones are mapped; what is written to them stays private
    to the reader.

    A spilled file is checked by its digest, since disks and their drivers flip bits; one in memory is trusted as memory is.

    Raises:
        OSError: the file can't be opened or read; ``FileNotFoundError`` if it does not exist.
        ValueError: it is not a result file, is truncated or damaged, or is that of another attempt, written over this one.
    """
    value, digest = _read(path, attempt)
    if os.path.islink(path) and digest_of(value) != digest:
        raise ValueError(f"{path} does not match its digest")
    return value


def _read(path: str, attempt: int) -> tuple[memoryview, bytes]:
    """Return the value's bytes in a result file, and the digest that they should have."""
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
    if _HEADER.unpack_from(view)[2] != attempt:
        raise ValueError(f"{path} is the result of another attempt")
    return view[HEADER_BYTES:], _HEADER.unpack_from(view)[4]


def digest_of(data: Any) -> bytes:
    """Return the digest of ``data`` (bytes-like) as result files carry it."""
    return bytes(xxhash.xxh3_128(data).digest())


def is_right(path: str, stored: Stored) -> bool:
    """Return whether a result file's bytes match the digest in its header."""
    try:
        value, _ = _read(path, stored.attempt)
    except (OSError, ValueError):
        return False
    return digest_of(value) == stored.digest


def is_ours(path: str) -> bool:
    """Return whether a file starts like a result file."""
    with open(path, "rb", buffering=0) as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def described(path: str) -> Stored | None:
    """Return what a file's header says, or None if it is not a complete result file.  ``OSError`` if it can't be read."""
    with open(path, "rb", buffering=0) as stream:
        return described_open(stream.fileno())


def described_open(descriptor: int) -> Stored | None:
    """Return the same of an open file."""
    head, length = os.pread(descriptor, HEADER_BYTES, 0), os.fstat(descriptor).st_size
    if len(head) < HEADER_BYTES:
        return None
    magic, task, attempt, size, digest = _HEADER.unpack(head)
    if magic != _MAGIC or length != HEADER_BYTES + size:
        return None
    return Stored(task, attempt, size, digest)


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
