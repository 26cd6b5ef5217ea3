"""loky's reusable executor."""

from __future__ import annotations

from benchmarks.systems import processpool
from benchmarks.systems.system import System


class Measured(processpool.Measured):
    distributions = ("loky",)
    modules = ("loky",)
    versions = System.versions

    def start(self, workers: int) -> None:
        import loky

        self._pool = loky.get_reusable_executor(max_workers=workers, timeout=600)

    def close(self) -> None:
        self._pool.shutdown(kill_workers=True)
