"""Which jobs there should be: the pure part, with an engine and a scheduler that are played."""

import itertools
import random

import pytest

from twistdist.clusters import roster as r
from twistdist.clusters.engine import JobState
from twistdist.interfaces import WorkerInfo


def info(state="connected", retired_by=""):
    return WorkerInfo(1, 0, 0, 0, 0, 0, "", 1, state, 0.0, [], retired_by=retired_by)


class World:
    """An engine and a scheduler: jobs wait, run and end, workers join and are lost."""

    def __init__(self, wanted):
        self.roster, self.now = r.Roster(wanted), 0.0
        self.states, self.names, self.workers, self.retired = {}, {}, {}, []
        self.answers = True
        self.news = []

    def look(self, seconds=1.0):
        self.now += seconds
        workers = dict(self.workers) if self.answers else None
        steps = self.roster.look(self.now, dict(self.states), workers, self.retired if self.answers else ())
        if self.answers:
            self.retired = []
        self.news += steps.news
        for id in steps.end:
            self.end(id, "told to end")
        for name in steps.retire:
            self.leave(name)
        living = [self.names[id] for id, state in self.states.items() if state.phase != "ended"]
        assert not set(steps.start) & set(living), "a job is started twice"
        if steps.start:
            self.start(steps.start)
        return steps

    def start(self, names, works=True):
        ids = {}
        for name in names if works else ():
            ids[name] = id = f"job-{len(self.names)}"
            self.names[id], self.states[id] = name, JobState("waiting", "Priority")
        self.roster.started(self.now, ids, names, "refused")

    def run(self, id):
        self.states[id] = JobState("running")

    def join(self, id):
        self.run(id)
        self.workers[self.names[id]] = info()

    def end(self, id, why="exit status 1"):
        self.states[id] = JobState("ended", why)
        self.workers.pop(self.names[id], None)

    def leave(self, name):
        for id, state in self.states.items():
            if self.names[id] == name and state.phase == "running":
                self.end(id, "")

    def alive(self):
        return sorted(self.names[id] for id, state in self.states.items() if state.phase != "ended")


@pytest.fixture
def world():
    world = World(2)
    world.look()
    for id in list(world.states):
        world.join(id)
    world.look()
    assert world.roster.all_joined and world.alive() == ["w0", "w1"]
    return world


def test_a_worker_that_ended_is_started_again_under_its_name(world):
    world.end("job-0", "killed")
    world.look()
    assert world.names["job-2"] == "w0" and world.alive() == ["w0", "w1"]
    assert world.news == ["worker w0 ended (job job-0: killed) and will be started again"]


def test_a_worker_that_was_told_to_end_is_started_again_a_little_later(world):
    world.states["job-0"] = JobState("ended", "exit status 0", True)
    del world.workers["w0"]
    world.look()
    world.look(r.TOLD_S / 2)
    assert world.alive() == ["w1"]
    world.look(r.TOLD_S)
    assert world.alive() == ["w0", "w1"]


def test_a_worker_that_leaves_is_replaced_before_it_is_gone(world):
    world.workers["w0"] = info("retiring")
    world.look()
    assert world.alive() == ["w0", "w1", "w2"]
    world.end("job-0", "")
    world.look()
    assert world.alive() == ["w1", "w2"]


@pytest.mark.parametrize("seen", [False, True])
def test_a_worker_that_a_client_retires_is_not(world, seen):
    if seen:
        world.workers["w0"] = info("retiring", "client x")
        world.look()
        assert world.alive() == ["w0", "w1"]  # it may be told to stay
    world.end("job-0", "")
    world.retired = ["w0"]
    world.look()
    world.look()
    assert world.alive() == ["w1"] and world.roster.wanted == 1


def test_what_waits_is_withdrawn_first_then_the_youngest_is_retired(world):
    world.roster.wanted = 3
    world.look()
    assert world.alive() == ["w0", "w1", "w2"]
    world.roster.wanted = 2
    assert world.look().end == ["job-2"]
    world.roster.wanted = 1
    assert world.look().retire == ["w1"]
    world.look()
    assert world.alive() == ["w0"]


def test_what_was_not_heard_is_said_again(world):
    """A scheduler that restarts forgets whom it has retired, and an engine may fail to end a job."""
    world.leave = lambda name: None
    world.roster.wanted = 1
    assert world.look().retire == ["w1"] and world.look().retire == ["w1"]
    world.workers["w1"] = info("retiring", "client x")
    assert world.look().retire == []
    world.end("job-1", "")
    world.roster.wanted = 2
    world.look()
    world.end = lambda id, why="": None
    world.roster.wanted = 1
    assert world.look().end == ["job-2"] and world.look().end == []
    assert world.look(r.AGAIN_S).end == ["job-2"]


