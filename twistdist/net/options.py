"""Checks of what users pass: the task options of ``submit`` and ``map``, keys, and names.

Values from numpy, pandas or the standard library are converted to plain ``str``, ``int`` and ``float`` objects here.  msgspec
does not encode subclasses, so nothing else may end up in a message.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextvars import ContextVar
from typing import Any

import attrs

from twistdist.config import as_choice, as_number, as_seconds, as_text, as_truth, as_whole_number, resource_units
from twistdist.errors import NoValidWorker, shown
from twistdist.interfaces import WorkerInfo
from twistdist.keywords import refuse_foreign
from twistdist.net.futures import BaseFuture
from twistdist.wire import messages as m

#: The maximum length of a key, in characters.
MAX_KEY = 1_000


@attrs.frozen
class TaskOptions:
    """The checked task options of one ``submit`` or ``map``.

    ``key`` is None, a string, or for ``map`` an iterable of keys.  ``wire`` holds the options that are sent to the scheduler,
    or None if all of them have their defaults.
    """

    key: Any
    pure: bool
    wire: m.Options | None
    replace: bool = False


def check_replicas(value: Any, name: str = "replicas") -> int:
    """Return a number of copies as an int.  ``ValueError`` or ``TypeError`` unless it is an integer from 1 to 10,000."""
    return as_whole_number(value, name, 1, 10_000)


def check_encodable(what: str, text: str) -> None:
    """Raise ``ValueError`` if ``text`` can't be encoded as UTF-8.  ``what`` names it in the message."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} contains characters that can't be encoded as UTF-8: {shown(text)}") from None


def check_name(what: str, name: Any) -> str:
    """Return a user's name for something as a plain str.  ``TypeError`` or ``ValueError`` unless it has 1 to 200 characters."""
    plain = as_text(name, what)
    if not 1 <= len(plain) <= 200:
        raise ValueError(f"{what} must be a string of 1 to 200 characters, got {shown(name)}")
    check_encodable(what, plain)
    return plain


def check_key(key: Any) -> str:
    """Return a task key chosen by the user as a plain str.  ``ValueError`` if it can't be a key."""
    plain = as_text(key, "a key") if isinstance(key, str) else ""
    if not plain or plain.endswith("-") or len(plain) > MAX_KEY:
        raise ValueError(f"a key must be a string of 1 to {MAX_KEY:,} characters that does not end with '-', got {shown(key)}")
    check_encodable("a key", plain)
    return plain


def check_keys(keys: Any, count: int) -> list[Any]:
    """Return the keys for the ``count`` tasks of a ``map``, taken from any iterable, even an endless one.

    Each key is checked when it is used.  ``ValueError`` if the number of keys is wrong, ``TypeError`` if it is no iterable.
    """
    if not isinstance(keys, Iterable) or isinstance(keys, bytes):
        raise TypeError(f"key must be a string, or for map() a list of keys, got {shown(keys)}")
    found = list(itertools.islice(keys, count))
    given = len(keys) if isinstance(keys, Sized) else len(found)
    if given != count or len(found) != count:
        raise ValueError(f"{given} keys were given for {count} tasks")
    return found


def several(what: Any) -> list[Any]:
    """Return a list of keys or futures that were given as an iterable, or as a single key or future."""
    if isinstance(what, BaseFuture | str | bytes):
        return [what]
    if not isinstance(what, Iterable):
        raise TypeError(f"expected a list of keys or futures, got {shown(what)}")
    return list(what)


def check_workers(workers: Any) -> list[str]:
    """Return a list of worker names from one name or an iterable of names.  The list is empty for None."""
    if workers is None:
        return []
    if isinstance(workers, str):
        workers = [workers]
    if not isinstance(workers, Iterable) or isinstance(workers, bytes):
        raise TypeError(f"workers must be a list of worker names, got {shown(workers)}")
    names = list(workers)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"workers must be a list of worker names, got {shown(workers)}")
    plain = [as_text(name, "workers") for name in names]
    for name in plain:
        check_encodable("a worker name", name)
    return plain


def check_session(name: Any) -> str:
    """Return the name of a durable session, or "" for None.  ``TypeError`` or ``ValueError`` if it is not a valid name."""
    return "" if name is None else check_name("session", name)


