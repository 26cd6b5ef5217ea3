"""The counters and gauges of schedulers and workers for Prometheus.

Names follow https://prometheus.io/docs/practices/naming/: a prefix, base units, ``_total`` for counters.  Labels are bounded: a
worker's name is one, a task's key is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import generate_latest
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import CollectorRegistry
except ImportError as error:  # pragma: no cover
    raise ImportError("metrics need prometheus_client: pip install 'twistdist[http]'") from error

#: The content type of the text format.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Counters of the status, with their meanings.
COUNTERS = {
    "submitted": "Tasks that clients have submitted",
    "done": "Attempts that gave a value",
    "failed": "Tasks that have failed",
    "replays": "Tasks executed again because their values were lost",
    "reruns": "Attempts made again after an error, a crash or a lost worker",
    "recalls": "Times that a worker was asked to return tasks",
    "stale": "Messages about attempts that were no longer current",
}

#: Numbers of each worker.
WORKER_GAUGES = {
    "slots": ("worker_slots", "Tasks that the worker can run at a time"),
    "running": ("worker_running_tasks", "Tasks that the worker runs or is about to run"),
    "queued": ("worker_queued_tasks", "Tasks that wait on the worker"),
    "memory": ("worker_stored_bytes", "Bytes of results in the worker's store"),
    "keys": ("worker_stored_results", "Results in the worker's store"),
    "last_seen": ("worker_silence_seconds", "Seconds since the worker was last heard of"),
    "lag": ("worker_lag_seconds", "Seconds by which the worker's last heartbeat was late"),
}


class Collector:
    """Makes metrics of a scheduler's status when they are asked for.  ``status()`` is what the question "status" answers."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        status = self._status()
        tasks = GaugeMetricFamily("twistdist_tasks", "Tasks by state", labels=["state"])
        for state in ("idle", "waiting", "ready", "assigned", "awaited", "done", "failed"):
            tasks.add_metric([state], status["tasks"].get(state, 0))
        yield tasks
        for name, meaning in COUNTERS.items():
            yield CounterMetricFamily(f"twistdist_{name}", meaning, value=status[name])
        incidents = CounterMetricFamily("twistdist_incidents", "Faults that were noticed", labels=["kind"])
        for kind, count in status["incidents_by_kind"].items():
            incidents.add_metric([kind], count)
        yield incidents
        yield GaugeMetricFamily("twistdist_copies_under_way", "Copies of values that are wanted and not there yet",
                                value=status["copying"])  # fmt: skip
        yield from self._sums("function", "a function, by its name", status["by_function"])
        yield from self._sums("group", "a group that a user has named", status["by_group"])
        longest = GaugeMetricFamily(
            "twistdist_event_longest_seconds",
            "Longest time that the scheduler took for one event of this kind",
            labels=["event"],
        )
        for kind, seconds in status["longest_events"].items():
            longest.add_metric([kind], seconds)
        yield longest
        yield from self._workers(status["workers"])
        sessions = GaugeMetricFamily("twistdist_sessions", "Sessions of clients", labels=["state"])
        sessions.add_metric(["connected"], status["sessions"]["connected"])
        sessions.add_metric(["away"], status["sessions"]["away"])
        sessions.add_metric(["durable"], len(status["sessions"]["durable"]))
        yield sessions
        journal = status["journal"]
        yield GaugeMetricFamily("twistdist_journal_bytes", "Size of the journal", value=journal.get("bytes", 0))
        yield GaugeMetricFamily(
            "twistdist_journal_failing", "1 while the journal can't be written", value=int(journal["state"] == "failing")
        )
        yield GaugeMetricFamily(
            "twistdist_journal_write_seconds", "How long the last write to the journal took", value=journal.get("write", 0.0)
        )
        yield GaugeMetricFamily("twistdist_recovering", "1 while workers are awaited after a restart",
                                value=int(status["recovering"] is not None))  # fmt: skip

    @staticmethod
    def _sums(what: str, whose: str, rows: list[list[Any]]) -> Iterator[Metric]:
        """Of the 50 functions or groups with the most recent activity."""
        unfinished = GaugeMetricFamily(
            f"twistdist_{what}_unfinished_tasks", f"Tasks of {whose}, without an outcome", labels=[what]
        )
        ended = CounterMetricFamily(
            f"twistdist_{what}_attempts",
            f"Attempts of {whose}; again: of tasks that had a value before",
            labels=[what, "outcome"],
        )
        seconds = CounterMetricFamily(f"twistdist_{what}_run_seconds", f"Time that attempts of {whose} took", labels=[what])
        for name, waiting, done, failed, again, us in rows:
            unfinished.add_metric([name], waiting)
            for outcome, count in (("value", done - again), ("again", again), ("failed", failed)):
                ended.add_metric([name, outcome], count)
            seconds.add_metric([name], us / 1e6)
        yield from (unfinished, ended, seconds)

    @staticmethod
    def _workers(workers: dict[str, dict[str, Any]]) -> Iterator[Metric]:
        states = GaugeMetricFamily("twistdist_workers", "Workers by state", labels=["state"])
        for state in ("connected", "away", "suspect", "stuck", "retiring", "paused"):
            states.add_metric([state], sum(1 for worker in workers.values() if worker["state"] == state))
        yield states
        for field, (name, meaning) in WORKER_GAUGES.items():
            gauge = GaugeMetricFamily(f"twistdist_{name}", meaning, labels=["worker"])
            for worker, told in workers.items():
                gauge.add_metric([worker], told[field])
            yield gauge


