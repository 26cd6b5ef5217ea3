"""A client's session with its scheduler: takes orders from any thread, updates records and fetches values."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from twistdist.config import python_here
from twistdist.core import client as core
from twistdist.core.client import Record, State
from twistdist.core.client.effects import Answer, AttemptEnded, DropData, Effect, PeerTrouble, Supply
from twistdist.display import html_of
from twistdist.errors import ClientClosed, SchedulerUnreachable, TwistdistError, shown
from twistdist.net.bulk import BulkFetcher
from twistdist.net.dialing import Dialing
from twistdist.net.futures import Raw, as_failure
from twistdist.net.hosts import host_identity
from twistdist.net.options import TaskOptions
from twistdist.net.orders import Orders
from twistdist.net.results import RELEASED, Results, load_one
from twistdist.net.submits import Parent, Submits
from twistdist.net.supplier import Supplier, all_of
from twistdist.web.links import with_token
from twistdist.wire import messages as m
from twistdist.wire.framing import TO_CLIENT, UNENCODABLE, encode_frame

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: Seconds that closing a client may take, so that its last messages reach the scheduler.
CLOSE_S = 2.0


class ClientSession:
    """One session with a scheduler, on which the public methods of :class:`~twistdist.Client` are built.

    Orders (``submit``, ``release``, …) may be given from any thread; they are carried out soon, in the reactor's thread.
    Everything else belongs to the reactor's thread.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: Any,
        secret: bytes,
        parent: Parent | None = None,
        tls: Tls | None = None,
        name: str = "",
        tracing: bool = False,
    ) -> None:
        self.reactor, self._secret = reactor, secret
        self._spans, trace = _tracing(parent, tracing)
        self._core = core.Client(secrets.randbits(62), name, parent.task if parent is not None else 0, python_here())
        self._parent = parent
        host = host_identity()
        self._orders = Orders(reactor.callFromThread, self._carry_out)
        self._fetcher = BulkFetcher(reactor, secret, tls)
        self._supplier = Supplier(reactor, self._fetcher, host, self._not_supplied)
        self._submits = Submits(self._core, self, self._orders, self._supplier, parent, trace)
        self._results = Results(self._core, self, self._fetcher, host, reactor.seconds)
        self._dialing = Dialing(
            reactor,
            address,
            secret,
            self._core,
            TO_CLIENT,
            self._messages,
            self._ready,
            self._fatal,
            on_notice=self._notice,
            on_unsendable=self._unsendable,
            tls=tls,
        )
        self._queries: dict[int, Deferred[Any]] = {}
        self._opening: Deferred[Any] | None = None
        self._deadline: Any = None
        self._error: Exception | None = None
        self._cluster: Any = None
        self._closing: Deferred[None] | None = None

    @property
    def address(self) -> str:
        """The scheduler's address, as a Twisted endpoint description."""
        return self._dialing.address

    @property
    def dashboard_link(self) -> str:
        """What to open in a browser to see the scheduler's page; "" if it has none (``--http``)."""
        return with_token(self._core.dialer.dashboard, self._secret)

    def _repr_html_(self) -> str:
        """For notebooks."""
        state = f"closed: {self._error}" if self._error is not None else "open" if self._core.dialer.connected else "connecting"
        rows = {"scheduler": self.address, "session": self._core.name, "state": state, "futures": len(self._core.records)}
        return html_of("Client", rows, {"page": self.dashboard_link})

    # ---- life -------------------------------------------------------------------------------

    def open(self, timeout: float | None) -> Deferred[Any]:
        """Connect; the Deferred fires when the scheduler has answered, or fails after ``timeout`` seconds (None: never)."""
        self._opening = Deferred(lambda _: self._end(ClientClosed("connecting was cancelled")))
        if timeout is not None:
            self._deadline = self.reactor.callLater(max(0.0, timeout), self._too_late, timeout)
        self._dialing.start()
        return self._opening

    def _too_late(self, timeout: float) -> None:
        why = self._dialing.why()
        self._fatal(
            SchedulerUnreachable(
                f"no scheduler answered at {self.address} within {timeout:g} s ({why or 'no answer'}); "
                "check that it is running there and that the address is right"
            )
        )

    def _ready(self, fresh: bool) -> None:
        if self._error is not None:
            return
        opening, self._opening = self._opening, None
        if opening is not None:
            if self._deadline is not None:
                self._deadline.cancel()
            opening.callback(self)
        if fresh and opening is None:
            error = TwistdistError("the scheduler was restarted before it answered; ask again")
            self._fail_queries(error, self._core.questions_before)
        self._update(self._core.changed)

    def _notice(self, message: Any) -> None:
        if isinstance(message, m.Reply):
            self._messages([message])
        elif isinstance(message, m.Trouble):
            self._update(partial(self._core.notice, message))
            self._dialing.flush()

    def _unsendable(self, message: Any, why: str) -> bool:
        self._log.error("a message can't be encoded, so its request fails: {why}", why=why)
        known = self._core.unsendable(message, why)
        self._orders.add(self._messages, [])  # later, not in the middle of sending: a callback may send again
        return known

    def _fail_queries(self, error: Exception, upto: int) -> None:
        """Fail the questions with numbers up to ``upto``, which will not be answered any more."""
        for number in [number for number in self._queries if number <= upto]:
            self._queries.pop(number).errback(error)

    def _update(self, change: Callable[[], list[Record]]) -> None:
        """The only place where records change: ``change`` changes them and returns them; then their callbacks are called."""
        self._call_back(change())

    def _call_back(self, changed: list[Record]) -> None:
        for record in changed:
            if record.callbacks:
                self._fire(record)

    def _fatal(self, error: Exception) -> None:
        opening = self._opening
        self._end(error)
        if opening is not None:
            opening.errback(error)

    def _end(self, error: Exception, at_once: bool = True, tell: bool = True) -> None:
        """End all traffic; everything that waits fails with ``error``, if ``tell``."""
        if self._error is not None:
            return
        self._error = error
        self._opening = None
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if at_once:
            self._dialing.stop()
        self._fetcher.close()
        self._supplier.close()
        if not tell:
            return
        info = m.ErrorInfo(type(error).__name__, "", str(error))
        records = self._core.records.values()
        lost = [record for record in records if record.state is State.PENDING or (record.callbacks and record.value is None)]
        self.lose(lost, info)
        queries, self._queries = self._queries, {}
        for query in queries.values():
            query.errback(error)

    def close(self, exiting: bool = False) -> Deferred[None]:
        """Leave: everything that only this client needs is released.

        The Deferred fires when the scheduler has acknowledged that, or after ``CLOSE_S`` seconds.  When the process is
        ``exiting``, daemon threads that wait are not told: what they would print then is not meant for anybody.
        """
        if self._error is None:
            self._carry_out()
            self._core.bye()
            self._dialing.flush()
            drained = self._dialing.drain(CLOSE_S)
            self._end(ClientClosed("this client was closed"), at_once=False, tell=not exiting)
            self._closing = drained.addCallback(lambda _: self._stop_cluster())
        if self._closing is None:
            return self._stop_cluster()
        closed: Deferred[None] = Deferred()
        self._closing.addCallback(lambda _: closed.callback(None))
        return closed

    def _stop_cluster(self) -> Deferred[None]:
        cluster, self._cluster = self._cluster, None
        return succeed(None) if cluster is None else cluster.stopService()

    def why_closed(self) -> str:
        """Return why this session can't be used any more; "" while it can."""
        return str(self._error) if self._error is not None else ""

    def flush(self) -> None:
        """Send what the core has to send."""
        self._dialing.flush()

    def drop(self) -> None:
        """Close the connection without notice, as if this process had died: the scheduler keeps the session for its grace."""
        self._carry_out()
        self._end(ClientClosed("this client was closed"))

    # ---- orders, from any thread ----------------------------------------------------------------

    def _carry_out(self) -> None:
        """Hand the collected orders to the core and send the messages that result."""
        self._orders.carry_out(self._release)
        if self._error is None:
            self._core.close_batch()
            if self._core.trouble:
                self._update(self._core.fail_unsure)
            self._dialing.flush()

    def _release(self, cids: list[int]) -> None:
        """Release records.  Nothing more will arrive about those that are pending: whatever still waits for them fails."""
        records = [record for cid in cids if (record := self._core.records.get(cid)) is not None]
        self._core.release(cids)
        self._submits.released(cids)
        given_up = [other for other in records if other.state is State.PENDING or (other.callbacks and other.value is None)]
        if given_up:
            self.lose(given_up, RELEASED)

    def lose(self, records: list[Record], why: m.ErrorInfo) -> None:
        """Mark records as lost because of ``why``: nothing more will arrive about them."""

        def change() -> list[Record]:
            for record in records:
                record.state, record.error, record.place = State.LOST, why, None
            return records

        self._update(change)

    def let_go(self, record: Record) -> None:
        """The last reference to a future is gone: release it.

        What a task has submitted is kept until the task ends: if the task runs again, it must find it.
        """
        if self._parent is None and self._error is None:
            self._orders.release(record.cid)

    def lack_of(self, record: Record) -> str:
        """Return what a pending task lacks to run at all, as far as the scheduler has reported; from any thread."""
        return self._core.lack_of(record)

    def forget(self, record: Record) -> None:
        """A future is not needed any more, not even by its durable session: release it; from any thread."""
        if self._error is None:
            if self._core.name:
                self._orders.add(self._core.let_go, record.cid)
            self._orders.release(record.cid)

    def cancel_records(self, records: Sequence[Record], unstarted: bool = False) -> None:
        """Cancel the tasks of ``records``; with ``unstarted``, only those that were not given to a worker yet."""
        self._orders.add(self._core.cancel, [record.cid for record in records], unstarted)

    def retry_records(self, records: Sequence[Record]) -> None:
        """Run the tasks of those ``records`` again that have failed; from any thread."""
        self._orders.add(self._retry, [record.cid for record in records])

    def _retry(self, cids: list[int]) -> None:
        if self._error is None:
            self._update(partial(self._core.retry, cids))

    def call_when_done(self, record: Record, function: Callable[[Record], Any]) -> None:
        """Have ``function(record)`` called in the reactor's thread once the record is not pending; from any thread."""
        self._orders.add(self.call_when_ended, record, function)

    def call_when_ended(self, record: Record, function: Callable[[Record], Any]) -> None:
        """Like :meth:`call_when_done`, but from the reactor's thread; immediate if the record is not pending."""
        if record.callbacks is None:
            record.callbacks = [function]
        else:
            record.callbacks.append(function)
        if record.state is not State.PENDING:
            self._fire(record)

    # ---- what arrives -------------------------------------------------------------------------

    def _messages(self, messages: list[Any]) -> None:
        if self._error is not None:
            return  # closing: only acknowledgements matter
        self._update(partial(self._core.receive, messages))
        for effect in self._core.take():
            self._carry_out_one(effect)

    def _carry_out_one(self, effect: Effect) -> None:
        match effect:
            case Answer(reply):
                query = self._queries.pop(reply.query, None)
                if query is not None and reply.error:
                    query.errback(TwistdistError(reply.error))
                elif query is not None:
                    query.callback(reply.value)
            case Supply(supply, worker):
                self._supplier.supply(supply, worker)
            case DropData(cids):
                self._supplier.forget(cids)
            case PeerTrouble(address, gone):
                self._fetcher.avoid(address, gone)
            case AttemptEnded(traced):
                if self._spans is not None:
                    self._make_span(self._spans, traced)

    def _make_span(self, spans: Any, traced: m.Traced) -> None:
        try:
            spans.ended(traced, self._core.dialer.epoch)
        except Exception:  # of an exporter or a processor of the user's: tasks must not suffer
            self._log.failure(
                "the span of {key} could not be made", key=traced.key, attempt=traced.attempt, worker=traced.worker
            )

    def _fire(self, record: Record) -> None:
        callbacks, record.callbacks = record.callbacks, None
        self.call_back(callbacks or (), record)

    def call_back(self, callbacks: Sequence[Callable[[Record], Any]], record: Record) -> None:
        """Call each with the record; what they raise is logged."""
        for callback in callbacks:
            try:
                callback(record)
            except BaseException:  # a user's callback, which may even exit: the others and this client must continue
                self._log.failure("a callback of a future failed")

    def collect(self, records: Sequence[Record], fail_fast: bool = False) -> Deferred[list[Raw]]:
        """Return a Deferred of the final outcome of each record, in order.

        With ``fail_fast`` it fires on the first error, with that error in all places.
        """
        result: Deferred[list[Raw]] = Deferred()
        self._orders.add(self._results.collect, records, fail_fast, result)
        return result

    # ---- questions ----------------------------------------------------------------------------

    def _query(self, what: str, *args: Any) -> Deferred[Any]:
        try:
            encode_frame((0, 0, [m.Query(0, what, list(args))]))
        except UNENCODABLE as error:
            raise TypeError(f"the query {what!r} can't be sent with the arguments {shown(args)}: {error}") from None
        result: Deferred[Any] = Deferred()
        self._orders.add(self._ask, what, args, result)
        return result

    def _ask(self, what: str, args: tuple[Any, ...], result: Deferred[Any]) -> None:
        if self._error is not None:
            result.errback(ClientClosed(f"this client can't be used: {self._error}"))
        else:
            self._queries[self._core.query(what, args)] = result

    def _watch(self, what: str, records: list[tuple[Record, str]], result: Deferred[Any]) -> None:
        if self._error is not None:
            result.errback(ClientClosed(f"this client can't be used: {self._error}"))
        else:
            self._queries[self._core.watch(records, what)] = result

    # ---- scattered data -------------------------------------------------------------------------

    def submit_records(
        self,
        fn: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        kwargs: dict[str, Any],
        options: TaskOptions,
        make: Callable[[Record, str], Any],
        batch: bool,
    ) -> list[Any]:
        """Submit one task for each of ``calls``; ``make(record, name)`` makes the future of each.  From any thread."""
        return self._submits.submit(fn, calls, kwargs, options, make, batch)

    def scatter_records(
        self,
        data: Any,
        replicas: int,
        broadcast: bool,
        hash: bool,
        workers: Iterable[str] | None,
        resupply: bool,
        make: Callable[[Record, str], Any],
    ) -> tuple[Any, list[Any]]:
        """Scatter data and return (``data`` with futures instead of its values, the futures).  From any thread."""
        return self._submits.scatter(data, replicas, broadcast, hash, workers, resupply, make)

    def _not_supplied(self, cid: int, worker: int, text: str) -> None:
        if self._error is None:
            self._core.not_supplied(cid, worker, text)
            self._dialing.flush()

    def announced(self, futures: Sequence[Any]) -> Deferred[Any]:
        """Return a Deferred that fires when all ``futures`` have finished, or fails as the first one that fails."""

        def end_of(record: Record) -> Deferred[None]:
            ended: Deferred[None] = Deferred()
            self.call_when_done(record, lambda _: self._finished(record, ended))
            return ended

        return all_of([end_of(future._record) for future in futures])

    @staticmethod
    def _finished(record: Record, ended: Deferred[None]) -> None:
        if record.state is State.FINISHED:
            ended.callback(None)
        else:
            ended.errback(as_failure(load_one(record)))


def _tracing(parent: Parent | None, tracing: bool) -> tuple[Any, Callable[[], str] | None]:
    """What makes the spans of attempts, and what gives the trace of a submit; both None without tracing.

    A task's own client has the second alone: the client of the user is told of all attempts.
    """
    if parent is not None and parent.trace:
        from twistdist.net.tracing import of_task

        return None, of_task(parent.trace, parent.attempt)
    if not tracing:
        return None, None
    from twistdist.net.tracing import Spans, of_current_span

    return Spans(), of_current_span
