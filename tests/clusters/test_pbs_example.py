"""The worked example of an engine, with stand-ins for the commands of PBS: it is not installed here."""

import os
import pathlib
import runpy
import subprocess
import sys

import pytest
from twisted.internet.defer import Deferred

from twistdist.clusters.engine import Job
from twistdist.errors import TwistdistError

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "pbs_cluster.py"

COMMANDS = {
    "qsub": r"""
echo "$@" >>"$PBS/directives"
cat >"$PBS/script.$$"
log=$(echo "$@" | sed 's/.*-o \([^ ]*\).*/\1/')
(setsid sh "$PBS/script.$$" >"$log" 2>&1 </dev/null &
echo $! >"$PBS/$$.pid"
wait $!
echo $? >"$PBS/$$.status") >/dev/null 2>&1 &
echo $$.pbs
""",
    "qstat": r"""
[ "$1 $2 $3" = "-x -F json" ] || exit 2
shift 3
comma=
echo '{"Jobs": {'
for id; do
  file="$PBS/${id%.pbs}.status"
  state='"job_state": "R"'
  [ -s "$file" ] && state="\"job_state\": \"F\", \"Exit_status\": $(cat "$file")"
  echo "$comma\"$id\": {$state}"
  comma=,
done
echo '}}'
""",
    "qdel": r"""
for id; do kill "$(cat "$PBS/${id%.pbs}.pid")" 2>/dev/null; done
exit 0
""",
}


@pytest.fixture
def pbs(tmp_path):
    for name, text in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o700)
    yield tmp_path
    for file in tmp_path.glob("*.pid"):
        if not file.with_suffix(".status").exists():
            subprocess.run(["kill", "-9", file.read_text().strip()], check=False)


def test_the_example(pbs):
    environment = {**os.environ, "PATH": f"{pbs}:{os.environ['PATH']}", "PBS": str(pbs), "HOME": str(pbs)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(EXAMPLE), "-q", "workq"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("328350\n", "")
    jobs = (pbs / "directives").read_text().splitlines()
    assert [job.split()[1] for job in jobs] == ["w0", "w1"] and all(job.endswith("-q workq") for job in jobs)
    # SIGTERM may find a worker that ends already, at the very end of Python.
    assert {file.read_text() for file in pbs.glob("*.status")} <= {"0\n", "143\n"}
    assert not list((pbs / ".cache" / "twistdist").iterdir())


def test_a_qsub_that_fails_loses_no_job_that_was_submitted_before(tmp_path):
    """Once their ids were lost, and they were submitted again under the same names."""
    engine = runpy.run_path(str(EXAMPLE))["PBSEngine"]()
    engine.folder = tmp_path
    answers = ["1.pbs\n", "2.pbs\n"]

    async def run(*command, input=b""):
        if not answers:
            raise TwistdistError("qsub failed with status 38: qsub: would exceed the queue's generic limit")
        return answers.pop(0)

    engine.run = run
    jobs = [Job(f"w{n}", "worker", ("--name", f"w{n}"), {"secret": b"x"}) for n in range(4)]
    found = []
    Deferred.fromCoroutine(engine.start(jobs)).addCallback(found.append)
    assert found == [{"w0": "1.pbs", "w1": "2.pbs"}]
    Deferred.fromCoroutine(engine.start(jobs[2:])).addErrback(lambda failure: found.append(str(failure.value)))
    assert "would exceed the queue's generic limit" in found[1]
