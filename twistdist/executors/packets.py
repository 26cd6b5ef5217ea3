"""What goes between a worker's control process and its executors.

Tasks go one packet a write over a ``SOCK_SEQPACKET`` pair (``SOCK_DGRAM`` where that does not exist): packets keep their
boundaries, so that the control process can take back the ones that the executor has not read.  Outcomes come through a
pipe as frames of one message each; what an executor wrote before it died can still be read.
"""

from __future__ import annotations

import mmap
import socket
import struct

import msgspec

from twistdist.wire import messages as m

#: A packet is closed at this size; one message above it goes through a file.  Well below the smallest default
#: socket buffer (212,992 bytes on Linux).
PACKET_BYTES = 64 << 10
RECEIVE_BYTES = 256 << 10

SOCKET_TYPE = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)


class PacketFile(m.Message, tag=70):
    """The packet's content is in this file, which the executor removes."""

    path: str


_Task = m.WorkerFunction | m.Compute | m.ForgetFunctions | PacketFile
Outcome = m.Done | m.Failed | m.InputLost

encode_packet = msgspec.msgpack.Encoder().encode
decode_packet = msgspec.msgpack.Decoder(list[_Task]).decode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_encode_into = msgspec.msgpack.Encoder().encode_into


def encode_outcome(outcome: Outcome) -> bytes:
    """One outcome with its length in front."""
    buffer = bytearray(4)
    _encode_into(outcome, buffer, 4)
    buffer[:4] = (len(buffer) - 4).to_bytes(4, "big")
    return bytes(buffer)


def stack_path(store: str, slot: int) -> str:
    """The file in which an executor's faulthandler leaves the Python stack when a signal ends it."""
    return f"{store}/.stack-{slot}"


class Page:
    """The shared page of a worker: for each slot the attempt that its executor is running, written without a system call."""

    _ENTRY = struct.Struct("<Q56x")

    def __init__(self, path: str, slots: int, create: bool = False) -> None:
        with open(path, "w+b" if create else "r+b") as stream:
            if create:
                stream.truncate(slots * self._ENTRY.size)
            self._map = mmap.mmap(stream.fileno(), slots * self._ENTRY.size)

    def set(self, slot: int, attempt: int) -> None:
        self._ENTRY.pack_into(self._map, slot * self._ENTRY.size, attempt)

    def get(self, slot: int) -> int:
        attempt: int = self._ENTRY.unpack_from(self._map, slot * self._ENTRY.size)[0]
        return attempt
