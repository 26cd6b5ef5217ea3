"""The pictures of the documentation, of a cluster that had a bad day; made again if TWISTDIST_MAKE_IMAGES is set."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import time

import pytest

from tests.browser.test_page import check, clean, host, load, merge, opened, parse
from tests.browser.test_report import opened as opened_report
from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster, wait

IMAGES = pathlib.Path(__file__).parents[2] / "docs" / "images"

pytestmark = pytest.mark.skipif(not os.environ.get("TWISTDIST_MAKE_IMAGES"), reason="makes pictures, and checks nothing")


def convert(photo):
    time.sleep(0.1)
    os._exit(photo)  # as a library that is written in C would do it


def pipeline(client):
    loads = [client.submit(load, n, key=f"load-{n}") for n in range(24)]
    cleans = [client.submit(clean, data, key=f"clean-{n}") for n, data in enumerate(loads)]
    merged = [client.submit(merge, *cleans[n : n + 4], key=f"merge-{n // 4}") for n in range(0, 24, 4)]
    assert not wait(merged, 60).not_done
    return loads, cleans, merged


def lose(cluster, client, merged):
    """Kill a worker of node-1 that has values which are needed."""
    known = len([one for one in client.incidents() if one.kind == "worker lost"])
    lost = next(name for names in client.who_has(merged).values() for name in names if name != "w2")
    cluster.kill_worker(lost, wipe=True)
    client.gather(merged, timeout=60)
    until(lambda: len([one for one in client.incidents() if one.kind == "worker lost"]) > known)
    client.wait_for_workers(3, 60)


@contextlib.contextmanager
def three_workers(**options):
    with host("node-1"), LocalCluster(n_workers=2, slots=2, **options) as cluster, Client(cluster) as client:
        with host("node-2"):
            cluster.scale(3)
            client.wait_for_workers(3, 60)
        yield cluster, client


def picture(page, name, before):
    """A picture from the top of the page to what comes ``before``: a locator."""
    IMAGES.mkdir(exist_ok=True)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.set_viewport_size({"width": 1000, "height": 3000})
    page.wait_for_timeout(300)  # a frame, for what is drawn on a canvas
    height = int(before.bounding_box()["y"]) - 8
    page.screenshot(path=IMAGES / f"live-{name}.png", clip={"x": 0, "y": 0, "width": 1000, "height": height})


def test_pictures_of_the_live_page(http, page):
    with three_workers(http=http) as (cluster, client):
        opened(page, cluster)  # so that it sees the throughput
        loads, cleans, merged = pipeline(client)
        others = [client.submit(convert, 3, key="convert-photo", crash_limit=1)]
        assert others[0].exception(60)
        lose(cluster, client, merged)
        others.append(client.submit(parse, "12,50", key="parse-prices"))  # what it writes must not be lost with a worker
        assert others[1].exception(60)
        others.append(client.submit(parse, "1", resources={"gpu": 1}, key="train-model"))
        until(lambda: [one for one in client.incidents() if one.kind == "tasks wait"])
        view = page.locator("#view-now")
        running = client.map(check, [b"x"] * 5)
        view.locator(".lead").get_by_text("5 running").wait_for()
        picture(page, "now", view.get_by_role("heading", name="Scheduler"))
        client.gather(running, timeout=60)
        view = opened(page, cluster, "timeline")
        for _ in range(2):
            view.get_by_role("button", name="Zoom in").click()
        view.get_by_role("table", name="runs").wait_for()
        picture(page, "timeline", view.get_by_role("table", name="runs"))
        view = opened(page, cluster, "incidents")
        view.get_by_text("run again to bring them back").wait_for()
        picture(page, "incidents", page.locator("footer"))
        key = next(key for key in (one.key for one in merged) if len(client.why(key).events) > 3)
        view = opened(page, cluster, f"task={key}")
        view.get_by_role("button", name="What if").first.click()
        view.locator(".what-if p").first.wait_for()
        picture(page, "task", page.locator("footer"))
        view = opened(page, cluster, "task=parse-prices")
        view.get_by_text("stdout: reading 12,50").wait_for()
        hide = "(pre, path) => { pre.textContent = pre.textContent.replace(path, 'prices.py'); }"
        view.locator("details pre").evaluate(hide, parse.__code__.co_filename)  # where this repository happens to be
        picture(page, "output", view.get_by_role("heading", name="Inputs"))
        view = opened(page, cluster, "data")
        view.get_by_role("button", name="What if node-1 died now?").click()
        view.get_by_text("on node-1 alone").wait_for()
        picture(page, "data", page.locator("footer"))
        del loads, cleans


def test_pictures_of_a_report(tmp_path, page):
    with three_workers() as (cluster, client), contextlib.suppress(ValueError), client.recording(tmp_path / "run.html"):
        with client.group("nightly"):
            kept = pipeline(client)
        convert_photo = client.submit(convert, 3, key="convert-photo", crash_limit=1)
        convert_photo.exception(60)
        lose(cluster, client, kept[2])
        cluster.kill_scheduler()
        cluster.start_scheduler()
        client.gather(client.map(check, [b"x"] * 5), timeout=60)
        client.submit(parse, "12,50", key="parse-prices").result(60)
    view = opened_report(page, tmp_path / "run.html")
    picture(page, "report", view.get_by_role("heading", name="Workers"))
    view = opened_report(page, tmp_path / "run.html", "timeline")
    picture(page, "report-timeline", view.get_by_role("table", name=re.compile("runs")))
