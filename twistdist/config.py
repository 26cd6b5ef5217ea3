"""Defaults, addresses, sizes and the shared secret.  The environment is read whenever a function needs it."""

from __future__ import annotations

import contextlib
import operator
import os
import pathlib
import re
import secrets
import sys
import threading
from datetime import timedelta
from typing import Any

from twistdist.errors import ConfigError, shown

DEFAULT_PORT = 8786

#: Results of up to this many bytes are sent inside messages and kept by the scheduler.
INLINE_RESULT_BYTES = 4096

#: Bytes that the pickled arguments of one task may have; larger ones are refused with advice.
MAX_ARGUMENT_BYTES = 16 << 20

#: Seconds without a sign of life after which a worker gets no new work, and after which it is given up.
SUSPECT_AFTER_S, DEAD_AFTER_S = 1.0, 10.0

#: Seconds that a worker whose process has ended has to start again before its tasks are given to others.
WORKER_GRACE_S = 0.5

#: Seconds that an unnamed client session is kept after its connection closed.
CLIENT_GRACE_S = 60.0

#: Seconds that a task waits for workers whose names the cluster has never seen, before it fails with NoValidWorker.
NAME_GRACE_S = 20.0

#: Bytes; an upper bound for sizes, larger than any memory.
MAX_BYTES = 1 << 60

#: A worker's default memory limit, as a share of the machine's memory.
MEMORY_SHARE = 0.8

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\s\[\]/]+):(\d{1,5})")
_ENDPOINTS = ("tcp:", "tls:", "unix:")


