"""Faults for a part of a program: what the fixtures of :mod:`twistdist.pytest_plugin` use."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from twistdist.blocking import Client
from twistdist.chaos import disks
from twistdist.chaos.cluster import ChaosCluster
from twistdist.chaos.inject import Injected, Injector
from twistdist.chaos.plan import RATE, check_kinds, plan
from twistdist.chaos.victims import why_unavailable
from twistdist.chaos.watch import Counts, Watch

#: The kinds of faults that need nothing but a cluster.
KINDS = ("kill", "lose", "stop", "cut", "memory")

#: Seeds that are chosen at random are below this, so that they are short enough to type.
_SEEDS = 10**6

#: How many of the latest faults the text of :class:`Chaos` has.
_SHOWN = 50


@contextlib.contextmanager
def cluster_for(kinds: Iterable[str] | None, options: Mapping[str, Any]) -> Iterator[ChaosCluster]:
    """Start a cluster for faults of some kinds; the small disks that they need end with it.

    Raises:
        ValueError: A kind is unknown.
        OSError: No disk can be mounted here.
    """
    with (
        disks.small_disks(check_kinds(KINDS if kinds is None else kinds)) as small,
        ChaosCluster(**{**options, **disks.places(small)}) as cluster,
    ):
        cluster.disks = small
        yield cluster


class Chaos:
    """Faults in a cluster, as a context manager that ends them.

    Args:
        cluster: The cluster.
        seed: Takes precedence over the seed given to :meth:`start`.
        rate: Takes precedence over the rate given to :meth:`start`.
    """

    def __init__(self, cluster: ChaosCluster, seed: int | None = None, rate: float | None = None) -> None:
        self._cluster, self._given_seed, self._given_rate = cluster, seed, rate
        self._injector: Injector | None = None  # while faults are injected
        self._latest: Injector | None = None
        self._stack = contextlib.ExitStack()
        self._watch: Watch | None = None
        self._kinds: tuple[str, ...] = ()
        self._earlier: Counter[str] = Counter()
        #: The seed and the rate of the last :meth:`start`; None before.
        self.seed: int | None = None
        self.rate: float | None = None

    def __enter__(self) -> Chaos:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.stop()
        finally:
            self._stack.close()

    def start(self, seed: int | None = None, rate: float | None = None, faults: Iterable[str] | None = None) -> None:
        """Inject faults from now on.

        Args:
            seed: Determines the faults, an integer >= 0; by default, a random number.
            rate: Faults per second on average, above 0 and at most 50; by default 0.5.
            faults: The kinds of faults; by default ``kill``, ``lose``, ``stop``, ``cut`` and ``memory``.  ``disk`` and
                ``journal`` must be named in the marker.

        Raises:
            RuntimeError: Faults are being injected already.
            ValueError: An argument is out of range, or faults of a kind are not available.
        """
        if self._injector is not None:
            raise RuntimeError("faults are being injected already; call stop() first")
        kinds = check_kinds(KINDS if faults is None else faults)
        for kind in kinds:
            if kind in disks.KINDS and kind not in self._cluster.disks:
                raise ValueError(
                    f"faults of the kind {kind} need a disk of their own: @pytest.mark.chaos(faults=[{kind!r}, …])"
                )
        reason = why_unavailable() if {"kill", "stop"}.intersection(kinds) else ""
        if reason:
            raise ValueError(f"faults of the kinds kill and stop are not available: {reason}")
        chosen = next(seed for seed in (self._given_seed, seed, random.SystemRandom().randrange(_SEEDS)) if seed is not None)
        rate = next(rate for rate in (self._given_rate, rate, RATE) if rate is not None)
        found = plan(chosen, rate, kinds, len(self._cluster.workers))
        self.seed, self.rate, self._kinds = chosen, rate, kinds
        if self._watch is None:
            client = self._stack.enter_context(Client(self._cluster.direct_address, secret=self._cluster.secret))
            self._watch = Watch(client)
            self._stack.callback(self._watch.stop)
        self._latest = self._injector = Injector(self._cluster, self._watch, found)

    def stop(self) -> None:
        """Inject no more, and end faults that still last.  Nothing happens if none are being injected."""
        injector, self._injector = self._injector, None
        if injector is not None:
            try:
                injector.stop()
            finally:
                self._earlier.update(injector.counts)

    @property
    def faults(self) -> dict[str, int]:
        """How many faults of each kind hit something so far."""
        now = self._injector.counts if self._injector is not None else {}
        return dict(self._earlier + Counter(now))

    @property
    def injected(self) -> list[Injected]:
        """The faults since the last :meth:`start`, at most 10,000, oldest first."""
        return [] if self._latest is None else self._latest.injected

    @property
    def counts(self) -> Counts:
        """What the cluster has done since the first :meth:`start`, as of the last look at its counters."""
        return self._watch.counts() if self._watch is not None else Counts()

    def __str__(self) -> str:
        if self.seed is None:
            return "no fault was injected"
        lines = [
            f"seed {self.seed}, rate {self.rate:g} per second, faults {', '.join(self._kinds)}",
            f"to inject the same faults: --chaos-seed={self.seed} --chaos-rate={self.rate:g}",
        ]
        lines += [f"{injected.fault}: {injected.outcome}" for injected in self.injected[-_SHOWN:]]
        return "\n".join(lines)
