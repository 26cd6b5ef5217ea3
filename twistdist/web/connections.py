"""A bound on the connections of one endpoint: the scheduler needs its file descriptors for workers and clients."""

from __future__ import annotations

from typing import Any

from twisted.protocols.policies import WrappingFactory

#: Connections at a time; a page needs one for its stream and up to five more for a moment.
MAX_CONNECTIONS = 500


class Bounded(WrappingFactory):
    """Closes connections beyond ``MAX_CONNECTIONS`` as soon as they are accepted."""

    noisy = False

    def buildProtocol(self, addr: Any) -> Any:
        """Called by the port."""
        return None if len(self.protocols) >= MAX_CONNECTIONS else super().buildProtocol(addr)
