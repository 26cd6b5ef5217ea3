"""Small disks that can be filled: file systems in memory, mounted for one cluster.  No disk of the user is ever filled."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator

from twistdist.chaos.memory import free_memory
from twistdist.chaos.victims import NoVictim

#: The size of each disk: a share of the free memory, and the largest and smallest number of bytes.
SHARE, MAX_BYTES, MIN_BYTES = 0.10, 1 << 30, 4 << 20

#: Kind of fault -> the option of the cluster that names a place on the disk.
_OPTIONS = {"disk": "spill", "journal": "journal"}

#: The kinds of faults that need a small disk.
KINDS = tuple(_OPTIONS)

#: Bytes written at a time where space can't be reserved.
_CHUNK = bytes(64 << 10)


class SmallDisk:
    """A mounted folder.  ``fill`` makes it full, ``empty`` ends that."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._filler = os.path.join(folder, "filler")

    def fill(self) -> int:
        """Use up all free space, and return how many bytes that were.

        Raises:
            NoVictim: It is full already.
        """
        if os.path.exists(self._filler):
            raise NoVictim("the disk is full already")
        written = 0
        with open(self._filler, "wb", buffering=0) as stream, contextlib.suppress(OSError):  # the file system is full
            free = os.statvfs(self.folder)
            if free.f_bavail:
                os.posix_fallocate(stream.fileno(), 0, free.f_bavail * free.f_frsize)
                written = free.f_bavail * free.f_frsize
                stream.seek(written)
            while written <= MAX_BYTES:  # what was freed meanwhile
                written += stream.write(_CHUNK)
        return written

    def empty(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._filler)


@contextlib.contextmanager
def small_disks(kinds: Iterable[str]) -> Iterator[dict[str, SmallDisk]]:
    """Mount a disk for each of the kinds ``disk`` and ``journal`` that is among ``kinds``; they go at the end of the block.

    Raises:
        OSError: No file system can be mounted here.
    """
    with contextlib.ExitStack() as stack:
        disks = {}
        for kind in kinds:
            if kind in _OPTIONS:
                disks[kind] = SmallDisk(stack.enter_context(_mounted(kind)))
        yield disks


def places(disks: dict[str, SmallDisk]) -> dict[str, str]:
    """Return the options of a ``LocalCluster`` that puts its files on the disks."""
    return {_OPTIONS[kind]: os.path.join(disk.folder, _OPTIONS[kind]) for kind, disk in disks.items()}


def why_unavailable() -> str:
    """Return why no disk can be mounted here; "" if one can."""
    try:
        with _mounted("disk"):
            return ""
    except OSError as error:
        return str(error)


@contextlib.contextmanager
def _mounted(kind: str) -> Iterator[str]:
    size = int(min(MAX_BYTES, max(MIN_BYTES, SHARE * free_memory())))
    folder = tempfile.mkdtemp(prefix=f"twistdist-chaos-{kind}-")
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise OSError("no file system can be mounted here: there is no mount command") from error
        if done.returncode:
            raise OSError(f"no file system can be mounted here (it needs root): {done.stderr.strip()}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    finally:
        os.rmdir(folder)
