"""Promises on connections that fail, behind proxies on loopback: no rights are needed."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests.integration.habits import lines, until
from tests.network.chores import digest, large, square
from tests.network.nets import ProxyNet, Work, in_order, shared
from tests.network.proxy import Proxy

proxied = shared(ProxyNet)
#: With the defaults.
net = in_order("proxied", 2, ProxyNet.clean)


# ---- the kit itself --------------------------------------------------------------------------------


@pytest.fixture
def echo():
    """The address of a server that sends everything back."""

    def back(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def serve():
        while True:
            connection, _ = server.accept()
            if connection.getpeername() == last:
                connection.close()
                return
            threads.append(threading.Thread(target=back, args=(connection,)))
            threads[-1].start()

    last, threads = None, [threading.Thread(target=serve)]
    with socket.create_server(("127.0.0.1", 0)) as server:
        threads[0].start()
        yield server.getsockname()
        with socket.socket() as end:
            end.bind(("127.0.0.1", 0))
            last = end.getsockname()
            end.connect(server.getsockname())
        for thread in threads:
            thread.join(30)


def test_the_proxy_and_its_switches(echo):
    with Proxy(echo) as proxy, contextlib.ExitStack() as stack:

        def connect():
            made = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            made.settimeout(0.3)
            return made

        def ask(connection, data=b"hello"):
            connection.sendall(data)
            got = b""
            while len(got) < len(data) and (more := connection.recv(len(data))):
                got += more
            return got

        one = connect()
        assert ask(one) == b"hello" and len(ask(one, bytes(3_000_000))) == 3_000_000
        for directions in ((), ("forth",), ("back",)):
            with proxy.frozen(*directions):
                with pytest.raises(TimeoutError):
                    ask(one)
                two = connect()
                with pytest.raises(TimeoutError):
                    ask(two)
            assert one.recv(10) == two.recv(10) == b"hello"
        proxy.delay(0.1)
        began = time.monotonic()
        assert ask(one) == b"hello" and time.monotonic() - began >= 0.2
        proxy.delay(0)
        with proxy.absent():
            assert one.recv(10) == b""
            with pytest.raises(ConnectionRefusedError):
                connect()
        one = connect()
        assert ask(one) == b"hello"
        proxy.cut(reset=True)
        with pytest.raises(ConnectionResetError):
            one.recv(10)
        proxy.cut_after(100_000)
        with pytest.raises(ConnectionResetError):
            ask(connect(), bytes(200_000))
        one = connect()
        assert ask(one) == b"hello"
        one.shutdown(socket.SHUT_WR)
        assert one.recv(10) == b""
        until(lambda: not proxy._ways)


# ---- links -----------------------------------------------------------------------------------------


FAULTS = {
    "frozen": lambda proxy: proxy.frozen(),
    "frozen forth": lambda proxy: proxy.frozen("forth"),
    "frozen back": lambda proxy: proxy.frozen("back"),
    "absent": lambda proxy: proxy.absent(),
    "reset": lambda proxy: proxy.absent(reset=True),
}


@contextlib.contextmanager
def working(net, link, log, count=240, pinned=50):
    """A client and tasks that have begun: the client's link is proxied when it is the one that fails."""
    with net.client() if link == "client" else contextlib.nullcontext(net.control) as client:
        work = Work(client, log, count, pinned)
        work.reached(count // 8)
        yield client, work
        work.check(client)
        assert not net.lost()


@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("link", ["a", "client"])
def test_a_link_fails_in_the_middle_of_work(net, link, how, tmp_path):
    seconds = 3 if how in ("frozen", "absent") else 1.5
    with working(net, link, tmp_path / "log"), FAULTS[how](net.links[link]):
        time.sleep(seconds)


@pytest.mark.parametrize("how", ["frozen", "reset"])
def test_a_flapping_link(net, how, tmp_path):
    with working(net, "a", tmp_path / "log"):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            with FAULTS[how](net.links["a"]):
                time.sleep(0.3)
            time.sleep(0.3)


def test_a_connection_breaks_in_the_middle_of_frames(net, tmp_path):
    with working(net, "a", tmp_path / "log") as (client, _):
        more = []

        def connected(times):
            """Whether it has connected so often; something is always on its way to "a", however slowly it dials."""
            more.append(client.submit(square, str(tmp_path / "more"), len(more), 0, workers=["a"]))
            return net.links["a"].accepted > times

        for count in (1, 7, 100, 1_000):
            for direction in ("forth", "back"):
                before = net.links["a"].accepted
                net.links["a"].cut()
                until(lambda before=before: connected(before))
                net.links["a"].cut_after(200 + count, direction)  # the greeting is shorter
                until(lambda before=before: connected(before + 1))
        assert client.gather(more, timeout=60) == [i * i for i in range(len(more))]
        assert len(lines(tmp_path / "more")) == len(more)


def test_a_half_open_connection_that_ends_in_an_error(net, tmp_path):
    """Nothing is heard for two seconds, then the connection turns out to be gone."""
    with working(net, "a", tmp_path / "log"), net.links["a"].frozen():
        time.sleep(2)
        net.links["a"].cut(reset=True)


def test_slow_links(net, tmp_path):
    for proxy in net.links.values():
        proxy.delay(0.2)
    with working(net, "client", tmp_path / "log", 16, 4):
        pass
    assert not net.news("worker suspected")


# ---- the way between peers ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["frozen", "absent", "reset"])
def test_a_large_transfer_breaks_in_the_middle(net, how, tmp_path):
    log, size = str(tmp_path / "log"), 80_000_000
    data = net.control.submit(large, log, 5, size, workers=["a"])
    until(lambda: data.done())
    net.peers["a"].delay(0.05)  # so that the middle takes long enough
    result = net.control.submit(digest, data, workers=["b"])
    until(lambda: any(way.passed > size // 10 for way in net.peers["a"]._ways))
    with FAULTS[how](net.peers["a"]):
        time.sleep(2)
        assert not result.done()  # or it was not in the middle
    net.peers["a"].clean()
    assert result.result(60) == digest(bytes([5]) * size)
    assert lines(log) == ["5"] and not net.lost()


def test_a_holder_that_peers_can_t_reach(net, tmp_path):
    """It reaches the scheduler, so its data are not lost with it; there is no third worker to bring them."""
    log = str(tmp_path / "log")
    data = net.control.submit(large, log, 6, 1_000_000, workers=["a"], allow_other_workers=True)
    until(lambda: data.done())
    assert net.control.who_has([data])[data.key] == ["a"]
    with net.peers["a"].frozen():
        assert net.control.submit(digest, data, workers=["b"]).result(90) == digest(bytes([6]) * 1_000_000)
    assert len(lines(log)) <= 2 and not net.lost()
