"""What to open in a browser for an ``--http`` endpoint, and the token that it asks for beyond loopback."""

from __future__ import annotations

import hashlib
import hmac
import re

from twistdist.net.hosts import is_loopback

#: How a link ends that needs a token; the scheduler sends it without one.
NEEDS_TOKEN = "?token="


def token_of(secret: bytes) -> str:
    """The token that a cluster's page asks for: derived from the secret, which it does not reveal."""
    return hmac.new(secret, b"twistdist http token", hashlib.sha256).hexdigest()[:32]


def link_of(endpoint: str, port: int) -> str:
    """Return the link of an endpoint, without a token; "" for a socket file.

    Args:
        endpoint: A listening endpoint, such as ``tcp:8787:interface=127.0.0.1``.
        port: The port that it listens on; 0 if only the endpoint says so.
    """
    kind, *parts = endpoint.split(":")
    if kind == "unix":
        return ""
    interface = interface_of(endpoint)
    name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(interface, interface)
    name = f"[{name}]" if ":" in name else name
    number = port or next((part.removeprefix("port=") for part in parts if part.removeprefix("port=").isdigit()), "0")
    return f"{'https' if kind == 'ssl' else 'http'}://{name}:{number}/{'' if is_loopback(endpoint) else NEEDS_TOKEN}"


def interface_of(endpoint: str) -> str:
    """Return the host that an endpoint names; "" if none."""
    parts = [part.replace("\\:", ":") for part in re.split(r"(?<!\\):", endpoint)]
    return next((part.removeprefix("interface=") for part in parts if part.startswith("interface=")), "")


def with_token(link: str, secret: bytes) -> str:
    """Return the link with the token of the cluster, if it needs one."""
    return link + token_of(secret) if link.endswith(NEEDS_TOKEN) else link
