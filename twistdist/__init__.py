"""Distributed tasks on Twisted whose lost results are restored automatically::

    import twistdist
    client = yield twistdist.connect(reactor, "tcp:127.0.0.1:8786")
    print((yield client.submit(pow, 2, 10).result()))

Importing this package only defines names.  Each public name is loaded when it is first used, so the processes that run tasks
never import Twisted.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "connect": "twistdist.net.client",
    "Client": "twistdist.net.client",
    "Future": "twistdist.net.futures",
    "as_completed": "twistdist.net.futures",
    "wait": "twistdist.net.futures",
    "progress": "twistdist.net.futures",
    "fire_and_forget": "twistdist.net.futures",
    "JobCluster": "twistdist.clusters.jobs",
    "KubernetesCluster": "twistdist.clusters.kubernetes",
    "LocalCluster": "twistdist.clusters.local",
    "SSHCluster": "twistdist.clusters.ssh.cluster",
    "SlurmCluster": "twistdist.clusters.slurm",
    "current_attempt": "twistdist.executors.context",
}

__all__ = [
    "Client",
    "Future",
    "JobCluster",
    "KubernetesCluster",
    "LocalCluster",
    "SSHCluster",
    "SlurmCluster",
    "__version__",
    "as_completed",
    "connect",
    "current_attempt",
    "fire_and_forget",
    "progress",
    "wait",
]

if TYPE_CHECKING:
    from twistdist.clusters.jobs import JobCluster
    from twistdist.clusters.kubernetes import KubernetesCluster
    from twistdist.clusters.local import LocalCluster
    from twistdist.clusters.slurm import SlurmCluster
    from twistdist.clusters.ssh.cluster import SSHCluster
    from twistdist.executors.context import current_attempt
    from twistdist.net.client import Client, connect
    from twistdist.net.futures import Future, as_completed, fire_and_forget, progress, wait


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'twistdist' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
