"""A joblib backend, so that scikit-learn and everything else on joblib runs on a cluster unchanged.

::

    import joblib
    import twistdist.joblib                  # registers the backend "twistdist"
    from twistdist.blocking import Client

    with Client() as client, joblib.parallel_config("twistdist", client=client):
        search.fit(X, y)

Parallel calls inside the tasks run on the cluster too: the task gives up its slot while it waits for them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

try:
    from joblib.parallel import ParallelBackendBase, register_parallel_backend
except ImportError as error:  # pragma: no cover
    raise ImportError("twistdist.joblib needs joblib: pip install 'twistdist[joblib]'") from error

from twistdist.blocking import Client, Future
from twistdist.blocking.client import default_client
from twistdist.executors import context
from twistdist.keywords import TASK_OPTIONS, unknown_keywords
from twistdist.net.options import split_options
from twistdist.net.submits import LARGE_ARGUMENT_BYTES, size_hint

#: A batch of short calls is expected to take about this long, in seconds: small enough that a lost worker costs little.
BATCH_S = 0.2

#: Calls in one batch at most.
MAX_BATCH = 1_000


class TwistdistBackend(ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs each batch of calls as a task.

    Args:
        client: A :class:`twistdist.blocking.Client`.  By default a task's own, or the only open client of this process.
        nesting_level: How many parallel calls this one is inside of; joblib fills it in.
        options: Task options (``retries``, ``resources``, …) of every batch.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = False
    default_n_jobs = -1

    def __init__(self, client: Client | None = None, nesting_level: int | None = None, **options: Any) -> None:
        super().__init__(nesting_level=nesting_level)
        if client is not None and not isinstance(client, Client):
            raise TypeError(f"client must be a twistdist.blocking.Client, got {type(client).__name__}")
        unknown = dict(options)
        split_options(unknown)
        if unknown:
            raise unknown_keywords("parallel_config('twistdist')", unknown, ["client", *TASK_OPTIONS])
        self._client, self._options = client, options
        self._futures: set[Future] = set()
        self._batch_size = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _nested, (self.nesting_level, self._options)

    @property
    def client(self) -> Client:
        """The client that submits; found when it is first needed."""
        if self._client is None:
            self._client = default_client(None)
        return self._client

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches can run at a time: the slots of the cluster, or fewer if ``n_jobs`` asks for fewer."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 has no meaning in Parallel; use -1 for all slots of the cluster")
        slots = max(1, sum(worker.slots for worker in self.client.workers().values()))
        if n_jobs is None:
            return slots
        return min(n_jobs, slots) if n_jobs > 0 else max(1, slots + 1 + n_jobs)

    def get_nested_backend(self) -> tuple[Any, int]:
        """The backend of parallel calls inside a task: this one again, with the task's client."""
        return _nested((self.nesting_level or 0) + 1, self._options), -1

    def compute_batch_size(self) -> int:
        return self._batch_size

    def batch_completed(self, batch_size: int, duration: float) -> None:
        """Longer batches for short calls."""
        if batch_size == self._batch_size and duration < BATCH_S / 4:
            self._batch_size = min(MAX_BATCH, 2 * batch_size)
        elif duration > 4 * BATCH_S and self._batch_size > 1:
            self._batch_size //= 2

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future:
        """Run one batch of calls; ``callback(future)`` is called when it has ended."""
        small, large = _without_large(func)
        future = self.client.submit(_call, small, *large, **self._options)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future) -> Any:
        """The results of a batch, or its exception."""
        try:
            return out.result()
        finally:
            out.release()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not ended: another call has failed."""
        pending = list(self._futures)
        if pending:
            self.client.cancel(pending)

    def terminate(self) -> None:
        """The call is over; the client is the caller's."""
        self._futures.clear()

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """A task that waits for a nested call gives up its slot."""
        task = context.current()
        with task.parked() if task is not None else contextlib.nullcontext():
            yield


def _nested(nesting_level: int | None, options: dict[str, Any]) -> TwistdistBackend:
    return TwistdistBackend(nesting_level=nesting_level, **options)


class _Large:
    """Stands in a batch for the large argument with this number, which travels beside it, once for all batches."""

    def __init__(self, number: int) -> None:
        self.number = number


def _without_large(func: Callable[[], Any]) -> tuple[Callable[[], Any], list[Any]]:
    """The batch with placeholders instead of large arguments, and these: the training data of a grid search, for example."""
    items = getattr(func, "items", None)
    if not isinstance(items, list):
        return func, []
    large: dict[int, Any] = {}

    def small(value: Any) -> Any:
        if size_hint(value) <= LARGE_ARGUMENT_BYTES:
            return value
        large.setdefault(id(value), value)
        return _Large(list(large).index(id(value)))

    changed = [
        (fn, tuple(map(small, args)), {name: small(value) for name, value in kwargs.items()}) for fn, args, kwargs in items
    ]
    if not large:
        return func, []
    batch: Any = copy.copy(func)
    batch.items = changed
    return batch, list(large.values())


def _call(func: Any, *large: Any) -> Any:
    if large:

        def whole(value: Any) -> Any:
            return large[value.number] if isinstance(value, _Large) else value

        func.items = [
            (fn, tuple(map(whole, args)), {name: whole(value) for name, value in kwargs.items()})
            for fn, args, kwargs in func.items
        ]
    return func()


register_parallel_backend("twistdist", TwistdistBackend)
