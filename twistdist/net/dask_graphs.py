"""Graphs of dask as tasks: every node becomes a task, whose Future survives workers that die as all Futures do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

try:
    import dask
    from dask._task_spec import Alias, DataNode, GraphNode, convert_legacy_graph
    from dask.base import is_dask_collection
    from dask.core import flatten, toposort
except ImportError as error:  # pragma: no cover
    raise ImportError("twistdist.dask needs dask 2024.12 or later: pip install 'twistdist[dask]'") from error

from twistdist.errors import shown

Submit = Callable[..., Any]


def submit_graph(submit: Submit, dsk: Mapping[Hashable, Any], keys: Any, options: Mapping[str, Any]) -> dict[Hashable, Any]:
    """Submit the part of a graph that ``keys`` need.

    Args:
        submit: ``submit(function, *args, **options)`` gives a Future.
        dsk: A graph: from keys to task tuples, dask's task objects, or literals.
        keys: A key, or keys in nested lists.
        options: Task options for every node.

    Returns:
        A Future (or a value, for literals) by key.

    Raises:
        KeyError: A key is not in the graph.
        ValueError: The graph has a cycle.
    """
    graph: dict[Hashable, GraphNode] = convert_legacy_graph(_plain(dsk))
    wanted = list(flatten([keys])) if isinstance(keys, list) else [keys]
    missing = [key for key in wanted if key not in graph]
    if missing:
        raise KeyError(f"these keys are not in the graph: {', '.join(map(shown, missing[:5]))}")
    needed = _needed(graph, wanted)
    try:
        order = toposort(
            {key: node for key, node in graph.items() if key in needed}, {key: graph[key].dependencies for key in needed}
        )
    except RuntimeError as error:
        raise ValueError(f"the graph has a cycle: {error}") from None
    results: dict[Hashable, Any] = {}
    for key in order:
        node = graph[key]
        if isinstance(node, Alias):
            results[key] = results[node.target]
        elif isinstance(node, DataNode):
            results[key] = node.value
        else:
            inputs = {upstream: results[upstream] for upstream in node.dependencies}
            results[key] = submit(_run_node, node, inputs, **options)
    return results


def futures_of(keys: Any, results: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """The Futures among the results of ``keys``; the others are literals of the graph."""
    from twistdist.net.futures import BaseFuture

    wanted = flatten([keys]) if isinstance(keys, list) else [keys]
    return {key: results[key] for key in wanted if isinstance(results[key], BaseFuture)}


def in_shape(keys: Any, values: Mapping[Hashable, Any]) -> Any:
    """Values in the nesting of lists that ``keys`` has."""
    return [in_shape(key, values) for key in keys] if isinstance(keys, list) else values[keys]


def compute(submit: Submit, collections: tuple[Any, ...], optimize: bool, options: Mapping[str, Any]) -> Any:
    """A Future of the value of a collection, or a tuple of Futures of several."""
    kept = persist(submit, collections, optimize, options)
    done = [_finish(submit, collection, options) for collection in (kept if len(collections) > 1 else (kept,))]
    return done[0] if len(done) == 1 else tuple(done)


def _finish(submit: Submit, kept: Any, options: Mapping[str, Any]) -> Any:
    """A Future of the value that dask makes from the chunks of a collection whose graph holds Futures."""
    finalize, extra = kept.__dask_postcompute__()
    chunks = _in_lists(kept.__dask_keys__(), _plain(kept.__dask_graph__()))
    return submit(finalize, chunks, *extra, **options)


def _in_lists(keys: Any, graph: Mapping[Hashable, Any]) -> Any:
    """What the graph has for each key: a Future, or a literal."""
    if isinstance(keys, list):
        return [_in_lists(key, graph) for key in keys]
    node = graph[keys]
    while isinstance(node, Alias):
        node = graph[node.target]
    return node.value if isinstance(node, DataNode) else node


def persist(submit: Submit, collections: tuple[Any, ...], optimize: bool, options: Mapping[str, Any]) -> Any:
    """The collection, or a tuple of several, on a graph of Futures."""
    _check(collections)

    def start(dsk: Any, keys: Any, **_: Any) -> Any:
        return in_shape(keys, submit_graph(submit, dsk, keys, options))

    kept = dask.persist(*collections, traverse=False, optimize_graph=optimize, scheduler=start)
    return kept[0] if len(kept) == 1 else kept


def _check(collections: tuple[Any, ...]) -> None:
    if not collections:
        raise TypeError("name at least one dask collection")
    for collection in collections:
        if not is_dask_collection(collection):
            raise TypeError(f"expected a dask collection, got {shown(collection)}")


def _plain(dsk: Any) -> dict[Hashable, Any]:
    """A graph as a dict; recent versions of dask hand schedulers an expression."""
    return dict(dsk.__dask_graph__() if hasattr(dsk, "__dask_graph__") else dsk)


def _needed(graph: Mapping[Hashable, GraphNode], wanted: list[Hashable]) -> set[Hashable]:
    needed: set[Hashable] = set()
    todo = list(wanted)
    while todo:
        key = todo.pop()
        if key not in needed:
            needed.add(key)
            todo.extend(graph[key].dependencies)
    return needed


def _run_node(node: GraphNode, inputs: dict[Hashable, Any]) -> Any:
    """In a task: compute one node from the values of those that it depends on."""
    return node(inputs)
