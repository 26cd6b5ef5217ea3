"""What a client's core wants done; the edge carries it out in order."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from twistdist.wire import messages as m


@attrs.frozen
class Answer:
    """The reply to a question."""

    reply: m.Reply


@attrs.frozen
class Supply:
    """Send scattered data to a worker; if that fails, :meth:`.Client.not_supplied` reports it."""

    supply: m.Supply
    worker: m.Peer


@attrs.frozen
class DropData:
    """These scattered data need not be kept any longer."""

    cids: list[int]


@attrs.frozen
class PeerTrouble:
    """A worker is silent or gone: fetch from other holders instead, if there are any; if it is ``gone``, do not fetch from it
    at all."""

    address: str
    gone: bool


@attrs.frozen
class AttemptEnded:
    """An attempt of a traced task has ended: make its span."""

    traced: m.Traced


Effect: TypeAlias = Answer | Supply | DropData | PeerTrouble | AttemptEnded
