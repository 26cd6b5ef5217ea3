"""Tables of the documentation that are made from the code, so that they can't fall behind it."""

from __future__ import annotations

import ast
import pathlib
import re

import attrs

PACKAGE = pathlib.Path(__file__).parent.parent / "twistdist"

#: Folders whose module constants are listed beside the settings classes of the cores.
EDGES = ("net", "executors", "storage", "wire", "tap")


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A list-table."""
    text = ".. list-table::\n   :header-rows: 1\n\n"
    for cells in [header, *rows]:
        text += "   * - " + "\n     - ".join(cells) + "\n"
    return text + "\n"


def transitions() -> str:
    """The states of tasks and the transitions between them."""
    from twistdist.core.scheduler.transitions import rows

    return table(("from", "to", "cause", "because"), rows())


def tuning(of: str) -> str:
    """The fields of a settings class, "scheduler" or "worker"."""
    if of == "scheduler":
        from twistdist.core.scheduler.settings import Tuning
    else:
        from twistdist.core.worker.tuning import Tuning
    rows = [
        (f"``{field.name}``", f"{field.default:,}", field.metadata["unit"], field.metadata["meaning"])
        for field in attrs.fields(Tuning)
    ]
    return table(("name", "default", "unit", "meaning"), rows)


def parts(of: str) -> str:
    """The parts of a core in reading order: what each does, and which parts it is given."""
    folder = PACKAGE / "core" / of
    described = re.findall(r"^``(\w+)`` +(.+)$", ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "", re.M)
    rows = []
    for name, meaning in described:
        given = []
        for node in ast.parse((folder / f"{name}.py").read_text()).body:
            if isinstance(node, ast.ClassDef) and node.decorator_list:
                fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and part.value is None]
                given += [field.target.id for field in fields if isinstance(field.target, ast.Name)]
        known = [part for part in given if part in dict(described)]
        rows.append((f"``{name}``", meaning, ", ".join(known) or "-"))
    return table(("part", "what it does", "is given"), rows)


def constants() -> str:
    """The constants with a ``#:`` comment of the packages around the cores."""
    rows = []
    for folder in EDGES:
        for path in sorted((PACKAGE / folder).glob("*.py")):
            comment: list[str] = []
            for line in path.read_text().splitlines():
                found = re.match(r"([A-Z][A-Z_0-9]+(?:, [A-Z_0-9]+)*) = (.+)", line)
                if line.startswith("#:"):
                    comment.append(line.removeprefix("#:").strip())
                elif found and comment:
                    value = shown(found[2])
                    rows.append((f"``{folder}.{path.stem}``", f"``{found[1]}``", value, " ".join(comment)))
                    comment = []
                else:
                    comment = []
    return table(("module", "name", "value", "meaning"), [row for row in rows if row[2]])


def pairs() -> str:
    """How many pairs of an event and a state there are in each table of the simulator's coverage."""
    from twistdist.testing import pairs

    rows = []
    for name, meaning in pairs.TABLES.items():
        mine = [pair for pair in pairs.universe() if pair[0] == name]
        often, never = sum(pair in pairs.OFTEN for pair in mine), sum(bool(pairs.why_not(pair)) for pair in mine)
        rows.append((name, meaning, str(often), str(len(mine) - often - never), str(never)))
    return table(("table", "rows and columns", "met often", "rare or open", "can't happen"), rows)


def never_met() -> str:
    """The pairs that can't happen, and why."""
    from twistdist.testing import pairs

    return table(
        ("table", "event", "state", "why it can't happen"),
        [(one.table, ", ".join(one.rows) or "any", ", ".join(one.columns) or "any", one.why) for one in pairs.NEVER],
    )


def shown(value: str) -> str:
    """A constant's value, where it is a number or a few of them; "" for others."""
    try:
        tree = ast.parse(value.split("  #")[0], mode="eval")
    except SyntaxError:
        return ""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Call | ast.Attribute)]
    numbers = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, int | float)]
    return f"``{ast.unparse(tree)}``" if numbers and not names else ""


#: What stands in a page in the place of a table.
MADE = {
    ".. transitions\n": transitions,
    ".. tuning: scheduler\n": lambda: tuning("scheduler"),
    ".. tuning: worker\n": lambda: tuning("worker"),
    ".. constants\n": constants,
    ".. parts: scheduler\n": lambda: parts("scheduler"),
    ".. parts: worker\n": lambda: parts("worker"),
    ".. pairs\n": pairs,
    ".. pairs that can't happen\n": never_met,
}


def fill_in(app: object, name: str, source: list[str]) -> None:
    """Called by Sphinx for every page that it reads."""
    for mark, make in MADE.items():
        if mark in source[0]:
            source[0] = source[0].replace(mark, make())
