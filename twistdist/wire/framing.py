"""Frames: a 4-byte big-endian length, then msgpack of ``[number, acknowledged, [message, …]]``.

Each direction of each role has its own decoder.  The decoder refuses a message that the other side may not send with
:class:`~twistdist.errors.ProtocolError`, so it never reaches a core.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from twistdist.errors import ProtocolError
from twistdist.wire import messages as m

#: Bytes of the largest frame.  A larger length closes the connection before any byte of the frame is kept.
MAX_FRAME_BYTES = 256 << 20

#: What decoders raise for bytes that are not a message; text that is not UTF-8 has its own error.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: What encoders raise for a message that contains something that no message may contain.
UNENCODABLE = (ProtocolError, TypeError, ValueError, OverflowError, RecursionError)

_HEADER = 4
_encode_into = msgspec.msgpack.Encoder().encode_into


def encode_frame(frame: m.Frame) -> bytes:
    """Return the bytes of one frame, including its length.

    Raises:
        ProtocolError: the frame would be larger than any reader accepts.  Messages that can't be encoded raise one of
            :data:`UNENCODABLE`.
    """
    buffer = bytearray(_HEADER)
    _encode_into(frame, buffer, _HEADER)
    length = len(buffer) - _HEADER
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {length} bytes is larger than the limit of {MAX_FRAME_BYTES}")
    buffer[:_HEADER] = length.to_bytes(_HEADER, "big")
    return bytes(buffer)


def take_out_unencodable(frames: Sequence[m.Frame]) -> list[tuple[Any, str]]:
    """Remove the messages that can't be encoded from the frames, and return each with the reason.

    A frame is sent without them and may be empty: only the numbers of frames matter to the other side.
    """
    taken = []
    for _, _, messages in frames:
        for message in list(messages):
            try:
                encode_frame((0, 0, [message]))
            except UNENCODABLE as error:
                messages.remove(message)
                taken.append((message, str(error)))
    return taken


def _decoder(*kinds: Any) -> msgspec.msgpack.Decoder[m.Frame]:
    return msgspec.msgpack.Decoder(tuple[int, int, list[functools.reduce(operator.or_, kinds)]])  # type: ignore[misc]


#: What the scheduler reads on a new connection, and what the dialing side reads until its greeting is answered.
GREETING_TO_SCHEDULER = _decoder(m.HelloClient, m.HelloWorker, m.Resume)
GREETING_FROM_SCHEDULER = _decoder(m.Ready, m.Resumed, m.Refused)
FROM_CLIENT = _decoder(m.FromClient)
FROM_WORKER = _decoder(m.FromWorker)
TO_CLIENT = _decoder(m.ToClient)
TO_WORKER = _decoder(m.ToWorker)
BULK_REQUEST = _decoder(m.Fetch, m.Put)
BULK_ANSWER = _decoder(m.Data, m.Absent, m.Busy, m.Send, m.Kept)


_ANY = msgspec.msgpack.Decoder(tuple[int, int, list[list[Any]]])
_ONE_FROM_CLIENT = msgspec.msgpack.Decoder(m.FromClient)


def decode_frame_of_client(data: bytes | memoryview) -> m.Frame:
    """Decode a frame of a client, like :func:`decode_frame`, but let one bad message not affect the others of the frame.

    Returns:
        The frame, with :class:`~twistdist.wire.messages.Undecodable` instead of each bad message.

    Raises:
        ProtocolError: the frame as a whole can't be decoded.
    """
    try:
        return FROM_CLIENT.decode(data)
    except UNDECODABLE as error:
        try:
            number, acknowledged, messages = _ANY.decode(data)
        except UNDECODABLE:
            raise ProtocolError(f"a frame of {len(data)} bytes can't be decoded: {error}") from None
    return number, acknowledged, [_message_of_client(parts) for parts in messages]


def _message_of_client(parts: list[Any]) -> Any:
    try:
        return _ONE_FROM_CLIENT.decode(msgspec.msgpack.encode(parts))
    except (*UNDECODABLE, *UNENCODABLE) as error:
        return m.Undecodable(parts, str(error))


def decode_frame(decoder: msgspec.msgpack.Decoder[m.Frame], data: bytes | memoryview) -> m.Frame:
    """Decode the frame in ``data``, given without its length.

    Raises:
        ProtocolError: ``data`` is not a frame, or has a message that the decoder does not accept.
    """
    try:
        return decoder.decode(data)
    except UNDECODABLE as error:
        raise ProtocolError(f"a frame of {len(data)} bytes can't be decoded: {error}") from None


class FrameReader:
    """Splits a stream into frames, in time linear in the bytes received, whatever the sizes of frames and chunks."""

    __slots__ = ("_chunks", "_have", "_need")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = _HEADER

    def feed(self, data: bytes, limit: int = MAX_FRAME_BYTES, most: int = sys.maxsize) -> list[memoryview]:
        """Return the frame bodies that ``data`` completes, at most ``most``; what follows the last of them stays unparsed.

        Raises:
            ProtocolError: a frame announces more than ``limit`` bytes.
        """
        self._chunks.append(data)
        self._have += len(data)
        if self._have < self._need:
            return []
        view = memoryview(self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))
        at, end = 0, len(view)
        frames: list[memoryview] = []
        self._need = _HEADER
        while end - at >= _HEADER and len(frames) < most:
            length = int.from_bytes(view[at : at + _HEADER], "big")
            if length > limit:
                raise ProtocolError(f"a frame of {length} bytes was announced, but the limit is {limit}")
            if end - at < _HEADER + length:
                self._need = _HEADER + length
                break
            frames.append(view[at + _HEADER : at + _HEADER + length])
            at += _HEADER + length
        self._chunks = [bytes(view[at:])] if at < end else []
        self._have = end - at
        return frames

    def rest(self) -> bytes:
        """Return what follows the last complete frame, and empty the reader."""
        left = b"".join(self._chunks)
        self._chunks, self._have, self._need = [], 0, _HEADER
        return left
