"""The cores are told things that can be decoded and mean nothing: a protocol error, or a state in which all invariants hold.

A run is a list of steps made from a seed; a step holds everything that it needs, so that a failed run can be made shorter
(``python tests/fuzz/test_cores.py KIND SEED``).
"""

from __future__ import annotations

import random
import sys
import traceback

import pytest

from twistdist.core import client as client_core
from twistdist.core import worker as worker_core
from twistdist.core.client import FunctionRef, Record
from twistdist.core.scheduler import Scheduler, Settings
from twistdist.core.scheduler.invariants import check_scheduler
from twistdist.core.scheduler.outputs import Replaced
from twistdist.core.scheduler.records import Client
from twistdist.core.session import Session
from twistdist.core.worker import Death
from twistdist.core.worker import effects as fx
from twistdist.core.worker.memory import Limits
from twistdist.errors import ProtocolError
from twistdist.testing.nonsense import FROM_CLIENT, FROM_WORKER, TO_CLIENT, TO_WORKER, Nonsense
from twistdist.wire import framing
from twistdist.wire import messages as m

#: Kinds that go to the heart of things come more often.
LIKELY = {
    m.Submit: 8,
    m.Done: 8,
    m.Scatter: 3,
    m.Have: 3,
    m.Query: 4,
    m.Release: 2,
    m.Function: 2,
    m.Compute: 8,
    m.WorkerFunction: 3,
    m.Finished: 3,
    m.Bye: 0.2,
}


def choose(rng, kinds):
    return rng.choices(kinds, [LIKELY.get(one, 1) for one in kinds])[0]


def travel(decoder, messages):
    """The messages, encoded and decoded: what can't travel is not for the cores."""
    return framing.decode_frame(decoder, framing.encode_frame((1, 0, messages))[4:])[2]


