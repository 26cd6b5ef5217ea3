"""The client's side of traces: which span a submit belongs to, and the spans of attempts, made when they have ended.

They are made here, in the process that has set OpenTelemetry up, and not where tasks run: an executor that dies can export
nothing, and neither workers nor the scheduler need OpenTelemetry or its settings.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from twistdist import errors
from twistdist.wire import messages as m
from twistdist.wire.traces import NO_SPAN, parse, span_of, traceparent

#: The name of our tracer: the "instrumentation scope" of all spans.
SCOPE = "twistdist"

_next_ids: ContextVar[tuple[int, int] | None] = ContextVar("twistdist span ids", default=None)


def api() -> Any:
    """Return ``opentelemetry.trace``.  ``TwistdistError`` if it is not installed."""
    try:
        from opentelemetry import trace
    except ImportError as error:
        raise errors.TwistdistError("tracing needs OpenTelemetry: pip install 'twistdist[otel]'") from error
    return trace


def of_current_span() -> str:
    """Return what a submit carries: the current span, a trace of its own if there is none, "" if it is not recorded."""
    current = api().get_current_span().get_span_context()
    if not current.is_valid:
        return traceparent(random.getrandbits(128) or 1, NO_SPAN)
    return traceparent(current.trace_id, current.span_id) if current.trace_flags.sampled else ""


def of_task(trace: str, attempt: int) -> Callable[[], str]:
    """Return what gives the trace of a submit within a task: its current span or, without OpenTelemetry, the task's own."""
    ids = parse(trace)
    own = "" if ids is None else traceparent(ids[0], span_of(attempt))

    def submit() -> str:
        try:
            current = api().get_current_span().get_span_context()
        except errors.TwistdistError:
            return own
        if not current.is_valid:  # in a thread of the task's own
            return own
        return traceparent(current.trace_id, current.span_id) if current.trace_flags.sampled else ""

    return submit


class Spans:
    """Makes the spans of attempts with the tracer provider that the program has set."""

    def __init__(self) -> None:
        self._api = api()
        self._offset: float | None = None  # our clock minus the scheduler's, as far as no message was late
        self._epoch = 0

    def ended(self, message: m.Traced, epoch: int) -> None:
        """An attempt has ended."""
        ids = parse(message.trace)
        if ids is None:
            return
        offset = time.time() - message.at
        if self._offset is None or self._epoch != epoch or offset < self._offset:
            self._offset, self._epoch = offset, epoch
        end = int(1e9 * (message.at + self._offset))
        _next_ids.set((ids[0], span_of(message.attempt)))
        try:
            span = self._tracer().start_span(
                message.function,
                context=self._under(*ids),
                kind=self._api.SpanKind.CONSUMER,
                attributes=_attributes(message),
                links=[link for one in message.links if (link := self._link(*one)) is not None],
                start_time=end - 1000 * max(0, message.us),
            )
        finally:
            _next_ids.set(None)
        if message.outcome == "value":
            span.set_status(self._api.StatusCode.OK)
        else:
            what = {
                "exception.type": message.error,
                "exception.message": message.text,
                "exception.stacktrace": message.traceback,
            }
            span.add_event("exception", {name: value for name, value in what.items() if value}, timestamp=end)
            span.set_status(self._api.StatusCode.ERROR, f"{message.error}: {message.text}" if message.error else message.text)
        span.end(end_time=end)

    def _tracer(self) -> Any:
        tracer = self._api.get_tracer(SCOPE)
        known = getattr(tracer, "id_generator", None)  # of the SDK; others choose ids by themselves
        if known is not None and not isinstance(known, _Ids):
            tracer.id_generator = _Ids(known)
        return tracer

    def _context(self, trace: int, span: int) -> Any:
        flags = self._api.TraceFlags(self._api.TraceFlags.SAMPLED)
        return self._api.SpanContext(trace, span, is_remote=True, trace_flags=flags)

    def _under(self, trace: int, span: int) -> Any:
        """The context with the parent in it; an empty one, and not the current one, for a trace of its own."""
        from opentelemetry.context import Context

        if span == NO_SPAN:
            return Context()
        return self._api.set_span_in_context(self._api.NonRecordingSpan(self._context(trace, span)), Context())

    def _link(self, trace: str, attempt: int) -> Any:
        ids = parse(trace)
        return None if ids is None else self._api.Link(self._context(ids[0], span_of(attempt)))


class _Ids:
    """Gives a span of ours the ids that it must have, and any other one what the generator before it gives."""

    def __init__(self, before: Any) -> None:
        self._before = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._before, name)

    def generate_trace_id(self) -> int:
        """Called by the SDK for a span without a parent."""
        ids = _next_ids.get()
        return self._before.generate_trace_id() if ids is None else ids[0]

    def generate_span_id(self) -> int:
        """Called by the SDK."""
        ids = _next_ids.get()
        return self._before.generate_span_id() if ids is None else ids[1]


def _attributes(message: m.Traced) -> dict[str, Any]:
    return {
        "twistdist.key": message.key,
        "twistdist.attempt": str(message.attempt),  # half of what shows traces rounds such numbers
        "twistdist.worker": message.worker,
        "twistdist.function": message.function,
        "twistdist.outcome": message.outcome,
        "twistdist.again": message.again,
        **({"twistdist.group": message.group} if message.group else {}),
    }
