"""The plugin of pytest, in real runs of pytest."""

from __future__ import annotations

import importlib.metadata

import pytest

pytestmark = pytest.mark.slow
pytest_plugins = ["pytester"]

WORK = """
    import time
    import pytest
    from twistdist.blocking import Client, LocalCluster

    def slow(i):
        time.sleep(0.05)
        return bytes([i]) * 20_000

    def work(client, count=60):
        parts = client.map(slow, range(count), crash_limit=50)
        return sum(client.gather(client.map(sum, [parts[i] for i in range(count)], crash_limit=50)))

    RIGHT = 20_000 * sum(range(60))
"""


@pytest.fixture
def run(pytester):
    installed = [entry.name for entry in importlib.metadata.entry_points(group="pytest11")]
    words = () if "twistdist" in installed else ("-p", "twistdist.pytest_plugin")

    def run(text, *more):
        pytester.makepyfile(WORK + text)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers", *words, *more, timeout=300)

    return run


def test_the_cluster_and_its_client(run):
    result = run(
        """
    def test_default(twistdist_cluster, twistdist_client):
        assert type(twistdist_cluster) is LocalCluster and len(twistdist_cluster.workers) == 2
        assert twistdist_client.submit(pow, 2, 5).result(60) == 32

    @pytest.mark.twistdist_cluster(n_workers=1, slots=3, resources={"GPU": 1})
    def test_options(twistdist_client):
        [worker] = twistdist_client.workers().values()
        assert worker.slots == 3
        assert twistdist_client.submit(pow, 2, 5, resources={"GPU": 1}).result(60) == 32

    @pytest.mark.twistdist_cluster(3)
    def test_positional(twistdist_cluster):
        pass
    """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*takes the options of LocalCluster as keywords*"])


def test_faults_from_the_start_and_by_hand(run):
    result = run(
        """
    @pytest.mark.chaos(seed=3, rate=1, faults=["kill", "cut"])
    def test_marked(twistdist_client):
        assert work(twistdist_client) == RIGHT

    def test_by_hand(twistdist_client, chaos):
        assert not chaos.faults and chaos.seed is None and str(chaos) == "no fault was injected"
        chaos.start(seed=1, rate=1)
        with pytest.raises(RuntimeError, match="already"):
            chaos.start()
        assert work(twistdist_client) == RIGHT
        chaos.stop()
        chaos.stop()
        count = dict(chaos.faults)
        assert sum(count.values()) > 0 and chaos.seed == 1 and chaos.rate == 1
        assert twistdist_client.submit(pow, 2, 5).result(60) == 32
        assert chaos.faults == count and chaos.counts.done > 0
        chaos.start(seed=2, rate=0.3, faults=["lose"])
        assert work(twistdist_client) == RIGHT

    @pytest.mark.chaos(rate=5)
    def test_both(twistdist_client, chaos):
        assert chaos.seed is not None and chaos.rate == 5
        chaos.stop()

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.chaos(rate=5)
    def test_many(n, twistdist_client):
        assert twistdist_client.submit(pow, 2, n, crash_limit=50).result(60) == 2 ** n
    """
    )
    result.assert_outcomes(passed=5)


def test_a_failure_has_the_seed_and_the_faults(run):
    text = """
    @pytest.mark.chaos(seed=3, rate=10, faults=["stop"])
    def test_fails(twistdist_client, chaos):
        while not chaos.faults:
            time.sleep(0.01)
        assert 0

    def test_fails_without_faults(chaos):
        assert 0

    def test_fails_without_a_cluster():
        assert 0
    """
    result = run(text)
    result.assert_outcomes(failed=3)
    lines = [
        "*-- twistdist chaos --*",
        "seed 3, rate 10 per second, faults stop",
        "*--chaos-seed=3 --chaos-rate=10",
        "* s: stop *",
    ]
    result.stdout.fnmatch_lines(lines)
    result.stdout.fnmatch_lines(["no fault was injected"])
    result = run(text, "--chaos-seed=77", "--chaos-rate=20", "-k", "test_fails and not without")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["seed 77, rate 20 per second, faults stop"])


def test_a_passing_test_says_nothing(run):
    result = run(
        """
    def test_passes(chaos):
        chaos.start()
    """,
        "-rA",
    )
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*twistdist chaos*")


def test_bad_input(run):
    result = run(
        """
    @pytest.mark.chaos(speed=3)
    def test_keyword(twistdist_client): pass

    @pytest.mark.chaos(rate=-1)
    def test_rate(twistdist_client): pass

    @pytest.mark.chaos(faults=["boil"])
    def test_kind(twistdist_client): pass

    @pytest.mark.chaos
    @pytest.mark.twistdist_cluster(journal="none")
    def test_journal(twistdist_client): pass

    def test_dynamic(twistdist_cluster, request):
        request.getfixturevalue("chaos")

    def test_disk(chaos):
        with pytest.raises(ValueError, match="mark.chaos"):
            chaos.start(faults=["disk"])
    """
    )
    result.assert_outcomes(passed=1, errors=4, failed=1)
    for text in (
        "*takes the keywords seed, rate, faults*",
        "*rate must be above 0*",
        "*'boil'*",
        "*needs a journal*",
        "*argument of the test*",
    ):
        result.stdout.fnmatch_lines([text])
