"""Whole scripts, run as users run them: what of ``__main__`` travels, what tracebacks show, what a second run finds."""

import os
import subprocess
import sys

import pytest

from twistdist.blocking import LocalCluster


def run(path, *arguments, seed="random", fails=False):
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    done = subprocess.run([sys.executable, path, *arguments], env=environment, capture_output=True, text=True, timeout=120)
    assert bool(done.returncode) is fails, done.stderr
    return done.stderr if fails else done.stdout


TRAVELS = """
import functools, inspect, os, sys
from twistdist.blocking import Client

@functools.cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

class Holder:
    @functools.cached_property
    def big(self):
        return 42

@functools.singledispatch
def name(x):
    return "object"

@name.register
def _(x: list):
    return [name(one) for one in x]

@name.register
def _(x: int):
    return "int"

def outer(x):
    return 1 / x  # the line in question

def total(xs):
    return sum(xs)

def plus(x, y=1):
    return x + y

with Client(n_workers=1) as client:
    print(client.submit(fib, 30).result(), client.submit(lambda: fib(10)).result())
    print(client.submit(lambda holder: holder.big, Holder()).result(), client.submit(lambda: Holder().big).result())
    print(client.submit(name, [1, "a"]).result())
    source = inspect.getsource(outer)
    if len(sys.argv) > 1:
        os.unlink(__file__)  # as on a worker of another host
    text = client.submit(outer, 0).traceback()
    print(os.path.basename(__file__) in text, "return 1 / x  # the line in question" in text)
    found = client.submit(lambda: inspect.getsource(outer)).result()
    print(found == source)
    print(client.submit(total, [1, 2]).result(), client.submit(plus, 1).result())
    globals()["sum"] = lambda xs: "mine"
    plus.__defaults__ = (10,)
    print(client.submit(total, [1, 2]).result(), client.submit(plus, 1).result())
    total.__code__ = (lambda xs: "other").__code__
    print(client.submit(total, [1, 2]).result())
"""


@pytest.mark.parametrize("gone", [[], ["gone"]])
def test_what_a_script_defines_travels_and_is_seen_in_tracebacks(tmp_path, gone):
    (tmp_path / "script.py").write_text(TRAVELS)
    lines = run(tmp_path / "script.py", *gone).splitlines()
    assert lines == ["832040 55", "42 42", "['int', 'object']", "True True", "True", "3 2", "mine 11", "other"]


NIGHTLY = """
import dataclasses, enum, sys
from twistdist.blocking import Client

@dataclasses.dataclass
class Day:
    number: int

class Kind(enum.Enum):
    FULL = 1

def work(day, kind, names):
    return day.number in {1, 2, 3} and "a" in names

with Client(sys.argv[1], session="nightly") as client:
    arguments = Day(1), Kind.FULL, {"a", "b", "c"}
    future = client.submit(work, *arguments, key="work")
    pure = client.submit(work, *arguments, pure=True)
    print(future.result(), pure.result(), len(client.futures()))
"""


def test_a_nightly_script_that_is_run_again_finds_what_it_has(tmp_path):
    script = tmp_path / "nightly.py"
    with LocalCluster(n_workers=1) as cluster:
        for seed in (1, 2):
            script.write_text("# one more comment\n" * seed + NIGHTLY)
            assert run(script, cluster.address, seed=seed) == "True True 2\n"
        script.write_text(NIGHTLY.replace("{1, 2, 3}", "{4}"))
        text = run(script, cluster.address, fails=True)
        assert "KeyConflict" in text and "another function" in text and "other arguments" not in text
        assert "replace=True" in text
        script.write_text(NIGHTLY.replace("{1, 2, 3}", "{4}").replace('key="work"', 'key="work", replace=True'))
        assert run(script, cluster.address) == "False False 3\n"
        script.write_text(NIGHTLY.replace("{1, 2, 3}", "{4}").replace("Day(1)", "Day(2)"))
        assert "other arguments" in run(script, cluster.address, fails=True)


SHADOWED = """
import helper
from twistdist.blocking import Client

def own():
    import pstats, sqlite3
    return pstats.own + sqlite3.own

with Client(n_workers=1) as client:
    print(client.submit(helper.double, 4).result(), client.submit(own).result())
"""


def test_modules_beside_the_script_do_not_lead_our_processes_astray(tmp_path):
    for name in ("sqlite3", "pstats", "xxhash", "prometheus_client"):  # the scheduler's, ours at start, the workers', optional
        (tmp_path / f"{name}.py").write_text("own = 1\n")
    (tmp_path / "helper.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "script.py").write_text(SHADOWED)
    assert run(tmp_path / "script.py") == "8 2\n"


CHANGED = """
import sys
from twistdist.blocking import Client

def load(day):
    return day * 10

def clean(rows):
    return rows + 1

with Client(sys.argv[1], session="days") as client:
    options = {"replace": True} if "replace" in sys.argv else {}
    loaded = client.submit(load, 1, key="load", **options)
    cleaned = client.submit(clean, loaded, key="clean", **options)
    pure = client.submit(clean, cleaned, pure=True)
    for future in (loaded, cleaned, pure):
        try:
            print(future.result(60), end=" ")
        except Exception as error:
            print(type(error).__name__, end=" ")
"""


def test_what_depends_on_a_changed_step_is_never_the_old_value(tmp_path):
    script = tmp_path / "days.py"
    with LocalCluster(n_workers=1) as cluster:
        script.write_text(CHANGED)
        assert run(script, cluster.address) == run(script, cluster.address) == "10 11 12 "
        script.write_text(CHANGED.replace("day * 10", "day * 20"))
        assert run(script, cluster.address) == "KeyConflict KeyConflict KeyConflict "
        assert run(script, cluster.address, "replace") == run(script, cluster.address) == "20 21 22 "
        cluster.kill_scheduler()
        cluster.start_scheduler()
        assert run(script, cluster.address) == "20 21 22 "
        script.write_text(CHANGED.replace("day * 10", "day * 20").replace("submit(load", "submit(lambda day: 30"))
        once = script.read_text().replace('key="clean", **options', 'key="clean"')
        script.write_text(once)
        assert run(script, cluster.address, "replace") == "30 KeyConflict KeyConflict "
