"""Commands that engines run, under the reactor of the blocking API."""

from __future__ import annotations

import time

import pytest
from twisted.internet.defer import ensureDeferred

from twistdist.blocking.reactor_thread import get_reactor_thread
from twistdist.clusters.engine import MAX_OUTPUT, run
from twistdist.errors import TwistdistError


def said_by(*command, **options):
    thread = get_reactor_thread()
    return thread.call(lambda: ensureDeferred(run(thread.reactor, *command, **options)), 60)


def test_a_command_gets_its_input_and_says_what_it_printed():
    assert said_by("cat", input=b"lines\n" * 100_000) == "lines\n" * 100_000
    assert said_by("sh", "-c", "echo $WORD", environment={"WORD": "other"}) == "other\n"


def test_a_command_that_closes_its_output_before_it_ends_is_waited_for():
    began = time.monotonic()
    assert said_by("sh", "-c", "echo done; exec >&- 2>&-; sleep 0.3") == "done\n"
    assert time.monotonic() - began >= 0.3


def test_a_command_that_fails_says_how():
    with pytest.raises(TwistdistError, match=r"^sh failed with status 3: first second$"):
        said_by("sh", "-c", "echo first >&2; echo second >&2; exit 3")
    with pytest.raises(TwistdistError, match=r"^sh was ended by signal 9: no message$"):
        said_by("sh", "-c", "kill -9 $$")
    with pytest.raises(TwistdistError, match="there is no program nothing-of-this-name"):
        said_by("nothing-of-this-name")


def test_a_command_that_takes_too_long_is_killed_even_if_others_hold_its_output():
    with pytest.raises(TwistdistError, match=r"^sh took more than 0.5 s: early$"):
        said_by("sh", "-c", "echo early; sleep 3 & sleep 1000", timeout=0.5)


def test_of_what_a_command_prints_the_end_is_kept():
    assert said_by("sh", "-c", "head -c 3000000 /dev/zero; echo end")[-4:] == "end\n"
    assert len(said_by("head", "-c", "3000000", "/dev/zero")) == MAX_OUTPUT
