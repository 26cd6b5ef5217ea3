"""The files of the live page: package data, read once, and sent again only when they have changed."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

from twisted.web import http
from twisted.web.resource import Resource
from twisted.web.server import Request

from twistdist.web.answers import Folder, answer

KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def put_page(root: Resource) -> None:
    """Put the page at ``/``, and its scripts, style sheet and icon at ``/static/NAME``."""
    static: Any = Folder()  # type: ignore[no-untyped-call]
    put: Any = root.putChild
    for file in files("twistdist.web").joinpath("static").iterdir():
        kind = KINDS.get(file.name.rpartition(".")[2])
        if kind is not None:
            static.putChild(file.name.encode(), _File(file.read_bytes(), kind))
    put(b"static", static)
    put(b"", static.children.pop(b"index.html"))


class _File(Resource):
    """One file.  Browsers keep it and ask each time whether it is still the same, so that an upgrade is never mixed."""

    isLeaf = True

    def __init__(self, body: bytes, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._body, self._kind = body, kind
        self._tag = b'"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()

    def render_GET(self, request: Request) -> bytes:
        answer(request, 200, b"", self._kind, caching="no-cache")
        return b"" if request.setETag(self._tag) is http.CACHED else self._body
