"""A message that is added is handled wherever it may come.  CONTRIBUTING.rst says how to add it."""

from __future__ import annotations

import typing

import pytest

from twistdist.core.client import Client
from twistdist.core.scheduler import Scheduler
from twistdist.core.worker import Worker
from twistdist.wire import messages as m

HELLO = m.HelloWorker(1, "w", 1, 1, 1, "a", "h", "/s", {}, [], [], [])
RECEIVERS = {
    "scheduler": (m.FromClient | m.FromWorker, Scheduler(1)),
    "client": (m.ToClient, Client(1)),
    "worker": (m.ToWorker, Worker(HELLO)),
}


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_every_message_that_may_come_has_a_handler_and_no_other_has(receiver):
    union, core = RECEIVERS[receiver]
    assert set(typing.get_args(union)) == {kind for kind in core._handlers if kind is not m.Undecodable}


KINDS = [kind for kind in vars(m).values() if isinstance(kind, type) and issubclass(kind, m.Message) and kind is not m.Message]


def test_tags_are_of_one_message_each():
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(set(tags)) == len(tags) > 60


def test_every_message_says_what_it_means():
    assert all(kind.__doc__ and kind.__doc__ != m.Message.__doc__ for kind in KINDS)
