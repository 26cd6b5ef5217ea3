"""A number by which two sides can tell whether they have the same set of attempts."""

from __future__ import annotations

from collections.abc import Iterable

_PRIME = (1 << 61) - 1


def digest_of(attempts: Iterable[int]) -> int:
    """A number that is equal for equal sets of attempts, and almost never otherwise: a sum of squares modulo a prime.

    It detects accidental differences, not attacks.
    """
    return sum([attempt * attempt % _PRIME for attempt in attempts]) % _PRIME
