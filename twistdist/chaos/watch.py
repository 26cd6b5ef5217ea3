"""The cluster's own counters, read while faults are injected.  A scheduler's counters end with its process."""

from __future__ import annotations

import concurrent.futures
import threading
from collections import Counter
from typing import Any

import attrs

from twistdist.blocking import Client
from twistdist.chaos.memory import hold
from twistdist.errors import TwistdistError

#: Seconds between two questions, and seconds that an answer may take.
LOOK_S, PATIENCE_S = 0.1, 2.0

#: Seconds that the last question may take: the scheduler may be about to restart.
LAST_S = 20.0

_COUNTERS = ("submitted", "done", "failed", "reruns", "replays")


@attrs.frozen
class Counts:
    """What a cluster has done.  Counters of a scheduler that was killed are as of the last look before.

    Attributes:
        submitted: Tasks that schedulers were given.
        done: Attempts that gave a value.
        failed: Tasks that failed.
        reruns: How often a task was given to a worker again, because an attempt had raised, crashed or was lost.
        replays: How often a task was executed again because its value was lost.
        incidents: Number of incidents by kind.
    """

    submitted: int = 0
    done: int = 0
    failed: int = 0
    reruns: int = 0
    replays: int = 0
    incidents: dict[str, int] = attrs.field(factory=dict)


class Watch:
    """Asks the scheduler for its counters, in a thread of its own, until :meth:`stop`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._latest: dict[int, dict[str, Any]] = {}  # by epoch
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="twistdist-chaos-watch", daemon=True)
        self._thread.start()

    def look(self, timeout: float = PATIENCE_S) -> bool:
        """Ask once.  Return False if there was no answer in time."""
        try:
            status = self.client.status(timeout)
        except (TwistdistError, concurrent.futures.TimeoutError):  # the scheduler is away; the next look sees more
            return False
        with self._lock:
            self._latest[status["epoch"]] = status
        return True

    def counts(self) -> Counts:
        """Return the sums over all schedulers so far."""
        with self._lock:
            known = list(self._latest.values())
        sums, incidents = Counter[str](), Counter[str]()
        for status in known:
            sums.update({name: status[name] for name in _COUNTERS})
            incidents.update(status["incidents_by_kind"])
            for name, _, done, failed, *_ in status["by_function"]:
                if name == hold.__name__ or name.endswith(f".{hold.__name__}"):  # our own
                    sums.subtract({"done": done, "failed": failed})
        return Counts(**{name: max(0, sums[name]) for name in _COUNTERS}, incidents=dict(incidents))

    def stop(self) -> None:
        """Look a last time, and end the thread."""
        self._stopped.set()
        self._thread.join()
        self.look(LAST_S)

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_S):
            if not self.look() and self.client._session.why_closed():
                return
