"""Jobs on hosts behind real sshds: what is started, what survives, what ends."""

from __future__ import annotations

import contextlib
import getpass
import itertools
import json
import os
import pathlib
import re
import secrets
import signal
import stat
import subprocess
import sys

import pytest
from twisted.internet.defer import Deferred

from tests.integration import sshd
from tests.integration.habits import gone, lines, note, until
from tests.integration.sshd import Hosts
from tests.integration.test_leftovers import other_pythons
from tests.integration.test_twistd import TWISTD, Shell
from twistdist.blocking import Client, SSHCluster, wait
from twistdist.blocking.reactor_thread import get_reactor_thread
from twistdist.clusters.engine import Job
from twistdist.clusters.ssh.cluster import SSHEngine
from twistdist.errors import TwistdistError
from twistdist.net.certs import make_certificates

WHY_NOT = sshd.why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

NAMES = (f"cluster-{number}" for number in itertools.count())
TWISTDIST = str(pathlib.Path(TWISTD).with_name("twistdist"))
CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")


def call(coroutine, timeout=90):
    thread = get_reactor_thread()
    return thread.call(lambda: Deferred.fromCoroutine(coroutine), timeout)


class Jobs:
    """A scheduler and workers as jobs of an engine."""

    def __init__(self, folder, hosts, names, cluster="", **options):
        self.folder, self.hosts = pathlib.Path(folder), hosts
        self.cluster = cluster or next(NAMES)
        self.tls, self.secret = str(self.folder / f"tls-{self.cluster}"), secrets.token_hex(16).encode()
        make_certificates(self.tls)
        self.engine = SSHEngine(list(names), **{"ssh_options": ["-F", str(hosts.config)], **options})
        self.ids, self.address = {}, ""

    def __enter__(self):
        call(self.engine.open(get_reactor_thread().reactor, self.cluster))
        return self

    def __exit__(self, *_):
        call(self.end())

    async def end(self):
        await self.engine.end(list(self.ids.values()))
        await self.engine.close()

    def job(self, role, name, *words):
        files = {"secret": self.secret, **{file: pathlib.Path(self.tls, file).read_bytes() for file in CERTIFICATES}}
        common = ("--secret-file", "{folder}/secret", "--tls", "{folder}", "--listen", "tcp:0:interface=0.0.0.0")
        return Job(name, role, (*words, *common), files)

    def scheduler(self, *words):
        self.ids |= call(self.engine.start([self.job("scheduler", "scheduler", *words)]))
        self.address = call(self.engine.scheduler_address(self.ids["scheduler"]))
        return self.address

    def workers(self, *names):
        jobs = [
            self.job(
                "worker",
                name,
                self.address,
                "--name",
                name,
                "--slots",
                "1",
                "--store",
                f"{self.folder}/store-{name}-{self.cluster}",
            )
            for name in names
        ]
        started = call(self.engine.start(jobs))
        self.ids |= started
        return started

    def state(self, name):
        return call(self.engine.look([self.ids[name]])).get(self.ids[name])

    def host(self, name):
        return self.ids[name].split("/")[0]

    def pid(self, name):
        return int(self.ids[name].rpartition("/")[2])

    def ssh_pid(self, host):
        """The pid of the ssh process that is connected to a keeper."""
        return self.engine._hosts[host]._link.transport.pid

    @contextlib.contextmanager
    def client(self, count):
        with Client(self.address, secret=self.secret, tls=self.tls) as client:
            client.wait_for_workers(count, timeout=60)
            yield client


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Hosts a, b and c, as seen from a fourth one if there are namespaces."""
    with contextlib.ExitStack() as stack:
        hosts = stack.enter_context(Hosts(tmp_path_factory.mktemp("ssh"), "abc"))
        if hosts.lan:
            stack.enter_context(hosts.lan.thread_inside("client", get_reactor_thread().call))
        yield hosts


@pytest.fixture
def jobs(hosts, tmp_path):
    """A cluster of a scheduler on a, and workers w0, w1 and w2 on a, b and c."""
    with Jobs(tmp_path, hosts, "abc") as jobs:
        jobs.scheduler()
        jobs.workers("w0", "w1", "w2")
        yield jobs


def all_gone(hosts, jobs):
    def left():
        return [pid for name in hosts.names for pid in hosts.processes(name, jobs.cluster)]

    until(lambda: not left(), 90)
    for name in hosts.names:
        assert [*hosts.cache(name).rglob(jobs.cluster)] == []
    return True


def noted_bytes(path, size):
    note(path, os.getpid())
    return bytes(size)


def stay(path):
    note(path, "begun")
    until(lambda: lines(path) == ["begun", "go"])
    return "done"


# ---- as it should be -------------------------------------------------------------------------------


def test_tasks_run_on_three_hosts_and_nothing_stays(hosts, jobs):
    assert sorted(jobs.host(name) for name in ("w0", "w1", "w2")) == ["a", "b", "c"]
    with jobs.client(3) as client:
        assert client.gather(client.map(pow, range(100), [2] * 100)) == [i * i for i in range(100)]
        found = {
            jobs.host(name): client.submit(os.getenv, "TWISTDIST_HOST", workers=[name]).result(60)
            for name in ("w0", "w1", "w2")
        }
        assert found == {name: hosts.identity(name) for name in "abc"}
    for host in "abc":
        (folder,) = hosts.cache(host).glob(f"twistdist/{jobs.cluster}/*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.glob("jobs/*/*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    commands = [path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if not gone(int(path.parent.name))]
    assert not [command for command in commands if jobs.secret in command]
    call(jobs.end())
    assert all_gone(hosts, jobs)


def test_the_log_of_a_job_is_what_it_has_written_and_an_end_says_why(hosts, tmp_path):
    with Jobs(tmp_path, hosts, ["a"]) as jobs:
        with pytest.raises(
            TwistdistError, match=r"the scheduler on host a did not start: it ended with exit code 1: .*--suspect-after must be"
        ):
            jobs.scheduler("--suspect-after", "-1")
        assert "--suspect-after must be a number of seconds" in call(jobs.engine.log(jobs.ids["scheduler"], 3))[-1]


def test_a_host_that_is_named_twice_gets_two_workers(hosts, tmp_path):
    with Jobs(tmp_path, hosts, ["a", "b", "a"]) as jobs:
        jobs.scheduler()
        jobs.workers("w0", "w1", "w2")
        assert sorted(jobs.host(name) for name in ("w0", "w1", "w2")) == ["a", "a", "b"]
        with jobs.client(3):
            pass


def test_many_hosts_are_connected_a_few_at_a_time(hosts, tmp_path):
    config = hosts.write_config("many", more=f"Host n?\n  HostName {hosts.addresses['a']}\n")
    names = [f"n{letter}" for letter in "abcdefghijklmnop"]
    with Jobs(tmp_path, hosts, names, ssh_options=["-F", str(config)]) as jobs:
        assert [host.why for host in jobs.engine._hosts.values() if not host.connected] == []


# ---- what dies, and what breaks --------------------------------------------------------------------


def test_a_worker_that_is_killed_is_noticed_and_the_next_one_adopts_its_store(hosts, jobs, tmp_path):
    with jobs.client(3) as client:
        kept = client.submit(noted_bytes, str(tmp_path / "ran"), 100_000, workers=["w1"])
        wait([kept], timeout=60)
        host = jobs.host("w1")
        os.kill(jobs.pid("w1"), signal.SIGKILL)
        until(lambda: jobs.state("w1").phase == "ended")
        assert "SIGKILL" in jobs.state("w1").why
        jobs.workers("w1")
        assert jobs.host("w1") == host
        assert kept.result(60) == bytes(100_000)
        assert len(lines(tmp_path / "ran")) == 1


def test_a_connection_whose_ssh_is_killed_is_made_again_and_the_jobs_have_not_noticed(hosts, jobs, tmp_path):
    with jobs.client(3) as client:
        running = client.submit(stay, str(tmp_path / "log"), workers=["w1"])
        until(lambda: lines(tmp_path / "log") == ["begun"])
        host = jobs.host("w1")
        ssh = jobs.ssh_pid(host)
        os.kill(ssh, signal.SIGKILL)
        until(lambda: gone(ssh))
        until(lambda: jobs.engine._hosts[host].connected and jobs.ssh_pid(host) != ssh)
        assert jobs.state("w1").phase == "running"
        note(tmp_path / "log", "go")
        assert running.result(60) == "done"
    assert not gone(jobs.pid("w1"))


def test_a_host_that_is_cut_off_for_a_while_keeps_its_jobs(hosts, jobs, tmp_path):
    if not hosts.lan:
        pytest.skip("this machine has no namespaces")
    host = jobs.engine._hosts[jobs.host("w1")]
    with jobs.client(3) as client:
        running = client.submit(stay, str(tmp_path / "log"), workers=["w1"])
        until(lambda: lines(tmp_path / "log") == ["begun"])
        with hosts.lan.silence(host.text):
            until(lambda: not host.connected, 60)
            assert jobs.state("w1").phase == "running"
            assert f"host {host.text}" in jobs.state("w1").why
        until(lambda: host.connected, 60)
        assert jobs.state("w1") == type(jobs.state("w1"))("running")
        note(tmp_path / "log", "go")
        assert running.result(60) == "done"
    assert lines(tmp_path / "log") == ["begun", "go"]


def test_a_host_that_stays_away_is_given_up_and_its_jobs_have_ended_before(hosts, tmp_path, monkeypatch):
    if not hosts.lan:
        pytest.skip("this machine has no namespaces")
    monkeypatch.setattr("twistdist.clusters.ssh.cluster.STOP_S", 10)  # an idle worker needs much less
    monkeypatch.setattr("twistdist.clusters.ssh.cluster.SILENCE_S", 5)
    soon = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2", "-F", str(hosts.config)]
    with Jobs(tmp_path, hosts, "abc", grace=5, ssh_options=soon) as jobs:
        jobs.scheduler()
        jobs.workers("w0", "w1", "w2")
        away = jobs.host("w1")
        with hosts.lan.silence(away):
            until(lambda: jobs.state("w1").phase == "ended", 120)
            assert f"the connection to host {away} broke and could not be made again within" in jobs.state("w1").why
            assert gone(jobs.pid("w1"))
            jobs.workers("w1")
            assert jobs.host("w1") != away


def test_a_detached_job_that_was_given_up_is_ended_when_its_host_is_back(hosts, tmp_path, monkeypatch):
    if not hosts.lan:
        pytest.skip("this machine has no namespaces")
    monkeypatch.setattr("twistdist.clusters.ssh.cluster.STOP_S", 2)
    monkeypatch.setattr("twistdist.clusters.ssh.cluster.SILENCE_S", 2)
    monkeypatch.setattr("twistdist.clusters.ssh.hosts.UNSURE_S", 1)
    soon = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2", "-o", "ConnectTimeout=3", "-F", str(hosts.config)]
    with Jobs(tmp_path, hosts, "abc", grace=5, detach=True, ssh_options=soon) as jobs:
        jobs.scheduler()
        jobs.workers("w0", "w1", "w2")
        with hosts.lan.silence(jobs.host("w1")):
            until(lambda: jobs.state("w1").phase == "ended", 120)
            assert not gone(jobs.pid("w1"))
        until(lambda: gone(jobs.pid("w1")), 90)


def test_jobs_of_a_keeper_that_is_killed_leave_and_start_again(hosts, jobs):
    host = jobs.host("w1")
    (keeper,) = {int(pathlib.Path(f"/proc/{jobs.pid('w1')}/stat").read_text().rpartition(")")[2].split()[1])}
    os.kill(keeper, signal.SIGKILL)
    until(lambda: jobs.state("w1").phase == "ended")
    assert gone(jobs.pid("w1"))
    jobs.workers("w1")
    assert jobs.host("w1") == host
    with jobs.client(3) as client:
        assert client.submit(pow, 2, 3, workers=["w1"]).result(60) == 8


# ---- clusters --------------------------------------------------------------------------------------


def test_a_cluster_replaces_what_is_killed(hosts, tmp_path):
    with SSHCluster(list("abc"), slots=1, ssh_options=["-F", str(hosts.config)]) as cluster, Client(cluster) as client:
        kept = client.submit(noted_bytes, str(tmp_path / "ran"), 100_000, workers=["w1"])
        wait([kept], timeout=60)
        before = cluster.workers
        assert len({id.split("/")[0] for id in before.values()}) == 3
        os.kill(int(before["w1"].rpartition("/")[2]), signal.SIGKILL)
        until(lambda: cluster.workers.get("w1", before["w1"]) != before["w1"])
        assert kept.result(60) == bytes(100_000)
        assert len(lines(tmp_path / "ran")) == 1
        (scheduler,) = [
            pid
            for host in "abc"
            for pid in hosts.processes(host, "\0scheduler\0")
            if cluster.cluster_name.encode() in command(pid)
        ]
        os.kill(scheduler, signal.SIGKILL)
        assert client.submit(pow, 2, 5).result(60) == 32
        cluster.scale(1)
        until(lambda: len(cluster.workers) == 1)
        name = cluster.cluster_name
    until(lambda: not [pid for host in "abc" for pid in hosts.processes(host, name)])


def command(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_cluster_whose_scheduler_is_here(hosts):
    here = (
        {"scheduler_host": "local", "host": hosts.addresses["client"]}
        if hosts.lan
        else {"scheduler_host": "local", "host": "127.0.0.1"}
    )
    with SSHCluster(["a", "b"], slots=1, ssh_options=["-F", str(hosts.config)], **here) as cluster, Client(cluster) as client:
        assert client.submit(pow, 2, 5).result(60) == 32
        assert not [pid for host in "abc" for pid in hosts.processes(host, "\0scheduler\0")]


def test_a_cluster_that_can_not_start_says_why_and_leaves_nothing(hosts):
    with pytest.raises(TwistdistError, match="host a:2: nothing accepts connections there"):
        SSHCluster(["a:2"], ssh_options=["-F", str(hosts.config)])


# ---- the program dies ------------------------------------------------------------------------------

PROGRAM = """if True:
    import json, sys
    sys.path.insert(0, {root!r})
    from tests.integration.test_ssh import Jobs
    from tests.integration.sshd import Hosts
    hosts = Hosts({folder!r}, "abc")
    jobs = Jobs({own!r}, hosts, "abc", {cluster!r}, **{options!r})
    jobs.__enter__()
    jobs.scheduler()
    jobs.workers("w0", "w1", "w2")
    with jobs.client(3):
        print(json.dumps([jobs.address, jobs.secret.decode(), jobs.tls, jobs.ids]), flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def program(hosts, folder, **options):
    """Another program has the engine; yields it, and its jobs."""
    cluster = next(NAMES)
    root = str(pathlib.Path(__file__).parents[2])
    script = PROGRAM.format(root=root, folder=str(hosts.folder), own=str(folder), cluster=cluster, options=options)
    command = [sys.executable, "-c", script]
    if hosts.lan:
        command = hosts.lan.command("client", *command)
    process = subprocess.Popen([*sshd.MORTAL, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        jobs = Jobs(folder, hosts, "abc", f"{cluster}x")
        jobs.cluster = cluster
        jobs.address, secret, jobs.tls, jobs.ids = json.loads(process.stdout.readline())
        jobs.secret = secret.encode()
        try:
            yield process, jobs
        finally:
            process.kill()


def test_everything_ends_by_itself_when_the_program_was_killed(hosts, tmp_path):
    with program(hosts, tmp_path, grace=5) as (process, jobs):
        process.kill()
        process.wait()
        until(lambda: all(gone(jobs.pid(name)) for name in jobs.ids))
        assert all_gone(hosts, jobs)


def test_detached_jobs_stay_and_can_be_used_and_ended_by_another_program(hosts, tmp_path):
    with program(hosts, tmp_path, detach=True, grace=5) as (process, first):
        process.kill()
        process.wait()
        with Jobs(tmp_path, hosts, "abc", detach=True) as others:  # time passes: more than the grace
            others.scheduler()
        with first.client(3) as client:
            assert client.gather(client.map(pow, range(10), [2] * 10)) == [i * i for i in range(10)]
        second = SSHEngine(list("abc"), ssh_options=["-F", str(hosts.config)])
        call(second.open(get_reactor_thread().reactor, first.cluster))
        found = call(second.jobs())
        assert set(found) == set(first.ids.values())
        assert {state.phase for state in found.values()} == {"running"}
        call(second.end(list(found)))
        call(second.close())
        assert all(gone(first.pid(name)) for name in first.ids)
        assert all_gone(hosts, first)


def test_two_clusters_of_one_name_do_not_end_one_anothers_jobs(hosts, jobs, tmp_path):
    with (
        Jobs(tmp_path, hosts, "abc", jobs.cluster) as other,
        pytest.raises(TwistdistError, match="another cluster of the same name"),
    ):
        other.scheduler()
    with jobs.client(3):
        assert jobs.state("scheduler").phase == "running"


# ---- the command -----------------------------------------------------------------------------------


@pytest.fixture
def shell(hosts, tmp_path, monkeypatch):
    """Runs ``twistdist`` in a shell of the host from which the others are seen."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with contextlib.ExitStack() as stack:

        def run(*words, wait_for):
            line = [TWISTDIST, *words]
            shell = Shell(tmp_path, *sshd.MORTAL, *(hosts.lan.command("client", *line) if hosts.lan else line))
            stack.callback(shell.end)
            shell.wait_for(wait_for)
            return shell

        yield run


def use(shell):
    """Use the cluster as what it printed says."""
    told = dict(re.fullmatch(r"export (\w+)=(.*)\n", line).groups() for line in shell.lines if line.startswith("export "))
    with Client(
        told["TWISTDIST_SCHEDULER"], secret=pathlib.Path(told["TWISTDIST_SECRET_FILE"]).read_bytes(), tls=told["TWISTDIST_TLS"]
    ) as client:
        assert client.gather(client.map(pow, range(10), [2] * 10)) == [i * i for i in range(10)]


def test_the_command_in_the_foreground_ends_everything_on_ctrl_c(hosts, shell):
    running = shell("ssh", "a", "b", "--slots", "1", "-F", hosts.config, wait_for="Ctrl-C ends it")
    name = running.wait_for(r"^cluster (\S+): a/w\d/\d+, b/w\d/\d+$")[1]
    use(running)
    assert running.end(signal.SIGINT) == 0
    until(lambda: not [pid for host in "abc" for pid in hosts.processes(host, name)])
    assert not [*hosts.cache("a").rglob(name)]


def test_the_command_detached_leaves_a_cluster_that_it_can_end(hosts, shell):
    left = shell("ssh", "a", "b", "--slots", "1", "-F", hosts.config, "--detach", wait_for="It stays")
    name = left.wait_for(r"twistdist ssh --end (\S+)")[1]
    assert left.end(None) == 0
    use(left)
    wrong = shell("ssh", "--end", "another", wait_for=f"no cluster 'another' running from this machine; there are: {name}")
    assert wrong.end(None) == 1
    assert shell("ssh", "--end", name, wait_for=f"{name}: 3 processes ended").end(None) == 0
    until(lambda: not [pid for host in "abc" for pid in hosts.processes(host, name)])


# ---- bad input -------------------------------------------------------------------------------------


def refused(hosts, names, **options):
    """What the start of an engine says."""
    engine = SSHEngine(list(names), **{"ssh_options": ["-F", str(hosts.config)], **options})
    with pytest.raises(TwistdistError) as caught:
        call(engine.open(get_reactor_thread().reactor, next(NAMES)))
    return str(caught.value)


def test_a_key_that_is_refused(hosts):
    config = hosts.write_config("refused", key="stranger")
    assert re.match(
        r"host a: it refuses us: ssh a must work without a password.*Permission denied",
        refused(hosts, ["a"], ssh_options=["-F", str(config)]),
    )


def test_a_host_key_that_is_unknown(hosts):
    config = hosts.write_config("unknown", known="nobody")
    assert re.match(
        r"host b: its host key is not known here.*by hand: ssh b ", refused(hosts, ["b"], ssh_options=["-F", str(config)])
    )


def test_a_host_key_that_has_changed(hosts):
    before = f"[{hosts.addresses['b']}]:{sshd.PORT} "
    (hosts.folder / "changed_hosts").write_text(before + (hosts.folder / "host-a.pub").read_text())
    config = hosts.write_config("changed", known="changed_hosts")
    assert re.match(r"host b: its host key has changed", refused(hosts, ["b"], ssh_options=["-F", str(config)]))


def test_a_host_where_nothing_listens_and_a_name_that_does_not_exist(hosts):
    assert re.match(r"host a:2: nothing accepts connections there", refused(hosts, ["a:2"]))
    assert re.match(r"host nowhere\.invalid: its name is not known", refused(hosts, ["nowhere.invalid"]))


def test_the_schedulers_host_must_be_there_at_the_start_and_others_are_passed_over(hosts, tmp_path):
    assert re.match(r"the scheduler's host a:2: nothing accepts", refused(hosts, ["a:2", "b"]))
    with Jobs(tmp_path, hosts, ["a", "b:2"]) as jobs:
        jobs.scheduler()
        jobs.workers("w0", "w1")
        assert [jobs.host(name) for name in ("w0", "w1")] == ["a", "a"]


def test_a_python_of_another_version(hosts):
    pythons = other_pythons()
    if not pythons:
        pytest.skip("there is no other Python here")
    said = refused(hosts, ["c"], python=pythons[0])
    assert said.startswith(f"host c: no Python {sys.version_info[0]}.{sys.version_info[1]} with twistdist ")
    assert f"{pythons[0]} is Python " in said


def test_a_python_without_twistdist_and_one_that_does_not_exist(hosts, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec env -u PYTHONPATH {sys.executable} -S -s "$@"\n')
    bare.chmod(0o755)
    assert "without it (ModuleNotFoundError: No module named 'twistdist')" in refused(hosts, ["c"], python=str(bare))
    assert "/no/python does not exist" in refused(hosts, ["c"], python="/no/python")


def test_a_folder_that_can_not_be_made(hosts):
    assert re.match(
        r"host c: the keeper there ended: .*no keeper could be started in /proc/none: ",
        refused(hosts, ["c"], folder="/proc/none"),
    )


def test_two_names_of_one_host_are_two_hosts(hosts, tmp_path):
    with Jobs(tmp_path, hosts, ["a", f"{getpass.getuser()}@a"]) as jobs:
        jobs.scheduler()
        jobs.workers("w0", "w1")
        assert len({jobs.host("w0"), jobs.host("w1")}) == 2
        with jobs.client(2) as client:
            assert client.gather(client.map(pow, range(10), [2] * 10)) == [i * i for i in range(10)]
        assert all(host.connected for host in jobs.engine._hosts.values())
