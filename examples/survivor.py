"""A computation to kill workers under: python survivor.py ADDRESS LOGFILE [SECONDS]

Its leaves take about SECONDS (60) on two slots.  It shows how far it is, and the workers with the pid of each: try ``kill -9``
of one in another shell.  Each execution leaves a line in LOGFILE, so that executions can be counted.
"""

import collections
import sys
import time

from twistdist.blocking import Client, as_completed

LEAVES = 200


def note(log, number):
    with open(log, "a", buffering=1) as stream:
        stream.write(f"{number}\n")


def leaf(log, number, pause):
    time.sleep(pause)  # the work
    note(log, number)
    return [number] * 10_000  # large enough to live in a worker's store


def add(log, number, left, right):
    note(log, number)
    return [a + b for a, b in zip(left, right, strict=True)]


address, log = sys.argv[1:3]
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 60.0
with Client(address) as client:
    for name, worker in sorted(client.workers().items()):
        print(f"worker {name}: kill -9 {worker.pid}", flush=True)
    leaves = [client.submit(leaf, log, i, 2 * seconds / LEAVES) for i in range(LEAVES)]
    for done, _ in enumerate(as_completed(leaves), start=1):
        if done % 10 == 0:
            print(f"{done} of {LEAVES} leaves are done", flush=True)
    level, number = leaves, LEAVES
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [client.submit(add, log, number + i, a, b) for i, (a, b) in enumerate(pairs)] + odd
        number += len(level)
    right = level[0].result() == [sum(range(LEAVES))] * 10_000
    with open(log) as stream:
        runs = collections.Counter(stream)
    lost = [one for one in client.incidents() if one.kind == "worker lost"]
    print("the right answer" if right else "a WRONG answer", flush=True)
    print(
        "again",
        sum(runs.values()) - len(runs),
        "lost",
        sum(one.replayed for one in lost),
        "requeued",
        sum(one.requeued for one in lost),
        flush=True,
    )
sys.exit(0 if right else 1)
