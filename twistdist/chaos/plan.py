"""Which faults there are, and when: a pure function of a seed, a rate, the kinds and the number of workers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator

import attrs

#: Kind of fault -> (role of the victim, weight) for each of its roles.
ROLES: dict[str, tuple[tuple[str, int], ...]] = {
    "kill": (("worker", 4), ("executor", 3), ("template", 1), ("scheduler", 2)),
    "lose": (("worker", 1),),
    "stop": (("worker", 4), ("executor", 3), ("template", 1), ("scheduler", 2)),
    "cut": (("scheduler link", 4), ("peer link", 3), ("client link", 3)),
    "disk": (("spill disk", 1),),
    "memory": (("memory", 1),),
    "journal": (("journal disk", 1),),
}

#: The kinds under which a program must give the right answer.  A scheduler with a full disk under its journal refuses new work.
DEFAULT_KINDS = tuple(kind for kind in ROLES if kind != "journal")

#: Seconds that a fault lasts.  Some are longer than :data:`DEAD_AFTER_S`, so that their victims are given up and come back.
SHORTEST_S, LONGEST_S = 0.05, 4.0

#: Seconds of silence after which clusters with faults give a worker up, and before that suspect it.
DEAD_AFTER_S, SUSPECT_AFTER_S = 3.0, 0.5

#: Faults per second: the highest rate that is accepted, and the default.
MAX_RATE, RATE = 50.0, 0.5

#: Kinds whose effect has no duration.
_INSTANT = ("kill", "lose")

_TEXTS = {
    "worker": "worker {worker}",
    "executor": "an executor of worker {worker}",
    "template": "the template of worker {worker}",
    "scheduler": "the scheduler",
    "scheduler link": "connection of worker {worker} to the scheduler",
    "peer link": "connections to worker {worker}",
    "client link": "connections of clients to the scheduler",
    "spill disk": "the disk for spilled results",
    "memory": "memory of worker {worker}",
    "journal disk": "the disk of the journal",
}


@attrs.frozen
class Fault:
    """One fault of a plan.

    Attributes:
        at: Seconds since the start.
        kind: One of :data:`ROLES`.
        role: What is hit.
        worker: The number of the worker that is hit, or whose part is hit.
        number: Chooses one of several executors: a fraction, at least 0 and less than 1.
        duration: Seconds until the fault is over; 0 for a kill.
    """

    at: float
    kind: str
    role: str
    worker: int
    number: float
    duration: float

    @property
    def victim(self) -> str:
        """What is hit, in words."""
        return _TEXTS[self.role].format(worker=self.worker)

    def __str__(self) -> str:
        lasting = f" for {self.duration:.2f} s" if self.duration else ""
        return f"{self.at:.2f} s: {self.kind} {self.victim}{lasting}"


def check_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds in a fixed order, each of them once.

    Raises:
        ValueError: A kind is unknown, or there is none.
    """
    given = list(kinds)
    for kind in given:
        if kind not in ROLES:
            raise ValueError(f"faults must be some of {', '.join(ROLES)}; got {kind!r}")
    if not given:
        raise ValueError(f"faults must be at least one of {', '.join(ROLES)}")
    return tuple(kind for kind in ROLES if kind in given)


def check_rate(rate: float) -> float:
    """Return the rate.

    Raises:
        ValueError: It is not a number above 0 and at most 50.
    """
    if not 0 < rate <= MAX_RATE:  # false for NaN too
        raise ValueError(f"the rate must be above 0 and at most {MAX_RATE:g} faults per second, got {rate:g}")
    return rate


def check_seed(seed: int) -> int:
    """Return the seed.

    Raises:
        ValueError: It is negative.
    """
    if seed < 0:  # Random takes the absolute value, so that two seeds would give one plan
        raise ValueError(f"the seed must be an integer >= 0, got {seed}")
    return seed


def plan(seed: int, rate: float, kinds: Iterable[str], workers: int) -> Iterator[Fault]:
    """Generate faults without end, in the order of their times.

    The pauses between faults are distributed exponentially.  Kinds are equally likely, durations log-uniform.

    Args:
        seed: An integer >= 0.
        rate: Faults per second on average.
        kinds: Kinds of faults; their order does not matter.
        workers: The number of workers.

    Raises:
        ValueError: An argument is out of range.
    """
    chosen, rate, seed = check_kinds(kinds), check_rate(rate), check_seed(seed)
    if workers < 1:
        raise ValueError(f"faults need at least one worker, got {workers}")
    return _faults(seed, rate, chosen, workers)


def _faults(seed: int, rate: float, kinds: tuple[str, ...], workers: int) -> Iterator[Fault]:
    throw = random.Random(seed).random  # the only method whose results are the same in every Python version
    at = 0.0
    while True:
        # The same number of throws for each fault, whatever it is.
        pause, kind_at, role_at, worker_at, number, length = (throw() for _ in range(6))
        at += -math.log(1.0 - pause) / rate
        kind = kinds[int(kind_at * len(kinds))]
        roles = [role for role, weight in ROLES[kind] for _ in range(weight)]
        duration = 0.0 if kind in _INSTANT else SHORTEST_S * (LONGEST_S / SHORTEST_S) ** length
        yield Fault(at, kind, roles[int(role_at * len(roles))], int(worker_at * workers), number, duration)
