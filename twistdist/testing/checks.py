"""What is checked at the end of each run of :mod:`.simulate`, when the cluster is at rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twistdist.core.client import Record, State
from twistdist.testing import swarm
from twistdist.testing.clients import SimClient
from twistdist.testing.parties import SimulationFailed, is_right, value_of

if TYPE_CHECKING:
    from twistdist.testing.simulate import World


class Checks:
    """Checks a world.  Each method raises :class:`SimulationFailed` if something is not as it must be."""

    def __init__(self, world: World) -> None:
        self.world = world

    def files(self) -> None:
        """Check that at rest every holder has what it should hold, except for what a fault took away."""
        if self._excuses_files():
            return
        for task in self.world.core.tasks.values():
            for holder in task.holders or ():
                if task.value_attempt not in self.world.workers[holder.name].store:
                    raise SimulationFailed(f"{holder.name} does not hold {task.key}, attempt {task.value_attempt}")

    def books(self) -> None:
        """Check that books were found to differ only because of a fault, and that they agree at rest."""
        world = self.world
        if world.echoes:
            return
        kinds = ("drift", "worker stuck", "no progress")
        drifts = [incident for incident in world.core.statistics.incidents if incident.kind in kinds]
        if drifts and not (world.faults["drift"] or world.faults["lose file"]):
            raise SimulationFailed(f"books differ without a cause: {drifts[0]}")
        for worker in world.core.workers.values():
            there = world.workers[worker.name]
            if there.alive and {task.value_attempt for task in worker.holds} != set(there.core.stored):
                raise SimulationFailed(f"the books about the files of {worker.name} differ at rest")

    def replicas(self) -> None:
        """Check that at rest every value has as many copies as it should, or as there are workers, and that all are equal."""
        world = self.world
        for task in world.core.tasks.values():
            if task.holders is None:
                continue
            values = {world.workers[holder.name].store.get(task.value_attempt, (b"", 0))[0] for holder in task.holders}
            values = {value for value in values if is_right(value)}  # the others are noticed when somebody reads them
            if len(values) > 1 and not self._excuses_files():
                raise SimulationFailed(f"the copies of {task.key} differ")
            if task.retention is None or task.retention.failed:  # it is tried again later
                continue
            most = len(world.core.workers)
            if len(task.holders) < min(task.retention.copies or most, most):
                raise SimulationFailed(f"{task.key} has {len(task.holders)} copies of {task.retention.copies or most}")

    def uploads(self) -> None:
        """Check that at rest every worker has the last version of the file that was uploaded."""
        world = self.world
        last = world.clients[0].uploaded
        if any(world.faults[kind] for kind in swarm.ENDING_SESSIONS) or world.clients[0].began_anew:
            return  # an upload may have been carried out whose answer nobody got
        for worker in world.core.workers.values():
            there = world.workers[worker.name]
            if there.alive and last is not None and there.installed.get("mod.py") != last:
                raise SimulationFailed(f"{worker.name} has {there.installed}, not the uploaded version {last!r}")

    def published(self) -> None:
        """Check that at rest everything published is there, with the right values."""
        world = self.world
        if world.faults["restart"]:
            return
        memo: dict[int, bytes | None] = {}
        for name, nodes in world.published.items():
            dataset = world.core.parts.durable.datasets.get(name)
            if dataset is None:
                raise SimulationFailed(f"{name} was published and is gone")
            for node, task in zip(nodes, dataset.tasks, strict=True):
                if task.error is not None:
                    continue  # its client has checked that
                value = task.value
                if value is None and task.holders:
                    value = world.workers[next(iter(task.holders)).name].store.get(task.value_attempt, (None, 0))[0]
                if value is not None and not is_right(value):
                    continue  # that is noticed when somebody reads it
                if value != self._expected(node, memo) and not self._excuses_files():
                    raise SimulationFailed(f"node {node}, published as {name}, has a wrong value or none")

    def _excuses_files(self) -> bool:
        """Whether a fault explains that a file is not where it should be."""
        world = self.world
        return bool(world.faults["lose file"] or world.faults["drift"] or world.echoes)

    def _expected(self, node: int, memo: dict[int, bytes | None]) -> bytes | None:
        """Return the right value of a node; None if it or one of its inputs must fail."""
        if node not in memo:
            plan = self.world.plans[node]
            inputs = [self._expected(source, memo) for source in (*plan.inputs, *plan.children)]
            bad = not self.world.is_scattered(node) and (plan.raises or plan.poison or None in inputs)
            memo[node] = None if bad else value_of(plan, [value for value in inputs if value is not None])
        return memo[node]

    def results(self) -> None:
        memo: dict[int, bytes | None] = {}
        cancelled = self._tainted()
        for client in self.world.clients:
            for node, record in client.futures.items():
                expected = self._expected(node, memo)
                if record.state is State.PENDING:
                    raise SimulationFailed(f"node {node} never ended")
                if self._excuses_session(client, record):
                    continue
                if node in cancelled and record.state in (State.CANCELLED, State.ERROR):
                    continue
                if record.state is State.FINISHED:
                    value = self._fetch(client, node)
                    if record.error is not None and self._crashed_too_often(record):
                        continue  # lost, and then the replay was hit by as many faults as a task is allowed
                    if value != expected:
                        raise SimulationFailed(f"node {node} has a wrong value")
                elif expected is not None and not self._crashed_too_often(record):
                    raise SimulationFailed(f"node {node} failed: {record.error}")
        self._nothing_again()

    def _nothing_again(self) -> None:
        """Without a fault that explains it, nothing ran twice.

        A task that nobody wants any more may continue until its worker hears of it, and submits its children again if the
        scheduler was restarted meanwhile.
        """
        world = self.world
        explained = (world.faulty and not world.restarts_only) or any(plan.flaky or plan.poison for plan in world.plans)
        if explained or world.keyed or len(world.clients) > 1 or world.faults["retry"] or world.faults["restart"]:
            return
        again = {
            node: runs for node, runs in world.executions.items() if runs > 1 and (node < world.first_child or world.lives == 1)
        }
        if again:
            raise SimulationFailed(f"run more than once without a fault: {again}")

    def _excuses_session(self, client: SimClient, record: Record) -> bool:
        """Return whether a future is lost with its session, which may happen, or was not accepted, as its client was told."""
        world = self.world
        if record.state is State.LOST:
            return client.began_anew and (world.swarm.ends_sessions or world.faults["clear"] + world.faults["lose journal"] > 0)
        return record.error is not None and record.error.kind == "JournalError" and world.faults["failed write"] > 0

    def _crashed_too_often(self, record: Record) -> bool:
        """Return whether random faults explain the error: kills up to the crash_limit, others' memory, a lost worker."""
        world = self.world
        kind, kills = record.error.kind if record.error is not None else "", world.faults["kill executor"]
        kills += world.faults["stop executor"] + world.faults["pause worker"]
        if kind == "NoValidWorker" and any(plan.options.beside for plan in world.plans):
            return True  # a task beside the slots is not run again when its worker is lost
        if not kind and world.faults["disk full"] and any(plan.flaky for plan in world.plans):
            return True  # a result for which there was no room has taken the retry of a task that fails once
        return (kind == "TaskCrashed" and kills + world.faults["kill worker"] >= 3) or (
            (kind == "MemoryLimitExceeded" and world.faults["memory"] > 0)
            or (kind == "StoreError" and (world.faults["disk full"] > 0 or world.swarm.cut_off))
        )

    def _tainted(self) -> set[int]:
        """Return the cancelled nodes and all nodes that depend on them."""
        world = self.world
        tainted: set[int] = set().union(*(client.cancelled for client in world.clients))
        if world.faults["restart"]:
            tainted.update(plan.node for plan in world.plans)
        for plan in world.plans:
            if tainted.intersection(plan.inputs):
                tainted.add(plan.node)
        return tainted

    def _fetch(self, client: SimClient, node: int) -> bytes | None:
        for _ in range(10):
            if client.futures[node].state is State.ERROR:
                return None
            value = client.fetch(node)
            if value is not None:
                return value
            self.world.drain("the cluster does not come to rest after a value could not be fetched")
        raise SimulationFailed(f"the value of node {node} could not be fetched")

    def clean(self) -> None:
        world = self.world
        if world.core.tasks:
            raise SimulationFailed(f"tasks left: {[task.key for task in world.core.tasks.values()]}")
        for worker in world.workers.values():
            if worker.store and worker.alive:
                raise SimulationFailed(f"files left on {worker.name}: {sorted(worker.store)}")
            if worker.core.jobs or worker.core.transfers:
                raise SimulationFailed(f"jobs left on {worker.name}")
        for client in world.clients:
            if client.data:
                raise SimulationFailed(f"scattered data left that nobody needs: {client.data}")
