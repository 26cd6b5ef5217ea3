"""Hosts that real sshds serve: in network namespaces of their own where the machine permits that, else on 127.0.0.x."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess

import twistdist
from tests.integration.habits import gone, until
from tests.network.namespaces import Lan
from tests.network.namespaces import why_not as why_no_lan

SSHD = shutil.which("sshd") or next(
    (path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.access(path, os.X_OK)), None
)
PORT = 2222

#: Where the package and the tests are found.
OURS, TESTS = pathlib.Path(twistdist.__file__).parents[1], pathlib.Path(__file__).parents[2]

#: What a careless ~/.bashrc does.
GREETING = 'printf "Welcome! {"; printf "Be good. " >&2; exec sh -c "$SSH_ORIGINAL_COMMAND"'

#: What is started ends with the tests, also when these are killed.
MORTAL = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


def why_not():
    """Why there can be no hosts here, or ""."""
    missing = [tool for tool in ("ssh", "ssh-keygen", "ss") if shutil.which(tool) is None]
    if SSHD is None:
        return "there is no sshd (apt install openssh-server)"
    return f"{' and '.join(missing)} not found" if missing else ""


class Hosts:
    """A context manager: hosts ``names``; ``config`` is the file for ``ssh -F`` that knows them."""

    def __init__(self, folder, names):
        self.folder, self.names = pathlib.Path(folder), list(names)
        self.config = self.folder / "ssh_config"
        self.servers = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in list(self.servers):
            self.stop(name)
        self._stack.close()

    def _start(self):
        self.lan = None if why_no_lan() else self._stack.enter_context(Lan(["client", *self.names]))
        self.addresses = self.lan.addresses if self.lan else {name: f"127.0.0.{i}" for i, name in enumerate(self.names, 2)}
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self.key("user")
        self.key("stranger")
        (self.folder / "authorized").write_text((self.folder / "user.pub").read_text())
        known = []
        for name in self.names:
            self.key(f"host-{name}")
            known.append(f"[{self.addresses[name]}]:{PORT} {(self.folder / f'host-{name}.pub').read_text()}")
        (self.folder / "known_hosts").write_text("".join(known))
        self.write_config()
        for name in self.names:
            self.start(name)

    def key(self, name):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    def write_config(self, name="ssh_config", key="user", known="known_hosts", more=""):
        """Write a file for ``ssh -F`` and return its path."""
        parts = [f"Host {host}\n  HostName {self.addresses[host]}\n" for host in self.names]
        path = self.folder / name
        path.write_text(
            more
            + "".join(parts)
            + f"Host *\n  Port {PORT}\n  IdentityFile {self.folder / key}\n  IdentitiesOnly yes\n  IdentityAgent none\n"
            f"  UserKnownHostsFile {self.folder / known}\n  GlobalKnownHostsFile /dev/null\n"
        )
        return path

    def identity(self, name):
        """What twistdist takes the host for."""
        return f"host-of-{name}-{self.folder.name}"

    def cache(self, name):
        """Where the keeper of a host has its folders."""
        return self.folder / f"cache-{name}"

    def start(self, name):
        """Start the sshd of a host."""
        surroundings = {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(str(path) for path in (OURS, TESTS))),
            "XDG_CACHE_HOME": self.cache(name),
            "TWISTDIST_HOST": self.identity(name),
        }
        settings = " ".join(f"{key}={value}" for key, value in surroundings.items())
        config = self.folder / f"sshd-{name}"
        config.write_text(
            f"Port {PORT}\nListenAddress {self.addresses[name]}\nHostKey {self.folder / f'host-{name}'}\nPidFile none\n"
            f"UsePAM no\nAuthorizedKeysFile {self.folder / 'authorized'}\nStrictModes no\nPasswordAuthentication no\n"
            f"KbdInteractiveAuthentication no\nSetEnv {settings}\nForceCommand {GREETING}\n"
            "MaxStartups 9:100:9\n"  # refuses more connections at a time than these before their users have proved who they are
        )
        command = [SSHD, "-D", "-e", "-f", str(config)]
        if self.lan:
            command = self.lan.command(name, *command)
        log = self.folder / f"sshd-{name}.log"
        with log.open("a") as stream:
            self.servers[name] = subprocess.Popen([*MORTAL, *command], stdin=subprocess.DEVNULL, stderr=stream, stdout=stream)
        until(lambda: "Server listening" in log.read_text() or self.servers[name].poll() is not None, 20)
        assert self.servers[name].poll() is None, log.read_text()

    def stop(self, name):
        """End the sshd of a host: no new connections; what there is stays."""
        server = self.servers.pop(name)
        server.send_signal(signal.SIGTERM)
        server.wait(20)
        log = self.folder / f"sshd-{name}.log"
        log.unlink()

    def processes(self, name, word="twistdist"):
        """The pids of what runs on a host and has a word in its command line."""
        mark, found = f"TWISTDIST_HOST={self.identity(name)}\0".encode(), []
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    ours = mark in (entry / "environ").read_bytes() and word.encode() in (entry / "cmdline").read_bytes()
                    if ours and not gone(int(entry.name)):
                        found.append(int(entry.name))
        return found
