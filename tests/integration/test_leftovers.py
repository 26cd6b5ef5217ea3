"""What a task leaves to the ones after it in its process, and what it finds there: nothing but what the user has set up."""

from __future__ import annotations

import glob
import os
import pathlib
import subprocess
import sys

import pytest

from twistdist.blocking import Client, LocalCluster


def other_pythons():
    """Interpreters of other versions that work."""
    here = "{}.{}".format(*sys.version_info)
    found = {}
    for path in [*glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3")), *glob.glob("/usr/bin/python3.[0-9]*")]:
        asked = subprocess.run([path, "-c", "import sys, re; print('{}.{}'.format(*sys.version_info))"],
                               capture_output=True, text=True, env={"PATH": os.environ["PATH"]})  # fmt: skip
        if asked.returncode == 0 and asked.stdout.strip() != here:
            found.setdefault(asked.stdout.strip(), path)
    return list(found.values())


# ---- what a task starts ----------------------------------------------------------------------------


def test_another_python_starts_in_a_task_as_it_does_elsewhere(one):
    pythons = other_pythons()
    if not pythons:
        pytest.skip("there is no other Python here")
    for python in pythons:
        script = "import re, sys; print(*sys.path, sep='\\n')"
        options = {"capture_output": True, "text": True, "check": True}
        found = one.submit(subprocess.run, [python, "-c", script], **options).result(60).stdout
        assert found == subprocess.run([python, "-c", script], **options).stdout


def test_tasks_see_the_environment_as_the_user_set_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        found = client.submit(lambda: dict(os.environ)).result(60)
        added = {name for name in found.keys() - os.environ.keys() if not name.endswith("_THREADS")}
        assert found["PYTHONPATH"] == str(tmp_path)
        assert added <= {"LC_CTYPE"}  # Python's own doing where there is no locale
        assert client.submit(lambda: sys.argv[1:]).result(60) == []


def test_a_script_s_own_modules_are_found_wherever_it_is_started(tmp_path):
    folder = tmp_path / "with:colon"
    folder.mkdir()
    (folder / "beside.py").write_text("def answer():\n    return 42\n")
    (folder / "script.py").write_text(
        "import beside\nfrom twistdist.blocking import Client\n"
        "with Client(n_workers=1) as client: print(client.submit(beside.answer).result())\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "selectors.py").write_text("raise ImportError('what lies in the current folder is not to be imported')\n")
    here = str(pathlib.Path(__file__).parents[2])
    code = f"import runpy, sys; sys.path[:0] = [{str(folder)!r}, {here!r}]; runpy.run_path({str(folder / 'script.py')!r})"
    command = [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else [sys.executable, str(folder / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=elsewhere, timeout=120)
    assert done.stdout == "42\n", done.stderr


# ---- errors and context ------------------------------------------------------------------------------


def memory():
    with open("/proc/self/statm") as stream:
        _, resident, shared, *_ = stream.read().split()
    return os.getpid(), (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks /proc")
@pytest.mark.parametrize("way", ["plain", "cycle", "cause"])
def test_a_failed_task_s_locals_do_not_outlive_it(way):
    def fail(way):
        data = b"x" * (200 << 20)
        try:
            raise ValueError(len(data))
        except ValueError as error:
            if way == "cycle":
                keep = error
                raise keep  # noqa: B904
            if way == "cause":
                raise KeyError("other") from error
            raise

    with LocalCluster(n_workers=1, memory_limit=0) as cluster, Client(cluster.address) as client:
        look = memory
        process, before = client.submit(look).result(60)
        future = client.submit(fail, way)
        assert isinstance(future.exception(60), ValueError | KeyError) and "in fail" in future.traceback()
        assert client.submit(look).result(60)[0] == process
        assert client.submit(look).result(60)[1] < before + 100


def test_context_variables_are_a_task_s_own():
    def set_one():
        import contextvars

        if not hasattr(sys, "one_of_the_tests"):
            sys.one_of_the_tests = contextvars.ContextVar("one", default="nobody")
        found = sys.one_of_the_tests.get()
        sys.one_of_the_tests.set("user-1")
        return os.getpid(), found

    with Client(n_workers=1) as client:
        first, second = client.submit(set_one).result(60), client.submit(set_one).result(60)
        assert first == second and first[1] == "nobody"
