"""The simulated workers of :mod:`.simulate`, with their executors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twistdist.core import worker as worker_core
from twistdist.core.worker import Death, effects
from twistdist.core.worker.memory import Limits
from twistdist.errors import ProtocolError
from twistdist.executors import packets
from twistdist.testing.clients import TaskClient
from twistdist.testing.parties import Party, Plan, SimulationFailed, is_right, value_of
from twistdist.wire import framing
from twistdist.wire import messages as m

if TYPE_CHECKING:
    from twistdist.testing.simulate import World


class SimWorker(Party):
    """A worker process with its executors, on a store that may outlive it."""

    decoder = framing.TO_WORKER

    def __init__(self, world: World, name: str, incarnation: int, store: dict[int, tuple[bytes, int]]) -> None:
        self.store = store
        host = "h1" if world.rng.random() < 0.5 else f"host-{name}"
        identity = m.HelloWorker(
            incarnation,
            name,
            incarnation,
            1,
            world.rng.choice((1, 1, 2)),
            f"addr-{name}",
            host,
            f"store-{name}",
            {"GPU": 1_000_000} if name == "w0" else {},
            [],
            [],
            [],
        )
        self._drop_damaged(list(store))
        stored = [m.Stored(task, attempt, len(value), b"d") for attempt, (value, task) in store.items()]
        self.core: worker_core.Worker = worker_core.Worker(identity, stored, limits=Limits(1000, 1000))
        super().__init__(world, name, self.core)
        self.inboxes: dict[int, list[Any]] = {}
        self.running: dict[int, m.Compute | None] = {}
        self.packets: dict[int, list[m.Compute]] = {}
        self.waiting: dict[int, Callable[[], None]] = {}
        self.functions: dict[int, set[int]] = {}
        self.made: dict[int, dict[int, bytes]] = {}
        self.living: set[int] = set()
        self.lives: Counter[int] = Counter()
        self.installed: dict[str, bytes] = {}
        self.stopped: dict[int, list[Callable[[], None]]] = {}  # executors, and what they do when they continue
        self.children: dict[int, TaskClient] = {}  # the clients of running tasks, by executor
        self.full_until = 0.0
        self._stops = False  # whether any executor was ever stopped
        self._ending: set[int] = set()  # executors that are ended by the effects that are being carried out
        self._wake: float | None = None
        self.core.start(world.now)
        self.carry_out()
        self.pulse()

    def _drop_damaged(self, attempts: list[int]) -> list[int]:
        """Remove those of these files that do not match their digests, and return them."""
        damaged = [attempt for attempt in attempts if attempt in self.store and not is_right(self.store[attempt][0])]
        for attempt in damaged:
            del self.store[attempt]
        return damaged

    def is_full(self) -> bool:
        """Whether there is no room for another file."""
        return self.world.now < self.full_until

    def end_children(self) -> None:
        """The clients of the running tasks end with their processes."""
        for child in self.children.values():
            child.leave(False)
        self.children.clear()

    def beat(self) -> m.Beat | None:
        self.event(self.core.look_at_lease)
        if self._stops:
            busy = {number for number in self.stopped if number in self.core.executors and self.core.executors[number].given}
            self.event(self.core.executors_stopped, busy, self.core.dialer.dead_after)
        return self.core.pulse(self.world.now)

    def stop_executor(self, number: int, seconds: float) -> None:
        """Stop an executor's process by a signal, as a debugger or a batch system does, and let it continue later."""
        held = self.stopped[number] = list(self.stopped.get(number, ()))  # it may have been stopped already
        self._stops = True
        if number in self.children:
            self.children[number].paused_until = self.world.now + seconds
        self.world.after(seconds, lambda: self._continue(number, held))

    def _continue(self, number: int, held: list[Callable[[], None]]) -> None:
        if self.stopped.get(number) is held:
            del self.stopped[number]
            for what in held:
                what()

    def _stands_still(self, number: int, then: Callable[[], None]) -> bool:
        """Whether an executor is stopped; if so, ``then`` happens when it continues."""
        if number not in self.stopped:
            return False
        self.stopped[number].append(then)
        return True

    def heard_notice(self, notice: Any) -> None:
        self.core.heard_beat(self.world.now, notice)

    def welcomed(self) -> None:
        self.event(self.core.welcomed)

    def messages(self, messages: list[Any]) -> None:
        met = self.world.met
        try:
            self.core.receive(self.world.now, messages if met is None else met.at_worker(self.core, messages))
        except ProtocolError:
            if not self.world.echoes:  # after an old message, a right one may be wrong
                raise
            self.reconnect()
        self.carry_out()
        for one in self.world.echo_of(self, messages) if self.world.echoes else ():
            try:
                self.core.receive(self.world.now, [one])
            except ProtocolError:
                self.reconnect()
            self.carry_out()

    def event(self, what: Callable[..., None], *args: Any) -> None:
        """Run one event of the core and everything that follows from it."""
        if self.alive and not self.asleep(lambda: self.event(what, *args)):
            what(self.world.now, *args)
            self.carry_out()
            self.flush()

    def carry_out(self) -> None:
        while found := self.core.take():
            self._ending = {effect.number for effect in found if isinstance(effect, effects.EndExecutor | effects.Kill)}
            for effect in found:
                getattr(self, "do_" + type(effect).__name__)(effect)
        wake = self.core.wake
        if wake is not None and wake != self._wake:
            self._wake = wake
            self.world.at(wake, lambda: self._tick(wake))

    def _tick(self, wake: float) -> None:
        if self._wake == wake:
            self._wake = None
        self.event(self.core.tick)

    # effects

    def do_StartExecutor(self, effect: effects.StartExecutor) -> None:
        fails = self.world.start_fails()
        self.world.after(effect.delay + 0.01, lambda: (self._not_started if fails else self._started)(effect.number))

    def _started(self, number: int) -> None:
        self.living.add(number)
        self.lives[number] += 1
        self.inboxes[number], self.running[number], self.packets[number] = [], None, []
        self.functions[number], self.made[number] = set(), {}
        self.waiting.pop(number, None)
        self.event(self.core.executor_started, number)

    def _not_started(self, number: int) -> None:
        self.event(self.core.executor_ended, number, Death("an error while starting"))

    def do_EndExecutor(self, effect: effects.EndExecutor) -> None:
        if effect.number in self.living:
            self._dies(effect.number, Death("exit code 0"))

    def _dies(self, number: int, death: Death) -> None:
        """End an executor's process now; the core is notified a moment later."""
        self.living.discard(number)
        self.stopped.pop(number, None)
        self.lives[number] += 1
        if number in self.children:
            self.children.pop(number).leave(False)
        self.inboxes[number], self.running[number] = [], None
        self.waiting.pop(number, None)
        self.world.after(0.001, lambda: self.event(self.core.executor_ended, number, death))

    def do_Give(self, effect: effects.Give) -> None:
        assert self.core.executors[effect.number].up or effect.number in self._ending  # by a later message of the same frame
        # A copy, as the other end of a socket has it: what the core learns about an input later does not reach it.
        self.inboxes[effect.number].append(packets.decode_packet(packets.encode_packet(effect.messages)))
        self._run_next(effect.number)

    def do_TakeBack(self, effect: effects.TakeBack) -> None:
        packets, self.inboxes[effect.number] = self.inboxes.get(effect.number, []), []
        attempts = [one.attempt for packet in packets for one in packet if isinstance(one, m.Compute)]
        running = self.running.get(effect.number)
        self.core.taken_back(self.world.now, effect.number, attempts, running.attempt if running is not None else 0)

    def do_GoOn(self, effect: effects.GoOn) -> None:
        go_on = self.waiting.pop(effect.number, None)
        if go_on is not None:  # otherwise it has died, which the core does not know yet
            self.world.after(0.0001, go_on)

    def do_Interrupt(self, effect: effects.Interrupt) -> None:
        running = self.running.get(effect.number)
        if running is None or running.attempt != effect.attempt or self.world.rng.random() < 0.5:
            return  # it ignores the interrupt
        if effect.number in self.stopped:
            return  # it gets it when it continues; until then it is killed
        life = self.lives[effect.number]
        self.world.after(self.world.rng.uniform(0.0, 0.2), lambda: self._end_politely(effect.number, running, life))

    def _end_politely(self, number: int, running: m.Compute, life: int) -> None:
        """End the interrupted function, after it has cleaned up, and with it its process."""
        if not self.alive or self.lives[number] != life or self.running[number] is not running:
            return
        self._dies(number, Death("exit code 0", running=running.attempt))
        info = m.ErrorInfo("", "TaskCancelled", "")
        self.event(self.core.executor_outcomes, number, [m.Failed(running.task, running.attempt, info, 1)])

    def do_Kill(self, effect: effects.Kill) -> None:
        running = self.running.get(effect.number)
        if not effect.attempt:
            if effect.number in self.living:
                self._dies(effect.number, Death("SIGKILL"))
        elif running is not None and effect.attempt == running.attempt:
            self.kill_executor(effect.number)

    def do_InstallFile(self, effect: effects.InstallFile) -> None:
        self.installed[effect.install.name] = effect.install.blob
        self.core.installed(self.world.now, effect.install.number, "")

    def do_ReadLines(self, effect: effects.ReadLines) -> None:
        self.core.log_read(self.world.now, effect.number, ["a line"])

    def do_Spill(self, effect: effects.Spill) -> None:
        ok = self.world.rng.random() < 0.8 and not self.is_full()
        answer = (effect.attempts, "") if ok else ([], "disk full")
        self.world.after(0.05, lambda: self.event(self.core.spilled_files, *answer))

    def use_memory(self, used: int) -> None:
        """Report to the core that each executor that is running a task uses ``used`` bytes of memory."""
        running = {
            number: one.attempt for number, one in self.running.items() if one is not None and number in self.core.executors
        }
        self.event(self._look_at_memory, dict.fromkeys(running, used), running, self.core.in_memory * 100)

    def do_StartFetch(self, effect: effects.StartFetch) -> None:
        if self.world.later and self.world.more.random() < 0.05:  # they are busy, and serve it all the same a moment later
            self.world.after(0.0002, lambda: self.event(self.core.all_busy, effect.attempt))
        self.world.after(self.world.rng.uniform(0.001, 0.05), lambda: self._fetch(effect))

    def _fetch(self, effect: effects.StartFetch) -> None:
        if self.is_full():
            self.event(self.core.fetch_failed, effect.attempt, "no room")
            return
        for peer in effect.holders:
            holder = self.world.workers.get(peer.name)
            works = self.world.rng.random() > 0.2 or not self.world.faulty
            found = holder.store.get(effect.attempt) if holder is not None and holder.alive and works else None
            if found is not None and is_right(found[0]):
                self.store[effect.attempt] = found
                self.event(self.core.fetched, effect.attempt, peer.address)
                return
        self.event(self.core.fetch_failed, effect.attempt)

    def do_MoreHolders(self, effect: effects.MoreHolders) -> None:
        """Do nothing: those that were busy serve the file a moment later."""

    def do_PeerTrouble(self, effect: effects.PeerTrouble) -> None:
        """Do nothing: a simulated fetch soon ends by itself."""

    def do_Fence(self, effect: effects.Fence) -> None:
        if effect.on:
            self.world.fault("fenced")
            self.reconnect()

    def do_RescueStore(self, effect: effects.RescueStore) -> None:
        self.world.after(self.world.rng.choice((0.001, 0.2)), lambda: self._rescue(effect))

    def _rescue(self, effect: effects.RescueStore) -> None:
        """Take over what a dead worker on this host left, unless its next incarnation already runs."""
        other = self.world.workers[effect.store.removeprefix("store-")]
        stored = []
        if self.alive and not other.alive:
            for attempt, (value, task) in list(other.store.items()):
                del other.store[attempt]
                if not is_right(value):
                    continue
                self.store[attempt] = (value, task)
                stored.append(m.Stored(task, attempt, len(value), b"d"))
            self.world.faults["rescued"] += len(stored)
        self.event(self.core.rescued, effect.worker, not other.alive, stored, [])

    def do_DeleteFiles(self, effect: effects.DeleteFiles) -> None:
        for attempt in effect.attempts:
            self.store.pop(attempt, None)

    def do_LookForFiles(self, effect: effects.LookForFiles) -> None:
        if self._drop_damaged(effect.attempts):
            self.core.damaged(self.world.now, [], "a file does not match its digest")
        absent = [attempt for attempt in effect.attempts if attempt not in self.store]
        self.core.verified(self.world.now, effect.attempts, absent)

    def do_StopWorker(self, effect: effects.StopWorker) -> None:
        self.world.after(0.0, lambda: self.world.end_worker(self, True, True) if self.alive else None)

    def _look_at_memory(self, now: float, *usage: Any) -> None:
        self.core.memory_used(now, *usage)

    # executors

    def _run_next(self, number: int) -> None:
        """Run the executor's next task, one at a time; it reads a packet when it has finished the previous one."""
        if self.running[number] is not None or number not in self.living:
            return
        if self._stands_still(number, lambda: self._run_next(number)):
            return
        while not self.packets[number]:
            if not self.inboxes[number]:
                return
            self._read(number)
        self._run(number, self.packets[number].pop(0), self.lives[number])

    def _read(self, number: int) -> None:
        content = self.inboxes[number].pop(0)
        self.functions[number].update(one.fn for one in content if isinstance(one, m.WorkerFunction))
        packet = [one for one in content if isinstance(one, m.Compute)]
        if not self.functions[number].issuperset(one.fn for one in packet):
            raise SimulationFailed(f"an executor of {self.name} was given a task without its function")
        self.packets[number] += packet

    def _run(self, number: int, compute: m.Compute, life: int) -> None:
        self.running[number] = compute
        plan = self.world.plans[int(compute.args)]
        self._check_place(plan.options)
        self.world.executions[plan.node] += 1
        duration = plan.seconds * self.world.rng.uniform(0.5, 1.5)
        saved = compute.checkpoint and compute.checkpoint in self.world.checkpoints
        then = self._nest if plan.children and not saved else self._wait if plan.waits else self._end_task
        self.world.after(duration, lambda: then(number, plan, life))

    def _check_place(self, options: m.Options) -> None:
        """Check that the task that begins may run here."""
        if options.workers and self.name not in options.workers and not options.allow_other_workers:
            raise SimulationFailed(f"a task that must run on {options.workers} runs on {self.name}")
        if not set(options.resources or ()) <= set(self.core.identity.resources):
            raise SimulationFailed(f"a task that needs {options.resources} runs on {self.name}")

    def _wait(self, number: int, plan: Plan, life: int) -> None:
        """Let the task wait for others: the tasks behind it are returned, and it resumes when it has a slot again."""
        if not self.alive or self.lives[number] != life:
            return
        if self._stands_still(number, lambda: self._wait(number, plan, life)):
            return
        self._gives_up_slot(number)
        self.world.after(plan.waits, lambda: self._resumes(number, plan, life))

    def _gives_up_slot(self, number: int) -> None:
        compute = self.running[number]
        assert compute is not None
        unstarted, self.packets[number] = [one.attempt for one in self.packets[number]], []
        self.event(self.core.executor_outcomes, number, [m.Waits(compute.attempt, unstarted)])

    def _resumes(self, number: int, plan: Plan, life: int) -> None:
        if not self.alive or self.lives[number] != life:
            return
        if self._stands_still(number, lambda: self._resumes(number, plan, life)):
            return
        compute = self.running[number]
        assert compute is not None
        while self.inboxes[number]:  # what arrived before the other side knew
            self._read(number)
        self.waiting[number] = lambda: self._end_task(number, plan, life)
        self.event(self.core.executor_outcomes, number, [m.Resumes(compute.attempt)])

    def _nest(self, number: int, plan: Plan, life: int) -> None:
        """Let the task submit its children, and wait for them as for any others."""
        if not self.alive or self.lives[number] != life:
            return
        if self._stands_still(number, lambda: self._nest(number, plan, life)):
            return
        compute = self.running[number]
        assert compute is not None
        inputs, lost = self._inputs(number, compute)  # they may be moved or freed elsewhere while it waits
        if lost:
            self._end_task(number, plan, life)
            return
        self.world.nested += 1
        ended = lambda: self._resumes(number, plan, life)  # noqa: E731
        child = TaskClient(self.world, self.world.nested, compute.task, plan.children, ended)
        child.inputs = inputs
        self.children[number] = child
        child.begin()
        self._gives_up_slot(number)

    def _end_task(self, number: int, plan: Plan, life: int) -> None:
        if not self.alive or self.lives[number] != life:
            return
        if self._stands_still(number, lambda: self._end_task(number, plan, life)):
            return
        compute = self.running[number]
        assert compute is not None
        if plan.poison:
            self.kill_executor(number)
            return
        child = self.children.pop(number, None)
        outcome = self._outcome(number, compute, plan, child)
        if child is not None:
            child.leave(True)
        self.running[number] = None
        self.event(self.core.executor_outcomes, number, [outcome])
        if self.alive and self.lives[number] == life:
            self._run_next(number)

    def _outcome(
        self, number: int, compute: m.Compute, plan: Plan, child: TaskClient | None
    ) -> m.Done | m.Failed | m.InputLost:
        saved = self.world.checkpoints.get(compute.checkpoint) if compute.checkpoint else None
        if saved is not None:
            self.world.executions[plan.node] -= 1  # the function was not called
            return self._done(number, compute, plan, saved)
        if compute.restore:
            raise SimulationFailed(f"node {plan.node} must be read from a checkpoint that was never made")
        inputs, lost = (child.inputs, []) if child is not None else self._inputs(number, compute)
        if lost:
            self.world.executions[plan.node] -= 1  # the function was not called
            return m.InputLost(compute.task, compute.attempt, lost)
        # Of a node whose inputs were lost, the number of executions becomes smaller again.
        runs = self.world.raised[compute.task] + 1 if self.world.nesting else self.world.executions[plan.node]
        if plan.raises or runs <= plan.flaky:
            self.world.raised[compute.task] += 1
            return m.Failed(compute.task, compute.attempt, m.ErrorInfo("", "ValueError", f"node {plan.node}"), 10)
        if child is not None:
            for node in plan.children:
                if node in child.errors:
                    return m.Failed(compute.task, compute.attempt, child.errors[node], 10)
                inputs.append(child.values[node])
        value = value_of(plan, inputs)
        if compute.checkpoint:
            self.world.checkpoints[compute.checkpoint] = value
        return self._done(number, compute, plan, value)

    def _inputs(self, number: int, compute: m.Compute) -> tuple[list[bytes], list[tuple[int, int]]]:
        """Return the values of a task's inputs, and what is told of those that are not there."""
        inputs, lost = [], []
        for source in compute.inputs or ():
            path = f"{self.core.identity.store}/{source.attempt:x}" if source.awaited else source.path
            value = self.made[number].get(source.attempt) if source.awaited else source.value
            if value is None:
                value = self.world.open_path(path)
            if value is None:
                lost.append((source.attempt, 0))
            else:
                inputs.append(value)
        return inputs, lost

    def _done(self, number: int, compute: m.Compute, plan: Plan, value: bytes) -> m.Done | m.Failed:
        us, saved = int(plan.seconds * 1e6), bool(compute.checkpoint)
        if not plan.large:
            self.made[number][compute.attempt] = value
            return m.Done(compute.task, compute.attempt, value, len(value), b"", us, saved)
        if self.is_full():
            return m.Failed(compute.task, compute.attempt, m.ErrorInfo("StoreError", "", "no room"), us)
        self.store[compute.attempt] = (value, compute.task)
        return m.Done(compute.task, compute.attempt, None, len(value), b"d", us, saved)

    def kill_executor(self, number: int) -> None:
        if number not in self.living:
            return
        running = self.running.get(number)
        if running is not None and self.world.rng.random() < 0.3 and self.world.plans[int(running.args)].large:
            self.store[running.attempt] = (b"made and never told of", running.task)
        attempt = running.attempt if running is not None else 0
        self._dies(number, Death("SIGKILL", running=attempt, blame=self.world.rng.random() < 0.8))
