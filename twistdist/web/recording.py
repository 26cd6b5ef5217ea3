"""Reports: what the scheduler remembers, or what it did while a block ran, written to a file that opens in a browser."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from twistdist.errors import ClientClosed, TwistdistError
from twistdist.net.versions import versions
from twistdist.web.collected import MAX_NAMES, TELLING, Collected
from twistdist.web.report import check_path, write_report

#: Seconds between two snapshots of a recording, at least, and how many times as long as the scheduler took for the last one.
#: At full speed it remembers a few seconds; what it has not told when it is killed is lost.
POLL_S, PATIENCE = 0.25, 20

#: The longest time, in seconds, that an answer counts as having taken: it may have waited for a scheduler that was away.
LONGEST_S = 0.1

#: Seconds that the scheduler has for its last answer, and then for stories, lineages and output.
LAST_S, DETAILS_S = 10.0, 10.0

#: Stories that are asked for after one snapshot, and at the end: lineages, and the outputs of tasks.
MAX_TOLD, MAX_LINEAGES, MAX_OUTPUTS = 5, 20, 40

#: Tasks of a lineage that is kept; the page draws no larger one.
MAX_LINEAGE = 200

#: Lines of output of a task, from each worker; seconds that workers have to send them, and between two looks.
LINES, OUTPUT_S, LOOK_S = 100, 2.0, 0.02

#: Characters of the error that ended a block.
MAX_ERROR = 2_000


class Session(Protocol):
    """What is needed of a client."""

    reactor: Any

    @property
    def address(self) -> str: ...

    def _query(self, what: str, *args: Any) -> Deferred[Any]: ...


class _Gatherer:
    """Asks the scheduler, and writes the report.  ``wall`` is the clock of this process."""

    def __init__(self, session: Session, path: Any, wall: Callable[[], float] = time.time) -> None:
        self.path = check_path(path)
        self.collected = Collected()
        self._session, self._wall = session, wall
        self._notes: list[str] = []

    async def look(self) -> None:
        """Take one snapshot; one of another life of the scheduler is asked for again, with everything that it remembers."""
        snapshot = await self._ask("snapshot", *self.collected.question())
        life = self.collected.life
        if life is not None and life.epoch != snapshot["epoch"]:
            snapshot = await self._ask("snapshot", None, MAX_NAMES, None)
        self.collected.take(snapshot, self._wall())

    def _ask(self, what: str, *args: Any) -> Deferred[Any]:
        return self._session._query(what, *args)

    async def tell(self, most: int) -> None:
        """Ask for up to ``most`` stories that are not known yet, and for what those tasks have written."""
        stories = self.collected.stories
        new = [key for key, weight in self.collected.to_tell.items() if key not in stories and weight < TELLING.index("again")]
        for key in new[:most]:
            await self._tell(key)
            await self._add_output(key)

    async def details(self) -> None:
        """At the end: the stories as they are now, lineages, and output that is not known yet."""
        keys = sorted(self.collected.to_tell, key=self.collected.to_tell.__getitem__)
        for key in keys:
            await self._tell(key)
        told = [key for key in keys if key in self.collected.stories]
        for key in told[:MAX_LINEAGES]:
            lineage = await self._or_none("lineage", key)
            if lineage and len(lineage) <= MAX_LINEAGE:
                self.collected.stories[key]["lineage"] = lineage
        for key in told[:MAX_OUTPUTS]:
            await self._add_output(key)

    async def _or_none(self, what: str, *args: Any) -> Any:
        """The answer; None if the scheduler refuses to give one, or was restarted before it did."""
        try:
            return await self._ask(what, *args)
        except ClientClosed:
            raise
        except TwistdistError:
            return None

    async def _tell(self, key: str) -> None:
        story = await self._or_none("why", key)
        if story is not None:
            self.collected.tell(key, story, self._wall())

    async def _add_output(self, key: str) -> None:
        known = self.collected.stories.get(key)
        if known is None or known.get("output"):
            return
        number = await self._or_none("output", key, LINES)
        deadline = self._session.reactor.seconds() + OUTPUT_S
        while number is not None:
            over = self._session.reactor.seconds() >= deadline
            state = await self._or_none("broadcast", number, over)
            if state is None or over or not state[0]:
                known["output"] = {"lines": state[1], "silent": state[0]} if state else None
                return
            await deferLater(self._session.reactor, LOOK_S)

    async def within(self, seconds: float, work: Coroutine[Any, Any, None], late: str) -> None:
        """Do some of the work that a report can do without; what keeps it from being done is noted in the report."""
        waiting: Deferred[None] = Deferred.fromCoroutine(work)
        try:
            await waiting.addTimeout(seconds, self._session.reactor, onTimeoutCancel=lambda *_: self._notes.append(late))
        except TwistdistError as error:
            self._notes.append(str(error))

    async def write(self, **facts: Any) -> str:
        """Write the file, in a thread: it may be large."""
        data = self.collected.data()
        data |= {"made": self._wall(), "address": self._session.address, "versions": versions(), "notes": self._notes, **facts}
        reactor = self._session.reactor
        return await deferToThreadPool(reactor, reactor.getThreadPool(), write_report, self.path, data)


def report(session: Session, path: Any) -> Deferred[str]:
    """Write a report of what the scheduler remembers; the Deferred gives its path."""
    gatherer = _Gatherer(session, path)

    async def gather() -> str:
        await gatherer.look()
        await gatherer.within(DETAILS_S, gatherer.details(), "the scheduler took too long to tell the stories of all tasks")
        return await gatherer.write(recorded=False)

    return Deferred.fromCoroutine(gather())


class Recording(_Gatherer):
    """Writes a report of what the cluster does from :meth:`start` to :meth:`stop`: what ``client.recording(path)`` gives.

    It is an async context manager::

        async with client.recording("run.html"):
            ...
    """

    _polling: Deferred[None] | None = None
    _pause: Deferred[None] | None = None
    _telling: Deferred[Any] | None = None
    _began = _took = 0.0
    _over = False

    def start(self) -> Deferred[Recording]:
        """Begin.

        Returns:
            A Deferred that fires with this recording when it has begun.

        Raises:
            TwistdistError: It has begun before.
        """
        if self._began:
            raise TwistdistError("a recording can be used once; ask the client for another one")
        self._began = self._wall()
        return Deferred.fromCoroutine(self._start())

    def stop(self, error: BaseException | None = None) -> Deferred[str]:
        """End, and write the file.

        Args:
            error: What ended the work that is recorded; the report says so.

        Returns:
            A Deferred that fires with the absolute path of the file.  It fails with ``OSError`` if the file can't be written.

        Raises:
            TwistdistError: It has not begun, or has ended.
        """
        if self._polling is None or self._over:
            raise TwistdistError("this recording has not begun, or has ended")
        self._over = True
        return Deferred.fromCoroutine(self._stop(error))

    async def __aenter__(self) -> Recording:
        return await self.start()

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            await self.stop(error)
        except OSError as trouble:
            if error is None:
                raise
            warn_unwritten(trouble)

    async def _start(self) -> Recording:
        self.collected.begin(await self._ask("snapshot", float("inf"), MAX_NAMES, None), self._wall())
        self._began = self._wall()
        self._polling = Deferred.fromCoroutine(self._poll())
        return self

    async def _poll(self) -> None:
        """Take snapshots until the end; a scheduler that is restarted answers when it is back."""
        while not self._over:
            self._pause = deferLater(self._session.reactor, max(POLL_S, PATIENCE * self._took))
            try:
                await self._pause
            except CancelledError:
                return
            asked = self._session.reactor.seconds()
            try:
                await self.look()
                self._took = min(LONGEST_S, self._session.reactor.seconds() - asked)
                self._tell_beside()
            except ClientClosed:
                return  # noted at the end
            except TwistdistError:
                continue  # the scheduler was restarted before it answered

    def _tell_beside(self) -> None:
        """Ask for new stories now, since they may be forgotten, but let no silent worker keep the next snapshot waiting."""
        if self._telling is None:
            self._telling = Deferred.fromCoroutine(self.tell(MAX_TOLD))
            self._telling.addErrback(lambda failure: failure.trap(TwistdistError, CancelledError)).addCallback(self._told)

    def _told(self, _: Any) -> None:
        self._telling = None

    async def _stop(self, error: BaseException | None) -> str:
        ended, polling = self._wall(), self._polling
        for under_way in (self._pause, self._telling):
            if under_way is not None:
                under_way.cancel()
        assert polling is not None

        async def look() -> None:
            await polling  # a snapshot may be on its way
            await self.look()

        known = self.collected.life.until if self.collected.life is not None else ended
        late = f"the scheduler did not answer at the end: the last {max(0.0, ended - known):.0f} s are missing"
        await self.within(LAST_S, look(), late)
        if not self._notes:
            await self.within(DETAILS_S, self.details(), "the scheduler took too long to tell the stories of all tasks")
        why = f"{type(error).__name__}: {error}"[:MAX_ERROR] if error is not None else ""
        return await self.write(recorded=True, began=self._began, ended=ended, error=why)


def warn_unwritten(trouble: OSError) -> None:
    """The file can't be written, but the error that ended the block is the one to raise."""
    warnings.warn(f"no report was written: {trouble}", RuntimeWarning, stacklevel=3)
