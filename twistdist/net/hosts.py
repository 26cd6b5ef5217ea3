"""The identity of this host, and how processes on other hosts reach it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import socket
import tempfile
from typing import Any

from twistdist.config import MAX_BYTES, as_number, as_text, parse_bytes
from twistdist.errors import ConfigError
from twistdist.executors.processes import machine_memory

#: /dev/shm is the default place for stores if it has at least this many bytes free.
_SHM_BYTES = 1 << 30


def host_identity() -> str:
    """Return the identity of this host.

    Two processes with the same identity can open each other's files: same kernel, same mounts, same user.
    ``TWISTDIST_HOST`` in the environment sets another identity, for processes that should not share files, and for tests.
    """
    named = os.environ.get("TWISTDIST_HOST")
    if named:
        return named
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        mounts = os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        boot, mounts = socket.gethostname(), 0
    return f"{boot}-{mounts}-{os.getuid()}"


def default_store_root() -> str:
    """Return a folder of this user for the stores of workers: in shared memory if that is large enough."""
    shm = "/dev/shm"
    large = os.path.isdir(shm) and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free >= _SHM_BYTES
    return _own_folder(os.path.join(shm if large else tempfile.gettempdir(), f"twistdist-{os.getuid()}"), "--store")


def default_spill_root() -> str:
    """Return a folder of this user on disk for results that are moved out of memory."""
    return _own_folder(os.path.join(tempfile.gettempdir(), f"twistdist-{os.getuid()}-spill"), "--spill")


def _own_folder(root: str, option: str) -> str:
    os.makedirs(root, mode=0o700, exist_ok=True)
    if os.stat(root).st_uid != os.getuid():
        raise ConfigError(f"{root} belongs to another user; name a folder with {option}")
    return root


def memory_limit_of(value: Any, name: str, share: float) -> int:
    """Return a memory limit in bytes, 0 for none.

    ``value`` is a size as for ``parse_bytes``, a number above 0 and at most 1 for that share of this machine's memory, or None
    or "auto" for ``share`` of it.
    """
    if isinstance(value, str):
        value = as_text(value, name).strip()
        with contextlib.suppress(ValueError):
            value = float(value)
    if value is None or value == "auto":
        value = share
    if not isinstance(value, str) and 0 < as_number(value, name, 0, MAX_BYTES) <= 1:
        return int(float(value) * machine_memory())
    return parse_bytes(value, name)


def refuse_open_listening(endpoints: list[str], plaintext: bool, tls: bool = False) -> None:
    """Raise ``ConfigError`` for an endpoint that other machines can reach, unless it is encrypted or ``plaintext`` was
    requested explicitly."""
    if plaintext and tls:
        raise ConfigError("--tls and --plaintext exclude each other; give one of them")
    for endpoint in endpoints:
        kind = endpoint.partition(":")[0]
        if kind not in ("tcp", "tls", "unix"):
            raise ConfigError(f"{endpoint!r} is not a listening endpoint; write tcp:PORT:interface=ADDRESS or unix:PATH")
        if kind == "tls" and not tls:
            raise ConfigError(f"{endpoint!r} needs certificates; name their folder with --tls (twistdist certs makes one)")
        if not is_loopback(endpoint) and not plaintext and not tls:
            raise ConfigError(
                f"{endpoint!r} can be reached from other machines, and nothing would be encrypted; add interface=127.0.0.1, "
                "name certificates with --tls DIR (twistdist certs DIR makes them), "
                "or give --plaintext if the network is yours alone"
            )


def is_loopback(endpoint: str) -> bool:
    """Whether only this machine can reach a listening endpoint."""
    kind, _, rest = endpoint.partition(":")
    interface = next((part[10:] for part in _split(rest) if part.startswith("interface=")), "")
    return kind == "unix" or interface in ("localhost", "::1") or interface.startswith("127.")


def check_http(endpoint: str) -> str:
    """Return the endpoint; ``ConfigError`` unless it is one that can serve HTTP."""
    if endpoint.partition(":")[0] not in ("tcp", "unix", "ssl"):
        raise ConfigError(f"--http must be a listening endpoint such as tcp:8787:interface=127.0.0.1, got {endpoint!r}")
    return endpoint


def is_local(address: str) -> bool:
    """Whether an address means a different process on each machine."""
    kind, _, rest = address.partition(":")
    return kind == "unix" or rest.startswith(("127.", "localhost:", r"\:\:1"))


def _split(text: str) -> list[str]:
    """Split an endpoint description at the colons that are not escaped."""
    return [part.replace("\\:", ":") for part in re.split(r"(?<!\\):", text)]


def address_of(port: Any, encrypted: bool = False, contact: str = "", anywhere: str = "") -> str:
    """Return the address at which others reach a port: at the host ``contact`` if given, else where it listens, or at
    ``anywhere`` (default: this machine) if it listens on all interfaces."""
    host = port.getHost()
    if hasattr(host, "port"):
        wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.host)
        name = contact or (host.host if wildcard is None else anywhere or wildcard)
        escaped = name.replace(":", r"\:")
        return f"{'tls' if encrypted else 'tcp'}:{escaped}:{host.port}"
    return f"unix:{host.name.decode() if isinstance(host.name, bytes) else host.name}"
