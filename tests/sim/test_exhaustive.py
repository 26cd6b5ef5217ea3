"""Every interleaving of small systems: the real classes keep their promises, and broken ones do not."""

import functools
import pathlib

import pytest

from twistdist.testing import exhaustive
from twistdist.testing.exhaustive import canonical, search
from twistdist.testing.mutants import MUTANTS
from twistdist.testing.mutations import Copy, mutated
from twistdist.testing.small import Cluster, Commit

CHECKOUT = pathlib.Path(__file__).parents[2]

#: Bugs that two messages and one fault show.
SHOWN = (
    "repetition accepted",
    "resume forgets a frame",
    "sent frames are not kept",
    "acknowledged before it is durable",
    "restart not noticed on resume",
    "acknowledgement before the write",
    "failed write forgotten",
)


def test_the_session_layer_keeps_its_promises_in_every_interleaving_with_a_fault():
    found = search(functools.partial(Commit, 2, 1))
    assert not found.wrong and found.complete, found
    assert found.states > 2_000 and found.ends > 1
    assert {"cut", "crash", "write fails"} <= set(found.actions)


def test_the_cluster_keeps_its_promises_in_every_interleaving_without_a_fault():
    found = search(functools.partial(Cluster, 0))
    assert not found.wrong and found.complete, found
    assert found.states > 100 and found.ends > 1


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return Copy(CHECKOUT, tmp_path_factory.mktemp("copy"))


@pytest.mark.parametrize("name", SHOWN)
def test_a_bug_in_the_session_layer_is_found(copy, name):
    mutant = next(one for one in MUTANTS if one.name == name)
    path = copy.folder / "twistdist" / "core" / mutant.file
    source = path.read_text()
    copy.write(path, mutated(mutant, source))
    try:
        status, told = copy.run("-m", "twistdist.testing.exhaustive", "commit", "--messages", "2", "--faults", "1")
    finally:
        copy.write(path, source)
    assert status == 1 and "WRONG after" in told, told


def test_states_are_equal_if_only_addresses_differ():
    first, second = Commit(1, 0), Commit(1, 0)
    assert canonical(first.state()) == canonical(second.state())
    first.do(("post",))
    assert canonical(first.state()) != canonical(second.state())


def test_a_search_that_was_not_ended_says_so(capsys):
    assert exhaustive.main(["commit", "--faults", "1", "--seconds", "0.01"]) == 1
    assert "NOT COMPLETE" in capsys.readouterr().out
