"""Values and functions of every odd kind that people hand to an API, each made anew by a factory of no arguments.

They are in a module of their own so that executors import them by name.
"""

from __future__ import annotations

import asyncio
import builtins
import collections
import datetime
import decimal
import enum
import fractions
import functools
import io
import itertools
import os
import pathlib
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np

HOME = os.getpid()  # of the process that imported this first; see :func:`only_elsewhere`


class Refusal(Exception):
    """What the objects below raise themselves: it may come out of any call that they are given to."""


def refuse(*_: Any, **__: Any) -> Any:
    raise Refusal("an odd object refuses")


class Text(str):
    """A str that tells another text."""

    def __str__(self) -> str:
        return "something else"


class Whole(int):
    pass


class Real(float):
    pass


class Pair(tuple):  # type: ignore[type-arg]
    pass


class Items(list):  # type: ignore[type-arg]
    pass


class Table(dict):  # type: ignore[type-arg]
    pass


class Octets(bytes):
    pass


class Colour(enum.IntEnum):
    RED = 1


class Name(str, enum.Enum):
    A = "w0"


Point = collections.namedtuple("Point", "x y")


class NoRepr:
    __repr__ = refuse


class NoStr:
    __str__ = refuse


class WrongRepr:
    def __repr__(self) -> Any:
        return 3


class LongRepr:
    def __repr__(self) -> str:
        return "r" * 5_000_000


class NoHash:
    __hash__ = refuse  # type: ignore[assignment]


class NoEqual:
    __eq__ = refuse
    __hash__ = object.__hash__


class ArrayEqual:
    def __eq__(self, other: object) -> Any:
        return np.array([True, False])

    __hash__ = object.__hash__


class NoTruth:
    __bool__ = refuse


class NoIndex:
    __index__ = refuse


class NoFloat:
    __float__ = refuse


class NoIter:
    __iter__ = refuse


class NoLength(list):  # type: ignore[type-arg]
    __len__ = refuse


class NoAttributes:
    def __getattr__(self, name: str) -> Any:
        raise Refusal(f"no attributes at all, not {name}")


class AllAttributes:
    """As a mock is: it has whatever it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class NoReduce:
    __reduce__ = refuse


class RubbishReduce:
    def __reduce__(self) -> Any:
        return 3, "rubbish"


class ExitReduce:
    def __reduce__(self) -> Any:
        raise SystemExit("in __reduce__")


def slow() -> str:
    time.sleep(0.2)
    return "slow"


def exits(*_: Any) -> None:
    raise SystemExit("while unpickling")


def only_elsewhere(home: int) -> str:
    """Raises in the process ``home``: what a task gives, and its client can't load."""
    if os.getpid() == home:
        raise Refusal("not to be loaded at home")
    return "elsewhere"


