"""Workers as jobs of PBS: an engine that twistdist does not bring along.  docs/clusters.rst explains it.

python pbs_cluster.py -q workq -l select=1:ncpus=4 -l walltime=1:00:00
"""

import json
import os
import pathlib
import shutil
import sys

from twistdist.blocking import Client, JobCluster
from twistdist.clusters.engine import Engine, JobState
from twistdist.errors import TwistdistError

PHASES = {"R": "running", "E": "running", "F": "ended", "X": "ended"}  # all others wait


class PBSEngine(Engine):
    """Jobs of PBS.  ``directives`` are options of ``qsub``; the home folder is the same on all machines."""

    name = "PBS"
    queues = True

    def __init__(self, directives=()):
        self.directives = directives

    async def open(self, reactor, cluster):
        await super().open(reactor, cluster)
        self.folder = pathlib.Path.home() / ".cache" / "twistdist" / cluster
        self.folder.mkdir(mode=0o700, parents=True)

    async def start(self, jobs):
        ids = {}
        for job in jobs:
            try:
                ids[job.name] = await self._submit(job)
            except TwistdistError:
                if not ids:
                    raise
                break  # those that were submitted must be known; the others are asked for again
        return ids

    async def _submit(self, job):
        for name, content in job.files.items():
            with open(self.folder / name, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(content)
        script = f"exec {job.shell_command(sys.executable, str(self.folder))}\n"
        output = ("-j", "oe", "-o", str(self.folder / f"{job.name}.log"))
        return (await self.run("qsub", "-N", job.name, *output, *self.directives, input=script.encode())).strip()

    async def look(self, ids):
        found = json.loads(await self.run("qstat", "-x", "-F", "json", *ids))["Jobs"]
        return {id: self._state(job) for id, job in found.items()}

    def _state(self, job):
        status = job.get("Exit_status")
        why = job.get("comment", "") if status is None else f"exit status {status}"
        return JobState(PHASES.get(job["job_state"], "waiting"), why, status == 0)

    async def end(self, ids):
        await self.run("qdel", *ids)  # SIGTERM, and SIGKILL after the queue's kill_delay

    async def close(self):
        shutil.rmtree(self.folder)


if __name__ == "__main__":
    with JobCluster(PBSEngine(sys.argv[1:]), 2) as cluster, Client(cluster) as client:
        print(sum(client.gather(client.map(pow, range(100), [2] * 100))))
