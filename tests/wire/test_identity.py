"""The identity of calls: what a change of a script leaves as it was, and what it changes."""

import os
import subprocess
import sys

import pytest

from twistdist.wire.identity import identity_of

SCRIPT = '''
import collections, dataclasses, decimal, enum, functools, pathlib
from twistdist.wire.identity import identity_of
LIMIT = 3
@dataclasses.dataclass
class Point:
    x: int
    y: float = 2.0
    def norm(self):
        return self.x + LIMIT
class Color(enum.Enum):
    RED = 1
    BLUE = 2
    def low(self):
        return self.name.lower()
Pair = collections.namedtuple("Pair", "a b")
class Base:
    kinds = {"q", "w", "e"}
    @property
    def p(self): return 1
    @classmethod
    def make(cls): return cls()
class Sub(Base):
    def __init__(self):
        super().__init__()
        self.me = self
@functools.cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
def helper(x):
    return x in {"a", "b", "c"}
def work(x):
    """What it does."""
    text = f"{x!r:>10}"  #COMMENT
    return helper(x), text, [i for i in range(LIMIT)], (lambda q: q + 1)(2)
values = [work, helper, Point(1), Point, Color.RED, Color, Pair(1, 2), Sub(), fib, {"a", "b", ("c", 1)}, frozenset("abc"),
          lambda x: x + 1, pathlib.PurePosixPath("a/b"), decimal.Decimal("1.5"), functools.partial(work, 1),
          {"k": [1, 2, {"x", "y"}]}, Base.make, [[1, 2], ["a", None]]]
print([identity_of(value).hex() for value in values])
'''


def run(tmp_path, text, seed, python=sys.executable):
    path = tmp_path / f"script-{seed}" / "script.py"
    path.parent.mkdir()
    path.write_text(text)
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([python, path], env=environment, capture_output=True, text=True, timeout=120, check=True)
    return eval(done.stdout)


def test_runs_hash_seeds_folders_comments_and_layout_change_nothing(tmp_path):
    first = run(tmp_path, SCRIPT, 1)
    moved = "# one more comment\n\n" + SCRIPT.replace("#COMMENT", "# why").replace("What it does.", "Something else.")
    assert run(tmp_path, moved, 2) == first
    assert (
        run(
            tmp_path,
            SCRIPT.replace("helper(x), text,", "(helper(x),\n       text),").replace(
                "(helper(x),\n       text),", "helper(x),  text,"
            ),
            3,
        )
        == first
    )
    assert len(set(first)) == len(first)


def test_every_supported_python_says_the_same():
    """The digests of CPython 3.10 to 3.13; changing them makes every durable session compute anew."""
    assert identity_of(1, "a", [2.5, None], {"k": (1, b"b")}, {"x", "y"}).hex() == "47d9e49f78a651c7f703c04a903b00cf"


def test_what_is_computed_otherwise_is_another_identity(tmp_path):
    first = run(tmp_path, SCRIPT, 1)
    changes = {
        "LIMIT = 3": "LIMIT = 4",
        '{"a", "b", "c"}': '{"a", "b", "d"}',
        "y: float = 2.0": "y: float = 2.5",
        "RED = 1": "RED = 3",
        "n < 2": "n < 3",
        "x + 1": "x + 2",
    }
    for seed, (old, new) in enumerate(changes.items(), 2):
        assert run(tmp_path, SCRIPT.replace(old, new), seed) != first, old
    changed = run(tmp_path, SCRIPT.replace('{"a", "b", "c"}', '{"z"}'), 50)
    assert changed[0] != first[0], "a function that is called counts for its caller"
    assert changed[2] == first[2]


def test_equal_values_are_equal_whatever_was_one_object():
    text = "".join(["a", "b"])
    assert identity_of([text, text]) == identity_of(["ab", "".join(["a", "b"])])
    row = [1, 2]
    assert identity_of([row, row]) == identity_of([[1, 2], [1, 2]])
    assert identity_of([1]) != identity_of([1.0]) != identity_of([True]) != identity_of((1,))
    assert identity_of({"a": 1, "b": 2}) != identity_of({"b": 2, "a": 1})


def test_what_is_inside_itself_ends():
    ring = [1]
    ring.append(ring)
    other = [1]
    other.append(other)
    assert identity_of(ring) == identity_of(other) != identity_of([1, [1]])
    deep = []
    for _ in range(400):
        deep = [deep]
    assert identity_of(deep) == identity_of(deep)


def test_arrays():
    np = pytest.importorskip("numpy")
    array = np.arange(6.0).reshape(2, 3)
    assert identity_of(array) == identity_of(np.asfortranarray(array)) != identity_of(array.T)
    assert identity_of(array) != identity_of(array.astype("f4")) and identity_of(np.float64(1)) != identity_of(np.float32(1))
    assert identity_of(np.zeros((0, 3))) != identity_of(np.zeros((3, 0)))


def test_lambdas_of_one_line_and_changed_code_are_told_apart():
    one, other = lambda x: x + 1, lambda x: x + 2
    assert identity_of(one) != identity_of(other)

    def f():
        return 1

    before = identity_of(f)
    f.__code__ = other.__code__
    assert identity_of(f) != before
