"""Planting a bug in a copy, and what finds it."""

import re

import pytest

from twistdist.testing import mutations


def test_a_planted_bug_is_found_and_told(capsys):
    assert mutations.main(["--only", "acknowledgement before the write", "--seeds", "20"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"acknowledgement before the write +scheduler/gate.py +[\d.]+ s  simulation: \d+ seed", out)
    assert "1 mutants" in err and "1 found by simulation" in err


def test_a_name_that_no_bug_has_is_refused(capsys):
    with pytest.raises(SystemExit):
        mutations.main(["--only", "no such bug"])
    assert "no mutant has such a name" in capsys.readouterr().err
