"""Workers as jobs of a real Slurm."""

from __future__ import annotations

import os
import pathlib
import secrets
import shlex
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest
from twisted.internet.defer import DeferredList, ensureDeferred

from tests.clusters.slurm import slurm  # noqa: F401
from tests.integration.habits import lines, note, until
from twistdist.blocking import Client, SlurmCluster, wait
from twistdist.blocking.reactor_thread import get_reactor_thread
from twistdist.clusters.engine import Job
from twistdist.clusters.slurm import SlurmEngine
from twistdist.errors import TwistdistError

pytestmark = pytest.mark.slow


def do(coroutine):
    return get_reactor_thread().call(lambda: ensureDeferred(coroutine), 120)


def all_of(*coroutines):
    """Run coroutines at the same time; return the outcome of each, a value or a Failure."""
    outcomes = get_reactor_thread().call(lambda: DeferredList(map(ensureDeferred, coroutines), consumeErrors=True), 120)
    return [outcome for _, outcome in outcomes]


class Scheduler:
    """A scheduler in a process of its own, with a journal."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "twistdist.tap", "scheduler", "--listen", "tcp:0:interface=127.0.0.1"]
        self._process = subprocess.Popen([*command, "--journal", f"{folder}/journal.sqlite"], stdout=subprocess.PIPE, text=True)
        self.address = self._process.stdout.readline().split()[-1]

    def stop(self):
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture
def scheduler(tmp_path):
    scheduler = Scheduler(tmp_path)
    yield scheduler
    scheduler.stop()


@pytest.fixture
def opened(slurm, tmp_path):  # noqa: F811
    """Makes engines that are open; their jobs end with the test."""
    engines = []

    def make(**options):
        engine = SlurmEngine(**{"folder": tmp_path / "slurm", **options})
        do(engine.open(get_reactor_thread().reactor, f"test-{secrets.token_hex(4)}"))
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        left = [line.split("|")[0] for line in slurm.jobs() if engine.job_name in line]
        if left:
            do(engine.end(left))
        do(engine.close())


def worker(name, scheduler, *options):
    secret = pathlib.Path(os.environ["TWISTDIST_SECRET_FILE"]).read_bytes()
    words = (scheduler.address, "--name", name, "--slots", "1", "--secret-file", "{folder}/secret", *options)
    return Job(name, "worker", words, {"secret": secret})


def state(engine, id):
    return do(engine.look([id])).get(id)


def until_ended(engine, id, seconds=60):
    until(lambda: state(engine, id).phase == "ended", seconds)
    return state(engine, id).why


def text(engine, id):
    return "\n".join(do(engine.log(id, 1000)))


def test_an_array_of_three_workers_computes_and_ends(opened, scheduler, tmp_path):
    engine = opened(cpus=2, time="5:00")
    ids = do(engine.start([worker(name, scheduler) for name in "abc"]))
    base = ids["a"].partition("_")[0]
    assert ids == {"a": f"{base}_0", "b": f"{base}_1", "c": f"{base}_2"}
    with Client(scheduler.address) as client:
        client.wait_for_workers(3, timeout=60)
        nodes = {name: client.submit(os.getenv, "SLURMD_NODENAME", workers=[name]).result(60) for name in ids}
        states = do(engine.look(list(ids.values())))
        assert {name: states[ids[name]].why for name in ids} == {name: f"on {node}" for name, node in nodes.items()}
        assert {one.phase for one in states.values()} == {"running"}
    [folder] = (tmp_path / "slurm").iterdir()
    secret = next(path for path in folder.rglob("secret"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert "worker b ready" in text(engine, ids["b"])
    do(engine.end([ids["a"], ids["c"]]))
    assert until_ended(engine, ids["a"]).startswith("CANCELLED") and until_ended(engine, ids["c"]).startswith("CANCELLED")
    assert state(engine, ids["b"]).phase == "running"
    do(engine.close())
    assert folder.exists(), "a job is left that needs it"
    do(engine.end(list(ids.values())))
    do(engine.close())
    assert not folder.exists()
    assert state(engine, ids["b"]).why.startswith("CANCELLED")


def test_one_job_alone_is_no_array(opened, scheduler):
    engine = opened()
    id = do(engine.start([worker("alone", scheduler)]))["alone"]
    assert id.isdigit()
    until(lambda: "worker alone ready" in text(engine, id))


def test_a_job_that_waits_says_why(opened, scheduler):
    engine = opened(cpus=2)
    ids = do(engine.start([worker(name, scheduler) for name in "abcd"]))
    until(lambda: len([one for one in do(engine.look(list(ids.values()))).values() if one.phase == "running"]) == 3)
    until(lambda: state(engine, ids["d"]).why.startswith("Resources (waits for nodes to become free)"))
    assert state(engine, ids["d"]).phase == "waiting"
    never = opened(partition="short", time="1:00:00")
    [id] = do(never.start([worker("e", scheduler)])).values()
    until(lambda: state(never, id).why == "PartitionTimeLimit (more time than the partition allows; it will never start)")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"directives": ["--constraint=infiniband"]}, "Invalid feature specification"),
        ({"directives": ["--bogus=1"]}, "unrecognized option '--bogus=1'"),
        ({"gres": "gpu:1"}, "Invalid generic resource (gres) specification"),
        ({"memory": "900T"}, "Memory specification can not be satisfied"),
    ],
)
def test_what_slurm_refuses_is_said_in_its_words(opened, scheduler, options, said):
    engine = opened(**options)
    with pytest.raises(TwistdistError) as error:
        do(engine.start([worker("a", scheduler)]))
    assert said in str(error.value) and str(error.value).startswith("sbatch failed with status")


def test_a_worker_that_cannot_start_leaves_its_reason_in_the_log(opened, scheduler):
    engine = opened()
    id = do(engine.start([worker("a", scheduler, "--slots", "0")]))["a"]
    assert until_ended(engine, id) == "FAILED, exit status 1"
    assert "--slots must be an integer from 1 to 4096" in text(engine, id)
    assert do(engine.log(id, 1))[0] and do(engine.log("123456789", 10)) == []


def test_a_controller_that_is_away_ends_nothing(slurm, opened, scheduler):  # noqa: F811
    engine = opened()
    id = do(engine.start([worker("a", scheduler)]))["a"]
    with Client(scheduler.address) as client:
        client.wait_for_workers(1, timeout=60)
        until(lambda: state(engine, id).phase == "running")
        slurm.stop_controller()
        try:
            for outcome in all_of(engine.look([id]), engine.end([id]), engine.start([worker("b", scheduler)])):
                assert outcome.check(TwistdistError) and "Unable to contact slurm controller" in str(outcome.value)
            assert client.submit(os.getenv, "SLURM_JOB_ID").result(60) == id
        finally:
            slurm.start_controller()
        assert state(engine, id).phase == "running"
        do(engine.end([id]))
        assert until_ended(engine, id).startswith("CANCELLED")
    do(engine.end([id, "123456789"]))  # those that have ended already are no error
    assert state(engine, "123456789").phase == "ended"


def test_a_worker_is_told_when_its_time_is_over(opened, scheduler, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")  # of a job around this process
    engine = opened(time=600)
    [id] = do(engine.start([worker("a", scheduler)])).values()
    with Client(scheduler.address) as client:
        client.wait_for_workers(1, timeout=60)
        end = int(client.submit(os.getenv, "SLURM_JOB_END_TIME").result(60))
    assert 480 < end - time.time() <= 600
    assert text(engine, id).count("\n") == 0, "the script itself says nothing"


def test_variables_that_filter_lists_of_jobs_hide_none_of_ours(opened, scheduler, monkeypatch):
    monkeypatch.setenv("SQUEUE_PARTITION", "urgent")
    monkeypatch.setenv("SQUEUE_STATES", "FAILED")
    monkeypatch.setenv("SCANCEL_PARTITION", "urgent")
    monkeypatch.setenv("SBATCH_ARRAY_INX", "0-5")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    engine = opened(partition="main", prologue=["export FROM_PROLOGUE='the prologue'"])
    [id] = do(engine.start([worker("a", scheduler)])).values()
    until(lambda: state(engine, id).phase == "running")
    with Client(scheduler.address) as client:
        client.wait_for_workers(1, timeout=60)
        assert client.submit(os.getenv, "FROM_PROLOGUE").result(60) == "the prologue"
    do(engine.end([id]))
    assert until_ended(engine, id).startswith("CANCELLED")


def test_a_job_that_was_taken_without_an_answer_is_cancelled(slurm, opened, scheduler):  # noqa: F811
    engine, other = opened(), opened()
    [ours] = do(engine.start([worker("a", scheduler)])).values()
    [others] = do(other.start([worker("b", scheduler)])).values()
    lost = slurm.run("sbatch", "--parsable", f"--job-name={engine.job_name}", "--output=/dev/null", "--wrap=sleep 600").strip()
    until(lambda: state(engine, ours).phase == "running" and not any(line.startswith(f"{lost}|") for line in slurm.jobs()))
    assert state(engine, ours).phase == "running" and state(other, others).phase != "ended"


def test_a_job_that_is_preempted_hands_over_what_it_has(opened, scheduler, tmp_path):
    """It gets SIGTERM at the end of its GraceTime, and then has KillWait."""
    runs = str(tmp_path / "runs")
    engine, urgent = opened(cpus=2, partition="main"), opened(cpus=2, partition="urgent")
    ids = do(engine.start([worker(name, scheduler) for name in "abc"]))
    with Client(scheduler.address) as client:
        client.wait_for_workers(3, timeout=60)
        values = client.map(noted_bytes, [runs] * 12, range(12))
        client.gather(values, timeout=60)
        do(urgent.start([worker("d", scheduler)]))
        until(lambda: any(one.phase == "ended" for one in do(engine.look(list(ids.values()))).values()))
        [(_, how)] = [(id, one.why) for id, one in do(engine.look(list(ids.values()))).items() if one.phase == "ended"]
        assert how.startswith("PREEMPTED")
        assert client.gather(client.map(len, values), timeout=60) == [100_000] * 12
        assert sorted(map(int, lines(runs))) == list(range(12)), "nothing was lost or repeated"
        assert client.status()["replays"] == 0


def noted_bytes(path, n):
    note(path, n)
    return bytes(100_000)


def step(path, name, before):
    """One link of a chain; its value is too large for the scheduler to keep."""
    note(path, f"{name}@{os.environ['SLURM_JOB_ID']}")
    time.sleep(0.5)
    return before + 1, bytes(10_000)


def first(value):
    return value[0]


def test_a_cluster_of_slurm_jobs(slurm, tmp_path):  # noqa: F811
    with (
        SlurmCluster(2, name="ours", cpus=2, memory="100M", folder=tmp_path / "slurm", poll=1) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        until(lambda: sorted(cluster.workers) == ["w0", "w1"])
        assert client.gather(client.map(pow, range(20), [2] * 20), timeout=60) == [n**2 for n in range(20)]
        infos = client.workers().values()
        assert [info.slots for info in infos] == [2, 2], "as many as its job has CPUs"
        assert all(state.startswith("running: on n") for state in cluster.jobs.values())
        names = [line.split("|")[1].strip() for line in slurm.jobs()]
        assert len(names) == 2 and all(name.startswith("ours-") for name in names)
        cluster.scale(1)
        until(lambda: len(slurm.jobs()) == 1 and len(cluster.jobs) == 1)
        [id] = cluster.workers.values()
        slurm.run("scancel", id)
        until(lambda: cluster.workers and [*cluster.workers.values()] != [id])  # another job does the same
        assert client.submit(pow, 2, 3).result(60) == 8
    until(lambda: not slurm.jobs())
    assert not [*(tmp_path / "slurm").iterdir()]


def test_a_cluster_whose_jobs_slurm_refuses_does_not_start(slurm, tmp_path):  # noqa: F811
    with pytest.raises(TwistdistError, match="invalid partition specified: nowhere"):
        SlurmCluster(1, partition="nowhere", folder=tmp_path / "slurm")
    with pytest.raises(TypeError, match="there is no option partitions, did you mean partition"):
        SlurmCluster(1, partitions="main")


def test_a_computation_crosses_three_allocations_and_nothing_runs_twice(slurm, tmp_path):  # noqa: F811
    """Each worker has a minute, and all values are still needed at the end, when the makers of the first ones are long gone."""
    runs, values = str(tmp_path / "runs"), []
    with SlurmCluster(2, cpus=1, time=60, folder=tmp_path / "slurm", poll=1) as cluster, Client(cluster) as client:
        chains = [-1] * 3
        end = time.monotonic() + 300
        while len({line.partition("@")[2] for line in lines(runs)}) < 6:  # two workers, three jobs each
            assert time.monotonic() < end, client.workers()
            number = len(values)
            chains = [
                client.submit(step, runs, f"{number}.{n}", client.submit(first, one) if number else -1)
                for n, one in enumerate(chains)
            ]
            values.append(chains)
            wait(chains, timeout=120)
        everything = client.gather(values, timeout=60)
        status = client.status()
    assert [[value[0] for value in row] for row in everything] == [[n] * 3 for n in range(len(values))]
    ran = [line.partition("@")[0] for line in lines(runs)]
    assert sorted(ran) == sorted(f"{number}.{n}" for number in range(len(values)) for n in range(3)), "nothing ran twice"
    assert status["replays"] == 0


def test_a_cluster_from_the_shell(slurm, tmp_path):  # noqa: F811
    command = [
        sys.executable,
        "-m",
        "twistdist.cli",
        "slurm",
        "2",
        "--time=10:00",
        "--cpus=1",
        "--folder",
        str(tmp_path / "slurm"),
    ]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ready, export = running.stdout.readline(), running.stdout.readline()
        assert ready.startswith("twistdist cluster ready at tls:")
        while "running: on n" not in (line := running.stdout.readline()):
            assert line
        given = dict(word.split("=", 1) for word in shlex.split(export)[1:])
        script = "from twistdist.blocking import Client\nwith Client() as client: print(client.submit(pow, 2, 10).result(60))"
        done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **given}, capture_output=True, text=True)
        assert done.stdout == "1024\n", done.stderr
    finally:
        running.send_signal(signal.SIGTERM)
        rest = running.stdout.read()
        running.stdout.close()
        assert running.wait(60) == 0
    assert rest.endswith("all jobs were told to end\n")
    until(lambda: not slurm.jobs())
    assert not [*(tmp_path / "slurm").iterdir()]


def test_the_script_of_the_page(slurm, tmp_path):  # noqa: F811
    page = (pathlib.Path(__file__).parents[2] / "docs" / "slurm.rst").read_text()
    block = page.partition("test_slurm.py runs it")[2].partition("\n\n::\n\n")[2].partition("\n\n``SlurmCluster``")[0]
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(block))
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run([sys.executable, str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "3\n328350\n", done.stderr
    assert done.stderr == "" and not [*(tmp_path / "state" / "twistdist" / "slurm").iterdir()]
