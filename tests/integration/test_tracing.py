"""Spans of OpenTelemetry: one for each attempt, whatever became of it, on a real cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
import pytest_twisted
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from twisted.internet import reactor

import twistdist
from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster, current_client
from twistdist.errors import TaskCrashed


@pytest.fixture(scope="module")
def exporter():
    """OpenTelemetry is set up once in a process."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter):
    """The spans of a task by its key, in order, once there are ``count``; of all tasks without a key."""
    exporter.clear()

    def find(key=None, count=1):
        def found():
            ours = [span for span in exporter.get_finished_spans() if "twistdist.key" in span.attributes]
            return sorted(
                (span for span in ours if key in (None, span.attributes["twistdist.key"])),
                key=lambda span: int(span.attributes["twistdist.attempt"]),
            )

        until(lambda: len(found()) >= (count or 0))
        assert count in (None, len(found()))
        return found()

    return find


def ids(spans_or_links):
    return [(one.context.trace_id, one.context.span_id) for one in spans_or_links]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster, exporter):
    with Client(cluster, tracing=True) as client:
        yield client


def twice(x):
    return 2 * x


def crash_first(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def fail():
    raise ValueError("no \x1b good")


def here():
    """The span of the task, and the parent of one that it starts."""
    outer = trace.get_current_span().get_span_context()
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with provider.get_tracer("of the task").start_as_current_span("inner"):
        pass
    (inner,) = memory.get_finished_spans()
    return outer.trace_id, outer.span_id, inner.parent and inner.parent.span_id, inner.context.trace_id


def spawn(n):
    """A task of a task, submitted within its span and in a thread that does not know it."""
    found = [current_client().submit(twice, n).result()]
    thread = threading.Thread(target=lambda: found.append(current_client().submit(twice, n + 1).result()))
    thread.start()
    thread.join()
    return found


def sizes(data):
    return len(data)


def test_a_task_is_a_child_of_the_span_that_submits_it_and_linked_to_its_inputs(client, spans):
    with trace.get_tracer("program").start_as_current_span("program") as program, client.group("group"):
        first = client.submit(twice, 1, key="t-first")
        second = client.submit(twice, first, key="t-second")
        assert second.result(60) == 4
    (one,), (two,) = spans("t-first"), spans("t-second")
    own = program.get_span_context()
    for span in (one, two):
        assert span.name == "twice" and span.context.trace_id == own.trace_id and span.parent.span_id == own.span_id
        assert span.status.status_code is StatusCode.OK and span.end_time >= span.start_time >= program.start_time - 10**9
        attributes = span.attributes
        assert attributes["twistdist.worker"] in ("w0", "w1") and attributes["twistdist.group"] == "group"
        assert attributes["twistdist.outcome"] == "value" and attributes["twistdist.again"] is False
    assert ids(two.links) == ids([one]) and not one.links


def test_a_crashed_attempt_and_an_error_show(client, spans, tmp_path):
    assert client.submit(crash_first, str(tmp_path / "crashed"), key="t-crash").result(60) == "survived"
    crashed, done = spans("t-crash", 2)
    assert crashed.status.status_code is StatusCode.ERROR and "SIGKILL" in crashed.status.description
    assert crashed.attributes["twistdist.outcome"] == "crashed" and done.attributes["twistdist.outcome"] == "value"
    assert crashed.context.span_id != done.context.span_id and crashed.context.trace_id == done.context.trace_id
    assert isinstance(client.submit(fail, key="t-fail", retries=1).exception(60), ValueError)
    for span in spans("t-fail", 2):
        (event,) = span.events
        assert event.name == "exception" and event.attributes["exception.type"] == "ValueError"
        assert "in fail" in event.attributes["exception.stacktrace"] and "good" in event.attributes["exception.message"]
    assert isinstance(client.submit(crash_first, "/", key="t-limit", time_limit=60).result(60), str)
    assert isinstance(client.submit(os.kill, 0, 9, key="t-killed", crash_limit=1).exception(60), TaskCrashed)
    assert spans("t-killed")[0].events[0].attributes["exception.type"] == "TaskCrashed"


def test_a_replay_and_a_lost_worker_show(exporter, spans):
    with LocalCluster(n_workers=2) as cluster, Client(cluster, tracing=True) as client:
        data = client.submit(bytes, 1 << 20, key="t-data")
        client.gather([client.submit(sizes, data)])
        (holder,) = client.who_has([data])["t-data"]
        cluster.kill_worker(holder, wipe=True)
        assert client.submit(sizes, data, key="t-size").result(60) == 1 << 20
    first, replay = spans("t-data", 2)
    assert first.attributes["twistdist.worker"] == holder and not first.attributes["twistdist.again"]
    assert replay.attributes["twistdist.again"] and replay.context.trace_id == first.context.trace_id
    found = [span for span in spans(None, None) if span.attributes["twistdist.key"] == "t-size"]
    assert ids(found[-1].links) == ids([replay]) and found[-1].attributes["twistdist.outcome"] == "value"
    assert {span.attributes["twistdist.outcome"] for span in found[:-1]} <= {"lost"}  # given to the worker that was killed


def test_spans_and_tasks_of_a_task_are_its_children(client, spans):
    trace_id, span_id, inner_parent, inner_trace = client.submit(here, key="t-here").result(60)
    (span,) = spans("t-here")
    assert span.context.trace_id == trace_id == inner_trace and span.context.span_id == span_id == inner_parent
    assert span.parent is None  # submitted outside any span: a trace of its own
    assert client.submit(spawn, 3, key="t-spawn").result(60) == [6, 8]
    found = spans(None, 4)
    (parent,) = [one for one in found if one.name == "spawn"]
    children = [one for one in found if one.name == "twice"]
    assert len(children) == 2 and all(one.parent.span_id == parent.context.span_id for one in children)
    assert {one.context.trace_id for one in children} == {parent.context.trace_id} != {trace_id}


def test_it_goes_on_after_a_restart_of_the_scheduler(exporter, spans, tmp_path):
    with LocalCluster(n_workers=1) as cluster, Client(cluster, tracing=True) as client:
        assert client.submit(twice, 1, key="t-before").result(60) == 2
        cluster.kill_scheduler()
        until(lambda: not cluster.scheduler)
        waiting = client.submit(twice, 2, key="t-after")
        cluster.start_scheduler()
        assert waiting.result(60) == 4
        before, after = spans(None, 2)
        assert before.end_time <= after.end_time


def test_nothing_is_made_unless_it_is_asked_for(cluster, spans, exporter):
    with Client(cluster, tracing=True) as traced, Client(cluster) as plain:
        assert plain.submit(here).result(60)[:3] == (0, 0, None)
        not_recorded = trace.NonRecordingSpan(trace.SpanContext(5, 6, False, trace.TraceFlags(0)))
        with trace.use_span(not_recorded):
            assert traced.submit(twice, 4, key="t-unsampled").result(60) == 8
        assert traced.submit(twice, 5, key="t-traced").result(60) == 10
        spans("t-traced")
        spans(None, 1)


@pytest_twisted.inlineCallbacks
def test_with_deferreds(cluster, exporter):
    exporter.clear()
    client = yield twistdist.connect(reactor, cluster.address, tracing=True)
    with trace.get_tracer("program").start_as_current_span("program") as program:
        future = client.submit(twice, 1, key="t-deferred")
    assert (yield future.result()) == 2
    yield client.close()
    (span,) = [span for span in exporter.get_finished_spans() if span.name == "twice"]
    assert span.parent.span_id == program.get_span_context().span_id


def test_without_opentelemetry_the_error_names_the_extra(cluster):
    code = """
import sys
sys.modules["opentelemetry"] = None
from twistdist.blocking import Client
with Client(sys.argv[1]) as client:
    print(client.submit(abs, -1).result())
Client(sys.argv[1], tracing=True)
"""
    command = [sys.executable, "-c", code, cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "1\n" and done.returncode == 1 and "pip install 'twistdist[otel]'" in done.stderr
