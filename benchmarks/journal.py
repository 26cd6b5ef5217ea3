"""What the journal costs, and how long a restart takes: python benchmarks/journal.py [--repeat N] [--tasks N] [--disk DIR]

No-op tasks with and without a journal, in turn; then a scheduler with many tasks is killed with SIGKILL and started again.
``--disk`` is where the journal is (default: in the cluster's folder, which is in shared memory).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

from benchmarks.tasks import family, inc, tree_cpu
from twistdist.blocking import Client, LocalCluster

TASKS = 10_000


def wait(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def throughput(client):
    """(tasks a second with map, the same with submit, CPU microseconds a task with map, median round trip in microseconds)."""
    pids = family(os.getpid())
    cpu, began = tree_cpu(pids), time.perf_counter()
    client.gather(client.map(inc, range(TASKS)))
    mapped = TASKS / (time.perf_counter() - began)
    micros = (tree_cpu(pids) - cpu) / TASKS * 1e6
    began = time.perf_counter()
    client.gather([client.submit(inc, n) for n in range(TASKS)])
    submitted = TASKS / (time.perf_counter() - began)
    trips = []
    for n in range(300):
        began = time.perf_counter()
        client.submit(inc, n).result()
        trips.append(time.perf_counter() - began)
    return mapped, submitted, micros, statistics.median(trips) * 1e6


def compare(repeat, disk):
    found = {"none": [], "journal": []}
    for number in range(repeat):
        for name in found:
            where = "none" if name == "none" else os.path.join(disk, f"bench-{os.getpid()}-{number}") if disk else None
            with LocalCluster(n_workers=2, journal=where) as cluster, Client(cluster.address) as client:
                client.wait_for_workers(2)
                throughput(client)
                found[name].append(throughput(client))
    for name, runs in found.items():
        mapped, submitted, micros, trip = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{name:8} map {mapped:7.0f}/s  submit {submitted:7.0f}/s  CPU {micros:5.1f} us/task  round trip {trip:6.0f} us")


def rss(pid):
    with open(f"/proc/{pid}/status") as stream:
        return next(int(line.split()[1]) << 10 for line in stream if line.startswith("VmRSS"))


def restart(tasks, disk):
    """A scheduler with ``tasks`` tasks, half of them done and two running, is killed and started again."""
    where = os.path.join(disk, f"bench-{os.getpid()}") if disk else None
    with LocalCluster(n_workers=2, journal=where) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(2)
        client.submit(inc, 1).result()
        before = rss(cluster.scheduler)
        done = client.map(inc, range(tasks // 2))
        client.gather(done)
        go = f"/tmp/twistdist-bench-{os.getpid()}"
        running = [client.submit(wait, go) for _ in range(2)]
        while sum(one.running for one in client.workers().values()) < 2:
            time.sleep(0.01)
        left = client.map(inc, range(tasks - tasks // 2))
        client.status()
        size, memory = client.status()["journal"]["bytes"], rss(cluster.scheduler) - before
        cluster.kill_scheduler()
        began = time.perf_counter()
        cluster.start_scheduler()
        status = client.status(timeout=120)
        answered = time.perf_counter() - began
        while client.status()["recovering"] is not None or sum(one.running for one in client.workers().values()) < 2:
            time.sleep(0.01)
        adopted = time.perf_counter() - began
        open(go, "w").close()
        client.gather([*running, *left], timeout=600)
        total = time.perf_counter() - began
        os.unlink(go)
        print(
            f"restart with {tasks} tasks: answers after {answered:.2f} s ({status['tasks']}), "
            f"all adopted after {adopted:.2f} s, all done after {total:.2f} s"
        )
        print(
            f"journal {size / tasks:.0f} bytes a task, scheduler {memory / tasks:.0f} bytes a task, "
            f"executed again {client.status()['done'] - len(left) - 2}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--disk", default="")
    options = parser.parse_args()
    compare(options.repeat, options.disk)
    restart(options.tasks, options.disk)


if __name__ == "__main__":
    main()
