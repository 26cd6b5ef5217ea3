"""``/live``: the snapshots of a scheduler as a stream of server-sent events, for all pages that are open.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from twistdist.web.answers import answer, refusal

#: Seconds between two snapshots.
INTERVAL_S = 1.0

#: Milliseconds after which a browser connects again to a scheduler that it lost.
RETRY_MS = 1_000

#: Streams at a time: each is a connection with up to one snapshot in its buffer.
MAX_STREAMS = 200

#: Snapshots at a time.  Pages that keep up share one; those that were skipped need what they missed, those that are new
#: need everything, and neither may make the scheduler slow.
MAX_SNAPSHOTS = 4


class Live:
    """Makes snapshots while somebody looks, and gives them to the streams.

    ``snapshot(since)`` is what the question "snapshot" answers.
    """

    _log = Logger()

    def __init__(self, reactor: Any, snapshot: Callable[[float], dict[str, Any]]) -> None:
        self.clock = reactor
        self._snapshot = snapshot
        self._streams: dict[_Stream, None] = {}  # those that were served the longest time ago come first
        self._call = LoopingCall(self._tick)
        self._call.clock = reactor

    def render(self, request: Request) -> Any:
        """Begin a stream; it gets its first snapshot within ``INTERVAL_S``."""
        if len(self._streams) >= MAX_STREAMS:
            return refusal(request, 503, f"{MAX_STREAMS} pages are open already, which is the limit; close some and try again")
        answer(request, 200, b"", "text/event-stream; charset=utf-8")
        stream = _Stream(request)
        self._streams[stream] = None
        request.notifyFinish().addBoth(lambda _: self._gone(stream))
        request.registerProducer(stream, True)
        stream.write(f"retry: {RETRY_MS}\n\n".encode())
        if not self._call.running:
            self._call.start(INTERVAL_S).addErrback(self._failed)
        return NOT_DONE_YET

    def stop(self) -> None:
        """End every stream."""
        for stream in list(self._streams):
            stream.end()

    def _gone(self, stream: _Stream) -> None:
        del self._streams[stream]
        if not self._streams and self._call.running:
            self._call.stop()

    def _failed(self, failure: Any) -> None:
        self._log.failure("a snapshot for the live page could not be made", failure)
        self.stop()

    def _tick(self) -> None:
        made: dict[float, tuple[float, bytes]] = {}
        for stream in list(self._streams):
            if stream.paused or (stream.since not in made and len(made) == MAX_SNAPSHOTS):
                continue
            if stream.since not in made:
                made[stream.since] = self._event(stream.since)
            stream.since, event = made[stream.since]
            self._streams[stream] = self._streams.pop(stream)
            stream.write(event)

    def _event(self, since: float) -> tuple[float, bytes]:
        """(what to ask with next, the event)."""
        snapshot = self._snapshot(since)
        kind = b"snapshot" if since else b"history"
        return snapshot["since"], b"event: %s\ndata: %s\n\n" % (kind, msgspec.json.encode(snapshot))


@implementer(IPushProducer)
class _Stream:
    """One page that is open.  ``since`` is what it has seen; it is ``paused`` while it does not read."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.since = 0.0
        self.paused = False

    def write(self, data: bytes) -> None:
        self._request.write(data)

    def end(self) -> None:
        self._request.unregisterProducer()
        self._request.finish()

    def pauseProducing(self) -> None:
        """The connection's buffer is full."""
        self.paused = True

    def resumeProducing(self) -> None:
        """The connection's buffer is empty."""
        self.paused = False

    def stopProducing(self) -> None:
        """The connection is gone; ``notifyFinish`` says so too."""
        self.paused = True


class LiveResource(Resource):
    """``/live``.  Pages of other sites are refused: they could not read it, but would use up the streams."""

    isLeaf = True

    def __init__(self, live: Live) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live = live

    def render_GET(self, request: Request) -> Any:
        if request.getHeader(b"sec-fetch-site") in (b"cross-site", b"same-site"):
            return refusal(request, 403, "this stream is for the live page alone")
        return self._live.render(request)

    def render_HEAD(self, request: Request) -> bytes:
        """The headers alone, and no stream."""
        return answer(request, 200, b"", "text/event-stream; charset=utf-8")
