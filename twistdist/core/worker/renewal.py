"""Fresh executors: because a client restarts the cluster, or because files were uploaded that tasks may import."""

from __future__ import annotations

import attrs

from twistdist.core.worker import effects
from twistdist.core.worker.executors import Executors
from twistdist.core.worker.jobs import Jobs
from twistdist.core.worker.outputs import Outputs
from twistdist.core.worker.records import Executor
from twistdist.core.worker.taking_back import TakingBack
from twistdist.wire import messages as m


@attrs.define(eq=False)
class Renewal:
    """``renewing`` are the executors of which each Renew waits until they are gone, by its number; ``plugins`` are the digests
    of plugins, by name."""

    outputs: Outputs
    jobs: Jobs
    executors: Executors
    taking_back: TakingBack
    renewing: dict[int, list[Executor]] = attrs.field(factory=dict)
    plugins: dict[str, bytes] = attrs.field(factory=dict)

    def renew(self, now: float, message: m.Renew) -> None:
        """Kill all executors, whatever they are doing; what they have not begun is run by others."""
        self.executors.make_stale()
        self.renewing[message.number] = list(self.executors.by_number.values())
        for executor in self.executors.by_number.values():
            if executor.up:
                executor.up = False
                self.outputs.do(effects.Kill(executor.number, 0))
        self.look()

    def look(self) -> None:
        """Answer each Renew whose executors are gone, when those that take part in slots are ready."""
        if not self.renewing or not all(executor.up for executor in self.executors.active.values()):
            return
        for number, old in list(self.renewing.items()):
            if not any(self.executors.by_number.get(executor.number) is executor for executor in old):
                del self.renewing[number]
                self.outputs.post(m.Answered(number))

    def install(self, now: float, message: m.Install) -> None:
        """Tasks that start from now on find the file: what was given to executors and has not begun is given again."""
        if message.kind == m.PLUGIN:
            if self.plugins.get(message.name, b"") == message.digest:  # a scheduler that was restarted sends it again
                self.installed(now, message.number, "")
                return
            self.plugins[message.name] = message.digest
        self.outputs.do(effects.InstallFile(message))
        self.executors.make_stale()
        for executor in self.executors.by_number.values():
            if executor.given:
                self.taking_back.take_back(executor)

    def installed(self, now: float, number: int, error: str) -> None:
        """The edge has written the file, or could not."""
        if number:
            self.outputs.post(m.Answered(number, error))
        elif error:
            self.outputs.post(m.WorkerLog("upload not installed", error))

    def log_read(self, now: float, number: int, lines: list[str]) -> None:
        """The answer to ReadLines."""
        self.outputs.post(m.Answered(number, "", lines), sum(map(len, lines)))
