"""What travels between a worker's control process and its executors.

Tasks are sent over a ``SOCK_SEQPACKET`` pair (``SOCK_DGRAM`` where that does not exist), one packet per write.  Packets keep
their boundaries, so the control process can take back those that the executor has not read.  Outcomes arrive through a pipe as
frames of one message each; what an executor wrote before it died can still be read.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import struct

import msgspec

from twistdist.errors import ProtocolError, TaskCancelled, TimeLimitExceeded
from twistdist.wire import messages as m
from twistdist.wire.framing import UNDECODABLE

#: Bytes at which a packet is closed; a single message above this size goes through a file.  Well below the smallest default
#: socket buffer (212,992 bytes on Linux).
PACKET_BYTES = 64 << 10
RECEIVE_BYTES = 256 << 10

SOCKET_TYPE = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)

#: The signal that asks an executor to check whether its task must be interrupted.  Ignored by default, and hardly used by
#: anything else.
INTERRUPT_SIGNAL = signal.SIGURG

#: For each reason for an interrupt, in the core's words: the byte in the page, and the exception raised in the task.
INTERRUPTS = {
    "cancelled": (1, TaskCancelled("the task was cancelled, or its result is no longer needed")),
    "time limit": (2, TimeLimitExceeded("the task reached its time_limit")),
}

#: Exit codes of an executor that can't continue: its own descriptors are gone; it could not start; a plugin could not.
EXIT_DESCRIPTORS, EXIT_START, EXIT_PLUGIN = 201, 202, 203


class PacketFile(m.Message, tag=70):
    """The packet's content is in this file; the executor removes it."""

    path: str


_Task = m.WorkerFunction | m.Compute | m.ForgetFunctions | m.GoOn | PacketFile
Outcome = m.Done | m.Failed | m.InputLost | m.Started | m.Waits | m.Resumes | m.UsesClient | m.WorkerLog

encode_packet = msgspec.msgpack.Encoder().encode
decode_packet = msgspec.msgpack.Decoder(list[_Task]).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_encode_into = msgspec.msgpack.Encoder().encode_into


def decode_outcome(data: bytes | memoryview) -> Outcome:
    """Decode one outcome, given without its length prefix.

    Raises:
        ProtocolError: ``data`` is not an outcome; a task may have written into the pipe.
    """
    try:
        outcome: Outcome = _decode_outcome(data)
        return outcome
    except UNDECODABLE as error:
        raise ProtocolError(f"an outcome of {len(data)} bytes can't be decoded: {error}") from None


def encode_outcome(outcome: Outcome) -> bytes:
    """Encode one outcome, with its length in front."""
    buffer = bytearray(4)
    _encode_into(outcome, buffer, 4)
    buffer[:4] = (len(buffer) - 4).to_bytes(4, "big")
    return bytes(buffer)


def stack_path(store: str, number: int) -> str:
    """Return the path of the file where an executor's faulthandler leaves the Python stack when a signal ends it."""
    return f"{store}/.stack-{number}"


class Page:
    """The shared page of a worker: 64 bytes for each executor, read and written without a system call.

    An entry holds the running attempt (8 bytes), its start time in ns by the monotonic clock (8), the attempt to interrupt (8),
    why (1), and whether threads of an earlier task are left (1).
    """

    _ENTRY = 64
    _RUNNING, _DOOMED, _LEFT = struct.Struct("<QQ"), struct.Struct("<QB"), struct.Struct("<B")

    def __init__(self, path: str, entries: int, create: bool = False) -> None:
        with open(path, "w+b" if create else "r+b") as stream:
            if create and hasattr(os, "posix_fallocate"):  # not sparse: a full store must not kill a process that writes here
                os.posix_fallocate(stream.fileno(), 0, entries * self._ENTRY)
            elif create:
                stream.truncate(entries * self._ENTRY)
            self._map = mmap.mmap(stream.fileno(), entries * self._ENTRY)

    def clear(self, number: int) -> None:
        """Clear the entry for a new executor."""
        at = number * self._ENTRY
        self._map[at : at + self._ENTRY] = bytes(self._ENTRY)

    def set(self, number: int, attempt: int, began: int) -> None:
        """Record that the executor has been running ``attempt`` since ``began``."""
        self._RUNNING.pack_into(self._map, number * self._ENTRY, attempt, began)

    def get(self, number: int) -> tuple[int, int]:
        """Return (the attempt that is running or ran last, its start time)."""
        found: tuple[int, int] = self._RUNNING.unpack_from(self._map, number * self._ENTRY)
        return found

    def doom(self, number: int, attempt: int, why: int) -> None:
        """Record that ``attempt`` must be interrupted when the signal arrives."""
        self._DOOMED.pack_into(self._map, number * self._ENTRY + 16, attempt, why)

    def doomed(self, number: int) -> tuple[int, int]:
        """Return (the attempt to interrupt, why)."""
        found: tuple[int, int] = self._DOOMED.unpack_from(self._map, number * self._ENTRY + 16)
        return found

    def set_threads_left(self, number: int, left: bool) -> None:
        """Record whether threads that an earlier task started are still running."""
        self._LEFT.pack_into(self._map, number * self._ENTRY + 25, left)

    def threads_left(self, number: int) -> bool:
        return bool(self._LEFT.unpack_from(self._map, number * self._ENTRY + 25)[0])
