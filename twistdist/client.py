"""Blocking functions that take a scheduler's address, for a script or a prompt.

Each call opens a client, does one thing and closes the client.  Values are named by their keys.

All functions accept the same connection arguments as :class:`twistdist.blocking.Client` and raise the same errors if the
connection fails.  If an operation takes longer than ``timeout``, they raise ``TimeoutError``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from twistdist.blocking import Client
from twistdist.errors import DataLost
from twistdist.net.options import several

__all__ = ["clear", "gather", "scatter", "who_has"]

#: The durable session that keeps the data put on the cluster by :func:`scatter`.
SCATTERED = "twistdist.client.scatter"


def clear(
    address: str,
    secret: str | bytes | None = None,
    timeout: float = 30.0,
    tls: str | os.PathLike[str] | None = None,
    sessions: Iterable[str] = (),
) -> dict[str, int]:
    """Drop all data and tasks that no connected client, durable session or published dataset needs.

    Args:
        address: The scheduler's address.
        secret: The shared secret; by default it is read from the secret file.
        timeout: Seconds to wait for the connection, and again for the answer.
        tls: A directory of certificates made by ``twistdist certs``, for ``tls:`` addresses (default: ``TWISTDIST_TLS``).
        sessions: Names of durable sessions to end as well.  None of them may have a connected client.

    Returns:
        ``{"sessions": …, "tasks": …}``, the numbers of sessions and tasks that were dropped.

    Raises:
        TwistdistError: A name in ``sessions`` is unknown, or a client of that session is connected; nothing is dropped.
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
    """Fetch values by key, waiting for tasks that have not ended.

    Args:
        address: The scheduler's address.
        keys: One key, or an iterable of keys.
        secret: The shared secret; by default it is read from the secret file.
        timeout: Seconds to wait for the connection, then for the keys, then for the values.
        tls: A directory of certificates made by ``twistdist certs``, for ``tls:`` addresses (default: ``TWISTDIST_TLS``).

    Returns:
        The values, in the order of ``keys``.

    Raises:
        DataLost: No task on the cluster has one of the keys; the message names the unknown ones.
        Exception: The exception of the first task that failed.
    """
    names = several(keys)
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        futures = client.take_up(names, timeout)
        unknown = [name for name, future in zip(names, futures, strict=True) if future is None]
        if unknown:
            raise DataLost(f"no task has the key {', '.join(unknown)}; twistdist.client.who_has(address) lists the keys")
        values: list[Any] = client.gather(futures, timeout=timeout)
        return values


def scatter(
    address: str, data: Any, secret: str | bytes | None = None, timeout: float = 30.0, tls: str | os.PathLike[str] | None = None
) -> Any:
    """Put data on the cluster, with two copies of each value if there are two workers.

    The data outlive this call.  The durable session ``"twistdist.client.scatter"`` keeps them until it is ended, for instance
    with :func:`clear`.  Keys are made from the content, so equal values are stored once.

    Args:
        address: The scheduler's address.
        data: One picklable value, or a list, tuple, iterator or dict of values.
        secret: The shared secret; by default it is read from the secret file.
        timeout: Seconds to wait for the connection, and again for the copies.
        tls: A directory of certificates made by ``twistdist certs``, for ``tls:`` addresses (default: ``TWISTDIST_TLS``).

    Returns:
        The key of the value; a list of keys for a list, tuple or iterator; a dict of keys for a dict.

    Raises:
        SerializationError: A value can't be pickled.
    """
    with Client(address, session=SCATTERED, secret=secret, tls=tls, timeout=timeout) as client:
        futures = client.scatter(data, hash=True, resupply=False, timeout=timeout)
        if isinstance(futures, dict):
            return {name: future.key for name, future in futures.items()}
        return [future.key for future in futures] if isinstance(futures, list) else futures.key


def who_has(
    address: str, secret: str | bytes | None = None, timeout: float = 30.0, tls: str | os.PathLike[str] | None = None
) -> dict[str, list[str]]:
    """Return which workers hold which values.

    Args:
        address: The scheduler's address.
        secret: The shared secret; by default it is read from the secret file.
        timeout: Seconds to wait for the connection, and again for the answer.
        tls: A directory of certificates made by ``twistdist certs``, for ``tls:`` addresses (default: ``TWISTDIST_TLS``).

    Returns:
        A dict of key to the names of the workers that hold the value.  The list is empty for a small value, which is kept on
        the scheduler.
    """
    with Client(address, secret=secret, tls=tls, timeout=timeout) as client:
        return client.who_has(timeout=timeout)
