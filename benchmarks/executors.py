"""How soon a slot is free again, and what a C call that holds the interpreter lock holds up: python -m benchmarks.executors

One worker of one slot, or of two.  Medians over the repeats; the machine should be quiet.  W9 of ``python -m benchmarks``
measures what a task that kills its process costs the others.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import tempfile
import time

from benchmarks.rows import Rows
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


def nap():
    time.sleep(0.01)


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


def gil(seconds):
    """(worst ms of has_what, worst ms of a task in the other slot, worst ms of a fetch of 1 MiB, incidents)"""
    with LocalCluster(n_workers=1, slots=2) as cluster, Client(cluster.address) as client:
        held = client.submit(bytes, 1 << 20)
        wait([held])
        hog = client.submit(hold_the_gil, seconds)
        worst, calls = [0.0] * 3, (client.has_what, lambda: client.submit(nap).result(), held.result)
        while not hog.done():
            for i, call in enumerate(calls):
                began = now()
                call()
                worst[i] = max(worst[i], (now() - began) * 1e3)
            time.sleep(0.05)
        return *worst, len(client.incidents())


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executors", description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--gil", type=float, default=10.0, metavar="SECONDS", help="how long the C call holds the lock")
    options = parser.parse_args()
    rows = Rows()
    with tempfile.TemporaryDirectory() as folder, LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        client.submit(nap).result()
        for _ in range(options.repeat):
            rows.add("SIGSEGV to the next task in the slot, ms", next_executor(client, folder))
            rows.add("cancel to the next task, the function lets go, ms", cancelled(client, folder, polite))
            rows.add("cancel to the next task, it does not (grace 500), ms", cancelled(client, folder, stubborn))
    has_what, task, fetch, incidents = gil(options.gil)
    rows.add(f"GIL held {options.gil:g} s: worst has_what, ms", has_what)
    rows.add("... worst 10 ms task in the other slot, ms", task)
    rows.add("... worst fetch of 1 MiB, ms", fetch)
    rows.add("... incidents", incidents)
    rows.show()


if __name__ == "__main__":
    main()
