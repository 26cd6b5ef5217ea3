"""Plugins: objects of users that are set up in each executor process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twistdist.config import MAX_ARGUMENT_BYTES
from twistdist.errors import SerializationError, said, shown
from twistdist.net.options import check_name
from twistdist.wire.payload import dumps

#: Base classes of dask.distributed whose plugins do not run in executors.
_FOREIGN = ("SchedulerPlugin", "NannyPlugin")


def dump_plugin(plugin: Any, name: str | None) -> tuple[str, bytes]:
    """Return (the name under which a plugin is registered, the plugin pickled).

    Without ``name``, its attribute ``name`` or the name of its class is used.

    Raises:
        SerializationError: it can't be pickled, or is too large.
        TypeError: it has neither a method ``setup`` nor ``teardown``, or is a class.
        ValueError: the name is empty or too long.
    """
    kind = type(plugin)
    if isinstance(plugin, type):
        raise TypeError(f"a plugin is an object, got the class {plugin.__name__}; pass {plugin.__name__}()")
    foreign = next((base.__name__ for base in kind.__mro__ if base.__name__ in _FOREIGN), None)
    if foreign:
        raise TypeError(f"{kind.__qualname__} is a {foreign} of dask; here plugins run in executors only")
    methods: list[Callable[..., Any] | None] = [getattr(plugin, method, None) for method in ("setup", "teardown")]
    if not any(map(callable, methods)):
        raise TypeError(f"a plugin has a method setup(worker), teardown(worker) or both, got {shown(plugin)}")
    if name is None:
        own = getattr(plugin, "name", None)
        name = own if isinstance(own, str) and own else kind.__qualname__.rpartition(".")[2]
    try:
        blob = dumps(plugin)
    except Exception as error:
        raise SerializationError(f"the plugin {shown(name)} can't be pickled: {said(error)}") from error
    if len(blob) > MAX_ARGUMENT_BYTES:
        raise SerializationError(
            f"the plugin {shown(name)} is {len(blob)} bytes when pickled, more than {MAX_ARGUMENT_BYTES}; "
            "have setup() read what is large"
        )
    return check_name("the name of a plugin", name), blob
