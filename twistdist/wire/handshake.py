"""Mutual proof of a shared secret, in fixed-size binary blocks, before anything is parsed.

::

    server -> client   MAGIC, version (2 bytes), server nonce (32)
    client -> server   MAGIC, version (2 bytes), client nonce (32)      immediately, so that a side that speaks TLS notices
    client -> server   HMAC-SHA256("client", …)
    server -> client   b"+", HMAC-SHA256("server", …)      or one byte b"-" / b"v", and the connection closes

Versions may differ: the newer side knows the older one, and decides.  Each side refuses only what is too old for itself; the
lower version is the one that both use.  Both HMACs cover the side's label, both versions and both nonces, so neither can be
replayed on another connection or reflected to its sender (the challenge-response of RFC 2195 made mutual, with the HMAC of
RFC 2104).
"""

from __future__ import annotations

import hashlib
import hmac

from twistdist.errors import AuthenticationError, ProtocolError, VersionMismatch
from twistdist.wire.messages import OLDEST_VERSION, PROTOCOL_VERSION

MAGIC = b"twistdist\n"
NONCE_BYTES = 32
_MAC_BYTES = 32
_BANNER = len(MAGIC) + 2 + NONCE_BYTES
_PROOF = _BANNER + _MAC_BYTES
ACCEPT, WRONG_SECRET, WRONG_VERSION = b"+", b"-", b"v"

#: The first byte of a TLS connection: an alert or a handshake.
TLS_RECORDS = (b"\x15", b"\x16")


def _mac(secret: bytes, side: bytes, server_banner: bytes, client_banner: bytes) -> bytes:
    return hmac.new(secret, side + server_banner + client_banner, hashlib.sha256).digest()


def _banner(nonce: bytes, version: int) -> bytes:
    return MAGIC + version.to_bytes(2, "big") + nonce


def _version_of(banner: bytes) -> int:
    return int.from_bytes(banner[len(MAGIC) : len(MAGIC) + 2], "big")


def _check_magic(got: bytes) -> None:
    if got[:1] in TLS_RECORDS:
        raise AuthenticationError(
            "the other side speaks TLS, but this side does not; give the folder of certificates (--tls DIR, tls=DIR or "
            "TWISTDIST_TLS) and write the address as tls:host:port"
        )
    if not MAGIC.startswith(got[: len(MAGIC)]):
        raise ProtocolError("the other side does not speak the protocol of twistdist")


class ServerHandshake:
    """The accepting side.  ``feed`` it received bytes, and send what it returns; ``done`` when the client has proved itself.

    ``version`` is its own, and after the handshake that which both sides use; it refuses those below ``oldest``.
    """

    def __init__(self, secret: bytes, nonce: bytes, version: int = PROTOCOL_VERSION, oldest: int = OLDEST_VERSION) -> None:
        self._secret, self.version, self._oldest = secret, version, oldest
        self._banner = _banner(nonce, version)
        self._got = b""
        self.done = False

    def start(self) -> bytes:
        """Return what the server sends first."""
        return self._banner

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Process received bytes.  After an error, send what ``refusal`` returns for it.

        Returns:
            (bytes to send, bytes left over after the handshake).

        Raises:
            ProtocolError: the other side does not speak this protocol.
            VersionMismatch: it speaks another version.
            AuthenticationError: it does not know the secret, or speaks TLS.
        """
        got, self._got = self._got + data, b""
        _check_magic(got)
        if len(got) < _PROOF:
            self._got = got
            return b"", b""
        banner, mac = got[:_BANNER], got[_BANNER:_PROOF]
        theirs = _version_of(banner)
        if theirs < self._oldest:
            raise VersionMismatch(
                f"the client speaks version {theirs} of the protocol, this side {self._oldest} to {self.version}"
            )
        if not hmac.compare_digest(mac, _mac(self._secret, b"client", self._banner, banner)):
            raise AuthenticationError("the client does not know the secret")
        self.done = True
        self.version = min(self.version, theirs)
        return ACCEPT + _mac(self._secret, b"server", self._banner, banner), got[_PROOF:]

    @staticmethod
    def refusal(error: Exception) -> bytes:
        """Return the one byte that tells an honest client what was wrong."""
        return WRONG_VERSION if isinstance(error, VersionMismatch) else WRONG_SECRET


class ClientHandshake:
    """The dialing side, used like :class:`ServerHandshake`; ``done`` when the server has proved itself."""

    def __init__(self, secret: bytes, nonce: bytes, version: int = PROTOCOL_VERSION, oldest: int = OLDEST_VERSION) -> None:
        self._secret, self.version, self._oldest = secret, version, oldest
        self._banner = _banner(nonce, version)
        self._server = b""
        self._got = b""
        self.done = False

    def start(self) -> bytes:
        """Return what the client sends first."""
        return self._banner

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Return (bytes to send, bytes left over).  Raises the same errors as :meth:`ServerHandshake.feed`."""
        self._got += data
        proof = b"" if self._server else self._read_banner()
        return proof, self._read_verdict() if self._server else b""

    def _read_banner(self) -> bytes:
        _check_magic(self._got)
        if len(self._got) < _BANNER:
            return b""
        self._server, self._got = self._got[:_BANNER], self._got[_BANNER:]
        theirs = _version_of(self._server)
        if theirs < self._oldest:
            raise VersionMismatch(
                f"the other side speaks version {theirs} of the protocol, this side {self._oldest} to {self.version}; "
                "install a later twistdist there"
            )
        return _mac(self._secret, b"client", self._server, self._banner)

    def _read_verdict(self) -> bytes:
        verdict = self._got[:1]
        if verdict == WRONG_VERSION:
            raise VersionMismatch(
                "the other side refuses our version of the protocol as too old; install a later twistdist here"
            )
        if verdict == WRONG_SECRET:
            raise AuthenticationError("the other side says that our secret is wrong; compare the secret files of both sides")
        if verdict not in (b"", ACCEPT):
            raise ProtocolError("the other side does not speak the protocol of twistdist")
        if len(self._got) < 1 + _MAC_BYTES:
            return b""
        mac, left, self._got = self._got[1 : 1 + _MAC_BYTES], self._got[1 + _MAC_BYTES :], b""
        if not hmac.compare_digest(mac, _mac(self._secret, b"server", self._server, self._banner)):
            raise AuthenticationError("the other side does not know our secret, so it is not our cluster")
        self.done = True
        self.version = min(self.version, _version_of(self._server))
        return left
