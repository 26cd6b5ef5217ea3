"""The list of deliberate bugs fits the code; python -m twistdist.testing.mutations plants them."""

import pathlib

import pytest

from twistdist.testing import mutations
from twistdist.testing.mutants import MUTANTS, Mutant

CORE = pathlib.Path(__file__).parents[1] / "twistdist" / "core"


def test_every_bug_can_be_planted_in_the_code_as_it_is():
    mutations.check_all(CORE)
    assert len(MUTANTS) >= 60
    changed = [mutations.mutated(mutant, (CORE / mutant.file).read_text()) for mutant in MUTANTS]
    assert len(set(changed)) == len(MUTANTS), "two are the same bug"


def test_every_part_of_the_cores_has_some():
    files = {mutant.file.partition("/")[0] for mutant in MUTANTS}
    assert files >= {"session.py", "exchange.py", "scheduler", "worker", "client"}


def test_a_text_that_is_no_longer_there_is_an_error():
    with pytest.raises(ValueError, match=r"occurs 0 times in core/x\.py"):
        mutations.mutated(Mutant("a", "x.py", "old", "new", "promise"), "something else")
    with pytest.raises(ValueError, match="occurs 2 times"):
        mutations.mutated(Mutant("a", "x.py", "old", "new", "promise"), "old old")
    with pytest.raises(ValueError, match="can't be parsed"):
        mutations.mutated(Mutant("a", "x.py", "old", "(", "promise"), "old")


def test_the_docs_have_every_bug():
    page = (CORE.parents[1] / "docs" / "mutants.rst").read_text()
    missing = [mutant.name for mutant in MUTANTS if f"* - {mutant.name}\n" not in page]
    assert not missing, f"python -m twistdist.testing.mutations --rst prints the rows of {missing}"
    assert "NOT FOUND" not in page
