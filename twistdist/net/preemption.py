"""Notices that this machine will be taken away, as clouds give them at a URL: it is asked every few seconds.

=======  ============================================================================================================
cloud    answer
=======  ============================================================================================================
Google   200 and ``FALSE``, later ``TRUE`` (``computeMetadata/v1/instance/preempted``, with ``Metadata-Flavor: Google``)
AWS      404, later 200 and JSON with an ``action`` and a ``time`` (``latest/meta-data/spot/instance-action``); 401 asks for
         a token, which a PUT to ``/latest/api/token`` gives
Azure    200 and JSON with a list of ``Events``; one of the type ``Preempt`` or ``Terminate`` has ``NotBefore``, a time
         (``metadata/scheduledevents``, with ``Metadata: true``)
=======  ============================================================================================================

From any other server, a 200 whose body is neither empty nor ``FALSE`` or ``NONE`` is a notice.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

#: Seconds between two questions, and seconds that an answer may take.
POLL_S, PATIENCE_S = 5.0, 4.0

#: Bytes of an answer at most.
MAX_ANSWER_BYTES = 64 << 10

#: Seconds.  No cloud gives more notice than this; more means that a clock is wrong.
LONGEST_NOTICE_S = 900.0

#: How long AWS's token is valid, in seconds; a refused one is replaced.
_TOKEN_S = b"21600"

#: The types of Azure's events after which the machine is gone.
_FINAL_EVENTS = ("Preempt", "Terminate")


class Preemption:
    """Asks ``url`` until there is a notice, and then calls ``on_notice(seconds)`` once: the time that is left.

    ``usual`` is that time if the notice does not say.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, url: str, headers: Mapping[str, str], usual: float, on_notice: Callable[[float], None]
    ) -> None:
        self._reactor, self._url, self._usual, self._on_notice = reactor, url, usual, on_notice
        self._headers = dict(headers)
        pool = HTTPConnectionPool(reactor, persistent=False)
        self._agent: Any = Agent(reactor, connectTimeout=PATIENCE_S / 2, pool=pool)
        self._call: Any = None
        self._asking: Deferred[Any] | None = None
        self._stopped = False
        self._trouble = ""  # what was logged last

    def start(self) -> None:
        """Ask now, and from then on every ``POLL_S`` seconds."""
        self._call = None
        self._asking = Deferred.fromCoroutine(self._ask())
        self._asking.addTimeout(PATIENCE_S, self._reactor).addCallbacks(self._answered, self._failed).addErrback(
            lambda failure: self._log.failure("an error while notices were looked for", failure)
        )

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> tuple[int, bytes]:
        status, body = await self._request(b"GET", self._url, self._headers)
        if status != 401:
            return status, body
        parts = urlsplit(self._url)
        where = urlunsplit((parts.scheme, parts.netloc, "/latest/api/token", "", ""))
        status, token = await self._request(b"PUT", where, {"X-aws-ec2-metadata-token-ttl-seconds": _TOKEN_S.decode()})
        if status != 200:
            raise ValueError(f"it wants a token, but {where} gives none (status {status})")
        self._headers["X-aws-ec2-metadata-token"] = token.decode("ascii").strip()
        return await self._request(b"GET", self._url, self._headers)

    async def _request(self, method: bytes, url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        response = await self._agent.request(method, url.encode(), Headers({name: [text] for name, text in headers.items()}))
        body = _Body()
        response.deliverBody(body)
        return response.code, await body.complete

    def _answered(self, answer: tuple[int, bytes]) -> None:
        self._asking = None
        status, body = answer
        if status not in (200, 404):
            self._tell(f"its answer has the status {status}")
        else:
            self._tell("")
            left = notice_in(body, time.time(), self._usual) if status == 200 else None
            if left is not None:
                self._on_notice(left)
                return
        self._again()

    def _failed(self, failure: Any) -> None:
        self._asking = None
        if not self._stopped:
            self._tell(failure.getErrorMessage() or failure.type.__name__)
            self._again()

    def _again(self) -> None:
        if not self._stopped:
            self._call = self._reactor.callLater(POLL_S, self.start)

    def _tell(self, trouble: str) -> None:
        """Log a trouble once, and when it is over."""
        if trouble and trouble != self._trouble:
            self._log.warn("{url} can't be asked for notices of preemption: {trouble}", url=self._url, trouble=trouble)
        elif self._trouble and not trouble:
            self._log.info("{url} can be asked for notices of preemption again", url=self._url)
        self._trouble = trouble


class _Body(Protocol):
    """Collects an answer, but not without limit."""

    def __init__(self) -> None:
        self.complete: Deferred[bytes] = Deferred()
        self._data = b""

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if len(self._data) > MAX_ANSWER_BYTES and not self.complete.called:
            self.complete.errback(ValueError(f"its answer has more than {MAX_ANSWER_BYTES} bytes"))
            if self.transport is not None:
                self.transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        if not self.complete.called:
            self.complete.callback(self._data)


def notice_in(body: bytes, now: float, usual: float) -> float | None:
    """Return how many seconds are left according to the body of an answer; None: it is no notice.

    ``now`` is the time in seconds since the epoch; ``usual`` seconds are left if the body does not say, or nothing plausible.
    """
    text = body.decode("utf-8", "replace").strip()
    if text.upper() in ("", "FALSE", "NONE"):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return usual  # TRUE, or words
    if isinstance(found, dict) and isinstance(found.get("Events"), list):
        events = [event for event in found["Events"] if isinstance(event, dict) and event.get("EventType") in _FINAL_EVENTS]
        return min((_left(event.get("NotBefore"), now, usual) for event in events), default=None)
    return _left(found.get("time") if isinstance(found, dict) else None, now, usual)


def _left(when: Any, now: float, usual: float) -> float:
    """Return the seconds until a time in ISO 8601 or in the form of HTTP."""
    moment: datetime.datetime | None = None
    if isinstance(when, str):
        try:
            moment = datetime.datetime.fromisoformat(when.replace("Z", "+00:00"))
        except ValueError:
            try:
                moment = email.utils.parsedate_to_datetime(when)
            except (TypeError, ValueError):
                return usual
    if moment is None:
        return usual
    left = moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc).timestamp() - now
    return left if 0 < left <= LONGEST_NOTICE_S else usual  # else one of the clocks is wrong
