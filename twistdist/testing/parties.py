"""What the simulated clients and workers of :mod:`.simulate` have in common, and their connections."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from twistdist.core import client as client_core
from twistdist.core import worker as worker_core
from twistdist.core.exchange import ACK_S, Exchange
from twistdist.core.scheduler import records
from twistdist.core.session import Gap
from twistdist.wire import framing
from twistdist.wire import messages as m

if TYPE_CHECKING:
    from twistdist.testing.schedulers import SimScheduler
    from twistdist.testing.simulate import World

#: Simulated seconds during which faults happen.
FAULT_S = 4.0

#: The two directions of a link.
FROM_SCHEDULER, TO_SCHEDULER = 0, 1


_FLIPPED = b"flipped "


class SimulationFailed(AssertionError):
    """A run broke a guarantee."""


@attrs.frozen
class Plan:
    """What the task of one node does; derived only from its number and the seed."""

    node: int
    inputs: tuple[int, ...]
    large: bool
    raises: bool
    flaky: int
    poison: bool
    seconds: float
    waits: float
    options: m.Options
    children: tuple[int, ...] = ()  # the nodes whose tasks it submits itself, and waits for

    def __str__(self) -> str:
        ways = {
            "large": self.large,
            "raises": self.raises,
            "kills its process": self.poison,
            "fails once": self.flaky,
            "waits": self.waits,
            f"submits {', '.join(map(str, self.children))}": self.children,
        }
        options = [
            f"{name}={getattr(self.options, name)!r}"
            for name in ("workers", "resources", "replicas", "replay", "priority", "beside")
            if getattr(self.options, name) != getattr(m.Options(), name)
        ]
        told = ", ".join([f"{self.seconds:g} s", *[way for way, holds in ways.items() if holds], *options])
        return f"node {self.node}{f' from {self.inputs}' if self.inputs else ''} ({told})"


def value_of(plan: Plan, inputs: list[bytes]) -> bytes:
    """Return what the task computes: a digest of its number, its inputs and its children's values."""
    return hashlib.blake2b(repr((plan.node, inputs)).encode(), digest_size=8).digest()


def flipped(value: bytes) -> bytes:
    """Return the value with a byte that is not as it was written."""
    return _FLIPPED + value


def is_right(value: bytes) -> bool:
    """Return whether a value matches the digest that is kept with it."""
    return not value.startswith(_FLIPPED)


class Link:
    """One connection between a dialing party and the scheduler, with latency and faults, in both directions."""

    def __init__(self, world: World, party: Party, scheduler: SimScheduler) -> None:
        self.world, self.party, self.scheduler = world, party, scheduler
        self.open = True
        self.peer: records.Client | records.Worker | None = None
        self._last = [0.0, 0.0]
        self._silent_until = 0.0
        self.greeted = False
        self.last_words = False  # whether what its party sent before it ended still arrives
        self.swallows: set[int] = set()  # the directions in which nothing arrives any more

    def silent(self, seconds: float) -> None:
        """Let nothing through for ``seconds``, unnoticed; then everything arrives late, as with TCP."""
        self._silent_until = self.world.now + seconds

    def send(self, to_scheduler: bool, frame: m.Frame, background: bool = False) -> None:
        """Deliver a frame later, through the encoder and the decoder, unless a fault hits it."""
        world, side = self.world, int(to_scheduler)
        if frame[2] and isinstance(frame[2][0], m.Ready | m.Resumed):
            self.greeted = True
        data = framing.encode_frame(frame)[4:]
        world.record(f"{self.party.name} {'to' if to_scheduler else 'from'} scheduler", data)
        if frame[2] and not frame[0] and world.greeting_fault():
            self.cut()
            return
        if side in self.swallows:
            return
        at = max(self._last[side], self._silent_until, world.now + world.rng.uniform(0.0001, world.latency))
        fault = world.frame_fault() if frame[0] else ""  # a connection that loses a greeting is cut
        if fault == "lose":
            world.after(world.rng.uniform(0.0, 0.3), lambda: self.cut())
            return
        if fault == "reorder":
            at += world.latency * 2
        else:
            self._last[side] = at
        world.at(at, lambda: self.deliver(to_scheduler, data), background)
        if fault == "repeat":
            world.at(at, lambda: self.deliver(to_scheduler, data))

    def deliver(self, to_scheduler: bool, data: bytes) -> None:
        """A frame arrives."""
        if not self.open or not (self.party.alive or (to_scheduler and self.last_words)):
            return
        try:
            if to_scheduler:
                self.scheduler.receives(self, data)
            else:
                self.party.receives(self, data)
        except Gap:
            self.world.fault("gap")
            self.cut()

    def cut(self) -> None:
        """Break the connection; the two sides notice at different times."""
        if not self.open:
            return
        self.open = False
        world = self.world
        world.after(world.rng.uniform(0.0, 0.05), lambda: self.scheduler.lost(self))
        world.after(world.rng.uniform(0.0, 0.05), lambda: self.party.lost(self))


