"""The keywords of ``submit`` and ``map`` that are about the task and not for the function."""

from __future__ import annotations

from typing import Any

import attrs

from twistdist.config import resource_units
from twistdist.wire import messages as m


@attrs.frozen
class TaskOptions:
    """The keywords of ``submit`` and ``map`` that are not passed to the function, checked."""

    key: Any
    pure: bool
    wire: m.Options | None


def check_number(name: str, value: Any, least: float, kind: type | tuple[type, ...] = int) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} is a number, not {value!r}")
    if not least <= float(value) <= 1e9:  # type: ignore[arg-type]
        raise ValueError(f"{name} is a number from {least:g} to 1,000,000,000, not {value!r}")
    return value


def check_replicas(value: Any) -> int:
    """A number of copies: ``ValueError`` or ``TypeError`` unless it is a whole number from 1 to 10,000."""
    if check_number("replicas", value, 1) > 10_000:
        raise ValueError(f"replicas is a number from 1 to 10,000, not {value!r}")
    return int(value)


def check_encodable(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} has characters that UTF-8 can't express: {text!r}") from None


def check_name(what: str, name: Any) -> str:
    """A name that people gave: ``TypeError`` or ``ValueError`` unless it is text of 1 to 200 characters."""
    if not isinstance(name, str):
        raise TypeError(f"{what} is text, not {name!r}")
    if not 1 <= len(name) <= 200:
        raise ValueError(f"{what} is text of 1 to 200 characters, not {name!r}")
    check_encodable(what, name)
    return name


def check_session(name: Any) -> str:
    """The name of a durable session; "" for None."""
    return "" if name is None else check_name("session", name)


def split_options(kwargs: dict[str, Any]) -> TaskOptions:
    """Take the task options out of ``kwargs``; ``ValueError`` or ``TypeError`` for an impossible value."""
    if not kwargs:
        return _NO_OPTIONS
    take = kwargs.pop
    replay = take("replay", "always")
    if replay not in ("always", "verify", "never"):
        raise ValueError(f"replay is 'always', 'verify' or 'never', not {replay!r}")
    key, pure = take("key", None), take("pure", False)
    if key is not None and pure:
        raise ValueError("give a key or pure=True, not both: pure makes the key from function and arguments")
    limit = take("time_limit", None)
    workers = take("workers", None)
    if isinstance(workers, str):
        workers = [workers]
    if not all(isinstance(name, str) for name in workers or ()):
        raise TypeError(f"workers is a list of worker names, not {workers!r}")
    resources = take("resources", None)
    for name in (*(workers or ()), *(resources or ())):
        check_encodable("a name", str(name))
    if resources is not None:
        amounts = {str(name): check_number(f"resources[{name!r}]", v, 0, (int, float)) for name, v in resources.items()}
        resources = {name: units for name, v in amounts.items() if (units := resource_units(v))}
    options = m.Options(
        retries=check_number("retries", take("retries", 0), 0),
        crash_limit=check_number("crash_limit", take("crash_limit", 3), 1),
        time_limit=0.0 if limit is None else float(check_number("time_limit", limit, 1e-3, (int, float))),
        priority=check_number("priority", take("priority", 0), -1_000_000_000),
        workers=tuple(workers or ()),
        allow_other_workers=bool(take("allow_other_workers", False)),
        resources=resources or None,
        replay=replay,
        replicas=check_replicas(take("replicas", 1)),
        checkpoint=bool(take("checkpoint", False)),
    )
    return TaskOptions(key, bool(pure), None if options == _DEFAULTS else options)


_DEFAULTS = m.Options()
_NO_OPTIONS = TaskOptions(None, False, None)
