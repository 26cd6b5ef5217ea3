"""The results in this worker's store, as the core knows them: which exist, and which are on disk."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from twistdist.core.worker import effects
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.tuning import Tuning
from twistdist.wire import messages as m


def path_in(store: str, attempt: int) -> str:
    """Where the file of an attempt is in a store."""
    return f"{store}/{attempt:x}"


@attrs.define(eq=False)
class Files:
    """``stored`` has the least recently used first; ``in_memory`` is the size in bytes of those not ``spilled`` to disk."""

    tuning: Tuning
    outputs: Outputs
    store: str
    stored: dict[int, m.Stored] = attrs.field(factory=dict)
    spilled: set[int] = attrs.field(factory=set)
    in_memory: int = 0
    _spilling: bool = False
    _spill_after: float = 0.0

    def path(self, attempt: int) -> str:
        """Where the file of an attempt is."""
        return path_in(self.store, attempt)

    def keep(self, stored: m.Stored) -> None:
        """The store has this file, in memory; it is the most recently used one."""
        self.forget(stored.attempt)
        self.stored[stored.attempt] = stored
        self.in_memory += stored.size

    def forget(self, attempt: int) -> m.Stored | None:
        """The store does not have it (any more)."""
        stored = self.stored.pop(attempt, None)
        if stored is not None and attempt not in self.spilled:
            self.in_memory -= stored.size
        self.spilled.discard(attempt)
        return stored

    def use(self, attempt: int) -> bool:
        """Whether the file is here; it is the most recently used one from now on."""
        stored = self.stored.pop(attempt, None)
        if stored is not None:
            self.stored[attempt] = stored
        return stored is not None

    def free(self, now: float, message: m.Free) -> None:
        """Nobody needs these results here."""
        for attempt in message.attempts:
            self.forget(attempt)
        self.outputs.do(effects.DeleteFiles(list(message.attempts)))

    def verify(self, now: float, message: m.Verify) -> None:
        """Somebody could not fetch these: check whether they are here."""
        self.outputs.do(effects.LookForFiles(list(message.attempts)))

    def verified(self, now: float, attempts: list[int], absent: list[int]) -> None:
        """The answer to LookForFiles."""
        for attempt in absent:
            self.forget(attempt)
        unknown = [attempt for attempt in attempts if attempt not in self.stored]
        if unknown:
            self.outputs.post(m.Missing(unknown))

    def received(self, now: float, stored: m.Stored) -> None:
        """A client has put a file into the store."""
        self.keep(stored)
        self.outputs.post(m.Have([stored]))

    def spill(self, now: float, wanted: int) -> None:
        """Have this many bytes of results moved to disk, unless that is under way or has just failed."""
        if self._spilling or now < self._spill_after:
            return
        chosen = []
        for attempt, stored in self.stored.items():  # the least recently used come first
            if wanted > 0 and attempt not in self.spilled:
                chosen.append(attempt)
                wanted -= stored.size
        if chosen:
            self._spilling = True
            self.outputs.do(effects.Spill(chosen))

    def spilled_files(self, now: float, attempts: Iterable[int], trouble: str = "") -> None:
        """The answer to Spill: these are on disk now; ``trouble`` says why others are not."""
        self._spilling = False
        unknown = []
        for attempt in attempts:
            if attempt not in self.stored:
                unknown.append(attempt)  # deleted while it was being copied, which has created it again
            elif attempt not in self.spilled:
                self.spilled.add(attempt)
                self.in_memory -= self.stored[attempt].size
        if unknown:
            self.outputs.do(effects.DeleteFiles(unknown))
        if trouble:
            self._spill_after = now + self.tuning.spill_pause_s
            self.outputs.post(m.WorkerLog("results can't be moved to disk", trouble))
