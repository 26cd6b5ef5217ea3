"""Every blocking call where it can't work: on a closed client, in the reactor's thread, after a fork, at exit; with Ctrl-C."""

import concurrent.futures
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap

import pytest

from twistdist import errors
from twistdist.blocking import Client, LocalCluster, as_completed, fire_and_forget, progress, wait

TIMEOUT = 60


class Plugin:
    def setup(self, worker):
        pass


def calls(client, pending):
    """A dict of name to a call that asks the scheduler or waits for it.  ``pending`` is a future that has not ended."""
    return {
        "gather": lambda: client.gather([pending]),
        "get": lambda: client.get({"a": (abs, -1), "b": (abs, pending)}, "b"),
        "scatter": lambda: client.scatter([1, 2]),
        "replicate": lambda: client.replicate(pending, 2),
        "rebalance": lambda: client.rebalance(),
        "retire_workers": lambda: client.retire_workers(["nobody"]),
        "fire_and_forget": lambda: client.fire_and_forget(pending),
        "cancel": lambda: client.cancel(client.submit(abs, pending)),
        "retry": lambda: client.retry(pending),
        "workers": lambda: client.workers(),
        "wait_for_workers": lambda: client.wait_for_workers(99),
        "who_has": lambda: client.who_has(),
        "has_what": lambda: client.has_what(),
        "why": lambda: client.why("key"),
        "run": lambda: client.run(os.getpid),
        "restart": lambda: client.restart(),
        "upload_file": lambda: client.upload_file(__file__),
        "register_plugin": lambda: client.register_plugin(Plugin()),
        "unregister_plugin": lambda: client.unregister_plugin("nothing"),
        "logs": lambda: client.logs(),
        "lineage": lambda: client.lineage(pending),
        "incidents": lambda: client.incidents(),
        "report": lambda: client.report(os.path.join(tempfile.gettempdir(), "twistdist-never-written.html")),
        "recording": lambda: client.recording(os.path.join(tempfile.gettempdir(), "twistdist-never-written.html")).__enter__(),
        "status": lambda: client.status(),
        "clear": lambda: client.clear(),
        "take_up": lambda: client.take_up(["key"]),
        "futures": lambda: client.futures(),
        "publish_dataset": lambda: client.publish_dataset("a name", pending),
        "get_dataset": lambda: client.get_dataset("another name"),
        "list_datasets": lambda: client.list_datasets(),
        "unpublish_dataset": lambda: client.unpublish_dataset("a third name"),
        "executor": lambda: client.executor(),
        "result": lambda: pending.result(),
        "Future.cancel": lambda: client.submit(abs, pending).cancel(),
        "Future.retry": lambda: pending.retry(),
        "the function fire_and_forget": lambda: fire_and_forget(pending),
    }


#: Waits for futures: on a closed client these have ended, so the waits are over at once.
WAITS = {
    "exception": lambda pending: pending.exception(),
    "traceback": lambda pending: pending.traceback(),
    "wait": lambda pending: wait([pending]),
    "as_completed": lambda pending: list(as_completed([pending])),
    "progress": lambda pending: progress([pending]),
}


def test_the_list_is_complete():
    listed = {name.partition(".")[0] for name in calls(None, None)}
    asked = {name for name, value in vars(Client).items() if callable(value) and not name.startswith("_")}
    elsewhere = {"submit", "map", "compute", "persist", "group", "close", "leave", "end_session", "shutdown"}
    assert asked - elsewhere == listed & asked and elsewhere < asked


def hold(path):
    with open(path) as stream:
        return stream.read()


@pytest.fixture
def gate(tmp_path):
    path = str(tmp_path / "gate")
    os.mkfifo(path)
    return path


def open_gate(path):
    with open(path, "w") as stream:
        stream.write("through")


def test_on_a_closed_client(cluster):
    client = Client(cluster)
    future = client.submit(hold, "/nonexistent")
    made = calls(client, future)
    client.close()
    for name, call in made.items():
        with pytest.raises(errors.ClientClosed):
            call()
            pytest.fail(f"{name} on a closed client")
    for call in (lambda: client.submit(abs, 1), lambda: client.map(abs, [1])):
        with pytest.raises(errors.ClientClosed):
            call()
    for call in WAITS.values():
        call(future)
    client.close()


