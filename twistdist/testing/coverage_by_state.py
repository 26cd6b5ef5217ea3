"""Coverage by state: which message arrived, or which fault happened, in which state, over many runs of :mod:`.simulate`::

    python -m twistdist.testing.simulate --seeds 5000 --coverage FILE
    python -m twistdist.testing.coverage_by_state FILE...

The second command adds up files and names the pairs that are expected and were not met, and those that "can't happen" and
were; its exit status is 1 if there are any.  :mod:`.pairs` lists what is expected.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from twistdist.core.client import Client as ClientCore
from twistdist.core.scheduler import Scheduler, records
from twistdist.core.scheduler.outputs import Peer
from twistdist.core.scheduler.records import Task, TaskState
from twistdist.core.worker import Worker as WorkerCore
from twistdist.testing import pairs, swarm
from twistdist.testing.pairs import Pair
from twistdist.wire import messages as m

if TYPE_CHECKING:
    from twistdist.testing.schedulers import SimScheduler
    from twistdist.testing.simulate import World


class Met:
    """Counts the pairs that one run meets."""

    def __init__(self) -> None:
        self.pairs: Counter[Pair] = Counter()

    def possible(self) -> Counter[Pair]:
        """Return the pairs without those that can't happen: old messages that come again may bring them about."""
        return Counter({pair: times for pair, times in self.pairs.items() if not pairs.why_not(pair)})

    # the scheduler

    def at_scheduler(self, scheduler: SimScheduler, peer: Peer, messages: Iterable[Any]) -> Iterator[Any]:
        """Yield the messages of a frame; each is counted in the state in which the scheduler is when it handles it."""
        return self._at_scheduler(
            scheduler.core, peer, messages, conditions_of(scheduler, peer)
        )  # before it hears of the frame

    def _at_scheduler(self, core: Scheduler, peer: Peer, messages: Iterable[Any], conditions: list[str]) -> Iterator[Any]:
        for message in messages:
            kind = type(message).__name__
            told = f"{kind} {message.what}" if isinstance(message, m.Query) else kind
            for condition in conditions:
                self.pairs["sender", told, condition] += 1
            if isinstance(peer, records.Client):
                states = _states_of_futures(core, peer, message)
            else:
                states = [_state_of_attempt(core, *one) for one in _attempts_in(message)]
            for state in states:
                self.pairs["task", kind, state] += 1
            yield message

    def greeting(self, scheduler: SimScheduler, greeting: Any) -> None:
        """A party greets the scheduler."""
        core, kind = scheduler.core, type(greeting).__name__
        self.pairs["greeting", kind, _state_of_greeting(core, greeting)] += 1
        if isinstance(greeting, m.HelloWorker):
            for row, found in (
                ("Hello: stored", [(one.task, one.attempt) for one in greeting.stored]),
                ("Hello: running", greeting.running),
                ("Hello: finished", [(one.task, one.attempt) for one in greeting.finished]),
            ):
                for number, attempt in found:
                    self.pairs["task", row, _state_of_attempt(core, number, attempt)] += 1

    # the others

    def at_worker(self, core: WorkerCore, messages: Iterable[Any]) -> Iterator[Any]:
        """Yield the messages of a frame; each is counted in the state in which the worker is when it handles it."""
        for message in messages:
            kind = type(message).__name__
            for condition in _conditions_of_worker(core):
                self.pairs["worker", kind, condition] += 1
            for attempt in _attempts_named(message):
                self.pairs["job", kind, _state_of_job(core, attempt)] += 1
            yield message

    def at_client(self, core: ClientCore, messages: Iterable[Any]) -> Iterator[Any]:
        """Yield the messages of a frame; each is counted in the state in which the future is when the client handles it."""
        for message in messages:
            kind = type(message).__name__
            if isinstance(message, m.Peer | m.PeerState):
                self.pairs["future", kind, "known worker" if message.worker in core.peers else "unknown worker"] += 1
            elif not isinstance(message, m.Reply):
                cids = [message.cid] if hasattr(message, "cid") else getattr(message, "cids", ())
                for cid in cids:
                    record = core.records.get(cid)
                    self.pairs["future", kind, "released" if record is None else record.state.value] += 1
            yield message

    # faults

    def fault(self, world: World, kind: str) -> None:
        """A fault happens now."""
        for phase in _phases(world):
            self.pairs["fault", kind, phase] += 1

    def transitions(self, taken: Counter[tuple[str, str]]) -> None:
        """At the end of the run: these transitions were taken, as (state, cause)."""
        for (source, cause), times in taken.items():
            self.pairs["transition", cause, source] += times


