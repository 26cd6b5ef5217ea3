"""The live page in a real browser, of a real cluster with real work, and a worker that is killed."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from urllib.parse import quote

import pytest

from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster, wait

VIEWS = ("now", "timeline", "incidents", "task", "data")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">/../'&amp;%2F?#x </script>"


def load(number):
    time.sleep(0.02)
    return bytes([number]) * 200_000


def clean(data):
    time.sleep(0.03)
    return data[:100_000]


def merge(*parts):
    time.sleep(0.05)
    return b"".join(parts)[:150_000]


def check(data):
    time.sleep(2.0)
    return len(data)


def parse(text):
    print("reading", text)
    print("this will not go well", file=sys.stderr)
    return int(text)


def through(gate):
    print("at the gate")
    with open(gate) as stream:
        word = stream.read()
    print("through it")
    return word


@contextlib.contextmanager
def host(name):
    """Workers that are started meanwhile take themselves to be on that host: what they need of others goes over TCP."""
    before = os.environ.get("TWISTDIST_HOST")
    os.environ["TWISTDIST_HOST"] = name
    try:
        yield
    finally:
        del os.environ["TWISTDIST_HOST"]
        if before is not None:
            os.environ["TWISTDIST_HOST"] = before


@pytest.fixture(scope="module")
def busy(http):
    """A cluster in trouble: a worker's machine was lost with values that were needed, a task failed, others wait."""
    with host("node-1"), LocalCluster(n_workers=2, slots=2, http=http) as cluster, Client(cluster) as client:
        with host("node-2"):
            cluster.scale(3)
            client.wait_for_workers(3, 60)
        loads = [client.submit(load, n, key=f"load-{n}") for n in range(24)]
        cleans = [client.submit(clean, data, key=f"clean-{n}") for n, data in enumerate(loads)]
        merged = [client.submit(merge, *cleans[n : n + 4], key=f"merge-{n // 4}") for n in range(0, 24, 4)]
        assert not wait(merged, 60).not_done
        dying = client.submit(os._exit, 3, key="dies on purpose", crash_limit=1)
        dying.exception(60)
        hostile = client.submit(parse, HOSTILE, key=HOSTILE)
        hostile.exception(60)
        lost = next(name for names in client.who_has(merged).values() for name in names if name != "w2")  # that is node-2
        cluster.kill_worker(lost, wipe=True)
        client.gather(merged, timeout=60)
        client.wait_for_workers(3, 60)
        kept = [loads, cleans, merged, hostile, dying, client.submit(parse, "1", resources={"gpu": 1}, key="needs-a-gpu")]
        yield cluster, client, kept


def opened(page, cluster, view="now"):
    page.goto(f"{cluster.dashboard_link}#{view}")
    page.locator("#connection.good").wait_for()
    return page.locator(f"#view-{view.partition('=')[0]}")


def test_now_says_what_runs_and_what_needs_attention(busy, page):
    cluster, client, _ = busy
    running = client.map(check, [b"x"] * 4)
    view = opened(page, cluster)
    attention = view.locator(".attention")
    attention.get_by_text("1 task can't run on any worker: it needs gpu=1, and none of 3 workers offers gpu.").wait_for()
    attention.get_by_role("link", name="needs-a-gpu").wait_for()
    attention.get_by_text("failed.").wait_for()
    attention.get_by_text(
        re.compile(r"minutes: 1 worker lost \(w\d, \d+ values?\), 1 task process died \(dies on purpose on w\d\)")
    ).wait_for()
    view.get_by_text(re.compile(r"^3 of 3 workers; \d+ of \d+ tasks done, 2 failed, 1 stuck, \d running\.$")).wait_for()
    assert "1 can't run" in view.locator(".tile.ready.stuck").inner_text()
    assert re.search(r"\d+ computed again because their value was lost, 0 started again", view.inner_text())
    host, asked = cluster.dashboard_link.split("/")[2], page.locator("#asked").inner_text()
    assert page.locator("#connection").inner_text() == f"connected to {host}"
    assert re.fullmatch(r"\d+ \w+,? (at )?\d\d:\d\d:\d\d \S+", asked), asked
    rows = view.get_by_role("table", name="Workers").get_by_role("row")
    assert rows.count() == 1 + 3 and "connected" in rows.nth(1).inner_text()
    progress = view.get_by_role("table", name="Functions").get_by_role("row", name=re.compile("^merge"))
    assert progress.get_by_role("cell").nth(2).inner_text() == "0"
    assert re.search(r"\d+ of \d+", progress.inner_text())
    until(lambda: page.evaluate("document.querySelector('.line').getAttribute('points').split(' ').length > 3"))
    assert "Tasks a second" in view.get_by_role("img").get_attribute("aria-label")
    client.gather(running, timeout=60)


