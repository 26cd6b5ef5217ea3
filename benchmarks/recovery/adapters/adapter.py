"""What an adapter provides for the recovery benchmark, beside what ``System`` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.meter import family
from benchmarks.recovery.outcomes import submitted
from benchmarks.systems.system import System


class Adapter(System):
    """A system whose nodes have one worker of one slot each.  ``start`` is not used: cluster and client are started one by one.

    ``settings`` are documented settings for resilience, in words, and ``resilient_in`` the scenarios in which they change
    something: these are run with the settings (``resilient`` is true) and without.  ``unsupported`` says for scenarios why
    there is nothing to measure.  ``address`` is what a client needs to know of the cluster; "" if the system lives in its
    client.
    """

    name = ""
    settings = ""
    resilient_in: frozenset[str] = frozenset()
    unsupported: Mapping[str, str] = {}
    resilient = False
    address = ""

    def start_cluster(self, workers: int) -> None:
        """Start the processes of a cluster that other processes can use, and set ``address``."""

    def connect(self, address: str, workers: int) -> None:
        """Make this process a client, and return when there are so many workers."""
        raise NotImplementedError

    def submit_again(self, fn: Any, arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """Submit the tasks of a script that may be started again, so that what is done already is found if possible."""
        return [submitted(self, fn, *one) for one in arguments]

    def settled(self, tasks: Sequence[Any]) -> None:
        """Return when what the system does about results that are done is done too, such as a second copy of each."""

    def nodes(self) -> list[int]:
        """The processes at the top of each node: all below them are lost with the node."""
        raise NotImplementedError

    def node_of(self, pid: int) -> list[int]:
        """All processes of the node to which a process belongs."""
        trees = [family(top) for top in self.nodes()]
        return next((list(tree) for tree in trees if pid in tree), [])

    def head(self) -> list[int]:
        """The processes that know the cluster.  ``start_scheduler`` starts them again if ``features`` has ``RESTART``."""
        raise NotImplementedError

    def holder_of(self, handle: Any) -> int:
        """A process of a node that holds data which was put there by ``scatter``."""
        raise NotImplementedError
