"""Two schedulers with one journal: the second stands by, and takes over."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from twistdist import errors
from twistdist.blocking import Client

TWISTD = str(pathlib.Path(sys.executable).with_name("twistd"))


class Role:
    """One twistd, its lines as they come, each with its time."""

    def __init__(self, folder, role, *options):
        command = [TWISTD, "-n", f"twistdist-{role}", *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines, self._changed = [], threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._add(line)
        self._add("")

    def _add(self, line):
        with self._changed:
            self.lines.append((time.monotonic(), line))
            self._changed.notify_all()

    def wait_for(self, pattern, seconds=60):
        """(when, match) of the first line with the pattern."""

        def found():
            return next(((at, match) for at, line in self.lines if (match := re.search(pattern, line))), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or (self.lines and self.lines[-1][1] == ""), seconds)
            assert found(), "".join(line for _, line in self.lines)
            return found()

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(60)
        self.process.stdout.close()
        return status


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def pair(tmp_path, url):
    """A scheduler, another one that stands by for it, and two workers that know both."""
    with contextlib.ExitStack() as stack:

        def start(role, *options):
            running = Role(tmp_path, role, *options)
            stack.callback(running.end)
            return running

        ports = [free_port(), free_port()]
        options = [["--journal", url, "--listen", f"tcp:{port}:interface=127.0.0.1"] for port in ports]
        start.first = start("scheduler", *options[0])
        start.first.wait_for("^twistdist scheduler ready")
        start.second = start("scheduler", *options[1])
        start.second.wait_for(f"^twistdist scheduler standing by: the journal is held by .*{start.first.process.pid}")
        start.options, start.address = options, ",".join(f"tcp:127.0.0.1:{port}" for port in ports)
        start.workers = [
            start("worker", start.address, "--slots", "1", "--name", name, "--store", str(tmp_path / name))
            for name in ("a", "b")
        ]
        for one in start.workers:
            one.wait_for("^twistdist worker . ready")
        yield start


def note(number, log, seconds=0.01):
    """Runs inside of a task: say that it does, and take a while."""
    with open(log, "ab", buffering=0) as stream:
        stream.write(b"%d %.6f\n" % (number, time.monotonic()))
    time.sleep(seconds)
    return number * number


def notes(log):
    return [(int(number), float(at)) for number, at in (line.split() for line in log.read_text().splitlines())]


def test_the_second_takes_over(pair, tmp_path):
    log = tmp_path / "log"
    with Client(pair.address, timeout=60) as client:
        assert client.address == pair.address
        client.wait_for_workers(2, timeout=60)
        futures = client.map(note, range(300), [str(log)] * 300)
        for one in futures[:100]:
            one.result(60)
        killed = time.monotonic()
        pair.first.end(signal.SIGKILL)
        assert [one.result(60) for one in futures] == [number * number for number in range(300)]
        ready, _ = pair.second.wait_for("^twistdist scheduler ready")
        executed = notes(log)
        assert ready - killed < 30
        again = {number: count for number, count in collections.Counter(number for number, _ in executed).items() if count > 1}
        assert not again
        first_after = min((at for _, at in executed if at > ready), default=ready)
        print(f"benchmark: SIGKILL to ready {ready - killed:.2f} s, to the first task begun then {first_after - killed:.2f} s")

        # The one that was killed is started again, stands by, and takes over in its turn.
        third = pair("scheduler", *pair.options[0])
        third.wait_for(f"standing by: the journal is held by .*{pair.second.process.pid}")
        pair.second.end(signal.SIGKILL)
        assert client.submit(note, 1000, str(log)).result(60) == 1_000_000
        third.wait_for("^twistdist scheduler ready")


def test_one_that_stands_by_can_be_stopped(pair):
    assert pair.second.end() in (0, -signal.SIGTERM)
    assert "twistdist: " not in "".join(line for _, line in pair.second.lines)
    with Client(pair.address, timeout=60) as client:
        assert client.submit(abs, -1).result(60) == 1


def test_a_scheduler_that_lost_the_journal_ends_although_it_has_nothing_to_write(pair, sql):
    """Its session ends on the server while it is frozen; the second takes over, and both workers find it."""
    with Client(pair.address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
        pair.first.process.send_signal(signal.SIGSTOP)
        name = f"%pid {pair.first.process.pid} on%"
        ((pid,),) = sql("SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s", name)
        sql("SELECT pg_terminate_backend(%s, 10000)", pid)
        pair.second.wait_for("^twistdist scheduler ready")
        pair.first.process.send_signal(signal.SIGCONT)
        pair.first.wait_for("twistdist: .*there can be only one scheduler|twistdist: .*taken over")
        assert pair.first.process.wait(60) == 1
        assert client.submit(abs, -2).result(60) == 2
        client.wait_for_workers(2, timeout=60)


def test_the_database_is_restarted_under_a_pair(pair, server, tmp_path):
    log = tmp_path / "log"
    with Client(pair.address, timeout=60) as client:
        futures = client.map(note, range(200), [str(log)] * 200)
        futures[50].result(60)
        server.stop()
        server.start()
        assert [one.result(60) for one in futures] == [number * number for number in range(200)]
        assert pair.first.process.poll() is None
        assert not any("scheduler ready" in line for _, line in pair.second.lines)
        assert [number for number, _ in sorted(notes(log))] == list(range(200))


def test_an_error_names_all_addresses():
    one, two = free_port(), free_port()
    with pytest.raises(errors.SchedulerUnreachable) as caught:
        Client(f"127.0.0.1:{one}, tcp:127.0.0.1:{two}", timeout=1)
    text = str(caught.value)
    assert f"tcp:127.0.0.1:{one},tcp:127.0.0.1:{two}" in text
    assert re.search(rf"tcp:127.0.0.1:{one}: .*refused.*; tcp:127.0.0.1:{two}: .*refused", text)
