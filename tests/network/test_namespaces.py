"""Promises on a network that fails, on hosts of their own: network namespaces, twistd commands, real packets."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.integration.habits import gone, lines, note, until
from tests.network.chores import digest, first_stays, large, square, stay_until
from tests.network.namespaces import Lan, why_not
from tests.network.nets import LanNet, Work, in_order, shared

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

#: What the machine may take longer than the promise.
SLACK_S = 15.0


def faultless(net):
    net.lan.clean()
    net.lan.plug("a")


patient_net, quick_net = shared(LanNet), shared(LanNet, "--dead-after", "3")

#: With the defaults (1 and 10 seconds), and one that gives up after 3 seconds.
patient, quick = in_order("patient_net", 3, faultless), in_order("quick_net", 3, faultless)


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def unplugged(net, host):
    net.lan.unplug(host)
    try:
        yield
    finally:
        net.lan.plug(host)


def silent(net, host, how):
    if how == "stopped":
        return stopped(net.pid(host))
    return unplugged(net, host) if how == "unplugged" else net.lan.silence(host)


# ---- the kit itself --------------------------------------------------------------------------------

SERVER = """if True:
    import socket
    server = socket.create_server(("0.0.0.0", 5000))
    print("up", flush=True)
    while True:
        connection, _ = server.accept()
        got = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        connection.sendall(str(len(got)).encode())
        connection.close()
"""
ASK = """if True:
    import socket, sys, time
    began = time.monotonic()
    try:
        connection = socket.create_connection((sys.argv[1], 5000), 1.5)
        connection.sendall(bytes(int(sys.argv[2])))
        connection.shutdown(socket.SHUT_WR)
        print(connection.recv(100).decode(), time.monotonic() - began)
    except OSError:
        print("nothing", time.monotonic() - began)
