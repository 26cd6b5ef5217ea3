"""Where the scheduler of a cluster of jobs lives: on this machine, or as a job of the engine too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import CancelledError

from twistdist.clusters.engine import Engine, Job, JobState
from twistdist.clusters.local import LocalCluster
from twistdist.errors import TwistdistError

#: Seconds that a scheduler's job must have run for it to be started again at once when it ends.
LASTS_S = 60.0

#: Seconds before one that has not is started again: at first, and at most; doubled each time.
BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0

#: The number of ends in a row after which that is reported with the last words, and between two such reports.
REPORTED_ENDS = 3

#: Lines of its log in a report.
LINES = 3


class Home(Protocol):
    """The scheduler of a cluster.  ``id`` is the engine's, if it is a job."""

    id: str

    async def start(self) -> str:
        """Start it, and return its address when it is ready."""

    async def look(self, states: Mapping[str, JobState]) -> str:
        """See to it that it runs.  Return why the cluster has ended, or ""."""

    async def stop(self) -> None:
        """End it, unless it is a job."""


class OwnScheduler:
    """It runs on this machine, as the scheduler of a LocalCluster without workers, which starts it again if it dies."""

    id = ""

    def __init__(self, reactor: Any, host: str, tls: str, secret: bytes, options: dict[str, Any]) -> None:
        self._home = LocalCluster(reactor, 0, secret=secret, host=host, tls=tls, **options)

    async def start(self) -> str:
        await self._home.startService()
        return self._home.address

    async def look(self, states: Mapping[str, JobState]) -> str:
        return self._home.ended

    async def stop(self) -> None:
        await self._home.stopService()


class JobScheduler:
    """It is a job, which is started again on its journal and its port if it dies: ever later if it never lasts.

    ``job`` describes it, for a port; ``on_news`` is called with a line of text when it is down, and now and then if it does not
    stay up.
    """

    def __init__(self, clock: Any, engine: Engine, job: Callable[[str], Job], on_news: Callable[[str], None]) -> None:
        self._clock, self._engine, self._job, self._on_news = clock, engine, job, on_news
        self._port = "0"
        self._ready_at = 0.0
        self._again_at: float | None = None  # when it may be started again; None while it runs
        self._ends = 0  # in a row, shortly after a start
        self.id = ""

    async def start(self) -> str:
        job = self._job(self._port)
        ids = await self._engine.start([job])
        id = ids.get(job.name, "")
        if not id:
            raise TwistdistError(f"{self._engine.name} did not start the scheduler")
        self.id = id
        address = await self._engine.scheduler_address(self.id)
        self._port = address.rpartition(":")[2]
        self._ready_at, self._again_at = self._clock.seconds(), None
        return address

    async def look(self, states: Mapping[str, JobState]) -> str:
        state = states.get(self.id, JobState("ended"))
        if state.phase != "ended":
            if self._again_at is not None:  # it runs, although nobody has heard from it within its time to start
                self._ready_at, self._again_at = self._clock.seconds(), None
            return ""
        if state.ok:
            return "it was shut down"
        if self._again_at is None:
            how = f": {state.why}" if state.why else ""
            await self._is_down(f"job {self.id} ended{how}", self._clock.seconds() - self._ready_at >= LASTS_S)
        if self._again_at is not None and self._clock.seconds() < self._again_at:
            return ""
        try:
            await self.start()
        except CancelledError:
            raise
        except Exception as error:
            await self._is_down(f"it could not be started: {error}")
            if not isinstance(error, TwistdistError):
                raise  # for its traceback
        return ""

    async def _is_down(self, why: str, lasted: bool = False) -> None:
        self._ends = 0 if lasted else self._ends + 1
        pause = min(LONGEST_BACKOFF_S, BACKOFF_S * 2 ** min(self._ends - 1, 10)) if self._ends else 0.0
        self._again_at = self._clock.seconds() + pause
        if self._ends < REPORTED_ENDS:
            self._on_news(f"the scheduler is down and will be started again: {why}")
        elif not self._ends % REPORTED_ENDS:
            said = " ".join(await self._engine.log(self.id, LINES))
            wrote = f"; it wrote: {said}" if said else ""
            self._on_news(
                f"the scheduler does not stay up: {self._ends} times in a row it was down within {LASTS_S:g} s, and is tried "
                f"again with pauses of up to {LONGEST_BACKOFF_S:g} s; {why}{wrote}"
            )

    async def stop(self) -> None:
        return