class Loads:
    """Pickles to a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Endless:
    """An iterator of very many things, though not quite without an end."""

    def __iter__(self) -> Any:
        return iter(itertools.repeat(0, 20_000))


class BreaksOff:
    def __iter__(self) -> Any:
        yield 1
        refuse()


def inside_itself() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def dict_inside_itself() -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["me"] = found
    return found


def deep() -> Any:
    found: Any = []
    for _ in range(100_000):
        found = [found]
    return found


def objects(*values: Any) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def generator() -> Any:
    return (one for one in (1, 2))


async def coroutine_function() -> int:
    return 1


def closed_over(value: Any) -> Callable[..., Any]:
    return lambda *_: value is None


def plain_values() -> dict[str, Callable[[], Any]]:
    texts = [
        "",
        "a",
        "w0",
        "key-1",
        "ends-",
        "\0",
        "a\0b",
        "\ud800",
        "é✓\u202e",
        "x" * 1_001,
        "x" * 2_000_000,
        "raise",
        "skip",
        "always",
        "never",
        "localhost:1",
        "tcp:127.0.0.1:1",
        "unix:/nowhere",
        "5",
        "nan",
        "%s{}",
    ]
    numbers = [
        0,
        1,
        2,
        -1,
        3.5,
        -0.0,
        1e-300,
        1e300,
        float("inf"),
        float("-inf"),
        float("nan"),
        1 << 31,
        1 << 63,
        1 << 64,
        10**5_000,
        -(10**400),
        True,
        False,
        1j,
    ]
    found: dict[str, Callable[[], Any]] = {
        "none": lambda: None,
        "ellipsis": lambda: ...,
        "not_implemented": lambda: NotImplemented,
    }
    found |= {f"text_{n}": functools.partial(str, one) for n, one in enumerate(texts)}
    found |= {f"number_{n}": functools.partial(lambda one: one, one) for n, one in enumerate(numbers)}
    return found


def odd_values() -> dict[str, Callable[[], Any]]:
    """Everything that has nothing to do with a cluster."""
    zero = fractions.Fraction(1, 3)
    found: dict[str, Callable[[], Any]] = {
        **plain_values(),
        "bytes": lambda: b"\0\xff",
        "bytearray": lambda: bytearray(b"ab"),
        "memoryview": lambda: memoryview(b"ab"),
        "large_bytes": lambda: bytes(3_000_000),
        "str_subclass": lambda: Text("w0"),
        "int_subclass": lambda: Whole(3),
        "float_subclass": lambda: Real(0.5),
        "tuple_subclass": lambda: Pair((1, 2)),
        "list_subclass": lambda: Items([1]),
        "dict_subclass": lambda: Table(a=1),
        "bytes_subclass": lambda: Octets(b"a"),
        "int_enum": lambda: Colour.RED,
        "str_enum": lambda: Name.A,
        "named_tuple": lambda: Point(1, 2),
        "named_tuple_class": lambda: Point,
        "decimal": lambda: decimal.Decimal("1.5"),
        "decimal_nan": lambda: decimal.Decimal("sNaN"),
        "fraction": lambda: zero,
        "timedelta": lambda: datetime.timedelta(milliseconds=300),
        "negative_timedelta": lambda: datetime.timedelta(-1),
        "longest_timedelta": lambda: datetime.timedelta.max,
        "datetime": datetime.datetime.now,
        "np_int": lambda: np.int64(2),
        "np_uint8": lambda: np.uint8(2),
        "np_float": lambda: np.float32(0.5),
        "np_bool": lambda: np.True_,
        "np_str": lambda: np.str_("w0"),
        "np_bytes": lambda: np.bytes_(b"w0"),
        "np_timedelta": lambda: np.timedelta64(300, "ms"),
        "np_nat": lambda: np.timedelta64("NaT"),
        "np_months": lambda: np.timedelta64(1, "M"),
        "np_datetime": lambda: np.datetime64("2026-01-01"),
        "np_scalar_array": lambda: np.array(2),
        "np_array": lambda: np.arange(3),
        "np_empty": lambda: np.array([]),
        "np_object_array": lambda: objects(1, "a"),
        "np_text_array": lambda: np.array(["w0", "w1"]),
        "np_void": lambda: np.zeros(1, dtype="i4,f8")[0],
        "np_large": lambda: np.zeros(100_000),
        "np_masked": lambda: np.ma.masked,
        "np_matrix": lambda: np.zeros((2, 2)),
        "generator": generator,
        "dict_keys": lambda: {"w0": 1}.keys(),
        "dict_values": lambda: {"a": 1}.values(),
        "deque": lambda: collections.deque([1]),
        "set": lambda: {1, "a"},
        "frozenset": lambda: frozenset(["w0"]),
        "range": lambda: range(3),
        "zip": lambda: zip("ab", "cd", strict=True),
        "counter": lambda: collections.Counter("ab"),
        "defaultdict": lambda: collections.defaultdict(list, a=[1]),
        "ordered": lambda: collections.OrderedDict(a=1),
        "proxy": lambda: types.MappingProxyType({"a": 1}),
        "chain_map": lambda: collections.ChainMap({"a": 1}),
        "namespace": lambda: types.SimpleNamespace(a=1),
        "empty_list": list,
        "empty_dict": dict,
        "empty_tuple": tuple,
        "names": lambda: ["w0", "w1"],
        "mixed": lambda: ["w0", 1, None],
        "resources": lambda: {"GPU": 1, 2: "x"},
        "inside_itself": inside_itself,
        "dict_inside_itself": dict_inside_itself,
        "deep": deep,
        "no_repr": NoRepr,
        "no_str": NoStr,
        "wrong_repr": WrongRepr,
        "long_repr": LongRepr,
        "no_hash": NoHash,
        "no_equal": NoEqual,
        "array_equal": ArrayEqual,
        "no_truth": NoTruth,
        "no_index": NoIndex,
        "no_float": NoFloat,
        "no_iter": NoIter,
        "no_length": lambda: NoLength([1]),
        "no_attributes": NoAttributes,
        "all_attributes": AllAttributes,
        "list_of_no_repr": lambda: [NoRepr()],
        "no_reduce": NoReduce,
        "rubbish_reduce": RubbishReduce,
        "exit_reduce": ExitReduce,
        "slow_to_load": lambda: Loads(slow),
        "raises_to_load": lambda: Loads(refuse),
        "exits_to_load": lambda: Loads(exits),
        "not_at_home": lambda: Loads(only_elsewhere, HOME),
        "loads_rubbish": lambda: Loads(int, "rubbish"),
        "endless": Endless,
        "breaks_off": BreaksOff,
        "lambda": lambda: lambda *_: 1,
        "class": lambda: Text,
        "type": lambda: type,
        "module": lambda: os,
        "builtin": lambda: len,
        "method": lambda: [].append,
        "property": lambda: property(refuse),
        "partial": lambda: functools.partial(pow, 2),
        "coroutine_function": lambda: coroutine_function,
        "async_generator_function": lambda: asyncio.sleep,
        "lock": threading.Lock,
        "event": threading.Event,
        "thread": threading.Thread,
        "thread_local": threading.local,
        "file": lambda: sys.stderr,
        "string_io": lambda: io.StringIO("a"),
        "path": lambda: pathlib.Path("/nowhere"),
        "frame": sys._getframe,
        "code": lambda: generator.__code__,
        "exception": lambda: ValueError("one"),
        "exception_class": lambda: KeyError,
        "object": object,
        "weak": lambda: Refusal,
        "over_lock": lambda: closed_over(threading.Lock()),
        "over_file": lambda: closed_over(sys.stderr),
        "over_no_reduce": lambda: closed_over(NoReduce()),
    }
    return found | pandas_values()


def pandas_values() -> dict[str, Callable[[], Any]]:
    try:
        import pandas as pd
    except ImportError:
        return {}
    return {
        "pd_na": lambda: pd.NA,
        "pd_nat": lambda: pd.NaT,
        "pd_timestamp": lambda: pd.Timestamp("2026-01-01"),
        "pd_timedelta": lambda: pd.Timedelta(300, "ms"),
        "pd_series": lambda: pd.Series([1, 2]),
        "pd_empty": lambda: pd.Series([], dtype=object),
        "pd_texts": lambda: pd.Series(["w0", "w1"]),
        "pd_index": lambda: pd.Index(["w0"]),
        "pd_frame": lambda: pd.DataFrame({"a": [1, 2]}),
        "pd_categories": lambda: pd.Categorical(["a", "b"]),
        "pd_period": lambda: pd.Period("2026-01"),
    }


# ---- what tasks do -----------------------------------------------------------------------------------


class TwoArguments(Exception):
    def __init__(self, one: Any, two: Any) -> None:
        super().__init__(f"{one} {two}")


class Mute(Exception):
    __str__ = refuse
    __repr__ = refuse


class Heavy(Exception):
    """Holds what can't be pickled."""

    def __init__(self) -> None:
        super().__init__("heavy")
        self.lock = threading.Lock()


