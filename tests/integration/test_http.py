"""What a scheduler shows over HTTP."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from tests.integration import test_twistd
from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster
from twistdist.errors import TaskCrashed, TimeLimitExceeded, TwistdistError
from twistdist.web import metrics

MONITORING = pathlib.Path(__file__).parents[2] / "examples" / "monitoring"


#: What a worker says of itself before it has done anything.
WORKER_NUMBERS = {
    "name": "a",
    "slots": 1,
    "executors": {"alive": 1, "starting": 0},
    "executors_bytes": 1,
    "attempts": {"value": 0},
    "deaths": {"signal": 0},
    "stored_bytes": {"memory": 0},
    "stored_results": 0,
    "fetched_bytes": 0,
    "served_bytes": 0,
    "lag": 0.0,
    "silence": 0.0,
    "connected": True,
}

shells = test_twistd.shells


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def fetch(link, path="", **headers):
    """(status, text)."""
    base, _, query = link.partition("?")
    request = urllib.request.Request(f"{base}{path}{'?' + query if query else ''}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def served():
    with LocalCluster(n_workers=1, http=f"tcp:{free_port()}:interface=127.0.0.1") as running:
        yield running


def test_health_status_and_the_first_page(served):
    assert fetch(served.dashboard_link, "health") == (200, "ok\n")
    status = json.loads(fetch(served.dashboard_link, "status")[1])
    assert list(status["workers"]) == list(served.workers) and status["journal"]["state"] == "ok"
    assert "<h1>" in fetch(served.dashboard_link)[1] and fetch(served.dashboard_link, "nothing")[0] == 404


def test_the_story_of_a_task_and_the_incidents(served):
    with Client(served) as client:
        future = client.submit(divmod, 1, 0, key="a/b c")
        assert isinstance(future.exception(60), ZeroDivisionError)
        code, text = fetch(served.dashboard_link, "tasks/a/b%20c")
        assert code == 200 and json.loads(text)["state"] == "failed" and "ZeroDivisionError" in json.loads(text)["error"]
    assert fetch(served.dashboard_link, "tasks/unknown")[0] == 404
    assert isinstance(json.loads(fetch(served.dashboard_link, "incidents")[1]), list)


def test_metrics_follow_the_conventions_and_count(served):
    from prometheus_client.parser import text_string_to_metric_families

    with Client(served) as client:
        client.gather(client.map(abs, range(20)))
        with client.group('a "group"'):
            assert isinstance(client.submit(divmod, 1, 0).exception(60), ZeroDivisionError)
        code, text = fetch(served.dashboard_link, "metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert code == 200 and families["twistdist_done"].samples[0].value >= 20
    assert families["twistdist_done"].samples[0].name == "twistdist_done_total"
    assert {sample.labels["state"]: sample.value for sample in families["twistdist_workers"].samples}["connected"] == 1
    assert families["process_cpu_seconds"].samples[0].value > 0 and families["process_resident_memory_bytes"].samples
    assert all(re.fullmatch(r"(twistdist|process)_[a-z_]+", name) and family.documentation for name, family in families.items())
    groups = families["twistdist_group_attempts"].samples
    counts = {sample.labels["outcome"]: sample.value for sample in groups if sample.labels["group"] == 'a "group"'}
    assert counts == {"value": 0, "again": 0, "failed": 1}
    seconds = {sample.labels["function"]: sample.value for sample in families["twistdist_function_run_seconds"].samples}
    assert "abs" in seconds and families["twistdist_event_longest_seconds"].samples
    assert families["twistdist_worker_slots"].samples[0].labels["worker"] in served.workers


def test_the_dashboard_and_the_alerts_name_only_metrics_that_exist(served):
    from prometheus_client.parser import text_string_to_metric_families

    text = fetch(served.dashboard_link, "metrics")[1]
    text += metrics.worker_exposition(WORKER_NUMBERS).decode()
    known = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    known |= {family.name + "_total" for family in text_string_to_metric_families(text) if family.type == "counter"}
    known |= {family.name for family in text_string_to_metric_families(text) if family.type == "gauge"}
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    used = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used += re.findall(r"expr: (.*)", (MONITORING / "alerts.yml").read_text())
    named = {name for expression in used for name in re.findall(r"twistdist_\w+", expression)}
    assert len(used) > 15 and len(named) > 15 and named <= known, named - known


def test_health_tells_of_a_journal_that_can_not_be_written(tmp_path):
    """The disk is full, as far as the journal's process can tell."""
    with LocalCluster(n_workers=1, http=f"tcp:{free_port()}:interface=127.0.0.1", journal=tmp_path / "j.sqlite") as running:
        assert fetch(running.dashboard_link, "health")[0] == 200
        running.kill_scheduler()
        until(lambda: not running.scheduler)
        with pytest.raises(urllib.error.URLError):
            fetch(running.dashboard_link, "health")
        running.start_scheduler()
        until(lambda: alive(running.dashboard_link))


