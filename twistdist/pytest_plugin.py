"""Fixtures for pytest: a cluster of one test, its client, and faults in it.  docs/chaos.rst describes them.

pytest imports this module at each start, so it imports nothing else of twistdist until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from twistdist.blocking import Client, LocalCluster
    from twistdist.chaos.fixtures import Chaos

#: Arguments of ``@pytest.mark.chaos``.
_ARGUMENTS = ("seed", "rate", "faults")

_CHAOS = pytest.StashKey["Chaos"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("twistdist")
    group.addoption("--chaos-seed", type=int, metavar="N", help="seed of faults in all tests with the fixture chaos")
    group.addoption("--chaos-rate", type=float, metavar="RATE", help="faults per second in all tests with the fixture chaos")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "twistdist_cluster(**options): options of the LocalCluster of the same name")
    config.addinivalue_line("markers", "chaos(seed, rate, faults): inject faults from the start of the test")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = getattr(item, "fixturenames", None)
        if names is not None and item.get_closest_marker("chaos") is not None and "chaos" not in names:
            names.append("chaos")


def _marked(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    """Return the arguments of the marker ``chaos``; None if there is none."""
    marker = request.node.get_closest_marker("chaos")
    if marker is None:
        return None
    unknown = [name for name in marker.kwargs if name not in _ARGUMENTS]
    if marker.args or unknown:
        raise pytest.UsageError(f"@pytest.mark.chaos takes the keywords {', '.join(_ARGUMENTS)}")
    return dict(marker.kwargs)


@pytest.fixture
def twistdist_cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """A ``twistdist.blocking.LocalCluster`` of this test, with two workers.

    ``@pytest.mark.twistdist_cluster(n_workers=…)`` gives it other options.  In a test with the fixture or marker ``chaos``, its
    connections can be cut, and each worker behaves as if it were on a machine of its own.
    """
    from twistdist.blocking import LocalCluster

    marker = request.node.get_closest_marker("twistdist_cluster")
    if marker is not None and marker.args:
        raise pytest.UsageError("@pytest.mark.twistdist_cluster takes the options of LocalCluster as keywords")
    options: dict[str, Any] = {"n_workers": 2, **(marker.kwargs if marker is not None else {})}
    if "chaos" not in request.fixturenames:
        with LocalCluster(**options) as cluster:
            yield cluster
        return
    from twistdist.chaos.fixtures import cluster_for

    with cluster_for((_marked(request) or {}).get("faults"), options) as cluster:
        yield cluster


@pytest.fixture
def twistdist_client(twistdist_cluster: LocalCluster) -> Iterator[Client]:
    """A ``twistdist.blocking.Client`` of ``twistdist_cluster``."""
    from twistdist.blocking import Client

    with Client(twistdist_cluster) as client:
        client.wait_for_workers(len(twistdist_cluster.workers), timeout=60)
        yield client


@pytest.fixture
def chaos(request: pytest.FixtureRequest, twistdist_cluster: LocalCluster) -> Iterator[Chaos]:
    """Faults in ``twistdist_cluster``: ``chaos.start(seed=…, rate=…, faults=…)`` and ``chaos.stop()``.

    With ``@pytest.mark.chaos(…)`` they begin before the test does.  They end with the test.
    """
    from twistdist.chaos.cluster import ChaosCluster
    from twistdist.chaos.fixtures import Chaos

    if not isinstance(twistdist_cluster, ChaosCluster):
        raise pytest.UsageError("the fixture chaos must be an argument of the test, or be named with @pytest.mark.usefixtures")
    option = request.config.getoption
    with Chaos(twistdist_cluster, option("--chaos-seed"), option("--chaos-rate")) as faults:
        request.node.stash[_CHAOS] = faults
        marked = _marked(request)
        if marked is not None:
            faults.start(**marked)
        yield faults


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    faults = item.stash.get(_CHAOS, None)
    if faults is not None and report.failed and call.when != "setup":
        report.sections.append(("twistdist chaos", str(faults)))
