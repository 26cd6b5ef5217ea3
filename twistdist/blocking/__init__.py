"""The blocking API for scripts: the same names as in the Deferred API, but each call returns the value::

    from twistdist.blocking import Client
    with Client() as client:
        print(client.submit(pow, 2, 10).result())

The API runs a reactor of its own in a daemon thread, which starts on first use and is shared by all clients of the process.  It
neither uses nor installs the global reactor, so it works beside a running asyncio loop, in notebooks and in Twisted programs.
"""

from __future__ import annotations

from concurrent.futures import as_completed, wait

from twistdist.blocking.client import Client, current_client, fire_and_forget
from twistdist.blocking.cluster import JobCluster, KubernetesCluster, LocalCluster, SlurmCluster, SSHCluster
from twistdist.blocking.executor import Executor
from twistdist.blocking.futures import Future
from twistdist.blocking.progress_bar import progress as progress

__all__ = [
    "Client",
    "Executor",
    "Future",
    "JobCluster",
    "KubernetesCluster",
    "LocalCluster",
    "SSHCluster",
    "SlurmCluster",
    "as_completed",
    "current_client",
    "fire_and_forget",
    "progress",
    "wait",
]
