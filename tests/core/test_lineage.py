"""The recovery plan against the definition, on random graphs."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from twistdist.core.scheduler.lineage import recovery_plan


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 8))
    inputs = {n: draw(st.sets(st.integers(0, n - 1), max_size=3)) if n else set() for n in range(size)}
    available = draw(st.sets(st.integers(0, size - 1)))
    lost = draw(st.lists(st.integers(0, size - 1), max_size=4))
    return inputs, available, lost


def gives_all(plan, inputs, available, lost):
    """Whether running ``plan`` in order works and gives every lost value."""
    have = set(available)
    for task in plan:
        if not inputs[task] <= have:
            return False
        have.add(task)
    return have.issuperset(lost)


@given(graphs())
@settings(max_examples=300)
def test_the_plan_works_and_no_smaller_set_does(graph):
    inputs, available, lost = graph
    plan = recovery_plan(lost, available.__contains__, lambda n: sorted(inputs[n]))
    assert len(plan) == len(set(plan))
    assert gives_all(plan, inputs, available, lost)
    for fewer in range(len(plan)):
        for subset in itertools.combinations(sorted(plan), fewer):
            assert not gives_all(subset, inputs, available, lost)  # numbers grow along edges: sorted is an order


def test_a_chain_longer_than_the_stack():
    plan = recovery_plan([100_000], lambda n: n == 0, lambda n: [n - 1])
    assert plan == list(range(1, 100_001))
