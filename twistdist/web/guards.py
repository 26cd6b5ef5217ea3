"""Who may ask: on loopback, requests that were meant for this machine; beyond it, those with the token of the cluster.

A page of another site can have a browser resolve its own host name to 127.0.0.1 (DNS rebinding), and would then read what the
scheduler answers.  Its requests still carry its name as ``Host``, which tells them apart.

The token is sent as a bearer header, as ``?token=``, or as a cookie that the first ``?token=`` sets: so the addresses of
scripts, styles, links and the event stream need not have it in them.  HttpOnly: no script reads it.  SameSite=Strict: no other
site's requests carry it.  The ports of a host share their cookies, so that the name has the port in it.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import Request

from twistdist.web.answers import Refusal

#: What a request with a foreign ``Host`` is told.
FOREIGN = (
    "this address is for this machine alone, and answers to 127.0.0.1, localhost and other IP addresses; a request "
    "for another host may come from a page that wants to read it through your browser (DNS rebinding).  "
    "A proxy in front should send the header Host: localhost"
)


class TokenGuard(Resource):
    """Lets requests with the token through, and those for /health."""

    def __init__(self, inner: Resource, token: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner, self._token = inner, token.encode()

    def getChild(self, path: bytes, request: Request) -> Any:
        """Called by twisted.web."""
        if path == b"health":
            return self._inner.getChildWithDefault(path, request)  # load balancers and Kubernetes know no token
        header = request.getHeader(b"authorization") or b""
        cookie = b"twistdist_token_%d" % getattr(request.getHost(), "port", 0)
        asked = (request.args or {}).get(b"token", [b""])[0]
        if self._is_token(asked):
            request.addCookie(cookie, self._token, path=b"/", httpOnly=True, sameSite=b"Strict", secure=request.isSecure())
        elif not self._is_token(header[7:] if header[:7].lower() == b"bearer " else request.getCookie(cookie) or b""):
            return Refusal(401, "the token of this cluster is needed: ?token=…, or a bearer token")
        return self._inner.getChildWithDefault(path, request)

    def _is_token(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self._token)


class HostGuard(Resource):
    """Lets requests through whose ``Host`` is an IP address, localhost, or ``interface``."""

    def __init__(self, inner: Resource, interface: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner, self._names = inner, ("", "localhost", interface)  # without Host: no browser

    def getChild(self, path: bytes, request: Request) -> Any:
        """Called by twisted.web."""
        if _is_address(name := _host_of(request)) or name in self._names:
            return self._inner.getChildWithDefault(path, request)
        return Refusal(403, FOREIGN)


def _host_of(request: Request) -> str:
    """The ``Host`` of a request, without port and brackets."""
    host = (request.getHeader(b"host") or b"").decode("latin-1").lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