def test_a_stream_has_snapshots_and_ends_when_the_cluster_does():
    with LocalCluster(n_workers=1, http=f"tcp:{free_port()}:interface=127.0.0.1") as running, Client(running) as client:
        future = client.submit(abs, -1)
        assert future.result(60) == 1
        with urllib.request.urlopen(f"{running.dashboard_link}live", timeout=30) as stream:
            lines = iter(stream.readline, b"")
            assert b"event: history\n" in lines
            told = json.loads(next(lines).removeprefix(b"data: "))
            assert told["tasks"] == {"done": 1} and told["health"] == "" and list(told["workers"]) == list(running.workers)
            assert [(name, count, kind) for _, _, _, name, count, kind, _ in told["spans"]] == [("abs", 1, "run")]
            assert b"event: snapshot\n" in lines
            running.close()
            assert list(lines)[-1] == b"\n", "the last event is whole"


def alive(link):
    try:
        return fetch(link, "health")[0] == 200
    except urllib.error.URLError:
        return False


def test_beyond_loopback_a_token_is_asked_for():
    with LocalCluster(n_workers=1, http=f"tcp:{free_port()}") as running:
        link = running.dashboard_link
        assert "token=" in link and fetch(link, "health") == (200, "ok\n")
        bare, _, token = link.partition("?token=")
        assert fetch(bare, "status")[0] == 401 and fetch(bare, "health")[0] == 200  # a probe knows no token
        assert fetch(bare, "status", Authorization=f"Bearer {token}")[0] == 200
        assert fetch(f"{bare}?token=wrong", "status")[0] == 401
        with Client(running) as client:
            assert client.dashboard_link == link


def test_clients_and_clusters_show_themselves_in_a_notebook(served):
    with Client(served, session="<b>") as client:
        link = served.dashboard_link
        shown = client._repr_html_()
        assert client.dashboard_link == link and f'href="{link}"' in shown and "&lt;b&gt;" in shown
        future = client.submit(abs, -1, key="<i>")
        assert future.result(60) == 1
        assert "&lt;i&gt;" in future._repr_html_() and "finished" in future._repr_html_()
        assert str(served.scheduler) in served._repr_html_() and "w0" in served._repr_html_()
    assert "closed" in client._repr_html_()


