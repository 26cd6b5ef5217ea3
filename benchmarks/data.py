"""Moving data: python benchmarks/data.py [--repeat N] [--mib N]

One array of float64 from task to task on one host, over TCP to a worker that takes itself to be elsewhere, from and to the
client; the loss of one worker of three that hold 200 results of 1 MiB.  A raw socket pair in the same run says what the machine
can do.  Medians over the repeats; the machine should be quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from twistdist.blocking import Client, LocalCluster, wait


def make(count):
    return np.random.default_rng(0).random(count)


def own_memory():
    """Anonymous bytes of this process."""
    with open("/proc/self/statm") as stream:
        _, resident, shared, *_ = map(int, stream.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def use(array):
    before = own_memory()
    return float(array.sum()), own_memory() - before


def first(array):
    return float(array[0])


def raw(size):
    """Seconds for ``size`` bytes with sendfile and recv_into over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server, tempfile.TemporaryFile(dir="/dev/shm") as stream:
        stream.write(bytes(size))
        stream.flush()
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()

        def send():
            at = 0
            while at < size:
                at += os.sendfile(near.fileno(), stream.fileno(), at, size - at)

        thread, buffer, got = threading.Thread(target=send), bytearray(1 << 20), 0
        began = time.perf_counter()
        thread.start()
        while got < size:
            got += far.recv_into(buffer)
        seconds = time.perf_counter() - began
        thread.join()
        near.close()
        far.close()
        return seconds


def far_worker(cluster, folder):
    """A worker that maps nobody's files."""
    twistd, secret = pathlib.Path(sys.executable).with_name("twistd"), f"{cluster._service._folder}/secret"
    command = [
        str(twistd),
        "-n",
        "twistdist-worker",
        cluster.address,
        "--name",
        "far",
        "--slots",
        "1",
        "--store",
        f"{folder}/far",
        "--secret-file",
        secret,
    ]
    environment = {**os.environ, "TWISTDIST_HOST": "far", "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def hand_over(client, count, source, target):
    future = client.submit(make, count, workers=[source])
    wait([future])
    seconds = timed(lambda: client.submit(first, future, workers=[target]).result())
    growth = client.submit(use, future, workers=[target]).result()[1] if source == target else 0
    return seconds, growth


def loss(kill):
    """Seconds to gather 200 results of 1 MiB from three workers, of which one may have been killed just before."""
    with LocalCluster(n_workers=3) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(3)
        futures = client.map(os.urandom, [1 << 20] * 200)
        wait(futures)
        done = client.status()["done"]
        if kill:
            cluster.kill_worker("w0")
        seconds = timed(lambda: client.gather(futures))
        return seconds, client.status()["done"] - done


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--mib", type=int, default=256)
    options = parser.parse_args()
    size = options.mib << 20
    rows = {}

    def rate(name, seconds):
        rows.setdefault(f"{name}, GB/s", []).append(size / seconds / 1e9)

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        cluster = stack.enter_context(LocalCluster(n_workers=1))
        client = stack.enter_context(Client(cluster.address))
        far = stack.enter_context(far_worker(cluster, folder))
        client.wait_for_workers(2, 60)
        data = make(size // 8)
        for _ in range(options.repeat + 1):  # the first one warms up
            rate("raw socket pair", raw(size))
            seconds, growth = hand_over(client, size // 8, "w0", "w0")
            rate("task to task on one host", seconds)
            rows.setdefault("... growth of the consumer that read it all, % of the size", []).append(growth / size * 100)
            rate("task to task over TCP", hand_over(client, size // 8, "w0", "far")[0])
            rate("scatter, one copy", timed(lambda: client.scatter(data, replicas=1, workers=["w0"])))
            future = client.submit(make, size // 8, workers=["w0"])
            wait([future])
            rate("gather on one host", timed(lambda f=future: f.result()))
            future = client.submit(make, size // 8, workers=["far"])
            wait([future])
            rate("gather over TCP", timed(lambda f=future: f.result()))
            del future
        far.terminate()
    for _ in range(options.repeat + 1):
        rows.setdefault("200 x 1 MiB: gather, s", []).append(loss(False)[0])
        seconds, again = loss(True)
        rows.setdefault("... one worker of three killed before, s", []).append(seconds)
        rows.setdefault("... executed again", []).append(again)
    for name, values in rows.items():
        values = values[1:]
        print(f"{name:60} {statistics.median(values):9,.3f}   {[round(value, 3) for value in values]}")


if __name__ == "__main__":
    main()
