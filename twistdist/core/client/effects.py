"""What a client's core wants done: carried out by the edge, in order."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from twistdist.wire import messages as m


@attrs.frozen
class Answer:
    """The reply to a question that was asked."""

    reply: m.Reply


@attrs.frozen
class Supply:
    """Bring scattered data to a worker; where that can't be, :meth:`.Client.not_supplied` says so."""

    supply: m.Supply
    worker: m.Peer


@attrs.frozen
class DropData:
    """These scattered data need not be kept any longer."""

    cids: list[int]


@attrs.frozen
class PeerTrouble:
    """A worker is silent, or gone: what is fetched from it is to come from others, where there are any; if it is ``gone``, not
    from there at all."""

    address: str
    gone: bool


Effect: TypeAlias = Answer | Supply | DropData | PeerTrouble