class Sealed(Exception):
    __setattr__ = refuse  # type: ignore[assignment]


class Untruthful(Exception):
    __bool__ = refuse
    __eq__ = refuse
    __hash__ = refuse  # type: ignore[assignment]


class Unloadable(Exception):
    """Can be loaded where it is born, and not at home."""

    def __reduce__(self) -> Any:
        return only_elsewhere_error, (HOME,)


def only_elsewhere_error(home: int) -> Unloadable:
    only_elsewhere(home)
    return Unloadable("elsewhere")


class ExitsAtHome(Exception):
    def __reduce__(self) -> Any:
        return exits_at_home, (HOME,)


def exits_at_home(home: int) -> ExitsAtHome:
    if os.getpid() == home:
        raise SystemExit("while loading an exception")
    return ExitsAtHome("elsewhere")


class SlowError(Exception):
    def __reduce__(self) -> Any:
        return slow_error, ()


def slow_error() -> SlowError:
    time.sleep(0.2)
    return SlowError("slow")


class Bare(BaseException):
    pass


def raises(kind: Any, *args: Any) -> Any:
    raise kind(*args)


def raises_chain() -> None:
    try:
        raise Refusal("first")
    except Refusal as error:
        raise TwoArguments(1, 2) from error


def raises_group() -> None:
    group: Any = getattr(builtins, "ExceptionGroup", Refusal)
    raise group("some", [Refusal("one"), Heavy()])


