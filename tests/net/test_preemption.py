"""Notices that a machine is taken away, from a real HTTP server."""

from __future__ import annotations

import http.server
import threading
import time

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher

from twistdist.net import preemption
from twistdist.net.preemption import Preemption, notice_in

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    "body, left",
    [
        (b"FALSE", None),
        (b"false\n", None),
        (b"NONE", None),
        (b"", None),
        (b"TRUE", 30.0),
        (b"TERMINATE_ON_HOST_MAINTENANCE", 30.0),
        (b'{"action": "terminate", "time": "2027-01-15T08:02:00Z"}', 120.0),
        (b'{"action": "terminate", "time": "2027-01-15T07:00:00Z"}', 30.0),  # a clock is wrong
        (b'{"action": "terminate", "time": "2028-01-15T07:00:00Z"}', 30.0),
        (b'{"action": "terminate", "time": "soon"}', 30.0),
        (b'{"DocumentIncarnation": 1, "Events": []}', None),
        (b'{"Events": [{"EventType": "Reboot", "NotBefore": ""}]}', None),
        (b'{"Events": [{"EventType": "Preempt", "NotBefore": "Fri, 15 Jan 2027 08:00:40 GMT"}]}', 40.0),
        (b'{"Events": [{"EventType": "Preempt", "NotBefore": ""}, 5]}', 30.0),
        (b"[1, 2]", 30.0),
        (b"\xff\xfe", 30.0),
    ],
)
def test_what_is_a_notice(body, left):
    assert notice_in(body, NOW, 30.0) == left


class Server:
    """Answers each request with the next of ``answers`` (status, body); the last one repeats."""

    def __init__(self, *answers, token=""):
        self.answers, self.token, self.seen = list(answers), token, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self, status, body):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_PUT(self):
                outer.seen.append(("PUT", self.path, self.headers["X-aws-ec2-metadata-token-ttl-seconds"]))
                self._answer(200 if outer.token else 404, outer.token.encode())

            def do_GET(self):
                outer.seen.append(("GET", self.path, self.headers["Metadata-Flavor"]))
                if outer.token and self.headers["X-aws-ec2-metadata-token"] != outer.token:
                    self._answer(401, b"")
                else:
                    self._answer(*(outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]))

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/latest/meta-data/spot/instance-action"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(preemption, "POLL_S", 0.05)
    servers = []

    def start(*answers, **options):
        servers.append(Server(*answers, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def asked(url, headers=None):
    """(the Deferred of the notice, the poller)."""
    told = Deferred()
    poller = Preemption(reactor, url, headers or {}, 30.0, told.callback)
    poller.start()
    return told.addTimeout(60, reactor), poller


@pytest_twisted.inlineCallbacks
def test_a_machine_of_google(serve):
    server = serve((200, b"FALSE"), (200, b"FALSE"), (200, b"TRUE"))
    told, _ = asked(server.url, {"Metadata-Flavor": "Google"})
    assert (yield told) == 30.0
    assert [what[2] for what in server.seen] == ["Google"] * 3  # and no question after the notice


@pytest_twisted.inlineCallbacks
def test_a_machine_of_aws_that_wants_a_token(serve):
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
    server = serve(
        (404, b""), (404, b""), (200, b'{"action": "terminate", "time": "%s"}' % when.encode()), token="secret-token"
    )
    told, _ = asked(server.url)
    assert 60 < (yield told) <= 120
    assert [what[1] for what in server.seen if what[0] == "PUT"] == ["/latest/api/token"]
    assert server.seen[1][2] == "21600"


@pytest_twisted.inlineCallbacks
def test_troubles_are_logged_once_and_do_not_end_the_questions(serve):
    lines = []

    def observe(event):
        if event.get("log_namespace") == "twistdist.net.preemption.Preemption":
            lines.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    try:
        large = (200, b"x" * (preemption.MAX_ANSWER_BYTES + 1))
        server = serve((500, b""), (500, b""), (500, b""), large, large, (404, b""), (200, b"TRUE"))
        told, _ = asked(server.url)
        yield told
    finally:
        globalLogPublisher.removeObserver(observe)
    assert [line.partition(": ")[2] for line in lines[:2]] == [
        "its answer has the status 500",
        "its answer has more than 65536 bytes",
    ]
    assert len(lines) == 3 and lines[2].endswith("again")


@pytest_twisted.inlineCallbacks
def test_a_server_that_is_not_there_and_an_end(serve):
    server = serve((200, b"FALSE"))
    told, poller = asked(server.url.replace("127.0.0.1", "127.0.0.2"))  # nobody listens at that address
    while not poller._trouble:
        yield _turn()
    assert "refused" in poller._trouble
    poller.stop()
    told.cancel()
    yield told.addErrback(lambda failure: None)
    assert not [call for call in reactor.getDelayedCalls() if call.func == poller.start]


def _turn():
    turned = Deferred()
    reactor.callLater(0.01, turned.callback, None)
    return turned