def test_the_timeline_has_what_each_slot_ran_and_what_ran_again(busy, page):
    cluster, _, _ = busy
    view = opened(page, cluster, "timeline")
    table = view.get_by_role("table", name="runs")
    table.get_by_role("cell", name="run again").first.wait_for()
    table.get_by_role("cell", name="its process died").first.wait_for()
    canvas = view.locator("canvas")
    canvas.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    detail = view.locator(".detail")
    assert detail.get_by_role("link").count() == 1 and "paused" in view.locator(".toolbar").inner_text()
    before = view.locator(".toolbar span").inner_text()
    page.keyboard.press("+")
    until(lambda: view.locator(".toolbar span").inner_text() != before)
    drawn = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 === 3 && v)"
    assert canvas.evaluate(drawn), "something is drawn"
    transfers = view.get_by_role("table", name="transfers").get_by_role("row")
    assert transfers.count() > 1 and "KiB" in transfers.nth(1).inner_text()
    page.keyboard.press("ArrowUp")
    assert re.search(r"w\d fetched \d+ values? from w\d: .* KiB within", detail.inner_text())
    assert detail.get_by_role("link").count() == 1
    page.keyboard.press("End")
    view.get_by_role("button", name="Pause", pressed=False).wait_for()
    page.keyboard.press("+")


def test_an_incident_is_a_card_that_says_what_it_cost(busy, page):
    cluster, client, _ = busy
    [incident] = [one for one in client.incidents() if one.kind == "worker lost"]
    view = opened(page, cluster, "incidents")
    card = view.get_by_role("article").filter(has_text=f"worker lost: {incident.what}")
    assert incident.cause in card.inner_text() and "run again to bring them back" in card.inner_text()
    assert " 0 " not in card.inner_text()
    assert "The story of one of them" in card.inner_text() and card.get_by_role("link").count() == 1
    died = view.get_by_role("article").filter(has_text="task process died")
    assert "exit" in died.locator(".cause").inner_text()
    died.get_by_role("link", name="dies on purpose", exact=True).click()
    task = page.locator("#view-task")
    task.get_by_role("heading", name="How its processes died").wait_for()
    assert "failed" in task.locator(".facts").inner_text()


def test_a_task_has_its_story_its_lineage_and_what_if(busy, page):
    cluster, _, _ = busy
    view = opened(page, cluster, "task=merge-0")
    view.get_by_text("computed its value").first.wait_for()
    assert view.locator("svg.lineage a").count() == 9
    button = view.get_by_role("button", name="What if").first
    button.click()
    view.locator(".what-if p").first.wait_for()
    assert "would be" in view.locator(".what-if").first.inner_text()
    assert page.evaluate("document.activeElement.className") == "what-if", "it is read out"
    view.locator("svg.lineage a").filter(has_text="load-1").first.click()
    view.get_by_role("heading", name="load-1").wait_for()
    assert page.url.endswith("#task=load-1")


def test_what_a_running_task_has_written_is_shown_as_it_comes(busy, page, tmp_path):
    cluster, client, _ = busy
    gate = str(tmp_path / "gate")
    os.mkfifo(gate)
    running = client.submit(through, gate, key="goes through")
    view = opened(page, cluster, "task=goes through")
    view.get_by_text("stdout: at the gate").wait_for()
    with open(gate, "w") as stream:
        stream.write("open")
    assert running.result(60) == "open"
    view.get_by_text("stdout: through it").wait_for()


def test_data_says_where_values_are_and_what_a_death_would_cost(busy, page):
    cluster, client, _ = busy
    view = opened(page, cluster, "data")
    view.get_by_text(re.compile(r"only one copy, .* on one host only\.")).wait_for()
    workers, hosts = view.get_by_role("table", name="by worker"), view.get_by_role("table", name="by host")
    assert workers.get_by_role("row").count() == 4 and "MiB" in workers.inner_text()
    told = [hosts.get_by_role("row", name=name) for name in ("node-1", "node-2")]
    assert hosts.get_by_role("row").count() == 3 and "w0, w1" in told[0].inner_text() and "w2" in told[1].inner_text()
    hosts.get_by_role("button", name="What if node-1 died now?").click()
    told[0].get_by_text("on node-1 alone").wait_for()
    on_host = int(re.search(r"([\d,]+) values? (is|are) on node-1 alone", told[0].inner_text())[1])
    assert on_host == int(told[0].get_by_role("cell").nth(4).inner_text())
    most = max(client.has_what().items(), key=lambda held: len(held[1]))[0]
    view.get_by_role("button", name=f"What if {most} died now?").click()
    view.get_by_text(f"on {most} alone").wait_for()
    answer, total = view.locator(".what-if:visible").last.inner_text(), view.locator("p").first.inner_text()
    more = client.submit(load, 99, key="load-99")
    more.result(60)
    until(lambda: view.locator("p").first.inner_text() != total)
    assert view.locator(".what-if:visible").last.inner_text() == answer, "an answer stays"


