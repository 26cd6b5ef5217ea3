"""Links on loopback that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from twistdist.blocking.reactor_thread import get_reactor_thread
from twistdist.chaos.links import Link


@pytest.fixture
def link():
    """A link to a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo(connection):
            with connection, contextlib.suppress(OSError):
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        def serve():
            with contextlib.suppress(OSError):  # the server was shut down
                while True:
                    threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        reactor = get_reactor_thread()
        made = reactor.call(lambda: Link(reactor.reactor, *server.getsockname()))
        yield made
        reactor.call(made.close)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def connect(link):
    connection = socket.create_connection(("127.0.0.1", link.port))
    connection.settimeout(60)
    return connection


def ask(connection, size):
    sender = threading.Thread(target=connection.sendall, args=(bytes(size),))
    sender.start()
    got = 0
    while got < size and (data := connection.recv(1 << 16)):
        got += len(data)
    sender.join(60)
    return got


def test_a_link_forwards_and_the_end_of_one_side_is_the_end_of_the_other(link):
    with connect(link) as connection:
        assert ask(connection, 5_000_000) == 5_000_000
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_cut_aborts_what_there_is_and_refuses_what_comes_until_all_cuts_are_mended(link):
    call = get_reactor_thread().call
    with connect(link) as first, connect(link) as second:
        assert ask(first, 10) == ask(second, 10) == 10
        assert call(link.cut) == 2 and call(link.cut) == 0
        for connection in (first, second):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    call(link.mend)
    with connect(link) as third, pytest.raises(ConnectionResetError):
        third.recv(1)
    call(link.mend)
    with connect(link) as fourth:
        assert ask(fourth, 10) == 10
