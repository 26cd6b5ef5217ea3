"""The keywords of ``submit`` and ``map`` that are about the task and not for the function.

Whatever numpy, pandas or the standard library hand a user becomes a plain ``str``, ``int`` or ``float`` here: msgspec encodes
no subclasses, so nothing else may reach a message.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import attrs

from twistdist.config import as_choice, as_number, as_seconds, as_text, as_truth, as_whole_number, resource_units
from twistdist.errors import shown
from twistdist.keywords import refuse_foreign
from twistdist.net.futures import BaseFuture
from twistdist.wire import messages as m

#: Characters that a key may have.
MAX_KEY = 1_000


@attrs.frozen
class TaskOptions:
    """The keywords of ``submit`` and ``map`` that are not passed to the function, checked."""

    key: Any
    pure: bool
    wire: m.Options | None
    replace: bool = False


def check_replicas(value: Any, name: str = "replicas") -> int:
    """A number of copies: ``ValueError`` or ``TypeError`` unless it is a whole number from 1 to 10,000."""
    return as_whole_number(value, name, 1, 10_000)


def check_encodable(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} has characters that UTF-8 can't express: {shown(text)}") from None


def check_name(what: str, name: Any) -> str:
    """A name that people gave: ``TypeError`` or ``ValueError`` unless it is text of 1 to 200 characters."""
    plain = as_text(name, what)
    if not 1 <= len(plain) <= 200:
        raise ValueError(f"{what} is text of 1 to 200 characters, not {shown(name)}")
    check_encodable(what, plain)
    return plain


def check_key(key: Any) -> str:
    """A task's key that a user chose: ``TypeError`` or ``ValueError`` for what can't be a key."""
    plain = as_text(key, "a key") if isinstance(key, str) else ""
    if not plain or plain.endswith("-") or len(plain) > MAX_KEY:
        raise ValueError(f"a key is text of 1 to {MAX_KEY:,} characters that does not end with '-', not {shown(key)}")
    check_encodable("a key", plain)
    return plain


def check_keys(keys: Any, count: int) -> list[Any]:
    """The keys of ``count`` tasks of a ``map``, from any iterable, an endless one too; each is checked when it is used."""
    if not isinstance(keys, Iterable) or isinstance(keys, bytes):
        raise TypeError(f"key is text, or for map a list of keys, not {shown(keys)}")
    found = list(itertools.islice(keys, count))
    given = len(keys) if isinstance(keys, Sized) else len(found)
    if given != count or len(found) != count:
        raise ValueError(f"{given} keys were given for {count} tasks")
    return found


def several(what: Any) -> list[Any]:
    """A list of what was given in any iterable, or alone."""
    if isinstance(what, BaseFuture | str | bytes):
        return [what]
    if not isinstance(what, Iterable):
        raise TypeError(f"keys, or futures, are given in a list; this is none: {shown(what)}")
    return list(what)


def check_workers(workers: Any) -> list[str]:
    """Worker names: one, or an iterable of names; [] for None."""
    if workers is None:
        return []
    if isinstance(workers, str):
        workers = [workers]
    if not isinstance(workers, Iterable) or isinstance(workers, bytes):
        raise TypeError(f"workers is a list of worker names, not {shown(workers)}")
    names = list(workers)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"workers is a list of worker names, not {shown(workers)}")
    plain = [as_text(name, "workers") for name in names]
    for name in plain:
        check_encodable("the name of a worker", name)
    return plain


def check_session(name: Any) -> str:
    """The name of a durable session; "" for None."""
    return "" if name is None else check_name("session", name)


def _check_resources(resources: Any) -> dict[str, int] | None:
    """Amounts by name, in millionths; None where nothing is asked for."""
    if resources is None:
        return None
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources is a dict such as {{'GPU': 1}}, not {shown(resources)}")
    found = {}
    for name, amount in resources.items():
        plain = as_text(name, "the name of a resource")
        check_encodable("the name of a resource", plain)
        found[plain] = resource_units(as_number(amount, f"resources[{plain!r}]"))
    return {name: units for name, units in found.items() if units} or None


def split_options(kwargs: dict[str, Any], fn: Callable[..., Any] | None = None) -> TaskOptions:
    """Take the task options out of ``kwargs``; ``ValueError`` or ``TypeError`` for an impossible value, and for what is left
    when it is an option of another framework and none of ``fn``."""
    if not kwargs:
        return NO_OPTIONS
    take = kwargs.pop
    replay = as_choice(take("replay", "always"), "replay", ("always", "verify", "never"))
    key, pure = take("key", None), as_truth(take("pure", False), "pure")
    if key is not None and pure:
        raise ValueError("give a key or pure=True, not both: pure makes the key from function and arguments")
    replace = as_truth(take("replace", False), "replace")
    if replace and key is None:
        raise ValueError("replace=True gives a key to another task; name the key with key=")
    limit = take("time_limit", None)
    options = m.Options(
        retries=as_whole_number(take("retries", 0), "retries"),
        crash_limit=as_whole_number(take("crash_limit", 3), "crash_limit", 1),
        time_limit=0.0 if limit is None else as_seconds(limit, "time_limit", 1e-3),
        priority=as_whole_number(take("priority", 0), "priority", -1_000_000_000),
        workers=tuple(check_workers(take("workers", None))),
        allow_other_workers=as_truth(take("allow_other_workers", False), "allow_other_workers"),
        resources=_check_resources(take("resources", None)),
        replay=replay,
        replicas=check_replicas(take("replicas", 1)),
        checkpoint=as_truth(take("checkpoint", False), "checkpoint"),
    )
    if kwargs and fn is not None:
        refuse_foreign(fn, kwargs)
    return TaskOptions(key, pure, None if options == _DEFAULTS else options, replace)


_DEFAULTS = m.Options()
NO_OPTIONS = TaskOptions(None, False, None)