class SchedulerRun:
    """Two sessions of clients and three of workers, which say anything; who breaks the protocol loses its connection."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.core = Scheduler(1, Settings(checkpoints="file:///c" if seed % 2 else ""))
        self.now = 0.0
        self.attempts = [0]
        self.nonsense = Nonsense(
            self.rng,
            {
                "cid": [1, 2, 3, 4, 5, 6],
                "task": [1, 2, 3, 4, 5, 6],
                "attempt": self.attempts,
                "worker": [0, 1, 2, 3],
                "fn": [1, 1, 2],
                "key": ["k", "l", ""],
                "query": [1],
                "session": [1, 2],
                "digest": [b"", b"d", b"f"],
                "parent": [0, 0, 1],
                "incarnation": [1, 2, 3],
            },
        )
        self.peers = []
        for number in (1, 2):
            self.peers.append(self.core.greet(self.now, m.HelloClient(number)))
            self.core.receive(self.now, self.peers[-1], [m.Function(1, "f", b"f", b"blob")])
        for number in range(3):
            hello = m.HelloWorker(
                10 + number,
                f"w{number}",
                10 + number,
                1,
                1 + number % 2,
                "a",
                "h1",
                "/s",
                {"GPU": 1_000_000} if number else {},
                [],
                [],
                [],
            )
            self.peers.append(self.core.greet(self.now, hello))
        self.flush()

    def step(self):
        """What happens next: a description that ``do`` carries out."""
        rng, chance = self.rng, self.rng.random()
        if chance < 0.08:
            return ("later", rng.choice((0.0, 0.05, 0.3, 2.0, 20.0)))
        if chance < 0.12:
            return ("lose", rng.randrange(len(self.peers)))
        if chance < 0.2:
            return ("come back", rng.randrange(len(self.peers)))
        if chance < 0.25:
            kind = rng.choice((m.HelloClient, m.HelloWorker, m.HelloWorker))
            hello = travel(framing.GREETING_TO_SCHEDULER, [self.nonsense.message(kind)])
            return ("greet", rng.randrange(len(self.peers)), hello)
        who = rng.randrange(len(self.peers))
        client = isinstance(self.peers[who], Client)
        kinds, decoder = (FROM_CLIENT, framing.FROM_CLIENT) if client else (FROM_WORKER, framing.FROM_WORKER)
        if not client and chance < 0.5 and self.peers[who].assigned:
            task = next(iter(self.peers[who].assigned))
            self.nonsense.pairs = [(task.number, task.attempt)]
        else:
            self.nonsense.pairs = [(t.number, a) for t in self.core.tasks.values() for a in (t.attempt, t.value_attempt) if a]
        count = rng.choice((1, 1, 1, 2, 3))
        return ("say", who, travel(decoder, [self.nonsense.message(choose(rng, kinds)) for _ in range(count)]))

    def do(self, step):
        what, *rest = step
        if what == "later":
            self.now += rest[0]
            self.core.tick(self.now)
            assert self.core.wake is None or self.core.wake > self.now
        else:
            peer = self.peers[rest[0]]
            if what == "lose" and peer.connected:
                self.core.connection_lost(self.now, peer)
            elif what == "come back":
                self.come_back(rest[0], peer)
            elif what == "greet":
                self.greet(rest[0], rest[1][0])
            elif what == "say" and peer.connected:
                try:
                    self.core.receive(self.now, peer, rest[1])
                except ProtocolError:
                    self.core.connection_lost(self.now, peer)
        self.flush()
        self.check()

    def come_back(self, who, peer):
        """With its session if that is there, else with a new one."""
        if peer.connected:
            return
        number = peer.number if isinstance(peer, Client) else peer.hello.session
        found = self.core.find_session(m.Resume(number, 1, 0))
        if found is peer:
            self.core.reconnected(self.now, peer)
        elif isinstance(peer, Client):
            self.greet(who, m.HelloClient(peer.number, peer.name, peer.parent))
        else:
            hello = peer.hello
            self.greet(
                who,
                m.HelloWorker(
                    hello.session,
                    hello.name,
                    hello.incarnation + 100,
                    1,
                    hello.slots,
                    "a",
                    "h1",
                    "/s",
                    hello.resources,
                    [],
                    [],
                    [],
                ),
            )

    def greet(self, who, hello):
        """On another connection; the one before may go on for a while."""
        if self.core.refusal(hello) is not None:
            return
        try:
            peer = self.core.greet(self.now, hello)
        except ProtocolError:
            return
        if len(self.peers) < 8:
            self.peers.append(peer)
        else:
            if self.peers[who].connected:
                self.core.connection_lost(self.now, self.peers[who])
            self.peers[who] = peer

    def flush(self):
        """All that is said can be encoded, and is what that peer may be told."""
        bundle = self.core.take(lambda peer: True)
        for effect in bundle.effects:
            assert not isinstance(effect, Replaced) or not effect.worker.connected
        for peer, frames in bundle.frames:
            decoder = framing.TO_CLIENT if isinstance(peer, Client) else framing.TO_WORKER
            for frame in frames:
                for one in framing.decode_frame(decoder, framing.encode_frame(frame)[4:])[2]:
                    if isinstance(one, m.Compute):
                        self.attempts.append(one.attempt)

    def check(self):
        core = self.core
        check_scheduler(core)
        for task in core.tasks.values():
            for client, cid in task.watchers:
                assert client.futures.get(cid) is task, "who watches a task has a future"
                assert core.clients.get(client.number) is client, "who watches a task is part of the cluster"
            for one in (task.worker, *(task.retention.copying if task.retention is not None else ())):
                assert one is None or core.workers.get(one.number) is one, "only workers of the cluster have orders"
        for function in core.parts.registry.functions.values():
            assert function.users > 0, "a function has users, or is forgotten"

    def end(self):
        """Everybody leaves: nothing is left."""
        core = self.core
        for name in list(core.parts.durable.datasets):
            core.parts.durable.unpublish(name)
        for client in [one for one in core.clients.values() if not one.placeholder]:
            if core.clients.get(client.number) is not client:
                continue  # ended with another one of its name
            if not client.connected:
                core.reconnected(self.now, client)
            core.parts.durable.end_session(client)
            core.receive(self.now, client, [m.Bye()])
            self.check()
        for holder in list(core.parts.watchers.placeholders.values()):  # of processes that are gone
            core.parts.durable.end_session(Client(0, holder.name, Session()))
        for worker in list(core.workers.values()):
            core.parts.fleet.gone(self.now, worker, "the end")
            core.tick(self.now)
            self.check()
        for _ in range(10):
            self.now += 500.0
            core.tick(self.now)
            self.check()
        left = (
            core.tasks
            or core.parts.registry.keys
            or core.parts.registry.functions
            or core.parts.supplies.awaited
            or core.parts.targets.tasks
            or core.parts.queues.restricted
            or core.parts.queues.isolated
        )
        assert not left, f"left: {left}"


class WorkerRun:
    """A worker whose scheduler says anything, with executors that behave."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.now = 0.0
        identity = m.HelloWorker(1, "w", 1, 1, 2, "a", "h1", "/mine", {}, [], [], [])
        self.core = worker_core.Worker(identity, [m.Stored(1, 1, 10, b"d")], limits=Limits(1000, 1000))
        self.nonsense = Nonsense(
            self.rng, {"task": [1, 2, 3, 4], "attempt": [1, 2, 3, 4, 5, 6], "worker": [1, 2, 3], "fn": [1, 1, 2]}, wild=0.05
        )
        self.alive, self.fetching, self.waiting, self.dying = set(), [], {}, []
        self.core.dialer.greeted(m.Ready(1))
        self.core.start(0.0)
        peers = [m.Peer(1, "w1", "h1", "/one", "a"), m.Peer(2, "w2", "h2", "/t", "b")]
        self.core.receive(0.0, [m.WorkerFunction(1, "f", b"f"), *peers])
        self.carry_out(random.Random(seed))

    def step(self):
        rng = self.rng
        if rng.random() < 0.5:
            return ("happens", rng.random(), rng.choice((0.0, 0.001, 0.05, 0.3, 3.0)))
        return (
            "say",
            rng.random(),
            travel(framing.TO_WORKER, [self.nonsense.message(choose(rng, TO_WORKER)) for _ in range(rng.choice((1, 1, 2, 3)))]),
        )

    def do(self, step):
        what, seed, rest = step
        rng = random.Random(seed)
        if what == "say":
            try:
                self.core.receive(self.now, rest)
            except ProtocolError:
                self.carry_out(rng)
                self.core.dialer.session.resume(0)
        else:
            self.now += rest
            self.happen(rng)
            self.carry_out(rng)
            self.core.tick(self.now)
        self.carry_out(rng)
        wake = self.core.wake
        assert wake is None or wake == wake, "time is a number"
        for frame in self.core.dialer.session.take():
            framing.decode_frame(framing.FROM_WORKER, framing.encode_frame(frame)[4:])
        framing.encode_frame((0, 0, list(self.core.stored.values())))
        self.check()

    def check(self):
        core = self.core
        assert core.in_memory == sum(one.size for at, one in core.stored.items() if at not in core.spilled)
        for attempt, job in core.jobs.items():
            assert job.attempt == attempt
            given = core.processes.has(job) is not None
            places = (job in core.queue) + given + (job.waits and not given)
            assert places == 1, f"a job is in one place: {places}"
            assert all(job in core.transfers[one].jobs for one in job.fetching)
        for executor in core.executors.values():
            assert executor.expected_us == sum(job.cost for job in executor.given.values())
            assert all(core.jobs.get(job.attempt) is job for job in executor.given.values())
        assert len(core.queue) <= len(core.jobs)

    def happen(self, rng):
        """One thing that an executor, or the edge, does."""
        core = self.core
        busy = [one for one in core.executors.values() if one.given and one.number in self.alive]
        if self.fetching and rng.random() < 0.5:
            attempt = self.fetching.pop(rng.randrange(len(self.fetching)))
            what = rng.random()
            if what < 0.6:
                core.fetched(self.now, attempt)
            else:
                core.fetch_failed(self.now, attempt, "no room" if what < 0.7 else "")
        elif busy:
            executor = rng.choice(busy)
            job = next(iter(executor.given.values()))
            what, compute = rng.random(), job.compute
            if what < 0.15:
                self.alive.discard(executor.number)
                core.executor_ended(self.now, executor.number, Death("SIGKILL", running=job.attempt, blame=rng.random() < 0.5))
            elif what < 0.25 and executor.parked is None and executor.number not in self.waiting:
                self.waiting[executor.number] = job.attempt
                core.executor_outcomes(self.now, executor.number, [m.Waits(job.attempt, [])])
            elif what < 0.35 and self.waiting.get(executor.number) == job.attempt:
                del self.waiting[executor.number]
                core.executor_outcomes(self.now, executor.number, [m.Resumes(job.attempt)])
            else:
                lost = [(one.attempt, 0) for one in compute.inputs or () if one.value is None]
                outcome = rng.choice(
                    (
                        m.Done(compute.task, job.attempt, b"v", 1, b"", 1),
                        m.Done(compute.task, job.attempt, None, 9, b"d", 1),
                        m.Failed(compute.task, job.attempt, m.ErrorInfo("", "E", "e"), 1),
                        m.InputLost(compute.task, job.attempt, lost),
                    )
                )
                self.waiting.pop(executor.number, None)
                core.executor_outcomes(self.now, executor.number, [outcome])

    def carry_out(self, rng):
        core = self.core
        while (found := core.take()) or self.dying:
            for effect in found:
                self.effect(rng, effect)
            if not found:  # each death is an event of its own
                number, death = self.dying.pop(0)
                core.executor_ended(self.now, number, death)

    def effect(self, rng, effect):
        core, now = self.core, self.now
        if isinstance(effect, fx.StartExecutor):
            if rng.random() < 0.9:
                self.alive.add(effect.number)
                self.waiting.pop(effect.number, None)
                core.executor_started(now, effect.number)
            else:
                core.executor_ended(now, effect.number, Death("it does not start"))
        elif isinstance(effect, fx.EndExecutor | fx.Kill):
            executor = core.executors.get(effect.number)
            if executor is not None and effect.number in self.alive:
                self.alive.discard(effect.number)
                self.dying.append((effect.number, Death("ended", running=getattr(effect, "attempt", 0))))
        elif isinstance(effect, fx.TakeBack):
            given = list(core.executors[effect.number].given) if effect.number in core.executors else []
            core.taken_back(now, effect.number, given[1:], given[0] if given else 0)
        elif isinstance(effect, fx.StartFetch):
            assert effect.attempt in core.transfers
            self.fetching.append(effect.attempt)
        elif isinstance(effect, fx.LookForFiles):
            core.verified(now, effect.attempts, [one for one in effect.attempts if rng.random() < 0.3])
        elif isinstance(effect, fx.RescueStore):
            core.rescued(now, effect.worker, rng.random() < 0.5, [m.Stored(2, 2, 10, b"d")], [])
        elif isinstance(effect, fx.Spill):
            core.spilled_files(now, effect.attempts)
        elif isinstance(effect, fx.Give) and any(isinstance(message, m.Compute) for message in effect.messages):
            assert core.executors[effect.number].up

    def end(self):
        """All is aborted: nothing is left."""
        core = self.core
        core.receive(self.now, [m.Abort(list(core.jobs), True)])
        rng = random.Random(1)
        for _ in range(30):
            self.carry_out(rng)
            self.now += 5.0
            for attempt in self.fetching:
                core.fetch_failed(self.now, attempt)
            self.fetching.clear()
            core.tick(self.now)
        self.check()
        assert not core.jobs and not core.queue and not core.transfers