def python_here() -> str:
    """Return the version of Python, as far as it matters for pickles."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def parse_address(address: str) -> str:
    """Return the Twisted client endpoint description of ``address``.

    ``host:port`` means ``tcp:host:port``; descriptions that start with ``tcp:``, ``tls:`` or ``unix:`` are returned unchanged.
    Raises ``ConfigError`` for anything else.
    """
    if not isinstance(address, str):
        raise ConfigError(f"an address must be a string such as 'tcp:host:{DEFAULT_PORT}', got {shown(address)}")
    if address.startswith(_ENDPOINTS) and "://" not in address and _is_endpoint(address):
        return address
    match = _HOST_PORT.fullmatch(address)
    if not match or not 0 < int(match[2]) < 65536:
        raise ConfigError(f"{shown(address)} is not an address; write {_better(address)}")
    host = match[1].strip("[]").replace(":", r"\:")
    return f"tcp:{host}:{match[2]}"


def _is_endpoint(address: str) -> bool:
    """Whether Twisted can make an endpoint of ``address``."""
    kind, _, rest = address.partition(":")
    parts = re.split(r"(?<!\\):", rest)
    if kind == "unix":
        return bool(parts[0])
    named = dict(part.partition("=")[::2] for part in parts if "=" in part)
    given = {**dict(zip(("host", "port"), (part for part in parts if "=" not in part), strict=False)), **named}
    port = given.get("port", "")
    known = len(given) == len(parts) and given.keys() <= {"host", "port", "timeout", "bindAddress"}
    return known and bool(given.get("host")) and port.isascii() and port.isdigit() and 0 < int(port) < 65536


def _better(address: str) -> str:
    """Return what the user may have meant by ``address``."""
    scheme, slashes, rest = address.partition("://")
    if not slashes:
        return "host:port, tcp:host:port, tls:host:port or unix:path"
    if scheme == "unix":
        return f"unix:/{rest.strip('/')}"
    kind, where = ("tls" if scheme == "tls" else "tcp"), rest.partition("/")[0]
    return f"{kind}:{where}" if _HOST_PORT.fullmatch(where) else f"{kind}:host:{DEFAULT_PORT}"


def parse_addresses(addresses: str) -> list[str]:
    """Return the Twisted client endpoint descriptions of one or more comma-separated addresses, in order, without duplicates.

    Raises ``ConfigError`` like ``parse_address``.
    """
    parts = addresses.split(",") if isinstance(addresses, str) else [addresses]
    return list(dict.fromkeys(parse_address(part.strip() if isinstance(part, str) else part) for part in parts))


def resource_units(amount: float) -> int:
    """Return an amount of a resource in millionths, as integers add up exactly.  Raises ``ValueError`` unless 0 to 10**9."""
    if not 0 <= amount <= 1e9:
        raise ValueError(f"an amount of a resource must be a number from 0 to 1,000,000,000, got {amount!r}")
    return round(amount * 1_000_000)


def parse_bytes(value: Any, name: str) -> int:
    """Return a size in bytes, given as a number or as text such as ``8GiB``, ``1.5GB``, ``500MB`` or ``2e9``.

    Raises ``ConfigError``, ``TypeError`` or ``ValueError``, whose message names the argument ``name``.
    """
    if not isinstance(value, str):
        return int(as_number(value, name, 0, MAX_BYTES))
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]\+?\d{1,2})?)\s*(?:([kKMGTP])(i?)B?|B)?\s*", as_text(value, name))
    base = 1024 if match and match[3] else 1000
    size = float(match[1]) * base ** ("kMGTP".index(match[2].replace("K", "k")) + 1 if match[2] else 0) if match else -1
    if not 0 <= size <= MAX_BYTES:
        raise ConfigError(f"{name} must be a size such as 8GiB or 500MB, or a number of bytes, got {shown(value)}")
    return int(size)


def silence_limits(suspect: float | None, dead: float | None) -> tuple[float, float]:
    """Return both limits in seconds; if only one is given, the first is at most half of the second."""
    if dead is None:
        dead = DEAD_AFTER_S if suspect is None else max(DEAD_AFTER_S, 2 * suspect)
    if suspect is None:
        suspect = min(SUSPECT_AFTER_S, dead / 2)
    if suspect >= dead:
        raise ConfigError(f"suspect-after, {suspect:g} s, must be less than dead-after, {dead:g} s")
    return suspect, dead


def as_whole_number(value: Any, name: str, least: int = 0, most: int = 1_000_000_000) -> int:
    """Return ``value``, anything with ``__index__``, as an int; ``TypeError`` or ``ValueError`` names the argument ``name``."""
    try:
        if not _may_be_number(value):
            raise TypeError
        number = int.__index__(operator.index(value))  # an int itself, not one of its subclasses
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {shown(value)}") from None
    if not least <= number <= most:
        raise ValueError(f"{name} must be an integer from {least:,} to {most:,}, got {shown(value)}")
    return number


def as_number(value: Any, name: str, least: float = 0.0, most: float = 1e9) -> float:
    """Return ``value``, anything with ``__float__`` or ``__index__``, as a float; errors name the argument ``name``."""
    return _in_range(value, name, "a number", least, most)


def as_seconds(value: Any, name: str, least: float = 0.0, most: float = 1e9) -> float:
    """Return seconds, given as a number as for ``as_number`` or as a ``timedelta`` (numpy's too)."""
    seconds = value
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif _numpy_kind(value) == "m" and not value.ndim:
        with contextlib.suppress(TypeError):  # months have no length in seconds
            seconds = value[()] / type(value[()])(1, "s")
    return _in_range(seconds, name, "a number of seconds or a timedelta,", least, most, value)


def as_timeout(value: Any, name: str = "timeout") -> float | None:
    """Return a timeout as the standard library takes it; None means no limit, and replaces one that is too long to wait for."""
    if value is None:
        return None
    seconds = as_seconds(value, name, float("-inf"), float("inf"))
    return None if seconds > threading.TIMEOUT_MAX else seconds


def as_truth(value: Any, name: str) -> bool:
    """Return ``bool(value)``; if it has none, like an array or NA, ``TypeError`` names the argument ``name``."""
    try:
        return bool(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be True or False, got {shown(value)}") from None


def as_choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``; otherwise ``ValueError`` names the argument ``name`` and all choices."""
    plain = as_text(value, name) if isinstance(value, str) else ""
    if plain not in choices:
        words = ", ".join(map(repr, choices[:-1]))
        raise ValueError(f"{name} must be {words} or {choices[-1]!r}, got {shown(value)}")
    return plain


def as_text(value: Any, name: str) -> str:
    """Return ``value``, an instance of str or a subclass, as a plain str; ``TypeError`` names the argument ``name``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {shown(value)}")
    return str.__str__(value)  # whatever a subclass does in its own __str__


def as_path(value: Any, name: str) -> str:
    """Return a path, given as text or anything that ``os.fspath`` takes, as text; ``TypeError`` names the argument ``name``."""
    return as_text(os.fspath(value) if isinstance(value, os.PathLike) else value, name)


def _in_range(value: Any, name: str, kind: str, least: float, most: float, given: Any = None) -> float:
    given = value if given is None else given
    try:
        if not _may_be_number(value) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
            raise TypeError
        number = float(value)
    except TypeError:
        raise TypeError(f"{name} must be {kind.rstrip(',')}, got {shown(given)}") from None
    except OverflowError:
        number = float("inf") if value > 0 else float("-inf")
    except ValueError:  # a signalling NaN
        number = float("nan")
    if not least <= number <= most:
        raise ValueError(f"{name} must be {kind} from {least:,.12g} to {most:,.12g}, got {shown(given)}")
    return number


def _may_be_number(value: Any) -> bool:
    """Return False for what is not a number although Python or numpy would convert it: truth values, text, arrays, dates."""
    if isinstance(value, bool | str | bytes | bytearray | complex):
        return False
    return not getattr(value, "ndim", 0) and _numpy_kind(value) not in tuple("bcmMOSUT")


def _numpy_kind(value: Any) -> str:
    return str(getattr(getattr(value, "dtype", None), "kind", ""))


def default_secret_file() -> pathlib.Path:
    """Return ``$TWISTDIST_SECRET_FILE``, else ``~/.config/twistdist/secret`` (under ``$XDG_CONFIG_HOME`` if that is set)."""
    named = os.environ.get("TWISTDIST_SECRET_FILE")
    if named:
        return pathlib.Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return pathlib.Path(base) / "twistdist" / "secret"


def load_secret(path: str | os.PathLike[str] | None = None) -> bytes:
    """Return the shared secret in ``path``, stripped; the default file is created on first use, with mode 0600.

    Raises ``ConfigError`` if the file was named explicitly and is missing, or if it is too short or others can read it.
    """
    named = "" if path is not None else os.environ.get("TWISTDIST_SECRET_FILE", "")
    file = pathlib.Path(path) if path is not None else default_secret_file()
    if path is None and not named and not file.exists():
        _create_secret(file)
    try:
        shared, content = others_may_read(file), file.read_bytes().strip()
    except OSError as error:
        who = "it is named by TWISTDIST_SECRET_FILE" if named else "name a readable one with --secret-file"
        raise ConfigError(f"the secret file {file} can't be read ({error.strerror}); {who}") from None
    if shared:
        raise ConfigError(f"the secret file {file} can be read by others; run: chmod 600 {file}")
    if len(content) < 16:
        raise ConfigError(f"the secret file {file} holds fewer than 16 bytes; remove it to have a new one made")
    return content


def others_may_read(file: pathlib.Path) -> bool:
    """Return whether users other than its owner may use a file.

    A file of root's may be readable by a group: so system services, and pods of Kubernetes, are handed secrets that they need
    not be able to change.
    """
    found = file.stat()
    return bool(found.st_mode & (0o037 if found.st_uid == 0 else 0o077))


def _create_secret(file: pathlib.Path) -> None:
    """Write a new secret; if several processes do so at the same time, one wins and all read the same secret."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    try:
        os.link(fresh, file)
    except FileExistsError:
        return  # another process was first; its secret is used
    finally:
        fresh.unlink()


def as_secret(secret: str | bytes | None, file: str | os.PathLike[str] | None = None) -> bytes:
    """Return the secret as bytes: ``secret`` itself, stripped, or the content of ``file`` or of the default file."""
    if secret is None:
        return load_secret(file)
    if not isinstance(secret, str | bytes):
        raise TypeError(f"secret must be a string or bytes, got a {type(secret).__qualname__}")
    content = (str.encode(secret, "utf-8", "surrogateescape") if isinstance(secret, str) else bytes(secret)).strip()
    if len(content) < 16:
        raise ConfigError("secret must have at least 16 bytes")
    return content
