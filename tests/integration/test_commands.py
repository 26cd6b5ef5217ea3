"""Commands that look at a cluster, as a user would run them."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.integration.habits import until
from twistdist import cli
from twistdist.blocking import Client, LocalCluster


def dies():
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        assert client.submit(dies, key="dies", crash_limit=1).exception(60) is not None
        yield cluster


def test_status_as_json(cluster, capsys):
    assert cli.main(["status", cluster.address, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert list(status["workers"]) == list(cluster.workers) and status["incidents"][-1]["kind"] == "executor died"


def test_incidents_in_words_and_as_json(cluster, capsys):
    assert cli.main(["incidents", cluster.address]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "executor died" in line]
    assert "dies on" in line and " 0 " not in line
    assert cli.main(["incidents", cluster.address, "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["kind"] for one in told].count("executor died") == 1 and all(one["time"] for one in told)


def test_incidents_are_followed_over_a_restart_of_the_scheduler_until_ctrl_c(tmp_path):
    with LocalCluster(n_workers=1) as cluster:
        command = [sys.executable, "-m", "twistdist.cli", "incidents", cluster.address, "--follow"]
        out = tmp_path / "out"
        with open(out, "w") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as following:
            try:
                with Client(cluster) as client:
                    assert client.submit(dies, key="first", crash_limit=1).exception(60) is not None
                    until(lambda: "first on" in out.read_text())
                    cluster.kill_scheduler()
                    until(lambda: not cluster.scheduler)
                    cluster.start_scheduler()
                    assert client.submit(dies, key="second", crash_limit=1).exception(60) is not None
                    until(lambda: "second on" in out.read_text())
                following.send_signal(signal.SIGINT)
                assert following.wait(60) == 0
            finally:
                following.kill()
        text = out.read_text()
        assert text.count("first on") == 1 and text.count("second on") == 1 and "Traceback" not in text
