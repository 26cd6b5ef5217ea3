"""When a worker must end, by its options and its surroundings."""

from __future__ import annotations

import random

import pytest

from twistdist.errors import ConfigError
from twistdist.net.worker import Terms
from twistdist.tap.lifetime import terms_of
from twistdist.tap.worker import Options

NOW = 1_800_000_000.0


def terms(*words, environment=None, dice=None):
    options = Options()
    options.parseOptions([*words, "127.0.0.1:1"])
    return terms_of(options, environment or {}, NOW, dice or random.Random(1))


def test_a_worker_lives_until_it_is_told_to_stop():
    assert terms() == Terms()
    assert terms("--notice", "25") == Terms(25.0)
    assert terms("--notice", "0").notice == 0.0


def test_a_lifetime_in_seconds():
    assert terms("--lifetime", "3600") == Terms(None, 3600.0, 60.0)
    assert terms("--lifetime", "3600", "--lifetime-margin", "300").margin == 300.0


def test_the_stagger_makes_each_worker_leave_earlier_by_another_time():
    words = ("--lifetime", "3600", "--lifetime-stagger", "600")
    found = [terms(*words, dice=random.Random(seed)).lifetime for seed in range(20)]
    assert len(set(found)) == 20 and all(3000 <= lifetime <= 3600 for lifetime in found)
    assert max(found) - min(found) > 200
    assert terms(*words, dice=random.Random(3)) == terms(*words, dice=random.Random(3))


def test_the_end_of_an_allocation_is_a_duration_from_now_on():
    found = terms("--lifetime", "auto", environment={"SLURM_JOB_END_TIME": str(int(NOW) + 7200)})
    assert found.lifetime == 7200.0 and "SLURM_JOB_END_TIME" in found.why


def test_an_allocation_without_a_limit_is_no_lifetime():
    years = str(int(NOW) + 100 * 366 * 86_400)
    assert terms("--lifetime", "auto", environment={"SLURM_JOB_END_TIME": years}) == Terms()


@pytest.mark.parametrize(
    "words, environment, text",
    [
        (["--lifetime", "soon"], {}, "--lifetime must be a number of seconds from 1 to"),
        (["--lifetime", "nan"], {}, "--lifetime must be"),
        (["--lifetime", "-5"], {}, "--lifetime must be"),
        (["--notice", "never"], {}, "--notice must be a number of seconds from 0 to 3600, got 'never'"),
        (["--lifetime-stagger", "5"], {}, "--lifetime-stagger needs --lifetime"),
        (["--lifetime", "50"], {}, "must be longer than --lifetime-margin"),
        (["--lifetime", "100", "--lifetime-stagger", "40"], {}, "--lifetime-stagger .40 s. together"),
        (["--lifetime", "auto"], {}, "finds no end of an allocation in the environment .SLURM_JOB_END_TIME"),
        (["--lifetime", "auto"], {"SLURM_JOB_END_TIME": "tomorrow"}, "must be a time in seconds since the epoch"),
        (["--lifetime", "auto"], {"SLURM_JOB_END_TIME": "1700000000"}, "ended 100000000 s ago"),
        (["--lifetime", "auto"], {"SLURM_JOB_END_TIME": "1800000030"}, "lifetime of 30 s must be longer"),
    ],
)
def test_a_clear_line_for_what_can_not_be(words, environment, text):
    with pytest.raises(ConfigError, match=text):
        terms(*words, environment=environment)
