"""Sends and receives large files over sockets without the interpreter touching their bytes.

It is for threads: they wait in the kernel and hold no lock.  The sockets stay non-blocking, as the reactor needs them; while a
thread uses a socket, the reactor does not.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

#: Bytes received from a socket at a time.
CHUNK_BYTES = 1 << 20

#: Buffers between the thread that receives a large file and the one that writes it.
BUFFERS = 4


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


class Destination(Protocol):
    """Where received bytes go: into its own memory, if it has any, else through ``write``."""

    def target(self, count: int) -> memoryview | None:
        """Return memory for the next ``count`` bytes, or None."""

    def arrived(self, count: int) -> None:
        """So many bytes are now in the memory that ``target`` returned."""

    def write(self, data: memoryview) -> None: ...


def receive(connection: socket.socket, length: int, to: Destination, stall: float) -> None:
    """Receive ``length`` bytes.

    Raises ``OSError`` like :func:`send_file`; what was received until then has been passed on, so that the transfer can be
    resumed from there.  Bytes for ``to.write`` go through buffers that fit the processor's cache, which is twice as fast as
    receiving into a memory map.
    """
    if to.target(0) is not None:
        while length:
            length -= _receive_piece(connection, to.target(min(length, CHUNK_BYTES)), to.arrived, stall)  # type: ignore[arg-type]
        return
    with _Writer(to.write, length) as writer:
        while length:
            buffer = writer.buffer()
            length -= _receive_piece(connection, buffer[:length], lambda count: writer.put(buffer, count), stall)  # noqa: B023


def _receive_piece(connection: socket.socket, buffer: memoryview, arrived: Callable[[int], None], stall: float) -> int:
    """Fill a buffer and return its length.  ``arrived(count)`` is called with the number of its bytes, also before an error."""
    at, wanted = 0, len(buffer)
    try:
        while at < wanted:
            try:
                count = connection.recv_into(buffer[at:])
            except BlockingIOError:
                _wait(connection.fileno(), select.POLLIN, stall)
                continue
            if not count:
                raise ConnectionError("the connection was closed in the middle of a file")
            at += count
    finally:
        arrived(at)
    return at


class _Writer:
    """Passes pieces to ``take`` in a thread of its own, so that the next piece is received in the meantime.

    A few pieces are handled without that thread.  If ``take`` is slow, ``buffer`` waits for it.
    """

    def __init__(self, take: Callable[[memoryview], None], length: int) -> None:
        self._take = take
        self._error: Exception | None = None
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._full: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        beside = length > BUFFERS * CHUNK_BYTES
        for _ in range(BUFFERS if beside else 1):
            self._free.put(memoryview(bytearray(min(length, CHUNK_BYTES))))
        self._thread = Thread(target=self._run, name="twistdist file writer", daemon=True) if beside else None

    def __enter__(self) -> _Writer:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._full.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error

    def buffer(self) -> memoryview:
        return self._free.get()

    def put(self, buffer: memoryview, count: int) -> None:
        self._full.put((buffer, count))
        if self._thread is None:
            self._full.put(None)
            self._run()

    def _run(self) -> None:
        while (piece := self._full.get()) is not None:
            buffer, count = piece
            try:
                if count and self._error is None:
                    self._take(buffer[:count])
            except Exception as error:
                self._error = error  # raised in the thread that receives
            self._free.put(buffer)
