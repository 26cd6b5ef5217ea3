"""Certificates, addresses, and what errors of TLS mean."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import ssl
import stat
import subprocess
import sys
import warnings
from functools import partial

import pytest
import pytest_twisted
from cryptography import x509
from OpenSSL import SSL
from twisted.internet import defer, reactor

from twistdist import cli
from twistdist.errors import AuthenticationError, ConfigError, ProtocolError
from twistdist.net import bulk, transfer
from twistdist.net.bulk import BulkFetcher, BulkServer
from twistdist.net.certs import make_certificates
from twistdist.net.connection import ClientFactory, ServerFactory
from twistdist.net.hosts import address_of, refuse_open_listening
from twistdist.net.tls import dial, dialing_side, explain, listen, load
from twistdist.net.transfer import MemorySink
from twistdist.storage.files import file_path, read_file, write_file
from twistdist.storage.store import IncomingFile, Store
from twistdist.wire.messages import Put, Stored

SECRET = b"0123456789abcdef"


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls") / "certs"
    make_certificates(folder, ["node-1.example", "10.1.2.3"])
    return folder


@pytest.fixture(scope="module")
def other_certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls") / "certs"
    make_certificates(folder)
    return folder


def read(file):
    return x509.load_pem_x509_certificate(file.read_bytes())


# ---- twistdist certs -----------------------------------------------------------------------------


def test_certificates_as_a_strict_verifier_wants_them(certs):
    ca, leaf = read(certs / "ca.pem"), read(certs / "cert.pem")
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-1.example", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(one) for one in ("10.1.2.3", "127.0.0.1", "::1")]
    assert leaf.not_valid_after_utc <= ca.not_valid_after_utc
    assert ca.not_valid_after_utc > datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3600)
    for key in ("key.pem", "ca-key.pem"):
        assert stat.S_IMODE((certs / key).stat().st_mode) == 0o600
    # Python's own TLS, with host names and all the strictness there is.
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    for one in (server, client):
        one.load_cert_chain(certs / "cert.pem", certs / "key.pem")
        one.load_verify_locations(certs / "ca.pem")
        one.verify_mode = ssl.CERT_REQUIRED
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(a, b, server_hostname="node-1.example"), server.wrap_bio(b, a, server_side=True)]
    for _ in range(4):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[1].getpeercert() and ends[0].version() == "TLSv1.3"


def test_a_second_call_makes_a_new_certificate_of_the_same_ca(tmp_path, capsys):
    folder = tmp_path / "new" / "certs"
    assert cli.main(["certs", str(folder), "one.example"]) == 0
    assert "a new CA" in capsys.readouterr().out
    ca, first = (folder / "ca.pem").read_bytes(), (folder / "cert.pem").read_bytes()
    assert cli.main(["certs", str(folder), "two.example"]) == 0
    assert "kept the existing CA" in capsys.readouterr().out
    assert (folder / "ca.pem").read_bytes() == ca and (folder / "cert.pem").read_bytes() != first
    names = read(folder / "cert.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "two.example" in names.get_values_for_type(x509.DNSName)
    load(folder)
    assert sorted(os.listdir(folder)) == ["ca-key.pem", "ca.pem", "cert.pem", "key.pem"]


def spoil_key_mode(folder):
    (folder / "ca-key.pem").chmod(0o644)


def spoil_garbage(folder):
    (folder / "ca.pem").write_text("what is this\n")


def spoil_no_key(folder):
    (folder / "ca-key.pem").unlink()


def spoil_no_ca(folder):
    (folder / "ca.pem").unlink()


def spoil_leaf_as_ca(folder):
    (folder / "ca.pem").write_bytes((folder / "cert.pem").read_bytes())
    (folder / "ca-key.pem").write_bytes((folder / "key.pem").read_bytes())


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (spoil_key_mode, "chmod 600"),
        (spoil_garbage, "can't be used"),
        (spoil_no_key, "no ca-key.pem"),
        (spoil_no_ca, "no ca.pem"),
        (spoil_leaf_as_ca, "do not belong together"),
    ],
)
def test_nothing_odd_is_overwritten(tmp_path, capsys, spoil, text):
    folder = tmp_path / "certs"
    make_certificates(folder)
    spoil(folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert cli.main(["certs", str(folder)]) == 1
    assert text in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_impossible_places_and_hosts(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["certs", str(tmp_path / "file")]) == 1
    assert "can't be written" in capsys.readouterr().err
    assert cli.main(["certs", str(tmp_path / "x"), "not a host"]) == 1
    assert "neither a host name" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_without_the_packages_it_says_what_to_install(tmp_path, certs):
    code = (
        "import sys\n"
        "sys.modules.update({'OpenSSL': None, 'cryptography': None})\n"
        "from twistdist import cli, errors\n"
        f"assert cli.main(['certs', {str(tmp_path / 'c')!r}]) == 1\n"
        f"assert cli.main(['status', 'tls:127.0.0.1:1', '--tls', {str(certs)!r}]) == 1\n"
        "from twistdist.blocking import LocalCluster, Client\n"  # all the rest works
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pip install 'twistdist[tls]'") == 2


# ---- options and addresses -------------------------------------------------------------------------


def test_a_folder_that_can_not_be_used_is_refused(certs, other_certs, tmp_path):
    with pytest.raises(ConfigError, match="twistdist certs"):
        load(tmp_path)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_bytes((certs / name).read_bytes())
    for mode in (0o644, 0o660, 0o640):
        (tmp_path / "key.pem").chmod(mode)
        if mode == 0o640 and os.getuid() == 0:
            load(tmp_path)  # root's files may be readable by a group
            continue
        with pytest.raises(ConfigError, match="chmod 600"):
            load(tmp_path)
    (tmp_path / "key.pem").chmod(0o600)
    load(tmp_path)
    (tmp_path / "key.pem").write_bytes((other_certs / "key.pem").read_bytes())
    with pytest.raises(ConfigError, match="key values mismatch"):
        load(tmp_path)
    (tmp_path / "ca.pem").write_text("nothing\n")
    with pytest.raises(ConfigError, match="can't be used"):
        load(tmp_path)


def test_addresses_and_certificates(certs, monkeypatch):
    monkeypatch.delenv("TWISTDIST_TLS", raising=False)
    assert dialing_side("h:1", None) == ("tcp:h:1", None)
    assert dialing_side("h:1", certs)[0] == dialing_side("tls:h:1", certs)[0] == "tls:h:1"
    with pytest.raises(ConfigError, match="write tls:h:1"):
        dialing_side("tcp:h:1", certs)
    with pytest.raises(ConfigError, match="TWISTDIST_TLS"):
        dialing_side("tls:h:1", None)
    monkeypatch.setenv("TWISTDIST_TLS", str(certs))
    assert dialing_side("tls:h:1", None)[1].directory == str(certs)
    assert dialing_side("h:1", None)[0] == "tls:h:1"
    assert dialing_side("tcp:h:1", None) == ("tcp:h:1", None)  # that of a LocalCluster
    assert dialing_side("unix:/x", None) == ("unix:/x", None)


def test_listening_beyond_this_machine_needs_a_word():
    with pytest.raises(ConfigError, match=r"--tls DIR .* --plaintext"):
        refuse_open_listening(["tcp:8786"], False)
    with pytest.raises(ConfigError, match="needs certificates"):
        refuse_open_listening(["tls:8786:interface=127.0.0.1"], True)
    with pytest.raises(ConfigError, match="exclude"):
        refuse_open_listening(["tcp:8786"], True, True)
    refuse_open_listening(["tcp:8786", "tls:1:interface=10.0.0.1", "unix:/x"], False, True)
    refuse_open_listening([r"tcp:1:interface=\:\:1", "tcp:1:interface=127.0.0.1", "unix:/x"], False)


class Port:
    def __init__(self, host):
        self.host, self.port = host, 5

    def getHost(self):
        return self


def test_what_others_are_told():
    assert address_of(Port("10.0.0.1"), True) == "tls:10.0.0.1:5"
    assert address_of(Port("0.0.0.0")) == "tcp:127.0.0.1:5"
    assert address_of(Port("0.0.0.0"), True, anywhere="node") == "tls:node:5"
    assert address_of(Port("10.0.0.1"), True, "outside.example", "node") == "tls:outside.example:5"
    assert address_of(Port("::1")) == r"tcp:\:\:1:5"
    assert address_of(Port("::"), True, "fe80::2") == r"tls:fe80\:\:2:5"


def test_what_errors_mean():
    ssl_error = type("Error", (Exception,), {"__module__": "OpenSSL.SSL"})
    refused = ssl_error([("SSL routines", "", "tlsv13 alert certificate required")])
    assert isinstance(explain(refused, False), AuthenticationError)
    assert isinstance(explain(refused, True), ProtocolError)  # a proved peer's trouble is worth another try
    for odd in (ssl_error(), ssl_error([]), ssl_error("text"), ssl_error([("a", "b", "what else")])):
        assert isinstance(explain(odd, False), ProtocolError)
    assert explain(refused_too := ConnectionError(), False) is refused_too


@pytest.mark.parametrize("version", ["TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_old_versions_of_tls_are_refused(certs, version):
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(certs / "ca.pem")
    client.load_cert_chain(certs / "cert.pem", certs / "key.pem")
    client.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = client.maximum_version = ssl.TLSVersion[version]
    tls = load(certs)
    tls._context.set_cipher_list(b"DEFAULT@SECLEVEL=0")  # what the platform forbids by itself proves nothing
    server = tls.serverConnectionForTLS(None)
    server.set_accept_state()
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = client.wrap_bio(a, b, server_hostname="localhost")

    def shake():
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
            if b.pending:
                server.bio_write(b.read())
            with contextlib.suppress(SSL.WantReadError):
                server.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                a.write(server.bio_read(1 << 16))

    if version == "TLSv1_1":
        with pytest.raises(SSL.Error, match="unsupported protocol"):
            shake()
    else:
        shake()
        assert end.version() == server.get_protocol_version_name() == version.replace("_", ".")


# ---- connections -----------------------------------------------------------------------------------


class Party:
    """Owner of a connection: a Deferred of how it ends, or None once it is opened."""

    def __init__(self):
        self.ended = defer.Deferred()
        self.opened_one = None

    def opened(self, connection):
        self.opened_one = connection
        self.ended.callback(None)

    def closed(self, connection, error):
        if self.opened_one is None:
            self.ended.callback(error)


@defer.inlineCallbacks
def meet(server_tls, client_tls, client_secret=SECRET):
    """(how it ended for the client, and for the server)"""
    server, client = Party(), Party()
    factory = ServerFactory(reactor, server, SECRET)
    port = yield listen(reactor, "tcp:0:interface=127.0.0.1", server_tls and load(server_tls), factory)
    address = f"{'tls' if client_tls else 'tcp'}:127.0.0.1:{port.getHost().port}"
    connecting = dial(reactor, address, client_tls and load(client_tls), ClientFactory(reactor, client, client_secret))
    connecting.addErrback(lambda failure: None)
    ends = []
    for party in (client, server):
        party.ended.addTimeout(4, reactor)  # below the limit of a handshake: nothing of this waits for that
        ends.append((yield party.ended))
    for party in (client, server):
        if party.opened_one is not None:
            party.opened_one.transport.abortConnection()
    yield port.stopListening()
    return ends


@pytest_twisted.inlineCallbacks
def test_two_of_one_ca(certs):
    assert (yield meet(certs, certs)) == [None, None]


class Idle:
    """A producer that has nothing to say, as the scheduler's valves."""

    def pauseProducing(self):
        pass

    resumeProducing = stopProducing = pauseProducing


