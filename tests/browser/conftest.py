"""A headless Chromium, as the system has it, driven by Playwright's Python package; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import socket

import pytest

CHROMIUM = os.environ.get("TWISTDIST_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'twistdist[test-browser]'")
    if not CHROMIUM:
        pytest.skip("no Chromium is installed (Debian: apt install chromium), and TWISTDIST_CHROMIUM names none")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page on which nothing may go wrong that the console tells of, such as a violation of the policy."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(30_000)
    opened, troubles = context.new_page(), []
    opened.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.troubles = troubles
    yield opened
    context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def http():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp:{free.getsockname()[1]}:interface=127.0.0.1"
