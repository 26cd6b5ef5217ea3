"""What a scheduler shows over HTTP."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request

import pytest

from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster
from twistdist.errors import TwistdistError


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
        code, text = fetch(served.dashboard_link, "metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert code == 200 and families["twistdist_done"].samples[0].value >= 20
    assert families["twistdist_done"].samples[0].name == "twistdist_done_total"
    assert {sample.labels["state"]: sample.value for sample in families["twistdist_workers"].samples}["connected"] == 1
    assert all(re.fullmatch(r"twistdist_[a-z_]+", name) and family.documentation for name, family in families.items())
    assert families["twistdist_worker_slots"].samples[0].labels["worker"] in served.workers


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
        assert fetch(bare, "status")[0] == 401 and fetch(bare, "health")[0] == 401
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
