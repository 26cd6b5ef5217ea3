"""An engine for tests: jobs are processes of this machine.  It can be told to fail in the ways in which engines do."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from twisted.internet.task import deferLater

from twistdist.clusters.engine import Engine, JobState
from twistdist.errors import TwistdistError


class ProcessEngine(Engine):
    """A job's id is ``job-`` and its number; ``held`` jobs wait in the queue."""

    name = "processes"
    poll_s = 0.2

    def __init__(self, folder, queues=False, runs_scheduler=False):
        self.folder = pathlib.Path(folder)
        self.queues, self.runs_scheduler = queues, runs_scheduler
        self.processes = {}  # id -> process, or None while it waits
        self.jobs = {}  # id -> Job
        self.python = sys.executable
        self.trouble = ""  # what every call fails with
        self.hold = False  # jobs wait
        self.calls = []

    def _check(self, call):
        self.calls.append(call)
        if self.trouble:
            raise TwistdistError(self.trouble)

    async def start(self, jobs):
        self._check("start")
        return {job.name: self._start(job) for job in jobs}

    def _start(self, job):
        id = f"job-{len(self.jobs)}"
        self.jobs[id], self.processes[id] = job, None
        if not self.hold:
            self.begin(id)
        return id

    def begin(self, id):
        """The job's turn in the queue has come."""
        job, folder = self.jobs[id], self.folder / self.jobs[id].name
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, content in job.files.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_bytes(content)
        with open(self.folder / f"{id}.log", "wb") as log:
            environment = {**os.environ, "TWISTDIST_HOST": f"host-of-{job.name}"}
            command = job.command(self.python, str(folder))
            self.processes[id] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    async def look(self, ids):
        self._check("look")
        return {id: self._state(id) for id in ids}

    def _state(self, id):
        process = self.processes[id]
        if process is None:
            return JobState("waiting", "all machines are busy")
        status = process.poll()
        if status is None:
            return JobState("running")
        return JobState("ended", f"exit status {status}", status == 0)

    async def end(self, ids):
        self._check("end")
        for id in ids:
            if self.processes[id] is None:
                self.processes[id] = subprocess.Popen(["false"])
            elif self.processes[id].poll() is None:
                self.processes[id].terminate()

    async def log(self, id, n):
        return (self.folder / f"{id}.log").read_text().splitlines()[-n:]

    async def scheduler_address(self, id):
        while True:
            ready = [line for line in await self.log(id, 100) if "ready at" in line]
            if ready:
                return ready[0].split()[-1].replace("0.0.0.0", "127.0.0.1")
            if self._state(id).phase == "ended":
                raise TwistdistError(f"the scheduler ended: {' '.join(await self.log(id, 5))}")
            await deferLater(self.reactor, 0.05)

    def kill(self, name, number=9):
        """Send a signal to the running job of this name."""
        for id, job in self.jobs.items():
            process = self.processes[id]
            if job.name == name and process is not None and process.poll() is None:
                process.send_signal(number)
                return id
        raise KeyError(name)
