"""The resources that ``--http`` serves.

``/health`` is for load balancers and Kubernetes, ``/metrics`` for Prometheus; ``/status``, ``/incidents`` and ``/tasks/KEY``
are JSON.  Nothing here changes anything.  Beyond loopback every request needs the token, in an ``Authorization: Bearer`` header
or as ``?token=``.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request, Site


class View(Protocol):
    """What is shown of a scheduler."""

    def health(self) -> str:
        """Why no work is accepted at the moment; "" while it is."""

    def ask(self, what: str, *args: Any) -> Any:
        """The answer to a question of clients."""


def site(view: View, token: str | None) -> Site:
    """The site; ``token`` is asked for unless it is None."""
    root = Resource()
    put: Any = root.putChild
    put(b"", _Text(lambda request: _INDEX, "text/html; charset=utf-8"))
    put(b"health", _Health(view))
    put(b"status", _Json(lambda request: view.ask("status")))
    put(b"incidents", _Json(lambda request: view.ask("incidents")))
    put(b"metrics", _Metrics(view))
    put(b"tasks", _Tasks(view))
    made = _Quiet(_Guard(root, token) if token is not None else root)  # type: ignore[no-untyped-call]
    made.displayTracebacks = False
    made.noisy = False
    return made


class _Quiet(Site):
    """Does not log requests: they come every few seconds, from Prometheus and load balancers."""

    def log(self, request: http.Request) -> None:
        """Log nothing."""


def _answer(request: Request, code: int, body: bytes, kind: str) -> bytes:
    request.setResponseCode(code)
    request.setHeader(b"Content-Type", kind.encode())
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"X-Content-Type-Options", b"nosniff")
    request.setHeader(b"Content-Security-Policy", b"default-src 'self'; style-src 'self' 'unsafe-inline'")
    return body


class _Guard(Resource):
    """Lets requests with the token through."""

    def __init__(self, inner: Resource, token: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner, self._token = inner, token

    def getChild(self, path: bytes, request: Request) -> Any:
        header = request.getHeader(b"authorization") or b""
        given = header[7:] if header[:7].lower() == b"bearer " else (request.args or {}).get(b"token", [b""])[0]
        if hmac.compare_digest(given, self._token.encode()):
            return self._inner.getChildWithDefault(path, request)
        return _Text(lambda request: "the token of this cluster is needed: ?token=…, or a bearer token\n", code=401)


class _Text(Resource):
    """A text that is made for each request."""

    isLeaf = True

    def __init__(self, make: Callable[[Request], str], kind: str = "text/plain; charset=utf-8", code: int = 200) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make, self._kind, self._code = make, kind, code

    def render_GET(self, request: Request) -> bytes:
        return _answer(request, self._code, self._make(request).encode(), self._kind)


class _Json(Resource):
    """Plain data; None is answered as not found."""

    isLeaf = True

    def __init__(self, make: Callable[[Request], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._make = make

    def render_GET(self, request: Request) -> bytes:
        found = self._make(request)
        body = json.dumps({"error": "not found"} if found is None else found, indent=1, default=str) + "\n"
        return _answer(request, 404 if found is None else 200, body.encode(), "application/json")


class _Health(Resource):
    isLeaf = True

    def __init__(self, view: View) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._view = view

    def render_GET(self, request: Request) -> bytes:
        why = self._view.health()
        return _answer(request, 503 if why else 200, f"{why or 'ok'}\n".encode(), "text/plain; charset=utf-8")


class _Metrics(Resource):
    isLeaf = True

    def __init__(self, view: View) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._view = view

    def render_GET(self, request: Request) -> bytes:
        try:
            from twistdist.web import metrics
        except ImportError as error:
            return _answer(request, 501, f"{error}\n".encode(), "text/plain; charset=utf-8")
        return _answer(request, 200, metrics.exposition(lambda: self._view.ask("status")), metrics.CONTENT_TYPE)


class _Tasks(Resource):
    """``/tasks/KEY``; a key may have slashes in it."""

    isLeaf = True

    def __init__(self, view: View) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._view = view

    def render_GET(self, request: Request) -> bytes:
        key = unquote("/".join(part.decode("utf-8", "replace") for part in request.postpath or []))
        return _Json(lambda request: self._view.ask("why", key)).render_GET(request)


_INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>twistdist</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:40rem;padding:0 1rem;color-scheme:light dark}</style>
<h1>twistdist scheduler</h1>
<ul><li><a href="status">status</a> (JSON)<li><a href="incidents">incidents</a> (JSON)<li><a href="health">health</a>
<li><a href="metrics">metrics</a> (Prometheus)<li>tasks/KEY: what became of a task (JSON)</ul>
"""
