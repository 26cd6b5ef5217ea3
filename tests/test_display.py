"""What is shown to people."""

from __future__ import annotations

import builtins
import io

import pytest

from twistdist.display import Bar, Bars, html_of


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_table_escapes_and_leaves_out_what_is_empty():
    shown = html_of("<Thing>", {"a": "<b>", "empty": "", "none": None, "zero": 0}, {"page": 'http://x/?"', "no": ""})
    assert "&lt;Thing&gt;" in shown and "&lt;b&gt;" in shown and "empty" not in shown and "none" not in shown
    assert "<td>0</td>" in shown and 'href="http://x/?&quot;"' in shown


def shown(bar, stream):
    for done in (0, 2, 4):
        bar.show(done)
    bar.end()
    return stream.getvalue()


def test_the_bar_is_that_of_tqdm():
    pytest.importorskip("tqdm")
    stream = Terminal()
    text = shown(Bar(4, "tasks ", stream), stream)
    assert "tasks: 100%" in text and "4/4" in text and "task/s" in text


def test_without_tqdm_there_is_a_plain_one(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    stream = Terminal()
    text = shown(Bar(4, "tasks ", stream), stream)
    assert text.endswith(f"\rtasks [{'#' * 40}] 4/4\n") and f"[{'#' * 20}{'.' * 20}] 2/4" in text
    plain = io.StringIO()
    assert shown(Bar(4, "", plain), plain) == ""
    several = Terminal()
    bars = Bars([("all ", 4), ("a\x07 ", 3)], several)
    for counts in ([(0, 0), (0, 0)], [(0, 0), (0, 0)], [(4, 1), (3, 1)]):
        bars.show(counts)
    bars.end()
    full, none = "#" * 40, "." * 40
    first = f"\rall   [{none}] 0/4\x1b[K\na\\x07 [{none}] 0/3"
    assert several.getvalue() == f"{first}\x1b[1A\rall   [{full}] 4/4, 1 failed\x1b[K\na\\x07 [{full}] 3/3, 1 failed\n"


def test_nothing_is_shown_where_nobody_looks():
    plain = io.StringIO()
    assert shown(Bar(4, "tasks", plain), plain) == ""
