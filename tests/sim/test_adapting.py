"""The policy of ``adapt`` on simulated clusters, and what it costs beside the best policy in hindsight."""

from __future__ import annotations

import pathlib

import pytest

from twistdist.clusters import policy
from twistdist.clusters.policy import Demand, Load, Need, Policy, State
from twistdist.testing import adapting, rivals
from twistdist.testing.adapting import Job, Setting, World

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "adapting.rst"

#: Loads that cost more than 1.3 times what they cost somebody who knows them, with a bound; docs/adapting.rst says why.
DEARER = {
    "six tasks of 10 min": 1.4,
    "10 tasks of 1 min, one of 2 min, 10 of 1 min": 1.5,
    "bursts of 5 min, starts of 30 s": 1.6,
    "bursts of 3 min, starts of 5 min": 1.9,
}


@pytest.mark.parametrize("block", range(10))
def test_whatever_the_load_and_the_cluster(block):
    for seed in range(20 * block, 20 * block + 20):
        setting = adapting.random_setting(seed)
        outcome = World(setting).run()
        assert not outcome.broken, (seed, outcome.broken[:3])
        assert not outcome.unfinished, (seed, outcome.unfinished)
        assert outcome.turns <= adapting.most_turns(outcome), (seed, outcome.turns)
        assert outcome.most <= setting.policy.maximum, seed
        lost = 2 * policy.GIVE_UP_S if setting.never else 0.0  # nobody says that a job has been lost
        assert outcome.longest_starved_s <= 60 + 3 * setting.start_s + lost, (seed, outcome.longest_starved_s)


@pytest.mark.parametrize("setting", adapting.fixed_loads(), ids=lambda setting: setting.name)
def test_the_cost_is_near_that_of_the_best_policy_in_hindsight(setting):
    outcome, known = adapting.compare(setting)
    cost = outcome.cost(setting.target_s)
    figures, name = [
        line.strip().removeprefix(setting.name).strip()
        for line in PAGE.read_text().splitlines()
        if line.strip().startswith(setting.name + "  ")
    ]
    best = World(setting, rivals.rivals(setting.policy.maximum)[name]).run().cost(setting.target_s)
    assert not outcome.unfinished and not outcome.broken
    assert cost <= 1.3 * best and 1.0 <= cost / known <= DEARER.get(setting.name, 1.3)
    ratios = [float(figures.split()[place]) for place in (3, 5)]
    assert ratios == pytest.approx([cost / best, cost / known], abs=0.02), "run python -m twistdist.testing.adapting"


@pytest.mark.parametrize("name, wanted", [("fixed, 7", 7), ("a worker a task, kept 0 s", 9), ("by duration, 5 s, kept 0 s", 3)])
def test_rivals_want_what_their_names_say(name, wanted):
    waiting = (Need({}, (), 8, 12.0, 2), Need({}, (), 1, 1.0, 0))
    plan = rivals.rivals(10)[name](Demand(waiting, (), 9, 0), State(), Policy(0, 10), 0.0)
    assert (plan.wanted, plan.start, plan.retire) == (wanted, wanted, ())
    if "kept" in name:
        here = tuple(Load(f"w{n}", running=0, idle_s=0.5) for n in range(3))
        assert set(rivals.rivals(10)[name](Demand((), here, 1, 9), plan.state, Policy(0, 10), 1.0).retire) == {"w0", "w1", "w2"}


def test_the_best_rival_of_a_steady_load_costs_nearly_as_little_as_for_somebody_who_knows_it():
    steady = adapting.stream(600.0, lambda at: 3.0, 1.0, 1.0)
    setting = Setting("steady", steady, Policy(0, 4), start_s=1.0)
    cost, name = adapting.best_rival(setting)
    assert 1.0 <= cost / adapting.clairvoyant_cost(setting) < 1.1 and name


def test_a_rival_that_leaves_work_undone_is_not_the_best(monkeypatch):
    monkeypatch.setattr(rivals, "PATIENCES_S", ())
    setting = Setting("one", (Job(0.0, 5.0),), Policy(0, 2), start_s=1.0)
    monkeypatch.setattr(
        adapting, "rivals", lambda maximum: {"nobody": rivals.planner(lambda demand, slots: 0, 0.0), **rivals.rivals(2)}
    )
    assert adapting.best_rival(setting)[1] == "fixed, 1"


def test_the_best_policy_in_hindsight_is_known_for_one_burst():
    """Four tasks of 100 s: four workers are started in time, and do them.  Less is not possible."""
    setting = Setting("burst", tuple(Job(50.0, 100.0) for _ in range(4)), Policy(0, 4), start_s=10.0)
    assert adapting.clairvoyant_cost(setting) == 4 * (10 + 100)
    short = Setting("short", (Job(50.0, 2.0), Job(50.0, 2.0)), Policy(0, 4, target_s=1000.0), start_s=10.0)
    assert adapting.clairvoyant_cost(short) == pytest.approx(10 + 4, abs=0.1)  # it is not worth two starts


def test_a_flapping_policy_would_be_found(monkeypatch):
    monkeypatch.setattr(policy, "limit_of", lambda level, patience_s: 0.0)
    flat = adapting.stream(600.0, adapting.on_and_off(20.0, 4.0, 4.0), 1.0, 1.0)
    outcome = World(Setting("on and off", flat, Policy(0, 8, patience_s=60.0), start_s=0.0)).run()
    assert outcome.turns > adapting.most_turns(outcome)


def test_the_table_is_printed(capsys, monkeypatch):
    few = [one for one in adapting.fixed_loads() if one.name.startswith("10 tasks")]
    monkeypatch.setattr(adapting, "fixed_loads", lambda: few)
    monkeypatch.setattr("sys.argv", ["adapting", "--unseen", "2"])
    adapting.main()
    printed = capsys.readouterr().out
    assert "ratio" in printed and "2 random loads, to the best policy: median" in printed
