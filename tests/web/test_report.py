"""The file of a report: one script, data that is never markup, and a file that is written at once or not at all."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import pathlib
import re
import stat

import pytest

import twistdist.web
from twistdist.web import report
from twistdist.web.report import bundle, check_path, embedded, page_of, write_report

STATIC = pathlib.Path(twistdist.web.__file__).parent / "static"

HOSTILE = "</script><!-- <script>alert(1)</script> ]]> \" ' & \u2028 \u2029 \ud800 \0 {{data}} {{script}}"


def data_of(page):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_nothing_that_a_task_is_called_becomes_markup():
    page = page_of({"key": HOSTILE, HOSTILE: [HOSTILE]}).decode()
    assert data_of(page) == {"key": HOSTILE, HOSTILE: [HOSTILE]}
    assert page.count("<script") == page.count("</script") == 2 and "<!--" not in page and "alert(1)</" not in page
    text = embedded({"key": HOSTILE})
    assert text.isascii() and not set("<>&\n") & set(text)


def test_numbers_that_json_does_not_have_are_null():
    assert json.loads(embedded({"a": [float("nan"), float("inf"), 1.5, "nan"]})) == {"a": [None, None, 1.5, "nan"]}


def test_the_policy_lets_the_script_of_the_page_run_and_no_other():
    page = page_of({}).decode()
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for directive, text in (
        ("script-src", re.findall(r"<script>(.*?)</script>", page, re.DOTALL)),
        ("style-src", re.findall(r"<style>(.*?)</style>", page, re.DOTALL)),
    ):
        digest = base64.b64encode(hashlib.sha256(text[0].encode()).digest()).decode()
        assert len(text) == 1 and f"{directive} 'sha256-{digest}';" in policy
    assert not re.search(r"\s(src|on\w+|style)=", page.partition("<script")[0])
    assert set(re.findall(r"https?://[^\"' )]*", page)) <= {"http://www.w3.org/2000/svg"}


def test_the_drawing_code_is_that_of_the_live_page():
    page = page_of({}).decode()
    for name in ("timeline", "lanes", "incidents", "task", "model", "dom"):
        lines = [
            line
            for line in (STATIC / f"{name}.js").read_text().splitlines()
            if line and not line.startswith(("import", "export"))
        ]
        assert all(line in page for line in lines), name
        assert page.count(lines[-2]) >= 1 and page.count(f"const module_{name} = ") == 1
    assert "EventSource" not in page


def test_modules_become_one_script_in_the_order_in_which_they_are_needed():
    modules = {
        "a": 'import { b as other, c } from "./b.js";\nexport const x = other + c;\n',
        "b": 'import { d } from "./d.js";\nexport const b = d();\nexport const c = 2;\n',
        "d": "export function d() { return 1; }\nexport async function e() {}\n",
    }
    script = bundle("a", modules.__getitem__)
    assert [script.index(f"module_{name} =") for name in "dba"] == sorted(script.index(f"module_{name} =") for name in "abd")
    assert "const { b: other, c } = module_b;" in script and "return { d, e };" in script and "export" not in script


@pytest.mark.parametrize(
    "text, why",
    [
        ('import * as b from "./b.js";\n', "not understood"),
        ("export let x = 1;\n", "not understood"),
        ("export default 1;\n", "not understood"),
        ('const text = "</script>";\n', "not understood"),
        ('import { missing } from "./b.js";\n', "does not export: missing"),
        ('import { b } from "./c.js";\n', "import one another: a -> c -> a"),
    ],
)
def test_modules_that_are_not_understood_are_refused(text, why):
    modules = {"a": text, "b": "export const b = 1;\n", "c": 'import { x } from "./a.js";\nexport const b = 1;\n'}
    with pytest.raises(ValueError, match=why):
        bundle("a", modules.__getitem__)


# ---- the path --------------------------------------------------------------------------------------


def test_a_path_that_can_not_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for path, error, why in (
        (tmp_path / "nowhere" / "run.html", FileNotFoundError, "no folder .*nowhere; create it first"),
        (tmp_path / "folder", OSError, "not a file"),
        (tmp_path / "fifo", OSError, "not a file"),
        ("/proc/run.html", OSError, "run.html can't be written"),
        ("", ValueError, "empty"),
        ("a\0b", ValueError, "null"),
        (3, TypeError, "path must be a string or a path, got int"),
        (None, TypeError, "got NoneType"),
        (tmp_path / ("x" * 300), OSError, "can't be written"),
    ):
        with pytest.raises(error, match=why):
            check_path(path)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder"]


def test_every_kind_of_path_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("run.html", b"run.html", pathlib.Path("run.html"), "./run.html", "ü\udcff.html"):
        full = check_path(path)
        assert os.path.dirname(full) == str(tmp_path) and write_report(full, {}) == full and os.path.isfile(full)


def test_a_file_is_replaced_at_once_and_a_link_stays(tmp_path):
    real, link = tmp_path / "real.html", tmp_path / "link.html"
    real.write_text("old")
    link.symlink_to(real)
    write_report(check_path(link), {"new": 1})
    assert link.is_symlink() and data_of(real.read_text()) == {"new": 1}
    assert sorted(os.listdir(tmp_path)) == ["link.html", "real.html"]
    assert stat.S_IMODE(real.stat().st_mode) & 0o600 == 0o600


def test_a_file_that_can_not_be_written_whole_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "run.html"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report.os, "fsync", full)
    with pytest.raises(OSError, match=r"run\.html can't be written: No space left on device") as caught:
        write_report(str(path), {})
    assert caught.value.errno == 28 and path.read_text() == "old" and os.listdir(tmp_path) == ["run.html"]
