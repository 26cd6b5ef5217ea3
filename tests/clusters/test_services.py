"""The units for systemd, and the steps of the container file: exactly what they say is run."""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest

from tests.integration.habits import until
from twistdist.blocking import Client
from twistdist.net.certs import make_certificates

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy"
SCHEDULER, WORKER = (DEPLOY / "systemd" / name for name in ("twistdist-scheduler.service", "twistdist-worker@.service"))
SECRET = "a secret of sixteen bytes"

pytestmark = pytest.mark.slow


def settings(unit):
    found = {}
    for line in unit.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


class Unit:
    """Starts a unit's command as systemd does, with its folders elsewhere, and again when it fails."""

    def __init__(self, unit, folder, instance="", **environment):
        (line,), self.folder = settings(unit)["ExecStart"], folder
        (state,) = settings(unit)["StateDirectory"]
        given = dict(shlex.split(pair)[0].split("=", 1) for pair in settings(unit)["Environment"][0].split())
        state = folder / state.replace("%i", instance)
        state.mkdir(parents=True, exist_ok=True)
        variables = given | {"STATE_DIRECTORY": str(state)} | environment
        for old, new in (
            ("%i", instance),
            ("%l", "host"),
            ("/opt/twistdist/bin/python", sys.executable),
            ("/etc/twistdist", str(folder / "etc")),
            ("/dev/shm/", f"{folder}/shm-"),
        ):
            line = line.replace(old, new)
        self.words = []
        for word in line.split():
            if re.fullmatch(r"\$\w+", word):
                self.words += variables[word[1:]].split()
            else:
                self.words.append(re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], word))
        self.log = folder / f"{unit.stem}{instance}.log"
        self.start()

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.words, stdout=log, stderr=log)

    def said(self):
        return self.log.read_text()

    def fail(self):
        self.process.kill()
        self.process.wait()
        self.start()  # Restart=on-failure

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(60)


@pytest.fixture
def etc(tmp_path):
    make_certificates(tmp_path / "etc")
    secret = tmp_path / "etc" / "secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    return tmp_path / "etc"


def once(path, i):
    with open(path, "a") as file:
        file.write(f"{i}\n")
    return bytes([i]) * 10_000


def test_services_that_crash_continue(tmp_path, etc):
    units = [Unit(SCHEDULER, tmp_path, LISTEN="tcp:0:interface=127.0.0.1")]
    try:
        until(lambda: "ready at" in units[0].said())
        address = units[0].said().split()[-1]
        units[0].words[units[0].words.index("--listen") + 1] = f"tcp:{address.split(':')[2]}:interface=127.0.0.1"
        units += [Unit(WORKER, tmp_path, name, SCHEDULER=address, OPTIONS="--slots 1 --contact 127.0.0.1") for name in "ab"]
        with Client(address, secret=SECRET, tls=etc) as client:
            client.wait_for_workers(2, 60)
            assert sorted(client.workers()) == ["host-a", "host-b"]
            futures = client.map(once, [str(tmp_path / "ran")] * 40, range(40))
            client.gather(futures)
            for unit in units:
                unit.fail()
            until(lambda: all(unit.said().count("ready") == 2 for unit in units))
            assert client.gather(futures, timeout=60) == [bytes([i]) * 10_000 for i in range(40)]
        assert len((tmp_path / "ran").read_text().split()) == 40  # the results were found in the stores
        assert [unit.stop() for unit in reversed(units)] == [0, 0, 0]
    finally:
        for unit in units:
            unit.process.kill()
            unit.process.wait()


def test_systemd_understands_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    for unit in (SCHEDULER, WORKER):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text().replace("/opt/twistdist/bin/python", sys.executable))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=50", copy],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_notice_of_the_units_is_longer_than_what_the_worker_is_told():
    for unit in (SCHEDULER, WORKER):
        assert settings(unit)["TimeoutStopSec"] == ["30"] and settings(unit)["KillMode"] == ["mixed"]
    assert " --notice 25 " in settings(WORKER)["ExecStart"][0]


def test_the_steps_of_the_container_file(tmp_path):
    """Its instructions, with folders in place of the image's: what it copies is enough to install, and the command works."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    repository, source = DEPLOY.parent, tmp_path / "src"
    source.mkdir()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        *names, target = line.split()
        for name in names:
            whole = source / pathlib.Path(target).relative_to("/src")
            if (repository / name).is_dir():
                shutil.copytree(repository / name, whole, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(repository / name, whole)
    (run,) = re.findall(r"^RUN (.*)$", text, re.M)
    run = run.replace("/opt/twistdist", str(tmp_path / "opt")).replace("/src", str(source))
    run = (
        run.replace("[${EXTRAS}]", "")
        .replace("${REQUIREMENTS}", "--no-deps")
        .replace("python -m venv", f"{sys.executable} -m venv")
    )
    assert "${" not in run
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(["sh", "-ec", run], check=True, env=environment, capture_output=True, timeout=300)
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.M)
    assert entry == '["python", "-m", "twistdist.tap"]'
    site = next((tmp_path / "opt" / "lib").glob("python*/site-packages"))
    program = f"import sys; sys.path.insert(0, {str(site)!r}); import twistdist; print(twistdist.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip().startswith(str(site))
    command = [sys.executable, "-m", "twistdist.tap", "scheduler", "--listen", "tcp:0:interface=127.0.0.1"]
    environment |= {"PYTHONPATH": str(site), "HOME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("twistdist scheduler ready at tcp:127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