def raises_itself() -> None:
    error = Refusal("goes round")
    error.__context__ = error.__cause__ = other = Refusal("and round")
    other.__context__ = error
    raise error


def dies() -> None:
    os._exit(3)


def gives(name: str) -> Any:
    return odd_values()[name]()


def swallow(*_: Any, **__: Any) -> int:
    return 1


async def a_coroutine(*_: Any) -> int:
    await asyncio.sleep(0)
    return 5


def a_future() -> Any:
    import concurrent.futures

    return concurrent.futures.Future()


def tasks() -> dict[str, Callable[[], Any]]:
    """Functions of no arguments for ``submit``, by what they do."""
    part = functools.partial
    made: list[Any] = [
        part(raises, Refusal, "r"),
        part(raises, Refusal, threading.Event),
        part(raises, TwoArguments, 1, 2),
        part(raises, Mute),
        part(raises, Heavy),
        part(raises, Sealed),
        part(raises, Untruthful),
        part(raises, Unloadable),
        part(raises, ExitsAtHome),
        part(raises, SlowError),
        part(raises, Bare),
        part(raises, SystemExit, 3),
        part(raises, KeyboardInterrupt),
        part(raises, GeneratorExit),
        part(raises, StopIteration, 1),
        part(raises, StopAsyncIteration),
        part(raises, MemoryError),
        part(raises, RecursionError),
        part(raises, asyncio.CancelledError),
        part(raises, TimeoutError),
        part(raises, KeyError, "\ud800"),
        part(raises, OSError, 2, "no", b"\xff"),
        part(raises, UnicodeDecodeError, "utf-8", b"\xff", 0, 1, "x"),
        part(raises, Refusal, inside_itself),
        part(raises, Refusal, "x" * 6_000_000),
        raises_chain,
        raises_group,
        raises_itself,
        dies,
        a_future,
        a_coroutine,
        slow,
        generator,
        coroutine_function,
        os.getpid,
        list,
        dict,
        part(bytes, 5_000_000),
        part(time.sleep, 0.05),
    ]
    found = {f"task_{n}": functools.partial(lambda one: one, one) for n, one in enumerate(made)}
    return found | {f"gives_{name}": part(part, gives, name) for name in odd_values()}
