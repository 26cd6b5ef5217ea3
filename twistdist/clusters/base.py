"""What all clusters have in common."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from twistdist.clusters.adapting import Adapting, Scheduler, check_policy
from twistdist.clusters.options import MAX_WORKERS
from twistdist.net.bound import BoundToProcess
from twistdist.net.client import Client
from twistdist.net.tls import load
from twistdist.net.worker import default_slots


class Cluster(BoundToProcess, Service, abc.ABC):
    """A scheduler and workers that belong to this process, as a Twisted service.

    ``twistdist.connect`` and clients take a cluster that has been started in place of an address.

    Attributes:
        address: The scheduler's address, as a Twisted endpoint description; "" before the cluster is started.
        secret: The shared secret.
        tls: The folder of certificates with which the scheduler is reached; None if connections are not encrypted.
    """

    address: str = ""

    #: Seconds that a program which ends waits until it has stopped.
    stop_s = 11.0
    secret: bytes
    tls: str | None = None

    _reactor: Any
    _adapting: Adapting | None = None
    _questions: Scheduler | None = None

    #: What is assumed of a worker that has not been seen: seconds until it is ready, its slots and resources.
    _start_s: float
    _slots: int
    _offers: Mapping[str, int] | None

    @property
    @abc.abstractmethod
    def workers(self) -> dict[str, Any]:
        """A dict of the names of the running workers to what runs them: a pid, or an engine's job."""

    @property
    @abc.abstractmethod
    def dashboard_link(self) -> str:
        """What to open in a browser to see the scheduler's page; "" without ``http``."""

    @abc.abstractmethod
    def check_open(self) -> None:
        """Raise ``TwistdistError`` unless the cluster has been started and has not ended."""

    @abc.abstractmethod
    def scale(self, n: int) -> None:
        """Change the number of workers; does not wait for them.

        Args:
            n: The number of workers, 0 to 10,000.
        """

    def adapt(
        self,
        minimum: int = 0,
        maximum: int | None = None,
        *,
        target_s: float | timedelta = 5.0,
        interval_s: float | timedelta = 1.0,
        patience_s: float | timedelta | None = None,
    ) -> None:
        """Change the number of workers with the work, until :meth:`scale` is called or the cluster ends.

        Workers are started when the work that waits is worth it, and told to leave when they have not been needed for as long
        as starting them again would cost.  A worker leaves only when its tasks are done and what only it holds is elsewhere.
        Calling it again changes the numbers.

        Args:
            minimum: The least number of workers, 0 to 10,000.
            maximum: The greatest number of workers, 1 to 10,000; for a LocalCluster, the number of CPUs by default.
            target_s: Seconds, or a ``timedelta``, in which the work that waits should be done; 0.1 to 86,400.
            interval_s: Seconds, or a ``timedelta``, between two looks at the work; 0.1 to 3,600.
            patience_s: Seconds, or a ``timedelta``, for which a worker is kept that is not needed, 0 to 86,400; some leave
                after half of that.  By default, the measured time of a start, at least ten seconds, and more when workers are
                missed soon after they have left.

        Raises:
            TwistdistError: The cluster has not been started or has ended.
            TypeError: An argument has the wrong type.
            ValueError: An argument is out of range, or ``minimum`` is greater than ``maximum``.
        """
        self.check_open()
        policy = check_policy(
            minimum,
            self._default_maximum() if maximum is None else maximum,
            MAX_WORKERS,
            target_s,
            interval_s,
            patience_s,
            start_s=self._start_s,
            slots=self._slots,
            offers=self._offers,
        )
        if self._adapting is not None:
            self._adapting.change(policy)
            return
        self._questions = Scheduler(self._connect)
        ask = self._questions
        self._adapting = Adapting(self._reactor, policy, ask.demand, self._grow, ask.retire, self._present)
        self._adapting.start()

    @staticmethod
    def _default_maximum() -> int:
        """Return the greatest number of workers if the user names none."""
        return default_slots()

    def _connect(self) -> Deferred[Client]:
        """Open a session of the cluster's own."""
        tls = None if self.tls is None else load(self.tls)
        return Client.for_session(self._reactor, self.address, self.secret, tls=tls).open(None)  # type: ignore[no-any-return]

    @abc.abstractmethod
    def _grow(self, count: int) -> None:
        """Start so many more workers."""

    @abc.abstractmethod
    def _present(self) -> int:
        """Return how many workers there are, or are about to be."""

    def _end_adapting(self, keep: bool = False) -> None:
        """Adapt no longer; ``keep``: workers that are about to leave stay."""
        adapting, self._adapting = self._adapting, None
        questions, self._questions = self._questions, None
        if adapting is None or questions is None:
            return
        adapting.stop()
        kept = adapting.keep_all() if keep else succeed(None)
        kept.addCallback(lambda _: questions.close())
