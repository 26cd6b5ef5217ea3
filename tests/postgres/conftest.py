"""A PostgreSQL server of the tests' own, in a temporary folder."""

from __future__ import annotations

import glob
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

import pytest

#: Set by .ci/run: without a server these tests fail there instead of being skipped.
REQUIRED = os.environ.get("TWISTDIST_TEST_POSTGRES") == "required"


def programs():
    """The folder of a server's programs, or None."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda one: float(one.split("/")[4]), reverse=True)
    if shutil.which("pg_config"):
        folders.append(subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True).stdout.strip())
    if shutil.which("postgres"):
        folders.append(str(pathlib.Path(shutil.which("postgres")).resolve().parent))
    return next((one for one in folders if os.access(f"{one}/initdb", os.X_OK) and os.access(f"{one}/postgres", os.X_OK)), None)


class Server:
    """One server on a socket in a folder; as root it runs as nobody, since PostgreSQL refuses root."""

    def __init__(self, bin_folder):
        self._bin = bin_folder
        self.folder = tempfile.mkdtemp(prefix="twistdist-pg-", dir="/tmp")
        self._user = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._process = None
        self.port = 0

    def init(self):
        command = [
            f"{self._bin}/initdb",
            "-D",
            f"{self.folder}/data",
            "-A",
            "trust",
            "-U",
            "twistdist",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, **self._user)
        assert done.returncode == 0, done.stderr
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def start(self):
        command = [
            f"{self._bin}/postgres",
            "-D",
            f"{self.folder}/data",
            "-k",
            self.folder,
            "-p",
            str(self.port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "lc_messages=C",
            "-c",
            "shared_buffers=32MB",
        ]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=self.folder, **self._user)
        self._lines, self._ready = [], threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,))
        self._reader.start()
        assert self._ready.wait(60), "".join(self._lines)
        assert self._process.poll() is None, "".join(self._lines)

    def _read(self, stream):
        for line in stream:
            self._lines.append(line)
            if "ready to accept connections" in line:
                self._ready.set()
        self._ready.set()
        stream.close()

    def stop(self, how=signal.SIGINT):
        """SIGINT: sessions are ended; SIGQUIT: as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._reader.join(60)
            self._process = None

    def url(self, schema, host=None, port=None):
        return (
            f"postgresql:///postgres?host={host or self.folder}&port={port or self.port}&user=twistdist"
            f"&options=-csearch_path%3D{schema}"
        )


@pytest.fixture(scope="session")
def server():
    """A server that runs; who stops it starts it again."""
    found = programs()
    if found is None:
        reason = "PostgreSQL's server programs are not installed (apt-get install postgresql)"
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)
    server = Server(found)
    try:
        server.init()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder)


_count = 0


@pytest.fixture
def schema(server):
    """The name of a new schema, and with it room for a journal."""
    import psycopg

    global _count
    _count += 1
    name = f"t{_count}"
    with psycopg.connect(server.url(name), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return name


@pytest.fixture
def url(server, schema):
    return server.url(schema)


@pytest.fixture
def sql(server, schema):
    """Run a statement beside the journal; its rows."""
    import psycopg

    def run(statement, *args):
        with psycopg.connect(server.url(schema), autocommit=True) as connection:
            cursor = connection.execute(statement, args)
            return cursor.fetchall() if cursor.description else []

    return run
