"""Fields of settings classes with a unit and a meaning, which docs/settings.rst shows."""

from __future__ import annotations

import attrs


def seconds(default: float, meaning: str) -> float:
    """A duration."""
    return ratio(default, meaning, "s")


def ratio(default: float, meaning: str, unit: str = "ratio") -> float:
    """A number that need not be an integer."""
    field: float = attrs.field(default=default, metadata={"unit": unit, "meaning": meaning})
    return field


def count(default: int, unit: str, meaning: str) -> int:
    """An integer of ``unit``."""
    field: int = attrs.field(default=default, metadata={"unit": unit, "meaning": meaning})
    return field
