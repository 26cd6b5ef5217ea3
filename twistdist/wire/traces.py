"""Trace contexts, as they travel with a task: a ``traceparent`` of W3C's Trace Context, version 00.

The span of an attempt has an identity that follows from the attempt's number.  So everybody who knows the number can refer to
the span, before it exists and in whatever process it will be made: the executor, for spans of the task's own, and the client
that makes it, for the spans of tasks that use the value.
"""

from __future__ import annotations

import hashlib
import re

_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

#: The parent of tasks that were submitted outside any span.
NO_SPAN = 0


def traceparent(trace: int, span: int) -> str:
    """Return the text for these ids; the trace is recorded."""
    return f"00-{trace:032x}-{span:016x}-01"


def parse(text: str) -> tuple[int, int] | None:
    """Return (trace, span) of such a text; None if it is not one, or belongs to a trace that is not recorded."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or not int(found[1], 16) or not int(found[3], 16) & 1:
        return None
    return int(found[1], 16), int(found[2], 16)


def span_of(attempt: int) -> int:
    """Return the id of an attempt's span."""
    digest = hashlib.blake2b(attempt.to_bytes(16, "big", signed=True), digest_size=8, person=b"twistdist span")
    return int.from_bytes(digest.digest(), "big") or 1
