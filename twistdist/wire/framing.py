"""Frames: a 4-byte big-endian length, then msgpack of ``[number, acknowledged, [message, …]]``.

Each direction of each role has a decoder of its own, so that a message which that side may not send is refused by the
decoder with :class:`~twistdist.errors.ProtocolError` and never reaches a core.
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

#: No frame is larger; a length above it closes the connection before a byte of it is kept.
MAX_FRAME_BYTES = 256 << 20

#: What decoders raise for bytes that are no message: text that is not UTF-8 has an error of its own.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: What encoders raise for a message that has something in it which no message may have.
UNENCODABLE = (ProtocolError, TypeError, ValueError, OverflowError, RecursionError)

_HEADER = 4
_encode_into = msgspec.msgpack.Encoder().encode_into


def encode_frame(frame: m.Frame) -> bytes:
    """The bytes of one frame.  ``ProtocolError`` when it would be larger than any reader accepts."""
    buffer = bytearray(_HEADER)
    _encode_into(frame, buffer, _HEADER)
    length = len(buffer) - _HEADER
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {length} bytes is larger than the limit of {MAX_FRAME_BYTES}")
    buffer[:_HEADER] = length.to_bytes(_HEADER, "big")
    return bytes(buffer)


def take_out_unencodable(frames: Sequence[m.Frame]) -> list[tuple[Any, str]]:
    """Take out of the frames the messages that can't be encoded; each with the reason.

    A frame goes on without them, and may be empty: only the numbers of frames matter to the other side.
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


#: What the scheduler reads on a new connection, and what the dialing side reads until it is greeted.
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
    """As :func:`decode_frame`, of a client: what is wrong with one message does not concern the others of the frame."""
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
    """The frame in ``data`` (without its length).  ``ProtocolError`` for anything that is none."""
    try:
        return decoder.decode(data)
    except UNDECODABLE as error:
        raise ProtocolError(f"a frame of {len(data)} bytes can't be decoded: {error}") from None


class FrameReader:
    """Cuts a stream into frames.  Linear in the bytes received, whatever the sizes of frame and chunk."""

    __slots__ = ("_chunks", "_have", "_need")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = _HEADER

    def feed(self, data: bytes, limit: int = MAX_FRAME_BYTES, most: int = sys.maxsize) -> list[memoryview]:
        """The complete frame bodies that ``data`` ends, at most ``most``: what is behind the last of them stays unparsed.

        ``ProtocolError`` when one says it is longer than ``limit``.
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
                raise ProtocolError(f"a frame of {length} bytes announced, the limit is {limit}")
            if end - at < _HEADER + length:
                self._need = _HEADER + length
                break
            frames.append(view[at + _HEADER : at + _HEADER + length])
            at += _HEADER + length
        self._chunks = [bytes(view[at:])] if at < end else []
        self._have = end - at
        return frames

    def rest(self) -> bytes:
        """What is left after the last complete frame; the reader is empty afterwards."""
        left = b"".join(self._chunks)
        self._chunks, self._have, self._need = [], 0, _HEADER
        return left
