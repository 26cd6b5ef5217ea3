"""What a Slurm cluster makes of its options, and of what Slurm prints."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock

from twistdist.clusters import slurm
from twistdist.clusters.engine import Job, JobState
from twistdist.clusters.slurm import SlurmCluster, SlurmEngine, memory_text, seconds_of, time_text
from twistdist.errors import ConfigError, TwistdistError

CONFIG = "MaxArraySize            = 1001\nSLURM_VERSION           = 22.05.8\n"
HEAD = "JOBID|STATE|EXIT_CODE|START_TIME|NODELIST|REASON|\n"


class Answers(SlurmEngine):
    """Slurm's commands, played: ``said`` has what each prints, or why it fails."""

    def __init__(self, folder, **options):
        super().__init__(folder=folder, **options)
        self.said = {"scontrol": CONFIG, "squeue": HEAD, "sacct": TwistdistError("sacct failed: no accounting")}
        self.calls = []

    async def run(self, *command, input=b"", timeout=60.0, environment=None):
        self.calls.append((command, input.decode(), environment))
        said = self.said[command[0]]
        if isinstance(said, Exception):
            raise said
        return said

    def asked(self, program):
        return [command for command, _, _ in self.calls if command[0] == program]


def do(coroutine):
    found = []
    ensureDeferred(coroutine).addBoth(found.append)
    [outcome] = found
    if hasattr(outcome, "raiseException"):
        outcome.raiseException()
    return outcome


@pytest.fixture
def answers(tmp_path):
    def make(**options):
        engine = Answers(tmp_path / "slurm", **options)
        do(engine.open(Clock(), "ours-1234"))
        return engine

    return make


def jobs(n, *options):
    return [
        Job(f"w{at}", "worker", ("tcp:here:1", "--name", f"w{at}", *options), {"secret": b"0123456789abcdef"})
        for at in range(n)
    ]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("90", 5400),
        ("10:30", 630),
        ("1:30:00", 5400),
        ("2-12", 60 * 3600),
        ("1-2:3", 26 * 3600 + 180),
        ("1-02:03:04", 26 * 3600 + 184),
        (90, 90),
        (0.5 * 3600, 1800),
        (timedelta(hours=2), 7200),
    ],
)
def test_times_are_read_as_slurm_reads_them(given, seconds):
    assert seconds_of(given) == seconds


@pytest.mark.parametrize("given", ["soon", "1:2:3:4", "", "-5", "1h"])
def test_other_times_are_refused_with_an_example(given):
    with pytest.raises(ConfigError, match=r"time must be such as '1:30:00', '90' \(minutes\)"):
        seconds_of(given)


def test_times_and_sizes_are_written_as_slurm_reads_them():
    assert time_text(90) == "0-00:01:30" and time_text(200_000) == "2-07:33:20"
    assert memory_text("8G") == "8G" and memory_text("8GiB") == f"{8 << 20}K" and memory_text(1000) == "1K"
    with pytest.raises(ConfigError, match="memory needs a unit, such as '8G', or a number of bytes, got '4000'"):
        memory_text("4000")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"directives": ["constraint=ib"]}, "a directive must be one line as after #SBATCH"),
        ({"directives": ["--constraint=a\nrm -rf x"]}, "a directive must be one line as after #SBATCH"),
        ({"directives": ["--array=0-3"]}, "a cluster sets --array itself"),
        ({"directives": ["-J mine"]}, "a cluster sets --job-name itself"),
        ({"directives": ["--clusters=other"]}, "a cluster sets --clusters itself"),
        ({"partition": "a b"}, "partition must be a word that sbatch takes, got 'a b'"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options, said):
    with pytest.raises(ConfigError, match=said):
        SlurmCluster(1, **options)


def test_options_of_the_wrong_type_are_refused_at_once():
    with pytest.raises(TypeError, match="directives must be a list of strings, got the string"):
        SlurmCluster(1, directives="--constraint=ib")
    with pytest.raises(TypeError, match="there is no option partitions, did you mean partition"):
        SlurmCluster(1, partitions="a")
    with pytest.raises(ValueError, match="cpus must be an integer from 1"):
        SlurmCluster(1, cpus=0)


