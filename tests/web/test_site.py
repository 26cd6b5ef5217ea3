"""What is served, and to whom."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

import twistdist.web
from twistdist.web import connections
from twistdist.web.connections import Bounded
from twistdist.web.links import interface_of, link_of
from twistdist.web.live import Live
from twistdist.web.site import scheduler_pages, site

STATIC = pathlib.Path(twistdist.web.__file__).parent / "static"


class View:
    """A scheduler that knows one task, whose key is as bad as keys get."""

    KEY = "a/%2F//../<b>\"'&?#é "

    def health(self):
        return ""

    def ask(self, what, *args):
        if what == "what_if" and args != ("w0",):
            raise ValueError("no worker of this cluster is named that")
        if what == "lineage":
            return [[self.KEY, "f", "done", [], ["w0"]]] if args == (self.KEY,) else []
        return {"asked": args} if args in ((self.KEY,), ("..",), ("w0",)) else None


def get(path, *headers, token=None, interface="127.0.0.1", method="GET"):
    """(code, headers, body)"""
    view = View()
    factory = site(scheduler_pages(view, Live(None, lambda since: {})), token, interface)
    factory.timeOut = None
    channel, transport = factory.buildProtocol(None), StringTransport()
    channel.makeConnection(transport)
    channel.dataReceived("\r\n".join([f"{method} {path} HTTP/1.0", *headers, "", ""]).encode())
    head, _, body = transport.value().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {line.split(": ")[0].lower(): line.split(": ", 1)[1] for line in lines}, body


def test_the_page_and_its_files_are_served_and_kept_by_browsers():
    code, headers, body = get("/")
    assert code == 200 and headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(rb'(?:src|href)="(static/[^"]+)"', body)
    assert len(named) >= 3
    for name in [path.name for path in STATIC.iterdir() if path.name != "index.html"]:
        code, headers, body = get(f"/static/{name}")
        assert code == 200 and body == (STATIC / name).read_bytes() and headers["cache-control"] == "no-cache"
        assert get(f"/static/{name}", f"If-None-Match: {headers['etag']}")[::2] == (304, b"")
    assert get("/static/nothing")[0] == get("/static/../site.py")[0] == get("/static/")[0] == 404


def test_the_page_is_small_and_asks_no_other_host():
    texts = [path.read_text() for path in STATIC.iterdir()]
    assert sum(len(text.encode()) for text in texts) <= 100_000
    for text in texts:
        assert set(re.findall(r"https?://[^\"' ]*", text)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text)
    page = (STATIC / "index.html").read_text()
    assert " style=" not in page and "<style" not in page and not re.search(r"\son\w+=", page)


def test_the_policy_lets_nothing_inline_run():
    policy = get("/")[1]["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy


def test_keys_are_taken_as_they_are():
    from urllib.parse import quote

    for path in (f"/tasks/{quote(View.KEY, safe='')}", f"/tasks/{quote(View.KEY)}", f"/tasks?name={quote(View.KEY)}"):
        assert json.loads(get(path)[2]) == {"asked": [View.KEY]}, path
    assert json.loads(get("/tasks?name=..")[2]) == {"asked": [".."]}
    assert get("/tasks/unknown")[0] == get("/lineage/unknown")[0] == 404
    assert json.loads(get(f"/lineage?name={quote(View.KEY)}")[2])[0][0] == View.KEY
    assert get("/what-if?name=w0")[0] == 200
    code, _, body = get("/what-if?name=w1")
    assert code == 400 and "no worker" in json.loads(body)["error"]


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "localhost", "LOCALHOST:1", "[::1]:8787", "10.0.0.1", "node.example:8787"])
def test_requests_for_this_machine_are_answered(host):
    assert get("/health", f"Host: {host}", interface="node.example")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8787", "127.0.0.1.evil.example", "localhost.evil.example", "[evil]"]
)
def test_requests_for_other_hosts_are_refused_with_a_reason(host):
    for path in ("/", "/status", "/live", "/static/main.js"):
        code, _, body = get(path, f"Host: {host}")
        assert code == 403 and b"DNS rebinding" in body
    assert get("/health", f"Host: {host}", interface=None)[0] == 200, "a proxy in front of a socket file sends what it likes"
    assert get("/health", f"Host: {host}", "Authorization: Bearer secret", token="secret")[0] == 200, "the token guards"
    assert get("/health", f"Host: {host}", token="secret")[0] == 200, "a probe knows no token"
    assert get("/status", f"Host: {host}", token="secret")[0] == 401


def test_the_token_is_asked_for_once_and_kept_in_a_cookie():
    assert (
        get("/", token="secret")[0]
        == get("/?token=other", token="secret")[0]
        == get("/static/main.js", token="secret")[0]
        == 401
    )
    code, headers, _ = get("/?token=secret", token="secret")
    cookie = headers["set-cookie"]
    assert code == 200 and "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    pair = cookie.partition(";")[0]
    assert get("/static/main.js", f"Cookie: {pair}", token="secret")[0] == 200
    assert get("/static/main.js", f"Cookie: {pair}x", token="secret")[0] == 401
    assert "set-cookie" not in get("/health", "Authorization: Bearer secret", token="secret")[1]


def test_connections_are_bounded(monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    factory = Bounded(site(scheduler_pages(View(), Live(None, lambda since: {})), None, None))
    taken = [factory.buildProtocol(None) for _ in range(2)]
    for protocol in taken:
        protocol.makeConnection(StringTransport())
    assert factory.buildProtocol(None) is None
    taken[0].connectionLost(Failure(ConnectionDone()))
    assert factory.buildProtocol(None) is not None
    taken[1].connectionLost(Failure(ConnectionDone()))


@pytest.mark.parametrize(
    "endpoint, interface, link",
    [
        ("tcp:8787:interface=127.0.0.1", "127.0.0.1", "http://127.0.0.1:8787/"),
        (r"tcp:8787:interface=\:\:1", "::1", "http://[::1]:8787/"),
        (r"tcp:8787:interface=\:\:", "::", "http://[::1]:8787/?token="),
        ("tcp:8787", "", "http://127.0.0.1:8787/?token="),
    ],
)
def test_a_link_names_the_host_of_its_endpoint(endpoint, interface, link):
    assert interface_of(endpoint) == interface and link_of(endpoint, 8787) == link
