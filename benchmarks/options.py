"""Types of command line options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence


def several(kind: str, known: Sequence[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes names with commas between them."""

    def parse(given: str) -> list[str]:
        found = [name.strip().lower() for name in given.split(",") if name.strip()]
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {kind} {unknown[0]!r}; choose from {', '.join(known)}")
        return list(dict.fromkeys(found))

    return parse


def positive(given: str) -> int:
    """The type of an option that takes an integer >= 1."""
    if not given.isdigit() or not int(given):
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {given!r}")
    return int(given)
