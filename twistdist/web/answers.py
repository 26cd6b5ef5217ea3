"""How every answer is sent: headers that keep a browser from doing more with it than to show it."""

from __future__ import annotations

from twisted.web.resource import Resource
from twisted.web.server import Request

TEXT = "text/plain; charset=utf-8"

#: The page runs its own script and style sheet, talks to its own scheduler, and is shown in no other page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def answer(request: Request, code: int, body: bytes, kind: str, caching: str = "no-store") -> bytes:
    """Set code and headers, and return the body."""
    request.setResponseCode(code)
    for name, value in (
        ("Content-Type", kind),
        ("Cache-Control", caching),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", POLICY),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),  # the address may have the token in it
    ):
        request.setHeader(name.encode(), value.encode())
    return body


def refusal(request: Request, code: int, why: str) -> bytes:
    """A refusal that says why."""
    return answer(request, code, f"{why}\n".encode(), TEXT)


class Folder(Resource):
    """Refuses what it has not, in plain words."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Called by twisted.web."""
        return Refusal(404, "nothing is served at this address")


class Refusal(Resource):
    """Refuses whatever is asked."""

    isLeaf = True

    def __init__(self, code: int, why: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._code, self._why = code, why

    def render(self, request: Request) -> bytes:
        """Called by twisted.web."""
        return refusal(request, self._code, self._why)
