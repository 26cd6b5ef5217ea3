"""``twistdist top`` on a real terminal, as a user would watch a cluster."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import termios

import pytest

from tests.integration import test_twistd
from tests.integration.habits import until
from tests.integration.terminals import Terminal
from twistdist import cli
from twistdist.blocking import Client, LocalCluster

EVIL = "evil\x1b]0;title\x07\x1b[2J"


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


shells = test_twistd.shells


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        with client.group("mine\x1b[31m"):
            client.gather(client.map(abs, range(10)))
        assert client.submit(dies, key=EVIL, crash_limit=1).exception(60) is not None
        yield cluster


@pytest.fixture
def terminal():
    with contextlib.ExitStack() as stack:

        def start(*command, **more):
            return stack.enter_context(Terminal([sys.executable, "-m", "twistdist.cli", *command], **more))

        yield start


def test_it_shows_the_cluster_until_q(cluster, terminal):
    top = terminal("top", cluster.address)
    top.shows(r"throughput +0 a second[\s\S]+executor died: evil")
    text = top.text()
    assert "10/10" in text and "10 done, 1 failed" in text and "twistdist connected" in text
    assert re.search(r"^w0 +connected +0/1", text, re.M) and "executor died: evil\\x1b]0;title" in text
    assert "mine\\x1b[31m" in text and b"title\x07" not in top.raw and b"mine\x1b" not in top.raw
    assert re.search(rb"\x1b\[[0-9;]*3[1-6]", top.raw)  # in colour
    top.type(b"xq")
    assert top.ends() == 0


@pytest.mark.parametrize("how", ["ctrl-c", "SIGTERM"])
def test_it_ends_with_a_restored_terminal(cluster, terminal, how):
    top = terminal("top", cluster.address, NO_COLOR="1", columns=40, lines=12)
    top.shows("twistdist connected")
    assert all(len(line) <= 40 for line in top.text().splitlines())
    if how == "ctrl-c":
        top.type(b"\x03")
    else:
        top.process.terminate()
    assert top.ends() == 0
    colours = [code for codes in re.findall(rb"\x1b\[([0-9;]*)m", top.raw) for code in codes.split(b";")]
    assert not [code for code in colours if len(code) > 1 and code[:1] in b"349"]


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(cluster, terminal):
    top = terminal("top", cluster.address)
    top.shows("w0 +connected")
    top.type(b"\x1a")
    until(lambda: state(top.process.pid) == "T")
    assert termios.tcgetattr(top.theirs) == top.modes
    until(lambda: top.raw.count(b"\x1b[?1049h") == top.raw.count(b"\x1b[?1049l") == 1)
    top.process.send_signal(signal.SIGCONT)
    until(lambda: top.raw.count(b"\x1b[?1049h") == 2)
    top.shows("w0 +connected")
    top.type(b"q")
    assert top.ends() == 0


def state(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0]


def test_it_survives_a_restart_of_a_scheduler_without_a_journal(terminal, shells):
    first, address = test_twistd.scheduler(shells)
    top = terminal("top", address)
    top.shows("no worker is connected")
    first.end(signal.SIGKILL)
    top.shows("NOT CONNECTED")
    port = address.rpartition(":")[2]
    second = shells(test_twistd.TWISTD, "-n", "twistdist-scheduler", "--listen", f"tcp:{port}:interface=127.0.0.1")
    second.wait_for("ready at")
    top.shows(r"twistdist connected[\s\S]+the scheduler was restarted")
    top.type(b"q")
    assert top.ends() == 0


def test_it_survives_a_restart_of_the_scheduler(terminal):
    with LocalCluster(n_workers=1) as cluster:
        top = terminal("top", cluster.address)
        top.shows("w0 +connected")
        cluster.kill_scheduler()
        top.shows("NOT CONNECTED")
        top.shows("trying again")
        cluster.start_scheduler()
        top.shows("the scheduler was restarted")
        top.shows("twistdist connected")
        top.shows("w0 +connected")
        top.type(b"q")
        assert top.ends() == 0


def test_one_frame_without_a_terminal_and_with_once(cluster, terminal, capsys):
    command = [sys.executable, "-m", "twistdist.cli", "top", cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0 and "\x1b" not in done.stdout and "10/10" in done.stdout and not done.stderr
    assert cli.main(["top", cluster.address, "--once"]) == 0
    assert "executor died" in capsys.readouterr().out
    top = terminal("top", cluster.address, "--once")
    assert top.ends() == 0
    top.shows("executor died")
    plain = subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert plain.returncode == 0 and b"##" in plain.stdout and plain.stdout.isascii()


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    assert cli.main(["top", f"unix:{tmp_path}/nobody", "--timeout", "0.3"]) == 1
    assert "no scheduler answered" in capsys.readouterr().err
    code = "import sys; sys.modules['rich'] = None; from twistdist.cli import main; sys.exit(main(['top', '127.0.0.1:1']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == "twistdist: twistdist top needs rich: pip install 'twistdist[top]'\n"
