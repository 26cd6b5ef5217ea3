"""User code can do anything, and hurts only itself: real processes, one worker of one slot unless it says so."""

from __future__ import annotations

import builtins
import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.integration.habits import by_signal, die, gone, lines, note, until
from twistdist import errors
from twistdist.blocking import Client, LocalCluster, current_client, wait


def fails(client, kind, fn, *args, **options):
    options.setdefault("crash_limit", 1)
    with pytest.raises(kind) as caught:
        client.submit(fn, *args, **options).result(60)
    return str(caught.value)


# ---- every way to die ----------------------------------------------------------------------------


def test_every_way_to_die_is_told_apart(one):
    text = fails(one, errors.TaskCrashed, lambda: die(lambda: by_signal(signal.SIGSEGV)), key="bad")
    assert "bad ended its process once (crash_limit); the last: SIGSEGV" in text
    assert "in die" in text and "executors" not in text  # the stack is the user's
    assert "Last lines of its standard error:\n  nearly there" in text
    assert "attempt 1 on w0 at 20" in text and " UTC after " in text
    assert "SIGABRT" in fails(one, errors.TaskCrashed, os.abort)
    assert "SIGFPE" in fails(one, errors.TaskCrashed, by_signal, signal.SIGFPE)
    assert "SIGKILL (Killed) by a process that is not ours" in fails(one, errors.TaskCrashed, by_signal, signal.SIGKILL)
    assert "exit code 7" in fails(one, errors.TaskCrashed, os._exit, 7)
    assert "raised SystemExit: 3" in fails(one, errors.TaskError, sys.exit, 3)

    def interrupted():
        raise KeyboardInterrupt("of its own")

    assert "raised KeyboardInterrupt: of its own" in fails(one, errors.TaskError, interrupted)
    assert "of its own" in fails(one, errors.TaskError, interrupted)


def test_every_attempt_is_listed_with_worker_and_time(one):
    text = fails(one, errors.TaskCrashed, os._exit, 9, crash_limit=3)
    assert [line.split(" at ")[0] for line in text.splitlines()[1:4]] == [f"attempt {n} on w0" for n in (1, 2, 3)]


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory/cgroup.procs", os.W_OK), reason="needs root and a memory cgroup (v1)")
def test_the_kernel_s_killer_takes_the_executor_and_is_named(tmp_path):
    group = pathlib.Path(f"/sys/fs/cgroup/memory/twistdist-test-{os.getpid()}")
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(400 << 20))

        def hog():
            pathlib.Path(group / "cgroup.procs").write_text(str(os.getpid()))
            return len(bytearray(os.urandom(1)) * (800 << 20))

        with LocalCluster(n_workers=1, memory_limit=0) as cluster, Client(cluster.address) as client:
            before = cluster.workers["w0"]
            assert "SIGKILL (Killed) by the kernel, which was out of memory" in fails(client, errors.TaskCrashed, hog)
            assert client.submit(abs, -1).result(60) == 1 and cluster.workers["w0"] == before
            with open(f"/proc/{before}/oom_score_adj") as control:
                score = int(client.submit(pathlib.Path("/proc/self/oom_score_adj").read_text).result(60))
                assert score > int(control.read())
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_the_template_s_death_blames_nobody_and_is_named(one, tmp_path):
    log = str(tmp_path / "log")

    def kill_the_template_once():
        note(log, "run")
        if len(lines(log)) == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return "done"

    assert one.submit(kill_the_template_once, crash_limit=1).result(60) == "done"
    assert len(lines(log)) == 2


def test_an_innocent_neighbour_is_never_charged(one, tmp_path):
    log = str(tmp_path / "log")
    innocents = [one.submit(note, log, i) for i in range(50)]
    bad = one.submit(by_signal, signal.SIGSEGV)
    innocents += [one.submit(note, log, i) for i in range(50, 100)]
    assert isinstance(bad.exception(60), errors.TaskCrashed)
    one.gather(innocents, timeout=60)
    assert sorted(map(int, lines(log))) == list(range(100))  # each ran once


