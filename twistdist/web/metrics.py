"""The scheduler's counters and gauges for Prometheus.

Names follow https://prometheus.io/docs/practices/naming/: a prefix, base units, ``_total`` for counters.  Labels are bounded: a
worker's name is one, a task's key is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.exposition import generate_latest
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
        yield CounterMetricFamily("twistdist_incidents", "Faults that were noticed", value=status["incidents"])
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


def exposition(status: Callable[[], dict[str, Any]]) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(status))
    text: bytes = generate_latest(registry)
    return text
