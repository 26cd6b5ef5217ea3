"""Objects to bytes and back."""

import io
import mmap
import os
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistdist.errors import SerializationError
from twistdist.wire import payload

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(PLAIN)
def test_values_come_back(value):
    assert payload.load_value(b"".join(payload.dump_value(value))) == value


def test_buffers_travel_out_of_band_aligned_and_uncopied():
    np = pytest.importorskip("numpy")
    arrays = [np.arange(1000.0), np.zeros((3, 0)), np.ones(77, dtype="u1")]
    data = b"".join(payload.dump_value(arrays))
    mapped = mmap.mmap(-1, len(data))
    mapped.write(data)
    back = payload.load_value(memoryview(mapped))
    for array, again in zip(arrays, back, strict=True):
        assert (array == again).all()
    assert all(array.flags.writeable for array in back), "as they were"
    assert back[0].ctypes.data % 64 == 0
    assert not back[0].flags.owndata
    assert all(array.flags.writeable for array in payload.load_value(bytes(data)))
    arrays[0].flags.writeable = False
    assert not payload.load_value(b"".join(payload.dump_value(arrays)))[0].flags.writeable, "as it was"


class Reference:
    """Stands for a future."""

    def __reduce__(self):
        return payload.reference(self)


class Box:
    def __init__(self, content):
        self.content = content


def test_references_anywhere_become_inputs():
    a, b = Reference(), Reference()
    data, found = payload.dump_call((1, [a, {"k": Box((b, a))}]), {"x": b})
    assert set(map(id, found)) == {id(a), id(b)}
    values = {id(a): "A", id(b): "B"}
    args, kwargs = payload.load_call(data, [values[id(one)] for one in found])
    assert args[1][0] == "A" and args[1][1]["k"].content == ("B", "A") and kwargs == {"x": "B"}


def test_references_beside_what_only_cloudpickle_can():
    a = Reference()
    data, found = payload.dump_call((a, lambda: 5), {})
    args, _ = payload.load_call(data, ["value"])
    assert found == [a] and args[0] == "value" and args[1]() == 5


def test_a_reference_outside_of_a_call_is_an_error():
    with pytest.raises(SerializationError, match="take its result"):
        payload.dump_value(Reference())


def test_the_argument_that_can_not_be_pickled_is_named():
    with pytest.raises(SerializationError, match="argument 2, a lock"):
        payload.dump_call((1, threading.Lock()), {})
    with pytest.raises(SerializationError, match="argument 'x'"):
        payload.dump_call((1,), {"x": threading.Lock()})


def test_functions():
    assert payload.dump_function(len)[1] is True
    data, by_name = payload.dump_function(lambda x: x + 1)
    import pickle

    assert by_name is False and pickle.loads(data)(1) == 2
    with pytest.raises(TypeError, match="not callable"):
        payload.dump_function(5)
    held = Reference()
    with pytest.raises(SerializationError, match="closure"):
        payload.dump_function(lambda: held)


def test_equal_calls_have_one_digest_whatever_strings_are_one_object():
    shared = "".join(["te", "xt"])
    one = pickle.dumps((shared, shared, [shared], 1.5, b"x"), 5)
    two = pickle.dumps(("text", "".join(["te", "xt"]), ["text"], 1.5, b"x"), 5)
    assert one != two and payload.canonical_digest(one) == payload.canonical_digest(two)
    box: list = []
    others = [("text", "text", ["text"], 1.5, b"y"), ("text", "other", ["text"], 1.5, b"x"), ([box], [box]), ([[]], [[]])]
    assert len({payload.canonical_digest(pickle.dumps(one, 5)) for one in others}) == len(others)


class Base:
    @classmethod
    def make(cls, x):
        return cls, x

    def bound(self, x):
        return x


@pytest.mark.parametrize(
    "argument", [Base.make, Base().bound, io, io.StringIO("text")], ids=["classmethod", "method", "module", "StringIO"]
)
def test_a_library_that_registers_reducers_for_everybody_changes_nothing(argument):
    """twisted.persisted.styles does: its class methods can't be unpickled, and what loads the others imports Twisted."""
    import twisted.persisted.styles  # noqa: F401

    data = payload.dumps(argument)
    assert b"twisted" not in data and type(pickle.loads(data)) is type(argument)
    if argument == Base.make:
        assert pickle.loads(data)(1) == (Base, 1)


LARGE = 5 << 20


def test_large_bytes_are_written_from_the_object_itself_wherever_they_are():
    data, store = os.urandom(LARGE), bytearray(LARGE)
    parts = payload.dump_value({"a": [data], "b": (store,)})
    assert any(part is data for part in parts)
    assert any(isinstance(part, memoryview) and part.obj is store for part in parts)
    assert sum(len(part) for part in parts if isinstance(part, bytes) and part is not data) < 200


@pytest.mark.parametrize(
    "value",
    [
        os.urandom(LARGE),
        bytearray(os.urandom(LARGE)),
        "text" * LARGE,
        [1, {"a": os.urandom(LARGE)}, "text" * (LARGE // 2), bytearray(LARGE), os.urandom(LARGE)],
        (os.urandom(LARGE - 1), list(range(100_000)), "ä" * LARGE),
        [os.urandom(300_000) for _ in range(20)],
    ],
    ids=["bytes", "bytearray", "str", "all", "tuple", "many"],
)
def test_large_values_arrive_as_they_were(value):
    data = b"".join(payload.dump_value(value))
    assert data == pickle.dumps(value, 5)  # other versions read it
    loaded = payload.load_value(data)
    assert loaded == value and type(loaded) is type(value)


def test_objects_that_occur_twice_are_one_object_afterwards():
    data, store = os.urandom(LARGE), bytearray(LARGE)
    loaded = payload.load_value(b"".join(payload.dump_value([data, data, store, store])))
    assert loaded[0] is loaded[1] and loaded[2] is loaded[3] and type(loaded[0]) is bytes


def test_large_bytes_beside_an_array_and_a_function_of_the_script():
    def double(x):
        return 2 * x

    double.__module__, double.__qualname__ = "__main__", "double"
    data = os.urandom(LARGE)
    parts = payload.dump_value((data, pickle.PickleBuffer(b"buffer"), double))
    assert any(part is data for part in parts)
    loaded, buffer, function = payload.load_value(b"".join(parts))
    assert loaded == data and bytes(buffer) == b"buffer" and function(2) == 4


@pytest.mark.parametrize("cut", [1, 100, LARGE])
def test_a_large_pickle_that_is_truncated_is_refused(cut):
    data = b"".join(payload.dump_value(os.urandom(LARGE)))
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        payload.load_value(data[:-cut])
