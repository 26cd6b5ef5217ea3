"""Every interleaving of a small cluster, made of the real classes: no seed, no luck::

    python -m twistdist.testing.exhaustive                     # both models, with the bounds of docs/simulator.rst
    python -m twistdist.testing.exhaustive commit --faults 3   # one of them, with another bound

``commit`` is the session layer with output commit: a real :class:`.Exchange` and :class:`.Dialer`, the scheduler's real
:class:`.Session` and :class:`.Gate`, and a scheduler that only writes down what it was told.  ``cluster`` is everything: the
real cores of the scheduler (with journal), two workers and a client with three tasks, of which one needs another's value.

The search is breadth-first, so a violation is shown by a shortest path.  A state is reached by replaying its path from the
beginning, and two states are the same if :func:`canonical` says so.  There is no partial-order reduction: every enabled action
is tried in every state.
"""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import hashlib
import sys
import time
import types
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import msgspec

from twistdist.testing.small import Cluster, Commit, Wrong


class Model(Protocol):
    """A system of which every interleaving is tried.  Two models on which the same actions were done are equal."""

    def actions(self) -> list[Any]:
        """What can happen next, in a fixed order; nothing: this is an end."""

    def do(self, action: Any) -> None:
        """Let it happen.  Raises if a promise is broken."""

    def check(self) -> None:
        """Raise if a promise is broken in this state."""

    def check_end(self) -> None:
        """Raise if this must not be an end."""

    def state(self) -> Any:
        """Everything on which the future depends."""

    def wiring(self) -> frozenset[type]:
        """Classes of objects that are in the state themselves, and that others refer to, always in the same way."""


#: What is only told to users, and what never changes: classes, and fields by name.
UNSEEN_CLASSES = {"Statistics", "Activity", "Timeline", "Sums", "Settings", "Tuning", "Limits"}
UNSEEN_FIELDS = {"repeated", "events", "made", "_logs", "_handlers"}

_PLAIN = frozenset({int, float, str, bytes, bool, type(None)})


def canonical(root: Any, wiring: frozenset[type] = frozenset()) -> bytes:
    """Return a digest that is equal for states with an equal future: the graph of objects below ``root``, in a fixed order.

    Objects are numbered as they are met, so that identities count and addresses do not.  Objects of the ``wiring`` classes, of
    which there is one for each owner, are looked into only where they are in a list: references to them never change.
    """
    told: list[Any] = []
    met: dict[int, int] = {}
    alive: list[Any] = []  # an address must not be used twice meanwhile
    todo: list[Any] = [root]
    while todo:
        one = todo.pop()
        kind = one.__class__
        if kind in _PLAIN:
            told.append(one)
            continue
        address = id(one)
        number = met.get(address)
        if number is not None:
            told.append(~number)
            continue
        met[address] = len(met)
        look = _LOOKS.get(kind)
        if look is None:
            look = _LOOKS[kind] = _look_of(kind)
        inner = look(one, wiring)
        alive.append((one, inner))
        told.append(kind.__name__)
        told.append(len(inner))
        inner.reverse()
        todo += inner
    return hashlib.blake2b(repr(told).encode(), digest_size=12).digest()


_Look = Callable[[Any, frozenset[type]], list[Any]]
_LOOKS: dict[type, _Look] = {}


def _look_of(kind: type) -> _Look:
    """How to look into the objects of a class: what they consist of, in a fixed order."""
    if issubclass(kind, dict):
        return lambda one, wiring: [part for item in one.items() for part in item]
    if issubclass(kind, list | tuple | collections.deque):
        return lambda one, wiring: list(one)
    if issubclass(kind, set | frozenset):
        return _set
    if issubclass(kind, bytearray | memoryview):
        return lambda one, wiring: [bytes(one)]
    if issubclass(kind, enum.Enum):
        return lambda one, wiring: [one.name]
    if issubclass(kind, types.FunctionType):
        return lambda one, wiring: [
            one.__qualname__,
            *[cell.cell_contents for cell in one.__closure__ or () if type(cell.cell_contents) not in wiring],
            *(one.__defaults__ or ()),
        ]
    if issubclass(kind, types.MethodType):
        return lambda one, wiring: [
            one.__func__.__qualname__,
            type(one.__self__).__name__ if type(one.__self__) in wiring else one.__self__,
        ]
    if issubclass(kind, msgspec.Struct):
        fields = kind.__struct_fields__
        return lambda one, wiring: [getattr(one, name) for name in fields]
    if kind.__name__ in UNSEEN_CLASSES:
        return lambda one, wiring: []
    if not kind.__module__.startswith("twistdist."):
        raise TypeError(f"it is not known what the state of {kind} is")
    names = [name for base in reversed(kind.__mro__) for name in getattr(base, "__slots__", ())]
    slots = tuple(name for name in dict.fromkeys(names) if name not in ("__weakref__", "__dict__", *UNSEEN_FIELDS))

    def look(one: Any, wiring: frozenset[type]) -> list[Any]:
        parts = [getattr(one, name, None) for name in slots]
        if hasattr(one, "__dict__"):
            parts += [part for name, part in vars(one).items() if name not in UNSEEN_FIELDS]
        return [part for part in parts if part.__class__ not in wiring]

    return look


