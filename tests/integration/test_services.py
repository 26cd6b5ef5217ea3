"""Clients in Twisted applications: a client as a service, endpoints as addresses."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import pytest_twisted
from twisted.application.service import Application, IService, IServiceCollection, MultiService
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint

import twistdist
from twistdist import errors
from twistdist.blocking import Client


def endpoint(cluster):
    _, host, port = cluster.address.split(":")
    return TCP4ClientEndpoint(reactor, host, int(port))


@pytest_twisted.ensureDeferred
async def test_a_client_starts_and_stops_with_its_application(cluster):
    application = Application("mine")
    client = twistdist.Client(reactor, cluster.address, session="of-a-service")
    assert IService.providedBy(client)
    client.setServiceParent(application)
    with pytest.raises(errors.TwistdistError, match="was not started"):
        client.submit(abs, -1)
    service = IService(application)
    service.startService()
    try:
        assert await client.submit(pow, 2, 5).result() == 32  # given before there was a connection
        assert client.running and list(IServiceCollection(application)) == [client]
    finally:
        await client.end_session()
        await service.stopService()
    assert not client.running
    with pytest.raises(errors.TwistdistError, match="create another client"):
        client.startService()


@pytest_twisted.ensureDeferred
async def test_a_connected_client_may_be_given_to_an_application(cluster):
    client = await twistdist.connect(reactor, endpoint(cluster))
    parent = MultiService()
    parent.startService()
    client.setServiceParent(parent)
    assert await client.submit(abs, -1).result() == 1
    await parent.stopService()
    with pytest.raises(errors.ClientClosed):
        await client.status()


@pytest_twisted.ensureDeferred
async def test_a_cluster_and_its_client_in_one_application():
    parent = MultiService()
    cluster = twistdist.LocalCluster(reactor, n_workers=1)
    client = twistdist.Client(reactor, cluster)
    cluster.setServiceParent(parent)
    client.setServiceParent(parent)
    parent.startService()
    assert await client.submit(abs, -3).result() == 3
    await parent.stopService()


@pytest_twisted.ensureDeferred
async def test_endpoints_are_addresses(cluster):
    _, _, port = cluster.address.split(":")
    for address in (endpoint(cluster), HostnameEndpoint(reactor, "localhost", int(port))):
        client = await twistdist.connect(reactor, address)
        assert (await client.submit(abs, -2).result() == 2 and str(port) in client.address) or "Endpoint" in client.address
        await client.close()
    with pytest.raises(TypeError, match="an endpoint"):
        twistdist.connect(reactor, 7)
    with pytest.raises(TypeError, match="belongs to a reactor"):
        Client(endpoint(cluster))


def test_a_stopped_service_that_was_never_started_does_nothing():
    client = twistdist.Client(reactor, "tcp:127.0.0.1:1")
    assert client.stopService().called
    with pytest.raises(ValueError):
        twistdist.Client(reactor, session="")


def test_names_of_other_frameworks_say_ours(cluster):
    with Client(cluster.address) as client:
        for asked in (client, client._session):
            with pytest.raises(AttributeError, match=r"scheduler_info': use status\(\)"):
                asked.scheduler_info()
            with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
                _ = asked.nonsense
            assert not hasattr(asked, "_ipython_display_")


def test_a_tac_file_under_twistd(cluster, tmp_path):
    (tmp_path / "app.tac").write_text(
        textwrap.dedent(f"""
        import twistdist
        from twisted.application import service
        from twisted.internet import reactor

        application = service.Application("mine")
        client = twistdist.Client(reactor, {cluster.address!r})
        client.setServiceParent(application)

        async def work():
            print("the value is", await client.submit(pow, 2, 10).result(), flush=True)
            reactor.stop()

        from twisted.internet.defer import ensureDeferred
        reactor.callWhenRunning(lambda: ensureDeferred(work()))
        """)
    )
    done = subprocess.run(
        [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-ny", "app.tac", "--pidfile="],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "the value is 1024" in done.stdout and done.returncode == 0, done.stderr
