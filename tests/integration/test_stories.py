"""``why``: what became of a task, told so that a person understands it."""

from __future__ import annotations

import os
import signal

from tests.integration.habits import until
from twistdist.blocking import Client, LocalCluster


def unlucky(path):
    """Kills its own process the first time."""
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGSEGV)
    return bytes(100_000)


def test_a_crash_and_a_killed_worker_are_told_in_order(tmp_path):
    with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
        future = client.submit(unlucky, str(tmp_path / "was-here"), key="k")
        assert len(future.result(60)) == 100_000
        (holder,) = client.who_has([future])["k"]
        cluster.kill_worker(holder, wipe=True)
        until(lambda: "its only copy was lost" in str(client.why("k")))
        assert len(client.submit(bytes.upper, future).result(60)) == 100_000
        lines = str(client.why("k")).splitlines()
        story = client.why(future)
    assert story.state == "done" and story.crashes == []
    assert lines[0].startswith("k: done, its value is on w") and "it was submitted" in lines[1]
    assert "its process ended on w" in lines[2] and "SIGSEGV" in lines[2] and "run again (crash 1 of 3)" in lines[2]
    assert f"{holder} computed its value in " in lines[3] and f"its only copy was lost with {holder}: " in lines[4]
    assert "its value is needed again" in lines[5] and "computed its value in " in lines[6]
    ages = [event.age for event in story.events]
    assert ages == sorted(ages, reverse=True) and ages[-1] >= 0


def test_the_lineage_of_results(tmp_path):
    with LocalCluster(n_workers=1) as cluster, Client(cluster) as client:
        first = client.submit(bytes, 100_000, key="first")
        second = client.submit(bytes.upper, first, key="second")
        second.result(60)
        lineage = client.lineage([second])
        assert lineage.keys == ["first", "second"] and lineage.nodes[1].inputs == ["first"]
        assert lineage.nodes[0].function == "bytes" and lineage.nodes[0].holders == ["w0"]
        assert "t0 -> t1;" in lineage.dot() and "<svg" in lineage.svg()
