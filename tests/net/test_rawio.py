"""Large files over a socket pair, in threads."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from twistdist.net import rawio

SIZE = 9 * rawio.CHUNK_BYTES + 17


class Collected:
    """Collects what arrives; ``fail_at``: raises when so many bytes have arrived."""

    def __init__(self, fail_at=None):
        self.data, self.fail_at = bytearray(), fail_at

    def target(self, count):
        return None

    def arrived(self, count):
        raise AssertionError("there is no target")

    def write(self, data):
        if self.fail_at is not None and len(self.data) >= self.fail_at:
            raise ValueError("enough")
        self.data += data


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    near.setblocking(False)
    yield near, far
    near.close()
    far.close()


def send(far, data):
    def run():
        far.sendall(data)
        far.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [0, 1, rawio.CHUNK_BYTES, rawio.CHUNK_BYTES + 1, SIZE])
def test_all_bytes_arrive_in_order(pair, size):
    data, to = os.urandom(size), Collected()
    thread = send(pair[1], data)
    rawio.receive(pair[0], size, to, 10)
    thread.join()
    assert to.data == data


@pytest.mark.parametrize("size", [100, SIZE])
def test_what_arrived_before_the_end_is_kept(pair, size):
    data, to = os.urandom(size), Collected()
    thread = send(pair[1], data)
    with pytest.raises(ConnectionError, match="in the middle"):
        rawio.receive(pair[0], size + 1, to, 10)
    thread.join()
    assert to.data == data


def test_an_error_of_the_thread_that_writes_is_raised(pair):
    to = Collected(2 * rawio.CHUNK_BYTES)
    thread = send(pair[1], bytes(SIZE))
    before = threading.active_count()
    with pytest.raises(ValueError, match="enough"):
        rawio.receive(pair[0], SIZE, to, 10)
    thread.join()
    assert len(to.data) == 2 * rawio.CHUNK_BYTES and threading.active_count() < before


def test_a_silent_sender_is_given_up(pair):
    with pytest.raises(TimeoutError):
        rawio.receive(pair[0], SIZE, Collected(), 0.05)
