"""Makes a private CA and a certificate for the roles of a cluster, for ``twistdist certs``."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import pathlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twistdist.errors import ConfigError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

#: Days that certificates are valid, and days by which they are backdated, since clocks differ.
VALID_DAYS, EARLY_DAYS = 3650, 1

#: Hosts that every certificate contains in addition to the named ones.
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def make_certificates(directory: str | os.PathLike[str], hosts: Sequence[str] = ()) -> bool:
    """Write ``cert.pem`` and ``key.pem`` for ``hosts`` into ``directory``.

    If ``ca.pem`` and ``ca-key.pem`` do not exist there, they are made first.

    Returns:
        True if a new CA was created.

    Raises:
        ConfigError: The folder has only some of these files, they are damaged or do not belong together, a host is invalid, the
            files can't be written, or the package cryptography is not installed.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise ConfigError("the package cryptography is not installed; run: pip install 'twistdist[tls]'") from None
    folder = pathlib.Path(directory)
    try:
        names = _alternative_names(hosts)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = {name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem") if os.path.lexists(folder / name)}
        if "ca.pem" in there and "ca-key.pem" in there:
            ca, ca_key = _load_ca(folder)
        elif there:
            missing = "ca-key.pem" if "ca.pem" in there else "ca.pem"
            raise ConfigError(f"{folder} has {', '.join(sorted(there))} but no {missing}; name a folder with both or neither")
        else:
            ca, ca_key = _make_ca(folder)
        _make_leaf(folder, names, ca, ca_key)
    except OSError as error:
        raise ConfigError(f"certificates can't be written to {folder}: {error.strerror or error}") from None
    return not there


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    from cryptography import x509

    names: list[x509.GeneralName] = []
    for host in dict.fromkeys([*hosts, *LOCAL_HOSTS]):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not host.isascii() or not host or any(not (c.isalnum() or c in "-._*") for c in host):
                raise ConfigError(f"{host!r} is neither a host name nor an IP address") from None
            names.append(x509.DNSName(host))
    return names


def _load_ca(folder: pathlib.Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if (folder / "ca-key.pem").stat().st_mode & 0o077:
        raise ConfigError(f"the CA's key can be read by others; run: chmod 600 {folder / 'ca-key.pem'}")
    try:
        ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
        is_ca = ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise ConfigError(f"the CA in {folder} can't be used: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key() or not is_ca:
        raise ConfigError(f"ca.pem and ca-key.pem in {folder} do not belong together")
    if ca.not_valid_after_utc <= datetime.datetime.now(datetime.timezone.utc):
        raise ConfigError(f"the CA in {folder} has expired; make a new one in an empty folder")
    return ca, key


def _make_ca(folder: pathlib.Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"twistdist CA {secrets.token_hex(8)}")
    builder = _builder(name, name, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    ca = _sign(builder, _usage(ca=True), key, key)
    _write(folder / "ca-key.pem", _key_bytes(key), 0o600)
    _write(folder / "ca.pem", _certificate_bytes(ca), 0o644)
    return ca, key


def _make_leaf(
    folder: pathlib.Path, names: list[x509.GeneralName], ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = (
        _builder(_name("twistdist"), ca.subject, key, ca.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(both, critical=False)
    )
    certificate = _sign(builder, _usage(ca=False), key, ca_key)
    _write(folder / "key.pem", _key_bytes(key), 0o600)
    _write(folder / "cert.pem", _certificate_bytes(certificate), 0o644)


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime.datetime | None = None
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.timezone.utc)
    last = now + datetime.timedelta(days=VALID_DAYS)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=EARLY_DAYS))
        .not_valid_after(last if end is None else min(last, end))
    )


def _usage(ca: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(
    builder: x509.CertificateBuilder, usage: x509.KeyUsage, key: ec.EllipticCurvePrivateKey, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    return (
        builder.add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as s

    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())


def _certificate_bytes(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    found: bytes = certificate.public_bytes(Encoding.PEM)
    return found


def _write(file: pathlib.Path, content: bytes, mode: int) -> None:
    """Write the whole file or nothing; it is never readable by anyone whom ``mode`` excludes."""
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
        os.replace(fresh, file)
    except BaseException:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