def test_nothing_can_be_changed(served):
    request = urllib.request.Request(served.dashboard_link + "status", data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    with caught.value as error:
        assert error.code == 405


def test_an_endpoint_that_can_not_be_served_is_named():
    with pytest.raises(TwistdistError, match="--http"), LocalCluster(n_workers=0, http="nonsense"):
        pass
    with LocalCluster(n_workers=0) as running:
        assert running.dashboard_link == ""


def samples(link, path="metrics"):
    from prometheus_client.parser import text_string_to_metric_families

    code, text = fetch(link, path)
    assert code == 200
    families = list(text_string_to_metric_families(text))
    return {
        (one.name, *[v for k, v in sorted(one.labels.items()) if k != "worker"]): one.value
        for f in families
        for one in f.samples
    }


def test_a_worker_counts_what_became_of_its_tasks(shells):
    first, address = test_twistd.scheduler(shells)
    link = f"http://127.0.0.1:{free_port()}/"
    endpoint = f"tcp:{link[17:-1]}:interface=127.0.0.1"
    shell = test_twistd.worker(shells, address, "a", "--http", endpoint)
    assert fetch(link, "health") == (200, "ok\n") and "/metrics" in fetch(link)[1]
    assert fetch(link, "status", Host="evil.example")[0] == 403 and fetch(link, "live")[0] == 404
    with Client(address) as client:
        client.gather(client.map(abs, range(10)))
        assert isinstance(client.submit(divmod, 1, 0).exception(60), ZeroDivisionError)
        assert isinstance(client.submit(os.abort, crash_limit=2).exception(60), TaskCrashed)
        assert isinstance(client.submit(time.sleep, 600, time_limit=0.1).exception(60), TimeLimitExceeded)
        large = client.submit(bytes, 1 << 20)
        assert len(large.result(60)) == 1 << 20
        found = samples(link)
    attempts, deaths = "twistdist_worker_attempts_total", "twistdist_worker_executor_deaths_total"
    assert [found[attempts, outcome] for outcome in ("value", "failed", "crashed", "stopped")] == [11, 1, 2, 1]
    assert found[deaths, "signal"] == 2 and found[deaths, "out_of_memory"] == found[deaths, "template_died"] == 0
    assert found["twistdist_worker_store_bytes", "memory"] >= 1 << 20 and found["twistdist_worker_store_results",] == 1
    assert found["twistdist_worker_executor_slots",] == 1 and found["twistdist_worker_executors_resident_bytes",] > 1 << 20
    assert found["twistdist_worker_executors", "alive"] + found["twistdist_worker_executors", "starting"] >= 1
    assert found["twistdist_worker_scheduler_connected",] == 1 and found["twistdist_worker_scheduler_silence_seconds",] < 60
    assert found["process_cpu_seconds_total",] > 0 and found["process_resident_memory_bytes",] > 1 << 20
    first.end(signal.SIGKILL)
    until(lambda: fetch(link, "health")[0] == 503)
    assert f"waiting for its scheduler at {address}" in fetch(link, "health")[1]
    assert samples(link)["twistdist_worker_scheduler_connected",] == 0
    assert shell.end() in test_twistd.STOPPED


def test_a_worker_names_none_of_the_scheduler_s_metrics(served):
    scheduler = {name[0] for name in samples(served.dashboard_link)}
    text = metrics.worker_exposition(WORKER_NUMBERS).decode()
    worker = set(re.findall(r"^(twistdist_\w+)", text, re.MULTILINE))
    assert len(worker) > 10 and not worker & scheduler
    assert not metrics.worker_exposition({}).decode().count("twistdist_"), "it is starting"


def test_a_worker_beyond_loopback_asks_for_the_token(shells):
    _, address = test_twistd.scheduler(shells)
    shell = test_twistd.worker(shells, address, "a", "--http", f"tcp:{free_port()}")
    link = shell.wait_for(r"health and metrics are at (\S+)")[1]
    assert "token=" in link and fetch(link, "health") == (200, "ok\n")
    bare = link.partition("?")[0]
    assert fetch(bare, "health")[0] == 200 and fetch(bare, "metrics")[0] == 401
    assert "--http must be a listening endpoint" in test_twistd.fails(shells, "twistdist-worker", address, "--http", "nonsense")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        told = test_twistd.fails(shells, "twistdist-worker", address, "--name", "b", "--http", endpoint)
        assert "Address already in use" in told
