"""A failing seed becomes a short test file."""

import pytest

from twistdist.core.scheduler.lifecycle import Lifecycle
from twistdist.testing import shrink
from twistdist.testing.simulate import World, main, run_seeds


def test_a_failing_seed_becomes_a_short_test_that_fails_in_the_same_way(monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(Lifecycle, "recover", lambda self, lost, incident=None: None)
        seed, _ = run_seeds(0, 100, until_failure=True).failed[0]
        short = shrink.Shrinker(seed).shrink()
        text = shrink.script(short)
        names = {}
        exec(compile(text, "test_file.py", "exec"), names)
        with pytest.raises((AssertionError, RuntimeError, KeyError)):
            names[f"test_seed_{seed}"]()
    assert len(short.only) < short.of / 2 and len(short.story) >= len(short.only)
    assert short.wrong and "Seed" in text and "submits" in text
    names[f"test_seed_{seed}"]()  # the code as it is passes


def test_a_seed_that_does_not_fail_says_so(capsys):
    assert main(["--seed", "1", "--shrink"]) == 1
    assert "seed 1 does not fail" in capsys.readouterr().out


def test_a_run_with_everything_is_the_same_run():
    whole = World(3)
    whole.run()
    again = World(3, only=range(whole.outside.outsiders))
    again.run()
    assert whole.trace_digest() == again.trace_digest()
