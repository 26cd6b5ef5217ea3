"""Clusters whose connections are encrypted, as a user sets them up: real processes, each in a shell of its own."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import ssl
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.integration import habits
from tests.integration.habits import depth, lines
from tests.integration.test_twistd import TWISTD, fails, shells
from twistdist import cli, client, errors
from twistdist.blocking import Client, current_client
from twistdist.net.connection import MAX_UNPROVEN

__all__ = ["shells"]  # a fixture

TWISTDIST = str(pathlib.Path(sys.executable).with_name("twistdist"))
MIB = 1 << 20


def certificates(folder, *hosts):
    done = subprocess.run([TWISTDIST, "certs", str(folder), *hosts], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return str(folder)


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls") / "certs", "node.example")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls") / "certs")


@pytest.fixture
def start(shells, monkeypatch):
    """(start a scheduler: its shell and address; start a worker that takes itself to be on a host of its own)"""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))

    def scheduler(*options):
        shell = shells(TWISTD, "-n", "twistdist-scheduler", "--listen", "tcp:0:interface=127.0.0.1", *options)
        return shell, shell.wait_for(r"^twistdist scheduler ready at (\S+)")[1]

    def worker(address, name, *options):
        monkeypatch.setenv("TWISTDIST_HOST", f"host-of-{name}")
        store = ("--store", str(shells.folder / f"store-{name}"))
        shell = shells(TWISTD, "-n", "twistdist-worker", address, "--slots", "1", "--name", name, *store, *options)
        monkeypatch.delenv("TWISTDIST_HOST")
        return shell, shell.wait_for(rf"^twistdist worker {name} ready at (\S+),")[1]

    return scheduler, worker


def seconds(what):
    began = time.monotonic()
    what()
    return time.monotonic() - began


def ones(n):
    return np.ones(n, dtype=np.uint8)


def total(array):
    return int(array.sum())


def parent(n):
    own = current_client()
    big = own.submit(ones, n)
    return own.submit(total, big).result() + total(big.result())


def test_a_cluster_over_tls(start, certs, monkeypatch, capsys):
    scheduler, worker = start
    _, address = scheduler("--tls", certs)
    assert address.startswith("tls:127.0.0.1:")
    # One worker says tls: itself, is on every interface and told how it is reached; the other one has a short address.
    assert worker(address, "a", "--tls", certs, "--listen", "tls:0", "--contact", "localhost")[1].startswith("tls:localhost:")
    assert worker(address[4:], "b", "--tls", certs)[1].startswith("tls:127.0.0.1:")
    with Client(address, tls=certs) as connected:
        connected.wait_for_workers(2, 60)
        assert connected.gather(connected.map(pow, range(50), [2] * 50), timeout=60) == [i * i for i in range(50)]
        # A large array goes from worker to worker, and here.
        made = connected.submit(ones, MIB, workers=["a"])
        assert connected.submit(total, made, workers=["b"]).result(60) == MIB
        assert total(made.result(60)) == MIB
        assert set(connected.who_has([made])[made.key]) == {"a", "b"}
        # Out and back; the first copy comes from here, the other one from a worker.
        data = np.frombuffer(os.urandom(3 * MIB), dtype=np.uint8)
        scattered = connected.scatter(data)
        assert len(connected.who_has([scattered])[scattered.key]) == 2
        expected = total(data)
        assert [connected.submit(total, scattered, workers=[one]).result(60) for one in "ab"] == [expected] * 2
        assert np.array_equal(connected.gather(scattered, timeout=60), data)
        # Tasks with clients of their own.
        assert connected.submit(parent, MIB).result(60) == 2 * MIB
        assert connected.submit(depth, 5).result(60) == 5
        keyed = connected.submit(abs, -1, key="keyed")
        assert keyed.result(60) == 1
        assert client.gather(address, ["keyed"], tls=certs) == [1]
    assert cli.main(["status", address, "--tls", certs]) == 0
    assert "tls:localhost:" in capsys.readouterr().out
    assert cli.main(["status", address]) == 1
    assert "TWISTDIST_TLS" in capsys.readouterr().err
    monkeypatch.setenv("TWISTDIST_TLS", certs)
    assert cli.main(["clear", address[4:]]) == 0


def test_who_does_not_belong_here_is_told_so_soon(start, shells, certs, foreign):
    scheduler, _ = start
    shell, address = scheduler("--tls", certs)

    def refused(error, text, *arguments, **options):
        with pytest.raises(error, match=text):
            Client(*arguments, timeout=20, **options)

    assert seconds(lambda: refused(errors.AuthenticationError, "not issued by our CA", address, tls=foreign)) < 5
    shell.wait_for("refused: TLS failed")
    wrong = {"tls": certs, "secret": "the secret of others"}
    assert seconds(lambda: refused(errors.AuthenticationError, "secret is wrong", address, **wrong)) < 5
    shell.wait_for("refused: the client does not know the secret")
    plain = f"tcp:{address[4:]}"
    assert seconds(lambda: refused(errors.AuthenticationError, "speaks TLS", plain)) < 5
    shell.wait_for("refused: the other side does not speak TLS")
    assert "not issued by our CA" in fails(shells, "twistdist-worker", address, "--tls", foreign)
    assert "speaks TLS" in fails(shells, "twistdist-worker", plain)
    with Client(address, tls=certs) as still_there:
        assert still_there.workers(20) == {}


def test_without_a_certificate_nothing_is_said(start, certs):
    shell, address = start[0]("--tls", certs)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(f"{certs}/ca.pem")
    with (
        socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=4) as stranger,
        context.wrap_socket(stranger, server_hostname="localhost") as encrypted,
        pytest.raises(ssl.SSLError, match="certificate required"),
    ):
        encrypted.recv(1)
    shell.wait_for("refused: TLS failed: the other side presented no certificate")


@pytest.mark.parametrize("encrypted", [False, True])
def test_strangers_that_say_nothing_keep_nobody_out(start, certs, encrypted):
    scheduler, worker = start
    shell, address = scheduler(*(["--tls", certs] if encrypted else []))
    options = {"tls": certs} if encrypted else {}
    with contextlib.ExitStack() as stack:
        strangers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), timeout=30))
            for _ in range(MAX_UNPROVEN + 30)
        ]
        with Client(address, **options) as connected:
            assert connected.workers(20) == {}
        shell.wait_for("have not authenticated themselves")
        for stranger in strangers:  # each is closed, by its number or by its time
            with contextlib.suppress(ConnectionResetError):
                while stranger.recv(100):
                    pass
    with Client(address, **options) as connected:
        worker(address, "a", *(["--tls", certs] if encrypted else []))
        assert connected.submit(abs, -1).result(60) == 1


def test_a_client_with_certificates_at_a_plain_port(start, certs):
    shell, address = start[0]()

    def knock():
        with pytest.raises(errors.AuthenticationError, match="does not speak TLS"):
            Client(address[4:], tls=certs, timeout=20)

    assert seconds(knock) < 5
    shell.wait_for("refused: the other side speaks TLS")
    with pytest.raises(errors.ConfigError, match="write tls:"):
        Client(address, tls=certs)


def test_options_that_do_not_go_together(shells, certs, tmp_path):
    assert "needs certificates" in fails(shells, "twistdist-scheduler", "--listen", "tls:0:interface=127.0.0.1")
    assert "exclude each other" in fails(shells, "twistdist-scheduler", "--tls", certs, "--plaintext")
    assert "twistdist certs" in fails(shells, "twistdist-scheduler", "--tls", str(tmp_path))
    assert "needs certificates" in fails(shells, "twistdist-worker", "tls:127.0.0.1:1")
    assert "--contact must be" in fails(shells, "twistdist-worker", "127.0.0.1:1", "--contact", "a b")
    assert "--tls DIR" in fails(shells, "twistdist-worker", "127.0.0.1:1", "--listen", "tcp:0")


# ---- what nobody but executors and clients does -----------------------------------------------------


def test_scheduler_and_control_processes_never_unpickle(start, tmp_path):
    """Pickles that leave word of who loads them: in a function, in arguments, results, scattered data and exceptions."""
    scheduler, worker = start
    shell, address = scheduler()
    controls = [worker(address, name)[0].process.pid for name in "ab"]
    loaded, ran = str(tmp_path / "loaded"), str(tmp_path / "ran")
    trace = habits.Trace(loaded, ran)
    with Client(address) as connected:
        connected.wait_for_workers(2, 60)
        first = connected.submit(trace, trace, workers=["a"])
        second = connected.submit(trace, first, trace, workers=["b"])
        assert isinstance(second.result(60), habits.Trace)
        large = connected.submit(trace, bytes(MIB), workers=["a"])
        connected.submit(trace, large, workers=["b"]).result(60)
        scattered = connected.scatter([trace, bytes(MIB)])
        connected.submit(trace, scattered).result(60)
        failed = connected.submit(trace.fail, first)
        with pytest.raises(habits.TraceError):
            failed.result(60)
        with pytest.raises(habits.TraceError):
            connected.submit(trace, failed).result(60)
        connected.status(), connected.why(failed), connected.incidents()
    loaders, executors = set(map(int, lines(loaded))), set(map(int, lines(ran)))
    assert os.getpid() in loaders and executors & loaders
    assert loaders <= executors | {os.getpid()}
    assert not loaders & {shell.process.pid, *controls}
    assert shell.process.poll() is None