def test_what_is_submitted(answers, monkeypatch):
    for name in ("SLURM_JOB_ID", "SQUEUE_PARTITION", "SBATCH_WAIT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    engine = answers(
        partition="gpu",
        time="1:00:00",
        cpus=4,
        memory="8G",
        gres="gpu:1",
        directives=["--constraint=ib"],
        prologue=["module load python"],
    )
    engine.said["sbatch"] = "77\n"
    assert do(engine.start(jobs(2))) == {"w0": "77_0", "w1": "77_1"}
    command, script, environment = engine.calls[-1]
    wanted = "--partition=gpu --time=0-01:00:00 --cpus-per-task=4 --mem=8G --gres=gpu:1"
    assert {*wanted.split(), "--job-name=ours-1234", "--no-requeue", "--array=0-1"} <= {*command}
    assert script.startswith("#!/bin/bash\n#SBATCH --constraint=ib\n\nmodule load python\n")
    assert "0) exec" in script and "--name w1" in script and "0123456789abcdef" not in script
    assert environment["SBATCH_ACCOUNT"] == "mine" and environment["PATH"] == os.environ["PATH"]
    assert not {"SLURM_JOB_ID", "SQUEUE_PARTITION", "SBATCH_WAIT"} & environment.keys()


@pytest.mark.parametrize("time", ["30", "5:00", None])
def test_no_signal_cuts_the_margin_of_a_worker_short_unless_it_is_asked_for(answers, time):
    """Once SIGTERM came up to two minutes before the limit, and the worker left within KillWait instead of its minute."""
    for options, wanted in (({}, []), ({"signal": 89.5}, ["--signal=B:TERM@90"])):
        engine = answers(time=time, **options)
        engine.said["sbatch"] = "77\n"
        do(engine.start(jobs(1)))
        command, script, _ = engine.calls[-1]
        assert [word for word in command if word.startswith("--signal")] == wanted
        assert "${SLURM_JOB_END_TIME:+--lifetime auto}" in script and "--notice 28" in script


def test_options_that_are_given_replace_those_that_the_job_would_find(answers):
    engine = answers()
    assert '--slots "$SLURM_CPUS_ON_NODE"' in engine.script(jobs(1)) and "SLURM_MEM_PER_NODE" in engine.script(jobs(1))
    script = engine.script(jobs(1, "--slots", "3", "--memory-limit=0"))
    assert "SLURM_CPUS_ON_NODE" not in script and "SLURM_MEM_PER_NODE" not in script


def test_many_jobs_are_several_arrays_and_a_limit_keeps_those_that_were_taken(answers, monkeypatch):
    monkeypatch.setattr(slurm, "MAX_ARRAY", 2)
    engine = answers()
    numbers = iter(("1", "2"))

    async def sbatch(*command, input=b"", timeout=60.0, environment=None):
        number = next(numbers, None)
        if number is None:
            raise TwistdistError("sbatch failed with status 1: sbatch: error: QOSMaxSubmitJobPerUserLimit")
        return number

    engine.run = sbatch
    assert do(engine.start(jobs(6))) == {"w0": "1_0", "w1": "1_1", "w2": "2_0", "w3": "2_1"}
    with pytest.raises(TwistdistError, match="QOSMaxSubmitJobPerUserLimit"):
        do(engine.start(jobs(2)))


