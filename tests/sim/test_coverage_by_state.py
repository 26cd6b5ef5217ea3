"""What is counted, and what is said about pairs that were not met or should not have been."""

from collections import Counter

import pytest

from twistdist.testing import coverage_by_state, pairs
from twistdist.testing.coverage_by_state import Totals
from twistdist.testing.simulate import World, main, run_seeds

DONE = ("task", "Done", "assigned")


def test_every_rule_is_about_some_pair_and_every_frequent_pair_can_happen():
    universe = pairs.universe()
    assert len({*universe}) == len(universe)
    for never in pairs.NEVER:
        assert any(never.has(pair) for pair in universe) and never.why, never
        known = {cell for table, *cells in universe if table == never.table for cell in cells}
        assert known.issuperset((*never.rows, *never.columns)), never
    assert pairs.OFTEN == {*pairs.expected(False)} <= {*pairs.expected(True)}
    assert len(pairs.OFTEN) > 400


def test_each_table_is_described():
    assert {table for table, _, _ in pairs.universe()} == {*pairs.TABLES}


def test_totals_add_up_and_survive_a_file(tmp_path):
    one, other = Totals(), Totals()
    one.add(7, Counter({DONE: 3}), Counter(cut=1))
    other.add(5, Counter({DONE: 2}), Counter(cut=2, status=1))
    other.add(6, Counter(), Counter())
    one.merge(other)
    one.write(tmp_path / "met.json")
    read = Totals.read(tmp_path / "met.json")
    assert read.runs == 3 and read.met == {DONE: (2, 5, 5)} and read.faults == Counter(cut=3, status=1)
    told = read.kinds()
    assert told[0].split() == ["cut", "3"] and told[-1].split() == ["all", "3"]


def test_what_was_not_met_is_named(tmp_path, capsys):
    totals = Totals()
    totals.add(1, Counter(dict.fromkeys(set(pairs.expected(False)) - {DONE}, 1)), Counter())
    totals.write(tmp_path / "met.json")
    assert coverage_by_state.main([str(tmp_path / "met.json")]) == 1
    assert "never met: Done, assigned (task)\n" in capsys.readouterr().out
    totals.add(2, Counter({DONE: 1}), Counter())
    totals.write(tmp_path / "met.json")
    assert coverage_by_state.main([str(tmp_path / "met.json")]) == 0
    assert coverage_by_state.main(["--rare", str(tmp_path / "met.json")]) == 1


def test_what_can_t_happen_and_does_is_named_with_its_seed():
    impossible = next(pair for pair in pairs.universe() if pairs.why_not(pair))
    totals = Totals()
    totals.add(11, Counter({impossible: 1, ("task", "Done", "on holiday"): 1}), Counter())
    told = "\n".join(totals.report(False))
    assert f"met in seed 11: {impossible[1]}, {impossible[2]} ({impossible[0]}), which can't happen, because " in told
    assert "met in seed 11: Done, on holiday (task), which is not listed" in told


def test_counting_does_not_change_a_run():
    for seed in range(5):
        plain, counted = World(seed), World(seed, count=True)
        plain.run()
        counted.run()
        assert plain.trace_digest() == counted.trace_digest()
        assert counted.met.pairs["task", "Done", "assigned"] or not counted.executions


def test_processes_count_together_what_one_counts_alone(tmp_path):
    alone = run_seeds(0, 20, coverage=True).totals
    assert main(["--seeds", "20", "--jobs", "2", "--coverage", str(tmp_path / "met.json")]) == 0
    together = Totals.read(tmp_path / "met.json")
    assert together.runs == 20 and together.met == alone.met


@pytest.mark.parametrize("kind", ["kill scheduler", "journal fails", "take over", "stop executor", "client leaves"])
def test_a_swarm_has_runs_with_a_fault_and_runs_without_it(kind):
    having = [kind in World(seed).swarm.faults for seed in range(60)]
    assert any(having) and not all(having)
