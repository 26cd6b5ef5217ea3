"""The span of the running attempt as the current one, so that spans that the task starts are its children."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from twistdist.wire.traces import parse, span_of


@contextlib.contextmanager
def entered(trace: str, attempt: int) -> Iterator[None]:
    """Make the attempt's span the current one of OpenTelemetry, if that is installed here.  The client makes the span."""
    ids = parse(trace)
    try:
        from opentelemetry import context
        from opentelemetry import trace as api
    except ImportError:
        ids = None
    if ids is None:
        yield
        return
    span = api.SpanContext(ids[0], span_of(attempt), is_remote=True, trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED))
    token = context.attach(api.set_span_in_context(api.NonRecordingSpan(span)))
    try:
        yield
    finally:
        context.detach(token)
