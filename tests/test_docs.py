"""The documentation names what there is: commands and options, environment variables, public names."""

from __future__ import annotations

import argparse
import functools
import inspect
import pathlib
import re

import pytest

import twistdist
from twistdist import blocking, cli, client, errors, interfaces
from twistdist.executors.supervisor import thread_counts
from twistdist.net import options
from twistdist.tap import scheduler, worker
from twistdist.tap.lifetime import ENDS

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
TWISTD = {"twistd twistdist-scheduler": scheduler.Options, "twistd twistdist-worker": worker.Options}


def page(name):
    return (DOCS / f"{name}.rst").read_text()


@functools.cache
def section(name, title):
    """The text below a heading, up to the next one of any level."""
    parts = re.split(r"^(\S.*)\n[-=~]{3,}\n", page(name), flags=re.MULTILINE)
    assert title in parts, title
    return parts[parts.index(title) + 1]


def documented(text):
    """Options that begin a row of a table."""
    return set(re.findall(r"^``(--[a-z-]+)", text, re.MULTILINE))


@pytest.mark.parametrize("command", TWISTD)
def test_the_page_of_commands_has_every_option_of_twistd(command):
    options = TWISTD[command]()
    assert documented(section("commands", command)) == {
        f"--{name}" for name in options.longOpt for name in [name.rstrip("=")] if name not in ("help", "version")
    }


def subcommands():
    [commands] = [one for one in cli._parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return commands.choices


@pytest.mark.parametrize("name", sorted(subcommands()))
def test_the_page_of_commands_has_every_option_of_twistdist(name):
    text, parser = section("commands", f"twistdist {name}"), subcommands()[name]
    actions = [one for one in parser._actions if not isinstance(one, argparse._HelpAction)]
    assert documented(text) == {one.option_strings[0] for one in actions if one.option_strings}
    usage = re.search(rf"^    twistdist {name}\b(.*)$", text, re.MULTILINE)
    assert usage, f"twistdist {name} is shown with its arguments"
    for one in actions:
        if not one.option_strings:
            assert str(one.metavar or one.dest).upper() in usage[1]


@pytest.mark.parametrize("name", sorted(subcommands()))
def test_defaults_of_twistdist_are_those_of_the_page(name):
    for action in subcommands()[name]._actions:
        if action.option_strings and action.default not in (None, False, argparse.SUPPRESS, []):
            [row] = re.findall(rf"^``{action.option_strings[0]}.*$", section("commands", f"twistdist {name}"), re.MULTILINE)
            assert re.search(rf"\b{action.default:,g}$", row), row


@pytest.mark.parametrize("command", TWISTD)
def test_the_defaults_that_an_option_s_help_tells_are_those_of_the_page(command):
    rows = {row.split("``")[1].split()[0]: row for row in section("commands", command).splitlines() if row.startswith("``--")}
    for name, _, default, help_text in TWISTD[command].optParameters:
        told = re.search(r"default: ([0-9.]+)", help_text)
        for value in filter(None, (default, told and told[1])):
            assert value in rows[f"--{name}"], rows[f"--{name}"]


def environment_in_the_package():
    """Names of variables in the package's code: ours, and whatever is asked of ``os.environ`` by its name."""
    found = {*thread_counts({}), *ENDS}
    for path in (ROOT / "twistdist").rglob("*.py"):
        text = path.read_text()
        found |= set(re.findall(r"\bTWISTDIST_[A-Z_]+\b", text))
        found |= set(re.findall(r"environ(?:\.\w+\(|\[)\s*[\"']([A-Z_]+)", text)) | set(re.findall(r"getenv\([\"'](\w+)", text))
    return found


def test_the_page_of_the_environment_has_every_variable_and_no_other():
    rows = re.findall(r"^``([A-Z_]+)``", page("environment"), re.MULTILINE)
    ours = {name for name in rows if name not in ("TMPDIR",)}  # read by tempfile, for us
    assert ours == environment_in_the_package()


def named_in_api():
    """What autodoc is told to show, and what is written by hand."""
    text = page("api")
    found = set(re.findall(r"^\.\. auto(?:function|class):: (\S+)", text, re.MULTILINE))
    found |= {f"twistdist.blocking.{name}" for name in re.findall(r"^\.\. function:: (\w+)", text, re.MULTILINE)}
    whole = re.findall(r"^\.\. automodule:: (\S+)\n   :members:$", text, re.MULTILINE)
    for module in (client, errors, interfaces):
        if module.__name__ in whole:
            found |= {f"{module.__name__}.{name}" for name, one in vars(module).items() if inspect.getdoc(one)}
    return found


def public():
    for module in (twistdist, blocking, client):
        yield from (f"{module.__name__}.{name}" for name in module.__all__ if name != "__version__")
    for module in (errors, interfaces):
        for name, one in vars(module).items():
            if inspect.isclass(one) and one.__module__ == module.__name__:
                yield f"{module.__name__}.{name}"
    yield "twistdist.blocking.Executor"
    yield "twistdist.executors.context.Attempt"


def test_the_api_page_has_every_public_name():
    assert set(public()) <= named_in_api()


def methods_on_the_page(name):
    [text] = re.findall(rf"^\.\. autoclass:: {re.escape(name)}\n   :members:(.*)$", page("api"), re.MULTILINE)
    return {one.strip() for one in text.split(",")}


@pytest.mark.parametrize("name", ["Client", "LocalCluster"])
def test_the_api_page_has_what_both_apis_have(name):
    """Of the blocking classes all members are shown, of the others those that are listed."""
    mine = {one for one in vars(getattr(blocking, name)) if not one.startswith("_")} - {"leave", "executor", "address"}
    assert mine - methods_on_the_page(f"twistdist.{name}") <= {"close"}


def task_options():
    """The keywords that are taken out of what is passed to a function."""
    return ["key", "pure", "replace", *options.ON_THE_WIRE]


@pytest.mark.parametrize("submit", [twistdist.Client.submit, blocking.Client.submit])
def test_the_docstring_of_submit_has_every_option(submit):
    described = re.findall(r"^- ``(\w+)`` \(", inspect.getdoc(submit), re.MULTILINE)
    assert sorted(described) == sorted(task_options()) and len(described) > 10


def test_everything_public_of_the_blocking_api_has_a_docstring():
    for one in (blocking.Client, blocking.Future, blocking.Executor, blocking.LocalCluster, twistdist.Client, twistdist.Future):
        bare = [name for name, value in vars(one).items() if not name.startswith("_") and not inspect.getdoc(value)]
        assert not bare, f"{one}: {bare}"


def test_every_page_is_in_the_index():
    listed = re.findall(r"^   ([a-z-]+)$", page("index"), re.MULTILINE)
    included = {
        name for path in DOCS.glob("*.rst") for name in re.findall(r"^\.\. include:: ([\w-]+)\.rst$", path.read_text(), re.M)
    }
    pages = {path.stem for path in DOCS.glob("*.rst")} - included - {"index"}
    assert sorted(listed) == sorted(pages)