class Process:
    """A process that can be stopped by a signal for a while: what happens to it meanwhile waits, in order."""

    world: World

    def __init__(self) -> None:
        self.paused_until = 0.0
        self._waiting: list[Callable[[], None]] = []

    def is_paused(self) -> bool:
        """Whether the process is stopped, or continues at this moment."""
        return self.world.now < self.paused_until or bool(self._waiting)

    def asleep(self, then: Callable[[], None]) -> bool:
        """Whether the process is stopped; if so, ``then`` happens when it continues."""
        if not self.is_paused():
            return False
        if not self._waiting:
            self.world.at(self.paused_until, self._wakes)
        self._waiting.append(then)
        return True

    def _wakes(self) -> None:
        if self.world.now < self.paused_until:  # it was stopped again
            self.world.at(self.paused_until, self._wakes)
            return
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()


class Party(Process):
    """A dialing process: its core's dialer, its link, and whether it lives."""

    core: client_core.Client | worker_core.Worker

    def __init__(self, world: World, name: str, core: client_core.Client | worker_core.Worker) -> None:
        super().__init__()
        self.world, self.name = world, name
        self.exchange = Exchange(core)
        self.alive = True
        self.link: Link | None = None  # established, or a greeting was sent over it
        self.former: Link | None = None  # established, until the greeting over the one that replaces it is answered
        self._ack_due = False

    def pulse(self) -> None:
        """Send a heartbeat periodically, and reconnect if the scheduler is silent."""
        if not self.alive or self.asleep(self.pulse):
            return
        world = self.world
        world.at(world.now + world.every, self.pulse, background=True)
        silence = self.exchange.look(world.now)
        if self.link is not None and self.exchange.is_silent(world.now):
            if not world.forgetting:
                self.exchange.heard(world.now)  # on behalf of the next connection
                world.fault("redialed")
                self.link.cut()
            elif silence >= self.core.dialer.dead_after:
                self.link.cut()
            else:
                self._replace_link()
        beat = self.beat()
        established = self.link if self.core.dialer.connected else self.former
        if beat is not None and established is not None:
            established.send(True, self.exchange.background(beat), background=True)

    def _replace_link(self) -> None:
        """Greet over another connection, and keep the one that was established until the greeting is answered."""
        scheduler, link = self.world.listening(), self.link
        if scheduler is None or link is None or self.world.rng.random() < 0.5:  # the other attempt fails, or takes its time
            return
        self.world.fault("replaced")
        if self.core.dialer.connected:
            self.former = link
        else:
            link.cut()
        self.link = Link(self.world, self, scheduler)
        self.link.send(True, self.exchange.opened(self.world.now))

    def drop_former(self) -> None:
        """Close the connection that was kept while another one was tried."""
        former, self.former = self.former, None
        if former is not None:
            former.cut()

    def beat(self) -> m.Beat | None:
        """Return the heartbeat to send, if any; only workers send one."""
        return None

    def heard_notice(self, notice: Any) -> None:
        """Handle a message of the scheduler outside the numbered frames."""

    def reconnect(self) -> None:
        """Replace the current connection with a new one."""
        self.drop_former()
        if self.link is not None:
            self.link.cut()

    def dial(self) -> None:
        if not self.alive or self.link is not None or self.asleep(self.dial):
            return
        scheduler = self.world.listening()
        if scheduler is None:  # refused
            self.world.after(self.world.rng.uniform(0.02, 0.2), self.dial)
            return
        self.link = Link(self.world, self, scheduler)
        self.link.send(True, self.exchange.opened(self.world.now))

    def receives(self, link: Link, data: bytes) -> None:
        if link is not self.link or self.asleep(lambda: link.deliver(False, data)):
            return
        self.exchange.heard(self.world.now)
        if not self.core.dialer.connected:
            for answer in framing.decode_frame(framing.GREETING_FROM_SCHEDULER, data)[2]:
                answered = self.exchange.answered(self.world.now, answer)
                for frame in answered.frames:
                    link.send(True, frame)
                if answered.ready:
                    self.drop_former()
                if answered.fresh:
                    self.welcomed()
        else:
            notices, messages = self.exchange.accept(framing.decode_frame(self.decoder, data))
            for notice in notices:
                self.heard_notice(notice)
            self.messages(messages)
        self.flush()

    decoder: Any

    def welcomed(self) -> None:
        """Handle the acceptance of Hello."""

    def messages(self, messages: list[Any]) -> None:
        raise TypeError("clients and workers must define how they handle messages")

    def flush(self) -> None:
        if isinstance(self.core, client_core.Client):
            self.core.close_batch()
            if self.core.trouble:
                self.core.fail_unsure()
        if self.link is not None:
            for frame in self.exchange.take():
                self.link.send(True, frame)
            if self.exchange.owes_ack and not self._ack_due:
                self._ack_due = True
                self.world.after(ACK_S, self._acknowledge)

    def _acknowledge(self) -> None:
        if self.world.nesting and self.asleep(self._acknowledge):
            return
        self._ack_due = False
        if self.link is not None and self.exchange.owes_ack:
            self.link.send(True, self.exchange.ack())

    def lost(self, link: Link) -> None:
        if link is self.former:
            self.former = None
        if link is not self.link or self.asleep(lambda: self.lost(link)):
            return
        self.link = None
        self.drop_former()
        self.exchange.lost()
        pause = self.world.rng.choice((0.001, 0.05, 0.2, 1.5)) if self.world.faulty else 0.01
        self.world.after(pause, self.dial)