def test_a_task_that_kills_its_worker_runs_alone_and_is_found_out(tmp_path):
    def control_process():
        return int(open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[1])

    def kill_the_worker():
        os.kill(control_process(), signal.SIGKILL)
        time.sleep(60)

    with LocalCluster(n_workers=2) as cluster, Client(cluster.address) as client:
        innocents = [client.submit(time.sleep, 0.05) for _ in range(20)]
        bad = client.submit(kill_the_worker, crash_limit=1, key="bad")
        text = str(bad.exception(60))
        assert "the worker was lost while the task ran alone on it" in text
        client.gather(innocents, timeout=60)
        # Two exposures and one death alone; a death may come before the scheduler knows that the task is running.
        assert 3 <= [i.kind for i in client.incidents()].count("worker lost") <= 5


# ---- cancel, time limit ----------------------------------------------------------------------------


def test_a_cancelled_task_may_clean_up_and_its_slot_is_free(one, tmp_path):
    log = str(tmp_path / "log")

    def careful():
        note(log, f"pid {os.getpid()}".replace(" ", ""))
        try:
            time.sleep(600)
        except errors.TaskCancelled:
            note(log, "cleaned")
            raise

    future = one.submit(careful)
    until(lambda: lines(log))
    future.cancel()
    assert one.submit(abs, -3).result(60) == 3
    until(lambda: "cleaned" in lines(log))
    until(lambda: gone(int(lines(log)[0][3:])))
    assert future.cancelled()


def test_a_task_that_ignores_the_interrupt_is_killed(one, tmp_path):
    log = str(tmp_path / "log")

    def stubborn():
        note(log, os.getpid())
        while True:
            try:
                time.sleep(600)
            except Exception:
                note(log, "ignored")

    future = one.submit(stubborn)
    until(lambda: lines(log))
    future.cancel()
    assert one.submit(abs, -3).result(60) == 3
    assert gone(int(lines(log)[0])) and "ignored" in lines(log)


def test_a_time_limit_ends_the_process_and_names_the_place(one):
    def slow():
        time.sleep(600)

    text = fails(one, errors.TimeLimitExceeded, slow, time_limit=0.3, key="slow")
    assert "slow: it ran longer than its time_limit of 0.3 s" in text and "in slow" in text

    def ungrateful():
        try:
            time.sleep(600)
        except TimeoutError:
            return "a result all the same"

    fails(one, errors.TimeLimitExceeded, ungrateful, time_limit=0.3)
    assert one.submit(abs, -3).result(60) == 3


