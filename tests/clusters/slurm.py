"""A Slurm of the tests' own on this machine: a controller, and three nodes of two CPUs."""

from __future__ import annotations

import getpass
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

import pytest

from tests.integration.habits import until

#: Set by .ci/run: without Slurm these tests fail there instead of being skipped.
REQUIRED = os.environ.get("TWISTDIST_TEST_SLURM") == "required"

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")

#: ``urgent`` takes CPUs away from jobs of ``main``, which have 5 s of grace.
CONFIG = """
ClusterName=twistdist
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
KillWait=10
SlurmctldTimeout=30
SlurmdTimeout=60
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n3 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[3]} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=5 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=2 PreemptMode=OFF State=UP
PartitionName=short Nodes=ALL MaxTime=1 PriorityTier=1 State=UP
"""


def free_ports(n):
    found = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [one.getsockname()[1] for one in found]
    for one in found:
        one.close()
    return ports


class Slurm:
    """The daemons, as children of this process."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="twistdist-slurm-", dir="/tmp"))
        self._processes = {}
        (self.folder / "munge").mkdir(mode=0o700)
        (self.folder / "state").mkdir()
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        self.config = self.folder / "slurm.conf"
        self.config.write_text(CONFIG.format(ports=free_ports(4), user=getpass.getuser(), folder=self.folder))
        for node in ("n1", "n2", "n3"):
            (self.folder / f"spool-{node}").mkdir()

    def _start(self, name, *command):
        with open(self.folder / f"{name}.out", "ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "SLURM_CONF": str(self.config)},
            )

    def _stop(self, name):
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)

    def run(self, *command):
        """A command's output, or "" if it failed."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SLURM_CONF": str(self.config)},
        )
        return done.stdout if done.returncode == 0 else ""

    def start(self):
        munge = [f"--{name}={self.folder}/munge/{name.split('-')[0]}" for name in ("socket", "pid-file", "seed-file")]
        self._start(
            "munged",
            "munged",
            "-F",
            "--force",
            f"--key-file={self.folder}/munge/key",
            *munge,
            f"--log-file={self.folder}/munged.log",
        )
        until((self.folder / "munge" / "socket").exists)
        self.start_controller()
        for node in ("n1", "n2", "n3"):
            self._start(node, "slurmd", "-D", "-N", node)
        until(lambda: self.run("sinfo", "--noheader", "--partition=main", "--format=%D %T").split() == ["3", "idle"])

    def start_controller(self):
        self._start("slurmctld", "slurmctld", "-D")
        until(lambda: self.run("scontrol", "ping"))

    def stop_controller(self):
        self._stop("slurmctld")

    def jobs(self):
        """Lines with the id and the name of each job that has not ended."""
        return self.run("squeue", "--noheader", "--array", "--Format=JobArrayID:|,Name:").splitlines()

    def stop(self):
        if "slurmctld" in self._processes:
            self.run("scancel", f"--user={os.getuid()}")
            until(lambda: not self.jobs())
        for name in reversed(list(self._processes)):
            self._stop(name)
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def slurm():
    """A Slurm that runs, for commands of this process too."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        reason = f"Slurm is not installed, {', '.join(missing)} missing (apt-get install slurmctld slurmd slurm-client munge)"
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    before = os.environ.get("SLURM_CONF")
    slurm = Slurm()
    try:
        slurm.start()
        os.environ["SLURM_CONF"] = str(slurm.config)
        yield slurm
    finally:
        slurm.stop()
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before
