"""The table of the modules that are run by themselves."""

from __future__ import annotations

import statistics


class Rows:
    """A table that grows: name to values.  It shows medians, and the values."""

    def __init__(self) -> None:
        self._rows: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self._rows.setdefault(name, []).append(value)

    def show(self) -> None:
        for name, values in self._rows.items():
            print(f"{name:76} {statistics.median(values):10,.2f}   {[round(value, 2) for value in values]}", flush=True)
