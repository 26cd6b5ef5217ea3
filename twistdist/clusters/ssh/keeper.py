"""Keeps the jobs of one cluster on one host, for :mod:`.cluster`.

The keeper is a daemon: the parent of the jobs.  It outlives connections, so a program that connects again finds its jobs as
they are.  A job belongs to an owner: one program with one cluster.  If nothing is heard of it for its ``grace`` (its machine
is gone, or the network), the keeper ends its jobs.  Without a grace they stay until they are told to end.

If the keeper itself is killed, its jobs leave.  They share the lock of its folder, so none of them runs beside one of the next
keeper.  Orders and answers are lines of JSON on connections of its socket; :mod:`.link` carries them to ssh.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import re
import selectors
import shutil
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import twistdist
from twistdist.clusters.ssh.kept import NAME, STOP_S, Process, fingerprint

#: Seconds after which a keeper without jobs and links ends, and after which ended jobs of an absent owner are forgotten.
IDLE_S, FORGET_S = 2.0, 60.0

#: Jobs that are remembered after they have ended.
MAX_ENDED = 100

#: Seconds after which a link is closed whose network has broken silently: it sends a beat every few seconds.
SILENT_S = 60.0

#: Seconds that an address is tried by ``reach``, and the maximum number of addresses.
REACH_S, MAX_REACH = 3.0, 16

#: Bytes of an order, and of what waits to be sent to one link.
MAX_LINE, MAX_WAITING = 4 << 20, 8 << 20


class Link:
    """The keeper's side of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.setblocking(False)
        self.owner = ""
        self.heard_at = time.monotonic()
        self.received = b""
        self.waiting = b""


class Owner:
    """A program that jobs belong to."""

    def __init__(self, grace: float | None, now: float) -> None:
        self.grace, self.heard_at = grace, now
        self.link: Link | None = None