def conditions_of(scheduler: SimScheduler, peer: Peer) -> list[str]:
    """Return the conditions in which the scheduler and one of its peers are, "as usual" if there are none."""
    found = []
    if scheduler.core.recovering:
        found.append("recovering")
    if scheduler.out.trouble:
        found.append("journal fails")
    if isinstance(peer, records.Worker):
        if peer.suspect:
            found.append("suspect")
        if peer.retiring is not None:
            found.append("told to stop" if peer.retiring.told else "retiring")
    return found or ["as usual"]


def _states_of_futures(core: Scheduler, client: records.Client, message: Any) -> list[str]:
    if isinstance(message, m.Submit):
        found = [client.futures.get(cid) for inputs in message.inputs or () for cid in inputs]
        keys = [core.parts.registry.keys.get(key) for key in message.keys or ()]
        return [_name(task) for task in found] + [f"key: {_name(task)}" for task in keys if task is not None]
    cids = [message.cid] if hasattr(message, "cid") else getattr(message, "cids", ())
    futures = client.sources if isinstance(message, m.NotSupplied | m.Keeps) else client.futures
    return ["no future" if cid not in futures else _name(futures[cid]) for cid in cids]


def _name(task: Task | None) -> str:
    return task.state.value if task is not None else "cancelled"


def _attempts_in(message: Any) -> list[tuple[int, int]]:
    """The (task, attempt) pairs that a worker's message is about; 0 for a task that it does not name."""
    if isinstance(message, m.Have | m.Rescued):
        return [(one.task, one.attempt) for one in message.stored]
    if isinstance(message, m.Missing | m.Recalled):
        return [(0, attempt) for attempt in message.attempts]
    if isinstance(message, m.Parked | m.CopyFailed):
        return [(0, message.attempt)]
    if isinstance(message, m.Done | m.Failed | m.Crashed | m.InputLost | m.Locate):
        return [(message.task, message.attempt)]
    return []


def _state_of_attempt(core: Scheduler, number: int, attempt: int) -> str:
    if number:
        task = core.tasks.get(number)
    else:
        task = next((one for one in core.tasks.values() if attempt in (one.attempt, one.value_attempt)), None)
    if task is None:
        return "forgotten"
    if task.state is TaskState.ASSIGNED:
        return "assigned" if task.attempt == attempt else "assigned, another attempt"
    if task.state is TaskState.DONE:
        return "done" if task.value_attempt == attempt else "done, another attempt"
    return str(task.state.value)


def _state_of_greeting(core: Scheduler, greeting: Any) -> str:
    if isinstance(greeting, m.Resume):
        peer = core.find_session(greeting)
        if peer is None:
            return "unknown"
        if isinstance(peer, records.Client) and peer.restored:
            return "read from the journal"
        return "connected" if peer.connected else "away"
    if isinstance(greeting, m.HelloClient):
        return "known number" if greeting.session in core.clients else "new"
    same = [worker for worker in core.workers.values() if worker.name == greeting.name]
    if any(worker.hello.incarnation == greeting.incarnation for worker in same):
        return "known process"
    if same:
        return "replaces another process"
    return "awaited after a restart" if greeting.name in core.expected else "new"


def _conditions_of_worker(core: WorkerCore) -> list[str]:
    found = []
    if core.intake.fenced:
        found.append("fenced")
    if core.intake.paused:
        found.append("short of memory")
    if core.renewal.renewing:
        found.append("renewing executors")
    return found or ["as usual"]


def _attempts_named(message: Any) -> list[int]:
    if isinstance(message, m.Recall | m.Abort | m.Free | m.Verify):
        return message.attempts
    if isinstance(message, m.Park | m.Located):
        return [message.attempt]
    if isinstance(message, m.Copy):
        return [message.source.attempt]
    return []


def _state_of_job(core: WorkerCore, attempt: int) -> str:
    job = core.jobs.get(attempt)
    if job is None:
        return "stored" if attempt in core.stored else "being fetched" if attempt in core.transfers else "unknown"
    if job.doomed:
        return "doomed"
    if job.executor is not None:
        return "parked" if job.executor.parked is job else "given to an executor"
    return "waits for inputs" if job.waits else "queued"


def _phases(world: World) -> list[str]:
    scheduler = world.scheduler
    if not scheduler.up:
        return ["scheduler down"]
    core = scheduler.core
    phases = dict.fromkeys(f"a task is {task.state.value}" for task in core.tasks.values())
    if core.recovering:
        phases["recovering"] = None
    if scheduler.out.trouble:
        phases["journal fails"] = None
    if scheduler.out.status().get("lag"):
        phases["writing"] = None
    for worker in core.workers.values():
        if not worker.connected:
            phases["a worker is away"] = None
        elif worker.suspect:
            phases["a worker is suspect"] = None
        if worker.retiring is not None:
            phases["a worker retires"] = None
    if any(not client.connected and not client.placeholder for client in core.clients.values()):
        phases["a client is away"] = None
    if len(world.schedulers) > 1:
        phases["two schedulers"] = None
    return list(phases) or ["nothing to do"]


