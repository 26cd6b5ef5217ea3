"""Loose functions on a scheduler's address, for a script or a prompt: blocking, keys by name, values coming back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from twistdist.blocking import Client
from twistdist.errors import DataLost
from twistdist.net.options import several

__all__ = ["clear", "gather", "scatter", "who_has"]

#: The durable session that keeps what :func:`scatter` has brought.
SCATTERED = "twistdist.client.scatter"


def clear(
    address: str,
    secret: str | bytes | None = None,
    timeout: float = 30.0,
    tls: str | os.PathLike[str] | None = None,
    sessions: Iterable[str] = (),
) -> dict[str, int]:
    """Drop all data and tasks that no connected session and no durable one wants; ``{"sessions": …, "tasks": …}`` that went.

    Durable sessions named in ``sessions`` go too; ``TwistdistError`` when one is unknown or has a connected client.
    """
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        return client.clear(sessions, timeout)


def gather(
    address: str,
    keys: Iterable[str],
    secret: str | bytes | None = None,
    timeout: float = 30.0,
    tls: str | os.PathLike[str] | None = None,
) -> list[Any]:
    """The values of ``keys``, in order.  ``DataLost`` names the keys that nobody on the cluster knows."""
    names = several(keys)
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        futures = client.take_up(names, timeout)
        unknown = [name for name, future in zip(names, futures, strict=True) if future is None]
        if unknown:
            raise DataLost(f"no task has the key {', '.join(unknown)}; client.who_has lists those that are there")
        values: list[Any] = client.gather(futures, timeout=timeout)
        return values


def scatter(
    address: str, data: Any, secret: str | bytes | None = None, timeout: float = 30.0, tls: str | os.PathLike[str] | None = None
) -> Any:
    """Put data on the cluster, two copies of each: its key, or a list or dict of keys in the shape of ``data``.

    They outlive this call: the durable session ``SCATTERED`` keeps them until it is ended.  Equal data have the same key.
    """
    with Client(address, session=SCATTERED, secret=secret, tls=tls, timeout=timeout) as client:
        futures = client.scatter(data, hash=True, resupply=False, timeout=timeout)
        if isinstance(futures, dict):
            return {name: future.key for name, future in futures.items()}
        return [future.key for future in futures] if isinstance(futures, list) else futures.key


def who_has(
    address: str, secret: str | bytes | None = None, timeout: float = 30.0, tls: str | os.PathLike[str] | None = None
) -> dict[str, list[str]]:
    """Key -> names of the workers that hold its value (none: it is small, and lives on the scheduler)."""
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        return client.who_has(timeout=timeout)
