"""Loose functions on a scheduler's address, for a script or a prompt: blocking, keys by name, values coming back."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from twistdist.blocking import Client
from twistdist.errors import DataLost

__all__ = ["clear", "gather", "who_has"]


def clear(address: str, secret: str | bytes | None = None, timeout: float = 30.0,
          tls: str | os.PathLike[str] | None = None) -> dict[str, int]:  # fmt: skip
    """Drop all data and tasks that no connected session wants; ``{"sessions": …, "tasks": …}`` that went."""
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        return client.clear(timeout)


def gather(address: str, keys: Iterable[str], secret: str | bytes | None = None, timeout: float = 30.0,
           tls: str | os.PathLike[str] | None = None) -> list[Any]:  # fmt: skip
    """The values of ``keys``, in order.  ``DataLost`` names the keys that nobody on the cluster knows."""
    names = list(keys)
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        futures = client.take_up(names, timeout)
        unknown = [name for name, future in zip(names, futures, strict=True) if future is None]
        if unknown:
            raise DataLost(f"no task has the key {', '.join(unknown)}; client.who_has lists those that are there")
        values: list[Any] = client.gather(futures, timeout=timeout)
        return values


def who_has(address: str, secret: str | bytes | None = None, timeout: float = 30.0,
            tls: str | os.PathLike[str] | None = None) -> dict[str, list[str]]:  # fmt: skip
    """Key -> names of the workers that hold its value (none: it is small, and lives on the scheduler)."""
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        return client.who_has(timeout=timeout)