def test_children_die_with_their_task_however_they_hide(one, tmp_path):
    log = str(tmp_path / "log")
    daemon = (
        "import os, sys, time\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"
    )

    def parent():
        subprocess.Popen(["sleep", "600"])
        note(log, subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
        subprocess.Popen([sys.executable, "-c", daemon, log])
        time.sleep(600)

    future = one.submit(parent)
    until(lambda: len(lines(log)) == 2)
    future.cancel()
    until(lambda: all(gone(int(pid)) for pid in lines(log)))


def test_crash_limit_and_retries_count_apart(one, tmp_path):
    log = str(tmp_path / "log")

    def moody():
        note(log, "run")
        count = len(lines(log))
        if count in (1, 3):
            raise OSError("a mood")
        if count in (2, 4):
            os._exit(1)
        return count

    assert one.submit(moody, retries=2, crash_limit=3).result(60) == 5


# ---- memory ----------------------------------------------------------------------------------------


def test_memory_limits_end_the_task_alone(tmp_path):
    def hog(size):
        data = bytearray(size)
        data[::4096] = b"x" * len(data[::4096])
        time.sleep(5)
        return len(data)

    options = {"memory_limit": "600MiB", "executor_memory_limit": "300MiB"}
    with LocalCluster(n_workers=1, **options) as cluster, Client(cluster.address) as client:
        pid = cluster.workers["w0"]
        text = fails(client, errors.MemoryLimitExceeded, hog, 500 << 20, key="hog")
        assert "hog: its process used" in text and "may use 300 MiB" in text
        assert issubclass(errors.MemoryLimitExceeded, MemoryError)
        assert client.submit(hog, 1 << 20).result(60) == 1 << 20 and cluster.workers["w0"] == pid


def test_results_go_to_disk_before_anybody_is_stopped(tmp_path):
    with LocalCluster(n_workers=1, memory_limit="200MiB") as cluster, Client(cluster.address) as client:
        if not cluster._service._folder.startswith("/dev/shm"):
            pytest.skip("there is no shared memory file system for stores here")
        futures = [client.submit(os.urandom, 20 << 20) for _ in range(12)]
        assert wait(futures, 60).not_done == set()
        spilled = pathlib.Path(cluster._service._spill, "w0")
        until(lambda: len(list(spilled.iterdir())) >= 5)
        for i in range(0, 12, 3):
            assert client.submit(lambda parts: sum(map(len, parts)), futures[i : i + 3]).result(60) == 3 * (20 << 20)
        assert {len(data) for data in client.gather(futures, timeout=60)} == {20 << 20}
        assert client.workers()["w0"].state in ("connected", "paused")
        del futures
        until(lambda: not list(spilled.iterdir()))  # released results leave the disk too
    assert not spilled.exists()


# ---- hostile habits --------------------------------------------------------------------------------


def test_output_goes_to_the_worker_s_log_with_the_key(tmp_path):
    script = (
        "import os, sys, subprocess\n"
        "from twistdist.blocking import Client\n"
        "def talk():\n"
        "    print('to stdout'); print('to stderr', file=sys.stderr); os.write(1, b'raw\\n'); os.system('echo child')\n"
        "    sys.stdout.buffer.write(b'\\xff\\xfe no text\\n'); print('no newline', end='')\n"
        "def flood():\n"
        "    for i in range(300_000): print('0123456789')\n"
        "with Client(n_workers=1) as c:\n"
        "    c.submit(talk, key='talker').result(); c.submit(flood, key='flood').result(); c.submit(abs, 1).result()\n"
        "    c.submit(print, 'the end', key='last').result()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for text in ("stdout: to stdout", "stderr: to stderr", "stdout: raw", "stdout: child", "no text", "stdout: no newline"):
        assert any("talker " in line and text in line for line in done.stderr.splitlines()), text
    assert "more bytes of this task are not logged]" in done.stderr and "last stdout: the end" in done.stderr
    assert len(done.stderr) < 10 << 20


def test_surroundings_are_put_back_between_tasks(one, tmp_path):
    pid = one.submit(os.getpid).result(60)

    def mess(folder):
        os.chdir(folder)
        os.environ["PATH"] = "nowhere"
        os.environ["NEW"] = "x"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        sys.setrecursionlimit(99_999)
        os.umask(0)
        sys.stdout = None
        time.time = lambda: 0
        os.getpid = lambda: -1
        builtins.len = lambda x: -1
        time.sleep(0.002)
        return True

    def look():
        environment = os.environ.get("PATH"), os.environ.get("NEW"), os.getcwd(), os.umask(0o077)
        return (
            environment,
            time.time() > 0,
            sys.stdout is not None,
            signal.getsignal(signal.SIGTERM),
            sys.getrecursionlimit(),
            os.getpid(),
            len("abc"),
        )

    before = one.submit(look).result(60)
    assert one.submit(mess, str(tmp_path)).result(60) is True
    after = one.submit(look).result(60)
    assert after == before and after[-2:] == (pid, 3)
    future = one.submit(time.sleep, 600)  # the interrupt works as before
    until(lambda: one.workers()["w0"].running)
    future.cancel()
    assert one.submit(abs, -1).result(60) == 1


def test_closed_descriptors(one):
    def close_the_standard_ones():
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        time.sleep(0.002)
        return "fine"

    assert one.submit(close_the_standard_ones).result(60) == "fine"
    assert one.submit(lambda: [os.fstat(d).st_mode > 0 for d in (0, 1, 2)]).result(60) == [True] * 3
    one.submit(print, "to where it was").result(60)
    assert one.submit(os.closerange, 3, 256).result(60) is None
    assert one.submit(abs, -1).result(60) == 1
    assert "closed the descriptors of its executor" in fails(one, errors.TaskCrashed, os.closerange, 3, 65536)
    assert one.submit(abs, -1).result(60) == 1


def test_forks_threads_and_recursion(one):
    def forks():
        os.fork()
        return os.getpid()

    assert all(isinstance(pid, int) for pid in one.gather([one.submit(forks) for _ in range(5)], timeout=60))

    def recurse(n=0):
        return recurse(n + 1)

    with pytest.raises(RecursionError):
        one.submit(recurse).result(60)

    def too_deep():
        sys.setrecursionlimit(10**9)
        deep = []
        for _ in range(1_000_000):
            deep = [deep]
        return repr(deep)

    assert isinstance(one.submit(too_deep, crash_limit=1).exception(60), errors.TaskCrashed | RecursionError | MemoryError)
    assert one.submit(sys.getrecursionlimit).result(60) < 10**6


def test_a_thread_left_behind_that_ends_the_process_charges_no_innocent(one, tmp_path):
    log = str(tmp_path / "log")

    def leave_a_thread():
        threading.Thread(target=lambda: (time.sleep(0.3), os._exit(5))).start()

    def innocent():
        note(log, "run")
        time.sleep(0.6)
        return "unharmed"

    one.submit(leave_a_thread).result(60)
    assert one.submit(innocent, crash_limit=1).result(60) == "unharmed"
    assert len(lines(log)) == 2


def test_odd_results_and_exceptions(one):
    assert "generator" in fails(one, errors.SerializationError, lambda: (x for x in range(3)))
    assert "TextIOWrapper" in fails(one, errors.SerializationError, lambda: open(os.devnull))  # noqa: SIM115

    class Odd(Exception):
        def __reduce__(self):
            raise ValueError("not me")

        def __str__(self):
            raise ValueError("nor my text")

    def raise_odd():
        raise Odd

    assert "Odd" in fails(one, errors.TaskError, raise_odd)

    def long_text():
        raise ValueError("x" * 100_000_000)

    with pytest.raises(ValueError) as caught:
        one.submit(long_text).result(60)
    assert "cut: 100000000 characters in all" in str(caught.value) and len(str(caught.value)) < 1 << 20


def test_a_result_of_a_gibibyte(one):
    if os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize < 3 << 30:
        pytest.skip("less than 3 GiB of shared memory")
    large = one.submit(bytes, 1 << 30)
    assert one.submit(len, large).result(120) == 1 << 30


def test_a_function_that_holds_the_gil_disturbs_nobody(tmp_path):
    def hold_the_gil(seconds):
        ctypes.PyDLL(None).sleep(seconds)

    with LocalCluster(n_workers=1, slots=2) as cluster, Client(cluster.address) as client:
        held = client.submit(bytes, 100_000)
        held.done() or wait([held], 60)
        hog = client.submit(hold_the_gil, 600)
        until(lambda: client.workers()["w0"].running)
        assert client.gather(client.map(abs, range(100)), timeout=60) == list(range(100))
        assert [held.key] == client.has_what()["w0"] and len(held.result(60)) == 100_000
        assert client.workers()["w0"].state == "connected" and not client.incidents()
        hog.cancel()  # the interrupt can't be heard; the kill is
        until(lambda: not client.workers()["w0"].running)


# ---- crash loops -----------------------------------------------------------------------------------


def test_executors_that_can_not_start_stop_the_intake_and_it_comes_back(tmp_path):
    with LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        client.wait_for_workers(1, 60)
        store = pathlib.Path(cluster._service._folder, "w0")
        blocked = [pathlib.Path(store, f".stack-{number}") for number in range(4)]
        victim = client.submit(os.getpid).result(60)
        for path in blocked:  # where faulthandler is to write there is a folder
            path.unlink(missing_ok=True)
            path.mkdir()
        os.kill(victim, signal.SIGKILL)
        until(lambda: client.workers()["w0"].state == "paused")
        assert "executors do not start: an error of the executor itself" in client.workers()["w0"].troubles[-1]
        waiting = client.submit(abs, -1)
        for path in blocked:
            path.rmdir()
        assert waiting.result(60) == 1
        until(lambda: client.workers()["w0"].state == "connected")


# ---- found by trying to break it -------------------------------------------------------------------


def test_no_slot_is_lost_by_many_crashes():
    """The reactor held an event for a descriptor's number that the next executor had got."""
    with LocalCluster(n_workers=1, slots=4) as cluster, Client(cluster.address) as client:
        wait(client.map(by_signal, [signal.SIGKILL] * 120, crash_limit=1), 120)
        barrier = client.map(lambda i: (time.sleep(0.5), os.getpid())[1], range(4))
        assert len(set(client.gather(barrier, timeout=60))) == 4
        open_now = len(os.listdir(f"/proc/{cluster.workers['w0']}/fd"))
        assert open_now < 80


def test_a_copy_of_the_process_does_not_replace_the_result(one, tmp_path):
    path = str(tmp_path / "child")

    def fork_and_both_return():
        if os.fork():
            return b"A" * 2_000_000
        time.sleep(0.1)
        note(path, "here")
        return b"B" * 2_000_000

    future = one.submit(fork_and_both_return)
    wait([future], 60)
    assert future.result(60)[:1] == b"A" and future.result(60)[-1:] == b"A"


def test_a_parent_that_runs_alone_leaves_room_for_its_children(tmp_path):
    log, gate = str(tmp_path / "log"), tmp_path / "gate"

    def child():
        until(gate.exists)  # the parent must be seen waiting: a child that was done before has failed this test once
        return 7

    def parent():
        note(log, "run")
        return current_client().submit(child).result()

    with LocalCluster(n_workers=1, slots=2) as cluster, Client(cluster.address) as client:
        future = client.submit(parent)
        for runs in (1, 2):
            until(lambda runs=runs: len(lines(log)) == runs and client.workers()["w0"].waiting)
            pid = cluster.workers["w0"]
            cluster.kill_worker("w0")
            until(lambda pid=pid: cluster.workers.get("w0", pid) != pid)
        gate.touch()
        assert future.result(60) == 7


def test_processes_that_a_task_leaves_end_with_it(one, tmp_path):
    log = str(tmp_path / "log")

    def leave(command):
        note(log, subprocess.Popen(command, shell=True).pid)
        return 1

    assert one.submit(leave, "yes").result(60) == 1
    assert one.submit(leave, "sleep 0.3; kill -9 $PPID").result(60) == 1
    until(lambda: all(gone(int(pid)) for pid in lines(log)))
    assert one.submit(time.sleep, 0.6, crash_limit=1).result(60) is None


def test_a_thread_that_holds_the_lock_between_tasks_holds_nobody_up(one):
    def leave_a_hog():
        threading.Thread(target=lambda: (time.sleep(0.2), ctypes.PyDLL(None).sleep(600)), daemon=True).start()

    one.submit(leave_a_hog).result(60)
    time.sleep(0.4)  # until the thread is in its C call
    assert one.submit(abs, -1, time_limit=20, crash_limit=1).result(60) == 1


def test_garbage_in_the_executor_s_own_pipe_is_the_task_s_fault(one):
    def write_everywhere():
        for descriptor in range(3, 1100):
            try:
                if "pipe" in os.readlink(f"/proc/self/fd/{descriptor}"):
                    os.write(descriptor, b"garbage garbage garbage")
            except OSError:
                continue
        time.sleep(60)

    assert "own pipe" in fails(one, errors.TaskCrashed, write_everywhere)
    assert one.submit(abs, -1).result(60) == 1


@pytest.mark.parametrize("habit", ["alarm", "faulthandler", "stdout", "limit", "mask", "memory"])
def test_what_a_task_leaves_hits_no_other(habit):
    def leave(what):
        import faulthandler
        import resource

        if what == "alarm":
            signal.alarm(1)
        elif what == "faulthandler":
            faulthandler.dump_traceback_later(1, exit=True)
        elif what == "stdout":
            sys.stdout.close()
        elif what == "limit":
            resource.setrlimit(resource.RLIMIT_NOFILE, (6, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        elif what == "mask":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
        elif what == "memory":
            sys.leaked = bytearray(150 << 20)
            sys.leaked[::4096] = b"x" * len(sys.leaked[::4096])
        time.sleep(0.002)

    def innocent():
        print("hello")
        with open(os.devnull):
            data = bytearray(os.urandom(1) * (60 << 20))
        time.sleep(1.5)
        return len(data), signal.SIGURG in signal.pthread_sigmask(signal.SIG_BLOCK, [])

    with LocalCluster(n_workers=1, executor_memory_limit="200MiB") as cluster, Client(cluster.address) as client:
        client.submit(leave, habit, crash_limit=1).result(60)
        assert client.submit(innocent, crash_limit=1).result(60) == (60 << 20, False)


def test_a_stopped_template_is_replaced():
    with LocalCluster(n_workers=1, slots=2) as cluster, Client(cluster.address) as client:
        client.submit(lambda: os.kill(os.getppid(), signal.SIGSTOP), crash_limit=1).result(60)
        with pytest.raises(errors.TimeLimitExceeded):
            client.submit(time.sleep, 600, time_limit=0.2).result(60)
        assert client.gather(client.map(abs, range(20)), timeout=60) == list(range(20))


def test_killing_the_template_again_and_again_ends_the_killer_alone(tmp_path):
    def kill_the_template():
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    with LocalCluster(n_workers=1, slots=2) as cluster, Client(cluster.address) as client:
        neighbour = client.submit(lambda: time.sleep(2) or "unharmed", crash_limit=1)
        bad = client.submit(kill_the_template, crash_limit=1)
        assert isinstance(bad.exception(60), errors.TaskCrashed)
        assert neighbour.result(60) == "unharmed"


def test_output_marks_stay_out_of_the_task_s_own_files(one, tmp_path):
    path = str(tmp_path / "own")

    def redirect():
        with open(path, "w") as stream:
            os.dup2(stream.fileno(), 1)
        print("mine")

    one.submit(redirect).result(60)
    assert pathlib.Path(path).read_bytes() == b"mine\n"

    def close_after_print():
        print("x")
        os.close(1)
        return 1

    assert one.submit(close_after_print, crash_limit=1).result(60) == 1


def test_an_executor_that_a_signal_has_stopped_is_replaced_and_its_task_runs_again(tmp_path):
    log = str(tmp_path / "log")
    with LocalCluster(n_workers=1, dead_after=1.5) as cluster, Client(cluster.address) as client:
        future = client.submit(stop_once, log)
        assert future.result(60) == "went on"
        assert len(lines(log)) == 2
        assert [one.kind for one in client.incidents() if one.kind == "executor stood still"]


def test_a_stop_that_is_shorter_than_the_limit_disturbs_nothing(tmp_path):
    log = str(tmp_path / "log")
    with LocalCluster(n_workers=1, dead_after=30) as cluster, Client(cluster.address) as client:
        future = client.submit(stop_once, log)
        until(lambda: lines(log))
        pid = int(lines(log)[0])
        until(lambda: _state(pid) == "T")
        os.kill(pid, signal.SIGCONT)
        assert future.result(60) == "went on" and lines(log) == [str(pid)]


def test_a_task_that_stops_itself_each_time_is_charged_in_the_end(tmp_path):
    with LocalCluster(n_workers=1, dead_after=0.4) as cluster, Client(cluster.address) as client:
        stopping = client.submit(by_signal, signal.SIGSTOP, crash_limit=1)
        with pytest.raises(errors.TaskCrashed):
            stopping.result(60)
        assert client.submit(abs, -1).result(60) == 1


def stop_once(log):
    note(log, os.getpid())
    if len(lines(log)) == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"


def _state(pid):
    with open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0]


def test_an_executor_that_dies_under_a_stopped_template_is_noticed(tmp_path):
    log = str(tmp_path / "log")
    with LocalCluster(n_workers=1) as cluster, Client(cluster.address) as client:
        template = client.submit(os.getppid).result(60)
        future = client.submit(sleep_once, log)
        until(lambda: lines(log))
        os.kill(template, signal.SIGSTOP)
        os.kill(int(lines(log)[0]), signal.SIGKILL)
        assert future.result(60) == "slept"


def sleep_once(log):
    note(log, os.getpid())
    if len(lines(log)) == 1:
        time.sleep(300)
    return "slept"
