"""What the scheduler can be told at its start."""

from __future__ import annotations

import attrs

from twistdist import config


@attrs.frozen
class Settings:
    """Times in seconds; ``checkpoints`` is the URL of the checkpoint store, "" for none.

    A worker that is silent for ``suspect_after`` is suspected, for ``dead_after`` given up; one whose process is known to be
    gone has ``worker_grace`` to come back.  A client that is away is given up after ``client_grace``; tasks that name only
    workers that were never here fail after ``name_grace``.
    """

    suspect_after: float = config.SUSPECT_AFTER_S
    dead_after: float = config.DEAD_AFTER_S
    worker_grace: float = config.WORKER_GRACE_S
    client_grace: float = config.CLIENT_GRACE_S
    name_grace: float = config.NAME_GRACE_S
    checkpoints: str = ""

    @property
    def look_every(self) -> float:
        """The pause between two looks at who is silent."""
        return self.suspect_after / 4

    @property
    def looks_a_beat(self) -> int:
        """Looks between two heartbeats of the scheduler, which need not come as often as those of the workers."""
        return max(1, int(self.dead_after / 8 / self.look_every))
