"""The Python blocks of README.rst and docs/ are scripts that run and print what they say.  CONTRIBUTING.rst has the rule."""

from __future__ import annotations

import ast
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import textwrap

import attrs
import pytest

from twistdist.blocking import LocalCluster

ROOT = pathlib.Path(__file__).parents[2]

#: The address that the pages use for a running cluster.
ADDRESS = "127.0.0.1:8786"

#: Seconds that one block may take.
TIMEOUT_S = 120

#: How many blocks run at a time.  Most of them wait for a cluster of their own to start.
AT_A_TIME = 3


@attrs.frozen
class Block:
    page: str
    line: int
    text: str
    mark: str = ""  # "not run" or "raises"
    argument: str = ""

    def __str__(self):
        return f"{self.page}:{self.line}"

    def is_python(self):
        """Whether it parses; or it does not and imports something, which is a mistake that running it shows."""
        try:
            return bool(ast.parse(self.text).body)
        except SyntaxError:
            return bool(re.search(r"^\s*(?:import \w|from \S+ import )", self.text, re.MULTILINE))

    def prints(self):
        return [said.strip() for said in re.findall(r"print\(.*#\s*prints\s(.*)$", self.text, re.MULTILINE)]


def indent(line):
    return len(line) - len(line.lstrip())


def begins_block(line):
    text = line.strip()
    if text.startswith(".."):
        return re.fullmatch(r"\.\. (?:code-block|code|sourcecode):: python3?", text) is not None
    return text.endswith("::")


def mark_before(lines, at):
    """The mark that stands before the paragraph which contains the line."""
    while at and lines[at - 1].strip():
        at -= 1
    before = next((line.strip() for line in reversed(lines[:at]) if line.strip()), "")
    return re.match(r"\.\. (not run|raises): (\S.*)$", before)


def blocks_of(page, text):
    """Literal blocks and blocks of Python code, in order."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        start = at
        at += 1
        if not begins_block(lines[start]):
            continue
        while at < len(lines) and (not lines[at].strip() or indent(lines[at]) > indent(lines[start])):
            at += 1
        code = textwrap.dedent("\n".join(lines[start + 1 : at])).strip() + "\n"
        mark = mark_before(lines, start)
        yield Block(page, start + 1, code, *(mark.groups() if mark else ()))


def python_blocks():
    for path in (ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))):
        for block in blocks_of(str(path.relative_to(ROOT)), path.read_text()):
            if block.is_python():
                yield block


BLOCKS = list(python_blocks())
RUN = [block for block in BLOCKS if block.mark != "not run"]


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """By block, the future of the process that ran it.  Only the blocks whose tests were selected are run."""
    chosen = {str(item.callspec.params["block"]) for item in request.session.items if "outcomes" in item.fixturenames}
    with LocalCluster(n_workers=2, slots=2) as cluster:
        pool = concurrent.futures.ThreadPoolExecutor(AT_A_TIME)
        try:
            yield {
                str(block): pool.submit(run, block, cluster.address, tmp_path_factory.mktemp("block"))
                for block in RUN
                if str(block) in chosen
            }
        finally:
            pool.shutdown(cancel_futures=True)


def run(block, address, folder):
    """Run a block as a script, with the address of a running cluster."""
    script = folder / "script.py"
    script.write_text(block.text.replace(ADDRESS, address.removeprefix("tcp:")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if "n_workers=" not in block.text:  # it is satisfied with any cluster
        environment["TWISTDIST_SCHEDULER"] = address
    return subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs_and_prints_what_it_says(block, outcomes):
    done = outcomes[str(block)].result()
    shown = f"{block}\n{block.text}\n{done.stdout}\n{done.stderr}"
    if block.mark == "raises":
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(block.argument), shown
    else:
        assert done.returncode == 0, shown
    printed = iter(done.stdout.splitlines())
    for line in block.prints():
        assert line in printed, f"it did not print {line}, or not in this order\n{shown}"


PAGE = """\
A paragraph::

    import twistdist

    x = 1

.. not run: it needs a machine

Two lines
of text::

    print(1)  # prints 2

* an item::

      twistd -n twistdist-scheduler

.. raises: ValueError

.. code-block:: python

   from twistdist import (

.. toctree::

   index
"""


def test_blocks_are_found_with_their_marks():
    found = list(blocks_of("page", PAGE))
    assert [(block.line, block.text, block.mark, block.argument, block.is_python()) for block in found] == [
        (1, "import twistdist\n\nx = 1\n", "", "", True),
        (10, "print(1)  # prints 2\n", "not run", "it needs a machine", True),
        (14, "twistd -n twistdist-scheduler\n", "", "", False),
        (20, "from twistdist import (\n", "raises", "ValueError", True),
    ]
    assert found[1].prints() == ["2"]


def test_most_blocks_are_run():
    assert len(RUN) > 10 and len(RUN) > 2 * (len(BLOCKS) - len(RUN))