class Totals:
    """What many runs have met: for each pair (in how many runs, how often, the first seed that met it).  ``faults`` counts what
    happened, by kind."""

    def __init__(self) -> None:
        self.runs = 0
        self.faults: Counter[str] = Counter()
        self.met: dict[Pair, tuple[int, int, int]] = {}

    def add(self, seed: int, met: Counter[Pair], faults: Counter[str]) -> None:
        """Add one run."""
        self.runs += 1
        self.faults += faults
        for pair, times in met.items():
            runs, before, first = self.met.get(pair, (0, 0, seed))
            self.met[pair] = (runs + 1, before + times, min(first, seed))

    def merge(self, other: Totals) -> None:
        """Add the runs of ``other``."""
        self.runs += other.runs
        self.faults += other.faults
        for pair, (runs, times, first) in other.met.items():
            mine = self.met.get(pair, (0, 0, first))
            self.met[pair] = (mine[0] + runs, mine[1] + times, min(mine[2], first))

    def write(self, path: pathlib.Path) -> None:
        """Write a JSON file: ``pairs`` has the three numbers of each pair, by table, row and column; ``faults`` has counts."""
        tables: dict[str, dict[str, dict[str, list[int]]]] = {}
        for (table, row, column), numbers in sorted(self.met.items()):
            tables.setdefault(table, {}).setdefault(row, {})[column] = list(numbers)
        path.write_text(json.dumps({"runs": self.runs, "faults": dict(sorted(self.faults.items())), "pairs": tables}, indent=1))

    @classmethod
    def read(cls, path: pathlib.Path) -> Totals:
        """Read what ``write`` has written."""
        found, totals = json.loads(path.read_text()), cls()
        totals.runs, totals.faults = found["runs"], Counter(found["faults"])
        for table, rows in found["pairs"].items():
            for row, columns in rows.items():
                for column, (runs, times, first) in columns.items():
                    totals.met[table, row, column] = (runs, times, first)
        return totals

    def never_met(self, rare: bool) -> list[Pair]:
        """Return the expected pairs that no run met, also the ``rare`` ones if that is true."""
        return [pair for pair in pairs.expected(rare) if pair not in self.met]

    def surprises(self) -> list[tuple[Pair, int, str]]:
        """Return the pairs that were met and can't happen, each with a seed and with why it can't happen, or with "" if
        nothing is known about it."""
        known = {*pairs.expected(True)}
        return [(pair, first, pairs.why_not(pair)) for pair, (_, _, first) in sorted(self.met.items()) if pair not in known]

    def report(self, rare: bool) -> list[str]:
        """Return in lines what is wrong."""
        lines = [f"never met: {row}, {column} ({table})" for table, row, column in self.never_met(rare)]
        for (table, row, column), seed, why in self.surprises():
            text = f"can't happen, because {why}" if why else "is not listed"
            lines.append(f"met in seed {seed}: {row}, {column} ({table}), which {text}")
        return lines

    def table(self) -> list[str]:
        """Return in lines how often each pair was met."""
        return [
            f"{table:10} {row:22} {column:28} {times:9,} times in {runs:6,} runs, first in seed {seed}"
            for (table, row, column), (runs, times, seed) in sorted(self.met.items())
        ]

    def kinds(self) -> list[str]:
        """Return in lines how many faults of each kind were injected, and how many in all."""
        count = {kind: self.faults[kind] for kind in swarm.INJECTED}
        return [*(f"{kind:26} {n:12,}" for kind, n in count.items()), f"{'all':26} {sum(count.values()):12,}"]


def main(argv: list[str] | None = None) -> int:
    """Run the command.  The exit status is 1 if an expected pair was not met, or one that can't happen was."""
    parser = argparse.ArgumentParser(prog="python -m twistdist.testing.coverage_by_state", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rare", action="store_true", help="name also the pairs that are met rarely, or that nobody has met")
    parser.add_argument("--table", action="store_true", help="print how often each pair was met")
    parser.add_argument("--faults", action="store_true", help="print how many faults of each kind were injected")
    parser.add_argument("file", nargs="+", type=pathlib.Path)
    options = parser.parse_args(argv)
    totals = Totals()
    for path in options.file:
        totals.merge(Totals.read(path))
    wrong = totals.report(options.rare)
    print("\n".join([*(totals.kinds() if options.faults else ()), *(totals.table() if options.table else ()), *wrong]))
    print(f"{len(totals.met)} pairs met in {totals.runs} runs, {len(pairs.expected(True))} expected, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
