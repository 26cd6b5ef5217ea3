"""Spare files: large result files that nobody needs any more, kept for a while to be written again.

Writing into fresh memory costs a fault for each page, which on virtual machines takes longer than copying the data.  A spare
file has its pages.  It is written again only if it is certain that nobody sees that:

* It has one name, hidden in the folder ``.spare`` of its store.
* The kernel grants a write lease on a file only if nobody else has it open or mapped, in any process, also after a fork
  (``F_SETLEASE`` in fcntl(2)).  While the lease is held, whoever opens the file waits.
* Under the lease, the file loses its magic number.  Whoever looked up its old name before it was set aside, and opens it only
  now, finds no result file; and one of another attempt once it has been written again.  So every reader checks the header
  *after* opening the file, and whoever links a file does so after linking it.

Without leases (another system, another file system), there are no spare files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import time

#: The folder of spare files in a store.
FOLDER = ".spare"

#: Bytes.  Smaller files are not kept.
MIN_BYTES = 1 << 20

#: Bytes that a store keeps at most, and the number of files.
MAX_BYTES, MAX_FILES = 512 << 20, 64

#: Seconds after the last file was set aside until the spare files are removed.
KEEP_S = 10.0

#: The machine must have this many times a file's bytes available, in memory and in the file system, for it to be kept.
_RESERVE = 4

#: A spare file is taken for a value if neither is more than this many times as large as the other.
_MOST_UNLIKE = 2

_MAGIC_BYTES = 8


class Spares:
    """The spare files of one store, as its owner knows them; ``most`` bytes are kept at most."""

    def __init__(self, store: str, most: int = MAX_BYTES) -> None:
        self._folder, self.most = f"{store}/{FOLDER}", most
        self._sizes: dict[str, int] = {}

    def set_aside(self, path: str) -> bool:
        """Keep a file that nobody needs any more.  Return False if it is unsuitable or in use; then it is where it was."""
        try:
            found = os.lstat(path)
            size = found.st_size
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or not MIN_BYTES <= size <= self.most:
                return False
            if not _has_plenty(os.path.dirname(path), size) or not _is_unused(path):
                return False
            self._make_room(size)
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            name = f"{size:x}-{time.monotonic_ns():x}-{os.urandom(4).hex()}"
            os.rename(path, f"{self._folder}/{name}")
        except OSError:
            return False
        self._sizes[name] = size
        return True

    def size(self) -> int:
        """Return how many bytes the spare files have."""
        if self._sizes:
            there = set(_names(self._folder))
            self._sizes = {name: size for name, size in self._sizes.items() if name in there}
        return sum(self._sizes.values())

    def _make_room(self, size: int) -> None:
        """Remove the oldest files, so that another of ``size`` bytes may be kept."""
        used = self.size()
        while self._sizes and (used + size > self.most or len(self._sizes) >= MAX_FILES):
            oldest = next(iter(self._sizes))
            used -= self._sizes.pop(oldest)
            with contextlib.suppress(FileNotFoundError):  # taken in the meantime
                os.unlink(f"{self._folder}/{oldest}")

    def drop(self) -> None:
        """Remove all spare files."""
        self._sizes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def claim(store: str, size: int, path: str) -> int:
    """Give a spare file of a store that is fit for ``size`` bytes the name ``path``, where nothing may exist.

    Returns:
        Its descriptor, open for reading and writing: the file has ``size`` bytes of arbitrary content.  -1 if there is none.
    """
    folder = f"{store}/{FOLDER}"
    lengths = {name: _length(name) for name in _names(folder)}
    fit = [name for name, length in lengths.items() if size / _MOST_UNLIKE <= length <= size * _MOST_UNLIKE]
    for name in sorted(fit, key=lambda name: abs(lengths[name] - size)):
        try:
            os.rename(f"{folder}/{name}", path)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another process was faster
        if _take_over(descriptor):
            os.truncate(descriptor, size)
            return descriptor
        os.close(descriptor)
        os.unlink(path)
    return -1


def drop(store: str) -> bool:
    """Remove the spare files of a store, whoever owns it.  Return whether there were any."""
    names = _names(f"{store}/{FOLDER}")
    shutil.rmtree(f"{store}/{FOLDER}", ignore_errors=True)
    return bool(names)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _length(name: str) -> int:
    try:
        return int(name.partition("-")[0], 16)
    except ValueError:
        return 0  # not ours


def _has_plenty(folder: str, size: int) -> bool:
    """Return whether this machine can spare the memory."""
    space = os.statvfs(folder)
    if space.f_bavail * space.f_frsize < _RESERVE * size:
        return False
    with open("/proc/meminfo") as stream:
        for line in stream:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10 >= _RESERVE * size
    return False


def _is_unused(path: str) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _lease(descriptor)
        return True
    finally:
        os.close(descriptor)  # ends the lease


def _lease(descriptor: int) -> None:
    """Take a write lease.  ``OSError`` if somebody else has the file open or mapped, or if there are no leases here."""
    if not hasattr(fcntl, "F_SETLEASE"):
        raise OSError("there are no leases on this system")
    # Somebody who opens the file now makes the kernel send a signal, by default one that would end this process.
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def _take_over(descriptor: int) -> bool:
    """Invalidate an unused file.  Return False, and leave it as it was, if it is in use or has another name."""
    try:
        magic = os.pread(descriptor, _MAGIC_BYTES, 0)
        _lease(descriptor)
        os.pwrite(descriptor, bytes(_MAGIC_BYTES), 0)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    if os.fstat(descriptor).st_nlink != 1:  # it was linked a moment ago
        os.pwrite(descriptor, magic, 0)
        return False
    return True
