"""Sends and receives large files over sockets without the interpreter touching their bytes.

It is for threads: they wait in the kernel and hold no lock.  The sockets stay non-blocking, as the reactor needs them; while a
thread uses a socket, the reactor does not.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import Any

#: Bytes received from a socket at a time.
CHUNK_BYTES = 1 << 20


def _wait(descriptor: int, events: int, stall: float) -> None:
    poll = select.poll()
    poll.register(descriptor, events)
    if not poll.poll(stall * 1000):
        raise TimeoutError(f"no data moved for {stall:g} s")


def send_file(connection: socket.socket, head: bytes, stream: Any, offset: int, length: int, stall: float) -> None:
    """Send ``head`` and then ``length`` bytes of ``stream`` from ``offset`` on.

    Raises ``OSError`` if the connection breaks, or accepts nothing for ``stall`` seconds.
    """
    descriptor = connection.fileno()
    while head:
        try:
            head = head[connection.send(head) :]
        except BlockingIOError:
            _wait(descriptor, select.POLLOUT, stall)
    end = offset + length
    while offset < end:
        try:
            sent = os.sendfile(descriptor, stream.fileno(), offset, end - offset)
        except BlockingIOError:
            _wait(descriptor, select.POLLOUT, stall)
            continue
        if not sent:
            raise ConnectionError("the file has become shorter")
        offset += sent


def receive(connection: socket.socket, length: int, take: Callable[[memoryview], None], stall: float) -> None:
    """Receive ``length`` bytes and pass them to ``take`` in pieces, all in the same buffer.

    Raises ``OSError`` like :func:`send_file`.  A piece fits the processor's cache and is copied while it is still there, which
    is twice as fast as receiving into a memory map.
    """
    descriptor, buffer = connection.fileno(), memoryview(bytearray(min(length, CHUNK_BYTES)))
    while length:
        wanted, at = min(length, CHUNK_BYTES), 0
        try:
            while at < wanted:
                try:
                    count = connection.recv_into(buffer[at:wanted])
                except BlockingIOError:
                    _wait(descriptor, select.POLLIN, stall)
                    continue
                if not count:
                    raise ConnectionError("the connection was closed in the middle of a file")
                at += count
        finally:
            if at:  # what was received is kept: the transfer resumes from there
                take(buffer[:at])
        length -= at