def test_nobody_is_chosen_to_leave_while_the_scheduler_can_not_be_told(world):
    world.answers = False
    world.roster.wanted = 1
    assert world.look().retire == []
    world.answers = True
    assert world.look().retire == ["w1"]


def test_a_worker_that_is_there_again_was_not_retired(world):
    world.retired = ["w0"]
    world.look()
    assert world.alive() == ["w0", "w1"] and world.roster.wanted == 2


def test_nothing_is_decided_while_the_scheduler_does_not_answer(world):
    world.answers = False
    world.end("job-0")
    world.look(1000.0)
    assert world.alive() == ["w1"] and not world.news
    world.answers = True
    world.look()
    assert world.alive() == ["w0", "w1"]


def test_nothing_is_started_while_the_scheduler_does_not_answer(world):
    """The last of a cluster that a client shuts down: the worker ends in order, and the scheduler soon after it."""
    world.states["job-0"] = JobState("ended", "exit status 0", True)
    world.workers.pop("w0")
    assert world.look().start == []
    world.answers = False
    assert world.look(r.TOLD_S + 1.0).start == []
    world.answers = True
    assert world.look().start == ["w0"]


def test_a_worker_that_is_lost_while_its_job_runs_is_replaced(world):
    del world.workers["w0"]
    world.look()
    world.look(r.LOST_S - 1.5)
    assert world.alive() == ["w0", "w1"]
    world.look(2.0)
    world.look()
    assert world.alive() == ["w1", "w2"]


def test_a_job_that_does_not_join_is_ended_and_tried_again():
    world = World(1)
    world.look()
    world.run("job-0")
    world.look()
    assert world.look(r.JOIN_S - 1.0).end == []
    assert world.look(2.0).end == ["job-0"]
    world.look(1.0)
    assert world.roster.failures == 1 and world.roster.failure.endswith("it ran for 300 s without joining the cluster")
    world.look(r.BACKOFF_S)
    assert world.alive() == ["w0"]


def test_what_fails_is_tried_less_and_less_often():
    world, at = World(1), []
    for _ in range(1000):
        before = len(world.names)
        world.look(0.5)
        if len(world.names) > before:
            at.append(world.now)
            world.end(f"job-{before}", "no such file")
    pauses = [round(b - a) for a, b in itertools.pairwise(at)]
    assert pauses[:4] == [2, 2, 4, 8] and set(pauses[-3:]) == {60}
    assert world.roster.failure.startswith("worker w0 failed to start: job job-")


def test_a_queue_is_complained_about_now_and_then():
    world = World(1)
    for _ in range(100):
        world.look(r.QUEUE_S / 10)
    assert 9 <= len(world.news) <= 10 and world.news[0] == "job job-0 for worker w0 is still waiting: Priority"


@pytest.mark.parametrize("seed", range(200))
def test_any_order_of_events(seed):
    """Whatever happens, no name runs twice, and when nothing happens any more there is what is wanted."""
    rng = random.Random(seed)
    world = World(rng.randrange(5))
    for _ in range(rng.randrange(120)):
        living = [id for id, state in world.states.items() if state.phase != "ended"]
        id = rng.choice(living) if living else None
        what = rng.choice(["scale", "run", "join", "end", "lose", "leaves", "retired", "answers", "purged", "look"])
        if what == "scale":
            world.roster.wanted = rng.randrange(6)
        elif what == "answers":
            world.answers = not world.answers
        elif id is None:
            continue
        elif what == "run":
            world.run(id)
        elif what == "join":
            world.join(id)
        elif what == "end":
            world.end(id)
        elif what == "lose":
            world.workers.pop(world.names[id], None)
        elif what == "leaves" and world.names[id] in world.workers:
            world.workers[world.names[id]] = info("retiring")
        elif what == "retired" and world.names[id] in world.workers:
            world.end(id)
            world.retired.append(world.names[id])
        elif what == "purged":
            world.end(id)
            del world.states[id]
        world.look(rng.choice([0.1, 1.0, 40.0]))
    world.answers = True
    for _ in range(60):
        for id, state in list(world.states.items()):
            name = world.names[id]
            if state.phase != "ended" and getattr(world.workers.get(name), "state", "") == "retiring":
                world.end(id, "")
            elif state.phase != "ended" and name not in world.workers and not world.roster.jobs[name].leaving:
                world.join(id)
        world.look(r.LOST_S)
    assert world.roster.all_joined
    assert world.alive() == sorted(entry.name for entry in world.roster.meant) and len(world.alive()) == world.roster.wanted
    assert len(world.roster.jobs) == world.roster.wanted
