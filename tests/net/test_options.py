"""Options of tasks as people write them: what they become on the wire, and what is refused."""

from __future__ import annotations

import datetime
import itertools

import pytest

from twistdist import keywords
from twistdist.net.options import NO_OPTIONS, check_key, check_keys, check_workers, several, split_options
from twistdist.wire import messages as m


def test_no_options_cost_nothing():
    assert split_options({}) is NO_OPTIONS and split_options({"retries": 0}).wire is None


def test_options_are_taken_out_of_the_functions_keywords():
    kwargs = {"retries": 2, "key": "k", "x": 1, "time_limit": datetime.timedelta(minutes=1), "resources": {"GPU": 0.5}}
    options = split_options(kwargs)
    assert kwargs == {"x": 1} and options.key == "k"
    assert options.wire == m.Options(retries=2, time_limit=60.0, resources={"GPU": 500_000})


@pytest.mark.parametrize(
    "given, error, text",
    [
        ({"retries": -1}, ValueError, "retries"),
        ({"retries": 1.5}, (TypeError, ValueError), "retries"),
        ({"retries": "two"}, TypeError, "retries"),
        ({"crash_limit": 0}, ValueError, "crash_limit"),
        ({"time_limit": 0}, ValueError, "time_limit"),
        ({"time_limit": float("nan")}, ValueError, "time_limit"),
        ({"replay": "sometimes"}, ValueError, "always"),
        ({"replicas": 0}, ValueError, "replicas"),
        ({"replicas": 10_001}, ValueError, "replicas"),
        ({"workers": b"w"}, TypeError, "worker names"),
        ({"workers": [1]}, TypeError, "worker names"),
        ({"resources": "GPU"}, TypeError, "resources"),
        ({"resources": {"GPU": -1}}, ValueError, "GPU"),
        ({"resources": {1: 1}}, TypeError, "resource"),
        ({"key": "k", "pure": True}, ValueError, "pure"),
        ({"replace": True}, ValueError, "key="),
        ({"priority": "high"}, TypeError, "priority"),
    ],
    ids=str,
)
def test_an_impossible_option_is_refused_by_name(given, error, text):
    with pytest.raises(error, match=text):
        split_options(given)


def test_a_keyword_of_another_framework_is_explained_unless_the_function_takes_it():
    def takes(x, pure=None, fifo_timeout=None):
        return x

    def takes_not(x):
        return x

    assert split_options({"fifo_timeout": 1}, takes) is not None
    with pytest.raises((TypeError, ValueError), match="fifo_timeout"):
        split_options({"fifo_timeout": 1}, takes_not)


@pytest.mark.parametrize("key", ["", "ends-", "x" * 10_000, "\ud800", 5, None, b"k"], ids=repr)
def test_what_can_not_be_a_key(key):
    with pytest.raises((TypeError, ValueError)):
        check_key(key)


def test_keys_of_a_map_may_come_from_any_iterable():
    assert check_keys(iter("abc"), 3) == ["a", "b", "c"]
    assert check_keys((f"k{n}" for n in itertools.count()), 2) == ["k0", "k1"]
    with pytest.raises(ValueError, match="2 keys were given for 3 tasks"):
        check_keys(["a", "b"], 3)
    with pytest.raises(ValueError, match="4 keys"):
        check_keys(["a"] * 4, 3)
    with pytest.raises(TypeError):
        check_keys(7, 3)


def test_worker_names_alone_or_in_a_list():
    assert check_workers("a") == ["a"] and check_workers({"a": 1}) == ["a"] and check_workers(None) == []


def test_several():
    assert several("key") == ["key"] and several(("a", "b")) == ["a", "b"]
    with pytest.raises(TypeError):
        several(3)


def test_the_list_of_options_for_hints_is_that_of_submit():
    assert set(keywords.TASK_OPTIONS) == set(m.Options.__struct_fields__) - {"beside", "trace"} | {"key", "pure", "replace"}
