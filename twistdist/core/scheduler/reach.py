"""Which peers can reach each other: the workers that each peer knows, and the links over which results could not be fetched."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from twistdist.core.scheduler.outputs import Outputs, Peer
from twistdist.core.scheduler.records import (
    Task,
    Worker,
)
from twistdist.core.scheduler.registry import Registry
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Reach:
    """``links`` are (number of the peer that could not fetch, number of the worker that holds the result) and since when."""

    outputs: Outputs
    registry: Registry
    links: dict[tuple[int, int], float] = attrs.field(factory=dict)

    def introduce(self, peer: Peer, workers: Iterable[Worker]) -> list[int]:
        """Tell ``peer`` where the workers can be reached.  Return the workers' numbers, silent ones last."""
        numbers = []
        for worker in sorted(workers, key=lambda worker: (peer.number, worker.number) in self.links or not worker.reachable):
            if worker.number not in peer.peers:
                peer.peers.add(worker.number)
                hello = worker.hello
                self.outputs.post(peer, m.Peer(worker.number, hello.name, hello.host, hello.store, hello.address))
                if worker.suspect:
                    self.outputs.post(peer, m.PeerState(worker.number, "suspect"))
            numbers.append(worker.number)
        return numbers

    def tell_state(self, worker: Worker, state: str) -> None:
        """Notify all peers that know the worker that it is "suspect", "gone" or reachable again ("")."""
        for peer in self.registry.peers():
            if worker.number in peer.peers and peer is not worker:
                self.outputs.post(peer, m.PeerState(worker.number, state))

    def forget(self, worker: Worker) -> None:
        """The worker is no longer part of the cluster, and its number no longer useful."""
        for peer in self.registry.peers():
            peer.peers.discard(worker.number)

    def drop_links(self, worker: Worker) -> None:
        """The worker is gone: failed fetches from it, or by it, say nothing any more."""
        for link in [link for link in self.links if worker.number in link]:
            del self.links[link]

    def mark(self, now: float, peer: Peer, holder: int) -> bool:
        """``peer`` could not fetch from that worker.  Return False if that is known already."""
        if (peer.number, holder) in self.links:
            return False
        self.links[(peer.number, holder)] = now
        return True

    def unmark(self, peer: Peer, holder: int) -> None:
        """A fetch over the link has succeeded, or the last one failed long ago."""
        self.links.pop((peer.number, holder), None)

    def cut_for(self, now: float, peer: Peer, holder: int) -> float:
        """Seconds since ``peer`` could not fetch from that worker; 0 if it can, as far as is known."""
        return now - self.links.get((peer.number, holder), now)

    def can_fetch(self, worker: Worker, task: Task) -> bool:
        """Whether, as far as is known, ``worker`` can fetch each of the task's inputs from some holder."""
        return all(
            upstream.holders is None
            or worker in upstream.holders
            or any((worker.number, holder.number) not in self.links for holder in upstream.holders)
            for upstream in task.inputs
        )
