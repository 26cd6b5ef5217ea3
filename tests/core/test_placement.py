"""Which worker gets the next task, and the queue of ready tasks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twistdist.core.scheduler.placement import Placement
from twistdist.core.scheduler.ready_queue import ReadyQueue, rank
from twistdist.core.scheduler.records import Function, Task, TaskState, Worker
from twistdist.core.scheduler.settings import Tuning
from twistdist.core.session import Session
from twistdist.testing.stories import Story
from twistdist.wire import messages as m

F = Function(1, "f", b"f", b"")


def worker(number, slots=1, **resources):
    hello = m.HelloWorker(number, f"w{number}", number, 1, slots, "tcp:x:1", "h", "/s", resources, [], [], [])
    return Worker(number, hello, Session(), resources=dict(resources))


def task(number, priority=0, batch=1, depth=0, inputs=(), **options):
    made = Task(number, F, b"", tuple(inputs), m.Options(**options), rank(priority, batch, depth, number), None, "c", number)
    made.depth = depth
    return made


def give(place, worker, *tasks, cost=1000):
    for one in tasks:
        worker.assigned[one] = None
        worker.load_us += cost
    place.update(worker)


def test_idle_workers_get_tasks_in_turn():
    place = Placement(Tuning())
    first, second = worker(1), worker(2)
    place.update(first)
    place.update(second)
    assert place.choose(task(1)) is first
    give(place, first, task(1))
    assert place.choose(task(2)) is second
    give(place, second, task(2))
    assert not place.idle and place.choose(task(3)) is first  # ahead of time


def test_a_worker_is_given_no_more_ahead_than_the_horizon():
    place, first = Placement(Tuning(horizon_us=3000, max_ahead=100)), worker(1)
    given_tasks = 0
    place.update(first)
    while place.has_room(first):
        given_tasks += 1
        give(place, first, task(given_tasks), cost=1000)
    assert given_tasks == 3
    place, first = Placement(Tuning(max_ahead=5)), worker(1)
    place.update(first)
    while place.has_room(first):
        given_tasks += 1
        give(place, first, task(given_tasks), cost=1)
    assert len(first.assigned) == 5


def test_the_worker_with_most_of_the_inputs_is_chosen():
    place = Placement(Tuning())
    workers = [worker(1), worker(2), worker(3)]
    for one in workers:
        place.update(one)
    small, large = task(1), task(2)
    small.size, small.holders = 10, {workers[0]: None}
    large.size, large.holders = 100, {workers[2]: None}
    assert place.choose(task(3, inputs=[small, large])) is workers[2]
    assert place.choose(task(4, inputs=[small])) is workers[0]


def test_a_worker_that_is_away_suspected_resting_or_leaving_gets_nothing():
    for change in ("suspect", "resting", "retiring", "exclusive"):
        place, one = Placement(Tuning()), worker(1)
        setattr(one, change, object() if change in ("retiring", "exclusive") else True)
        place.update(one)
        assert not place.has_room(one), change
    place, one = Placement(Tuning()), worker(1)
    one.connected = False
    place.update(one)
    assert not place


def test_the_most_loaded_worker_is_asked_for_tasks_first():
    tuning = Tuning(recall_load_us=1000, recall_stall_s=10.0)
    place, light, heavy = Placement(tuning), worker(1), worker(2)
    give(place, light, task(1), task(2), cost=600)
    give(place, heavy, task(3), task(4), cost=900)
    assert place.overloaded(0.0) == [heavy, light]
    heavy.recalling, light.recall_after = True, 5.0
    assert place.overloaded(0.0) == [] and place.overloaded(5.0) == [light]


def test_a_restricted_task_waits_for_its_resources():
    place, one = Placement(Tuning()), worker(1, 2, GPU=1)
    gpu, cpu = task(1, resources={"GPU": 1}), task(2)
    for made, kind in ((gpu, (("GPU", 1),)), (cpu, ())):
        made.state = TaskState.READY
        one.own.setdefault(kind, []).append((made.rank, made))
    one.resources["GPU"] = 0
    assert place.next_restricted(one) is cpu
    assert place.next_restricted(one) is None
    one.resources["GPU"] = 1
    assert place.next_restricted(one) is gpu and not one.own[(("GPU", 1),)]


TASKS = st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 4), st.integers(0, 3), st.booleans()), max_size=60)


@given(TASKS)
def test_the_queue_gives_ready_tasks_by_rank(described):
    """Against sorted(): higher priority, then earlier batch, then deeper, then older; tasks that are not ready are skipped."""
    queue, made = ReadyQueue(), []
    for number, (priority, batch, depth, ready) in enumerate(described):
        one = task(number, priority, batch, depth)
        one.state = TaskState.READY
        queue.push(one)
        if not ready:
            one.state = TaskState.ASSIGNED
        made.append((one, (-priority, batch, -depth, number), ready))
    expected = [one for one, _, ready in sorted(made, key=lambda entry: entry[1]) if ready]
    assert list(iter(queue.pop, None)) == expected and not len(queue)


def test_tasks_that_only_one_worker_may_run_are_given_ahead_to_it():
    story = Story()
    a, b = story.worker("a"), story.worker("b")
    for _ in range(3):
        story.submit(workers=("a",))
    for _ in range(3):
        story.submit(workers=("a", "b"))
    assert len(story.given(a)) == 2 and len(story.given(b)) == 1  # of unknown duration: one runs, one is ahead
    story.submit(workers=("b",), resources={"GPU": 1})
    assert not story.given(b)


def test_given_ahead_to_one_worker_as_far_as_there_is_room():
    story = Story()
    worker = story.worker("a")
    story.submit(workers=("a",))
    story.done(worker, story.given(worker)[0], us=985)  # 1 ms with what surrounds it
    for _ in range(100):
        story.submit(workers=("a",))
    assert len(story.given(worker)) == Tuning().horizon_us // 1000
