"""Groups that users name: who belongs to which."""

import threading

import pytest

from twistdist.net.options import NO_OPTIONS, grouped, split_options


def test_a_block_names_the_group_of_what_is_submitted_in_it():
    with grouped("load"):
        assert split_options({}).wire.group == "load"
        assert split_options({"group": "other"}).wire.group == "other"
        assert split_options({"group": None}).wire is None
        with grouped("inner"):
            assert split_options({"retries": 1}).wire.group == "inner"
        assert split_options({}).wire.group == "load"
    assert split_options({}) is NO_OPTIONS


def test_it_is_this_thread_s_alone():
    found = []
    with grouped("load"):
        thread = threading.Thread(target=lambda: found.append(split_options({})))
        thread.start()
        thread.join()
    assert found == [NO_OPTIONS]


@pytest.mark.parametrize("name", ["", "x" * 201, 5, b"load", None, "\ud800"], ids=repr)
def test_what_can_not_be_a_group(name):
    with pytest.raises((TypeError, ValueError), match="group"), grouped(name):
        pass
