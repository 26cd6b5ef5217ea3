"""Files to import: read on one side, installed on the other."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from twistdist.storage import uploads
from twistdist.storage.uploads import Uploads, read_upload


def contents(blob):
    with zipfile.ZipFile(io.BytesIO(blob)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_module(tmp_path):
    path = tmp_path / "mine.py"
    path.write_bytes(b"X = 1")
    assert read_upload(path) == ("mine.py", "module", b"X = 1") == read_upload(str(path)) == read_upload(os.fsencode(path))


def test_a_package_keeps_its_name_and_other_folders_give_their_contents(tmp_path):
    for name in ("package", "loose"):
        (tmp_path / name / "sub" / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "sub" / "deep.py").write_text("Y = 2")
        (tmp_path / name / "sub" / "__pycache__" / "deep.pyc").write_text("no")
    (tmp_path / "package" / "__init__.py").write_text("X = 1")
    name, kind, blob = read_upload(tmp_path / "package")
    assert (name, kind) == ("package", "archive")
    assert contents(blob) == {"package/__init__.py": b"X = 1", "package/sub/deep.py": b"Y = 2"}
    assert contents(read_upload(f"{tmp_path}/loose/")[2]) == {"sub/deep.py": b"Y = 2"}
    assert read_upload(tmp_path / "package")[2] == blob  # the same bytes: an equal version is not another one


def test_what_can_not_be_imported_is_refused(tmp_path, monkeypatch):
    for name, content, text in [
        ("data.txt", b"", "upload_file takes a .py file"),
        ("no-name.py", b"", "not a name of a module"),
        ("broken.zip", b"PK no", "not a zip file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=text):
            read_upload(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no files"):
        read_upload(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        read_upload(tmp_path / "nothing.py")
    with pytest.raises(TypeError):
        read_upload(7)
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 10)
    (tmp_path / "large.py").write_bytes(b"#" * 11)
    with pytest.raises(ValueError, match="install it on the workers instead"):
        read_upload(tmp_path / "large.py")


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for name, content in files.items():
            out.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def test_the_latest_version_comes_first_and_replaces_the_one_of_its_name(tmp_path):
    there = Uploads(f"{tmp_path}/up")
    (first,) = there.install("a.py", "module", b"1", b"X = 1")
    assert Path(f"{first}/a.py").read_text() == "X = 1"
    second, again = there.install("b.zip", "archive", b"2", archive(package__mod="Y = 2"))
    assert again == first and Path(f"{second}/package/mod").read_text() == "Y = 2"
    newer, kept = there.install("a.py", "module", b"3", b"X = 3")
    assert kept == second and Path(f"{newer}/a.py").read_text() == "X = 3"
    assert there.install("a.py", "module", b"1", b"X = 1") == [first, second]
    there.remove()
    assert not os.path.exists(f"{tmp_path}/up")


def test_an_archive_writes_nothing_elsewhere_and_a_damaged_one_leaves_nothing(tmp_path, monkeypatch):
    there = Uploads(f"{tmp_path}/up")
    (folder,) = there.install("evil.zip", "archive", b"1", archive(**{"..__..__evil.py": "no", "good.py": "yes"}))
    assert not os.path.exists(f"{tmp_path}/evil.py") and os.path.exists(f"{folder}/good.py")
    with pytest.raises(ValueError, match="can't be unpacked"):
        there.install("bad.zip", "archive", b"2", b"PK no")
    monkeypatch.setattr(uploads, "MAX_UNPACKED_BYTES", 2)
    with pytest.raises(ValueError, match="when it is unpacked"):
        there.install("bomb.zip", "archive", b"3", archive(a="123"))
    assert os.listdir(f"{tmp_path}/up") == ["31"]