"""


def test_the_kit_its_links_and_that_nothing_is_left():
    with Lan(["a", "b", "c"]) as lan:
        process = subprocess.Popen(lan.command("b", sys.executable, "-c", SERVER), stdout=subprocess.PIPE)
        try:
            assert process.stdout.readline() == b"up\n"

            def ask(host, size=1):
                answer, seconds = lan.run(host, sys.executable, "-c", ASK, lan.addresses["b"], size).split()
                return answer, float(seconds)

            assert ask("a", 5_000_000)[0] == "5000000"
            with lan.silence("b"):
                assert ask("a")[0] == "nothing"
            for direction in ("sends", "receives"):
                with lan.silence("a", direction):
                    assert ask("a")[0] == "nothing" and ask("c")[0] == "1"
            lan.part("a", "b")
            assert ask("a")[0] == "nothing" and ask("c")[0] == "1"
            lan.clean()
            lan.impair("a", delay=0.1)
            assert ask("a")[1] >= 0.4
            lan.mend("a")
            lan.impair("a", reorder=0.2, duplicate=0.2, loss=0.02)
            before = lan.count()["dropped"]
            assert ask("a", 1_000_000)[0] == "1000000" and lan.count()["dropped"] > before
            lan.unplug("a")
            assert ask("a")[0] == "nothing"
            lan.plug("a")
            lan.mend("a")
            assert ask("a")[0] == "1"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        switch = lan._switch.pid
    assert gone(switch) and not os.path.exists(lan._namespaces["a"])


# ---- silence ---------------------------------------------------------------------------------------


def goes_elsewhere(net, how, dead_after, tmp_path):
    """A task runs on a host that goes silent: it is run elsewhere in time, and the worker comes back by itself."""
    control, log = net.control, str(tmp_path / "log")
    everywhere = control.submit(large, os.devnull, 1, 200_000)
    control.replicate(everywhere, 3)
    until(lambda: all(everywhere.key in keys for keys in control.has_what().values()))
    future = control.submit(first_stays, log)
    until(lambda: lines(log))
    host = lines(log)[0]
    began = time.monotonic()
    with silent(net, host, how):
        until(lambda: net.states().get(host) == "suspect", 1 + SLACK_S)
        after = [control.submit(os.getenv, "TWISTDIST_HOST") for _ in range(6)]
        assert f"host-of-{host}" not in control.gather(after, timeout=dead_after - 1)
        until(lambda: len(lines(log)) == 2, dead_after + SLACK_S)
        took = time.monotonic() - began
        assert dead_after - 1 < took < dead_after + SLACK_S
        assert future.result(30) == lines(log)[1] != host
        accepted = control.why(future).attempt
        (lost,) = net.lost()
        assert host in lost.what and lost.requeued == 1
        assert net.news("worker suspected")
    until(lambda: net.states().get(host) == "connected", 10 + SLACK_S)
    until(lambda: everywhere.key in control.has_what()[host])
    assert control.submit(digest, everywhere, workers=[host]).result(30) == digest(bytes([1]) * 200_000)
    assert control.why(future).attempt == accepted and len(lines(log)) == 2
    assert len(net.lost()) == 1


@pytest.mark.parametrize("how", ["cut", "stopped"])
def test_a_silent_host_is_given_up_and_taken_in_again(quick, how, tmp_path):
    goes_elsewhere(quick, how, 3, tmp_path)


def test_a_silent_host_with_the_defaults(patient, tmp_path):
    goes_elsewhere(patient, "cut", 10, tmp_path)


@pytest.fixture
def fourth(patient):
    """One more worker, on "d", that runs a task and has a connection which may be silent."""
    shell = patient.worker("d")
    yield shell
    patient.lan.clean()
    if shell.process.poll() is None:
        shell.process.kill()
        shell.process.wait()
    until(lambda: "d" not in patient.states())


@pytest.mark.parametrize("cut", [False, True])
def test_a_process_that_died_is_given_up_at_once(patient, fourth, cut, tmp_path):
    """Also when nobody could hear it die: what counts is that nothing listens at its address any more."""
    log, free = str(tmp_path / "log"), str(tmp_path / "free")
    others = [patient.control.submit(stay_until, str(tmp_path / name), free, workers=[name]) for name in "abc"]
    until(lambda: all((tmp_path / name).exists() for name in "abc"))
    future = patient.control.submit(first_stays, log)
    until(lambda: lines(log) == ["d"])
    note(free, "now")
    assert len(patient.control.gather(others, timeout=30)) == 3
    if cut:
        patient.lan.cut("d")
        until(lambda: patient.states()["d"] == "suspect", 1 + SLACK_S)
    fourth.process.kill()
    fourth.process.wait()
    patient.lan.mend("d")
    began = time.monotonic()
    assert future.result(30) != "d"
    assert time.monotonic() - began < 8  # before its silence would have told


# ---- cuts that are shorter --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cut", "unplugged"])
def test_a_worker_s_link_fails_in_the_middle_of_work(patient, how, tmp_path):
    work = Work(patient.control, tmp_path / "log", 500, 100)
    work.reached(60)
    with silent(patient, "a", how):
        time.sleep(4)
    work.check(patient.control)
    assert not patient.lost()


@pytest.mark.parametrize("direction", ["sends", "receives"])
def test_a_worker_s_link_fails_in_one_direction(patient, direction, tmp_path):
    work = Work(patient.control, tmp_path / "log")
    work.reached(60)
    with patient.lan.silence("a", direction, seconds=3):
        pass
    work.check(patient.control)
    assert not patient.lost()


def test_a_client_s_link_fails_in_the_middle_of_work(patient, tmp_path):
    with patient.client() as client:
        work = Work(client, tmp_path / "log", 500, 0)
        work.reached(60)
        with patient.lan.silence("client", seconds=6):
            asked = client.submit(square, str(tmp_path / "other"), 12)
        assert asked.result(30) == 144
        work.check(client)
        assert client.submit(abs, -1).result(30) == 1
        assert patient.control.status()["sessions"]["connected"] == 2


def moving(net, frames=3_000):
    """Wait until so many frames have been carried from now on: a large transfer is under way."""
    before = net.lan.count()["carried"]
    until(lambda: net.lan.count()["carried"] > before + frames)


@pytest.mark.parametrize("how", ["link", "host"])
def test_a_cut_in_the_middle_of_a_large_transfer(patient, how, tmp_path):
    log, size = str(tmp_path / "log"), 60_000_000
    data = patient.control.submit(large, log, 7, size, workers=["a"])
    until(lambda: data.done())
    result = patient.control.submit(digest, data, workers=["b"])
    moving(patient)
    if how == "link":
        patient.lan.part("a", "b")
    else:
        patient.lan.cut("a")
    time.sleep(3)
    assert not result.done()  # or it was not in the middle
    patient.lan.clean()
    assert result.result(60) == digest(bytes([7]) * size)
    assert lines(log) == ["7"] and not patient.lost()


def test_a_cut_while_a_client_fetches(patient, tmp_path):
    size = 60_000_000
    with patient.client() as client:
        data = client.submit(large, str(tmp_path / "log"), 9, size, workers=["a"])
        until(lambda: data.done())
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(data.result, 60)
            moving(patient)
            with patient.lan.silence("client", seconds=3):
                assert not fetching.done()
            assert fetching.result() == bytes([9]) * size
    assert lines(tmp_path / "log") == ["9"] and not patient.lost()


# ---- bad links -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "faults"),
    [
        ("a", {"loss": 0.2}),
        ("hub", {"delay": 0.2}),
        ("a", {"reorder": 0.3, "duplicate": 0.3}),
        ("a", {"loss": 0.2, "delay": 0.2}),
    ],
    ids=str,
)
def test_bad_links_are_no_dead_workers(patient, host, faults, tmp_path):
    control, log = patient.control, str(tmp_path / "data")
    patient.lan.impair(host, **faults)
    work = Work(control, tmp_path / "log", 24, 4)
    data = [control.submit(large, log, i, 50_000, workers=["a"]) for i in range(3)]
    digests = [control.submit(digest, one, workers=["b"]) for one in data]
    assert control.gather(digests, timeout=60) == [digest(bytes([i]) * 50_000) for i in range(3)]
    work.check(control)
    assert len(lines(log)) == 3 and not patient.lost()


def test_a_flapping_link(patient, tmp_path):
    work = Work(patient.control, tmp_path / "log", 500, 120)
    work.reached(30)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        with patient.lan.silence("a", seconds=0.3):
            pass
        time.sleep(0.3)
    work.check(patient.control)
    assert not patient.lost()


# ---- partial cuts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("third", [True, False])
def test_two_workers_that_can_t_reach_one_another(patient, third, tmp_path):
    """With a third worker the data come through it; without, they are made again where they can be had."""
    control, log = patient.control, str(tmp_path / "log")
    data = control.submit(large, log, 3, 2_000_000)
    until(lambda: data.done())
    (holder,) = control.who_has([data])[data.key]
    consumer, other = {"a", "b", "c"} - {holder}
    patient.lan.part(holder, consumer)
    if not third:
        patient.lan.part(holder, other)
        patient.lan.part(consumer, other)
    began = time.monotonic()
    assert control.submit(digest, data, workers=[consumer]).result(40) == digest(bytes([3]) * 2_000_000)
    assert time.monotonic() - began < 100
    assert len(lines(log)) == (1 if third else 2) and not patient.lost()


# ---- the scheduler -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["patient", "quick"])
def test_a_scheduler_that_stands_still_takes_nobody_for_dead(request, kind, tmp_path):
    """For half as long as workers are waited for, and for longer."""
    net = request.getfixturevalue(kind)
    work = Work(net.control, tmp_path / "log", 400, 50)
    work.reached(60)
    with stopped(net.pid("scheduler")):
        time.sleep(5)
    work.check(net.control)
    assert not net.lost() and not net.news("worker suspected")