def test_a_hostile_key_is_shown_as_text(busy, page):
    cluster, _, _ = busy
    view = opened(page, cluster)
    view.locator(".attention").get_by_role("link", name=HOSTILE).click()
    task = page.locator("#view-task")
    task.get_by_role("heading", name=HOSTILE).wait_for()
    assert "ValueError" in task.locator("pre").first.inner_text()
    opened(page, cluster, "timeline").get_by_role("link", name=HOSTILE).first.wait_for()
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert page.title() != "owned"


def test_a_task_that_failed_has_its_traceback_and_what_it_has_written(busy, page):
    cluster, client, _ = busy
    failing = [client.submit(parse, HOSTILE, key=f"{HOSTILE} again"), client.submit(parse, "12,50", key="parse-prices")]
    assert all(one.exception(60) for one in failing)
    view = opened(page, cluster, f"task={quote(failing[0].key)}")
    view.get_by_role("region", name="Output").get_by_text("stdout: reading <img").wait_for()
    view = opened(page, cluster, "task=parse-prices")
    lines = view.get_by_role("region", name="Output")
    lines.get_by_text("stdout: reading 12,50").wait_for()
    assert lines.locator(".stderr").inner_text().strip() == "stderr: this will not go well"
    assert "in parse" in view.locator("details pre").inner_text()


