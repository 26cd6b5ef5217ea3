"""The cluster as a ``concurrent.futures.Executor``."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from twistdist.blocking.futures import Future
from twistdist.config import as_timeout
from twistdist.core.client import Record
from twistdist.net.options import NO_OPTIONS, TaskOptions

if TYPE_CHECKING:
    from twistdist.blocking.client import Client


class Executor(concurrent.futures.Executor):
    """A ``concurrent.futures.Executor`` whose calls run as tasks on the cluster.

    Created by :meth:`Client.executor`.  Shutting it down leaves the client open.
    """

    def __init__(self, client: Client, options: TaskOptions = NO_OPTIONS) -> None:
        self._client, self._options = client, options
        self._futures: set[Future] = set()
        self._open = True
        self._max_workers = max(1, sum(worker.slots for worker in client.workers().values()))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Submit ``fn(*args, **kwargs)`` to the cluster and return its Future immediately.

        It raises the same errors as :meth:`Client.submit`.

        Args:
            fn: The function to run.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.  None of them is taken for a task option.

        Returns:
            The Future of the call.

        Raises:
            RuntimeError: The executor was shut down.
        """
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        return self._submit(fn, [args], kwargs)[0]

    def _submit(self, fn: Callable[..., Any], calls: Iterable[tuple[Any, ...]], kwargs: dict[str, Any]) -> list[Future]:
        """Submit one task for each of ``calls``.  All keywords in ``kwargs`` are passed to the function."""
        client = self._client
        client._thread.check_thread()
        futures: list[Future] = client._session.submit_records(fn, calls, kwargs, self._options, client._make, batch=False)
        for future in futures:
            self._futures.add(future)
            client._session.call_when_done(future._record, partial(self._forget, future))
        return futures

    def _forget(self, future: Future, _: Record) -> None:
        self._futures.discard(future)

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1, **_: Any
    ) -> Iterator[Any]:
        """Call ``fn`` on the cluster for each tuple of ``zip(*iterables)``.

        All calls are submitted immediately, with the same errors as in :meth:`Client.submit`.  If the iterator is closed early,
        the calls that no worker has been given yet are cancelled.

        Args:
            fn: The function to run.
            *iterables: The positional arguments; the shortest iterable determines the number of calls.
            timeout: Seconds from this call, or a ``timedelta``, within which each value must be available; None: without limit.
            chunksize: Ignored; calls are sent in batches anyway.
            **_: Ignored.

        Returns:
            An iterator of the values, in the order of the arguments.  It raises the exception of a call that failed, and
            ``TimeoutError`` if a value is not available in time.

        Raises:
            RuntimeError: The executor was shut down.
        """
        if not self._open:
            raise RuntimeError("cannot schedule new futures after shutdown")
        bound = as_timeout(timeout)
        end = None if bound is None else time.monotonic() + bound
        return self._results(self._submit(fn, zip(*iterables), {}), end)  # noqa: B905

    def _results(self, futures: list[Future], end: float | None) -> Iterator[Any]:
        """Yield the values in order and drop each future afterwards.  Cancel the rest if the caller stops early."""
        futures.reverse()
        try:
            while futures:
                yield futures[-1].result(None if end is None else max(0.0, end - time.monotonic()))
                futures.pop()
        finally:
            if futures:
                self._client._session.cancel_records([future._record for future in futures], unstarted=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls.

        Args:
            wait: Return only when all submitted calls have ended.
            cancel_futures: Cancel the calls that no worker has been given yet.
        """
        self._open = False
        left: list[concurrent.futures.Future[Any]] = list(self._futures)
        if cancel_futures and left:  # running calls continue, as with every executor
            session = self._client._session
            self._client._call(lambda: session.cancel(left, unstarted=True))
        if wait:
            concurrent.futures.wait(left)
