"""Broken bytes for everything that reads bytes: handshakes, frames, and the decoder of every side.

Valid frames and handshakes are mutated at random, in the same way for the same seed.  Only errors for which a connection is
closed may be raised, and memory must not grow.  A run is one command::

    python -m twistdist.testing.fuzz --inputs 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

import attrs
import msgspec

from twistdist.errors import AuthenticationError, ProtocolError, VersionMismatch
from twistdist.executors import packets
from twistdist.testing.nonsense import KINDS, Nonsense
from twistdist.wire import framing
from twistdist.wire.handshake import ClientHandshake, ServerHandshake

#: The errors for which a connection is closed; code that reads bytes may raise no others.
EXPECTED = (ProtocolError, AuthenticationError, VersionMismatch)

#: Inputs before memory is first measured, and inputs between two looks at the clock.
WARM_UP, STEP = 20_000, 1_000

#: Pieces to insert: lengths that promise too much, numbers at their limits, odd types, invalid text, deep nesting.
PIECES = (
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xcb\x7f\xf8" + bytes(6),
    b"\xcb\x7f\xf0" + bytes(6),
    b"\xa2\xff\xfe",
    b"\xa3\xed\xa0\x80",
    b"\xc0",
    b"\xc1",
    b"\xc3",
    b"\x80",
    b"\x90",
    b"\xa0",
    b"\x81\x91\x01\x01",
    b"\x81\x81\x01\x02\x03",
    b"\xd6\xff" + b"\xff" * 4,
    b"\xc7\x0c\xff" + b"\xff" * 12,
    b"\xff",
    b"\x7f",
    b"\x91" * 1500,
    b"\x81\x01" * 700,
)
_DEEP = 2  # number of deeply nested pieces at the end, which are slow

_SECRET, _SERVER, _CLIENT = b"a secret for fuzzing", b"s" * 32, b"c" * 32


def decoders() -> dict[str, msgspec.msgpack.Decoder[object]]:
    """Return every decoder of frames, by name."""
    found = {name: value for name, value in vars(framing).items() if isinstance(value, msgspec.msgpack.Decoder)}
    return {name: one for name, one in found.items() if not name.startswith("_")}


def readers() -> dict[str, Callable[[bytes], object]]:
    """Return everything that reads bytes, by name: one call per input."""

    def decode(decoder: msgspec.msgpack.Decoder[object]) -> Callable[[bytes], object]:
        return lambda data: framing.decode_frame(decoder, data)  # type: ignore[arg-type]

    found = {name: decode(decoder) for name, decoder in decoders().items()}
    found |= {"frame of a client": framing.decode_frame_of_client, "outcome": packets.decode_outcome, "packet": unpack}
    return found | {"FrameReader": read_frames, "ServerHandshake": serve, "ClientHandshake": dial}


def unpack(data: bytes) -> None:
    """Read a packet for an executor.  Only its control process sends these, so decoding errors are expected."""
    with contextlib.suppress(*framing.UNDECODABLE):
        packets.decode_packet(data)


def read_frames(data: bytes) -> None:
    """Read frames in two chunks, and check that the reader keeps no more than it was given."""
    reader = framing.FrameReader()
    for chunk in (data[: len(data) // 2], data[len(data) // 2 :]):
        reader.feed(chunk, 1 << 16)
    if len(reader.rest()) > len(data):
        raise AssertionError("a reader kept more than it was given")


def serve(data: bytes) -> None:
    """Read what a client sends to the accepting side."""
    ServerHandshake(_SECRET, _SERVER).feed(data)


def dial(data: bytes) -> None:
    """Read what a server sends to the dialing side: its banner, then its verdict."""
    client, banner = ClientHandshake(_SECRET, _CLIENT), len(ServerHandshake(_SECRET, _SERVER).start())
    client.feed(data[:banner])
    client.feed(data[banner:])


def corpus(seed: int, frames: int = 300) -> dict[str, list[bytes]]:
    """Return valid inputs for each reader, by its name."""
    nonsense = Nonsense(random.Random(seed))
    bodies = []
    for number in range(frames):
        messages = [nonsense.message(KINDS[(number + at) % len(KINDS)]) for at in range(1 + number % 3)]
        bodies.append(msgspec.msgpack.encode((number, number // 2, messages)))
    server, client = ServerHandshake(_SECRET, _SERVER), ClientHandshake(_SECRET, _CLIENT)
    proof = client.start() + client.feed(server.start())[0]
    answer, _ = server.feed(proof)
    found = dict.fromkeys(readers(), bodies)
    found["outcome"] = [msgspec.msgpack.encode(nonsense.message(kind)) for kind in KINDS]
    found["packet"] = [msgspec.msgpack.encode([nonsense.message(kind) for _ in range(2)]) for kind in KINDS]
    found["FrameReader"] = [len(body).to_bytes(4, "big") + body for body in bodies]
    found["ServerHandshake"] = [proof, proof + b"more"]
    found["ClientHandshake"] = [server.start() + answer, server.start() + b"-", server.start() + b"v"]
    return found


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Return ``data`` with one to three random errors."""
    chance = rng.random
    for _ in range(1 + int(chance() * 3)):
        size = len(data)
        at, what = int(chance() * (size + 1)), int(chance() * 8)
        if what == 0 and at < size:
            data = b"%b%c%b" % (data[:at], data[at] ^ 1 << int(chance() * 8), data[at + 1 :])
        elif what == 1 and at < size:
            data = b"%b%c%b" % (data[:at], int(chance() * 256), data[at + 1 :])
        elif what == 2:
            data = data[:at]
        elif what == 3:  # repeat a part
            data = data[:at] + data[at // 2 :]
        elif what == 4:
            data = data[:at] + other[int(chance() * len(other)) :]
        elif what == 5:
            data = data[:at] + data[at + 1 + int(chance() * 4) :]
        else:
            deep = chance() < 0.01
            piece = PIECES[-1 - int(chance() * _DEEP)] if deep else PIECES[int(chance() * (len(PIECES) - _DEEP))]
            data = data[:at] + piece + data[at + (what - 6) :]  # instead of a byte, or between two
    return data


def resident() -> int:
    """Return the bytes of resident memory of this process."""
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@attrs.define
class Report:
    """The result of a run.  ``escaped`` holds exceptions that must not occur: (reader, error, input).

    ``before`` and ``after`` are bytes of resident memory.
    """

    inputs: int = 0
    seconds: float = 0.0
    accepted: Counter[str] = attrs.field(factory=Counter)
    refused: Counter[str] = attrs.field(factory=Counter)
    escaped: list[tuple[str, str, bytes]] = attrs.field(factory=list)
    before: int = 0
    after: int = 0

    @property
    def growth(self) -> int:
        return self.after - self.before


def run(inputs: int, seed: int, seconds: float = float("inf")) -> Report:
    """Feed ``inputs`` mutated inputs, or as many as ``seconds`` allow."""
    rng, report, began = random.Random(seed), Report(), time.monotonic()
    seeds = corpus(seed)
    rows = [(name, read, seeds[name], len(seeds[name])) for name, read in readers().items()]
    chance = rng.random
    while report.inputs < inputs and time.monotonic() - began < seconds:
        for _ in range(min(STEP, inputs - report.inputs)):
            name, read, valid, count = rows[int(chance() * len(rows))]
            data = mutate(rng, valid[int(chance() * count)], valid[int(chance() * count)])
            try:
                read(data)
            except EXPECTED:
                report.refused[name] += 1
            except Exception as error:
                if len(report.escaped) < 100:
                    report.escaped.append((name, f"{type(error).__name__}: {error}", data))
            else:
                report.accepted[name] += 1
            report.inputs += 1
        if report.inputs <= WARM_UP:
            report.before = resident()
    report.after, report.seconds = resident(), time.monotonic() - began
    return report


def run_atheris(arguments: list[str]) -> None:
    """Fuzz with libFuzzer, guided by coverage (``pip install atheris``).  The first byte of an input chooses the reader."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    rows = list(readers().values())

    def one(data: bytes) -> None:
        with contextlib.suppress(*EXPECTED):
            rows[data[0] % len(rows) if data else 0](data[1:])

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    """Run the command.  The exit status is 1 if an exception escaped."""
    parser = argparse.ArgumentParser(prog="python -m twistdist.testing.fuzz", description=__doc__.split("\n\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--atheris", action="store_true", help="use atheris; further arguments go to libFuzzer")
    options, rest = parser.parse_known_args(argv)
    if options.atheris:
        run_atheris(rest)
    elif rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    report = run(options.inputs, options.seed, options.seconds)
    for name, error, data in report.escaped[:10]:
        print(f"{name} raised {error}\n    for input {data[:200].hex()}")
    print(
        f"{report.inputs} inputs in {report.seconds:.1f} s ({report.inputs / report.seconds:.0f}/s), "
        f"{report.accepted.total()} accepted, {report.refused.total()} refused, {len(report.escaped)} exceptions escaped; "
        f"memory {report.before >> 10} KiB, then {report.after >> 10} KiB ({report.growth >> 10:+d})"
    )
    return 1 if report.escaped else 0


if __name__ == "__main__":
    sys.exit(main())
