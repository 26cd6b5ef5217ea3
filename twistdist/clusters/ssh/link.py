"""What ssh runs on a host: ``python -m twistdist.clusters.ssh.link CLUSTER [ROOT]``.

It carries lines between its standard input and output and the socket of the host's :mod:`.keeper`, which it starts if there is
none, and ends with its connection.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import BinaryIO

from twistdist.clusters.ssh.keeper import Keeper
from twistdist.clusters.ssh.kept import NAME

#: Seconds that the jobs of a keeper that was killed have to leave by themselves, and how long a link tries to get a keeper.
ORPHANS_S, LINK_S = 15.0, 40.0


def default_root() -> str:
    """Return the folder in which the folders of clusters are made."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "twistdist")


class _Folder:
    """The folder of the keeper of ``cluster`` on this host; hosts may share a home."""

    def __init__(self, root: str, cluster: str) -> None:
        self.path = pathlib.Path(root, cluster, re.sub(r"[^A-Za-z0-9_.-]", "_", socket.gethostname()) or "host")

    def connect(self) -> socket.socket | None:
        """Return a connection to the keeper that has said a word, with nothing read of it; None if there is no keeper."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5.0)
        before = os.open(".", os.O_RDONLY)
        try:
            os.chdir(self.path)  # a path longer than 107 bytes can't be a socket's
            connection.connect("socket")
            if connection.recv(1, socket.MSG_PEEK):
                connection.settimeout(None)
                return connection
        except OSError:
            pass
        finally:
            os.fchdir(before)
            os.close(before)
        connection.close()
        return None

    def lock(self) -> int | None:
        """Return the descriptor of the lock, or None if a keeper or one of its jobs has it."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(self.path / "lock").st_ino == os.fstat(lock).st_ino:
                return lock
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOENT):
                raise
        os.close(lock)
        return None

    def start_keeper(self, lock: int) -> None:
        """Fork the keeper; it listens when this returns."""
        for left in (self.path / "socket", *self.path.glob("jobs/*/pid")):  # by a keeper that was killed
            with contextlib.suppress(FileNotFoundError):
                left.unlink()
        listener = socket.socket(socket.AF_UNIX)
        os.chdir(self.path)
        listener.bind("socket")
        os.chdir(os.path.expanduser("~"))
        listener.listen(16)
        if os.fork():
            listener.close()
            os.close(lock)
            return
        status = 1
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            log = os.open(self.path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for number, source in enumerate((null, log, log)):
                os.dup2(source, number)
            Keeper(self.path, lock, listener).run()
            status = 0
        except Exception:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(status)

    def end_orphans(self) -> None:
        """Kill what is left of a keeper that was killed: its jobs were told to leave by its death, and have not."""
        for file in self.path.glob("jobs/*/pid"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(file.read_text())
                asked = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, timeout=10)
                if "twistdist.tap.__main__" in asked.stdout:  # and no other process that got its number
                    os.kill(pid, signal.SIGKILL)


def connect(folder: _Folder) -> socket.socket:
    """Return a connection to the keeper; start one if there is none.  ``SystemExit`` if that is not possible."""
    began = time.monotonic()
    killed = False
    while time.monotonic() - began < LINK_S:
        connection = folder.connect()
        if connection is not None:
            return connection
        lock = folder.lock()
        if lock is not None:
            folder.start_keeper(lock)
            continue
        if time.monotonic() - began > ORPHANS_S and not killed:
            killed = True
            folder.end_orphans()
        time.sleep(0.1)
    raise SystemExit(f"twistdist: no keeper could be started in {folder.path}: another process has its lock")


def relay(connection: socket.socket, source: int, target: BinaryIO) -> None:
    """Carry bytes both ways until one side ends."""
    target.write(b"\n")  # ends what the user's shell may have written
    target.flush()
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    selector.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is connection:
                data = connection.recv(64 << 10)
                if data:
                    target.write(data)
                    target.flush()
            else:
                data = os.read(source, 64 << 10)
                connection.sendall(data)
            if not data:
                return


def main(arguments: Sequence[str]) -> None:
    """Entry point of the link."""
    os.umask(0o077)
    cluster, root = arguments[0], os.path.expanduser(arguments[1]) if len(arguments) > 1 else default_root()
    if not re.fullmatch(NAME, cluster):
        raise SystemExit(f"twistdist: {cluster!r} can't be the name of a cluster")
    try:
        connection = connect(_Folder(os.path.abspath(root), cluster))
        relay(connection, 0, sys.stdout.buffer)
    except (BrokenPipeError, ConnectionError):
        os._exit(1)  # nobody is there to read why
    except OSError as error:
        raise SystemExit(f"twistdist: no keeper could be started in {root}: {error}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
