"""The folders of result files (:mod:`.files`): each belongs to one living process, which holds a lock on it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterable

import xxhash

from twistdist.errors import ConfigError
from twistdist.storage import spares
from twistdist.storage.files import (
    HEADER_BYTES,
    described,
    file_path,
    is_memory,
    is_ours,
    is_right,
    link_spilled,
    pack_header,
    write_all,
)
from twistdist.wire.messages import Stored

#: Number of attempts to take a store's lock, and seconds between two of them.
LOCK_TRIES, LOCK_PAUSE_S = 100, 0.02


#: Folders with these prefixes belong to one process; once that is gone, nothing will ask for them again.
OF_ONE_PROCESS = ("unnamed-", "client-", "cluster-")

#: Folders with this prefix belong to a worker of a cluster of jobs, which may be started again on this machine.
OF_A_CLUSTER = "of-"

#: Seconds for which a folder without a lock is left alone: the lock is created a moment after the folder.
YOUNG_S = 3600.0


def remove_leftovers(root: str, spill_root: str = "") -> list[str]:
    """Remove the folders that dead processes left in ``root``, and those of the same names in ``spill_root``.

    Stores of named workers stay: such a worker may be started again.  Those of workers that belong to a cluster of jobs stay
    for an hour.

    Returns:
        The names of the folders removed.
    """
    removed = []
    for entry in list(os.scandir(root)):
        goes = entry.name.startswith(OF_ONE_PROCESS) or (entry.name.startswith(OF_A_CLUSTER) and _is_old(entry.path))
        if goes and entry.is_dir(follow_symlinks=False) and is_abandoned(entry.path):
            for folder in (entry.path, f"{spill_root}/{entry.name}" if spill_root else ""):
                if folder:
                    shutil.rmtree(folder, ignore_errors=True)
            removed.append(entry.name)
    return removed


def _is_old(folder: str) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - os.stat(folder).st_mtime > YOUNG_S
    return False


def is_abandoned(folder: str) -> bool:
    """Return whether no living process holds the lock of a folder."""
    try:
        lock = os.open(f"{folder}/.lock", os.O_RDWR)
    except OSError:
        return _is_old(folder)
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
        self.spares = spares.Spares(path)
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
            if described(hidden) != stored:  # its owner has set it aside in the meantime (see spares)
                return False
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
            link_spilled(self.path, self.spill_path, attempt)
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

    def look_for(self, attempts: Iterable[int]) -> tuple[list[int], list[str]]:
        """Look for files that somebody could not fetch or read.  Damaged ones are removed.  Blocks while digests are computed.

        Returns:
            (the attempts whose files are not here, what was wrong with those that were removed, in words).
        """
        absent: list[int] = []
        wrong: list[str] = []
        for attempt in attempts:
            path = file_path(self.path, attempt)
            try:
                stored = described(path)
            except OSError:
                absent.append(attempt)
                continue
            if stored is None or not is_right(path, stored):
                if self.has(attempt):  # it may have been deleted, and written over, meanwhile
                    wrong.append(f"{attempt:x} does not match its digest")
                self.delete([attempt])
                absent.append(attempt)
        return absent, wrong

    def delete(self, attempts: Iterable[int]) -> None:
        """Remove files; missing ones are ignored.  Large ones may be kept as spare files."""
        for attempt in attempts:
            if not self.spares.set_aside(file_path(self.path, attempt)):
                self._remove(file_path(self.path, attempt))
            self._remove(f"{self.path}/.{attempt:x}")

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
            self.spares.drop()
            shutil.rmtree(self.spill_path, ignore_errors=True)
        with contextlib.suppress(OSError):  # it contains something foreign
            os.rmdir(self.path)
        os.close(self._lock)


def _inventory(folder: str) -> tuple[list[Stored], list[str]]:
    """Return the complete and correct files of a folder, and a description of each damaged one.

    All other files of ours are removed.
    """
    found, wrong = [], []
    spares.drop(folder)
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
            if is_ours(path):
                wrong.append(f"{name} is truncated")
                os.unlink(path)
            continue
        if is_right(path, stored):
            found.append(stored)
        else:
            wrong.append(f"{name} does not match its digest")
            os.unlink(path)
    return found, wrong


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
        length = stored.size + HEADER_BYTES
        if not _has_room(store.path, length):
            store.spares.drop()
        if not _has_room(store.path, length):
            self._folder = store.spill_path
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            if not _has_room(self._folder, length):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._hidden = f"{self._folder}/.{self.stored.attempt:x}-{os.urandom(4).hex()}"
        self._descriptor = -1
        if self._folder == store.path and length >= spares.MIN_BYTES:
            self._descriptor = spares.claim(store.path, length, self._hidden)
        if self._descriptor < 0:
            self._descriptor = os.open(self._hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._begin()

    def _begin(self) -> None:
        self.received, self._digest = 0, xxhash.xxh3_128()
        self._trouble: OSError | None = None
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_all(self._descriptor, [pack_header(self.stored)])

    @property
    def left(self) -> int:
        """The number of bytes still to be received."""
        return self.stored.size - self.received

    def target(self, count: int) -> None:
        """Nothing is received into memory of ours."""

    def arrived(self, count: int) -> None:
        raise NotImplementedError

    def write(self, data: bytes | memoryview) -> None:
        self.received += len(data)
        if self._trouble is None:
            self._digest.update(data)
            try:
                write_all(self._descriptor, [data])
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