@pytest_twisted.inlineCallbacks
def test_a_connection_with_a_producer_can_be_closed_and_failed_afterwards(certs):
    server, client = Party(), Party()
    gone = [defer.Deferred(), defer.Deferred()]
    for party, deferred in zip((client, server), gone, strict=True):
        party.closed = lambda connection, error, deferred=deferred: deferred.callback(type(error).__name__)
    port = yield listen(reactor, "tcp:0:interface=127.0.0.1", load(certs), ServerFactory(reactor, server, SECRET))
    yield dial(reactor, address_of(port, True), load(certs), ClientFactory(reactor, client, SECRET))
    yield defer.gatherResults([client.ended, server.ended])
    server.opened_one.transport.registerProducer(Idle(), True)
    server.opened_one.close()
    for deferred in gone:
        deferred.addTimeout(4, reactor)
    assert (yield defer.gatherResults(gone)) == ["ConnectionDone"] * 2
    server.opened_one.fail(ProtocolError("too late to matter"))
    yield port.stopListening()


@pytest_twisted.inlineCallbacks
def test_two_cas(certs, other_certs, tmp_path):
    client, server = yield meet(certs, other_certs)
    assert isinstance(client, AuthenticationError) and "not issued by our CA" in str(client)
    assert "refuses our certificate" in str(server)
    # A client that trusts the server's CA, and has a certificate of another.
    (tmp_path / "ca.pem").write_bytes((certs / "ca.pem").read_bytes())
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_bytes((other_certs / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    client, server = yield meet(certs, tmp_path)
    assert isinstance(client, AuthenticationError) and "issued by another CA" in str(client)
    assert isinstance(server, AuthenticationError) and "not issued by our CA" in str(server)


@pytest_twisted.inlineCallbacks
def test_the_right_certificate_and_a_wrong_secret(certs):
    client, server = yield meet(certs, certs, b"another secret ..")
    assert isinstance(client, AuthenticationError) and "secret is wrong" in str(client)
    assert isinstance(server, AuthenticationError)


@pytest_twisted.inlineCallbacks
def test_plain_text_meets_tls(certs):
    client, server = yield meet(certs, None)
    assert isinstance(client, AuthenticationError) and "speaks TLS, but this side does not" in str(client)
    assert "does not speak TLS" in str(server)
    client, server = yield meet(None, certs)
    assert isinstance(client, AuthenticationError) and "does not speak TLS" in str(client)
    assert "speaks TLS" in str(server)


@pytest_twisted.inlineCallbacks
def test_an_address_that_needs_certificates_without_any():
    with pytest.raises(ConfigError):
        yield dial(reactor, "tls:127.0.0.1:1", None, None)


@pytest_twisted.inlineCallbacks
def test_files_over_tls_both_ways_and_never_straight_on_the_socket(certs, tmp_path, monkeypatch):
    tls = load(certs)
    store, mine, taken = Store(str(tmp_path / "theirs")), Store(str(tmp_path / "mine")), []
    server = BulkServer(reactor, store, "here", taken.append)
    port = yield listen(reactor, "tcp:0:interface=127.0.0.1", tls, ServerFactory(reactor, server, SECRET))
    address, fetcher = address_of(port, True), BulkFetcher(reactor, SECRET, tls)
    for module in (bulk, transfer):
        monkeypatch.setattr(module, "own_socket", lambda connection: pytest.fail("a thread would write plain text"))
    try:
        contents = {n: os.urandom(size) for n, size in enumerate([0, 1, 5_000, 262_145, 3_000_000, 700_000] * 3, start=1)}
        stored = {n: Stored(1, n, *write_file(store.path, 1, n, [data])) for n, data in contents.items()}
        yield defer.gatherResults(
            [fetcher.fetch([address], n, partial(IncomingFile, mine, one)) for n, one in stored.items()], consumeErrors=True
        )
        for n, data in contents.items():
            assert bytes(read_file(file_path(mine.path, n), n)) == data
        sink = yield fetcher.fetch([address], 5, lambda: MemorySink(stored[5].size, stored[5].digest))
        assert sink.data == contents[5]
        size, digest = write_file(mine.path, 1, 99, [contents[5], contents[4]])
        with open(file_path(mine.path, 99), "rb", buffering=0) as stream:
            yield fetcher.put(address, Put(Stored(1, 99, size, digest), "elsewhere", "/nowhere"), stream)
        assert [one.attempt for one in taken] == [99]
        assert bytes(read_file(file_path(store.path, 99), 99)) == contents[5] + contents[4]
    finally:
        fetcher.close()
        server.close()
        yield port.stopListening()
        store.destroy()
        mine.destroy()
