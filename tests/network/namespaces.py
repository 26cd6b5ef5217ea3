"""Hosts of their own on one machine: network namespaces joined by a switch with faults (:mod:`tests.network.switch`)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

SWITCH = pathlib.Path(__file__).with_name("switch.py")
CLONE_NEWNET = 0x40000000


class NotPermitted(Exception):
    """This machine has no namespaces or TAP devices for us."""


def why_not():
    """Why there can be no hosts here, or ""."""
    missing = [tool for tool in ("ip", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found"
    try:
        with Lan(["a"]):
            return ""
    except NotPermitted as error:
        return str(error)


class Lan:
    """A context manager: hosts ``names`` on one network.  Faults are of links, as seen from their host."""

    def __init__(self, names):
        self._names = list(names)

    def __enter__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._switch = subprocess.Popen([sys.executable, str(SWITCH), *self._names], text=True, **pipes)
        ready = json.loads(self._switch.stdout.readline() or '{"error": "the switch did not start"}')
        if "error" in ready:
            self.__exit__()
            raise NotPermitted(f"no hosts of our own on this machine: {ready['error']}")
        self._namespaces = {name: f"/proc/{ready['pid']}/fd/{number}" for name, (number, _) in ready["hosts"].items()}
        self.addresses = {name: address for name, (_, address) in ready["hosts"].items()}
        return self

    def __exit__(self, *_):
        self._switch.stdin.close()
        try:
            self._switch.wait(10)
        except subprocess.TimeoutExpired:
            self._switch.kill()
            self._switch.wait()
        self._switch.stdout.close()

    def _order(self, *args, **options):
        self._switch.stdin.write(json.dumps([*args, options]) + "\n")
        self._switch.stdin.flush()
        return json.loads(self._switch.stdout.readline())

    # ---- processes --------------------------------------------------------------------------

    def command(self, host, *command):
        """The command line that runs ``command`` on ``host``; the process keeps its number, so signals reach it."""
        return ["env", f"TWISTDIST_HOST=host-of-{host}", "nsenter", f"--net={self._namespaces[host]}", *map(str, command)]

    def run(self, host, *command, timeout=30):
        """What ``command`` on ``host`` prints."""
        return subprocess.run(self.command(host, *command), capture_output=True, text=True, timeout=timeout, check=True).stdout

    @contextlib.contextmanager
    def thread_inside(self, host, call=lambda function: function()):
        """Sockets that a thread makes in the body are on ``host``; ``call(function)`` runs a function in that thread."""
        before = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            with open(self._namespaces[host]) as there:
                call(lambda: _enter(there.fileno()))
            try:
                yield
            finally:
                call(lambda: _enter(before))
        finally:
            os.close(before)

    # ---- faults -----------------------------------------------------------------------------

    def cut(self, host, direction="both"):
        """Carry nothing that ``host`` "sends", "receives", or "both"."""
        self._order("links", host, direction, down=True)

    def mend(self, host):
        """Nothing is wrong with the host's link any more."""
        self._order("links", host, down=False, loss=0.0, delay=0.0, reorder=0.0, duplicate=0.0)

    def impair(self, host, direction="both", **faults):
        """``loss``, ``reorder`` and ``duplicate`` are shares of the frames, ``delay`` is in seconds."""
        self._order("links", host, direction, **faults)

    def unplug(self, host):
        """Take the host's own device down: it sees the fault itself, and has no route any more."""
        self.run(host, "ip", "link", "set", "lan0", "down")

    def plug(self, host):
        self.run(host, "ip", "link", "set", "lan0", "up")

    def part(self, one, other, parted=True):
        """Two hosts can't reach one another, but everybody else."""
        self._order("pair", one, other, parted)
        self._order("pair", other, one, parted)

    def clean(self):
        """Nothing is wrong any more."""
        self._order("clean")

    def count(self):
        """Frames ``carried`` and ``dropped`` so far, and those ``sent`` by each host."""
        return self._order("count")

    @contextlib.contextmanager
    def silence(self, host, direction="both", seconds=0.0):
        """The host's link is cut in the body, or for ``seconds`` and the body."""
        self.cut(host, direction)
        try:
            time.sleep(seconds)
            yield
        finally:
            self.mend(host)


def _enter(descriptor):
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
