"""What faults of the network cost: python -m benchmarks.network [--repeat N] [--soak SECONDS]

Three workers of one slot on hosts of their own (tests/network): it needs root and /dev/net/tun.  Medians over the repeats;
the machine should be quiet, but for ``--soak``, which looks for false deaths: all cores and interpreter locks busy, 20 % loss,
200 ms delay, the scheduler stopped for 5 seconds now and then.  Steps of the wall clock are not part of it, since they can't
be made on a machine that others use too.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="twistdist-benchmark-")  # a secret of its own

from benchmarks.rows import Rows
from tests.integration.habits import lines, note, until
from tests.network.chores import digest, first_stays, large, square
from tests.network.namespaces import why_not
from tests.network.nets import LanNet


@contextlib.contextmanager
def network(*options):
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        net = LanNet(folder, stack, *options)
        net.settled(3)
        yield net


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def silent(net, host, how):
    return stopped(net.pid(host)) if how == "SIGSTOP" else net.lan.silence(host)


def detection(net, rows, how, label):
    """From silence to suspicion, and to the first line of the task elsewhere."""
    net.settled(3)
    log = f"{net.folder}/log-{time.monotonic()}"
    future = net.control.submit(first_stays, log)
    until(lambda: lines(log))
    host = lines(log)[0]
    began = time.monotonic()
    with silent(net, host, how):
        until(lambda: net.states().get(host) == "suspect")
        rows.add(f"{label}: {how} to suspect, s", time.monotonic() - began)
        until(lambda: len(lines(log)) == 2)
        rows.add(f"{label}: {how} to running elsewhere, s", time.monotonic() - began)
    back = time.monotonic()
    future.result(30)
    until(lambda: net.states().get(host) == "connected")
    rows.add(f"{label}: end of {how} to taken in again, s", time.monotonic() - back)


def began_at(data, log):
    note(log, repr(time.monotonic()))
    return len(data)


def rerouted(net, rows):
    """Two workers hold a value, one of them goes silent in the middle of sending it: when does the other one send it."""
    net.settled(3)
    control, size = net.control, 100_000_000
    data = control.submit(large, os.devnull, 1, size, workers=["a"])
    until(lambda: data.done())
    control.replicate(data, 2)
    (consumer,) = {"a", "b", "c"} - set(control.who_has([data])[data.key])
    log = f"{net.folder}/fetched-{time.monotonic()}"
    before = net.lan.count()
    future = control.submit(began_at, data, log, workers=[consumer])
    until(lambda: net.lan.count()["carried"] > before["carried"] + 5_000)
    sent = net.lan.count()["sent"]
    sender = max({"a", "b", "c"} - {consumer}, key=lambda host: sent[host] - before["sent"][host])
    with net.lan.silence(sender):
        cut = time.monotonic()
        until(lambda: net.states().get(sender) == "suspect")
        suspected = time.monotonic()
        reroute = net.lan.count()["carried"]
        until(lambda: net.lan.count()["carried"] > reroute + 500 or lines(log))
        rows.add("suspicion to the file coming from another holder, ms", (time.monotonic() - suspected) * 1e3)
        until(lambda: lines(log))
        rows.add("cut in the middle of 100 MB to the task's first line, s", float(lines(log)[0]) - cut)
    assert future.result(30) == size


def cut_of_work(net, rows, count, seconds, how):
    """A cut of ``seconds`` in the middle of ``count`` tasks."""
    net.settled(3)
    log = f"{net.folder}/work-{time.monotonic()}"
    told, wrong = [], 0
    began = time.monotonic()
    futures = [net.control.submit(square, log, i, 0.005) for i in range(count)]
    for i, future in enumerate(futures):
        future.add_done_callback(lambda future, i=i: told.append(i))
    until(lambda: os.path.exists(log) and os.path.getsize(log) > 1_500)
    with silent(net, "a", how):
        time.sleep(seconds)
    for i, value in enumerate(net.control.gather(futures, errors="skip", timeout=120)):
        wrong += value != i * i
    until(lambda: len(told) >= count)
    label = f"{how} of {seconds} s in the middle of {count:,} x 5 ms"
    rows.add(f"{label}: executed again", len(lines(log)) - count)
    rows.add(f"{label}: futures disturbed", wrong + len(told) - count)
    rows.add(f"{label}: seconds", time.monotonic() - began)


# ---- soak ------------------------------------------------------------------------------------------


def hog(log, i):
    """Hold the interpreter lock for 0.3 s."""
    ctypes.PyDLL(None).usleep(300_000)
    note(log, i)
    return i


def soak(seconds, rows):
    dice = random.Random(1)
    cores = os.cpu_count() or 1
    with network() as net, contextlib.ExitStack() as stack:
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
        stack.callback(lambda: [(one.kill(), one.wait()) for one in busy])
        log, done, wrong, slowest = str(net.folder / "log"), 0, 0, 0.0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            faults = dice.choice([{"loss": 0.2}, {"delay": 0.2}, {"loss": 0.2, "delay": 0.2}, {}])
            host = dice.choice(["a", "b", "c", "hub"])
            net.lan.clean()
            net.lan.impair(host, **faults)
            began = time.monotonic()
            futures = [net.control.submit(square, log, done + i, 0.01) for i in range(30)]
            futures += [net.control.submit(hog, log, done + 30 + i) for i in range(6)]
            data = net.control.submit(large, log, 1, 100_000)
            summed = net.control.submit(digest, data)
            if dice.random() < 0.3:
                with stopped(net.pid("scheduler")):
                    time.sleep(5)
            expected = [(done + i) ** 2 for i in range(30)] + [done + 30 + i for i in range(6)]
            wrong += net.control.gather(futures, timeout=300) != expected
            wrong += summed.result(300) != digest(bytes([1]) * 100_000)
            done += 37
            slowest = max(slowest, time.monotonic() - began)
            del futures, data, summed
        net.lan.clean()
        rows.add("soak: seconds", seconds)
        rows.add("soak: tasks that leave a line", done)
        rows.add("soak: executed again", len(lines(log)) - done)
        rows.add("soak: wrong or failed rounds", wrong)
        rows.add("soak: slowest round of 38 tasks, s", slowest)
        rows.add("soak: workers suspected", len(net.news("worker suspected")))
        lost = net.lost()
        rows.add("soak: false deaths (workers lost)", len(lost))
        for one in lost:
            print(one)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network", description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--soak", type=float, default=0.0, help="seconds of looking for false deaths, and nothing else")
    options = parser.parse_args()
    if why_not():
        raise SystemExit(why_not())
    rows = Rows()
    if options.soak:
        soak(options.soak, rows)
        rows.show()
        return
    for dead_after in ("10", "1"):
        with network("--dead-after", dead_after) as net:
            for _ in range(options.repeat):
                for how in ("SIGSTOP", "link down"):
                    detection(net, rows, how, f"--dead-after {dead_after}")
                if dead_after == "10":
                    rerouted(net, rows)
                    for how in ("link down", "SIGSTOP"):
                        cut_of_work(net, rows, options.tasks, 5, how)
    rows.show()


if __name__ == "__main__":
    main()