def test_a_tab_that_nobody_looks_at_gives_up_its_stream(busy, page):
    cluster, _, _ = busy
    page.clock.install()
    opened(page, cluster)
    hide = "hidden => {{ Object.defineProperty(document, 'hidden', {{ value: hidden, configurable: true }}); {} }}"
    hide = hide.format("document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate(hide, True)
    page.clock.run_for(31_000)
    page.get_by_text("paused while this tab is hidden").wait_for()
    page.evaluate(hide, False)
    page.locator("#connection.good").wait_for()


def test_a_page_that_is_refused_says_why_and_tries_again(busy, page):
    cluster, _, _ = busy
    page.route("**/live", lambda route: route.fulfill(status=503, body="200 pages are open already\n"))
    page.goto(cluster.dashboard_link)
    page.get_by_text("not connected, trying again: 200 pages are open already").wait_for()
    page.unroute("**/live")
    page.locator("#connection.good").wait_for()
    assert all("503" in text for text in page.troubles)
    page.troubles.clear()


def test_spans_get_a_lane_for_each_slot(busy, page):
    cluster, _, _ = busy
    opened(page, cluster)
    ends = "lanes => lanes.map(([name, own]) => [name, own.map(lane => lane.map(span => span[0]))])"
    call = f"""async ([spans, names, slots]) => {{
        const {{ lanesOf }} = await import("/static/lanes.js");
        return ({ends})(lanesOf(spans, names, new Map(slots)));
    }}"""

    def lanes(slots, *spans):
        rows = [[end, 0, worker, "f", count, "run", "k", start, count] for worker, start, end, count in spans]
        return page.evaluate(call, [rows, ["w0", "w1"], [["w0", slots]]])

    assert lanes(2, ("w0", 0, 5, 1), ("w0", 1, 2, 1), ("w0", 2, 3, 1)) == [["w0", [[5], [2, 3]]], ["w1", [[]]]]
    assert lanes(1, ("w0", 0, 5, 1), ("w0", 4.9, 6, 1))[0] == ["w0", [[5, 6]]], "its end was told late"
    assert lanes(1, ("w0", 0, 5, 1), ("w0", 1, 2, 1))[0] == ["w0", [[5], [2]]], "the first one has lent its slot"
    assert lanes(2, ("w0", 0, 5, 2))[0] == ["w0", [[5], [5]]], "several runs that ended together, on all slots"


def test_unknown_tasks_and_unreadable_addresses_are_told_in_words(busy, page):
    cluster, _, _ = busy
    view = opened(page, cluster, "task=no%2")
    view.get_by_text("no%2: not known").wait_for()
    page.get_by_label("Key of a task").fill("..")
    page.keyboard.press("Enter")
    view.get_by_text("..: not known").wait_for()
    assert page.troubles and all("404" in text for text in page.troubles)
    page.troubles.clear()
    assert opened(page, cluster, "nonsense=1").count() == 0 and page.locator("#view-now").is_visible()


def test_everything_can_be_reached_with_the_keyboard(busy, page):
    cluster, _, _ = busy
    opened(page, cluster)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    names = []
    for _ in VIEWS:
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.hash"))
    assert names == [f"#{view}" for view in VIEWS]
    page.keyboard.press("Enter")
    until(lambda: page.evaluate("document.activeElement.id") == "title-data")  # where reading continues
    assert page.locator("nav a[aria-current=page]").inner_text() == "Data"
    page.keyboard.press("Tab")
    assert "node-1" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.locator(".what-if p").first.wait_for()
    page.go_back()
    page.locator("#view-now").wait_for()


def test_the_focus_survives_what_is_new(busy, page):
    cluster, client, _ = busy
    view = opened(page, cluster)
    link = view.locator(".attention").get_by_role("link", name="What happened")
    link.focus()
    before = client.status()["tasks"]["failed"]
    failing = client.submit(parse, "x", key="fails-later")
    failing.exception(60)
    view.locator(".attention").get_by_text(f"{before + 1} tasks failed").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "What happened"


@pytest.mark.parametrize("view", [*VIEWS[:3], "task=merge-0", "data"])
def test_a_phone_needs_no_sideways_scrolling(busy, page, view):
    cluster, _, _ = busy
    page.set_viewport_size({"width": 320, "height": 640})
    opened(page, cluster, view)
    if view == "data":
        page.locator("#view-data button").first.click()
        page.locator(".what-if p").first.wait_for()
    if view.startswith("task"):
        page.locator("svg.lineage").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", [*VIEWS[:3], "task=merge-0", f"task={HOSTILE.replace('%', '%25')}", "data"])
def test_axe_finds_nothing_serious(busy, page, view, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    cluster, _, _ = busy
    page.emulate_media(color_scheme=scheme)
    opened(page, cluster, view)
    if view == "data":
        page.locator("#view-data button").first.click()
        page.locator(".what-if p").first.wait_for()
    if view.startswith("task"):
        page.locator("#view-task h3").wait_for()
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []


def test_an_open_page_survives_a_restart_of_the_scheduler(http, page):
    port = http.split(":")[1]
    with LocalCluster(n_workers=1, http=f"tcp:{int(port) + 1}:interface=127.0.0.1") as cluster, Client(cluster) as client:
        client.gather(client.map(abs, range(50)), timeout=60)
        opened(page, cluster)
        cluster.kill_scheduler()
        page.get_by_text("not connected, trying again").wait_for()
        cluster.start_scheduler()
        page.get_by_text("The scheduler was restarted at").wait_for(timeout=60_000)
        page.locator("#connection.good").wait_for()
        client.submit(abs, -1).result(60)
        page.get_by_role("button", name="Seen").click()
        assert page.get_by_text("The scheduler was restarted at").count() == 0
        assert all("ERR_" in text for text in page.troubles), page.troubles
        page.troubles.clear()


def test_beyond_loopback_the_token_is_kept_for_everything(http, page):
    port = http.split(":")[1]
    with LocalCluster(n_workers=1, http=f"tcp:{int(port) + 2}") as cluster, Client(cluster) as client:
        client.submit(abs, -1, key="here").result(60)
        opened(page, cluster)
        page.get_by_role("link", name="Data").click()
        page.get_by_role("button", name="What if").first.click()
        page.locator(".what-if p").first.wait_for()
        assert "token" not in page.evaluate("document.cookie"), "no script reads it"
        stranger = page.context.browser.new_context().new_page()
        assert stranger.goto(cluster.dashboard_link.partition("?")[0]).status == 401
        stranger.context.close()


def test_of_very_many_workers_those_in_trouble_are_shown_first(busy, page):
    cluster, _, _ = busy
    opened(page, cluster)
    names = page.evaluate("""async () => {
        const { workerRows, notShown } = await import("/static/now.js");
        const workers = Object.fromEntries([...Array(1000)].map((_, n) =>
            [`w${n}`, { state: n === 900 ? "suspect" : "connected" }]));
        const rows = workerRows({ workers }, worker => worker.state === "suspect");
        return [rows[0][0], rows[1][0], rows[11][0], rows.length, notShown({ workers }, rows)];
    }""")
    assert names == ["w900", "w0", "w10", 200, "… and 800 more"]
