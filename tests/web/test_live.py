"""The stream of snapshots, with an in-memory transport."""

from __future__ import annotations

import json

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from twistdist.web import live as live_module
from twistdist.web.live import MAX_SNAPSHOTS, MAX_STREAMS, Live
from twistdist.web.site import scheduler_pages, site


class View:
    """A scheduler that counts what it is asked."""

    def __init__(self):
        self.clock = Clock()
        self.clock.advance(100)
        self.asked = []
        self.broken = False

    def health(self):
        return ""

    def ask(self, what, *args):
        self.asked.append((what, *args))
        if self.broken:
            raise RuntimeError("broken for the test")
        return {"since": self.clock.seconds(), "text": "</script>\nevent: other"}

    def snapshots(self):
        return [args[0] for what, *args in self.asked if what == "snapshot"]


@pytest.fixture
def view():
    return View()


@pytest.fixture
def live(view):
    return Live(view.clock, lambda since: view.ask("snapshot", since))


class Page:
    """One browser's connection."""

    def __init__(self, view, live, *headers, token=None, interface="127.0.0.1", path="/live"):
        self.transport = StringTransport(IPv4Address("TCP", "127.0.0.1", 8787), IPv4Address("TCP", "127.0.0.1", 9))
        self.transport.abortConnection = self.transport.loseConnection
        factory = site(scheduler_pages(view, live), token, interface)
        factory.timeOut = None
        self.channel = factory.buildProtocol(None)
        self.channel.makeConnection(self.transport)
        lines = [f"GET {path} HTTP/1.1", *(headers or ["Host: 127.0.0.1:8787"]), "", ""]
        self.channel.dataReceived("\r\n".join(lines).encode())

    @property
    def code(self):
        return int(self.transport.value().split(b" ")[1])

    def events(self):
        """[(kind, data)] since the last time."""
        text = self.transport.value().decode()
        self.transport.clear()
        lines = [line for line in text.splitlines() if line.startswith(("event: ", "data: "))]
        pairs = zip(lines[::2], lines[1::2], strict=True)
        return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in pairs]

    def leave(self):
        from twisted.internet.error import ConnectionDone
        from twisted.python.failure import Failure

        self.channel.connectionLost(Failure(ConnectionDone()))


def test_the_first_event_has_the_history_and_later_ones_what_is_new(view, live):
    page = Page(view, live)
    assert page.code == 200 and b"text/event-stream" in page.transport.value() and b"retry: " in page.transport.value()
    assert [kind for kind, _ in page.events()] == ["history"]
    view.clock.advance(1)
    [(kind, told)] = page.events()
    assert kind == "snapshot" and told["since"] == 101 and view.snapshots() == [0, 100]


def test_one_snapshot_serves_all_pages(view, live):
    pages = [Page(view, live) for _ in range(50)]
    view.clock.advance(1)
    view.clock.advance(1)
    view.asked.clear()
    view.clock.advance(1)
    assert view.snapshots() == [102]
    assert all(page.events()[-1] == ("snapshot", {"since": 103, "text": "</script>\nevent: other"}) for page in pages)


def test_nothing_is_made_while_nobody_looks(view, live):
    page = Page(view, live)
    page.leave()
    view.asked.clear()
    view.clock.advance(10)
    assert view.asked == [] and view.clock.getDelayedCalls() == []
    assert [kind for kind, _ in Page(view, live).events()] == ["history"], "and it begins again"


def test_a_page_that_does_not_read_is_skipped_and_gets_what_it_missed(view, live):
    slow, quick = Page(view, live), Page(view, live)
    view.clock.advance(1)
    slow.events(), quick.events()
    slow.transport.producer.pauseProducing()
    for _ in range(3):
        view.clock.advance(1)
    assert len(quick.events()) == 3 and slow.events() == []
    slow.transport.producer.resumeProducing()
    view.asked.clear()
    view.clock.advance(1)
    assert sorted(view.snapshots()) == [101, 104] and [told["since"] for _, told in slow.events()] == [105]


def test_pages_that_missed_different_things_can_not_make_the_scheduler_slow(view, live):
    pages = []
    for _ in range(10):
        pages.append(Page(view, live))
        view.clock.advance(1)
        pages[-1].transport.producer.pauseProducing()
        pages[-1].events()
    for page in pages:
        page.transport.producer.resumeProducing()
    view.asked.clear()
    for _ in range(10):
        view.clock.advance(1)
        assert len(view.snapshots()) <= MAX_SNAPSHOTS
        view.asked.clear()
    assert all(page.events() for page in pages), "each has its turn"


def test_too_many_pages_are_refused_with_a_reason(view, live):
    pages = [Page(view, live) for _ in range(MAX_STREAMS)]
    late = Page(view, live)
    assert late.code == 503 and str(MAX_STREAMS).encode() in late.transport.value()
    pages[0].leave()
    assert Page(view, live).code == 200


def test_streams_end_when_the_scheduler_stops(view, live):
    page = Page(view, live)
    live.stop()
    assert page.transport.value().endswith(b"0\r\n\r\n") and view.clock.getDelayedCalls() == []


def test_an_error_in_a_snapshot_is_logged_and_ends_the_streams(view, live, monkeypatch):
    told = []
    monkeypatch.setattr(
        live_module.Live, "_log", type("Log", (), {"failure": lambda self, text, failure: told.append(failure)})()
    )
    page = Page(view, live)
    view.broken = True
    view.clock.advance(1)
    assert page.transport.value().endswith(b"0\r\n\r\n") and told[0].check(RuntimeError)
    view.broken = False
    assert [kind for kind, _ in Page(view, live).events()] == ["history"]


def test_pages_of_other_sites_do_not_use_up_the_streams(view, live):
    assert Page(view, live, "Host: 127.0.0.1", "Sec-Fetch-Site: cross-site").code == 403
    assert Page(view, live, "Host: 127.0.0.1", "Sec-Fetch-Site: same-origin").code == 200
