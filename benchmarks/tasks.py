"""What a task costs, beside ProcessPoolExecutor in the same run: python benchmarks/tasks.py [--repeat N]

Two workers of one slot each.  CPU time is that of all processes: this one and its children, as the operating system counts it.
Medians over the repeats; the machine should be quiet.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import statistics
import subprocess
import sys
import time

from twistdist.blocking import Client, LocalCluster

TASKS = 10_000


def inc(x):
    return x + 1


def tree_cpu(pids):
    """CPU seconds of these processes and of their children."""
    total = 0.0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def family(root):
    """``root`` and all its descendants."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stream:
                parents.setdefault(int(stream.read().rpartition(")")[2].split()[1]), []).append(int(name))
        except OSError:
            continue
    found, todo = [], [root]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def measure(work, count):
    """(tasks a second, CPU microseconds a task)."""
    pids = family(os.getpid())
    cpu, began = tree_cpu(pids), time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return count / seconds, (tree_cpu(pids) - cpu) / count * 1e6


def trips(submit):
    """Median microseconds of one task at a time."""
    times = []
    for i in range(500):
        began = time.perf_counter()
        assert submit(inc, i).result() == i + 1
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


def first_result():
    """Seconds from the start of a process to its first result from a cluster of two workers."""
    code = "from twistdist.blocking import Client\nwith Client(n_workers=2) as c: assert c.submit(abs, -1).result() == 1"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    rows = {}
    for _ in range(repeat):
        with LocalCluster(n_workers=2) as cluster, Client(cluster.address) as client:
            client.gather(client.map(inc, range(100)))
            ours = {
                "map": measure(lambda: client.gather(client.map(inc, range(TASKS))), TASKS),
                "loop": measure(lambda: client.gather([client.submit(inc, i) for i in range(TASKS)]), TASKS),
            }
            rows.setdefault("round trip, µs", []).append(trips(client.submit))
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            list(pool.map(inc, range(100)))
            theirs = measure(lambda: [f.result() for f in [pool.submit(inc, i) for i in range(TASKS)]], TASKS)
            rows.setdefault("ProcessPoolExecutor round trip, µs", []).append(trips(pool.submit))
        for name, (rate, cpu) in (*ours.items(), ("ProcessPoolExecutor loop", theirs)):
            rows.setdefault(f"{name}, tasks/s", []).append(rate)
            rows.setdefault(f"{name}, CPU µs a task", []).append(cpu)
        rows.setdefault("start to end of a script with one task, s", []).append(first_result())
    for name, values in rows.items():
        print(f"{name:48} {statistics.median(values):12,.2f}   {[round(value, 2) for value in values]}")


if __name__ == "__main__":
    main()
