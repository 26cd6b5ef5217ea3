"""A report in a real browser: opened as a file, without a network, of a real cluster with a real kill and a restart."""

from __future__ import annotations

import os
import re
import sys

import pytest

from tests.browser.test_page import HOSTILE, clean, host, load, merge, parse
from tests.integration.habits import until
from tests.integration.test_reports import looks
from twistdist.blocking import Client, LocalCluster, wait

VIEWS = ("summary", "timeline", "incidents", "task")

ODD = "key with \u2028 and \"'</script>"


def forget(number):
    print("nobody keeps this future", number, file=sys.stderr)
    raise RuntimeError(f"number {number}")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(report of a block, report of what the scheduler remembers) of a pipeline that lost a worker and its scheduler."""
    folder = tmp_path_factory.mktemp("reports")
    with (
        looks() as looked,
        host("node-1"),
        LocalCluster(n_workers=2, slots=2) as cluster,
        Client(cluster) as client,
    ):
        with host("node-2"):
            cluster.scale(3)
            client.wait_for_workers(3, 60)
        assert client.submit(abs, -1, key="before the block").result(60) == 1
        with pytest.raises(KeyError), client.recording(folder / "run.html"):
            with client.group('the "nightly" run'):
                loads = [client.submit(load, n, key=f"load-{n}") for n in range(24)]
                cleans = [client.submit(clean, data, key=f"clean-{n}") for n, data in enumerate(loads)]
                merged = [client.submit(merge, *cleans[n : n + 4], key=f"merge-{n // 4}") for n in range(0, 24, 4)]
                assert not wait(merged, 60).not_done
            hostile = client.submit(parse, HOSTILE, key=HOSTILE)
            assert hostile.exception(60) and client.submit(forget, 3, key=ODD).exception(60)
            client.submit(os._exit, 3, key="dies on purpose", crash_limit=1).exception(60)
            looked()  # what they have written is lost with their workers
            lost = next(name for names in client.who_has(merged).values() for name in names if name != "w2")
            cluster.kill_worker(lost, wipe=True)
            client.gather(merged, timeout=60)
            until(lambda: [one for one in client.incidents() if one.kind == "worker lost"])
            looked()
            cluster.kill_scheduler()
            cluster.start_scheduler()
            client.gather([client.submit(clean, data) for data in loads], timeout=60)
            raise KeyError("what </script> ended the block")
        client.gather([client.submit(abs, -number) for number in range(10)], timeout=60)
        yield folder / "run.html", client.report(folder / "all.html")


@pytest.fixture
def offline(page):
    """A page of a browser without a network; what it asks for is noted."""
    page.context.set_offline(True)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    return page


def opened(page, path, view="summary"):
    page.goto(f"file://{path}#{view}")
    section = page.locator(f"#view-{view.partition('=')[0]}")
    section.wait_for()
    return section


def cells(view, table, row):
    return view.get_by_role("table", name=table).get_by_role("row", name=row).get_by_role("cell").all_inner_texts()


def test_a_report_opens_by_itself(recorded, offline):
    run, _ = recorded
    view = opened(offline, run)
    text = view.inner_text()
    assert "ended with an error: KeyError: 'what </script> ended the block'" in text
    assert re.search(r"restarted once, (at|between [\d:]+ and) [\d:]+\. What happened then is not in this report", text)
    assert re.search(r"\d faults: 1 worker lost \(w\d, \d+ values?\), .*1 task process died \(dies on purpose on w\d\)", text)
    assert "3 workers" in text and "2 hosts" in text
    assert re.search(r"Python \d.*, Twisted", text) and "before the block" not in run.read_text()
    assert offline.asked == [f"file://{run}"] or offline.asked == [f"file://{run}#summary"]
    assert "twistdist report of 20" in offline.title()


def test_the_cost_of_each_function_and_group_is_that_of_the_block(recorded, offline):
    run, _ = recorded
    view = opened(offline, run)
    runs, _, mean, again, failed = cells(view, "Cost by function", re.compile("^load"))
    assert int(runs) == 24 + int(again) and int(again) >= 1 and failed == "0" and mean.endswith("s")
    assert cells(view, "Cost by function", re.compile("^parse"))[::4] == ["1", "1"]
    assert view.get_by_role("row", name=re.compile("^abs")).count() == 0, "it ran before the block"
    assert int(cells(view, "Cost by group", 'the "nightly" run')[0]) >= 54


def test_the_timeline_is_that_of_the_live_page(recorded, offline):
    run, _ = recorded
    view = opened(offline, run, "timeline")
    table = view.get_by_role("table", name="longest")
    assert table.get_by_role("row").count() == 51 and table.get_by_text("run again").count() > 0
    assert view.get_by_role("table", name="transfers").get_by_role("row").count() > 1
    canvas = view.locator("canvas")
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v)"
    until(lambda: canvas.evaluate(drawn))
    shown = view.locator(".toolbar span")
    before = shown.inner_text()
    view.get_by_role("button", name="Zoom in").click()
    until(lambda: shown.inner_text() != before)
    canvas.focus()
    offline.keyboard.press("ArrowLeft")
    assert re.search(r"on w\d: ", view.locator(".detail").inner_text())
    offline.keyboard.press("End")
    until(lambda: shown.inner_text() == before)
    assert view.get_by_role("button", name="Pause").count() == 0


def test_incidents_lead_to_the_stories_of_their_tasks(recorded, offline):
    run, _ = recorded
    view = opened(offline, run, "incidents")
    lost = view.get_by_role("article").filter(has_text="worker lost")
    assert "run again to bring them back" in lost.inner_text() and "after the beginning" in lost.inner_text()
    lost.get_by_role("link").click()
    offline.locator("#view-task .events").get_by_text("its only copy was lost").first.wait_for()
    view = opened(offline, run, "incidents")
    view.get_by_role("link", name="dies on purpose", exact=True).first.click()
    task = offline.locator("#view-task")
    task.get_by_role("heading", name="How its processes died").wait_for()
    assert "exit" in task.locator("pre").first.inner_text() and task.get_by_role("button", name="What if").count() == 0


def test_what_was_forgotten_meanwhile_has_a_story_with_its_output_and_traceback(recorded, offline):
    run, _ = recorded
    opened(offline, run).get_by_role("link", name=re.compile("^key with")).click()
    task = offline.locator("#view-task")
    task.get_by_text("stderr: nobody keeps this future 3").wait_for()
    assert "RuntimeError: number 3" in task.locator("pre").first.inner_text()
    assert "in forget" in task.locator("details pre").inner_text()
    assert task.locator(".events li").count() >= 2


def test_nothing_in_a_report_becomes_markup(recorded, offline):
    run, _ = recorded
    opened(offline, run).get_by_role("link", name=HOSTILE).first.click()
    offline.locator("#view-task").get_by_role("heading", name=HOSTILE).wait_for()
    for view in VIEWS:
        opened(offline, run, view)
    assert offline.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert offline.title() != "owned" and len(offline.asked) <= 1 + len(VIEWS)


def test_tasks_that_have_no_story_are_told_in_words(recorded, offline):
    run, _ = recorded
    view = opened(offline, run, "task=clean%2")
    view.get_by_text("clean%2: not in this report").wait_for()
    offline.get_by_label("Key of a task").fill("load-0 ")
    offline.keyboard.press("Enter")
    view.get_by_text("not in this report").wait_for()
    opened(offline, run, "task").get_by_role("link", name="dies on purpose").wait_for()


def test_a_report_has_what_the_scheduler_remembers(recorded, offline):
    _, everything = recorded
    view = opened(offline, everything)
    assert "what the scheduler remembered" in view.inner_text() and "ended with" not in view.inner_text()
    assert int(cells(view, "Cost by function", re.compile("^abs"))[0]) >= 10
    assert view.get_by_role("row", name=re.compile("^w2")).inner_text().split()[1] == "connected"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", [*VIEWS, "task=dies%20on%20purpose"])
def test_axe_finds_nothing_serious_in_a_report(recorded, offline, view, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    run, _ = recorded
    offline.emulate_media(color_scheme=scheme)
    opened(offline, run, view)
    if view.startswith("task="):
        offline.locator("#view-task h3").wait_for()
    found = axe.Axe().run(offline).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_report_needs_no_sideways_scrolling_on_a_phone(recorded, offline, view):
    run, _ = recorded
    offline.set_viewport_size({"width": 320, "height": 640})
    opened(offline, run, view)
    assert offline.evaluate("document.documentElement.scrollWidth") <= 320


def test_a_report_is_reached_with_the_keyboard(recorded, offline):
    run, _ = recorded
    opened(offline, run)
    offline.keyboard.press("Tab")
    assert offline.evaluate("document.activeElement.id") == "skip"
    names = []
    for _ in VIEWS:
        offline.keyboard.press("Tab")
        names.append(offline.evaluate("document.activeElement.hash"))
    assert names == [f"#{view}" for view in VIEWS]
    offline.keyboard.press("Enter")
    until(lambda: offline.evaluate("document.activeElement.id") == "title-task")
