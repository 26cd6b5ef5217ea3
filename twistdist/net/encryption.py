"""TLS with OpenSSL.  Only :mod:`.tls` imports this module, since it needs the packages of an optional extra."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from zope.interface import implementer

from twistdist.config import others_may_read
from twistdist.errors import ConfigError, ProtocolError

#: The TLS alert "unexpected message", for a peer that does not speak TLS: OpenSSL itself would close without one.
_ALERT = b"\x15\x03\x03\x00\x02\x02\x0a"

_HANDSHAKE_RECORD = b"\x16"


class _Accepting(BufferingTLSTransport):
    """The listening side's TLS; it tells peers that send plain text why they are refused."""

    _begun = _plain = False

    def dataReceived(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            self._plain = data[:1] != _HANDSHAKE_RECORD
            if self._plain:
                inner: Any = self.wrappedProtocol
                inner.error = ProtocolError("the other side does not speak TLS")
                outer: Any = self.transport
                outer.write(_ALERT)
                outer.loseConnection()
        if not self._plain:
            super().dataReceived(data)  # type: ignore[no-untyped-call]


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class Tls:
    """The certificates in ``directory``: ``ca.pem``, ``cert.pem`` and ``key.pem``, read once.

    Raises ``ConfigError`` if one of them is missing, or if others can read the key or it does not belong to the certificate.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        folder = pathlib.Path(directory).absolute()
        self.directory = str(folder)
        ca, certificate, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        try:
            for file in (ca, certificate, key):
                file.read_bytes()
            shared = others_may_read(key)
        except OSError as error:
            raise ConfigError(
                f"the certificates in {folder} can't be read ({error}); twistdist certs {folder} makes them"
            ) from None
        if shared:
            raise ConfigError(f"the key {key} can be read by others; run: chmod 600 {key}")
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_TICKET | getattr(SSL, "OP_NO_RENEGOTIATION", 0))
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        try:
            context.load_verify_locations(str(ca))
            context.use_certificate_chain_file(str(certificate))
            context.use_privatekey_file(str(key))
            context.check_privatekey()
        except SSL.Error as error:
            reasons = ", ".join(str(entry[-1]) for entry in error.args[0]) if error.args else "not PEM"
            raise ConfigError(f"the certificates in {folder} can't be used: {reasons}") from None
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        """For Twisted."""
        return SSL.Connection(self._context, None)

    clientConnectionForTLS = serverConnectionForTLS

    def server_factory(self, reactor: Any, factory: Any) -> TLSMemoryBIOFactory:
        """Return ``factory`` wrapped in TLS, for any listening stream socket."""
        wrapped = self._wrap(False, reactor, factory)
        wrapped.protocol = _Accepting
        return wrapped

    def client_factory(self, reactor: Any, factory: Any) -> TLSMemoryBIOFactory:
        """Return ``factory`` wrapped in TLS, for the dialing side."""
        return self._wrap(True, reactor, factory)

    def _wrap(self, client: bool, reactor: Any, factory: Any) -> TLSMemoryBIOFactory:
        creator: Any = self
        return TLSMemoryBIOFactory(creator, client, factory, reactor)  # without a clock it would use the global reactor
