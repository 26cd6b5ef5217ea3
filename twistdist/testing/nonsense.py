"""Messages of every kind that can be decoded but mean nothing, or something wrong.

Fields are filled according to their types.  Numbers that name things (cids, tasks, attempts, …) mostly exist, if
:attr:`Nonsense.names` lists them, so that nonsense passes the first checks.
"""

from __future__ import annotations

import random
import types
import typing
from typing import Any

import attrs
import msgspec

from twistdist.core.scheduler.queries import QUESTIONS
from twistdist.wire import messages as m

#: All messages, and those of each role and direction.
KINDS = tuple(one for one in vars(m).values() if isinstance(one, type) and issubclass(one, m.Message) and one is not m.Message)
FROM_CLIENT, FROM_WORKER = typing.get_args(m.FromClient), typing.get_args(m.FromWorker)
TO_CLIENT, TO_WORKER = typing.get_args(m.ToClient), typing.get_args(m.ToWorker)

#: Fields that name the same kind of thing.
_SAME = {
    "first": "cid",
    "cids": "cid",
    "attempts": "attempt",
    "unstarted": "attempt",
    "holders": "worker",
    "fns": "fn",
    "keys": "key",
}

_INTEGERS = (0, 1, 2, 3, 5, 100, 1000, 10_000, -1, 1 << 31, 1 << 40, -1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1 << 63)
_NUMBERS = (0.0, 0.1, 1.0, 60.0, -1.0, 1e300, float("inf"), float("nan"), 1e-9)
_TEXTS = ("", "a", "w0", "w1", "k", "GPU", "h1", "/s", "always", "never", "verify", "TaskCancelled", "✓ text")
_BYTES = (b"", b"x", b"value", b"\0\xff" * 20)
#: Harmless values of fields.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "what": (*QUESTIONS, "?"),
    "replay": ("always", "always", "never", "verify", "?"),
    "kind": ("", "", "SerializationError", "TaskCancelled", "?"),
    "slots": (1, 1, 2, 0),
    "most": (0, 1, 2),
    "replicas": (1, 1, 2, 3, 0),
    "size": (0, 1, 10, 10_000),
    "us": (0, 10, 50_000),
    "priority": (0, 0, 1, -1),
    "retries": (0, 0, 1),
    "crash_limit": (1, 3),
    "time_limit": (0.0, 0.0, 1.0),
    "cost": (-1, 10, 60_000),
    "limit": (0.0, 0.0, 1.0),
    "seconds": (0.0, 0.5, 60.0),
    "resources": (None, {}, {"GPU": 1}, {"GPU": 1_000_000}),
    "workers": ((), ("w0",), ("w1", "w2"), ("x",)),
    "host": ("h1", "h2"),
    "store": ("/s", "/t", ""),
    "name": ("w0", "w1", "w2"),
}


@attrs.define
class Nonsense:
    """Makes messages.  ``names`` holds numbers that exist, by the name of the field; ``pairs`` are (task, attempt) that belong
    together; ``wild`` is the share of fields that may have any value of their type."""

    rng: random.Random
    names: dict[str, list[Any]] = attrs.field(factory=dict)
    pairs: list[tuple[int, int]] = attrs.field(factory=list)
    wild: float = 0.1

    def message(self, kind: type[Any]) -> Any:
        """Return a message, or a part of one, of the class ``kind``."""
        fields = {name: self._field(kind, name, hint) for name, hint in typing.get_type_hints(kind).items()}
        if self.pairs and "task" in fields and "attempt" in fields and self.rng.random() > self.wild:
            fields["task"], fields["attempt"] = self.rng.choice(self.pairs)
        if kind is m.Submit and self.rng.random() > self.wild:  # otherwise hardly any would have lists of equal length
            fields["args"] = [b"args"] * self.rng.choice((0, 1, 1, 2, 3))
            for name, inner in (("inputs", list[int]), ("keys", str), ("recipes", bytes)):
                if fields[name] is not None:
                    fields[name] = [self._of(inner, name) for _ in fields["args"]]
        return kind(**fields)

    def _field(self, kind: type[Any], name: str, hint: Any) -> Any:
        plain = _PLAIN.get(name)
        if plain is not None and self.rng.random() > self.wild:
            value = self.rng.choice(plain)
            try:
                return msgspec.convert(value, hint)
            except msgspec.ValidationError:
                pass  # a field of the same name with another type
        return self._of(hint, name)

    def _of(self, hint: Any, name: str) -> Any:
        """Return a value of the type ``hint``."""
        rng, name = self.rng, _SAME.get(name, name)
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self._of(rng.choice(inner), name)
        if origin is list:
            return [self._of(inner[0], name) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
        if origin is tuple and inner[-1] is Ellipsis:
            return tuple([self._of(inner[0], name) for _ in range(rng.choice((0, 1, 2)))])
        if origin is tuple:
            if self.pairs and name == "running" and rng.random() > self.wild:
                return rng.choice(self.pairs)
            names = {"running": ("task", "attempt"), "inputs": ("attempt", "worker")}.get(name, (name,) * len(inner))
            return tuple([self._of(one, which) for one, which in zip(inner, names, strict=True)])
        if origin is dict:
            return {self._of(inner[0], name): self._of(inner[1], name) for _ in range(rng.choice((0, 1, 2)))}
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            return self.message(hint)
        return self._atom(hint, name)

    def _atom(self, hint: Any, name: str) -> Any:
        rng = self.rng
        known = self.names.get("cid" if name == "inputs" else name)
        if known and rng.random() > self.wild:
            value = rng.choice(known)
            if hint is Any or isinstance(value, hint):
                return value
        if hint is int and name in ("size", "length", "offset"):
            return rng.choice((0, 1, 10, 1000, 10_000, 1 << 50))  # other values can't be decoded
        if hint is int:
            return rng.choice(_INTEGERS if rng.random() < self.wild else _INTEGERS[:5])
        if hint is float:
            return rng.choice(_NUMBERS if rng.random() < self.wild else _NUMBERS[:4])
        if hint is str:
            return rng.choice(_TEXTS)
        if hint is bytes:
            return rng.choice(_BYTES)
        if hint is bool:
            return rng.random() < 0.5
        if hint is type(None):
            return None
        return self._anything(3)

    def _anything(self, depth: int) -> Any:
        """Return plain data like the arguments of a query."""
        rng = self.rng
        if depth and rng.random() < 0.3:
            return [self._anything(depth - 1) for _ in range(rng.choice((0, 1, 2)))]
        if depth and rng.random() < 0.1:
            return {"a": self._anything(depth - 1)}
        known = [*self.names.get("cid", ()), *self.names.get("key", ())]
        if known and rng.random() < 0.5:
            return rng.choice(known)
        return rng.choice((None, True, rng.choice(_INTEGERS), rng.choice(_NUMBERS), rng.choice(_TEXTS), b"bytes"))