def test_states_and_reasons_are_put_into_words(answers):
    engine = answers()
    engine.said["squeue"] = HEAD + (
        "7_0|PENDING|0|2026-11-27T01:46:25||Resources|\n"
        "7_1|PENDING|0|N/A||AssocGrpCpuLimit|\n"
        "8|CONFIGURING|0|N/A|n1|None|\n"
        "9|RUNNING|0|2026-11-27T01:46:25|n1|None|\n"
        "10|COMPLETING|0|2026-11-27T01:46:25|n1|None|\n"
        "11|FAILED|768|2026-11-27T01:46:25|n1|NonZeroExitCode|\n"
        "12|OUT_OF_MEMORY|0:125|2026-11-27T01:46:25|n1|OutOfMemory|\n"
        "13|TIMEOUT|15|2026-11-27T01:46:25|n1|TimeLimit|\n"
        "14|COMPLETED|0|2026-11-27T01:46:25|n1|None|\n"
        "15|NODE_FAIL|0|2026-11-27T01:46:25|n1|None|\n"
    )
    ids = ["7_0", "7_1", *map(str, range(8, 17))]
    engine._known.update(ids)
    assert do(engine.look(ids)) == {
        "7_0": JobState("waiting", "Resources (waits for nodes to become free); expected to start at 2026-11-27T01:46:25"),
        "7_1": JobState(
            "waiting",
            "AssocGrpCpuLimit (a limit of your account, user or QOS; it starts when others of your jobs have ended)",
        ),
        "8": JobState("waiting", "CONFIGURING"),
        "9": JobState("running", "on n1"),
        "10": JobState("running", "COMPLETING"),
        "11": JobState("ended", "FAILED, exit status 3"),
        "12": JobState("ended", "OUT_OF_MEMORY, ended by signal 125 (OutOfMemory)"),
        "13": JobState("ended", "TIMEOUT, ended by signal 15"),
        "14": JobState("ended", "COMPLETED", True),
        "15": JobState("ended", "NODE_FAIL"),
        "16": JobState("ended", "Slurm does not know it any more"),
    }
    assert len(engine.asked("squeue")) == 1 and len(engine.asked("sacct")) == 1
    engine.said["squeue"] = HEAD
    assert do(engine.look(["14"])) == {"14": JobState("ended", "COMPLETED", True)}, "remembered when Slurm forgets it"
    assert len(engine.asked("sacct")) == 1, "there is no accounting"


def test_the_accounting_knows_who_cancelled_a_job_and_what_slurm_has_forgotten(answers):
    engine = answers()
    engine.said["squeue"] = HEAD + "1|CANCELLED|15|2026-11-27T01:46:25|n1|None|\n"
    engine.said["sacct"] = "1|CANCELLED by 1000|0:15\n2_3|OUT_OF_MEMORY|0:125\n3|RUNNING|0:0\n"
    states = do(engine.look(["1", "2_3", "3"]))
    assert states["1"] == JobState("ended", "CANCELLED by 1000, ended by signal 15")
    assert states["2_3"] == JobState("ended", "OUT_OF_MEMORY, ended by signal 125")
    assert states["3"] == JobState("ended", "Slurm does not know it any more"), "the accounting is late"


@pytest.mark.parametrize("said", ["", "half a line|", "slurm_load_jobs: something\n" + HEAD])
def test_an_answer_that_is_not_understood_ends_nothing(answers, said):
    engine = answers()
    engine.said["squeue"] = said
    with pytest.raises(TwistdistError, match="squeue printed something unexpected"):
        do(engine.look(["1"]))


def test_thousands_of_jobs_are_ended_with_one_command(answers):
    engine = answers()
    engine.said["scancel"] = ""
    do(engine.end([*(f"5_{n}" for n in range(3000)), "6"]))
    assert engine.asked("scancel") == [("scancel", "--quiet", f"5_[{','.join(map(str, range(3000)))}]", "6")]


def test_folders_that_a_killed_program_has_left_go_when_their_jobs_are_gone(tmp_path):
    root = tmp_path / "slurm"
    for name in ("old-1", "old-2", "new-1", "thesis"):
        (root / name / "log").mkdir(parents=True)
        if name != "thesis":  # the user's own folder
            (root / name / slurm.MARK).touch()
        if name != "new-1":
            before = time.time() - slurm.LEFT_S - 10
            os.utime(root / name, (before, before))
    engine = Answers(root)
    engine.said["squeue"] = "NAME|\nold-2|\n"
    do(engine.open(Clock(), "ours"))
    assert sorted(path.name for path in root.iterdir()) == ["new-1", "old-2", "ours", "thesis"]


def test_where_slurm_is_not_installed_the_error_says_where_to_run_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        TwistdistError, match="there is no program scontrol on this machine; run this where Slurm's commands are"
    ):
        do(SlurmEngine(folder=tmp_path).open(Clock(), "ours"))
