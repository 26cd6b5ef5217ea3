"""The loop of ``adapt`` with a clock that the test turns."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from twistdist.clusters.adapting import Adapting, Scheduler, check_policy
from twistdist.clusters.policy import Demand, Load, Need, Policy


class Fleet:
    """A cluster whose workers come when the test says so."""

    def __init__(self, **policy):
        self.clock = Clock()
        self.demand = Demand()
        self.asked = self.grown = 0
        self.retired = []
        self.error = None
        self.adapting = Adapting(self.clock, Policy(**policy), self._ask, self._grow, self._retire)

    def _ask(self):
        self.asked += 1
        return fail(self.error) if self.error else succeed(self.demand)

    def _grow(self, count):
        if self.error:
            raise self.error
        self.grown += count

    def _retire(self, names):
        self.retired.append(tuple(names))
        return succeed(None)

    def work(self, tasks, *workers):
        self.demand = Demand((Need({}, (), tasks, 10.0 * tasks, 0),) if tasks else (), workers)


@pytest.fixture
def logged():
    events = []
    globalLogPublisher.addObserver(events.append)
    yield lambda: [event["log_format"] for event in events if event.get("log_namespace", "").startswith("twistdist.clusters")]
    globalLogPublisher.removeObserver(events.append)


def test_it_looks_at_once_and_then_in_intervals():
    fleet = Fleet(minimum=1, maximum=4, interval_s=2.0)
    fleet.adapting.start()
    fleet.clock.advance(0)
    assert (fleet.asked, fleet.grown) == (1, 1)
    fleet.clock.pump([1.0] * 4)
    assert (fleet.asked, fleet.grown) == (3, 1)  # that one is coming


def test_idle_workers_leave_and_are_kept_when_work_comes():
    fleet = Fleet(minimum=0, maximum=4, patience_s=5.0)
    fleet.adapting.start()
    fleet.work(0, Load("a", running=1))
    fleet.clock.advance(0)
    fleet.work(0, Load("a", idle_s=1.0, values=0))
    while not fleet.retired:
        assert fleet.clock.seconds() < 10
        fleet.clock.advance(1)
    assert fleet.retired == [("a",)]
    fleet.work(3, Load("a", state="retiring"))
    fleet.clock.advance(1)
    assert fleet.retired[-1] == ()


def test_errors_are_logged_and_it_goes_on(logged):
    fleet = Fleet(minimum=1, maximum=4)
    fleet.error = RuntimeError("no scheduler")
    fleet.adapting.start()
    fleet.clock.pump([0.0, *[1.0] * 7])
    assert fleet.asked == 3  # after 0, 2 and 6 seconds
    assert any("could not be adapted" in text for text in logged())
    fleet.error = None
    fleet.clock.pump([1.0] * 10)
    assert fleet.grown == 1


def test_the_pause_after_errors_is_bounded():
    fleet = Fleet(minimum=1, maximum=4)
    fleet.error = RuntimeError("no scheduler")
    fleet.adapting.start()
    fleet.clock.pump([1.0] * 1000)
    assert fleet.asked > 30


def test_workers_that_could_not_be_started_are_asked_for_again():
    fleet = Fleet(minimum=2, maximum=4)
    fleet.adapting._grow = lambda count: fail(OSError("no quota"))
    fleet.adapting.start()
    fleet.clock.advance(0)
    fleet.adapting._grow = fleet._grow
    fleet.clock.pump([1.0] * 3)
    assert fleet.grown == 2


def test_a_demand_that_does_not_come_is_waited_for_and_ends_with_the_loop():
    fleet, cancelled = Fleet(minimum=1, maximum=4), []
    fleet.adapting._demand = lambda: Deferred(cancelled.append)
    fleet.adapting.start()
    fleet.clock.pump([1.0] * 100)
    assert not cancelled
    fleet.adapting.stop()
    assert len(cancelled) == 1 and not fleet.clock.getDelayedCalls()


def test_after_the_end_nothing_happens():
    fleet = Fleet(minimum=1, maximum=4)
    fleet.adapting.start()
    fleet.clock.advance(0)
    fleet.adapting.stop()
    assert not fleet.clock.getDelayedCalls()


def test_new_numbers_count_at_once():
    fleet = Fleet(minimum=1, maximum=4, interval_s=100.0)
    fleet.adapting.start()
    fleet.clock.advance(0)
    fleet.adapting.change(Policy(3, 4))
    fleet.clock.advance(0)
    assert fleet.grown == 3


def test_who_is_about_to_leave_is_kept_at_the_end():
    fleet = Fleet(minimum=0, maximum=4, patience_s=0.0)
    fleet.work(0, Load("a"))
    fleet.adapting.start()
    fleet.clock.advance(0)
    assert fleet.retired == [("a",)]
    fleet.adapting.stop()
    fleet.adapting.keep_all()
    assert fleet.retired == [("a",), ()]


def test_the_engine_knows_what_is_coming():
    fleet = Fleet(minimum=0, maximum=4)
    fleet.adapting._present = lambda: 2
    fleet.work(2)
    fleet.adapting.start()
    fleet.clock.advance(0)
    assert fleet.grown == 0
    fleet.adapting._present = lambda: 0  # their processes have ended
    fleet.clock.advance(1)
    assert fleet.grown == 2


class Client:
    def __init__(self, answers):
        self.answers, self.asked, self.closed = answers, [], ""

    def why_closed(self):
        return self.closed

    def _query(self, what, *args):
        self.asked.append((what, *args))
        return succeed(self.answers.get(what))

    def close(self):
        self.closed = "closed"
        return succeed(None)


def test_the_session_is_opened_when_it_is_needed_and_again_when_it_has_ended():
    answer = {"recovering": False, "unfinished": 3, "ended": 5, "waiting": [[{"GPU": 1}, [], 2, 1_500_000, 1]], "workers": []}
    clients = []

    def connect():
        clients.append(Client({"demand": answer}))
        return succeed(clients[-1])

    scheduler, told = Scheduler(connect), []
    scheduler.demand().addCallback(told.append)
    assert told == [Demand((Need({"GPU": 1}, (), 2, 1.5, 1),), (), 3, 5, False)]
    scheduler.retire(["a"])
    assert [one[0] for one in clients[0].asked] == ["demand", "dismiss"] and clients[0].asked[1][2:] == ("a",)
    clients[0].closed = "the scheduler does not know it any more"
    scheduler.demand()
    assert len(clients) == 2
    scheduler.close()
    assert clients[1].closed


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ((3, 2, 10, 5, 1, None), ValueError, "minimum must not be greater than maximum, got 3 and 2"),
        ((0, 0, 10, 5, 1, None), ValueError, "maximum must be an integer"),
        ((-1, 2, 10, 5, 1, None), ValueError, "minimum must be an integer"),
        ((0, "4", 10, 5, 1, None), TypeError, "maximum must be an integer"),
        ((0, 11, 10, 5, 1, None), ValueError, "maximum"),
        ((0, 2, 10, 0, 1, None), ValueError, "target_s"),
        ((0, 2, 10, 5, 0, None), ValueError, "interval_s"),
        ((0, 2, 10, 5, 1, -1), ValueError, "patience_s"),
        ((0, 2, 10, 5, 1, float("nan")), ValueError, "patience_s"),
    ],
)
def test_bad_numbers_are_named(arguments, error, text):
    with pytest.raises(error, match=text):
        check_policy(*arguments)