class WorkerCollector:
    """Makes metrics of what a worker says of itself.  Their names differ from those that the scheduler has of its workers."""

    def __init__(self, numbers: dict[str, Any]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        numbers = self._numbers
        if not numbers:
            return  # it is starting
        for name, (field, label, meaning, kind) in WORKER_METRICS.items():
            metric = kind(f"twistdist_worker_{name}", meaning, labels=["worker", label] if label else ["worker"])
            found = numbers[field]
            if label:
                for value, number in found.items():
                    metric.add_metric([numbers["name"], value.replace(" ", "_")], number)
            elif found is not None:
                metric.add_metric([numbers["name"]], float(found))
            yield metric


#: Metrics of a worker: where the number is, the label that tells several apart, meaning, kind.
WORKER_METRICS = {
    "executor_slots": ("slots", "", "Tasks that this worker can run at a time", GaugeMetricFamily),
    "executors": ("executors", "state", "Processes for tasks, alive or being started", GaugeMetricFamily),
    "executors_resident_bytes": ("executors_bytes", "", "Memory of the processes for tasks", GaugeMetricFamily),
    "attempts": (
        "attempts",
        "outcome",
        "Attempts that have ended here; stopped: by a limit or on request",
        CounterMetricFamily,
    ),
    "executor_deaths": ("deaths", "kind", "Processes for tasks that have ended, by how", CounterMetricFamily),
    "store_bytes": ("stored_bytes", "place", "Bytes of results, in memory or spilled to disk", GaugeMetricFamily),
    "store_results": ("stored_results", "", "Results in the store", GaugeMetricFamily),
    "fetched_bytes": ("fetched_bytes", "", "Bytes of inputs fetched from other workers", CounterMetricFamily),
    "served_bytes": ("served_bytes", "", "Bytes of results sent to other workers and clients", CounterMetricFamily),
    "event_loop_lag_seconds": ("lag", "", "By how much the last heartbeat was late", GaugeMetricFamily),
    "scheduler_connected": ("connected", "", "1 while there is a connection to the scheduler", GaugeMetricFamily),
    "scheduler_silence_seconds": ("silence", "", "Seconds since the scheduler was last heard", GaugeMetricFamily),
}


def exposition(status: Callable[[], dict[str, Any]]) -> bytes:
    """All metrics of a scheduler in Prometheus' text format."""
    return _text_of(Collector(status))


def worker_exposition(numbers: dict[str, Any]) -> bytes:
    """All metrics of a worker in Prometheus' text format."""
    return _text_of(WorkerCollector(numbers))


def _text_of(collector: Any) -> bytes:
    """With those of this process: CPU time, memory, open files, start."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    text: bytes = generate_latest(registry)
    return text
