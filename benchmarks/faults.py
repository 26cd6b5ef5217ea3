"""What faults of user code cost: python benchmarks/faults.py [--repeat N] [--gil SECONDS] [--many]

Two workers of one slot each unless it says so.  Medians over the repeats; the machine should be quiet.  ``--many`` adds 1,000
poison tasks among 10,000, ``--gil`` says how long a C call holds the interpreter lock.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import statistics
import tempfile
import time

from twistdist import errors
from twistdist.blocking import Client, LocalCluster, wait


def now():
    return time.monotonic()


def segfault():
    os.kill(os.getpid(), signal.SIGSEGV)


def segfault_noting(path):
    with open(path, "w") as stream:
        stream.write(repr(time.monotonic()))
    segfault()


def poison(log):
    with open(log, "a") as stream:
        stream.write("x")
    segfault()


def nap(i):
    time.sleep(0.01)
    return i


def stubborn(path):
    open(path, "w").close()
    while True:
        try:
            time.sleep(600)
        except Exception:
            continue


def polite(path):
    open(path, "w").close()
    time.sleep(600)


def hold_the_gil(seconds):
    ctypes.PyDLL(None).sleep(seconds)


def exists(path):
    while not os.path.exists(path):
        time.sleep(0.001)


def next_executor(client, folder):
    """Milliseconds from a segmentation fault to the first line of the next task in the same slot."""
    path = f"{folder}/died"
    bad = client.submit(segfault_noting, path, crash_limit=1, workers=["w0"])
    after = client.submit(now, workers=["w0"])
    assert isinstance(bad.exception(30), errors.TaskCrashed)
    with open(path) as stream:
        return (after.result(30) - float(stream.read())) * 1e3


def cancelled(client, folder, fn):
    """Milliseconds from cancel() to the first line of the next task in the same slot."""
    path = f"{folder}/{fn.__name__}-{now()}"
    future = client.submit(fn, path, workers=["w0"])
    exists(path)
    began = now()
    future.cancel()
    return (client.submit(now, workers=["w0"]).result(30) - began) * 1e3


def innocents(client, folder, count, poisons):
    """(seconds, innocents that failed, executions of poison, seconds to the last verdict)"""
    log = f"{folder}/poison-{now()}"
    every = count // poisons if poisons else count + 1
    began, good, bad = now(), [], []
    for i in range(count):
        good.append(client.submit(nap, i))
        if i % every == every // 4 and len(bad) < poisons:
            bad.append(client.submit(poison, log))
    verdict = 0.0
    if bad:
        wait(bad)
        verdict = now() - began
        assert all(isinstance(one.exception(), errors.TaskCrashed) for one in bad)
    failed = sum(one.exception() is not None for one in good)
    seconds = now() - began
    executed = os.path.getsize(log) if bad else 0
    return seconds, failed, executed, verdict


def gil(seconds):
    """(worst ms of has_what, worst ms of a task in the other slot, worst ms of a fetch of 1 MiB, incidents)"""
    with LocalCluster(n_workers=1, slots=2) as cluster, Client(cluster.address) as client:
        held = client.submit(bytes, 1 << 20)
        wait([held])
        hog = client.submit(hold_the_gil, seconds)
        worst, calls = [0.0] * 3, (client.has_what, lambda: client.submit(nap, 1).result(), held.result)
        while not hog.done():
            for i, call in enumerate(calls):
                began = now()
                call()
                worst[i] = max(worst[i], (now() - began) * 1e3)
            time.sleep(0.05)
        return *worst, len(client.incidents())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--gil", type=float, default=10.0)
    parser.add_argument("--many", action="store_true")
    options = parser.parse_args()
    rows = {}

    def row(name, value):
        rows.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        with LocalCluster(n_workers=2) as cluster, Client(cluster.address) as client:
            client.gather(client.map(nap, range(20)))
            pids = dict(cluster.workers)
            for _ in range(options.repeat):
                row("SIGSEGV to the next task in the slot, ms", next_executor(client, folder))
                row("cancel to the next task, the function lets go, ms", cancelled(client, folder, polite))
                row("cancel to the next task, it does not (grace 500), ms", cancelled(client, folder, stubborn))
                without, *_ = innocents(client, folder, 200, 0)
                with_one, failed, executed, verdict = innocents(client, folder, 200, 1)
                row("200 x 10 ms, seconds", without)
                row("... and one poison task, seconds", with_one)
                row("... longer, %", (with_one / without - 1) * 100)
                row("... innocents failed", failed)
                row("... poison executed (crash_limit 3)", executed)
                row("... verdict, s", verdict)
            if options.many:
                without, *_ = innocents(client, folder, 10_000, 0)
                with_many, failed, executed, _ = innocents(client, folder, 10_000, 1_000)
                row("10,000 x 10 ms, seconds", without)
                row("... and 1,000 poison tasks, seconds", with_many)
                row("... innocents failed", failed)
                row("... poison executed (3,000)", executed)
            row("workers lost", sum(cluster.workers.get(name) != pid for name, pid in pids.items()))
        has_what, task, fetch, incidents = gil(options.gil)
        row(f"GIL held {options.gil:g} s: worst has_what, ms", has_what)
        row("... worst 10 ms task in the other slot, ms", task)
        row("... worst fetch of 1 MiB, ms", fetch)
        row("... incidents", incidents)
    for name, values in rows.items():
        print(f"{name:56} {statistics.median(values):10,.2f}   {[round(value, 2) for value in values]}")


if __name__ == "__main__":
    main()
