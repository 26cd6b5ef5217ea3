"""Encrypted connections: when dialing and listening use TLS, and what a TLS error means.

Both sides present a certificate of one private CA (:mod:`.certs` makes them) and check the other's.  Host names are not
compared: workers come and go at any address, and a peer with a certificate of this CA belongs to the cluster.  The handshake
with the secret takes place inside TLS.  Only :mod:`.encryption` imports OpenSSL; it is loaded when a folder of certificates is
named.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IStreamClientEndpoint

from twistdist.config import parse_address, parse_addresses
from twistdist.errors import AuthenticationError, ConfigError, ProtocolError

if TYPE_CHECKING:
    from twistdist.net.encryption import Tls

#: OpenSSL's reason -> what it means.
_MEANINGS = {
    "certificate verify failed": "the other side's certificate was not issued by our CA, or is not valid now",
    "peer did not return a certificate": "the other side presented no certificate",
    "tlsv13 alert certificate required": "the other side requires a certificate, and we presented none",
    "tlsv1 alert unknown ca": "the other side refuses our certificate: it was issued by another CA",
    "sslv3 alert bad certificate": "the other side refuses our certificate",
    "sslv3 alert certificate expired": "the other side refuses our certificate: it has expired",
    "sslv3 alert certificate unknown": "the other side refuses our certificate",
    "wrong version number": "the other side does not speak TLS",
    "packet length too long": "the other side does not speak TLS",
    "record layer failure": "the other side does not speak TLS",
}


def load(directory: str | os.PathLike[str]) -> Tls:
    """Load the certificates in ``directory``.  Raises ``ConfigError`` if they, or the packages that TLS needs, are missing."""
    try:
        from twistdist.net.encryption import Tls
    except ImportError as error:
        raise ConfigError(f"TLS needs packages that are not installed ({error}); run: pip install 'twistdist[tls]'") from None
    return Tls(directory)


def is_endpoint(address: Any) -> bool:
    """Return whether an address is a Twisted client endpoint, made by the user."""
    return bool(IStreamClientEndpoint.providedBy(address))


def dialing_side(address: Any, directory: str | os.PathLike[str] | None) -> tuple[Any, Tls | None]:
    """Return (the full form of a scheduler's ``address``, the certificates to use or None).

    An endpoint stays as it is; with certificates, TLS is used on its connections.

    There may be several addresses, separated by commas.  If no ``directory`` of certificates is given, ``TWISTDIST_TLS`` in the
    environment applies to addresses that do not begin with ``tcp:`` or ``unix:``.  With certificates, ``host:port`` means
    ``tls:host:port``.  Raises ``ConfigError`` if an address and the certificates contradict each other.
    """
    if is_endpoint(address):
        return address, None if directory is None else load(directory)
    parse_addresses(address)
    sides = [_side(side.strip(), directory) for side in address.split(",")]
    named = next((folder for _, folder in sides if folder is not None), None)
    return ",".join(dict.fromkeys(full for full, _ in sides)), None if named is None else load(named)


def _side(address: str, directory: str | os.PathLike[str] | None) -> tuple[str, str | os.PathLike[str] | None]:
    """Return (the full form of one address, the directory of certificates that applies to it)."""
    full = parse_address(address)
    named = directory or (None if address.startswith(("tcp:", "unix:")) else os.environ.get("TWISTDIST_TLS") or None)
    if named is None:
        if full.startswith("tls:"):
            raise ConfigError(f"{address!r} needs certificates; name their folder with tls=DIR, --tls DIR or TWISTDIST_TLS")
        return full, None
    if full.startswith("tcp:"):
        if address.startswith("tcp:"):
            raise ConfigError(f"{address!r} would not be encrypted, although certificates are named; write tls:{address[4:]}")
        full = f"tls:{full[4:]}"
    return full, named


def dial(reactor: Any, address: Any, tls: Tls | None, factory: Any) -> Deferred[Any]:
    """Connect to ``address``, an endpoint or its description, using TLS for ``tls:…``; return a Deferred of the protocol."""
    if not isinstance(address, str):
        if tls is None:
            return address.connect(factory)  # type: ignore[no-any-return]
        return address.connect(tls.client_factory(reactor, factory)).addCallback(lambda wrapper: wrapper.wrappedProtocol)  # type: ignore[no-any-return]
    kind, _, rest = address.partition(":")
    if kind != "tls":
        plain: Deferred[Any] = clientFromString(reactor, address).connect(factory)
        return plain
    if tls is None:
        return fail(ConfigError(f"{address!r} can be reached only with certificates, and none are named here"))
    connecting: Deferred[Any] = clientFromString(reactor, f"tcp:{rest}").connect(tls.client_factory(reactor, factory))
    return connecting.addCallback(lambda wrapper: wrapper.wrappedProtocol)


def listen(reactor: Any, endpoint: str, tls: Tls | None, factory: Any) -> Deferred[Any]:
    """Listen at ``endpoint``, with TLS on every TCP port if there are certificates; return a Deferred of the port.

    Raises:
        ConfigError: it is not a description of a listening endpoint.
    """
    kind, _, rest = endpoint.partition(":")
    if kind == "unix":
        tls = None
    elif kind == "tls":
        endpoint = f"tcp:{rest}"
    try:
        server = serverFromString(reactor, endpoint)
    except (TypeError, ValueError) as error:  # TypeError: for example, what connects has a host too
        raise ConfigError(
            f"{endpoint!r} is not a listening endpoint ({error}); write tcp:PORT:interface=ADDRESS or unix:PATH"
        ) from error
    listening: Deferred[Any] = server.listen(server_factory(reactor, tls, factory))
    return listening


def server_factory(reactor: Any, tls: Tls | None, factory: Any) -> Any:
    """Return ``factory``, wrapped in TLS if there are certificates: for sockets that already listen."""
    return factory if tls is None else tls.server_factory(reactor, factory)


def explain(error: Any, proved: bool) -> Any:
    """Return ``error``, or one of ours instead if it is OpenSSL's.

    Until the other side is ``proved``, an error about certificates is an ``AuthenticationError``: another attempt is pointless.
    """
    if type(error).__module__.partition(".")[0] != "OpenSSL":
        return error
    reasons = [str(entry[-1]) for entry in (error.args[0] if error.args and isinstance(error.args[0], list) else [])]
    known = [meaning for reason in reasons if (meaning := _MEANINGS.get(reason.replace("ssl/tls ", "sslv3 "))) is not None]
    if known and not proved:
        return AuthenticationError(f"TLS failed: {known[0]} ({', '.join(reasons)})")
    return ProtocolError(f"TLS failed: {', '.join(reasons) or error}")
