"""The recovery plan: which tasks bring lost values back.  One pure function over the lineage graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def ancestry(tasks: Iterable[T], inputs: Callable[[T], Iterable[T]], limit: int) -> list[T] | None:
    """``tasks`` and everything that they need, at any depth, each after its inputs; None if there are more than ``limit``."""
    found: dict[T, None] = {}
    entered: set[T] = set()
    stack = [(task, False) for task in reversed(list(tasks))]
    while stack:
        task, inputs_done = stack.pop()
        if inputs_done:
            found[task] = None
        elif task not in entered:
            if len(entered) >= limit:
                return None
            entered.add(task)
            stack.append((task, True))
            stack.extend((upstream, False) for upstream in inputs(task))
    return list(found)


def recovery_plan(lost: Iterable[T], available: Callable[[T], bool], inputs: Callable[[T], Iterable[T]]) -> list[T]:
    """The smallest set of tasks whose execution gives every task of ``lost`` a value, deepest first.

    ``available(task)`` says whether the task has a value or is already on its way to one: nothing below it is examined.
    ``inputs(task)`` are the tasks whose values it takes.  The set is the smallest because a task is in it only if it is lost
    itself or an execution in the set takes its value, and values come from nowhere else; the order puts each task after its
    inputs.  Iterative, since lineages can be deeper than Python's stack: O(tasks + edges visited).
    """
    plan: dict[T, None] = {}
    entered: set[T] = set()
    stack: list[tuple[T, bool]] = [(task, False) for task in reversed(list(lost))]
    while stack:
        task, inputs_done = stack.pop()
        if inputs_done:
            plan[task] = None
        elif task not in entered and not available(task):
            entered.add(task)
            stack.append((task, True))
            stack.extend((upstream, False) for upstream in inputs(task))
    return list(plan)
