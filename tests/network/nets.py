"""Clusters of twistd commands whose connections can be made to fail: on hosts of their own, or behind proxies."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sys

import pytest

from tests.integration.habits import lines, until
from tests.integration.test_twistd import TWISTD, Shell
from tests.network.chores import square
from tests.network.namespaces import Lan
from tests.network.proxy import Proxy
from twistdist.blocking import Client
from twistdist.blocking.reactor_thread import get_reactor_thread

PORT = 8786
PYTHONPATH = os.pathsep.join(path for path in sys.path if path)

#: What is started ends with the tests, also when these are killed.
MORTAL = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


class Net:
    """What both kinds have in common: ``control`` is a client whose connection never fails."""

    def __init__(self, folder, stack):
        self.folder, self.stack = pathlib.Path(folder), stack
        self.shells = {}
        self.known = 0
        # Its workers seem to be on other hosts, and so does it.
        outside = {"PYTHONPATH": PYTHONPATH, "TWISTDIST_HOST": "host-of-client"}
        before = {name: os.environ.get(name) for name in outside}
        os.environ.update(outside)
        stack.callback(lambda: [os.environ.pop(n) if v is None else os.environ.update({n: v}) for n, v in before.items()])

    def shell(self, name, ready, *command):
        shell = Shell(self.folder, *MORTAL, *map(str, command))
        self.stack.callback(shell.end, None)
        self.stack.callback(self._end, shell)
        self.shells[name] = shell
        shell.ready = shell.wait_for(ready)
        return shell

    @staticmethod
    def _end(shell):
        """For the stack: told to stop, and killed if that is not heard, since this is no test of how a worker leaves."""
        if shell.process.poll() is None:
            shell.process.kill()

    def _options(self, name):
        return ("--slots", "1", "--name", name, "--store", self.folder / f"store-{name}")

    def connect(self):
        self.control = self.stack.enter_context(Client(f"unix:{self.folder}/control"))

    def settled(self, count):
        """Everybody is there and nothing is wrong; incidents from now on are news."""
        until(lambda: list(self.states().values()) == ["connected"] * count, 60)
        self.known = len(self.control.incidents())

    def states(self):
        return {name: info.state for name, info in self.control.workers().items()}

    def news(self, *kinds):
        """Incidents of these kinds since ``settled``."""
        return [one for one in self.control.incidents()[self.known :] if one.kind in kinds]

    def lost(self):
        return self.news("worker lost")

    def pid(self, name):
        return self.shells[name].process.pid


class LanNet(Net):
    """The scheduler on "hub", workers of one slot on "a", "b" and "c"; "client" and "d" are free."""

    def __init__(self, folder, stack, *options):
        super().__init__(folder, stack)
        self.lan = stack.enter_context(Lan(["hub", "client", "a", "b", "c", "d"]))
        self.address = f"tcp:{self.lan.addresses['hub']}:{PORT}"
        command = self.lan.command(
            "hub",
            TWISTD,
            "-n",
            "twistdist-scheduler",
            "--listen",
            self._listen("hub", PORT),
            "--listen",
            f"unix:{folder}/control",
            "--plaintext",
            *options,
        )
        self.shell("scheduler", "^twistdist scheduler ready", *command)
        for name in "abc":
            self.worker(name)
        self.connect()

    def _listen(self, host, port=0):
        return f"tcp:{port}:interface={self.lan.addresses[host]}"

    def worker(self, host):
        options = ("--listen", self._listen(host), "--plaintext", *self._options(host))
        command = self.lan.command(host, TWISTD, "-n", "twistdist-worker", self.address, *options)
        return self.shell(host, f"^twistdist worker {host} ready", *command)

    @contextlib.contextmanager
    def client(self):
        """A client on the host "client"."""
        with self.lan.thread_inside("client", get_reactor_thread().call), Client(self.address) as client:
            yield client


class ProxyNet(Net):
    """A scheduler and workers "a" and "b"; ``links["a"]`` is a's way to the scheduler, ``peers["a"]`` the others' way to a."""

    def __init__(self, folder, stack, *options):
        super().__init__(folder, stack)
        shell = self.shell(
            "scheduler",
            r"ready at tcp:127\.0\.0\.1:(\d+)",
            TWISTD,
            "-n",
            "twistdist-scheduler",
            "--listen",
            "tcp:0:interface=127.0.0.1",
            "--listen",
            f"unix:{folder}/control",
            *options,
        )
        target = ("127.0.0.1", int(shell.ready[1]))
        self.links = {name: stack.enter_context(Proxy(target)) for name in ("a", "b", "client")}
        self.peers = {}
        for name in "ab":
            self.worker(name)
        self.connect()

    def worker(self, name):
        """It listens at 127.0.0.2, and says that it does at 127.0.0.1, where a proxy has the same port."""
        peers = self.peers[name] = self.stack.enter_context(Proxy(None))
        peers.target = ("127.0.0.2", peers.port)
        options = ("--listen", f"tcp:{peers.port}:interface=127.0.0.2", "--contact", "127.0.0.1", *self._options(name))
        host, address = f"TWISTDIST_HOST=host-of-{name}", self.links[name].address
        command = ("env", host, TWISTD, "-n", "twistdist-worker", address, *options)
        return self.shell(name, f"^twistdist worker {name} ready", *command)

    @contextlib.contextmanager
    def client(self):
        with Client(self.links["client"].address) as client:
            yield client

    def clean(self):
        for proxy in (*self.links.values(), *self.peers.values()):
            proxy.clean()


def shared(kind, *options):
    """A fixture for the cluster of a module."""

    @pytest.fixture(scope="module")
    def running(tmp_path_factory):
        with contextlib.ExitStack() as stack:
            yield kind(tmp_path_factory.mktemp("net"), stack, *options)

    return running


def in_order(running, count, mend):
    """A fixture for the cluster that another one made: each test finds it with ``count`` workers, and nothing wrong."""

    @pytest.fixture
    def net(request):
        found = request.getfixturevalue(running)
        found.settled(count)
        yield found
        mend(found)

    return net


class Work:
    """``count`` tasks and some that only worker "a" may run; ``told`` is how often each future's end was told."""

    def __init__(self, client, log, count=300, pinned=40, seconds=0.02):
        self.log, self.told = str(log), []
        self.futures = [client.submit(square, self.log, i, seconds) for i in range(count)]
        self.futures += [client.submit(square, self.log, count + i, seconds, workers=["a"]) for i in range(pinned)]
        for i, future in enumerate(self.futures):
            future.add_done_callback(lambda future, i=i: self.told.append(i))

    def reached(self, count):
        until(lambda: len(lines(self.log)) >= count)

    def check(self, client, again=0):
        """All values are right, each future ended once, no task was run twice."""
        assert client.gather(self.futures, timeout=60) == [i * i for i in range(len(self.futures))]
        until(lambda: len(self.told) == len(self.futures))
        assert sorted(self.told) == list(range(len(self.futures)))
        assert len(lines(self.log)) <= len(self.futures) + again
