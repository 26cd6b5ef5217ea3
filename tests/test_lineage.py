"""The graph that a replay would use, as text and as a picture."""

from __future__ import annotations

import builtins

import pytest

from twistdist.lineage import MAX_DRAWN, Lineage, LineageNode

ODD = 'say "hi"\\ \n\x07 <b>&amp;'


def graph():
    return Lineage.of(
        [["a", "load", "done", [], ["w1"]], [ODD, "f", "failed", [0], []], ["c" * 100, "g", "waiting", [0, 1], []]]
    )


def test_inputs_are_named():
    assert graph().keys == ["a", ODD, "c" * 100] and graph().nodes[2].inputs == ["a", ODD]
    assert graph().nodes[0] == LineageNode("a", "load", "done", [], ["w1"])


def test_dot_has_a_node_for_each_task_and_an_arrow_for_each_input():
    lines = graph().dot().splitlines()
    assert lines[0] == "digraph lineage {" and lines[-1] == "}"
    assert '  t0 [label="a\\ndone on w1", fillcolor="palegreen"];' in lines
    assert [line for line in lines if "->" in line] == ["  t0 -> t1;", "  t0 -> t2;", "  t1 -> t2;"]


def test_svg_is_drawn_even_of_odd_keys():
    pytest.importorskip("pygraphviz")
    text = graph().svg()
    assert text.startswith("<?xml") and text.count("<g id=") >= 6 and "&lt;b&gt;&amp;amp;" in text
    assert Lineage([]).svg().startswith("<?xml") and graph()._repr_svg_() == text


def test_what_is_too_large_or_can_not_be_drawn_says_what_to_do(monkeypatch):
    pytest.importorskip("pygraphviz")
    large = Lineage([LineageNode(str(number), "f", "done", [], []) for number in range(MAX_DRAWN + 1)])
    with pytest.raises(ValueError, match="use dot"):
        large.svg()
    assert large._repr_svg_() is None
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "pygraphviz":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"twistdist\[graph\]"):
        graph().svg()
