"""What happens to the simulated cluster of :mod:`.simulate` from outside: what clients submit and order, and the faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import attrs

from twistdist.testing import swarm
from twistdist.testing.clients import SimClient
from twistdist.testing.parties import FAULT_S, FROM_SCHEDULER, TO_SCHEDULER, Party, Plan, flipped
from twistdist.testing.workers import SimWorker
from twistdist.wire import messages as m

if TYPE_CHECKING:
    from twistdist.testing.simulate import World


class Outside:
    """Schedules all events from outside, or ``only`` those of these numbers.

    ``outsiders`` says how many there are, and ``story`` what became of those that happened: (time, text).
    """

    def __init__(self, world: World, only: Iterable[int] | None) -> None:
        self.world, self.rng, self.more = world, world.rng, world.more
        self.only = None if only is None else frozenset(only)
        self.outsiders = 0
        self.story: list[tuple[float, str]] = []
        self._hit = ""
        self._sessions = 0

    def prepare(self) -> None:
        """Schedule all random external events."""
        world, rng = self.world, self.rng
        world.pulse()
        for number in range(rng.choice((1, 2, 2, 3))):
            start = rng.uniform(0, 0.5)
            self._schedule(start, f"w{number} starts", lambda name=f"w{number}": world.start_worker(name), always=True)  # type: ignore[misc]
        for client in world.clients:
            client.dial()
            at = 0.0
            for plan in world.plans:
                at += rng.choice((0.0, 0.0, 0.0, 0.05))
                key = f"node-{plan.node}" if world.keyed else None
                who, node = client.name, plan.node
                if world.is_scattered(node):
                    copies = rng.choice((0, 1, 2, 2))
                    text = f"{who} scatters node {node} with {copies} copies"
                    self._schedule(at, text, lambda c=client, n=node, r=copies: c.scatter(n, r))  # type: ignore[misc]
                else:
                    self._schedule(at, f"{who} submits {plan}", lambda c=client, n=node, k=key: c.submit(n, k))  # type: ignore[misc]
                if rng.random() < 0.2:
                    self._schedule(at + rng.uniform(0, 2), f"{who} drops node {node}", lambda c=client, n=node: c.drop(n))  # type: ignore[misc]
                elif rng.random() < 0.05:
                    self._schedule(at + rng.uniform(0, 1), f"{who} cancels node {node}", lambda c=client, n=node: c.cancel(n))  # type: ignore[misc]
                elif rng.random() < 0.3:
                    self._schedule(at + rng.uniform(0, 4), f"{who} retries node {node}", lambda c=client, n=node: c.retry(n))  # type: ignore[misc]
        if rng.random() < 0.15:
            for version in range(rng.randint(1, 3)):
                text = f"client 0 uploads version {version}"
                self._schedule(rng.uniform(0.1, 3), text, lambda v=version: world.clients[0].upload(v))  # type: ignore[misc]
        if rng.random() < 0.08:
            self._schedule(rng.uniform(0.2, 3), "the cluster is restarted", self._restart_cluster)
        moments = []
        if world.faulty:
            for _ in range(rng.randint(1, 8)):
                moments.append(rng.uniform(0.6, FAULT_S))
                self._schedule(moments[-1], "fault", self._fault)
        if world.later:
            self._prepare_more(moments)
        if world.nesting:
            self._prepare_newest(moments)
        if world.forgetting:
            self._prepare_forgetting(moments)

    def _prepare_more(self, moments: list[float]) -> None:
        """Schedule what was added later: chains of faults that began at these ``moments``, and orders."""
        world, rng = self.world, self.more
        if rng.random() < 0.4:
            self._submit_later()
        for began in list(moments):
            while rng.random() < world.swarm.chain and len(moments) < 20:  # during recovery from the one before
                began += rng.choice((0.0, 0.005, 0.05, 0.2, 0.6))
                moments.append(began)
                self._schedule(began, "fault", self._fault)
        for _ in range(rng.randint(1, 6) if world.swarm.orders else 0):
            at, what = rng.uniform(0.1, FAULT_S), rng.choice(world.swarm.orders)
            if moments and rng.random() < 0.5:
                at = rng.choice(moments) + rng.choice((0.0, 0.01, 0.1, 0.5))
            self._schedule(at, f"a client orders: {what}", partial(self._order, what))

    def _prepare_newest(self, moments: list[float]) -> None:
        """Schedule what was added last, some of it during recovery from the faults at these ``moments``."""
        rng, drawn = self.world.newest, self.world.swarm
        if drawn.nests:
            self._nest()
        for _ in range(drawn.storm):
            self._schedule(rng.uniform(0.6, FAULT_S), "fault", self._fault)
        for _ in range(rng.randint(1, 5) if drawn.newest else 0):
            at = rng.uniform(0.6, FAULT_S)
            if moments and rng.random() < 0.6:
                at = rng.choice(moments) + rng.choice((0.0, 0.005, 0.05, 0.3, 1.0))
            self._schedule(at, "fault", partial(self._newest_fault, rng.choice(drawn.newest)))

    def _prepare_forgetting(self, moments: list[float]) -> None:
        """Schedule what came with the fourth version: a scheduler that forgets everything, clients that attach."""
        world, rng = self.world, self.world.forgetful

        def moment() -> float:
            if moments and rng.random() < 0.6:
                return float(rng.choice(moments)) + float(rng.choice((0.0, 0.005, 0.05, 0.3, 1.0)))
            return rng.uniform(0.6, FAULT_S)

        for _ in range(rng.choice((1, 1, 2)) if world.swarm.forgets else 0):
            self._schedule(moment(), "fault", self._lose_journal)
        for _ in range(rng.randint(1, 4) if world.swarm.attaching else 0):
            what = rng.choice(world.swarm.attaching)
            self._schedule(moment(), f"a client orders: {what}", partial(self._attach, what))

    def _nest(self) -> None:
        """Have some tasks submit tasks of their own, some of which do so too."""
        world = self.world
        rng, plans = world.newest, world.plans
        world.first_child = len(plans)
        calm = [plan for plan in plans if not (plan.poison or plan.options.beside or world.is_scattered(plan.node))]
        parents = [(plan.node, 1) for plan in rng.sample(calm, min(len(calm), rng.randint(1, 3)))]
        while parents:
            parent, depth = parents.pop()
            children = list(range(len(plans), len(plans) + rng.randint(1, 3)))
            for node in children:
                inputs = tuple(rng.sample(children[: node - children[0]], rng.choice((0, 0, 1)) if node > children[0] else 0))
                raises, large, seconds = rng.random() < 0.03, rng.random() < 0.5, rng.choice((0.0001, 0.02, 0.2))
                plans.append(Plan(node, inputs, large, raises, 0, False, seconds, 0.0, m.Options(crash_limit=3)))
                if depth < 4 and rng.random() < 0.25:
                    parents.append((node, depth + 1))
            plans[parent] = attrs.evolve(plans[parent], children=tuple(children))

    def _submit_later(self) -> None:
        """Have clients submit further tasks while faults happen, so that a restarted scheduler gets some too."""
        world, rng = self.world, self.more
        for _ in range(rng.randint(1, 6)):
            node = len(world.plans)
            inputs = tuple(rng.sample(range(node), rng.choice((0, 1, 2))))
            large, seconds = rng.random() < 0.5, rng.choice((0.0001, 0.001, 0.02, 0.2))
            plan = Plan(node, inputs, large, False, 0, False, seconds, 0.0, m.Options(crash_limit=3))
            world.plans.append(plan)
            for client in world.clients:
                key, text = f"node-{node}" if world.keyed else None, f"{client.name} submits {plan}"
                at = rng.uniform(0.6, FAULT_S + 1)
                self._schedule(at, text, lambda c=client, n=node, k=key: c.submit(n, k))  # type: ignore[misc]

    def _schedule(self, at: float, text: str, what: Callable[[], None], always: bool = False) -> None:
        """Schedule what somebody outside does to the cluster, unless it is left out.  ``always``: nothing ends without it."""
        world = self.world
        number, self.outsiders = self.outsiders, self.outsiders + 1

        def happens() -> None:
            before = Counter(world.faults)
            at = len(self.story)
            what()
            found = world.faults - before
            told = f"fault: {next(iter(found), 'nothing')} {self._hit}".rstrip() if text == "fault" else text
            self.story.insert(at, (world.now, told))

        if always or self.only is None or number in self.only:
            world.at(at, happens)

    def _restart_cluster(self) -> None:
        """A client has all tasks and data dropped."""
        world = self.world
        world.fault("restart")
        world.clients[-1].core.query("restart")
        world.clients[-1].flush()

    def _order(self, what: str) -> None:
        """A client orders something, or asks."""
        world, rng = self.world, self.more
        client = rng.choice(world.clients)
        if not client.alive:
            return
        known = client.known()
        chosen = rng.sample(known, rng.randint(1, len(known))) if known else []
        cids = [client.futures[node].cid for node in chosen]
        names = sorted(world.workers)
        if what == "restart":
            self._restart_cluster()
            return
        world.fault(what)
        if what == "publish" and cids:
            name = f"name {world.faults[what]}"
            client.ask(what, [name, b"shape", cids], lambda reply: self._published(name, chosen, reply))
        elif what == "unpublish" and world.published:
            name = rng.choice(sorted(world.published))
            del world.published[name]
            client.ask(what, [name])
        elif what in ("retire", "dismiss") and names:
            client.ask(what, [rng.choice((0.0, 0.3, 1.0, 3.0)), *rng.sample(names, rng.randint(1, len(names)))])
        elif what == "rebalance":
            client.ask(what, [])
        elif what == "replicate":
            client.ask(what, [rng.choice((0, 1, 2, 3)), *cids])
        elif what == "until_ended":
            client.ask(what, cids)
        elif what == "logs":
            client.ask(what, [rng.choice((1, 100))])
        elif what == "clear":
            client.ask(what, [])
        elif what == "upload":
            world.clients[0].upload(100 + world.faults[what])
        elif what == "cancel unstarted" and chosen:
            client.cancel(chosen[0], True)
        elif what == "status":
            for question in ("status", "snapshot", "workers", "incidents", "datasets", "demand", "keys"):
                client.ask(question, [])

    def _attach(self, what: str) -> None:
        """A client wants futures of what others, or its session's earlier processes, have submitted or published."""
        world, rng = self.world, self.world.forgetful
        client = rng.choice(world.clients)
        new = [node for node in range(min(len(world.plans), world.first_child)) if node not in client.futures]
        if not client.alive or (what == "dataset" and not world.published) or not (what == "dataset" or new):
            return
        world.fault(what)
        if what == "dataset":
            name = rng.choice(sorted(world.published))
            client.attach(what, world.published[name], name)
        else:
            client.attach(what, rng.sample(new, rng.randint(1, len(new))))

    def _lose_journal(self) -> None:
        self.world.fault("lose journal")
        self.world.lose_journal()

    def _published(self, name: str, nodes: list[int], reply: m.Reply) -> None:
        if not reply.error:
            self.world.published[name] = nodes

    def _leave(self, worker: SimWorker) -> None:
        """A worker must end: it tells the scheduler, and ends at the latest when its time is up."""
        seconds = self.rng.choice((0.0, 0.3, 1.0, 3.0))
        worker.event(worker.core.leave, seconds, "its lifetime is over", self.rng.random() < 0.5)
        self.world.after(seconds + 0.1, lambda: self.world.time_is_up(worker))

    def _fault(self) -> None:
        world = self.world
        self._hit = ""
        now = world.journaled and (world.restarts_only or self.rng.random() < 0.25)
        if now and (not world.later or "kill scheduler" in world.swarm.faults):
            world.fault("kill scheduler")
            world.kill_scheduler()
            return
        kind = self.rng.choice(world.swarm.faults if world.later else swarm.FIRST_FAULTS)
        world.fault(kind)
        worker = world.workers[self.rng.choice(sorted(world.workers))]
        if kind in swarm.MORE_FAULTS:
            self._more_fault(kind, worker)
            return
        self._hit = worker.name if kind != "cut client" else ""
        if kind == "cut" and worker.link is not None:
            worker.link.cut()
        elif kind == "kill worker":
            world.kill_worker(worker.name)
        elif kind == "kill executor" and worker.alive:
            up = [number for number, executor in worker.core.executors.items() if executor.up]
            if up:
                worker.kill_executor(self.rng.choice(up))
        elif kind == "memory" and worker.alive:
            worker.use_memory(self.rng.choice((700, 900, 990, 1100)))
            world.after(self.rng.choice((0.1, 1.0)), lambda: worker.use_memory(0))
        elif kind == "silence" and worker.link is not None:
            worker.link.silent(self.rng.choice((0.5, 1.0, 2.0, 4.0)))
        elif kind == "drift":
            self._drift(worker)
        elif kind == "park":
            self._park_one(worker.name)
        elif kind == "leave" and worker.alive:
            self._leave(worker)
        elif kind == "lose file" and worker.store:
            del worker.store[self.rng.choice(sorted(worker.store))]
        elif kind == "cut client":
            link = self.rng.choice(world.clients).link
            if link is not None:
                link.cut()

    def _more_fault(self, kind: str, worker: SimWorker) -> None:
        """Have one of the faults happen that were added later."""
        world, rng = self.world, self.more
        seconds = rng.choice((0.1, 0.5, 1.0, 3.0))
        party = rng.choice((worker, worker, *world.clients))
        if kind == "kill scheduler":
            world.kill_scheduler()
        elif kind == "take over":
            world.take_over()
        elif kind == "journal fails":
            world.disk.fails_until = world.now + seconds
        elif kind == "pause scheduler":
            world.scheduler.paused_until = world.now + seconds
        elif kind == "pause worker":
            self._hit, worker.paused_until = worker.name, world.now + seconds
        elif kind == "stop executor" and worker.alive and worker.living:
            self._hit = worker.name
            worker.stop_executor(rng.choice(sorted(worker.living)), rng.choice((0.1, 1.0, 6.0)))
        elif kind in ("one-way cut", "swallow"):
            self._hit = party.name
            self._swallow(party, rng.choice(([TO_SCHEDULER], [FROM_SCHEDULER])) if kind == "one-way cut" else None)
        elif kind in swarm.ENDING_SESSIONS:
            self._client_leaves(rng.choice(world.clients), kind == "client leaves")

    def _newest_fault(self, kind: str) -> None:
        """Have one of the faults happen that were added last."""
        world, rng = self.world, self.world.newest
        worker, seconds = world.workers[rng.choice(sorted(world.workers))], rng.choice((0.1, 0.5, 1.0, 3.0))
        world.fault(kind)
        self._hit = worker.name
        if kind == "pause client":
            party = rng.choice((*world.clients, *world.children))
            self._hit, party.paused_until = party.name, world.now + seconds
        elif kind == "disk full":
            worker.full_until = world.now + seconds
        elif kind == "flip" and worker.store:
            attempt = rng.choice(sorted(worker.store))
            value, task = worker.store[attempt]
            worker.store[attempt] = (flipped(value), task)
        elif kind == "rolling restart":
            world.rolling_restart()

    def _client_leaves(self, client: SimClient, said: bool) -> None:
        """A client's process ends, and another one is started instead, which submits the same tasks."""
        world = self.world
        if not client.alive:
            return
        self._hit = client.name
        wanted = list(client.futures)
        client.leave(said)
        self._sessions += 1
        session = 2000 + self._sessions
        other = SimClient(world, client.number, session, world.session_name(client.number))
        other.cancelled, other.uploaded = client.cancelled, client.uploaded
        world.clients[world.clients.index(client)] = other

        def begins() -> None:
            other.dial()
            for node in wanted:
                if world.is_scattered(node):
                    other.scatter(node, 2)
                else:
                    other.submit(node, f"node-{node}" if world.keyed else None)

        world.after(self.more.choice((0.01, 0.5, 2.0)), begins)

    def _swallow(self, party: Party, sides: list[int] | None) -> None:
        """Let nothing through a connection any more, without an error, as a host that was switched off or a firewall does.

        In one direction first, if ``sides`` names it: what goes the other way is not acknowledged, so TCP stops sending.
        """
        link = party.link
        if link is not None:
            both = (TO_SCHEDULER, FROM_SCHEDULER)
            link.swallows.update(sides or both)
            self.world.after(self.more.choice((0.05, 0.5)), lambda: link.swallows.update(both))

    def _park_one(self, name: str) -> None:
        """Have a task of a worker parked as if it were waiting, whether it is or not."""
        world = self.world
        peer = next((worker for worker in world.core.workers.values() if worker.name == name), None)
        if peer is not None and peer.assigned:
            world.core.parts.outputs.post(peer, m.Park(self.rng.choice(list(peer.assigned)).attempt))
            world.scheduler.flush()

    def _drift(self, worker: SimWorker) -> None:
        """Corrupt a worker's books, as a bug might."""
        if not worker.alive:
            return
        jobs = [job for job in worker.core.queue if not job.fetching]
        if jobs:
            job = self.rng.choice(jobs)
            worker.core.queue.remove(job)
            del worker.core.jobs[job.attempt]
        elif worker.core.stored:
            attempt = self.rng.choice(sorted(worker.core.stored))
            del worker.core.stored[attempt]
            worker.store.pop(attempt, None)