def test_in_the_reactors_thread(client, gate):
    future = client.submit(hold, gate)

    def refused():
        unexpected = []
        for name, call in {**calls(client, future), "close": client.close}.items():
            try:
                call()
                unexpected.append(name)
            except errors.TwistdistError as error:
                if "reactor's thread" not in str(error):
                    unexpected.append(f"{name}: {error}")
        return unexpected

    assert client._thread.call(refused, TIMEOUT) == []
    open_gate(gate)
    assert future.result(TIMEOUT) == "through"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_in_a_forked_child(client, gate):
    future = client.submit(hold, gate)
    made = calls(client, future) | {name: lambda call=call: call(future) for name, call in WAITS.items()}
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        for name, call in made.items():
            try:
                call()
                os.write(write, f"{name} was done; ".encode())
            except errors.TwistdistError as error:
                if "forked" not in str(error):
                    os.write(write, f"{name}: {error}; ".encode())
        client.close()  # leaves the parent's connection alone
        os._exit(0)
    os.close(write)
    readable = select.select([read], [], [], TIMEOUT)[0]
    if not readable:
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert readable, "a call hangs"
    with os.fdopen(read) as stream:
        assert stream.read() == ""
    open_gate(gate)
    assert future.result(TIMEOUT) == "through"


SCRIPT = textwrap.dedent(
    """
    import os, signal, sys, threading
    from twistdist.blocking import Client
    sys.path.insert(0, sys.argv[2])
    from test_every_call import WAITS, calls, hold

    def interrupt_when_it_waits(main):
        # CPython shows where a thread is; the call has begun to wait when its innermost frame is that of a lock.
        while True:
            frame = sys._current_frames()[main]
            if frame.f_code.co_filename == threading.__file__ and frame.f_code.co_name in ("wait", "wait_for"):
                os.kill(os.getpid(), signal.SIGINT)
                return
            done.wait(0.005)

    client = Client(sys.argv[1])
    client.wait_for_workers(1)
    scheduler = int(sys.argv[3])
    gate = sys.argv[4]
    pending = client.submit(hold, gate)
    made = calls(client, pending) | {name: lambda call=call: call(pending) for name, call in WAITS.items()}
    for name, call in made.items():
        os.kill(scheduler, signal.SIGSTOP)
        done = threading.Event()
        thread = threading.Thread(target=interrupt_when_it_waits, args=(threading.main_thread().ident,))
        try:
            thread.start()
            call()
            print(name, "came back")
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            print(name, repr(error))
        finally:
            thread.join()
            os.kill(scheduler, signal.SIGCONT)
        # As soon as the scheduler runs again, the client does too.
        if name != "restart" and client.submit(pow, 2, 10, workers=client.workers()).result(60) != 1024:
            print(name, "left the client unusable")
        if name in ("restart", "cancel") or pending.done():
            pending = client.submit(hold, gate)
    print("end")
    """
)


def test_ctrl_c_in_every_call(tmp_path, gate):
    with LocalCluster(n_workers=1, slots=4) as cluster:
        script = tmp_path / "script.py"
        script.write_text(SCRIPT)
        arguments = [cluster.address, os.path.dirname(__file__), str(cluster.scheduler), gate]
        done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=10 * TIMEOUT)
        assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)


AT_EXIT = textwrap.dedent(
    """
    import atexit, sys, threading
    from twistdist.blocking import Client

    def late():
        print(client.submit(abs, -3).result(60), flush=True)

    class Late:
        def __del__(self):
            self.future.cancelled()
            self.client.close()

    if "before" in sys.argv:
        atexit.register(late)  # runs after what was registered later, as our own is
    client = Client(sys.argv[1])
    if "after" in sys.argv:
        atexit.register(late)
    kept = Late()
    kept.client, kept.future = client, client.submit(abs, -1)
    waiting = threading.Thread(target=client.submit(open, sys.argv[2]).result, daemon=True)
    waiting.start()
    print(kept.future.result(60), flush=True)
    """
)


@pytest.mark.parametrize("registered", ["before", "after"])
def test_at_exit(cluster, gate, registered):
    command = [sys.executable, "-c", AT_EXIT, cluster.address, gate, registered]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n3\n", "", 0)


RUNNING = textwrap.dedent(
    """
    import sys
    from twisted.internet import defer, task, threads
    from twistdist.blocking import Client

    @defer.inlineCallbacks
    def main(reactor):
        with Client(sys.argv[1]) as client:  # blocks this reactor, not its own
            print(client.submit(abs, -1).result(60))
            print((yield threads.deferToThread(lambda: client.submit(abs, -2).result(60))))

    task.react(main)
    """
)


def test_inside_a_running_reactor(cluster):
    command = [sys.executable, "-c", RUNNING, cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n2\n", "", 0)


def test_from_many_threads(client):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: client.submit(pow, n, 2).result(TIMEOUT), range(64))) == [n * n for n in range(64)]
