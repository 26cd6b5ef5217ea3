"""The resources that ``--http`` serves.

``/`` is the live page of a scheduler, ``/health`` is for load balancers and Kubernetes, ``/metrics`` for Prometheus; everything
else is JSON.  A worker serves ``/health``, ``/metrics`` and ``/status`` alone.
Nothing here changes anything.  :mod:`twistdist.web.guards` says who may ask.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from twistdist.web.answers import TEXT, Folder, answer
from twistdist.web.guards import HostGuard, TokenGuard
from twistdist.web.live import Live, LiveResource
from twistdist.web.output import Output
from twistdist.web.page import put_page


class View(Protocol):
    """What is shown of a scheduler."""

    def health(self) -> str:
        """Why no work is accepted at the moment; "" while it is."""

    def ask(self, what: str, *args: Any) -> Any:
        """The answer to a question of clients."""

    def order(self, what: str, *args: Any) -> Any:
        """The answer to a question that workers are asked too."""


class WorkerView(Protocol):
    """What is shown of a worker."""

    def health(self) -> str:
        """Why it runs no tasks at the moment; "" if it does."""

    def numbers(self) -> dict[str, Any]:
        """What it is and does, as plain data."""


def scheduler_pages(view: View, live: Live) -> Resource:
    """What a scheduler serves.

    Args:
        view: What is shown.
        live: The streams of all endpoints.
    """
    root = Folder()  # type: ignore[no-untyped-call]
    put: Any = root.putChild
    put_page(root)
    put(b"live", LiveResource(live))
    put(b"health", _Health(view.health))
    put(b"status", _Json(lambda request: view.ask("status")))
    put(b"incidents", _Json(lambda request: view.ask("incidents")))
    put(b"metrics", _Metrics(lambda metrics: metrics.exposition(lambda: view.ask("status"))))
    put(b"tasks", _Json(lambda request: view.ask("why", _named(request))))
    put(b"lineage", _Json(lambda request: view.ask("lineage", _named(request)) or None))
    put(b"what-if", _Json(lambda request: view.ask("what_if", *_dying(request))))
    put(b"output", Output(live.clock, view, _named))
    return root


def worker_pages(view: WorkerView) -> Resource:
    """What a worker serves; it has no page of its own, since that of the scheduler shows all workers."""
    root = Folder()  # type: ignore[no-untyped-call]
    put: Any = root.putChild
    put(b"", _Index(b"a worker of twistdist: /health, /metrics, /status; the page is that of its scheduler\n"))
    put(b"health", _Health(view.health))
    put(b"status", _Json(lambda request: view.numbers()))
    put(b"metrics", _Metrics(lambda metrics: metrics.worker_exposition(view.numbers())))
    return root


def site(root: Resource, token: str | None, interface: str | None) -> Site:
    """Return the site of one endpoint.

    Args:
        root: What is served.
        token: What requests must know; None on loopback.
        interface: The host that the endpoint names, as which it may be asked; None if ``Host`` does not matter.
    """
    guarded = root
    if token is not None:
        guarded = TokenGuard(root, token)
    elif interface is not None:
        guarded = HostGuard(root, interface)
    made = _Quiet(guarded)  # type: ignore[no-untyped-call]
    made.displayTracebacks = False
    made.noisy = False
    return made


class _Quiet(Site):
    """Does not log requests: they come every few seconds, from Prometheus and load balancers."""

    def log(self, request: http.Request) -> None:
        """Log nothing."""


def _named(request: Request) -> str:
    """The key or name that a request is about: ``?name=``, or the rest of its path, which may have slashes in it.

    A browser can't send ``.`` and ``..`` as parts of a path.
    """
    given: list[bytes] = (request.args or {}).get(b"name") or [b"/".join(request.postpath or [])]
    return given[0].decode("utf-8", "replace")


def _dying(request: Request) -> tuple[str, ...]:
    """``?host=``, or the name of a worker."""
    hosts: list[bytes] = (request.args or {}).get(b"host") or []
    return ("", hosts[0].decode("utf-8", "replace")) if hosts else (_named(request),)


class _Json(Resource):
    """Plain data; None is answered as not found."""

    isLeaf = True

    def __init__(self, make: Callable[[Request], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make = make

    def render_GET(self, request: Request) -> bytes:
        try:
            code, found = 200, self._make(request)
        except (LookupError, ValueError) as error:
            code, found = 400, {"error": str(error)}
        if found is None:
            code, found = 404, {"error": "not found"}
        body = json.dumps(found, indent=1, default=str) + "\n"
        return answer(request, code, body.encode(), "application/json")


class _Index(Resource):
    """What is there, in words."""

    isLeaf = True

    def __init__(self, text: bytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._text = text

    def render_GET(self, request: Request) -> bytes:
        return answer(request, 200, self._text, TEXT)


class _Health(Resource):
    isLeaf = True

    def __init__(self, health: Callable[[], str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._health = health

    def render_GET(self, request: Request) -> bytes:
        why = self._health()
        return answer(request, 503 if why else 200, f"{why or 'ok'}\n".encode(), TEXT)


class _Metrics(Resource):
    """``make`` is given the module that makes metrics, which needs an extra."""

    isLeaf = True

    def __init__(self, make: Callable[[Any], bytes]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make = make

    def render_GET(self, request: Request) -> bytes:
        try:
            from twistdist.web import metrics
        except ImportError as error:
            return answer(request, 501, f"{error}\n".encode(), TEXT)
        return answer(request, 200, self._make(metrics), metrics.CONTENT_TYPE)
