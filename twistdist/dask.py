"""dask collections on a cluster.

::

    import dask.array as da
    from twistdist.blocking import Client

    with Client() as client:
        x = da.random.random((20_000, 20_000), chunks=(2_000, 2_000))
        print(x.mean().compute(scheduler=client.get))     # any dask.compute(..., scheduler=client.get)
        y = client.persist(x + 1)                          # its chunks stay on the cluster

Every node of the graph becomes a task; results are Futures, so that they survive workers that die as all results do.  The
functions here are the methods of the same names, for code that is not handed a client: inside a task they use the task's own
client, elsewhere the process's only open one.
"""

from __future__ import annotations

from typing import Any

from twistdist.blocking.client import Client, default_client
from twistdist.net import dask_graphs  # noqa: F401  so that a missing dask is noticed here

__all__ = ["compute", "get", "persist"]


def get(dsk: Any, keys: Any, *, client: Client | None = None, **options: Any) -> Any:
    """Compute keys of a dask graph: a scheduler for ``dask.config.set(scheduler=twistdist.dask.get)``.

    Args:
        dsk: A graph; see :meth:`Client.get <twistdist.blocking.Client.get>`.
        keys: A key, or keys in nested lists.
        client: A blocking client; by default the task's own, or the only open client of this process.
        **options: Task options for every task of the graph.

    Returns:
        The values, nested as ``keys`` are.

    Raises:
        TwistdistError: No client is open, or several are.
    """
    return default_client(client).get(dsk, keys, **options)


def compute(*collections: Any, client: Client | None = None, optimize: bool = True, **options: Any) -> Any:
    """Start to compute dask collections.

    Args:
        *collections: dask collections; see :meth:`Client.compute <twistdist.blocking.Client.compute>`.
        client: A blocking client; by default the task's own, or the only open client of this process.
        optimize: Whether dask optimizes the graph first.
        **options: Task options for every task of the graph.

    Returns:
        A Future, or a tuple of Futures for several collections.

    Raises:
        TwistdistError: No client is open, or several are.
    """
    return default_client(client).compute(*collections, optimize=optimize, **options)


def persist(*collections: Any, client: Client | None = None, optimize: bool = True, **options: Any) -> Any:
    """Start to compute dask collections, and keep their chunks on the cluster.

    Args:
        *collections: dask collections; see :meth:`Client.persist <twistdist.blocking.Client.persist>`.
        client: A blocking client; by default the task's own, or the only open client of this process.
        optimize: Whether dask optimizes the graph first.
        **options: Task options for every task of the graph.

    Returns:
        The collection, or a tuple of several, on a graph of Futures.

    Raises:
        TwistdistError: No client is open, or several are.
    """
    return default_client(client).persist(*collections, optimize=optimize, **options)