def check_resources(resources: Any) -> dict[str, int] | None:
    """Return the requested amounts by name, in millionths, or None if nothing is requested."""
    if resources is None:
        return None
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources must be a dict such as {{'GPU': 1}}, got {shown(resources)}")
    found = {}
    for name, amount in resources.items():
        plain = as_text(name, "a resource name")
        check_encodable("a resource name", plain)
        found[plain] = resource_units(as_number(amount, f"resources[{plain!r}]"))
    return {name: units for name, units in found.items() if units} or None


def check_declared(resources: Any) -> dict[str, int] | None:
    """Return what a worker declares to have, in millionths.  ``ValueError`` for a name that ``--resources`` can't express."""
    found = check_resources(resources)
    for name in found or {}:
        if not name or set(name) & set(",="):
            raise ValueError(f"a resource can't be named {shown(name)}: it must not be empty or contain , or =")
    return found


def split_options(kwargs: dict[str, Any], fn: Callable[..., Any] | None = None) -> TaskOptions:
    """Remove the task options from ``kwargs`` and return them, checked.

    ``ValueError`` or ``TypeError`` if an option has an invalid value.  ``TypeError`` if a remaining keyword is a task option of
    another framework and ``fn`` does not accept it.
    """
    group = _group.get()
    if group:
        kwargs.setdefault("group", group)
    if not kwargs:
        return NO_OPTIONS
    take = kwargs.pop
    key, pure = take("key", None), as_truth(take("pure", False), "pure")
    if key is not None and pure:
        raise ValueError("give either key or pure=True, not both: pure=True makes the key from the function and its arguments")
    replace = as_truth(take("replace", False), "replace")
    if replace and key is None:
        raise ValueError("replace=True assigns an existing key to this task; name the key with key=")
    wire = None
    if kwargs:
        given = {name: check(take(name), name) for name, check in ON_THE_WIRE.items() if name in kwargs}
        options = m.Options(**given) if given else _DEFAULTS
        wire = None if options == _DEFAULTS else options
        if kwargs and fn is not None:
            refuse_foreign(fn, kwargs)
    return TaskOptions(key, pure, wire, replace)


#: The options that are sent to the scheduler, and how each is checked: ``check(value, name)`` returns what is sent.
ON_THE_WIRE: dict[str, Callable[[Any, str], Any]] = {
    "retries": as_whole_number,
    "crash_limit": lambda value, name: as_whole_number(value, name, 1),
    "time_limit": lambda value, name: 0.0 if value is None else as_seconds(value, name, 1e-3),
    "priority": lambda value, name: as_whole_number(value, name, -1_000_000_000),
    "workers": lambda value, name: tuple(check_workers(value)),
    "allow_other_workers": as_truth,
    "resources": lambda value, name: check_resources(value),
    "replay": lambda value, name: as_choice(value, name, ("always", "verify", "never")),
    "replicas": check_replicas,
    "checkpoint": as_truth,
    "group": lambda value, name: "" if value is None else check_name(name, value),
}

#: The group of what is submitted in a ``with client.group(name):`` block, by this thread or coroutine.
_group: ContextVar[str] = ContextVar("twistdist group", default="")


@contextlib.contextmanager
def grouped(name: str) -> Iterator[None]:
    """Give what is submitted within the block this group, unless it names another one itself."""
    token = _group.set(check_name("group", name))
    try:
        yield
    finally:
        _group.reset(token)


def beside_options(worker: str) -> TaskOptions:
    """Return the options of a call that runs once, on this worker, in a process of its own beside the slots."""
    return TaskOptions(None, False, m.Options(crash_limit=1, workers=(worker,), beside=True))


def run_on(names: list[str], known: Mapping[str, WorkerInfo]) -> list[str]:
    """Return the workers to run on: those that were named, or all that are connected.  ``ValueError`` for an unknown name.

    ``NoValidWorker`` if there is none."""
    here = [name for name, info in known.items() if info.state != "away"]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"no worker of this cluster is named {', '.join(unknown)}; its workers: {', '.join(sorted(here)) or 'none'}"
        )
    if not here:
        raise NoValidWorker("no worker is connected, so there is nothing to run on; start one, or wait_for_workers(1)")
    return list(dict.fromkeys(names)) or here


def say_where(error: BaseException) -> None:
    """Note on an exception of a task on which worker it was raised, where Python has notes (from 3.11 on)."""
    info = getattr(error, "__twistdist__", None)
    if info is not None and info.worker and hasattr(error, "add_note"):
        error.add_note(f"raised on the worker {info.worker}")


_DEFAULTS = m.Options()
NO_OPTIONS = TaskOptions(None, False, None)
