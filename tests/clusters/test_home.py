"""A scheduler that is a job, with a clock and an engine that only counts."""

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twistdist.clusters.engine import Job, JobState
from twistdist.clusters.home import LASTS_S, LONGEST_BACKOFF_S, JobScheduler
from twistdist.errors import TwistdistError

CRASHED, RUNNING = JobState("ended", "exit status 1"), JobState("running")


class Counting:
    """``starts`` are the times at which it was asked for a scheduler; ``trouble`` is what it answers instead."""

    name = "counting"

    def __init__(self):
        self.clock, self.starts, self.trouble, self.news = Clock(), [], None, []
        self.home = JobScheduler(self.clock, self, lambda port: Job("scheduler", "scheduler", (port,), {}), self.news.append)

    async def start(self, jobs):
        self.starts.append(self.clock.seconds())
        if self.trouble is not None:
            raise self.trouble
        return {"scheduler": f"s{len(self.starts)}"}

    async def scheduler_address(self, id):
        return "tls:h:8786"

    async def log(self, id, n):
        return [f"the last words of {id}"]

    def look(self, state):
        return done(self.home.look({self.home.id: state}))

    def pass_time(self, seconds, state):
        for _ in range(seconds):
            self.clock.advance(1.0)
            assert self.look(state) == ""


def done(coroutine):
    found = []
    Deferred.fromCoroutine(coroutine).addBoth(found.append)
    (result,) = found  # at once
    return result if not hasattr(result, "raiseException") else result.raiseException()


@pytest.fixture
def engine():
    engine = Counting()
    assert done(engine.home.start()) == "tls:h:8786"
    return engine


def test_a_scheduler_that_crashes_at_every_start_is_started_ever_later(engine):
    """Once it was started again at every look, and nobody was told."""
    engine.pass_time(1000, CRASHED)
    gaps = [later - earlier for earlier, later in zip(engine.starts, engine.starts[1:], strict=False)]
    assert gaps == sorted(gaps) and 2 * gaps[0] <= gaps[2] and gaps[-1] <= LONGEST_BACKOFF_S + 1
    assert 15 <= len(engine.starts) <= 25
    assert engine.news[0] == "the scheduler is down and will be started again: job s1 ended: exit status 1"
    assert engine.news[2].startswith("the scheduler does not stay up: 3 times in a row")
    assert engine.news[2].endswith("job s3 ended: exit status 1; it wrote: the last words of s3")
    assert len(engine.news) == 2 + len(engine.starts) // 3


def test_one_that_has_lasted_is_started_again_at_once(engine):
    engine.pass_time(100, CRASHED)
    engine.pass_time(int(LASTS_S) + 2, RUNNING)
    before = len(engine.starts)
    assert engine.look(CRASHED) == "" and len(engine.starts) == before + 1
    assert engine.look(JobState("ended", "", True)) == "it was shut down"


def test_an_engine_that_starts_nothing_is_asked_ever_later(engine):
    engine.trouble = TwistdistError("the quota is used up")
    engine.pass_time(1000, CRASHED)
    assert 15 <= len(engine.starts) <= 25
    assert engine.news[1].endswith("it could not be started: the quota is used up")
    engine.trouble = None
    engine.pass_time(70, CRASHED)
    assert engine.home.id != "s1"


def test_an_error_in_the_engine_is_shown_and_counts_too(engine):
    engine.trouble = ZeroDivisionError("division by zero")
    engine.clock.advance(LASTS_S)
    with pytest.raises(ZeroDivisionError):
        engine.look(CRASHED)
    assert engine.look(CRASHED) == ""  # there is a pause
    assert len(engine.starts) == 2


def test_one_that_runs_although_its_start_was_given_up_counts_from_then(engine):
    engine.trouble = TwistdistError("it could not be reached within 600 s")
    engine.clock.advance(LASTS_S)
    assert engine.look(CRASHED) == ""
    engine.trouble = None
    engine.pass_time(2, RUNNING)
    before = len(engine.starts)
    assert engine.look(CRASHED) == "" and len(engine.starts) == before  # it has not lasted
    engine.pass_time(3, CRASHED)
    assert len(engine.starts) == before + 1