def _set(one: Any, wiring: frozenset[type]) -> list[Any]:
    if not all(isinstance(part, int | str | bytes | tuple) for part in one):
        raise TypeError(f"a set of objects has no order: {one!r}")
    return sorted(one, key=repr)


@attrs.define
class Outcome:
    """``states`` were met, by ``steps`` actions; ``ends`` of them are ends, and the last is ``depth`` actions deep.  ``path``
    leads to what is ``wrong``; ``complete``: nothing was left out."""

    states: int = 0
    steps: int = 0
    ends: int = 0
    depth: int = 0
    seconds: float = 0.0
    complete: bool = True
    wrong: str = ""
    path: list[Any] = attrs.field(factory=list)
    actions: collections.Counter[str] = attrs.field(factory=collections.Counter)


#: A state as (the state before, the last action); None: the beginning.
_Node = tuple[Any, Any] | None


def _path(node: _Node) -> list[Any]:
    path = []
    while node is not None:
        node, action = node
        path.append(action)
    return path[::-1]


def search(make: Callable[[], Model], most: int = 10_000_000, seconds: float = 1e9) -> Outcome:
    """Try everything.  Stops at the first violation, and incompletely after ``most`` states or ``seconds``."""
    outcome, began = Outcome(states=1), time.monotonic()
    first = make()
    wiring = first.wiring()
    seen = {canonical(first.state(), wiring)}
    row: collections.deque[tuple[int, _Node]] = collections.deque([(0, None)])
    while row:
        depth, node = row.popleft()
        path = _path(node)
        model: Model | None = _replayed(make, path)
        assert model is not None
        actions = model.actions()
        outcome.depth = max(outcome.depth, depth)
        try:
            action: Any = None
            if not actions:
                outcome.ends += 1
                model.check_end()
            for action in actions:
                model = model if model is not None else _replayed(make, path)
                model.do(action)
                model.check()
                outcome.steps += 1
                outcome.actions[action[0]] += 1
                state = canonical(model.state(), wiring)
                model = None
                if state not in seen:
                    seen.add(state)
                    row.append((depth + 1, (node, action)))
        except Exception as error:
            outcome.wrong, outcome.path = f"{type(error).__name__}: {error}", [*path, *([action] if actions else [])]
            break
        if len(seen) >= most or time.monotonic() - began > seconds:
            outcome.complete = not row
            break
    outcome.states, outcome.seconds = len(seen), time.monotonic() - began
    return outcome


def _replayed(make: Callable[[], Model], path: list[Any]) -> Model:
    model = make()
    for action in path:
        model.do(action)
    return model


def main(argv: list[str] | None = None) -> int:
    """Run the command.  The exit status is 1 if a promise is broken or the search is not complete."""
    parser = argparse.ArgumentParser(
        prog="python -m twistdist.testing.exhaustive", description="Try every interleaving of a small cluster."
    )
    parser.add_argument("model", nargs="*", default=["commit", "cluster"], help="commit, cluster [both]")
    parser.add_argument("--messages", type=int, default=2, help="commit: messages of the client [%(default)s]")
    parser.add_argument("--tasks", type=int, default=3, choices=(1, 2, 3), help="cluster: tasks of the client [%(default)s]")
    parser.add_argument("--faults", type=int, help="faults in one run [commit: 2, cluster: 1]")
    parser.add_argument("--kinds", default="", metavar="KIND,…", help="cluster: kinds of faults, of cut, kill, crash [all]")
    parser.add_argument("--seconds", type=float, default=1e9, help="give up after this time")
    options = parser.parse_args(argv)
    unknown = set(options.model) - {"commit", "cluster"}
    kinds = tuple(options.kinds.split(",")) if options.kinds else Cluster.KINDS
    if unknown or not set(kinds) <= set(Cluster.KINDS):
        parser.error(f"models are commit and cluster, kinds of faults {', '.join(Cluster.KINDS)}")
    status = 0
    for name in options.model:
        if name == "commit":
            faults = options.faults if options.faults is not None else 2
            make: Callable[[], Model] = functools.partial(Commit, options.messages, faults)
        else:
            faults = options.faults if options.faults is not None else 1
            make = functools.partial(Cluster, faults, kinds, options.tasks)
        found = search(make, seconds=options.seconds)
        print(
            f"{name}, {faults} faults: {found.states} states, {found.steps} steps, {found.ends} ends, {found.depth} deep, "
            f"in {found.seconds:.1f} s ({found.states / max(found.seconds, 1e-9):.0f} states/s)"
            f"{'' if found.complete else '; NOT COMPLETE'}"
        )
        print("  steps by kind: " + ", ".join(f"{kind} {count}" for kind, count in sorted(found.actions.items())))
        if found.wrong:
            print(f"  WRONG after {len(found.path)} steps: {found.wrong}")
            for action in found.path:
                print("    " + " ".join(map(str, action)))
        status |= bool(found.wrong) or not found.complete
    return status


__all__ = ["Model", "Outcome", "Wrong", "canonical", "main", "search"]

if __name__ == "__main__":
    sys.exit(main())
