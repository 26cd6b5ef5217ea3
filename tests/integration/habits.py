"""What tasks of the tests do.  A module of its own that imports little, since every new executor that runs one imports it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading
import time


def lines(path):
    return pathlib.Path(path).read_text().split() if os.path.exists(path) else []


def note(path, text):
    with open(path, "a") as stream:
        stream.write(f"{text}\n")


def variable(name):
    return os.environ.get(name)


def by_signal(number):
    os.kill(os.getpid(), number)


def die(how):
    print("nearly there", file=sys.stderr)
    how()


def depth(n):
    from twistdist.blocking import current_client

    return 0 if n == 0 else 1 + current_client().submit(depth, n - 1).result()


def tree(n):
    from twistdist.blocking import as_completed, current_client

    if n == 0:
        return 1
    children = [current_client().submit(tree, n - 1) for _ in range(2)]
    return sum(one.result() for one in as_completed(children))


class Trace:
    """Its pickles, and those of its errors, note the process that loads them; a call notes the process that runs it."""

    def __init__(self, loaded, ran):
        self.loaded, self.ran = loaded, ran

    def __reduce__(self):
        return _load_trace, (Trace, self.loaded, self.ran)

    def __call__(self, *_):
        note(self.ran, os.getpid())
        return self

    def fail(self, *_):
        note(self.ran, os.getpid())
        raise TraceError(self.loaded, self.ran)


class TraceError(Exception):
    def __reduce__(self):
        return _load_trace, (TraceError, *self.args)


def _load_trace(kind, loaded, ran):
    note(loaded, os.getpid())
    return kind(loaded, ran)


class Notes:
    """A plugin that notes what happens, by process."""

    def __init__(self, path, version=1):
        self.path, self.version = str(path), version

    def setup(self, worker):
        import builtins

        builtins.plugin_version = self.version
        self.thread = threading.Thread(target=threading.Event().wait, daemon=True)
        self.thread.start()
        self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        os.environ["PLUGGED"] = "yes"
        note(self.path, f"setup:{self.version}:{os.getpid()}:{worker.name}")

    def teardown(self, worker):
        self.child.kill()
        note(self.path, f"teardown:{self.version}:{os.getpid()}:{worker.name}")


def seen(path):
    """Where the task runs, and what it finds there."""
    import builtins

    here = [line.split(":")[:2] for line in lines(path) if line.split(":")[2] == str(os.getpid())]
    return os.getpid(), here, getattr(builtins, "plugin_version", None), os.environ.get("PLUGGED")


def until(what, seconds=60):
    """Poll for something that happens in other processes."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def gone(pid):
    """Whether the process has ended (a zombie has)."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended between open and read
        return True
