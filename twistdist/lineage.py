"""The graph of how results were made, as ``client.lineage`` returns it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

#: Nodes of a graph that is drawn; the layout of a larger one takes minutes and nobody could read it.
MAX_DRAWN = 2_000

#: Characters of a key that are drawn.
MAX_LABEL = 40

#: The colours of states: of Graphviz's X11 names.
COLOURS = {
    "done": "palegreen",
    "failed": "salmon",
    "assigned": "lightskyblue",
    "ready": "lightyellow",
    "waiting": "lightgrey",
    "awaited": "lightgrey",
    "idle": "white",
}


@attrs.frozen
class LineageNode:
    """One task of a lineage.

    Attributes:
        key: The task's key.
        function: The name of its function; ``"data"`` for scattered data.
        state: Its state, as in :class:`~twistdist.interfaces.Story`.
        inputs: The keys of its inputs.  Empty, too, if its value can't be lost, because the scheduler has it or it is
            checkpointed: a replay would go no further.
        holders: The workers that hold its value.
    """

    key: str
    function: str
    state: str
    inputs: list[str]
    holders: list[str]


@attrs.frozen
class Lineage:
    """What a replay of some results would use: their tasks, and the tasks that those need, at any depth.

    Attributes:
        nodes: The tasks, each after its inputs.
    """

    nodes: list[LineageNode]

    @classmethod
    def of(cls, rows: Iterable[Any]) -> Lineage:
        """Make a lineage from what the scheduler answers: inputs are given by their places in the list."""
        rows = list(rows)
        keys = [row[0] for row in rows]
        return cls([LineageNode(key, fn, state, [keys[at] for at in inputs], on) for key, fn, state, inputs, on in rows])

    @property
    def keys(self) -> list[str]:
        """The keys of the tasks, each after its inputs."""
        return [node.key for node in self.nodes]

    def dot(self) -> str:
        """Return the graph in Graphviz's language: a node for each task, with an arrow to each task that takes its value."""
        numbers = {node.key: number for number, node in enumerate(self.nodes)}
        lines = ["digraph lineage {", "  rankdir=LR;", '  node [shape=box, style="rounded,filled", fontname="sans-serif"];']
        for number, node in enumerate(self.nodes):
            where = f" on {', '.join(node.holders)}" if node.holders else ""
            label = f"{_short(node.key)}\n{node.state}{where}"
            lines.append(f'  t{number} [label={_quoted(label)}, fillcolor="{COLOURS.get(node.state, "white")}"];')
        for number, node in enumerate(self.nodes):
            lines += [f"  t{numbers[key]} -> t{number};" for key in node.inputs if key in numbers]
        return "\n".join([*lines, "}"]) + "\n"

    def svg(self) -> str:
        """Return the graph as a picture, laid out by Graphviz.

        Raises:
            ImportError: ``pygraphviz``, which brings Graphviz with it, is not installed.
            ValueError: The graph has more than 2,000 tasks; use :meth:`dot`.
        """
        try:
            import pygraphviz
        except ImportError as error:
            raise ImportError(
                "Lineage.svg needs pygraphviz: pip install 'twistdist[graph]', or give the text of Lineage.dot() to Graphviz"
            ) from error
        if len(self.nodes) > MAX_DRAWN:
            raise ValueError(f"the lineage has {len(self.nodes)} tasks, more than {MAX_DRAWN} can't be drawn; use dot()")
        picture: bytes = pygraphviz.AGraph(string=self.dot()).draw(format="svg", prog="dot")
        return picture.decode()

    def _repr_svg_(self) -> str | None:
        """For notebooks; None if it can't be drawn."""
        try:
            return self.svg()
        except (ImportError, ValueError):
            return None


def _short(key: str) -> str:
    return key if len(key) <= MAX_LABEL else f"{key[: MAX_LABEL - 1]}…"


def _quoted(text: str) -> str:
    """A string of the language of Graphviz, which has escapes and HTML's entities, and no control characters."""
    plain = "".join(char if char >= " " or char == "\n" else "�" for char in text)
    return '"' + plain.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
