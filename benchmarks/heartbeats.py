"""What heartbeats cost the scheduler: python -m benchmarks.heartbeats [--workers N] [--seconds N]

The workers are cores without executors, all in this process, each with a connection of its own; the scheduler is a process as
always.  CPU time of the scheduler is what is told, as a share of one core.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
from typing import Any

from twisted.internet import reactor as the_reactor

from benchmarks.meter import cpu_seconds
from twistdist.core.worker import Worker
from twistdist.net.dialing import Dialing
from twistdist.net.timers import use_monotonic_time
from twistdist.wire import messages as m
from twistdist.wire.framing import TO_WORKER


def worker(reactor: Any, address: str, secret: bytes, number: int) -> Dialing:
    """A worker that beats and does nothing else."""
    identity = m.HelloWorker(
        secrets.randbits(62),
        f"w{number}",
        secrets.randbits(62),
        os.getpid(),
        1,
        "tcp:127.0.0.1:1",
        "nowhere",
        "",
        {},
        [],
        [],
        [],
    )
    core = Worker(identity)

    def notice(message: Any) -> None:
        if isinstance(message, m.Beat):
            core.heard_beat(reactor.seconds(), message)

    return Dialing(
        reactor,
        address,
        secret,
        core,
        TO_WORKER,
        lambda messages: core.receive(reactor.seconds(), messages),
        lambda fresh: core.welcomed(reactor.seconds()),
        print,
        lambda: None,
        lambda: core.pulse(reactor.seconds()),
        notice,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heartbeats", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    reactor: Any = the_reactor
    use_monotonic_time(reactor)
    secret = secrets.token_hex(32).encode()
    with tempfile.NamedTemporaryFile("wb") as file:
        file.write(secret)
        file.flush()
        twistd = os.path.join(os.path.dirname(sys.executable), "twistd")
        command = [twistd, "-n", "--pidfile=", "twistdist-scheduler", "--listen", "tcp:0:interface=127.0.0.1"]
        scheduler = subprocess.Popen([*command, "--secret-file", file.name], stdout=subprocess.PIPE, text=True)
        address = next(line.split()[-1] for line in scheduler.stdout or () if line.startswith("twistdist scheduler ready"))
        workers = [worker(reactor, address, secret, number) for number in range(options.workers)]
        for one in workers:
            one.start()
        began: list[float] = []

        def begin() -> None:
            began[:] = [cpu_seconds(scheduler.pid), time.monotonic()]
            reactor.callLater(options.seconds, end)

        def end() -> None:
            seconds = time.monotonic() - began[1]
            cpu = cpu_seconds(scheduler.pid) - began[0]
            print(f"{options.workers} workers: {100 * cpu / seconds:.2f} % of a core over {seconds:.0f} s")
            reactor.stop()

        reactor.callLater(5.0, begin)
        reactor.run()
        scheduler.terminate()
        scheduler.wait()


if __name__ == "__main__":
    main()