class ClientRun:
    """A client whose scheduler says anything."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.core = client_core.Client(1)
        self.core.dialer.greeted(m.Ready(1))
        self.nonsense = Nonsense(self.rng, {"cid": [1, 2, 3, 4], "worker": [1, 2], "query": [1, 2], "attempt": [1, 2]})
        self.cid = 0

    def step(self):
        rng, chance = self.rng, self.rng.random()
        if chance < 0.2:
            self.cid += 1
            return ("submit", self.cid % 5)
        if chance < 0.4:
            return (rng.choice(("release", "cancel", "unreachable", "refused", "query")), 1 + rng.randrange(4))
        messages = [self.nonsense.message(choose(rng, TO_CLIENT)) for _ in range(rng.choice((1, 2)))]
        return ("say", travel(framing.TO_CLIENT, messages))

    def do(self, step):
        core, (what, which) = self.core, step
        if what == "submit" and which not in core.records:
            core.submit(Record(which), FunctionRef("f", b"f", b"f"), b"args")
        elif what == "release":
            core.release([which])
        elif what == "cancel":
            core.cancel([which])
        elif what == "unreachable" and which in core.records:
            core.unreachable(core.records[which])
        elif what == "query":
            core.query("status")
        elif what == "refused":
            core.dialer.greeted(m.Refused("session", ""))
            core.hello(0.0)
            core.dialer.greeted(m.Ready(1))
            core.changed()
        elif what == "say":
            try:
                core.receive(which)
            except ProtocolError:
                core.changed()
        core.take()
        for record in core.records.values():
            if record.place is not None:
                assert all(core.peers[number] for number in record.place.holders), "holders are known"
            assert record.state is client_core.State.PENDING or not (record.value is record.place is record.error is None)
        core.close_batch()
        for frame in core.dialer.session.take():
            framing.decode_frame(framing.FROM_CLIENT, framing.encode_frame(frame)[4:])

    def end(self):
        pass


RUNS = {"scheduler": SchedulerRun, "worker": WorkerRun, "client": ClientRun}


def fuzz(kind, seed, steps=150):
    """None, or (the steps up to the failure, the failure)."""
    run, done = RUNS[kind](seed), []
    try:
        for _ in range(steps):
            done.append(run.step())
            run.do(done[-1])
        run.end()
    except Exception as error:
        return done, error
    return None


def again(kind, seed, steps):
    """The failure of these steps, if they fail."""
    run = RUNS[kind](seed)
    try:
        for step in steps:
            run.do(step)
        run.end()
    except Exception as error:
        return error
    return None


def where(error):
    return type(error), traceback.extract_tb(error.__traceback__)[-1].lineno, str(error)[:25]


def shorten(kind, seed, steps, error):
    """Fewer steps that fail in the same way."""
    size = len(steps) // 2
    while size:
        at = 0
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            other = again(kind, seed, fewer)
            if other is not None and where(other) == where(error):
                steps = fewer
            else:
                at += size
        size //= 2
    return steps


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", RUNS)
def test_nonsense_is_refused_or_does_no_harm(kind, seed):
    for one in range(seed * 25, seed * 25 + 25):
        failed = fuzz(kind, one)
        if failed is not None:
            steps = shorten(kind, one, *failed)
            raise AssertionError(f"{kind}, seed {one}: " + "\n".join(map(repr, steps))) from again(kind, one, steps)


if __name__ == "__main__":
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1
    seen = {}
    for seed in range(first, first + count):
        failed = fuzz(kind, seed)
        if failed is not None:
            seen.setdefault(where(failed[1]), []).append((seed, failed))
    for place, found in sorted(seen.items(), key=lambda item: -len(item[1])):
        seed, (steps, error) = min(found, key=lambda one: len(one[1][0]))
        steps = shorten(kind, seed, steps, error)
        print(f"== {len(found)} times, seed {seed}: {place}")
        print("\n".join(map(repr, steps))[:1500])
        last = again(kind, seed, steps)
        print("".join(traceback.format_exception(last)[-4:])[-900:])
