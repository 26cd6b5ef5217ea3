"""Where values are: by worker, and by host."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from twistdist.core.scheduler.records import Worker

#: Values that are looked at, so that an open page stays cheap.
MAX_COUNTED = 5_000

#: An identity that nobody has chosen (``net.hosts.host_identity``) says nothing to people.
_MADE = re.compile(r".*-\d+-\d+")


def hosts_of(workers: Collection[Worker]) -> list[list[Any]]:
    """``[identity, name for people, its workers, copies, bytes, values, values that no other host has]`` of each host.

    The last two are None if there are more than ``MAX_COUNTED`` copies.
    """
    by_host: dict[str, list[Worker]] = {}
    for worker in workers:
        by_host.setdefault(worker.hello.host, []).append(worker)
    few = sum(len(worker.holds) for worker in workers) <= MAX_COUNTED
    values, alone = dict.fromkeys(by_host, 0), dict.fromkeys(by_host, 0)
    for worker in workers if few else ():
        own = worker.hello.host
        for task in worker.holds:
            holders = task.holders
            if holders is None or len(holders) == 1:  # most values: this is called every second
                values[own] += 1
                alone[own] += 1
            elif next(iter(holders)) is worker:  # each value once
                found = {holder.hello.host: None for holder in holders}
                for host in found:
                    values[host] += 1
                    alone[host] += len(found) == 1
    names = _names(by_host)
    return [
        [
            host,
            names[host],
            [worker.name for worker in there],
            sum(len(worker.holds) for worker in there),
            sum(worker.bytes_held for worker in there),
            values[host] if few else None,
            alone[host] if few else None,
        ]
        for host, there in by_host.items()
    ]


def single_copies(workers: Collection[Worker]) -> dict[str, int | None]:
    """How many values only this worker has, by its name; None if there are more than ``MAX_COUNTED`` copies."""
    few = sum(len(worker.holds) for worker in workers) <= MAX_COUNTED
    return {worker.name: sum(len(task.holders or ()) == 1 for task in worker.holds) if few else None for worker in workers}


def _names(by_host: dict[str, list[Worker]]) -> dict[str, str]:
    """A name of each host that says something to people: the one that was chosen, or that in its first worker's address."""
    names: dict[str, str] = {}
    for host, own in by_host.items():
        parts = own[0].hello.address.split(":")
        name = parts[1] if _MADE.fullmatch(host) and len(parts) == 3 else host
        taken = [other for other in names.values() if other == name or other.startswith(f"{name} #")]
        names[host] = f"{name} #{len(taken) + 1}" if taken else name
    return names
