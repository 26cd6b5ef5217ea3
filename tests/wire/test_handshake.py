"""Both sides prove the secret, or learn nothing."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twistdist.errors import AuthenticationError, ProtocolError, VersionMismatch
from twistdist.wire.handshake import ClientHandshake, ServerHandshake

SECRET = b"0123456789abcdef"


def meet(server_secret=SECRET, client_secret=SECRET, server_versions=(1, 1), client_versions=(1, 1)):
    """Each side is given its version, and the oldest that it works with."""
    server = ServerHandshake(server_secret, b"s" * 32, *server_versions)
    client = ClientHandshake(client_secret, b"c" * 32, *client_versions)
    proof, _ = client.feed(server.start())
    answer, left = server.feed(client.start() + proof + b"more")
    assert left == b"more"
    client.feed(answer + b"rest")
    return server, client


def test_the_same_secret():
    server, client = meet()
    assert server.done and client.done


def test_byte_by_byte():
    server, client = ServerHandshake(SECRET, b"s" * 32), ClientHandshake(SECRET, b"c" * 32)
    proof = client.start() + b"".join(client.feed(bytes([byte]))[0] for byte in server.start())
    answer = b"".join(server.feed(bytes([byte]))[0] for byte in proof)
    for byte in answer:
        client.feed(bytes([byte]))
    assert server.done and client.done


def test_a_client_with_another_secret_is_refused():
    with pytest.raises(AuthenticationError, match="client does not know"):
        meet(client_secret=b"another secret ..")


def test_a_server_with_another_secret_is_found_out():
    client = ClientHandshake(SECRET, b"c" * 32)
    client.feed(ServerHandshake(b"x" * 16, b"s" * 32).start())
    with pytest.raises(AuthenticationError, match="not our cluster"):
        client.feed(b"+" + bytes(32))


@pytest.mark.parametrize(("server", "client", "used"), [((3, 2), (2, 1), 2), ((2, 1), (3, 2), 2), ((3, 2), (3, 2), 3)])
def test_neighbouring_versions_work_together(server, client, used):
    assert [side.version for side in meet(server_versions=server, client_versions=client)] == [used, used]


def test_a_version_that_is_too_old_is_told_on_both_sides():
    with pytest.raises(VersionMismatch, match="the client speaks version 1 of the protocol, this side 2 to 3"):
        meet(server_versions=(3, 2))
    with pytest.raises(VersionMismatch, match=r"the other side speaks version 1 .* a later twistdist there"):
        meet(client_versions=(3, 2))
    client = ClientHandshake(SECRET, b"c" * 32)
    client.feed(ServerHandshake(SECRET, b"s" * 32, 3, 2).start())
    with pytest.raises(VersionMismatch, match="a later twistdist here"):
        client.feed(b"v")


def test_a_proof_can_not_be_played_back_to_another_connection():
    client = ClientHandshake(SECRET, b"c" * 32)
    proof, _ = client.feed(ServerHandshake(SECRET, b"s" * 32).start())
    with pytest.raises(AuthenticationError):
        ServerHandshake(SECRET, b"t" * 32).feed(client.start() + proof)


def test_a_proof_can_not_be_reflected():
    server = ServerHandshake(SECRET, b"s" * 32)
    with pytest.raises(AuthenticationError):
        server.feed(server.start() + bytes(32))


def test_tls_is_told_from_garbage():
    with pytest.raises(AuthenticationError, match="speaks TLS"):
        ClientHandshake(SECRET, b"c" * 32).feed(b"\x15\x03\x03\x00\x02\x02\x46")
    with pytest.raises(AuthenticationError, match="speaks TLS"):
        ServerHandshake(SECRET, b"s" * 32).feed(b"\x16\x03\x01")


@given(st.binary(min_size=1, max_size=500))
def test_garbage_ends_in_a_protocol_error_or_waits(data):
    for side in (ServerHandshake(SECRET, b"s" * 32), ClientHandshake(SECRET, b"c" * 32)):
        with contextlib.suppress(ProtocolError, AuthenticationError, VersionMismatch):
            side.feed(data)
        assert not side.done


@pytest.mark.parametrize(("verdict", "error"), [(b"-", AuthenticationError), (b"v", VersionMismatch), (b"?", ProtocolError)])
def test_a_verdict_that_comes_with_the_banner_is_heard(verdict, error):
    with pytest.raises(error):
        ClientHandshake(SECRET, b"c" * 32).feed(ServerHandshake(SECRET, b"s" * 32).start() + verdict)
