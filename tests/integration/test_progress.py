"""``progress`` on a real terminal: bars for all, for functions and for groups."""

from __future__ import annotations

import re
import sys

import pytest
import pytest_twisted
from twisted.internet import reactor

import twistdist
from tests.integration.terminals import Terminal

SCRIPT = """
import sys
if sys.argv[1] == "plain":
    sys.modules["tqdm"] = None
from twistdist.blocking import Client, LocalCluster, progress

def load(x):
    return x

def clean(x):
    return 1 / x

with Client(n_workers=1) as client:
    with client.group("one\\x1b[2J"):
        futures = client.map(load, range(20))
    with client.group("two"):
        futures += client.map(clean, range(10))
    progress(futures, "run ")
    progress(futures[:20], "one function ")
"""


@pytest.mark.parametrize(("how", "columns"), [("tqdm", 100), ("plain", 100), ("plain", 50)])
def test_functions_and_groups_have_bars(tmp_path, how, columns):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with Terminal([sys.executable, str(script), how], columns=columns) as terminal:
        assert terminal.process.wait(120) == 0
        terminal.shows(r"one function.*20/20")
        lines = [line for line in terminal.text().splitlines() if line]
        assert [re.match(r"\S+", line)[0].rstrip(":") for line in lines] == [
            "run",
            "load",
            "clean",
            "one\\x1b[2J",
            "two",
            "one",
        ]
        assert [re.search(r"\d+/\d+", line)[0] for line in lines] == ["30/30", "20/20", "10/10", "20/20", "10/10", "20/20"]
        assert ["1 failed" in line for line in lines] == [True, False, True, False, True, False]
        assert b"\x1b[2J" not in terminal.raw


@pytest_twisted.inlineCallbacks
def test_with_deferreds(cluster, capsys):
    client = yield twistdist.connect(reactor, cluster.address)
    futures = [client.submit(abs, -1, group="one"), client.submit(pow, 2, 2, group="two"), client.submit(abs, "x")]
    yield twistdist.progress(futures)
    assert [future.status for future in futures] == ["finished", "finished", "error"]
    yield client.close()