class Keeper:
    """The daemon.  ``lock`` is the descriptor of its folder's lock."""

    def __init__(self, folder: pathlib.Path, lock: int, listener: socket.socket) -> None:
        self._folder, self._lock, self._listener = folder, lock, listener
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._processes: dict[str, Process] = {}
        self._owners: dict[str, Owner] = {}
        self._links: list[Link] = []
        self._waiting: dict[str, tuple[Link, dict[str, Any]]] = {}  # orders to start, until the job of the same name has ended
        self._reached: deque[tuple[Link, dict[str, Any]]] = deque()
        self._idle_since = time.monotonic()
        self._ending = False
        self._orders: dict[str, Callable[[Link, dict[str, Any]], None]] = {
            "hello": self._hello,
            "beat": self._beat,
            "start": self._start,
            "end": self._end,
            "log": self._log,
            "reach": self._reach,
            "bye": self._bye,
        }

    def run(self) -> None:
        """Work until there is nothing to keep, then remove the folder."""
        self._wakes, wake = os.pipe()
        self._wake = wake
        os.set_blocking(wake, False)
        os.set_blocking(self._wakes, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wakes, selectors.EVENT_READ, self._woken)
        while not self._may_go():
            for key, _ in self._selector.select(self._pause()):
                key.data()
            self._look()
        for link in list(self._links):
            self._close(link)
        for name in ("socket", "log", "lock"):  # the lock is the last: until then no other keeper can begin
            if name == "lock":
                shutil.rmtree(self._folder / "jobs", ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()
        with contextlib.suppress(OSError):  # the next link is here already, or another host's keeper of this cluster
            self._folder.rmdir()
            self._folder.parent.rmdir()

    def _may_go(self) -> bool:
        if any(process.alive for process in self._processes.values()):
            return False
        now = time.monotonic()
        if self._links or self._processes:
            self._idle_since = now
        return self._ending or now - self._idle_since > IDLE_S

    def _pause(self) -> float:
        """Seconds until something is due; other things wake us."""
        now = time.monotonic()
        due = [now + 1.0 if self._links or self._processes else now + IDLE_S]
        due += [process.kill_at for process in self._processes.values() if process.alive and process.kill_at is not None]
        return max(0.05, min(due) - now)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTERM in os.read(self._wakes, 4096):
                self._ending = True
                for process in self._processes.values():
                    process.end(time.monotonic(), True)

    def _look(self) -> None:
        """Notice what has ended, and end what is due."""
        now = time.monotonic()
        while self._reached:
            link, answer = self._reached.popleft()
            self._send(link, answer)
        for name, process in list(self._processes.items()):
            if process.alive and process.kill_at is not None and now >= process.kill_at:
                process.popen.kill()
                process.kill_at = now + STOP_S
            self._look_ended(name, process, now)
        for link in list(self._links):
            if now - link.heard_at > SILENT_S:
                self._close(link)
        for token, owner in list(self._owners.items()):
            self._look_at_owner(token, owner, now)

    def _look_ended(self, name: str, process: Process, now: float) -> None:
        if not process.alive or process.popen.poll() is None:
            return
        for source in (process.words, process.output):
            self._mute(source)
        process.look(now)
        self._tell(process)
        if name in self._waiting:
            link, order = self._waiting.pop(name)
            self._launch(link, order)
        elif process.remove:
            self._forget(name)
        ended = [one for one in self._processes.values() if not one.alive]
        for one in sorted(ended, key=lambda one: one.ended_at)[:-MAX_ENDED]:
            self._forget(one.name)

    def _look_at_owner(self, token: str, owner: Owner, now: float) -> None:
        own = [process for process in self._processes.values() if process.owner == token]
        if owner.link is None and not own:
            del self._owners[token]
        elif owner.grace is not None and now - owner.heard_at > owner.grace:
            for process in own:
                process.end(now, True)
                if not process.alive:
                    self._forget(process.name)
        elif owner.link is None and all(not one.alive and now - one.ended_at > FORGET_S for one in own):
            for process in own:
                self._forget(process.name)

    def _forget(self, name: str) -> None:
        process = self._processes.pop(name)
        shutil.rmtree(process.folder, ignore_errors=True)

    def _tell(self, process: Process) -> None:
        for link in list(self._links):
            if link.owner:
                self._send(link, {"said": "state", "job": process.state()})

    # ---- connections ------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            link = Link(connection)
            self._links.append(link)
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._serve(link))
            self._send(link, {"said": "keeper", "version": twistdist.__version__, "pid": os.getpid()})

    def _serve(self, link: Link) -> None:
        self._flush(link)
        if link not in self._links:
            return
        try:
            data = link.connection.recv(64 << 10)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        link.heard_at = time.monotonic()
        *lines, link.received = (link.received + data).split(b"\n")
        if not data or len(link.received) > MAX_LINE:
            self._close(link)
            return
        try:
            for line in lines:
                order = json.loads(line)
                self._orders[order["order"]](link, order)
        except (ValueError, KeyError, TypeError) as error:
            print(
                f"twistdist: an order that can't be understood ({error!r}); the connection is closed",
                file=sys.stderr,
                flush=True,
            )
            self._close(link)

    def _close(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)
            self._selector.unregister(link.connection)
            link.connection.close()
        owner = self._owners.get(link.owner)
        if owner is not None and owner.link is link:
            owner.link = None

    def _send(self, link: Link, message: dict[str, Any]) -> None:
        if link in self._links:
            link.waiting += json.dumps(message).encode() + b"\n"
            self._flush(link)

    def _flush(self, link: Link) -> None:
        try:
            if link.waiting:
                link.waiting = link.waiting[link.connection.send(link.waiting) :]
        except BlockingIOError:
            if len(link.waiting) > MAX_WAITING:
                self._close(link)
                return
        except OSError:
            self._close(link)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.waiting else 0)
        self._selector.modify(link.connection, events, lambda: self._serve(link))

    # ---- orders -----------------------------------------------------------------------------

    def _hello(self, link: Link, order: dict[str, Any]) -> None:
        """The owner connects, again perhaps: jobs of its that it does not name any more end."""
        now = time.monotonic()
        token = link.owner = order["owner"]
        owner = self._owners.setdefault(token, Owner(order["grace"], now))
        older, owner.link, owner.heard_at = owner.link, link, now
        if older is not None:
            self._close(older)
        for process in list(self._processes.values()):
            if process.owner == token and process.popen.pid not in order["keep"]:
                process.end(now, True)
                if not process.alive:
                    self._forget(process.name)
        self._send(link, {"said": "welcome", "jobs": [process.state() for process in self._processes.values()]})

    def _beat(self, link: Link, order: dict[str, Any]) -> None:
        owner = self._owners.get(link.owner)
        if owner is not None:
            owner.heard_at = time.monotonic()
        self._send(link, {"said": "beat"})

    def _start(self, link: Link, order: dict[str, Any]) -> None:
        name = order["name"]
        if not all(re.fullmatch(NAME, text) for text in (name, *order["files"])):
            self._send(
                link, {"answer": order["number"], "error": f"{name!r}, or a file of it, has a name that can't be a file's"}
            )
            return
        process = self._processes.get(name)
        if process is None or not process.alive:
            self._launch(link, order)
            return
        if process.mark == fingerprint(order["role"], order["options"], order["files"]) and process.kill_at is None:
            process.owner = link.owner
            self._send(link, {"answer": order["number"], "job": process.state()})
            return
        other = self._owners.get(process.owner)
        if process.owner != link.owner and other is not None and (other.link is not None or other.grace is None):
            error = f"another cluster of the same name has a job {name} there (process {process.popen.pid})"
            self._send(link, {"answer": order["number"], "error": error})
            return
        process.end(time.monotonic(), False)
        process.remove = False
        self._waiting[name] = (link, order)

    def _launch(self, link: Link, order: dict[str, Any]) -> None:
        name, files = order["name"], order["files"]
        if link not in self._links:
            return  # whoever gave the order is gone
        folder = self._folder / "jobs" / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file, content in files.items():
                fresh = folder / f".{file}"
                fresh.touch(mode=0o600)
                fresh.write_bytes(base64.b64decode(content))
                fresh.replace(folder / file)
            words = [order["role"], *(word.replace("{folder}", str(folder)) for word in order["options"])]
            mark = fingerprint(order["role"], order["options"], files)
            process = Process(name, link.owner, mark, words, folder, self._lock)
        except OSError as error:
            self._send(link, {"answer": order["number"], "error": f"it could not be started: {error}"})
            return
        self._processes[name] = process
        self._selector.register(process.output, selectors.EVENT_READ, lambda: self._read(process))
        self._selector.register(process.words, selectors.EVENT_READ, lambda: self._hear(process))
        self._send(link, {"answer": order["number"], "job": process.state()})

    def _hear(self, process: Process) -> None:
        if process.read_words():
            self._tell(process)
        else:  # it has ended, or will in a moment
            self._mute(process.words)

    def _read(self, process: Process) -> None:
        if not process.read_output():
            self._mute(process.output)

    def _mute(self, source: Any) -> None:
        if source in self._selector.get_map():
            self._selector.unregister(source)

    def _end(self, link: Link, order: dict[str, Any]) -> None:
        for name in order["names"]:
            self._waiting.pop(name, None)
            process = self._processes.get(name)
            if process is not None:
                process.end(time.monotonic(), True)
                if not process.alive:
                    self._forget(name)
        self._send(link, {"answer": order["number"]})

    def _bye(self, link: Link, order: dict[str, Any]) -> None:
        """The owner goes: it will not ask for jobs that have ended."""
        for process in list(self._processes.values()):
            if process.owner == link.owner and not process.alive:
                self._forget(process.name)
        self._send(link, {"answer": order["number"]})

    def _log(self, link: Link, order: dict[str, Any]) -> None:
        process = self._processes.get(order["name"])
        lines = [] if process is None else list(process.lines)[-order["n"] :]
        self._send(link, {"answer": order["number"], "lines": lines})

    def _reach(self, link: Link, order: dict[str, Any]) -> None:
        """Say which addresses this host can connect to."""
        addresses = order["addresses"][:MAX_REACH]
        reached = [False] * len(addresses)

        def attempt(i: int) -> None:
            with contextlib.suppress(OSError), socket.create_connection(tuple(addresses[i]), REACH_S):
                reached[i] = True

        def attempts() -> None:
            threads = [threading.Thread(target=attempt, args=(i,), daemon=True) for i in range(len(addresses))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(2 * REACH_S)  # a name server may take its time
            self._reached.append((link, {"answer": order["number"], "reached": list(reached)}))
            with contextlib.suppress(BlockingIOError):  # it is awake
                os.write(self._wake, b"\0")

        threading.Thread(target=attempts, daemon=True).start()
